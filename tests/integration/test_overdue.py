"""One request that waits far longer than others do: when it is given up, and when it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fim_eval.health import FEWEST, Health, HungError
from fim_eval.records import Timeouts


async def well() -> None:
    return None


@asynccontextmanager
async def watching(overdue_s: float) -> AsyncIterator[Health]:
    health = Health(
        well,
        Timeouts(overdue_s=overdue_s),
        where="here",
        clock_s=time.monotonic,
        sleep=asyncio.sleep,
        notice=lambda _: None,
    )
    watch = asyncio.create_task(health.watch())
    yield health
    watch.cancel()
    await asyncio.wait({watch})


async def wait(health: Health, seconds: float, max_tokens: int = 256) -> None:
    async with health.watched(max_tokens):
        await asyncio.sleep(seconds)


async def test_an_answer_that_is_only_slow_is_waited_for_when_asked_again() -> None:
    async with watching(overdue_s=0.1) as health:
        for _ in range(FEWEST):
            await wait(health, 0.0)
        with pytest.raises(HungError):
            await wait(health, 0.6)
        await wait(health, 0.6)


async def test_what_takes_as_long_as_others_do_is_not_overdue() -> None:
    async with watching(overdue_s=0.05) as health:
        for _ in range(FEWEST):
            await wait(health, 0.02)
        await wait(health, 0.15)


async def test_nothing_is_overdue_before_it_is_known_how_long_answers_take() -> None:
    async with watching(overdue_s=0.05) as health:
        for _ in range(FEWEST - 1):
            await wait(health, 0.0)
        await wait(health, 0.3)


async def test_an_answer_is_not_measured_by_requests_that_generate_one_token() -> None:
    async with watching(overdue_s=0.05) as health:
        for _ in range(FEWEST):
            await wait(health, 0.0, max_tokens=1)
        await wait(health, 0.3)

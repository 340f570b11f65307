"""One request that waits far longer than others do: when it is given up, and when it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from fim_eval.errors import ServerChangedError
from fim_eval.health import FEWEST, Health, HungError
from fim_eval.records import Timeouts


async def well() -> None:
    return None


@asynccontextmanager
async def watching(
    overdue_s: float,
    stall_s: float = 120.0,
    look: Callable[[], Awaitable[str | None]] = well,
) -> AsyncIterator[Health]:
    health = Health(
        look,
        Timeouts(overdue_s=overdue_s, stall_s=stall_s),
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


async def test_what_a_lost_server_still_has_is_given_up_after_a_while() -> None:
    async def refused() -> str:
        return "connection refused"

    async with watching(overdue_s=0.2, look=refused) as health:
        waiting = asyncio.create_task(wait(health, 5.0))
        await asyncio.sleep(0)
        lost = asyncio.create_task(health.recovered())
        await asyncio.sleep(0.1)
        assert not waiting.done(), "its answer may be on the way"
        with pytest.raises(HungError):
            await asyncio.wait_for(waiting, 2.0)
        lost.cancel()


async def test_what_a_lost_server_still_has_is_waited_for_while_it_answers_others() -> None:
    async def slow() -> str:
        return "no token within 30 s"

    async with watching(overdue_s=0.2, look=slow) as health:
        waiting = asyncio.create_task(wait(health, 1.0))
        await asyncio.sleep(0)
        lost = asyncio.create_task(health.recovered())
        for _ in range(10):
            await wait(health, 0.08)
        assert health.is_lost
        await waiting
        lost.cancel()


async def test_what_is_slow_to_give_up_does_not_end_the_watch() -> None:
    async def wait_stubbornly() -> None:
        async with health.watched(256):
            try:
                await asyncio.sleep(9.0)
            finally:
                await asyncio.sleep(0.4)

    async def refused() -> str:
        return "connection refused"

    async with watching(overdue_s=0.1, look=refused) as health:
        lost = asyncio.create_task(health.recovered())
        await asyncio.sleep(0)
        with pytest.raises(HungError):
            await asyncio.wait_for(wait_stubbornly(), 2.0)
        with pytest.raises(HungError):
            await asyncio.wait_for(wait(health, 5.0), 2.0)
        lost.cancel()


async def test_what_was_asked_is_kept_if_answers_came_while_a_token_was_waited_for() -> None:
    looks, begun, may_end = 0, asyncio.Event(), asyncio.Event()

    async def slow() -> str | None:
        nonlocal looks
        looks += 1
        begun.set()
        await may_end.wait()
        return "no token within 30 s" if looks == 1 else None

    async with watching(overdue_s=9.0, stall_s=0.1, look=slow) as health:
        waiting = asyncio.create_task(wait(health, 0.5))
        await asyncio.wait_for(begun.wait(), 2.0)
        await wait(health, 0.0)
        may_end.set()
        await waiting


async def test_a_server_that_is_another_while_nothing_is_answered_ends_what_it_was_asked() -> None:
    async def changed() -> str:
        raise ServerChangedError("another one")

    async with watching(overdue_s=9.0, stall_s=0.1, look=changed) as health:
        with pytest.raises(HungError):
            await asyncio.wait_for(wait(health, 5.0), 2.0)
        with pytest.raises(ServerChangedError):
            await health.recovered()


async def test_a_server_is_long_lost_once_a_request_would_be_given_up() -> None:
    async def refused() -> str:
        return "connection refused"

    async with watching(overdue_s=0.3, look=refused) as health:
        lost = asyncio.create_task(health.recovered())
        await asyncio.sleep(0.1)
        assert (health.is_lost, health.is_long_lost) == (True, False)
        await asyncio.sleep(0.3)
        assert (health.is_lost, health.is_long_lost) == (True, True)
        lost.cancel()


async def test_a_server_that_is_not_watched_any_more_is_not_waited_for_either() -> None:
    looks = 0

    async def refused() -> str:
        nonlocal looks
        looks += 1
        return "connection refused"

    async with watching(overdue_s=9.0, look=refused) as health:
        lost = asyncio.create_task(health.recovered())
        await asyncio.sleep(0.1)
        lost.cancel()
        await asyncio.wait({lost})
        assert health.is_lost, "whoever waited is gone, the server is still lost"
    await asyncio.sleep(0)
    assert not health.is_lost
    assert looks == 1

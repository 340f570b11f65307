"""What a server tells of its load, and what becomes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import httpx
import pytest

from fim_eval.crew import Post, load_of, work_off
from fim_eval.health import Health
from fim_eval.limiter import Limiter
from fim_eval.records import Timeouts
from fim_eval.supply import Supply

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="1",model_name="m"} 5.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
"""


@pytest.mark.parametrize(
    ("answer", "load"),
    [
        pytest.param(httpx.Response(200, text=METRICS), (5.0, 7.0), id="over all engines"),
        pytest.param(httpx.Response(404, text="not found"), None, id="hidden"),
        pytest.param(
            httpx.Response(200, text="vllm:num_requests_waiting{} 1\n"), None, id="one of the two"
        ),
    ],
)
async def test_the_load_is_what_waits_and_what_is_worked_on(
    answer: httpx.Response, load: tuple[float, float] | None
) -> None:
    transport = httpx.MockTransport(lambda _: answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://x/y/v1/") as http:
        assert await load_of(http) == load


class Told:
    """A server's load: one after the other, the last one without end."""

    def __init__(self, *loads: tuple[float, float] | None) -> None:
        self.loads = list(loads)
        self.looks = 0

    async def __call__(self) -> tuple[float, float] | None:
        self.looks += 1
        return self.loads.pop(0) if len(self.loads) > 1 else self.loads[0]


async def worked_off(told: Told, prompts: int, seconds: float) -> tuple[Limiter, list[int]]:
    """Prompts that take so long each; the limiter, and how many were in flight at each sending."""
    flights: list[int] = []

    async def never() -> str | None:
        return None

    async def ask(_: Sequence[int]) -> None:
        flights.append(post.in_flight)
        await asyncio.sleep(seconds)

    health = Health(
        never,
        Timeouts(),
        where="x",
        clock_s=time.monotonic,
        sleep=asyncio.sleep,
        notice=lambda _: None,
    )
    limiter = Limiter(1_000, start=4)
    post = Post("x", ask, limiter, health, told, Supply([one] for one in range(prompts)))
    await work_off([post], time.monotonic, asyncio.Event(), 1.0)
    return limiter, flights


def look_often(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(Limiter, "look_again_s", seconds)


async def test_a_server_that_fails_to_tell_once_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_often(monkeypatch, 0.01)
    told = Told((0, 1), None, None, (1, 4))
    await worked_off(told, 8, 0.1)
    assert told.looks > 4


async def test_a_server_that_never_tells_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch, 0.01)
    told = Told(None)
    await worked_off(told, 8, 0.1)
    assert told.looks == 1


async def test_a_limit_that_grows_is_used_before_anything_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_often(monkeypatch, 0.1)
    limiter, flights = await worked_off(Told((0, 4)), 8, 1.5)
    assert [change.reason for change in limiter.history] == ["start", "no queue"]
    assert max(flights) == 8

"""What a server tells of its load, and what becomes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import httpx
import pytest

from fim_eval.crew import Post, load_of, work_off
from fim_eval.errors import RunDirectoryError
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
        pytest.param(
            httpx.Response(200, text=METRICS.replace(" 4.0", " <html>")), None, id="garbled"
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


def health(kind: type[Health] = Health) -> Health:
    async def never() -> str | None:
        return None

    return kind(
        never,
        Timeouts(),
        where="x",
        clock_s=time.monotonic,
        sleep=asyncio.sleep,
        notice=lambda _: None,
    )


async def known() -> None:
    await asyncio.Event().wait()


async def worked_off(told: Told, prompts: int, seconds: float) -> tuple[Limiter, list[int]]:
    """Prompts that take so long each; the limiter, and how many were in flight at each sending."""
    flights: list[int] = []

    async def ask(_: Sequence[int]) -> None:
        flights.append(post.in_flight)
        await asyncio.sleep(seconds)

    limiter = Limiter(1_000, start=4)
    post = Post("x", ask, limiter, health(), told, known, Supply([one] for one in range(prompts)))
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


class BrokenWatch(Health):
    async def watch(self) -> None:
        raise ZeroDivisionError


async def broken_load() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("broken", ["watch", "load"])
async def test_whoever_watches_a_server_and_fails_ends_the_run(broken: str) -> None:
    async def never(_: Sequence[int]) -> None:
        await asyncio.Event().wait()

    watched = health(BrokenWatch if broken == "watch" else Health)
    load = broken_load if broken == "load" else Told(None)
    post = Post("x", never, Limiter(4, start=4), watched, load, known, Supply([[1]]))
    asking = work_off([post], time.monotonic, asyncio.Event(), 1.0)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(asking, 2.0)


class Server:
    """What one server is asked: prompts of so many seconds each, four at a time."""

    def __init__(
        self, name: str, prompts: int, seconds: float, health_: Health | None = None
    ) -> None:
        self.asked: list[str] = []
        self._seconds = seconds
        self.post = Post(
            name, self._ask, Limiter(4, start=4), health_ or health(), Told(None), known,
            Supply([f"{name}{number}"] for number in range(prompts)),
        )  # fmt: skip

    async def _ask(self, request: Sequence[str]) -> None:
        self.asked += request
        await asyncio.sleep(self._seconds)


async def work_off_all(*servers: Server) -> None:
    await work_off([one.post for one in servers], time.monotonic, asyncio.Event(), 1.0)


async def test_a_server_that_has_nothing_left_takes_what_waits_for_a_full_one() -> None:
    quick, slow = Server("quick", 20, 0.01), Server("slow", 20, 0.2)
    await work_off_all(quick, slow)
    assert sorted(quick.asked + slow.asked) == sorted(
        [f"{name}{number}" for name in ("quick", "slow") for number in range(20)]
    )
    assert slow.asked[:4] == ["slow0", "slow1", "slow2", "slow3"]
    assert quick.asked[:20] == [f"quick{number}" for number in range(20)], "its own first"
    assert len(slow.asked) <= 8


async def test_a_server_with_room_keeps_its_work_however_idle_the_other() -> None:
    none, some = Server("none", 0, 0.01), Server("some", 4, 0.2)
    await work_off_all(none, some)
    assert (none.asked, len(some.asked)) == ([], 4)


async def test_of_two_full_servers_the_fuller_one_is_helped_first() -> None:
    idle, full, fuller = (Server("idle", 0, 0.3), Server("full", 5, 0.2), Server("fuller", 7, 0.2))
    fuller.post.limiter.limit = 6
    await work_off_all(idle, full, fuller)
    assert idle.asked == ["fuller6", "full4"]


async def test_what_waits_for_a_server_that_is_waited_for_is_not_held_up() -> None:
    back_s = time.monotonic() + 1.0

    class Lost(Health):
        @property
        def is_lost(self) -> bool:
            return time.monotonic() < back_s

    idle, lost = Server("idle", 0, 0.01), Server("lost", 6, 0.01, health(Lost))
    await work_off_all(idle, lost)
    assert (lost.asked, len(idle.asked)) == ([], 6)


async def test_others_have_their_turn_while_no_server_may_be_asked() -> None:
    back_s = time.monotonic() + 0.3
    turns_s: list[float] = []

    class Lost(Health):
        @property
        def is_lost(self) -> bool:
            return time.monotonic() < back_s

    async def take_turns() -> None:
        while True:
            await asyncio.sleep(0.02)
            turns_s.append(time.monotonic())

    turning = asyncio.create_task(take_turns())
    lost = Server("lost", 2, 0.01, health(Lost))
    await work_off_all(lost)
    turning.cancel()
    assert len(lost.asked) == 2
    assert turns_s[0] < back_s


class LongLost(Health):
    """Of a server that is lost until `back_s`, and not for a moment only."""

    back_s = 0.0

    @property
    def is_lost(self) -> bool:
        return time.monotonic() < self.back_s

    @property
    def is_long_lost(self) -> bool:
        return self.is_lost


class Dying(Server):
    """A server that is lost with its first request, for so many seconds."""

    def __init__(self, name: str, prompts: int, lost_s: float) -> None:
        self.health = health(LongLost)
        assert isinstance(self.health, LongLost)
        self._lost_s = lost_s
        super().__init__(name, prompts, 0.01, self.health)

    async def _ask(self, request: Sequence[str]) -> None:
        if not self.asked:
            self.health.back_s = time.monotonic() + self._lost_s  # type: ignore[attr-defined]
        await super()._ask(request)
        await asyncio.sleep(self.health.back_s - time.monotonic())  # type: ignore[attr-defined]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fim_eval.crew.RELIEF_S", 0.05)


@pytest.mark.usefixtures("soon")
async def test_what_a_lost_server_has_begun_goes_to_one_that_has_nothing_to_do() -> None:
    idle, lost = Server("idle", 8, 0.01), Dying("lost", 8, 30.0)
    await asyncio.wait_for(work_off_all(idle, lost), 5.0)
    assert lost.asked == [f"lost{number}" for number in range(4)]
    assert sorted(idle.asked) == sorted(f"{name}{n}" for name in ("idle", "lost") for n in range(8))


@pytest.mark.usefixtures("soon")
async def test_what_a_lost_server_has_begun_stays_with_it_while_the_others_have_work() -> None:
    busy, lost = Server("busy", 40, 0.1), Dying("lost", 4, 0.5)
    await work_off_all(busy, lost)
    asked = [one for one in lost.asked + busy.asked if one.startswith("lost")]
    assert asked == lost.asked[:4] == [f"lost{number}" for number in range(4)]


@pytest.mark.usefixtures("soon")
async def test_what_is_taken_from_one_lost_server_is_not_taken_from_the_next() -> None:
    """Or a prompt that no server outlives would end them all in turn, for ever."""
    first, second = Dying("first", 1, 0.4), Dying("second", 0, 1.2)
    await asyncio.wait_for(work_off_all(first, second), 5.0)
    assert (first.asked, second.asked) == (["first0"], ["first0"])


@pytest.mark.usefixtures("soon")
async def test_a_server_that_is_back_is_asked_again_though_it_was_relieved_of_all() -> None:
    idle, lost = Server("idle", 0, 1.5), Dying("lost", 4, 0.3)
    idle.post.limiter.limit = 1
    working = asyncio.create_task(work_off_all(idle, lost))
    await asyncio.sleep(1.0)
    assert not working.done(), "the one that helped has one of them still"
    asked = [f"lost{number}" for number in range(4)]
    assert lost.asked[:4] == asked
    assert len(idle.asked) == 1
    assert sorted(lost.asked[4:] + idle.asked) == asked
    await working


@pytest.mark.usefixtures("soon")
async def test_what_ends_a_run_is_told_though_others_are_slow_to_end() -> None:
    """Nobody is asked any more meanwhile, or the end would be hidden by another error."""
    slow = Server("slow", 8, 0.01)

    async def ask(request: Sequence[str]) -> None:
        if request == ["slow0"]:
            await asyncio.sleep(0.1)
            raise RunDirectoryError("the disk is full")
        try:
            await asyncio.sleep(30.0)
        finally:
            slow.post.limiter.limit = 8
            await asyncio.sleep(0.3)

    slow.post.ask = ask
    with pytest.raises(RunDirectoryError):
        await asyncio.wait_for(work_off_all(slow), 5.0)


@pytest.mark.usefixtures("soon")
async def test_a_run_that_is_stopped_waits_for_no_request_that_was_taken_from_a_lost_server() -> (
    None
):
    slow, lost = Server("slow", 0, 30.0), Dying("lost", 2, 30.0)
    stop = asyncio.Event()
    asking = asyncio.create_task(work_off([slow.post, lost.post], time.monotonic, stop, 0.1))
    await asyncio.sleep(0.5)
    assert len(slow.asked) == 2
    stop.set()
    await asyncio.wait_for(asking, 2.0)

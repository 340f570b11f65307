"""How many prompts may be in flight, on servers that are known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fim_eval.limiter import LEAST, Limiter
from tests.shared_server import SharedServer


def worked(
    limiter: Limiter,
    rate: Callable[[int], float],
    seconds: float,
    *,
    refuses_above: int | None = None,
    load: Callable[[int], tuple[float, float]] | None = None,
) -> None:
    """So many seconds at a server that gives `rate(in flight)` answers a second.

    `load(in flight)`: how many wait there and how many are worked on, if it tells.
    """
    now, end = 0.0, seconds
    if limiter.history:
        now = limiter.history[-1].at_s
        end = now + seconds
    else:
        limiter.begin(0.0)
    while now < end:
        now += 0.25
        if load is not None:
            limiter.queued(*load(limiter.limit), now)
        if refuses_above is not None and limiter.limit > refuses_above:
            limiter.overloaded(now)
        limiter.answered(int(rate(limiter.limit) * 0.25), now)


def saturating(limit: int) -> float:
    return 2.0 * min(limit, 150)


def test_it_grows_as_long_as_that_gives_more_and_goes_back_when_it_does_not() -> None:
    limiter = Limiter(ceiling=1_000)
    worked(limiter, saturating, 12)
    assert [change.reason for change in limiter.history[:3]] == ["start", "faster", "faster"]
    assert limiter.history[-1].reason in ("no faster", "trying")
    assert 130 <= limiter.limit <= 320


def test_the_users_ceiling_is_never_exceeded() -> None:
    limiter = Limiter(ceiling=100)
    worked(limiter, lambda limit: 10.0 * limit, 60)
    assert limiter.limit >= 96
    assert all(change.limit <= 100 for change in limiter.history)
    assert Limiter(ceiling=8).limit == 8


def test_a_server_that_refuses_is_asked_less_at_once_and_once_a_round() -> None:
    limiter = Limiter(ceiling=1_000)
    limiter.begin(0.0)
    for _ in range(30):
        limiter.overloaded(0.5)
    assert limiter.limit == 44
    assert [change.reason for change in limiter.history] == ["start", "overloaded"]


def test_a_refusal_now_and_then_changes_nothing() -> None:
    limiter = Limiter(ceiling=64)
    limiter.begin(0.0)
    for step in range(1, 2_001):
        limiter.answered(16, step / 50)
        if step > 100 and step % 50 == 0:
            limiter.overloaded(step / 50)
    assert limiter.limit == 64


def test_it_stays_near_what_a_server_bears_and_tries_again_later() -> None:
    limiter = Limiter(ceiling=1_000)
    worked(limiter, lambda limit: 5.0 * limit, 200, refuses_above=80)
    late = [change.limit for change in limiter.history if change.at_s > 30]
    assert max(late) <= 1.5 * 80 + 1
    assert min(late) >= 40
    assert limiter.history[-1].at_s > 150, "it is still trying"


def alone(places: int) -> Callable[[int], tuple[float, float]]:
    """The load of a server that nobody else asks."""
    return lambda limit: (max(0, limit - places), min(limit, places))


def test_a_lone_clients_queue_is_kept_between_a_quarter_and_a_half_of_what_is_worked_on() -> None:
    growing = Limiter(ceiling=1_000)
    worked(growing, saturating, 60, load=alone(150))
    assert 1.25 * 150 <= growing.limit <= 1.5 * 150
    shrinking = Limiter(ceiling=1_000, start=600)
    worked(shrinking, saturating, 60, load=alone(150))
    assert 1.25 * 150 <= shrinking.limit <= 1.5 * 150
    assert {change.reason for change in shrinking.history} == {"start", "queueing"}


def test_of_a_queue_that_others_made_a_client_takes_its_share_for_its_own() -> None:
    limiter = Limiter(ceiling=1_000)
    # 256 of four clients in flight: 128 wait, of which a quarter is ours, a quarter of 128.
    worked(limiter, lambda _: 200.0, 60, load=lambda _: (128, 128))
    assert [change.reason for change in limiter.history] == ["start"]


def test_a_queue_takes_nobody_below_two_lists_and_a_refusal_does() -> None:
    limiter = Limiter(ceiling=1_000)
    worked(limiter, lambda _: 200.0, 60, load=lambda _: (10_000, 20))
    assert limiter.limit == LEAST
    assert Limiter(ceiling=8).limit == 8
    refused = Limiter(ceiling=1_000)
    worked(refused, lambda _: 200.0, 60, load=lambda _: (10_000, 20), refuses_above=4)
    assert refused.limit <= 4


def test_after_a_refusal_an_empty_queue_is_no_reason_to_ask_more_at_once() -> None:
    limiter = Limiter(ceiling=1_000)
    worked(limiter, lambda limit: 5.0 * limit, 200, refuses_above=80, load=lambda lim: (0, lim))
    late = [change for change in limiter.history if change.at_s > 30]
    assert max(change.limit for change in late) <= 1.5 * 80 + 1
    waits = [
        after.at_s - before.at_s for before, after in pairwise(late) if after.reason == "trying"
    ]
    assert len(waits) > 3
    assert min(waits) >= 13


@pytest.mark.parametrize(("share", "after_s"), [(1.0, 0.25), (0.5, 0.25), (0.4, 1.0)])
def test_at_the_beginning_it_doubles_at_each_look_until_something_waits(
    share: float, after_s: float
) -> None:
    limiter = Limiter(ceiling=1_000)
    limiter.begin(0.0)
    for quarter in range(24):
        taken_in = int(limiter.limit * share)
        limiter.queued(max(0, taken_in - 200), min(200, taken_in), quarter / 4)
    doubled = [(after_s * times, 64 * 2**times) for times in range(3)]
    assert [(change.at_s, change.limit) for change in limiter.history][:3] == doubled
    assert limiter.limit * share <= 2 * 200 + 64
    assert limiter.look_again_s == 1.0


def test_it_looks_often_only_as_long_as_it_may_double() -> None:
    assert Limiter(ceiling=64).look_again_s == 1.0
    limiter = Limiter(ceiling=1_000)
    limiter.begin(0.0)
    assert limiter.look_again_s == 0.25
    limiter.queued(1, 63, 0.25)
    assert limiter.look_again_s == 1.0


def test_an_idle_servers_empty_queue_tells_nothing() -> None:
    limiter = Limiter(ceiling=1_000)
    limiter.begin(0.0)
    for second in range(6):
        limiter.queued(0, 0, float(second))
    assert limiter.limit == 64


def test_a_server_that_stops_telling_is_asked_by_what_it_answers() -> None:
    limiter = Limiter(ceiling=1_000)
    worked(limiter, saturating, 20, load=alone(150))
    limiter.not_told()
    worked(limiter, lambda limit: 5.0 * limit, 60)
    assert limiter.limit > 400


def test_a_round_waits_until_the_server_has_told_of_the_new_limit() -> None:
    limiter = Limiter(ceiling=1_000)
    limiter.begin(0.0)
    limiter.queued(1, 63, 0.5)
    limiter.answered(64, 2.0)
    assert limiter.limit == 86
    limiter.answered(86, 4.0)
    assert limiter.limit == 86, "nothing was told since"
    limiter.queued(1, 85, 4.5)
    limiter.answered(1, 5.0)
    assert limiter.limit > 86


@settings(max_examples=10, deadline=None)
@given(
    clients=st.lists(
        st.tuples(st.floats(0, 20), st.sampled_from([16, 32, 64, 128, 256])),
        min_size=2,
        max_size=6,
    ),
    places=st.sampled_from([64, 128, 256]),
    mean_s=st.sampled_from([0.5, 1.0, 2.0]),
    batch=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 1_000),
)
@example(
    clients=[(0, 16), (0, 16), (0, 256), (2, 256), (12, 256)],
    places=64,
    mean_s=2.0,
    batch=4,
    seed=0,
)
def test_clients_of_one_server_come_to_similar_limits_and_keep_it_full(
    clients: list[tuple[float, int]], places: int, mean_s: float, batch: int, seed: int
) -> None:
    server = SharedServer(places, mean_s, batch=batch, seed=seed)
    for joins_s, start in clients:
        server.join(joins_s, start=start, ceiling=512)
    server.run(200)
    # A limit falls by three tenths a round, and a round of 800 in flight at 32 a second takes 25 s.
    limits = [client.mean_limit(150, 200) for client in server.clients]
    assert max(limits) <= 2.5 * min(limits)
    assert server.busy(60, 200) >= 0.95


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("places", [32, 128])
def test_a_lone_client_fills_a_server_soon_and_keeps_it_full(places: int, batch: int) -> None:
    server = SharedServer(places, 3.0, batch=batch)
    server.join(0.0, ceiling=512)
    server.run(200)
    full_s = server.full_from_s()
    assert full_s is not None
    assert full_s < 3
    # Of a list the last prompt is waited for: with 16 a list some places stay empty at times.
    assert server.busy(60, 200) >= (0.99 if batch == 1 else 0.93)


def test_when_the_others_are_done_the_last_one_fills_the_server() -> None:
    server = SharedServer(128, 0.77, batch=4)
    for _ in range(3):
        server.join(0.0, prompts=2_000)
    last = server.join(0.0)
    server.run(100)
    others = [client.done_s for client in server.clients if client is not last]
    gone_s = max(at_s for at_s in others if at_s is not None)
    assert len(others) == 3
    assert gone_s < 60
    assert server.busy(gone_s + 5, 100) >= 0.97


def test_clients_of_a_server_that_does_not_tell_its_queue_keep_it_at_work() -> None:
    server = SharedServer(128, 0.77, batch=4, tells=False)
    for _ in range(4):
        server.join(0.0)
    server.run(100)
    assert server.busy(20, 100) >= 0.9

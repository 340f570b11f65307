"""How many prompts may be in flight, on servers that are known."""

from __future__ import annotations

from collections.abc import Callable

from fim_eval.limiter import Limiter


def worked(
    limiter: Limiter,
    rate: Callable[[int], float],
    seconds: float,
    *,
    refuses_above: int | None = None,
    queue: Callable[[int], float] = lambda _: 0.0,
) -> None:
    """So many seconds at a server that gives `rate(in flight)` answers a second."""
    now, end = 0.0, seconds
    if limiter.history:
        now = limiter.history[-1].at_s
        end = now + seconds
    else:
        limiter.begin(0.0)
    while now < end:
        now += 0.25
        limiter.queued(queue(limiter.limit))
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


def test_a_queue_at_the_server_stops_growth_and_a_long_one_turns_it_back() -> None:
    held = Limiter(ceiling=1_000)
    worked(held, lambda limit: 5.0 * limit, 60, queue=lambda limit: 0.2 * limit)
    assert held.limit == 64
    queueing = Limiter(ceiling=1_000)
    worked(queueing, lambda _: 200.0, 60, queue=lambda limit: max(0, limit - 20))
    assert queueing.limit <= 40
    assert "queueing" in {change.reason for change in queueing.history}

"""What people see of long steps."""

from __future__ import annotations

import pytest

from fim_eval.cli.progress import Step, steps


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def step_of(clock: Clock, told: list[str], every_s: float = 10.0) -> Step:
    return Step(
        "7b lr",
        "asked",
        "failed",
        tell=lambda step: told.append(step.line()),
        every_s=every_s,
        clock_s=clock,
    )


def test_a_line_says_how_many_how_fast_and_how_long_still() -> None:
    clock = Clock()
    step = step_of(clock, [])
    step.start(100, 90)
    clock.now_s += 4.0
    for _ in range(9):
        step.advance(False, tokens=20)
    step.advance(True, retries=5)
    step.in_flight = 16
    assert step.line() == (
        "7b lr: 20/100 asked, 1 failed, 2.5/s, 45 tokens/s, 16 in flight, 5 retries, 32 s left"
    )


def test_what_was_done_before_makes_no_rate() -> None:
    clock = Clock()
    step = step_of(clock, [])
    step.start(100, 10)
    clock.now_s += 5.0
    assert step.line() == "7b lr: 90/100 asked, 0 failed, 0.0/s"


def test_the_rate_of_what_is_done_stays() -> None:
    clock = Clock()
    step = step_of(clock, [])
    step.start(10, 10)
    step.in_flight = 8
    clock.now_s += 2.0
    for _ in range(10):
        step.advance(False)
    clock.now_s += 100.0
    assert step.line() == "7b lr: 10/10 asked, 0 failed, 5.0/s"


def test_a_line_comes_at_most_once_in_its_time() -> None:
    clock, told = Clock(), list[str]()
    step = step_of(clock, told)
    step.start(100, 100)
    told.clear()
    for _ in range(50):
        clock.now_s += 1.0
        step.advance(False)
    assert len(told) == 5


def test_off_a_terminal_nothing_is_told_of_what_is_quickly_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with steps("asked", "failed") as begin:
        step = begin("7b lr")
        step.start(1, 1)
        step.advance(False)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_every_step_has_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with steps("asked", "failed") as begin:
        first, second = begin("7b lr"), begin("13b [bold]lr")
        for step in (first, second):
            step.start(2, 2)
            step.advance(False, tokens=7)
            step.advance(True)
    shown = capsys.readouterr().err
    assert "7b lr" in shown
    assert "13b [bold]lr" in shown
    assert "2/2" in shown
    assert "1 failed" in shown

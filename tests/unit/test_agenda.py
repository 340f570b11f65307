"""What a run asks, and what of it is in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from fim_eval.agenda import Agenda
from fim_eval.recipe import Recipe, prepare
from fim_eval.records import Completion, InfillTask, RequestFailure

PREPARED = prepare(Recipe(model="any", strategy="lr"))


def tasks(count: int, *, first: int = 0) -> Iterator[InfillTask]:
    for number in range(first, first + count):
        yield InfillTask(
            task_id=f"Made/{number}/single-line/L0",
            problem_id=f"Made/{number // 5}",
            kind="single-line",
            context=None,
            prefix=f"def f(x):  # {number}\n" + "    x += 1\n" * 30,
            middle="    return x\n",
            suffix="",
        )


def failure(number: int) -> RequestFailure:
    return RequestFailure(
        task_id=f"Made/{number}/single-line/L0",
        strategy="lr",
        sample_index=0,
        segment=0,
        sent_ns=0,
        elapsed_ns=1,
        attempts=1,
        reason="connection",
        detail="gone",
    )


def grown(folder: Path, count: int) -> int:
    """Bytes at most while an agenda is drawn up, taken over from before, and worked off."""
    tracemalloc.start()
    try:
        with Agenda(PREPARED, folder) as agenda:
            agenda.draw_up(tasks(count))
            with agenda.noting() as note:
                for number in range(0, count, 2):
                    note(failure(number))
            asked = sum(len(each) for each in agenda.requests(lambda _: True, None, 16))
        assert asked == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_task_costs_some_bytes_of_memory(tmp_path: Path) -> None:
    grown(tmp_path, 100)  # what is loaded once
    small, large = grown(tmp_path, 200), grown(tmp_path, 2_200)
    assert (large - small) / 2_000 < 64


def test_what_a_journal_says_of_another_run_is_told(tmp_path: Path) -> None:
    with Agenda(PREPARED, tmp_path) as agenda:
        agenda.draw_up(tasks(3))
        with agenda.noting() as note:
            note(failure(1))
            note(failure(1))
            for other in (
                failure(3),
                failure(1).model_copy(update={"strategy": "fim-psm"}),
                failure(1).model_copy(update={"sample_index": 1}),
            ):
                with pytest.raises(
                    ValueError, match=r"holds what came of Made/\d/.* as this run does not ask it"
                ):
                    note(other)
        assert agenda.failures == {"connection": 1}
        assert agenda.pending == 3


def test_what_is_answered_is_not_answered_again(tmp_path: Path) -> None:
    answer = Completion(
        task_id="Made/2/single-line/L0",
        strategy="lr",
        sample_index=0,
        segment=0,
        text="    return x\n",
        token_ids=None,
        server_text=None,
        prompt_tokens=None,
        completion_tokens=None,
        finish_reason="stop",
        stop_reason=None,
        sent_ns=0,
        elapsed_ns=1,
        attempts=1,
        answered_as="any",
        system_fingerprint=None,
    )
    with Agenda(PREPARED, tmp_path) as agenda:
        agenda.draw_up(tasks(3))
        agenda.note(2, failure(2))
        assert agenda.text_differences == 0
        agenda.note(2, answer)
        assert (agenda.answered, agenda.pending) == (1, 2)
        agenda.note(0, answer.model_copy(update={"server_text": "other"}))
        assert agenda.text_differences == 1
        for again in (answer, failure(2)):
            with pytest.raises(ValueError, match=r"answers Made/2/single-line/L0 a second time"):
                agenda.note(2, again)

from __future__ import annotations

import pytest

from fim_eval.probe import TASKS, Asked, cannot_be_asked, conclude
from fim_eval.records import Completion, Prompt, RequestFailure
from fim_eval.syntax import parse
from fim_eval.words import ProbeVerdict

END = 32010


def asked(number: int, text: str | None, *, ended: bool = True) -> Asked:
    """Task `number` and its answer; without a text, a failure."""
    task = TASKS[number]
    prompt = Prompt(
        task_id=task.task_id,
        strategy="fim-psm",
        sample_index=0,
        text=None,
        token_ids=(1, 2),
        stop=(),
        stop_token_ids=(END,),
        max_tokens=32,
    )
    key = {"task_id": task.task_id, "strategy": "fim-psm", "sample_index": 0}
    times = {"attempts": 1, "segment": 0, "sent_ns": 0, "elapsed_ns": 1}
    if text is None:
        failure = {"reason": "timeout", "detail": "600 s"}
        return task, prompt, RequestFailure.model_validate(key | times | failure)
    answer = {
        "text": text,
        "server_text": None,
        "token_ids": (7, END) if ended else (7, 7),
        "finish_reason": "stop" if ended else "length",
        "stop_reason": END if ended else None,
        "prompt_tokens": 2,
        "completion_tokens": 2,
        "system_fingerprint": None,
        "answered_as": "m",
    }
    return task, prompt, Completion.model_validate(key | times | answer)


def test_every_hole_of_the_probe_is_filled_by_its_own_middle() -> None:
    for task in TASKS:
        parse(task.prefix + task.middle + task.suffix)
        assert task.middle.strip()


@pytest.mark.parametrize(
    ("ended", "right", "failed", "verdict"),
    [
        (16, 16, 0, "infills"),
        (12, 8, 0, "infills"),
        (11, 16, 0, "unclear"),
        (16, 7, 0, "unclear"),
        (4, 0, 0, "does not infill"),
        (0, 16, 0, "does not infill"),
        (5, 0, 0, "unclear"),
        (8, 4, 8, "infills"),
        (7, 7, 9, "unclear"),
        (0, 0, 16, "unclear"),
    ],
)
def test_the_verdict_follows_from_ends_and_right_answers(
    ended: int, right: int, failed: int, verdict: ProbeVerdict
) -> None:
    rows = [
        asked(number, TASKS[number].middle + " " if number < right else "?", ended=number < ended)
        for number in range(16 - failed)
    ]
    found = conclude([*rows, *(asked(number, None) for number in range(16 - failed, 16))])
    assert found.verdict == verdict
    assert (found.asked, found.answered, found.ended) == (16, 16 - failed, ended)


def test_the_evidence_shows_each_answer() -> None:
    found = conclude([asked(0, "name"), asked(1, "\x1b[2J", ended=False), asked(2, None)])
    assert "Probe/0: expected 'name', got 'name', ended" in found.evidence
    assert "Probe/1: expected 'ImportError', got '\\x1b[2J', cut off" in found.evidence
    assert "Probe/2: timeout: 600 s" in found.evidence


def test_a_model_without_sentinels_does_not_infill() -> None:
    found = cannot_be_asked("it was not trained to infill")
    assert (found.verdict, found.asked) == ("does not infill", 0)

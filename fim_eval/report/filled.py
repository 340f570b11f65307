"""A run directory, read and cut once: what fills each hole under every policy, and its verdict.

Tables count it, the browser of tasks tells it. Knows neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fim_eval.journal import Outcomes, read_manifest, read_outcomes, read_segments, read_tasks
from fim_eval.judge import program_key
from fim_eval.postprocess import POLICIES, filled_middle, filled_program
from fim_eval.records import (
    Completion,
    Imported,
    InfillTask,
    JudgeSession,
    ReferenceRun,
    RunManifest,
    Verdict,
)
from fim_eval.verdicts import read_references, read_sessions, read_verdicts
from fim_eval.words import Policy


class FilledTask(NamedTuple):
    """One hole, and what one run made of it."""

    task: InfillTask
    answer: Completion | Imported | None
    """None while there is none."""

    middles: Mapping[Policy, str]
    """What fills the hole, in the order of `postprocess.POLICIES`; none without an answer."""

    verdicts: Mapping[str, Verdict | None]
    """On each distinct of `middles`, in their order; None: not judged."""

    floor: Verdict | None
    """On the program whose hole is left empty; None: not judged."""


@dataclass(frozen=True, slots=True)
class FilledRun:
    """One run directory."""

    path: Path
    manifest: RunManifest
    outcomes: Outcomes
    asked_gold: bool
    """Whether the reference answers' probability was asked."""

    tasks: tuple[FilledTask, ...]
    sessions: tuple[JudgeSession, ...]
    """Of judging; none if nothing was judged."""

    references: Mapping[str, ReferenceRun]
    """What each problem's own reference came to."""


def read_filled(path: Path) -> FilledRun:
    """The run directory at `path`.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    sessions = read_sessions(path)
    references = read_references(path)
    verdicts = read_verdicts(path)
    manifest = read_manifest(path)
    outcomes = read_outcomes(path)
    return FilledRun(
        path=path,
        manifest=manifest,
        outcomes=outcomes,
        asked_gold=any(segment.gold for segment in read_segments(path)),
        tasks=tuple(_filled(path, manifest, outcomes, references, verdicts)),
        sessions=tuple(sessions),
        references=references,
    )


def _filled(
    path: Path,
    manifest: RunManifest,
    outcomes: Outcomes,
    references: Mapping[str, ReferenceRun],
    verdicts: Mapping[str, Verdict],
) -> Iterator[FilledTask]:
    strategy = manifest.identity.strategy
    for task in read_tasks(path):
        reference = references.get(task.problem_id)
        tests = None if reference is None else reference.tests_sha256
        answer = outcomes.answer(task.task_id, strategy)
        middles = (
            {} if answer is None else {p: filled_middle(p, answer.text, task) for p in POLICIES}
        )
        yield FilledTask(
            task,
            answer,
            middles,
            {
                middle: _verdict(verdicts, task, middle, tests)
                for middle in dict.fromkeys(middles.values())
            },
            _verdict(verdicts, task, "", tests),
        )


def _verdict(
    verdicts: Mapping[str, Verdict], task: InfillTask, middle: str, tests: str | None
) -> Verdict | None:
    if tests is None:
        return None
    return verdicts.get(program_key(filled_program(task, middle), tests))

"""What the instrument itself reads: reference answers through the whole pipeline, and empty ones.

The ceiling must be all of the tasks; what the floor is above none is what the tests cannot see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fim_eval.judge import program_key
from fim_eval.postprocess import POLICIES, filled_middle, filled_program
from fim_eval.records import InfillTask, Verdict
from fim_eval.sandbox import Jail
from fim_eval.suite import Suite
from fim_eval.verdicts import read_references, read_verdicts
from fim_eval.verify import Candidate, JudgeSettings, Watcher, judge_candidates
from fim_eval.words import NO_VERDICT, Kind, Policy


@dataclass(frozen=True, slots=True)
class Answered:
    """All tasks of one kind, answered in one way."""

    passed: tuple[str, ...]
    """Task ids."""

    failed: tuple[tuple[str, str], ...]
    """Task id, and outcome with its detail."""

    unresolved: tuple[tuple[str, str], ...]
    """The same, where there is no verdict."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What came of one kind of hole."""

    kind: Kind
    tasks: int
    ceiling: Answered
    """Every hole filled with its own reference."""

    under_policy: dict[Policy, Answered]
    """The same after each truncation policy: what is missing there, the policy itself costs."""

    empty: Answered
    """Every hole left empty. What passes is *insensitive*: its tests cannot see the hole."""

    filler: Answered
    """Every hole filled with `pass`, indented as the reference is."""


def self_check(
    suite: Suite, *, folder: Path, jail: Jail, settings: JudgeSettings, watcher: Watcher
) -> SelfCheck:
    """Judge reference answers, empty ones and `pass` for every task of a suite.

    Args:
        suite: tasks of one kind, and their problems.
        folder: where verdicts go; the same folder resumes.
        jail: where programs run.
        settings: how they are judged.
        watcher: is told.
    """
    problems = {problem.problem_id: problem for problem in suite.problems}
    tasks = list(suite.tasks)
    wanted = [
        Candidate(task.problem_id, filled_program(task, middle))
        for task in tasks
        for middle in (*_reference_answers(task).values(), "", filler(task))
    ]
    judge_candidates({folder: wanted}, problems, jail, settings, watcher)
    read = _Reader(folder, tasks)
    return SelfCheck(
        kind=tasks[0].kind,
        tasks=len(tasks),
        ceiling=read.answered([task.middle for task in tasks]),
        under_policy={
            policy: read.answered([_reference_answers(task)[policy] for task in tasks])
            for policy in POLICIES
            if policy != "raw"
        },
        empty=read.answered([""] * len(tasks)),
        filler=read.answered([filler(task) for task in tasks]),
    )


def filler(task: InfillTask) -> str:
    r"""The smallest statement that can stand where the reference stands.

    >>> from fim_eval.records import InfillTask
    >>> filler(InfillTask(task_id="P/single-line/L1", problem_id="P", kind="single-line",
    ...     context=None, prefix="def f():\n", middle="    return 1\n", suffix=""))
    '    pass\n'
    """
    indentation = task.middle[: len(task.middle) - len(task.middle.lstrip())]
    return f"{indentation}pass" + ("\n" if task.middle.endswith("\n") else "")


def _reference_answers(task: InfillTask) -> dict[Policy, str]:
    """The reference as each policy leaves it."""
    return {policy: filled_middle(policy, task.middle, task) for policy in POLICIES}


class _Reader:
    """Verdicts of a folder, by task."""

    def __init__(self, folder: Path, tasks: Sequence[InfillTask]) -> None:
        self._tasks = tasks
        self._verdicts = read_verdicts(folder)
        self._tests = {
            name: reference.tests_sha256 for name, reference in read_references(folder).items()
        }

    def answered(self, middles: Sequence[str]) -> Answered:
        """What came of one answer to each task."""
        passed: list[str] = []
        failed: list[tuple[str, str]] = []
        unresolved: list[tuple[str, str]] = []
        for task, middle in zip(self._tasks, middles, strict=True):
            verdict = self._of(task, middle)
            if verdict is None:
                unresolved.append((task.task_id, "its problem's reference could not be executed"))
            elif verdict.outcome == "passed":
                passed.append(task.task_id)
            else:
                row = (task.task_id, f"{verdict.outcome}: {verdict.detail}")
                (unresolved if verdict.outcome in NO_VERDICT else failed).append(row)
        return Answered(tuple(passed), tuple(failed), tuple(unresolved))

    def _of(self, task: InfillTask, middle: str) -> Verdict | None:
        tests = self._tests.get(task.problem_id)
        if tests is None:
            return None
        return self._verdicts[program_key(filled_program(task, middle), tests)]

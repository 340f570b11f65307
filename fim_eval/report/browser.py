"""Run directories in, tasks out as a person looks at them: a hole, and what each model made of it.

The same join as `report.table`, told by task instead of counted. Knows no page.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from fim_eval.journal import (
    GENERATIONS,
    TASKS,
    Outcomes,
    read_manifest,
    read_outcomes,
    read_tasks,
)
from fim_eval.judge import program_key
from fim_eval.metrics import exact_match
from fim_eval.postprocess import POLICIES, filled_middle, filled_program
from fim_eval.records import Completion, InfillTask, RequestFailure, Verdict
from fim_eval.verdicts import read_references, read_verdicts
from fim_eval.words import NO_VERDICT, Kind, Policy, Strategy, VerdictOutcome


@dataclass(frozen=True, slots=True)
class Answerer:
    """Who answered: one model under one strategy."""

    model: str
    strategy: Strategy
    run: str | None = None
    """Folder of the run, where another one holds answers of the same model to the same tasks."""


@dataclass(frozen=True, slots=True)
class Filling:
    """What fills the hole under every policy that cuts the completion to this text."""

    policies: tuple[Policy, ...]
    middle: str
    """Of `raw`: the completion as received."""

    exact_match: bool
    edit_distance: int
    """Levenshtein, in characters, to the reference."""

    verdict: VerdictOutcome | None
    """None: not judged."""

    detail: str
    """Where and why, for a person; empty without a verdict."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one answerer made of one task."""

    fillings: tuple[Filling, ...]
    """By first policy, in the order of `postprocess.POLICIES`; none without an answer."""

    failure: str | None
    """Why there is no answer; None if there is one."""

    met_limit: bool | None
    """Whether the completion was cut by the token limit. None: not known, it was imported."""


@dataclass(frozen=True, slots=True)
class BrowsedTask:
    """One hole with every answer to it."""

    task_id: str
    kind: Kind
    context: str | None
    prefix: str
    middle: str
    suffix: str
    sensitive: bool | None
    """Whether the tests fail if the hole stays empty; None: not judged."""

    answers: tuple[Answer | None, ...]
    """One per answerer, in their order; None: was not asked this task."""


@dataclass(frozen=True, slots=True)
class Browsed:
    """All tasks of some runs, and who answered them."""

    answerers: tuple[Answerer, ...]
    tasks: tuple[BrowsedTask, ...]


def read_browsed(runs: Sequence[Path], *, workers: int = 1) -> Browsed:
    """The tasks of run directories, each once, with the answers of all runs that asked it.

    Tasks stand in the order of the first run that asked them; answerers by size, then name, then
    strategy. Two tasks of one id are one only if they are one text.

    Args:
        runs: run directories.
        workers: processes to share them, if there is much to read. They are spawned, so with more
            than one a script of yours must guard its `__main__`.

    Raises:
        RunDirectoryError: a run cannot be read.
    """
    tasks: dict[_Key, InfillTask] = {}
    sensitive: dict[_Key, bool] = {}
    answers: dict[Answerer, dict[_Key, Answer]] = {}
    places: dict[Answerer, tuple[float, str, int, int]] = {}
    for path, read in zip(runs, _read_all(runs, workers), strict=True):
        own = dict(zip(map(_key, read.tasks), read.answers, strict=True))
        for key, task in zip(own, read.tasks, strict=True):
            tasks.setdefault(key, task)
        sensitive.update(
            (key, known)
            for key, known in zip(own, read.sensitive, strict=True)
            if known is not None
        )
        answerer = read.answerer
        if not answers.get(answerer, {}).keys().isdisjoint(own):
            answerer = Answerer(answerer.model, answerer.strategy, str(path))
        answers.setdefault(answerer, {}).update(own)
        places[answerer] = (
            read.size, answerer.model, _STRATEGIES.index(answerer.strategy), len(places),
        )  # fmt: skip
    answerers = tuple(sorted(places, key=places.__getitem__))
    return Browsed(
        answerers,
        tuple(
            BrowsedTask(
                task_id=task.task_id,
                kind=task.kind,
                context=task.context,
                prefix=task.prefix,
                middle=task.middle,
                suffix=task.suffix,
                sensitive=sensitive.get(key),
                answers=tuple(answers[answerer].get(key) for answerer in answerers),
            )
            for key, task in tasks.items()
        ),
    )


_Key = tuple[str, str, str, str]
_PARALLEL_BYTES = 4 << 20
"""Below so much to read, starting processes costs more than it spares."""


def _key(task: InfillTask) -> _Key:
    return task.task_id, task.prefix, task.middle, task.suffix


@dataclass(frozen=True, slots=True)
class _Read:
    """One run directory."""

    answerer: Answerer
    size: float
    """Parameters; infinite where they are not known."""

    tasks: list[InfillTask]
    answers: list[Answer]
    sensitive: list[bool | None]


def _read_all(runs: Sequence[Path], workers: int) -> list[_Read]:
    files = (path / name for path in runs for name in (TASKS, GENERATIONS))
    size = sum(file.stat().st_size for file in files if file.exists())
    workers = min(workers, len(runs))
    if size < _PARALLEL_BYTES or workers < 2:
        return [_read(path) for path in runs]
    context = multiprocessing.get_context("spawn")
    # A fifth of the time went into looking for cycles among records, which have none.
    with ProcessPoolExecutor(workers, mp_context=context, initializer=gc.disable) as pool:
        return list(pool.map(_read, runs))


def _read(path: Path) -> _Read:
    manifest = read_manifest(path)
    strategy = manifest.identity.strategy
    outcomes = read_outcomes(path)
    verdicts = _Verdicts(path)
    tasks = read_tasks(path)
    floors = [verdicts.of(task, "") for task in tasks]
    return _Read(
        answerer=Answerer(manifest.identity.model, strategy),
        size=manifest.card.parameters if manifest.card else float("inf"),
        tasks=tasks,
        answers=[_answer(task, strategy, outcomes, verdicts) for task in tasks],
        sensitive=[
            None if floor is None or floor.outcome in NO_VERDICT else floor.outcome != "passed"
            for floor in floors
        ],
    )


_STRATEGIES: tuple[Strategy, ...] = ("lr", "lr-rerank", "fewshot", "fim-psm", "fim-spm")


class _Verdicts:
    """The verdicts of a run directory, by task and middle."""

    def __init__(self, path: Path) -> None:
        self._verdicts = read_verdicts(path)
        self._tests = {
            name: reference.tests_sha256 for name, reference in read_references(path).items()
        }

    def of(self, task: InfillTask, middle: str) -> Verdict | None:
        tests = self._tests.get(task.problem_id)
        if tests is None:
            return None
        return self._verdicts.get(program_key(filled_program(task, middle), tests))


def _answer(
    task: InfillTask, strategy: Strategy, outcomes: Outcomes, verdicts: _Verdicts
) -> Answer:
    completion = outcomes.answer(task.task_id, strategy)
    if completion is None:
        return Answer((), _failure(task.task_id, strategy, outcomes), met_limit=False)
    policies: dict[str, list[Policy]] = {}
    for policy in POLICIES:
        policies.setdefault(filled_middle(policy, completion.text, task), []).append(policy)
    fillings = []
    for middle, alike in policies.items():
        verdict = verdicts.of(task, middle)
        fillings.append(
            Filling(
                policies=tuple(alike),
                middle=middle,
                exact_match=exact_match(middle, task.middle),
                edit_distance=Levenshtein.distance(middle, task.middle),
                verdict=verdict.outcome if verdict else None,
                detail=verdict.detail if verdict else "",
            )
        )
    # Of an answer from elsewhere only the text is known.
    met_limit = completion.finish_reason == "length" if isinstance(completion, Completion) else None
    return Answer(tuple(fillings), None, met_limit=met_limit)


def _failure(task_id: str, strategy: Strategy, outcomes: Outcomes) -> str:
    """Why a task has no answer: the first failure of what it needs."""
    index = 0
    while found := outcomes.generations.get((task_id, strategy, index)):
        scored = outcomes.likelihoods.get((task_id, strategy, index, "candidate"))
        for each in (found, scored):
            if isinstance(each, RequestFailure):
                return f"{each.reason}: {each.detail}"
        index += 1
    return "not asked" if index == 0 else "not ranked"

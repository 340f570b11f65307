"""Tasks as a person looks at them: a hole, and what each model made of it.

What `report.table` counts, told by task. Knows no file and no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from fim_eval.journal import Outcomes
from fim_eval.metrics import exact_match
from fim_eval.records import Completion, InfillTask, RequestFailure
from fim_eval.report.filled import FilledRun, FilledTask
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


@dataclass(frozen=True, slots=True)
class BrowsedRun:
    """One run's part of `Browsed`."""

    path: str
    answerer: Answerer
    size: float
    """Parameters; infinite where they are not known."""

    tasks: tuple[InfillTask, ...]
    answers: tuple[Answer, ...]
    """To each task."""

    sensitive: tuple[bool | None, ...]
    """Of each task, see `BrowsedTask`."""


def browsed_run(run: FilledRun) -> BrowsedRun:
    """What a person looks at of a run."""
    card = run.manifest.card
    return BrowsedRun(
        path=str(run.path),
        answerer=Answerer(run.manifest.identity.model, run.manifest.identity.strategy),
        size=card.parameters if card else float("inf"),
        tasks=tuple(filled.task for filled in run.tasks),
        answers=tuple(
            _answer(filled, run.manifest.identity.strategy, run.outcomes) for filled in run.tasks
        ),
        sensitive=tuple(
            None
            if filled.floor is None or filled.floor.outcome in NO_VERDICT
            else filled.floor.outcome != "passed"
            for filled in run.tasks
        ),
    )


def join_browsed(runs: Sequence[BrowsedRun]) -> Browsed:
    """The tasks of runs, each once, with the answers of all runs that asked it.

    Tasks stand in the order of the first run that asked them; answerers by size, then name, then
    strategy. Two tasks of one id are one only if they are one text.
    """
    tasks: dict[_Key, InfillTask] = {}
    sensitive: dict[_Key, bool] = {}
    answers: dict[Answerer, dict[_Key, Answer]] = {}
    places: dict[Answerer, tuple[float, str, int, int]] = {}
    for run in runs:
        own = dict(zip(map(_key, run.tasks), run.answers, strict=True))
        for key, task in zip(own, run.tasks, strict=True):
            tasks.setdefault(key, task)
        sensitive.update(
            (key, known) for key, known in zip(own, run.sensitive, strict=True) if known is not None
        )
        answerer = run.answerer
        if not answers.get(answerer, {}).keys().isdisjoint(own):
            answerer = Answerer(answerer.model, answerer.strategy, run.path)
        answers.setdefault(answerer, {}).update(own)
        places[answerer] = (
            run.size, answerer.model, _STRATEGIES.index(answerer.strategy), len(places),
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


def _key(task: InfillTask) -> _Key:
    return task.task_id, task.prefix, task.middle, task.suffix


_STRATEGIES: tuple[Strategy, ...] = ("lr", "lr-rerank", "fewshot", "fim-psm", "fim-spm")


def _answer(filled: FilledTask, strategy: Strategy, outcomes: Outcomes) -> Answer:
    task, completion = filled.task, filled.answer
    if completion is None:
        return Answer((), _failure(task.task_id, strategy, outcomes), met_limit=False)
    fillings = []
    for middle, verdict in filled.verdicts.items():
        fillings.append(
            Filling(
                policies=tuple(policy for policy, one in filled.middles.items() if one == middle),
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

"""Problems in, a file of tasks out, and back. Asks no model.

A task file is one `InfillTask` a line, for any tool to read. Beside it stand `<file>.facts.json`,
where the tasks came from, and `<file>.problems.jsonl`, the problems with their tests: a run copies
both into its directory if they still fit the file.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from fim_eval.errors import DatasetError
from fim_eval.infill import tasks_of
from fim_eval.lines import sha256_of
from fim_eval.official import OfficialTasks, official_tasks
from fim_eval.problems import load_problems
from fim_eval.records import InfillTask, Problem, TaskFacts
from fim_eval.shelf import Index
from fim_eval.words import Kind

SHOTS = 3
"""Worked examples that a few-shot prompt shows."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Tasks, and what they come from."""

    tasks: Iterable[InfillTask]
    """Can be gone through several times."""

    problems: Sequence[Problem] = ()
    """Those that the tasks were cut from; none if the tasks came without."""

    facts: TaskFacts | None = None


def build_suite(
    problems: str,
    split: str,
    kind: Kind | None,
    notice: Callable[[str], None],
    *,
    per_problem: int | None = None,
    seed: int = 0,
) -> Suite:
    """The holes of one kind in the problems of one split, in the data set's order.

    Args:
        problems: as `problems.load_problems` takes it, or a file of HumanEval-Infilling, whose
            tasks are taken as they are.
        split: `prompt`, `test`, `validation`, `train` or `all`.
        kind: of hole; None: `single-line`, or that of the official file.
        notice: told before anything slow.
        per_problem: most holes of one problem; None: all.
        seed: of what is drawn.
    """
    path = Path(problems).expanduser()
    official = official_tasks(path) if path.is_file() else None
    if official is not None:
        return _official_suite(
            official, path, split=split, kind=kind, per_problem=per_problem, seed=seed
        )
    kind = kind or "single-line"
    loaded, dataset = load_problems(problems, split, notice)
    tasks: list[InfillTask] = []
    with_holes: list[Problem] = []
    without: list[str] = []
    excluded: Counter[str] = Counter()
    for problem in loaded:
        holes = tasks_of(problem, kind, per_problem=per_problem, seed=seed)
        excluded += holes.excluded
        if holes.tasks:
            with_holes.append(problem)
        else:
            without.append(problem.problem_id)
        tasks.extend(holes.tasks)
    facts = TaskFacts(
        dataset=dataset,
        split=split,
        kind=kind,
        per_problem=per_problem,
        seed=seed,
        tasks=len(tasks),
        excluded=dict(excluded),
        problems_without_holes=tuple(without),
        tasks_sha256=sha256_of(tasks),
        problems_sha256=sha256_of(with_holes),
    )
    return Suite(tasks, with_holes, facts)


def _official_suite(
    official: OfficialTasks,
    path: Path,
    *,
    split: str,
    kind: Kind | None,
    per_problem: int | None,
    seed: int,
) -> Suite:
    if kind not in (None, official.kind):
        raise DatasetError(f"{path}: holds {official.kind} tasks, not {kind}; leave --kind out")
    if split not in ("test", "all"):
        raise DatasetError(f"{path}: all of it is of split test, none of split {split}")
    if per_problem is not None:
        raise DatasetError(f"{path}: official tasks are taken whole; leave --per-problem out")
    facts = TaskFacts(
        dataset=official.facts,
        split="test",
        kind=official.kind,
        per_problem=None,
        seed=seed,
        tasks=len(official.tasks),
        excluded={},
        problems_without_holes=(),
        tasks_sha256=sha256_of(official.tasks),
        problems_sha256=sha256_of(official.problems),
    )
    return Suite(official.tasks, official.problems, facts)


def worked_examples(
    suite: Suite, notice: Callable[[str], None], *, shots: int = SHOTS, seed: int = 0
) -> tuple[InfillTask, ...]:
    """Holes of other problems to show with their answers, `shots` for each kind in the suite.

    Of MBPP's split `prompt`, of which no other split holds a problem; of the starter set's where
    the tasks are of another data set, or of nobody knows which. One hole of a problem, drawn by
    the seed and the kind alone: the same for every task, model and limit.

    Raises:
        DatasetError: the split is asked itself, or has too few problems with such holes.
    """
    dataset = suite.facts.dataset if suite.facts else None
    asked = {task.problem_id for task in suite.tasks}
    pool: list[Problem] = []
    if dataset is not None and dataset.name not in ("humaneval", "humaneval-infilling", "starter"):
        name = dataset.source if dataset.name == "file" else dataset.name
        pool = [one for one in load_problems(name, "all", notice)[0] if one.split == "prompt"]
        if any(one.problem_id in asked for one in pool):
            pool = []
    if not pool:
        pool, _ = load_problems("starter", "prompt", notice)
    if any(one.problem_id in asked for one in pool):
        raise DatasetError(
            "fewshot: its worked examples come from split prompt, which is asked here itself; "
            "choose another --split"
        )
    examples: list[InfillTask] = []
    for kind in sorted({task.kind for task in suite.tasks}):
        digest = hashlib.sha256(f"worked examples\n{kind}\n{seed}".encode()).digest()
        draw = random.Random(int.from_bytes(digest))  # noqa: S311  a repeatable draw, no secret
        holes = [tasks_of(one, kind).tasks for one in draw.sample(pool, len(pool))]
        found = [draw.choice(tasks) for tasks in holes if tasks][:shots]
        if len(found) < shots:
            raise DatasetError(
                f"fewshot: only {len(found)} problems of split prompt have {kind} holes to show, "
                f"{shots} are wanted; lower --shots"
            )
        examples += found
    return tuple(examples)


def problems_path(tasks_path: Path) -> Path:
    """Where the problems of a task file stand."""
    return tasks_path.with_name(tasks_path.name + ".problems.jsonl")


def facts_path(tasks_path: Path) -> Path:
    """Where the facts of a task file stand."""
    return tasks_path.with_name(tasks_path.name + ".facts.json")


@dataclass(frozen=True, slots=True)
class TaskFile:
    """The tasks of a file, read again each time they are gone through: never all in memory."""

    path: Path

    def __iter__(self) -> Iterator[InfillTask]:
        """In order; see `read_tasks`."""
        with opened(self.path) as file:
            yield from read_tasks(file, str(self.path))


def opened(path: Path) -> BufferedReader:
    """A file of tasks.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); `fim-eval tasks` writes such files"
        ) from error


def read_tasks(file: BinaryIO, place: str) -> Iterator[InfillTask]:
    """Tasks from JSON lines; `place` names the file in errors.

    Raises:
        DatasetError: a line is no task, or a task stands twice.
        RunDirectoryError: no room on disk for the index of task ids.
    """
    is_empty = True
    with Index() as lines:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            is_empty = False
            try:
                task = InfillTask.model_validate_json(line)
            except ValidationError as error:
                fault = error.errors(include_url=False, include_input=False)[0]
                what = ".".join(map(str, fault["loc"]))
                raise DatasetError(
                    f"{place}:{number}: is no task ({what}: {fault['msg']}); "
                    "`fim-eval tasks` writes such files"
                ) from error
            first = lines.setdefault(task.task_id, number)
            if first != number:
                raise DatasetError(
                    f"{place}:{number}: {task.task_id} stands already in line {first}"
                )
            yield task
    if is_empty:
        raise DatasetError(f"{place}: holds no task; `fim-eval tasks` writes such files")


def read_facts(tasks_path: Path) -> TaskFacts | None:
    """The facts beside a task file; None if there are none.

    Raises:
        DatasetError: they are of another file than this, so one of the two was changed.
    """
    path = facts_path(tasks_path)
    if not path.exists():
        return None
    try:
        facts = TaskFacts.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DatasetError(f"{path}: cannot be understood; write the tasks again") from error
    with opened(tasks_path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if facts.tasks_sha256 != found:
        raise DatasetError(
            f"{tasks_path}: was changed since {path.name} was written beside it; write the tasks "
            "again, or remove that file to run without a record of where they came from"
        )
    return facts


def read_problems(tasks_path: Path, facts: TaskFacts | None) -> list[Problem]:
    """The problems beside a task file; none if there are none.

    Raises:
        DatasetError: they are others than those the tasks were cut from.
    """
    path = problems_path(tasks_path)
    if facts is None or not path.exists():
        return []
    content = path.read_bytes()
    if facts.problems_sha256 != hashlib.sha256(content).hexdigest():
        raise DatasetError(
            f"{path}: was changed since {tasks_path.name} was written; write the tasks again, or "
            "remove that file to run without tests"
        )
    adapter = TypeAdapter(Problem)
    return [adapter.validate_json(line) for line in content.splitlines()]

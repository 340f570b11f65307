"""The official HumanEval-Infilling files, read as they are: tasks, and their programs.

Nothing is normalised and nothing renamed: task ids, prompts and suffixes are the files' own, so
that scores can be put beside published ones. https://github.com/openai/human-eval-infilling
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from fim_eval.errors import DatasetError
from fim_eval.lines import sha256_of
from fim_eval.problems import Row, read_rows
from fim_eval.records import DatasetFacts, InfillTask, Problem
from fim_eval.words import Kind

KINDS: dict[str, Kind] = {
    "SingleLineInfilling": "single-line",
    "MultiLineInfilling": "multi-line",
    "RandomSpanInfilling": "random-span",
    "RandomSpanInfillingLight": "random-span",
}
"""By the first part of a task's id."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    task_id: str
    entry_point: str
    prompt: str
    suffix: str
    canonical_solution: str
    test: str


class OfficialTasks(NamedTuple):
    """One official file."""

    kind: Kind
    tasks: list[InfillTask]
    problems: list[Problem]
    """One per HumanEval problem, with the program of its first task. Other tasks of a problem may
    differ from it in one blank line, which the files add in front of some holes."""

    facts: DatasetFacts


def is_official(rows: Sequence[tuple[str, Row]]) -> bool:
    """Whether rows are tasks of HumanEval-Infilling, by the columns of the first."""
    return bool(rows) and {"canonical_solution", "suffix", "entry_point"} <= rows[0][1].keys()


def official_tasks(path: Path) -> OfficialTasks | None:
    """The tasks of a file; None if it is none of HumanEval-Infilling's.

    Raises:
        DatasetError: it cannot be read, or a row lacks something.
    """
    rows, sha256 = read_rows(path)
    if not is_official(rows):
        return None
    kind: Kind | None = None
    tasks: list[InfillTask] = []
    problems: dict[str, Problem] = {}
    for place, row in rows:
        fields = _checked(row, place)
        suite, _, rest = fields.task_id.partition("/")
        problem_id = rest.rpartition("/")[0]
        if suite not in KINDS or not problem_id:
            raise DatasetError(
                f"{place}: task id {fields.task_id!r} begins with none of {', '.join(KINDS)}"
            )
        if kind not in (None, KINDS[suite]):
            raise DatasetError(f"{place}: holds {KINDS[suite]} tasks among {kind} ones")
        kind = KINDS[suite]
        task = InfillTask(
            task_id=fields.task_id,
            problem_id=problem_id,
            kind=kind,
            context=None,
            prefix=fields.prompt,
            middle=fields.canonical_solution,
            suffix=fields.suffix,
        )
        tasks.append(task)
        problems.setdefault(
            problem_id,
            Problem(
                problem_id=problem_id,
                split="test",
                text=None,
                code=task.prefix + task.middle + task.suffix,
                body_offset=None,
                tests=(f"{fields.test}\ncheck({fields.entry_point})\n",),
                challenge_tests=(),
                test_setup="",
            ),
        )
    assert kind is not None  # noqa: S101  there is a row
    facts = DatasetFacts(
        name="humaneval-infilling",
        source=str(path),
        sha256=sha256,
        content_sha256=sha256_of(tasks),
        problems=len(problems),
        normalisation="none: tasks are as published",
        programs_changed=0,
        values_changed=(),
    )
    return OfficialTasks(kind, tasks, list(problems.values()), facts)


def _checked(row: Row, place: str) -> _Row:
    try:
        return _Row.model_validate(row)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise DatasetError(f"{place}: column {fault['loc'][0]!r}: {fault['msg']}") from error

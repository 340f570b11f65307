from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fim_eval.errors import DatasetError
from fim_eval.official import official_tasks
from fim_eval.suite import build_suite
from fim_eval.syntax import same_program
from tests.data_paths import infilling_path, needs_infilling, quiet


def rows(**changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "task_id": f"SingleLineInfilling/HumanEval/{number}/L0",
            "entry_point": "f",
            "prompt": "def f(x):\n",
            "canonical_solution": f"    y = x + {number}\n",
            "suffix": "    return y\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {1 + number}\n",
        }
        | (changes if number == 1 else {})
        for number in range(2)
    ]


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in content).encode()))
    return path


def test_tasks_are_the_file_s_own(tmp_path: Path) -> None:
    found = official_tasks(write(tmp_path / "made.jsonl.gz", rows()))
    assert found is not None
    assert (found.kind, found.facts.problems) == ("single-line", 2)
    assert [task.task_id for task in found.tasks] == [row["task_id"] for row in rows()]
    assert [task.problem_id for task in found.tasks] == ["HumanEval/0", "HumanEval/1"]
    assert {task.context for task in found.tasks} == {None}
    assert found.tasks[1].prefix + found.tasks[1].middle + found.tasks[1].suffix == (
        "def f(x):\n    y = x + 1\n    return y\n"
    )
    assert found.problems[0].tests == (rows()[0]["test"] + "\ncheck(f)\n",)


def test_problems_of_another_schema_are_not_official(tmp_path: Path) -> None:
    mbpp_like = [{"task_id": 11, "text": "", "code": "x = 1\n", "test_list": []}]
    assert official_tasks(write(tmp_path / "made.jsonl.gz", mbpp_like)) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"suffix": 1}, r"made\.jsonl\.gz:2: column 'suffix'"),
        ({"task_id": "Mine/1"}, "begins with none of SingleLineInfilling"),
        (
            {"task_id": "MultiLineInfilling/HumanEval/1/L0_L0"},
            "holds multi-line tasks among single-line ones",
        ),
    ],
)
def test_a_row_that_is_none_is_told_by_line(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(DatasetError, match=told):
        official_tasks(write(tmp_path / "made.jsonl.gz", rows(**changes)))


@pytest.mark.parametrize(
    ("kind", "split", "per_problem", "told"),
    [
        ("block", "test", None, "holds single-line tasks, not block; leave --kind out"),
        (None, "train", None, "none of split train"),
        (None, "test", 2, "leave --per-problem out"),
    ],
)
def test_what_does_not_fit_an_official_file_is_refused(
    tmp_path: Path, kind: Any, split: str, per_problem: int | None, told: str
) -> None:
    path = write(tmp_path / "made.jsonl.gz", rows())
    with pytest.raises(DatasetError, match=told):
        build_suite(str(path), split, kind, quiet, per_problem=per_problem)


@needs_infilling
@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("HumanEval-SingleLineInfilling.jsonl.gz", "single-line", 1_033),
        ("HumanEval-RandomSpanInfillingLight.jsonl.gz", "random-span", 164),
    ],
)
def test_the_official_files_load(name: str, kind: str, count: int) -> None:
    suite = build_suite(str(infilling_path().with_name(name)), "test", None, quiet)
    assert suite.facts is not None
    assert (suite.facts.kind, len(list(suite.tasks)), len(suite.problems)) == (kind, count, 164)
    code = {problem.problem_id: problem.code for problem in suite.problems}
    for task in suite.tasks:
        assert same_program(task.prefix + task.middle + task.suffix, code[task.problem_id])

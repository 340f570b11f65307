from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest

from fim_eval.errors import DatasetError
from fim_eval.lines import json_lines
from fim_eval.problems import load_problems
from fim_eval.records import InfillTask, TaskFacts
from fim_eval.suite import Suite, build_suite, facts_path, read_facts, read_tasks, worked_examples
from fim_eval.words import Kind
from tests.data_paths import FULL, SANITIZED, mbpp_path, needs_mbpp, quiet


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Three problems: two holes, none, one."""
    programs = [
        "def f(x):\n    y = x  # \u2028 é\n    return y\n",
        "f = abs\n",
        "def f(x):\n    return x\n",
    ]
    rows = [
        {"task_id": f"T/{n}", "text": "Do it.", "code": code, "test_list": ["assert f(1) == 1"]}
        for n, code in enumerate(programs)
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def built(problems: Path) -> tuple[list[InfillTask], TaskFacts]:
    suite = build_suite(str(problems), "all", "single-line", quiet)
    assert suite.facts is not None
    return list(suite.tasks), suite.facts


def tasks_in(content: bytes) -> list[InfillTask]:
    return list(read_tasks(io.BytesIO(content), "tasks.jsonl"))


def test_the_tasks_are_the_holes_of_all_problems_in_their_order(problems: Path) -> None:
    tasks, _ = built(problems)
    assert [task.task_id for task in tasks] == [
        "T/0/single-line/L1",
        "T/0/single-line/L2",
        "T/2/single-line/L1",
    ]


def test_the_facts_say_how_many_tasks_there_are_and_which_problems_gave_none(
    problems: Path,
) -> None:
    tasks, facts = built(problems)
    assert (facts.split, facts.kind, facts.tasks) == ("all", "single-line", 3)
    assert facts.problems_without_holes == ("T/1",)
    assert facts.dataset.problems == 3
    assert facts.dataset.source == str(problems)
    assert facts.tasks_sha256 == hashlib.sha256(json_lines(tasks)).hexdigest()


def test_tasks_come_back_from_their_file_as_they_were(problems: Path) -> None:
    tasks, _ = built(problems)
    content = json_lines(tasks)
    assert content.count(b"\n") == len(tasks)
    assert tasks_in(content) == tasks


def test_blank_lines_and_a_missing_last_newline_do_not_matter(problems: Path) -> None:
    tasks, _ = built(problems)
    content = b"\n" + json_lines(tasks).replace(b"\n", b"\r\n\n").rstrip()
    assert tasks_in(content) == tasks


def test_the_facts_stand_beside_the_tasks(tmp_path: Path) -> None:
    assert facts_path(tmp_path / "tasks.jsonl") == tmp_path / "tasks.jsonl.facts.json"


def test_facts_come_back_for_the_file_they_were_written_with(
    problems: Path, tmp_path: Path
) -> None:
    tasks, facts = built(problems)
    path = tmp_path / "tasks.jsonl"
    facts_path(path).write_text(facts.model_dump_json(indent=2), encoding="utf-8")
    path.write_bytes(json_lines(tasks))
    assert read_facts(path) == facts


def test_a_file_without_facts_has_none(tmp_path: Path) -> None:
    assert read_facts(tmp_path / "tasks.jsonl") is None


def test_a_file_that_was_changed_after_its_facts_is_refused(problems: Path, tmp_path: Path) -> None:
    tasks, facts = built(problems)
    path = tmp_path / "tasks.jsonl"
    facts_path(path).write_text(facts.model_dump_json(), encoding="utf-8")
    path.write_bytes(json_lines(tasks[:-1]))
    with pytest.raises(DatasetError) as refusal:
        read_facts(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: was changed since tasks.jsonl.facts.json was written")
    assert "write the tasks again" in message


@pytest.mark.parametrize("content", ["", "{}", "not json", "[]"])
def test_facts_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tasks.jsonl"
    facts_path(path).write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError) as refusal:
        read_facts(path)
    assert str(refusal.value).startswith(f"{facts_path(path)}: cannot be understood")


def test_a_task_that_stands_twice_is_refused(problems: Path) -> None:
    first, second, _ = built(problems)[0]
    with pytest.raises(DatasetError) as refusal:
        tasks_in(json_lines([first, second, first]))
    assert str(refusal.value) == "tasks.jsonl:3: T/0/single-line/L1 stands already in line 1"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        pytest.param(b'{"task_id": "T/1/si', "Invalid JSON", id="cut short"),
        pytest.param(b"[]", "Input should be an object", id="no object"),
        pytest.param(b"{}", "task_id: Field required", id="empty object"),
        pytest.param(b"\xff", "Invalid JSON", id="no UTF-8"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(problems: Path, line: bytes, what: str) -> None:
    content = json_lines(built(problems)[0]) + line + b"\n"
    with pytest.raises(DatasetError) as refusal:
        tasks_in(content)
    message = str(refusal.value)
    assert message.startswith("tasks.jsonl:4: is no task (")
    assert what in message
    assert message.endswith("`fim-eval tasks` writes such files")


def test_blank_lines_count_as_lines(problems: Path) -> None:
    content = b"\n" + json_lines(built(problems)[0]) + b"\n{}\n"
    with pytest.raises(DatasetError, match=r"^tasks\.jsonl:6: is no task"):
        tasks_in(content)


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        pytest.param("suffix", None, "suffix: Input should be a valid string", id="wrong type"),
        pytest.param("kind", "whole-file", "kind: Input should be 'single-line'", id="kind"),
        pytest.param("extra", 1, "extra: Extra inputs are not permitted", id="unknown column"),
    ],
)
def test_a_bad_column_is_named(problems: Path, column: str, value: object, what: str) -> None:
    row = json.loads(json_lines(built(problems)[0][:1])) | {column: value}
    with pytest.raises(DatasetError) as refusal:
        tasks_in(json.dumps(row).encode())
    assert str(refusal.value).startswith(f"tasks.jsonl:1: is no task ({what}")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_tasks_is_refused(content: bytes) -> None:
    with pytest.raises(DatasetError) as refusal:
        tasks_in(content)
    assert str(refusal.value).startswith("tasks.jsonl: holds no task")


class TestWorkedExamples:
    @pytest.mark.parametrize("kind", ["single-line", "multi-line", "random-span", "block"])
    def test_are_of_the_kind_that_is_asked_each_of_another_problem(self, kind: Kind) -> None:
        suite = build_suite("starter", "test", kind, quiet)
        examples = worked_examples(suite, quiet)
        assert [example.kind for example in examples] == [kind] * 3
        assert len({example.problem_id for example in examples}) == 3

    def test_are_the_same_for_any_choice_of_the_tasks(self) -> None:
        suite = build_suite("starter", "test", "single-line", quiet)
        some = Suite(list(suite.tasks)[5:9], suite.problems[1:2], suite.facts)
        assert worked_examples(some, quiet) == worked_examples(suite, quiet)

    def test_depend_on_the_seed(self) -> None:
        suite = build_suite("starter", "test", "single-line", quiet)
        drawn = {worked_examples(suite, quiet, seed=seed) for seed in range(5)}
        assert len(drawn) == 5

    def test_of_several_kinds_are_drawn_for_each(self) -> None:
        lines = build_suite("starter", "test", "single-line", quiet)
        blocks = build_suite("starter", "test", "block", quiet)
        both = worked_examples(Suite([*lines.tasks, *blocks.tasks]), quiet)
        assert set(both) == {*worked_examples(lines, quiet), *worked_examples(blocks, quiet)}

    @needs_mbpp
    @pytest.mark.parametrize("name", [FULL, SANITIZED])
    @pytest.mark.parametrize("split", ["test", "validation", "train"])
    def test_of_mbpp_come_from_its_prompt_split(self, name: str, split: str) -> None:
        suite = build_suite(str(mbpp_path(name)), split, "single-line", quiet)
        numbers = [
            int(one.problem_id.removeprefix("MBPP/")) for one in worked_examples(suite, quiet)
        ]
        assert all(1 <= number <= 10 for number in numbers)

    @needs_mbpp
    @pytest.mark.parametrize("split", ["prompt", "all"])
    def test_of_mbpp_s_own_prompt_split_come_from_the_starter_set(self, split: str) -> None:
        suite = build_suite(str(mbpp_path(FULL)), split, "single-line", quiet)
        assert all(one.problem_id.startswith("Starter/") for one in worked_examples(suite, quiet))

    def test_of_humaneval_come_from_the_starter_set_s_prompt_split(self) -> None:
        suite = build_suite("humaneval", "all", "single-line", quiet)
        prompt_split = {one.problem_id for one in load_problems("starter", "prompt", quiet)[0]}
        assert {one.problem_id for one in worked_examples(suite, quiet)} <= prompt_split

    @pytest.mark.parametrize("split", ["prompt", "all"])
    def test_are_never_of_the_split_that_is_asked(self, split: str) -> None:
        suite = build_suite("starter", split, "single-line", quiet)
        with pytest.raises(DatasetError, match="choose another --split"):
            worked_examples(suite, quiet)

    def test_that_are_too_few_are_refused_with_their_number(self) -> None:
        suite = build_suite("starter", "test", "single-line", quiet)
        with pytest.raises(DatasetError, match="lower --shots"):
            worked_examples(suite, quiet, shots=100)

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fim_eval.errors import DatasetError
from fim_eval.problems import AS_PUBLISHED, NORMALISED, load_problems, mbpp_split, normalise
from fim_eval.records import DatasetFacts, Problem
from tests.data_paths import FULL, SANITIZED, mbpp, mbpp_path, needs_mbpp, quiet

ROW: dict[str, Any] = {
    "task_id": 11,
    "text": "Write a function that doubles a number.",
    "code": "def double(x):\r\n  return 2 * x \r\n",
    "test_list": ["assert double(1) == 2", "assert double(0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": ["assert double(-1) == -2"],
}


def jsonl(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def without(column: str) -> dict[str, Any]:
    return {name: value for name, value in ROW.items() if name != column}


def loaded(path: Path, split: str = "all") -> tuple[list[Problem], DatasetFacts]:
    return load_problems(str(path), split, quiet)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# Normalisation


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [
        pytest.param("x = 1\n", "x = 1\n", id="nothing to do"),
        pytest.param("x = 1", "x = 1\n", id="no newline at the end"),
        pytest.param("x = 1\n\n\n", "x = 1\n", id="blank lines at the end"),
        pytest.param("\n \n\t\nx = 1\n", "x = 1\n", id="blank lines at the start"),
        pytest.param("\r\ny = 1\r\nx = 1\r\n", "y = 1\nx = 1\n", id="CRLF"),
        pytest.param("y = 1\rx = 1\r", "y = 1\nx = 1\n", id="lone CR"),
        pytest.param("y = 1\n\rx = 1", "y = 1\n\nx = 1\n", id="LF CR is two line ends"),
        pytest.param("y = 1 \t\nx = 1  ", "y = 1\nx = 1\n", id="trailing white space"),
        pytest.param("if x:\n\ty = 1\n", "if x:\n\ty = 1\n", id="indentation by tabs stays"),
        pytest.param("  x\n", "  x\n", id="the first line keeps its indentation"),
        pytest.param("y = 1\n   \nx = 1\n", "y = 1\n\nx = 1\n", id="a blank line in between"),
        pytest.param("y = 1\n\f\nx = 1\n", "y = 1\n\nx = 1\n", id="a form feed alone is blank"),
        pytest.param("s = 'a\u2028b'\n", "s = 'a\u2028b'\n", id="U+2028 ends no line"),
        pytest.param("y = 1 + \\  \r\n  2", "y = 1 + \\\n  2\n", id="a continued line"),
        pytest.param("", "\n", id="empty"),
        pytest.param(" \r\n ", "\n", id="only white space"),
    ],
)
def test_a_program_is_normalised_line_by_line(raw: str, normalised: str) -> None:
    assert normalise(raw) == normalised


texts = st.text(alphabet="ab \t\r\n\f\v\x1c\x85\u2028\xa0#")


@given(texts)
def test_a_normalised_program_is_not_changed_again(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(texts)
def test_a_normalised_program_has_no_white_space_where_it_should_not(text: str) -> None:
    result = normalise(text)
    assert "\r" not in result
    assert result.endswith("\n")
    lines = result.removesuffix("\n").split("\n")
    assert all(line == line.rstrip() for line in lines)
    assert lines == [""] or (lines[0] and lines[-1])


@given(texts)
def test_normalising_takes_nothing_but_white_space(text: str) -> None:
    assert normalise(text).split() == text.split()


# MBPP


@needs_mbpp
@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        (FULL, "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f"),
        (SANITIZED, "ca95deaa9a01ef0a6f439f88bcf0dd3db3563d22f22aad6cae04ebb9a8d8c8e9"),
    ],
)
def test_the_facts_name_the_file_by_the_sha256_of_its_bytes(name: str, sha256: str) -> None:
    facts = mbpp(name, "all")[1]
    assert facts.sha256 == sha256
    assert facts.source == str(mbpp_path(name))
    assert facts.name == "file"
    assert facts.normalisation == NORMALISED


@needs_mbpp
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        (FULL, {"prompt": 10, "test": 500, "validation": 90, "train": 374}),
        (SANITIZED, {"prompt": 7, "test": 257, "validation": 43, "train": 120}),
    ],
)
def test_the_splits_of_mbpp_have_their_published_sizes(name: str, sizes: dict[str, int]) -> None:
    problems, facts = mbpp(name, "all")
    assert Counter(problem.split for problem in problems) == sizes
    assert facts.problems == sum(sizes.values())
    for split, size in sizes.items():
        chosen, same_facts = mbpp(name, split)
        assert chosen == [problem for problem in problems if problem.split == split]
        assert len(chosen) == size
        assert same_facts == facts


@needs_mbpp
def test_normalising_mbpp_changes_972_programs_and_one_value() -> None:
    facts = mbpp(FULL, "all")[1]
    assert facts.programs_changed == 972
    assert facts.values_changed == ("MBPP/669",)


@needs_mbpp
def test_every_mbpp_program_but_one_means_the_same_after_normalising() -> None:
    with mbpp_path(FULL).open(encoding="utf-8") as file:
        raw = {f"MBPP/{row['task_id']}": row["code"] for row in map(json.loads, file)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes such as "\w"
        changed = [
            problem.problem_id
            for problem in mbpp(FULL, "all")[0]
            if ast.dump(ast.parse(problem.code)) != ast.dump(ast.parse(raw[problem.problem_id]))
        ]
    assert changed == ["MBPP/669"]


@needs_mbpp
@pytest.mark.parametrize("name", [FULL, SANITIZED])
def test_every_mbpp_problem_has_text_tests_and_its_own_number(name: str) -> None:
    problems = mbpp(name, "all")[0]
    assert len({problem.problem_id for problem in problems}) == len(problems)
    for problem in problems:
        number = int(problem.problem_id.removeprefix("MBPP/"))
        assert problem.split == mbpp_split(number)
        assert problem.text
        assert len(problem.tests) >= 3
        assert problem.body_offset is None
        assert normalise(problem.code) == problem.code


@needs_mbpp
def test_mbpp_has_eleven_challenge_sets_and_two_setups() -> None:
    problems = mbpp(FULL, "all")[0]
    assert sum(bool(problem.challenge_tests) for problem in problems) == 11
    with_setup = [problem.problem_id for problem in problems if problem.test_setup]
    assert with_setup == ["MBPP/367", "MBPP/927"]


@pytest.mark.parametrize(
    ("number", "split"),
    [
        (1, "prompt"),
        (10, "prompt"),
        (11, "test"),
        (510, "test"),
        (511, "validation"),
        (600, "validation"),
        (601, "train"),
        (974, "train"),
    ],
)
def test_the_split_follows_from_the_number(number: int, split: str) -> None:
    assert mbpp_split(number) == split


# HumanEval


def test_human_eval_has_164_problems_as_published() -> None:
    problems, facts = load_problems("humaneval", "test", quiet)
    assert [problem.problem_id for problem in problems] == [f"HumanEval/{n}" for n in range(164)]
    assert (facts.name, facts.source, facts.problems) == ("humaneval", "HumanEval.jsonl.gz", 164)
    assert (facts.normalisation, facts.programs_changed) == (AS_PUBLISHED, 0)
    assert facts.values_changed == ()


def test_human_eval_s_body_begins_on_a_line_of_its_own_where_its_solution_begins() -> None:
    for problem in load_problems("humaneval", "all", quiet)[0]:
        assert problem.body_offset is not None
        assert problem.code[problem.body_offset - 1] == "\n"
        assert problem.text is None
        assert len(problem.tests) == 1
        assert "\ncheck(" in problem.tests[0]
        assert problem.code.endswith("\n")


# A file in MBPP's schema


def test_a_row_becomes_a_problem(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", jsonl(ROW))
    problems, facts = loaded(path)
    assert problems == [
        Problem(
            problem_id="MBPP/11",
            split="test",
            text="Write a function that doubles a number.",
            code="def double(x):\n  return 2 * x\n",
            body_offset=None,
            tests=("assert double(1) == 2", "assert double(0) == 0"),
            challenge_tests=("assert double(-1) == -2",),
            test_setup="",
        )
    ]
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts.problems, facts.programs_changed, facts.values_changed) == (1, 1, ())


def test_a_sanitized_row_has_its_text_under_prompt_and_its_imports_before_the_setup(
    tmp_path: Path,
) -> None:
    row = {
        "source_file": "x",
        "task_id": 12,
        "prompt": " Say it. ",
        "code": "x = 1",
        "test_imports": ["import math", "import re"],
        "test_list": ["assert x"],
    }
    (problem,), _ = loaded(written(tmp_path / "p.json", json.dumps([row]).encode()))
    assert problem.text == "Say it."
    assert problem.test_setup == "import math\nimport re"
    assert problem.challenge_tests == ()


def test_a_task_id_that_is_a_string_is_the_problem_s_key_and_its_split_is_test(
    tmp_path: Path,
) -> None:
    (problem,), _ = loaded(written(tmp_path / "p.jsonl", jsonl(ROW | {"task_id": "Mine/a"})))
    assert (problem.problem_id, problem.split) == ("Mine/a", "test")


def test_a_split_in_the_row_stands_before_the_number_s(tmp_path: Path) -> None:
    rows = jsonl(ROW | {"split": "train"}, ROW | {"task_id": "Mine/a", "split": "prompt"})
    problems, _ = loaded(written(tmp_path / "p.jsonl", rows))
    assert [problem.split for problem in problems] == ["train", "prompt"]
    assert loaded(tmp_path / "p.jsonl", "prompt")[0] == problems[1:]


def test_a_problem_without_words_has_no_text(tmp_path: Path) -> None:
    (problem,), _ = loaded(written(tmp_path / "p.jsonl", jsonl(ROW | {"text": " \n"})))
    assert problem.text is None


def test_a_blank_in_a_long_string_s_line_end_is_recorded_as_a_changed_value(
    tmp_path: Path,
) -> None:
    rows = jsonl(
        ROW | {"task_id": "same", "code": "x = 1 \ny = 2 \n"},
        ROW | {"task_id": "other", "code": 'x = """a \nb"""\n'},
        ROW | {"task_id": "untouched", "code": 'x = """a\nb"""\n'},
    )
    facts = loaded(written(tmp_path / "p.jsonl", rows))[1]
    assert facts.programs_changed == 2
    assert facts.values_changed == ("other",)


def rows_of(number: int) -> list[dict[str, Any]]:
    return [ROW | {"task_id": n, "code": f"x = {n}\r\n", "text": f"é{n}"} for n in range(number)]


def test_the_same_rows_have_the_same_content_sha256_in_every_file_format(tmp_path: Path) -> None:
    rows = rows_of(5)
    lines = jsonl(*rows)
    paths = [
        written(tmp_path / "p.jsonl", lines),
        written(tmp_path / "no-newline-at-the-end.jsonl", lines.rstrip()),
        written(tmp_path / "blank-lines.jsonl", b"\n" + lines.replace(b"\n", b"\r\n\r\n")),
        written(tmp_path / "p.jsonl.gz", gzip.compress(lines)),
        written(tmp_path / "p.json", json.dumps(rows, indent=1).encode()),
        written(tmp_path / "p.json.gz", gzip.compress(json.dumps(rows).encode())),
        tmp_path / "p.parquet",
    ]
    pl.DataFrame(rows).write_parquet(paths[-1])
    first = loaded(paths[0])
    for path in paths:
        problems, facts = loaded(path)
        assert problems == first[0], path.name
        assert facts.content_sha256 == first[1].content_sha256, path.name
        assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@needs_mbpp
def test_mbpp_as_parquet_has_the_same_content_sha256(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in mbpp_path(FULL).read_bytes().splitlines()]
    pl.DataFrame(rows).write_parquet(tmp_path / "p.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes such as "\w"
        problems, facts = loaded(tmp_path / "p.parquet")
    assert problems == mbpp(FULL, "all")[0]
    assert facts.content_sha256 == mbpp(FULL, "all")[1].content_sha256


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda rows: rows[:-1], id="a row less"),
        pytest.param(lambda rows: rows[::-1], id="another order"),
        pytest.param(lambda rows: [*rows[:-1], rows[-1] | {"code": "x = 9"}], id="another program"),
        pytest.param(lambda rows: [*rows[:-1], rows[-1] | {"text": "no"}], id="another text"),
        pytest.param(lambda rows: [*rows[:-1], rows[-1] | {"test_list": []}], id="other tests"),
    ],
)
def test_other_content_has_another_content_sha256(
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], tmp_path: Path
) -> None:
    original = loaded(written(tmp_path / "a.jsonl", jsonl(*rows_of(3))))[1]
    changed = loaded(written(tmp_path / "b.jsonl", jsonl(*change(rows_of(3)))))[1]
    assert original.content_sha256 != changed.content_sha256


def test_a_program_with_an_invalid_escape_is_a_program_under_any_warning_filter(
    tmp_path: Path,
) -> None:
    # Python 3.11 says DeprecationWarning, from 3.12 on SyntaxWarning; 18 MBPP programs have one.
    path = written(tmp_path / "p.jsonl", jsonl(ROW | {"code": "x = '\\w'\n"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loaded(path)[0][0].code == "x = '\\w'\n"


# Files that will not do


SECOND = ROW | {"task_id": 12}


@pytest.mark.parametrize(
    ("name", "content", "place", "what"),
    [
        pytest.param(
            "p.jsonl",
            jsonl(ROW, SECOND)[:-40],
            "p.jsonl:2: ",
            "is not valid JSON (unexpected end of data",
            id="cut in the middle of a line",
        ),
        pytest.param(
            "p.json",
            json.dumps([ROW, SECOND]).encode()[:-40],
            "p.json: ",
            "the file may have been cut short: fetch it again",
            id="array cut short",
        ),
        pytest.param(
            "p.jsonl",
            jsonl(ROW, without("test_list") | {"task_id": 12}),
            "p.jsonl:2 (task 12): ",
            "no column 'test_list'",
            id="missing column",
        ),
        pytest.param(
            "p.jsonl",
            b"\n\n" + jsonl(without("code")),
            "p.jsonl:3 (task 11): ",
            "no column 'code'",
            id="blank lines count as lines",
        ),
        pytest.param(
            "p.jsonl",
            jsonl(without("task_id")),
            "p.jsonl:1: ",
            "no column 'task_id'",
            id="no task id to name",
        ),
        pytest.param(
            "p.jsonl",
            jsonl(without("text")),
            "p.jsonl:1 (task 11): ",
            "no column 'text'",
            id="neither text nor prompt",
        ),
        pytest.param(
            "p.jsonl",
            jsonl({"task_id": 1, "text": "t"}),
            "p.jsonl:1 (task 1): ",
            "no column 'code'; no column 'test_list'",
            id="two missing columns",
        ),
        pytest.param(
            "p.json",
            json.dumps([ROW, without("code")]).encode(),
            "p.json[1] (task 11): ",
            "no column 'code'",
            id="missing column in an array",
        ),
        pytest.param(
            "p.jsonl",
            jsonl(ROW | {"test_list": "assert double(1) == 2"}),
            "p.jsonl:1 (task 11): ",
            "column 'test_list': Input should be a valid list",
            id="a string for a list",
        ),
        pytest.param(
            "p.jsonl",
            jsonl(ROW | {"test_list": ["assert x", None]}),
            "p.jsonl:1 (task 11): ",
            "column 'test_list.1': Input should be a valid string",
            id="a null among the tests",
        ),
        pytest.param(
            "p.jsonl",
            jsonl(ROW | {"code": None}),
            "p.jsonl:1 (task 11): ",
            "column 'code': Input should be a valid string",
            id="null for a program",
        ),
        pytest.param(
            "p.jsonl",
            jsonl(ROW | {"task_id": 1.5}),
            "p.jsonl:1 (task 1.5): ",
            "Input should be a valid integer",
            id="a fraction for a number",
        ),
        pytest.param(
            "p.jsonl",
            jsonl(ROW | {"split": "dev"}),
            "p.jsonl:1 (task 11): ",
            "column 'split': Input should be 'prompt', 'test', 'validation' or 'train'",
            id="unknown split in a row",
        ),
        pytest.param(
            "p.jsonl", jsonl(ROW, [ROW]), "p.jsonl:2: ", "is no JSON object", id="not an object"
        ),
        pytest.param(
            "p.jsonl", jsonl(None), "p.jsonl:1: ", "is no JSON object", id="null for a row"
        ),
        pytest.param(
            "p.jsonl",
            jsonl(ROW, SECOND, ROW),
            "p.jsonl:3: ",
            "MBPP/11 stands already at ",
            id="duplicate task id",
        ),
        pytest.param(
            "p.jsonl",
            jsonl(ROW, SECOND | {"code": "def f(:\n"}),
            "p.jsonl:2 (task 12): ",
            "its program does not parse: invalid syntax",
            id="a program that does not parse",
        ),
        pytest.param(
            "p.jsonl",
            jsonl(ROW | {"code": "x = '\0'"}),
            "p.jsonl:1 (task 11): ",
            "its program does not parse: source code string cannot contain null bytes",
            id="a program with a NUL",
        ),
        pytest.param("p.jsonl", b"", "p.jsonl: ", "holds no problem", id="empty lines file"),
        pytest.param("p.jsonl", b"\n \n", "p.jsonl: ", "holds no problem", id="blank lines only"),
        pytest.param("p.json", b"[]", "p.json: ", "holds no problem", id="empty array"),
        pytest.param("p.json", b"", "p.json: ", "is not valid JSON", id="empty json file"),
        pytest.param(
            "p.json", b"{}", "p.json: ", "holds no JSON array of problems", id="object for an array"
        ),
        pytest.param(
            "p.csv", b"a,b\n", "p.csv: ", "ends in none of .jsonl, .json, .parquet", id="suffix"
        ),
        pytest.param(
            "p.jsonl.xz", b"", "p.jsonl.xz: ", "ends in none of .jsonl", id="unknown compression"
        ),
        pytest.param(
            "p.parquet", b"PAR1", "p.parquet: ", "is no readable parquet file", id="cut parquet"
        ),
        pytest.param(
            "p.jsonl.gz",
            gzip.compress(jsonl(ROW))[:-12],
            "p.jsonl.gz: ",
            "cut short",
            id="cut gzip",
        ),
        pytest.param("p.jsonl.gz", jsonl(ROW), "p.jsonl.gz: ", "gzip", id="no gzip at all"),
    ],
)
def test_a_bad_file_is_told_by_place_and_what_is_wrong(
    tmp_path: Path, name: str, content: bytes, place: str, what: str
) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(DatasetError) as refusal:
        loaded(path)
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path}/{place}")
    assert what in message


def test_a_duplicate_is_told_with_its_first_place(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", jsonl(ROW, SECOND, ROW))
    with pytest.raises(DatasetError) as refusal:
        loaded(path)
    assert str(refusal.value) == f"{path}:3: MBPP/11 stands already at {path}:1"


def test_a_bad_parquet_row_is_told_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pl.DataFrame([ROW, ROW | {"task_id": 12, "code": "def f(:"}]).write_parquet(path)
    with pytest.raises(DatasetError) as refusal:
        loaded(path)
    message = str(refusal.value)
    assert message.startswith(f"{path} row 1 (task 12): its program does not parse")


def test_a_file_that_is_not_there_is_told_with_what_else_could_be_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.jsonl"
    with pytest.raises(DatasetError) as refusal:
        loaded(path)
    assert str(refusal.value) == (
        f"{path}: cannot be read (No such file or directory); --problems takes a path or one of "
        "mbpp, mbpp-sanitized, humaneval, starter"
    )


def test_a_split_without_problems_is_told_with_how_many_there_are(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", jsonl(ROW, SECOND))
    with pytest.raises(DatasetError) as refusal:
        loaded(path, "train")
    assert str(refusal.value) == f"{path}: none of its 2 problems is in split train"


def test_an_unknown_split_is_told_with_those_there_are(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", jsonl(ROW))
    with pytest.raises(DatasetError) as refusal:
        loaded(path, "dev")
    assert str(refusal.value) == "--split dev: is none of prompt, test, validation, train, all"

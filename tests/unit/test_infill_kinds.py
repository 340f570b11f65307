"""Holes of several lines, random spans and blocks; the rules of a line are in `test_infill`."""

from __future__ import annotations

import ast
import time
from collections import Counter
from textwrap import dedent
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fim_eval.infill import tasks_of
from fim_eval.problems import load_problems
from fim_eval.records import InfillTask, Problem
from fim_eval.syntax import parse
from fim_eval.words import Kind
from tests.data_paths import FULL, SANITIZED, mbpp, needs_mbpp, quiet

KINDS: tuple[Kind, ...] = get_args(Kind)


def problem(code: str, name: str = "T/1", body_offset: int | None = None) -> Problem:
    return Problem(
        problem_id=name,
        split="test",
        text="Do it.",
        code=dedent(code),
        body_offset=body_offset,
        tests=(),
        challenge_tests=(),
        test_setup="",
    )


def blocks(code: str) -> list[tuple[str | None, str]]:
    """Part and middle of every block."""
    return [(task.part, task.middle) for task in tasks_of(problem(code), "block").tasks]


def all_tasks(problems: list[Problem], kind: Kind) -> list[InfillTask]:
    return [task for each in problems for task in tasks_of(each, kind).tasks]


@needs_mbpp
@pytest.mark.parametrize(
    ("name", "split", "count"),
    [
        (FULL, "test", 13_712),
        (FULL, "all", 25_576),
        (SANITIZED, "test", 5_471),
        (SANITIZED, "all", 8_663),
    ],
)
def test_mbpp_has_as_many_multi_line_holes_as_published(name: str, split: str, count: int) -> None:
    assert len(all_tasks(mbpp(name, split)[0], "multi-line")) == count


@needs_mbpp
@pytest.mark.parametrize(("split", "count"), [("test", 3_371), ("all", 6_516)])
def test_mbpp_has_as_many_blocks_as_the_readme_says(split: str, count: int) -> None:
    assert len(all_tasks(mbpp(FULL, split)[0], "block")) == count


@pytest.mark.parametrize(
    ("kind", "count"), [("single-line", 1_033), ("multi-line", 5_815), ("random-span", 1_640)]
)
def test_human_eval_has_as_many_holes_as_the_official_files(kind: Kind, count: int) -> None:
    assert len(all_tasks(load_problems("humaneval", "all", quiet)[0], kind)) == count


@needs_mbpp
@pytest.mark.parametrize("kind", KINDS)
def test_every_task_of_mbpp_is_a_hole_of_its_program_under_its_own_name(kind: Kind) -> None:
    problems = mbpp(FULL, "all")[0]
    code = {each.problem_id: each.code for each in problems}
    tasks = all_tasks(problems, kind)
    assert len({task.task_id for task in tasks}) == len(tasks)
    for task in tasks:
        assert task.prefix + task.middle + task.suffix == code[task.problem_id]


@needs_mbpp
def test_all_kinds_of_all_of_mbpp_take_less_than_5_s_of_one_core() -> None:
    problems = mbpp(FULL, "all")[0]
    start = time.process_time()
    for kind in KINDS:
        all_tasks(problems, kind)
    assert time.process_time() - start < 5


def test_a_span_of_lines_never_crosses_the_end_of_a_function() -> None:
    code = """\
        def f(x):
            a = x

            return a

        def g(x):
            return x
        """
    tasks = tasks_of(problem(code), "multi-line").tasks
    assert [(task.task_id, task.middle) for task in tasks] == [
        ("T/1/multi-line/L1-L1", "    a = x\n"),
        ("T/1/multi-line/L1-L3", "    a = x\n\n    return a\n"),
        ("T/1/multi-line/L3-L3", "    return a\n"),
        ("T/1/multi-line/L6-L6", "    return x\n"),
    ]


class TestRandomSpans:
    CODE = "def f(x):\n    a = x + 1\n    return a\n\n\ndef g(x):\n    return f(x)\n"

    def test_are_ten_distinct_ones_each_in_one_body(self) -> None:
        tasks = tasks_of(problem(self.CODE), "random-span").tasks
        spans = {(len(task.prefix), len(task.prefix) + len(task.middle)) for task in tasks}
        assert len(spans) == len(tasks) == 10
        first, second = range(10, 37), range(49, 65)
        for start, end in spans:
            assert any(
                start in body and end - 1 in range(start - 1, body.stop) for body in (first, second)
            )

    def test_do_not_depend_on_other_problems_or_on_their_order(self) -> None:
        problems = [problem(self.CODE, f"T/{number}") for number in range(5)]
        forwards = {task.task_id: task for task in all_tasks(problems, "random-span")}
        backwards = {task.task_id: task for task in all_tasks(problems[::-1], "random-span")}
        assert forwards == backwards
        places = {
            tuple(name.partition("/random-span/")[2] for name in forwards if f"/{n}/" in name)
            for n in range(5)
        }
        assert len(places) == 5

    def test_are_others_for_another_seed_and_as_many_as_asked(self) -> None:
        one = tasks_of(problem(self.CODE), "random-span", per_problem=3, seed=1).tasks
        other = tasks_of(problem(self.CODE), "random-span", per_problem=3, seed=2).tasks
        assert len(one) == len(other) == 3
        assert one != other

    def test_are_fewer_where_a_body_has_no_more(self) -> None:
        tasks = tasks_of(problem("def f():\n  x\n"), "random-span").tasks
        assert len(tasks) == 10
        tiny = problem("x", body_offset=0)
        assert {task.middle for task in tasks_of(tiny, "random-span").tasks} == {"", "x"}

    def test_none_where_there_is_no_body(self) -> None:
        assert tasks_of(problem("f = abs\n"), "random-span").tasks == []


class TestBlocks:
    def test_are_bodies_conditions_return_values_and_calls(self) -> None:
        code = """\
            def f(x):
                for i in range(x):
                    if i > 2:
                        x += g(i)
                    elif i:
                        x = 1
                    else:
                        x = 2
                while x:
                    x -= 1
                return x + 1
            """
        assert sorted(blocks(code), key=str) == sorted(
            [
                ("body", dedent(code).partition("\n")[2]),
                ("body", "        if i > 2:\n            x += g(i)\n        elif i:\n"
                 "            x = 1\n        else:\n            x = 2\n"),
                ("body", "            x += g(i)\n"),
                ("body", "            x = 1\n"),
                ("body", "            x = 2\n"),
                ("body", "        x -= 1\n"),
                ("condition", "i > 2"),
                ("condition", "i"),
                ("condition", "x"),
                ("return-value", "x + 1"),
                ("call", "range(x)"),
                ("call", "g(i)"),
            ],
            key=str,
        )  # fmt: skip

    def test_never_hold_a_comment_or_a_docstring(self) -> None:
        code = '''\
            def f(x):
                """Words."""
                if x:
                    # why
                    y = 1
                    # and more
                    z = 2  # at the end
                return x
            '''
        found = tasks_of(problem(code), "block")
        middles = [task.middle for task in found.tasks]
        assert not any("#" in middle or '"' in middle for middle in middles)
        assert found.excluded["holds a comment"] == 2

    def test_a_body_on_the_header_s_line_is_no_whole_line(self) -> None:
        assert ("body", "return 1") in blocks("def f(x):\n    if x: return 1\n    return 2\n")

    def test_a_semicolon_ends_its_line(self) -> None:
        assert ("body", "    a = 1;\n    return a;\n") in blocks(
            "def f():\n    a = 1;\n    return a;\n"
        )

    def test_what_two_parts_share_is_one_hole(self) -> None:
        found = tasks_of(problem("def f(x):\n    return g(x)\n"), "block")
        assert Counter(task.part for task in found.tasks) == {"body": 1, "return-value": 1}
        assert found.excluded == {"the same hole as another part's": 1}

    def test_characters_are_counted_and_not_bytes(self) -> None:
        assert ("call", "g('ü€')") in blocks("def f(x):\n    é = '→'; y = g('ü€')\n    return y\n")

    def test_f_strings_are_not_looked_into(self) -> None:
        assert [part for part, _ in blocks('def f(x):\n    y = f"{g(x)}"\n    return 1\n')] == [
            "body", "return-value",
        ]  # fmt: skip

    def test_decorated_functions_and_methods_have_theirs(self) -> None:
        code = """\
            class A:
                def m(self):
                    @cached
                    def inner():
                        return 1
                    return inner
            """
        assert (
            "body",
            "        @cached\n        def inner():\n            return 1\n        return inner\n",
        ) in blocks(code)

    def test_a_return_value_in_brackets_keeps_its_brackets_outside(self) -> None:
        assert ("return-value", "x +\n        1") in blocks(
            "def f(x):\n    return (x +\n        1)\n"
        )


@needs_mbpp
def test_expressions_among_mbpp_s_blocks_are_expressions_and_bodies_are_statements() -> None:
    for task in all_tasks(mbpp(FULL, "test")[0], "block"):
        if task.part == "body":
            whole = task.middle.endswith("\n") and task.middle[0].isspace()
            parse(f"if 1:\n{task.middle}" if whole else f"if 1: {task.middle}")
        else:
            [statement] = parse(f"({task.middle})").body
            assert isinstance(statement, ast.Expr)


@given(per_problem=st.integers(1, 40), seed=st.integers(0, 5))
@pytest.mark.parametrize("kind", ["single-line", "multi-line", "block"])
def test_a_sample_is_a_part_of_all_in_their_order(kind: Kind, per_problem: int, seed: int) -> None:
    made = problem(
        "def f(x):\n    a = g(x)\n    b = g(a)\n    if a > b:\n        return h(a)\n    return b\n"
    )
    everything = tasks_of(made, kind).tasks
    sample = tasks_of(made, kind, per_problem=per_problem, seed=seed).tasks
    assert len(sample) == min(per_problem, len(everything))
    chosen = iter(everything)
    assert all(task in chosen for task in sample)
    assert sample == tasks_of(made, kind, per_problem=per_problem, seed=seed).tasks

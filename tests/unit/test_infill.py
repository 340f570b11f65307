from __future__ import annotations

import ast
import gzip
import json
import warnings
from dataclasses import dataclass
from functools import cache
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fim_eval.infill import bodies as bodies_of
from fim_eval.infill import tasks_of
from fim_eval.problems import load_problems, normalise
from fim_eval.records import InfillTask, Problem
from tests.data_paths import (
    FULL,
    SANITIZED,
    infilling_path,
    mbpp,
    mbpp_tasks,
    needs_infilling,
    needs_mbpp,
    quiet,
)


def problem(code: str, body_offset: int | None = None) -> Problem:
    return Problem(
        problem_id="T/1",
        split="test",
        text="Do it.",
        code=code,
        body_offset=body_offset,
        tests=(),
        challenge_tests=(),
        test_setup="",
    )


def holes(code: str, body_offset: int | None = None) -> list[str]:
    """The middles of a program's tasks, without the newline that each ends with."""
    tasks = tasks_of(problem(code, body_offset), "single-line").tasks
    assert_each_task_is_one_line_of(code, tasks)
    return [task.middle[:-1] for task in tasks]


def assert_each_task_is_one_line_of(code: str, tasks: list[InfillTask]) -> None:
    for task in tasks:
        assert task.prefix + task.middle + task.suffix == code
        assert task.prefix == "" or task.prefix.endswith("\n")
        assert task.middle.endswith("\n")
        assert task.middle.count("\n") == 1
        assert task.middle.strip()
    assert len({task.task_id for task in tasks}) == len(tasks)
    starts = [len(task.prefix) for task in tasks]
    assert starts == sorted(set(starts))


# MBPP and the official files


@needs_mbpp
@pytest.mark.parametrize(
    ("name", "split", "count"),
    [
        (FULL, "test", 2_757),
        (FULL, "all", 5_261),
        (SANITIZED, "test", 1_234),
        (SANITIZED, "all", 1_959),
    ],
)
def test_mbpp_has_as_many_single_line_holes_as_published(name: str, split: str, count: int) -> None:
    assert len(mbpp_tasks(name, split)) == count


@needs_mbpp
@pytest.mark.parametrize("name", [FULL, SANITIZED])
def test_every_mbpp_task_is_one_line_of_its_program(name: str) -> None:
    tasks = mbpp_tasks(name, "all")
    assert len({task.task_id for task in tasks}) == len(tasks)
    for found in mbpp(name, "all")[0]:
        own = [task for task in tasks if task.problem_id == found.problem_id]
        assert own, f"{found.problem_id} has no hole"
        assert_each_task_is_one_line_of(found.code, own)
        assert {task.context for task in own} == {found.text}


@cache
def official() -> list[dict[str, Any]]:
    with gzip.open(infilling_path(), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@cache
def human_eval() -> tuple[list[Problem], list[InfillTask]]:
    problems, _ = load_problems("humaneval", "all", quiet)
    return problems, [task for found in problems for task in tasks_of(found, "single-line").tasks]


@needs_infilling
def test_the_official_tasks_come_out_in_their_order_under_their_names() -> None:
    names = [task.task_id.replace("/single-line/", "/") for task in human_eval()[1]]
    assert [f"SingleLineInfilling/{name}" for name in names] == [
        row["task_id"] for row in official()
    ]
    assert len(names) == 1_033


@needs_infilling
def test_the_official_middles_and_suffixes_come_out_exactly() -> None:
    for row, task in zip(official(), human_eval()[1], strict=True):
        assert task.middle == row["canonical_solution"], task.task_id
        assert task.suffix == row["suffix"], task.task_id


@needs_infilling
def test_the_official_prefixes_come_out_but_for_a_blank_line_that_every_l0_task_has() -> None:
    r"""The official rule is `prompt + "\n".join(body[:k]) + "\n"`: for k = 0 one newline too many.

    160 of the 164 problems have an L0 task; the body of HumanEval/81, 92, 134 and 146 begins with
    a blank line, so that their first task is L1 or L2. Our prefixes leave the extra line out: they
    are what stands in the program.
    """
    extra = 0
    for row, task in zip(official(), human_eval()[1], strict=True):
        is_first_line = task.task_id.endswith("/L0")
        assert row["prompt"] == task.prefix + ("\n" if is_first_line else ""), task.task_id
        extra += is_first_line
    assert extra == 160


def test_every_human_eval_task_is_one_line_of_its_program() -> None:
    problems, tasks = human_eval()
    for found in problems:
        own = [task for task in tasks if task.problem_id == found.problem_id]
        assert_each_task_is_one_line_of(found.code, own)
        assert {task.context for task in own} == {None}


# Which lines are holes


def test_the_task_says_where_its_hole_is_and_what_is_around_it() -> None:
    code = "import re\n\ndef f(x):\n    y = x\n\n    return y\n\nprint(f(1))\n"
    first, second = tasks_of(problem(code), "single-line").tasks
    assert first.task_id == "T/1/single-line/L3"
    assert second == InfillTask(
        task_id="T/1/single-line/L5",
        problem_id="T/1",
        kind="single-line",
        context="Do it.",
        prefix="import re\n\ndef f(x):\n    y = x\n\n",
        middle="    return y\n",
        suffix="\nprint(f(1))\n",
    )


def test_a_comment_line_is_a_hole() -> None:
    code = """\
    def f(x):
        # at the start
        y = x
        # in between
        return y
    """
    assert holes(dedent(code)) == [
        "    # at the start",
        "    y = x",
        "    # in between",
        "    return y",
    ]


def test_a_comment_after_the_last_statement_belongs_to_no_function() -> None:
    code = """\
    def f(x):
        return x
        # the end

    # of the file
    """
    assert holes(dedent(code)) == ["    return x"]


def test_a_comment_after_a_nested_function_belongs_to_the_outer_body() -> None:
    code = """\
    def f(x):
        def g(y):
            return y
            # of the inner function
        # of the outer function
        return g(x)
    """
    assert holes(dedent(code)) == [
        "    def g(y):",
        "        return y",
        "        # of the inner function",
        "    # of the outer function",
        "    return g(x)",
    ]


def test_a_comment_at_the_end_of_a_line_changes_nothing() -> None:
    code = "def f(x):  # a header: with a colon\n    return x  # done\n"
    assert holes(code) == ["    return x  # done"]


def test_a_blank_line_is_no_hole() -> None:
    code = "def f(x):\n\n    y = x\n   \n\t\n\f\n    return y\n"
    assert holes(code) == ["    y = x", "    return y"]


def test_a_docstring_is_no_hole() -> None:
    code = '''\
    def f(x):
        """One line."""
        return x


    def g(x):
        """Several

        lines.
        """

        return x
    '''
    assert holes(dedent(code)) == ["    return x", "    return x"]


def test_a_comment_before_the_docstring_is_no_hole() -> None:
    code = '''\
    def f(x):
        # first
        """Then the docstring."""
        # last
        return x
    '''
    assert holes(dedent(code)) == ["    # last", "    return x"]


def test_an_empty_docstring_is_a_docstring() -> None:
    assert holes('def f(x):\n    """"""\n    return x\n') == ["    return x"]


def test_a_docstring_of_several_literals_is_left_out_whole() -> None:
    code = "def f(x):\n    'one ' \\\n    'two'\n    return x\n"
    assert holes(code) == ["    return x"]


def test_a_function_of_nothing_but_a_docstring_has_no_hole() -> None:
    assert holes('def f(x):\n    """Nothing."""\n') == []


@pytest.mark.parametrize("literal", ["f'{x}'", "b'x'", "1", "..."])
def test_a_literal_that_is_no_docstring_is_a_hole(literal: str) -> None:
    assert holes(f"def f(x):\n    {literal}\n    return x\n") == [f"    {literal}", "    return x"]


def test_a_nested_function_belongs_to_the_body_around_it_header_and_docstring_included() -> None:
    code = '''\
    def f(x):
        """Outer."""

        @cache
        def g(y):
            """Inner."""
            return y

        return g(x)
    '''
    assert holes(dedent(code)) == [
        "    @cache",
        "    def g(y):",
        '        """Inner."""',
        "        return y",
        "    return g(x)",
    ]


def test_a_class_inside_a_function_belongs_to_the_body_around_it() -> None:
    code = """\
    def f(x):
        class C:
            y = 1

        return C
    """
    assert holes(dedent(code)) == ["    class C:", "        y = 1", "    return C"]


def test_a_method_has_holes_and_the_rest_of_its_class_has_none() -> None:
    code = '''\
    class C:
        """Of the class."""

        limit = 3

        def f(self):
            return self.limit

        async def g(self):
            """Of the method."""
            return 2
    '''
    assert holes(dedent(code)) == ["        return self.limit", "        return 2"]


def test_a_class_inside_a_class_has_no_hole() -> None:
    code = """\
    class C:
        class D:
            def f(self):
                return 1

        def g(self):
            return 2
    """
    assert holes(dedent(code)) == ["        return 2"]


def test_an_async_function_is_a_function() -> None:
    assert holes("async def f(x):\n    return await x\n") == ["    return await x"]


def test_a_decorator_is_no_hole() -> None:
    code = """\
    @cache
    @retry(
        times=3,
    )
    # of a kind
    def f(x):
        return x
    """
    assert holes(dedent(code)) == ["    return x"]


@pytest.mark.parametrize(
    "body", ["return x", "y = x; return y", "return (\n    x\n)", "'doc'", "return x  # at once"]
)
def test_a_body_on_the_header_s_line_has_no_hole(body: str) -> None:
    assert holes(f"def f(x): {body}\n\nprint(f(1))\n") == []


def test_a_header_over_several_lines_is_no_hole() -> None:
    code = """\
    def f(
        x,  # the first: one
        y="):",
        *,
        z=lambda: {
            1: 2,
        },
    ) -> dict[
        str, int
    ]:
        # then
        return x
    """
    assert holes(dedent(code)) == ["    # then", "    return x"]


def test_a_header_continued_with_a_backslash_is_no_hole() -> None:
    assert holes("def f(x, \\\n      y) \\\n        -> int:\n    return x\n") == ["    return x"]


def test_each_line_of_a_statement_over_several_lines_is_a_hole() -> None:
    code = """\
    def f(x):
        return [
            x,

            x,
        ]
    """
    assert holes(dedent(code)) == ["    return [", "        x,", "        x,", "    ]"]


def test_each_line_of_text_in_a_long_string_is_a_hole() -> None:
    code = '''\
    def f(x):
        y = """one

    two
    def g(z):
        """
        return y
    '''
    assert holes(dedent(code)) == [
        '    y = """one',
        "two",
        "def g(z):",
        '    """',
        "    return y",
    ]


@pytest.mark.parametrize("separator", ["\f", "\v", "\x1c", "\x85", "\u2028", "\u2029"], ids=ascii)
def test_only_a_newline_ends_a_line(separator: str) -> None:
    code = f"s = 'a{separator}b'\ndef f(x):\n    y = 'a{separator}b'\n    return y\n"
    assert holes(code) == [f"    y = 'a{separator}b'", "    return y"]
    assert [task.task_id for task in tasks_of(problem(code), "single-line").tasks] == [
        "T/1/single-line/L2",
        "T/1/single-line/L3",
    ]


def test_a_form_feed_between_functions_changes_nothing() -> None:
    code = "def f(x):\n    return x\n\f\ndef g(x):\n\f\n    return x\n\fdef h(x):\n    return 2\n"
    assert holes(code) == ["    return x", "    return x", "    return 2"]


def test_tabs_stay_as_they_are() -> None:
    assert holes("def f(x):\n\tif x:\n\t\treturn 1\n") == ["\tif x:", "\t\treturn 1"]


@pytest.mark.parametrize(
    "around", ["if True:", "try:", "with x:", "for i in x:", "while x:"], ids=lambda text: text
)
def test_a_function_inside_another_statement_has_no_hole(around: str) -> None:
    after = "except E:\n    pass\n" if around == "try:" else ""
    inside = f"{around}\n    def f(x):\n        return x\n{after}"
    assert holes(inside + "\ndef g(x):\n    return 2\n") == ["    return 2"]


def test_a_program_without_functions_has_no_hole() -> None:
    assert holes("x = 1\nf = lambda y: (\n    y\n)\nprint(f(x))\n") == []


def test_an_empty_program_has_no_hole() -> None:
    assert holes("\n") == []


def test_of_two_functions_under_one_name_each_has_its_holes() -> None:
    assert holes("def f(x):\n    return 1\ndef f(x):\n    return 2\n") == [
        "    return 1",
        "    return 2",
    ]


def test_a_program_with_an_invalid_escape_is_cut_under_any_warning_filter() -> None:
    # Python 3.11 says DeprecationWarning, from 3.12 on SyntaxWarning; 18 MBPP programs have one.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert holes("def f(x):\n    return '\\w'\n") == ["    return '\\w'"]


def test_bodies_count_the_blank_lines() -> None:
    assert bodies_of("def f(x):\n\n    y = x\n\n    return y\n\nprint(1)\n") == [[1, 2, 3, 4]]


def test_where_the_data_set_says_which_part_is_the_body_no_syntax_is_asked() -> None:
    prompt = 'def f(x):\n    """Say: """\n'
    body = "\n    # first\n    return x  (\n\n    # last\n"
    assert holes(prompt + body, len(prompt)) == ["    # first", "    return x  (", "    # last"]


def test_lines_are_counted_from_where_the_data_set_s_own_solution_begins() -> None:
    prompt = "import re\n\ndef f(x):\n"
    found = problem(prompt + "\n    y = x\n    return y\n", len(prompt))
    tasks = tasks_of(found, "single-line").tasks
    assert [task.task_id for task in tasks] == ["T/1/single-line/L1", "T/1/single-line/L2"]


# Programs that know their own holes


@dataclass(frozen=True)
class Line:
    """A line of a generated program, and whether it is a hole."""

    text: str
    hole: bool = False


word = st.sampled_from(["x", "y", "é", "f(x)", "'a\u2028b'", "[1, 2]"])
blank = st.sampled_from(["", "  ", "\f", "\t"]).map(lambda text: [Line(text)])
comment = st.text(alphabet="ab :#'\"\f\u2028é", max_size=8)


@st.composite
def statements(draw: st.DrawFn, indent: str, depth: int) -> list[Line]:
    """One statement of a body: every line of it that is not blank is a hole."""
    kind = draw(st.sampled_from(["plain", "long", "string", "if", "def", "class"]))
    value = draw(word)
    match kind:
        case "long":
            texts = [f"{indent}z = [", f"{indent}  {value},", "", f"{indent}]"]
        case "string":
            texts = [f'{indent}z = """', "def g(x):", "", f'  """ # {value}']
        case "if" | "def" | "class" if depth:
            header = {"if": f"if {value}:", "def": "def g(x):", "class": "class D:"}[kind]
            inner = draw(bodies(indent + "    ", depth - 1))
            return [Line(indent + header, hole=True), *inner]
        case _:
            texts = [f"{indent}z = {value}"]
    return [Line(text, hole=bool(text.strip())) for text in texts]


@st.composite
def bodies(draw: st.DrawFn, indent: str, depth: int) -> list[Line]:
    """Statements with comments and blank lines before each; ends with a statement."""
    notes = comment.map(lambda text: [Line(f"{indent}# {text}", hole=True)])
    lines: list[Line] = []
    for _ in range(draw(st.integers(1, 3))):
        for group in draw(st.lists(blank | notes, max_size=2)):
            lines += group
        lines += draw(statements(indent, depth))
    return lines


@st.composite
def functions(draw: st.DrawFn, indent: str = "") -> list[Line]:
    """Decorators, header and docstring, none of them a hole, and a body."""
    lines = draw(st.sampled_from([[], [f"{indent}@cache"], [f"{indent}@retry(", "  3)"]]))
    keyword = draw(st.sampled_from(["def", "async def"]))
    header = draw(
        st.sampled_from([["f(x):"], ["f(x):  # is: it"], ["f(", "  x='):',", ") -> int:"]])
    )
    lines = [*lines, f"{indent}{keyword} {header[0]}", *header[1:]]
    inner = indent + draw(st.sampled_from(["    ", "\t", " "]))
    lines += draw(st.sampled_from([[], [f'{inner}"""Doc."""'], [f"{inner}'''Doc", "", "  '''"]]))
    return [*map(Line, lines), *draw(bodies(inner, 2))]


@st.composite
def classes(draw: st.DrawFn) -> list[Line]:
    lines = [Line("class C:"), Line("    y = 1")]
    for method in draw(st.lists(functions("    "), max_size=2)):
        lines += method
    return lines


def outside(text: str) -> st.SearchStrategy[list[Line]]:
    return st.just([Line(line) for line in text.split("\n")])


programs = st.lists(
    functions()
    | classes()
    | blank
    | outside("x = 1")
    | outside("# alone")
    | outside("if x:\n    def f(x):\n        return 1")
    | outside("def f(x): return x"),
    max_size=4,
).map(lambda parts: [line for part in parts for line in part])


@given(programs)
def test_a_program_has_exactly_the_holes_it_was_made_with(lines: list[Line]) -> None:
    code = "".join(line.text + "\n" for line in lines)
    ast.parse(code)
    expected = {f"L{number}": line.text for number, line in enumerate(lines) if line.hole}
    tasks = tasks_of(problem(code), "single-line").tasks
    assert_each_task_is_one_line_of(code, tasks)
    found = {task.task_id.rpartition("/")[2]: task.middle[:-1] for task in tasks}
    assert found == expected


@given(programs)
def test_normalising_a_program_moves_no_hole_to_other_code(lines: list[Line]) -> None:
    code = "".join(line.text + "\r\n" for line in lines)
    expected = [line.text.rstrip() for line in lines if line.hole]
    assert holes(normalise(code)) == expected


@given(st.text(alphabet="a \t\f\u2028\n"), st.text(alphabet="a \t\f\u2028\n"))
def test_any_text_with_a_given_body_is_cut_at_its_newlines(before: str, body: str) -> None:
    prompt = before + "\n"
    tasks = tasks_of(problem(prompt + body + "\n", len(prompt)), "single-line").tasks
    assert_each_task_is_one_line_of(prompt + body + "\n", tasks)
    assert {int(task.task_id.rpartition("/L")[2]): task.middle[:-1] for task in tasks} == {
        number: line for number, line in enumerate(body.split("\n")) if line.strip()
    }

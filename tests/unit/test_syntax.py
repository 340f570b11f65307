"""The longest beginning that parses, against the definition: every one is tried."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fim_eval import syntax
from fim_eval.syntax import longest_parsing, parse, parses


def simply(before: str, filling: str, ends: Sequence[int], after: str) -> int | None:
    for end in ends:
        try:
            parse(before + filling[:end] + after)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return end
    return None


def line_ends(text: str) -> list[int]:
    return [0, *(place + 1 for place, mark in enumerate(text) if mark == "\n")][::-1]


Lines = list[str]

simple = st.sampled_from(
    [
        ["x"], ["pass"], ["x = (", "1,", "  )"], ["x = '''", "else:", "'''"], ["x = 1 \\", "  + 1"],
        ["\\", "x = 1"], ["# c"], [""], ["  \f"], ["\fx"], ["x = f'{y}'"], ["x = f'{d[\"a\"]}'"],
        ["x = f'''{", "y}'''"], ["x; y"], ["if x: y"], ["try: x", "finally: y"], ["x\ry"],
        ["x = '''\r'''"], ["x = 'a\\", "b'"], ["else_ = 1"], ["  # c"], ["\r"],
    ]
)  # fmt: skip


def flat(parts: Iterable[Lines]) -> Lines:
    return [line for part in parts for line in part]


def indented(lines: Lines, by: str) -> Lines:
    return [by + line for line in lines]


def block(statements: st.SearchStrategy[Lines]) -> st.SearchStrategy[Lines]:
    bodies = st.lists(statements, min_size=1, max_size=3).map(flat)
    return st.builds(indented, bodies, st.sampled_from([" ", "    ", "\t", "  \\\n", " \f "]))


def compound(statements: st.SearchStrategy[Lines]) -> st.SearchStrategy[Lines]:
    inner = block(statements)

    def clauses(head: str, most: int, least: int = 0) -> st.SearchStrategy[Lines]:
        whole = inner.map(lambda body: [head, *body]) | st.just([head + " x"])
        return st.lists(whole, min_size=least, max_size=most).map(flat)

    def joined(*parts: st.SearchStrategy[Lines]) -> st.SearchStrategy[Lines]:
        return st.tuples(*parts).map(flat)

    return st.one_of(
        joined(clauses("if x:", 1, 1), clauses("elif x:", 4), clauses("else:", 1)),
        joined(
            clauses("try:", 1, 1), clauses("except E:", 4, 1), clauses("else:", 1),
            clauses("finally:", 1),
        ),
        joined(clauses("try:", 1, 1), clauses("except* E:", 3, 1)),
        joined(clauses("while x:", 1, 1), clauses("else:", 1)),
        joined(st.sampled_from([["@d"], ["@d", "@e"], []]), clauses("def f():", 1, 1)),
        clauses("case 1:", 3, 1).map(lambda cases: ["match x:", *indented(cases, "  ")]),
    )  # fmt: skip


statements = st.recursive(simple, compound, max_leaves=12)
odd_lines = st.sampled_from(
    [
        "else:", "elif x:", "except E:", "finally:", "case 1:", "    y", "  x", "x y", "'''", "(",
        ")", "\\", "\0", "\r", "x = 'it", "@d", "try:", "if x:", "f'{", "\t\tx", " \fx", "x = 1 +",
    ]
)  # fmt: skip


@st.composite
def nearly_programs(draw: st.DrawFn) -> str:
    lines = flat(draw(st.lists(statements, min_size=1, max_size=4)))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(lines)))
        match draw(st.sampled_from(["drop", "repeat", "put", "move"])):
            case "drop":
                del lines[place : place + 1]
            case "repeat":
                lines[place:place] = lines[place : place + draw(st.integers(1, 3))]
            case "put":
                lines.insert(place, draw(odd_lines))
            case "move":
                lines[place : place + 1] = [" " + line for line in lines[place : place + 1]]
    breaks = st.sampled_from(["\n"] * 8 + ["\r\n"])
    return "".join(line + draw(breaks) for line in lines)


@pytest.mark.parametrize("nested_quotes", [False, True])
@settings(max_examples=100, deadline=None)
@given(
    program=nearly_programs(),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    suffix=st.none()
    | st.sampled_from(
        ["", "x y\n", "  x\n", "else:\n  y\n", "\n  x\n", "\n", "\r\nx\r", "'''", "\0"]
    ),
    tokens=st.booleans(),
)
@example(
    program="try:\n x\nexcept E:\n x\nelse:\n x\nfinally:\n x\n",
    cuts=[0, 1],
    suffix="x\n",
    tokens=False,
)
@example(program="if x:\n\ty\n", cuts=[0, 1], suffix="        z\n", tokens=False)
@example(program="@d\n" * 3, cuts=[0, 1], suffix="x\n", tokens=False)
@example(program="x = 1 + \\\r\n", cuts=[0, 1], suffix="\nx\n", tokens=True)
def test_it_finds_what_trying_every_end_finds(
    nested_quotes: bool, program: str, cuts: list[float], suffix: str | None, tokens: bool
) -> None:
    start, stop = (round(len(program) * cut) for cut in cuts)
    filling = program[start:stop]
    after = program[stop:] if suffix is None else suffix
    ends = list(range(len(filling), -1, -1)) if tokens else line_ends(filling)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(syntax, "_PLAIN_TRIES", 0)
        if nested_quotes:
            patch.setattr(syntax, "_FIELDS_HOLD_ANYTHING", True)
        found = longest_parsing(program[:start], filling, ends, after)
    assert found == simply(program[:start], filling, ends, after)


@pytest.mark.parametrize(
    ("head", "unit"),
    [
        pytest.param("", "x = 1\n", id="statements"),
        pytest.param("if x: y\n", "elif x: y\n", id="elif"),
        pytest.param("if x:\n  y\n", "elif x:\n  y\n", id="elif of two lines"),
        pytest.param("try: y\n", "except E:\n  y\n", id="except"),
        pytest.param("match x:\n", "  case 1:\n    y\n", id="case"),
        pytest.param("", "try:\n  y\nexcept E:\n  y\nelse:\n  y\nfinally:\n  y\n", id="try"),
        pytest.param("if x:\n  '''" + "x\n" * 500 + "'''\nelse:\n", "  y\n", id="a long block"),
        pytest.param("", "@d\n", id="decorators"),
        pytest.param("\r", "x = 1\n", id="a carriage return"),
        pytest.param("", "x = 1\r\n", id="carriage returns"),
        pytest.param("", "\fx = 1\n", id="form feeds"),
        pytest.param("\\\n", "x = 1\n", id="a backslash first"),
        pytest.param("x = 'it\n", "x = 1\n", id="a string without end"),
        pytest.param("if x: y\n" + "elif x: y\n" * 1000, "if x:\n  y\n", id="deeply nested"),
    ],
)
@pytest.mark.parametrize("nul", [False, True])
@pytest.mark.parametrize("suffix", ["x y\n", "  x\n   y\n", "else:\n  z\n\r"])
def test_what_is_read_grows_with_the_answer_not_with_its_square(
    head: str, unit: str, suffix: str, nul: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    parse, after = syntax.parse, syntax._after

    def counted_parse(code: str) -> ast.Module:
        nonlocal read
        read += len(code)
        return parse(code)

    def counted_after(text: str, state: syntax._State) -> syntax._State | None:
        nonlocal read
        read += len(text)
        return after(text, state)

    monkeypatch.setattr(syntax, "parse", counted_parse)
    monkeypatch.setattr(syntax, "_after", counted_after)
    costs = []
    for lines in (200, 400):
        read = 0
        parses.cache_clear()
        filling = head + unit * (lines // unit.count("\n")) + "\0\n" * nul
        longest_parsing("", filling, line_ends(filling), suffix)
        costs.append(read)
    # Trying every end would read more than three times as much for each of the second 200 lines.
    assert costs[1] - costs[0] < 200 * 400

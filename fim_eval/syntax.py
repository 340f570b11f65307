"""Programs as Python reads them. Knows no hole and no test."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from bisect import bisect_right
from codeop import PyCF_ALLOW_INCOMPLETE_INPUT  # type: ignore[attr-defined]  # not in typeshed
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple


def parse(code: str) -> ast.Module:
    r"""The program's syntax tree, in silence: MBPP holds escapes such as `'\w'`, which warn.

    Raises:
        SyntaxError: it is no program; ValueError: it holds a NUL.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)


@lru_cache(maxsize=256)
def parses(code: str) -> bool:
    r"""Whether Python reads the text as a program.

    Remembers the last ones: right answers to the holes of one problem are all one program.

    >>> parses("x = 1"), parses("x ="), parses("\0")
    (True, False, False)
    """
    try:
        parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def same_program(one: str, other: str) -> bool:
    r"""Whether two texts are one program: they differ in blank lines and blanks at most.

    >>> same_program("x = 1\n\ny = 2\n", "x = 1\ny = 2\n")
    True
    >>> same_program("x = 1", "x = 1.0"), same_program("f(1)", "f(1, 2)")
    (False, False)
    """
    if one == other:
        return True
    try:
        return _alike(parse(one), parse(other))
    except (SyntaxError, ValueError):
        return False


def _alike(one: object, other: object) -> bool:
    """Whether two parts of syntax trees are equal but for where they stand."""
    if type(one) is not type(other):
        return False
    if isinstance(one, ast.AST):
        return all(
            _alike(getattr(one, field, None), getattr(other, field, None)) for field in one._fields
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other


def longest_parsing(before: str, filling: str, ends: Sequence[int], after: str) -> int | None:
    """The first of `ends` for which `before + filling[:end] + after` parses; None: of none.

    As if each were tried, but not each is parsed whole: past an error that no continuation
    repairs nothing is tried, and of what comes before an end only the statements that are still
    open are read again. What is found has been parsed whole.

    Args:
        before: of the program.
        filling: of its hole.
        ends: places in `filling`, falling.
        after: the rest of the program.
    """
    # Most answers need few tries, and then looking ahead costs more than it spares.
    for end in ends[:_PLAIN_TRIES]:
        if parses(before + filling[:end] + after):
            return end
    rest = ends[_PLAIN_TRIES:]
    if "\0" in before + after:
        return None
    if (nul := filling.find("\0")) >= 0:
        rest = [end for end in rest if end <= nul]
    if not rest:
        return None
    text, places, suffix = _as_tokenized(
        before + filling, [len(before) + end for end in rest], after
    )
    hopeless = _hopeless(text, places)
    outline = _Outline(text, suffix)
    for end, place in zip(rest[hopeless:], places[hopeless:], strict=True):
        reduced = outline.reduced(place)
        if reduced is not None and parses(reduced) and parses(before + filling[:end] + after):
            return end
    return None


_PLAIN_TRIES = 8


def _as_tokenized(text: str, places: Sequence[int], after: str) -> tuple[str, list[int], str]:
    r"""The same with the line breaks that Python's tokenizer makes of `\r\n` and `\r`.

    Args:
        text: of a program.
        places: where it may be cut.
        after: what comes after the cut.

    >>> _as_tokenized("a\r\nb\rc", [6, 5, 3, 2], "\nd\r")
    ('a\nb\nc', [5, 3, 2, 1], '\nd\n')
    """
    if "\r" not in text and "\r" not in after:
        return text, list(places), after
    pairs = [found.end() for found in re.finditer("\r\n", text)]
    # Cut after a carriage return, what follows may begin with the other half of a line break.
    joined = after.startswith("\n")
    return (
        _newlines(text),
        [
            place - bisect_right(pairs, place) - (joined and text[place - 1 : place] == "\r")
            for place in places
        ],
        _newlines(after),
    )


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _hopeless(text: str, places: Sequence[int]) -> int:
    """How many of the places, which fall, are beyond an error that no continuation repairs.

    A parser that reads from left to right, and has failed before it saw the end, fails in the same
    way whatever follows.
    """
    whole_lines = [
        nth for nth, place in enumerate(places) if place and text[place - 1] == "\n"
    ]  # within a line the last word may go on
    # From the longest to the shortest: hopeless up to some place, then not.
    low, high = 0, len(whole_lines)
    while low < high:
        middle = (low + high) // 2
        # That a program nests too deep is only told of one that is complete: a few lines less may
        # be, and what is beyond repair stays so.
        near = whole_lines[middle : middle + _NEAR]
        if all(_may_go_on(text[: places[nth]]) for nth in near):
            high = middle
        else:
            low = middle + 1
    return whole_lines[low - 1] + 1 if low else 0


_NEAR = 3


def _may_go_on(code: str) -> bool:
    """Whether the parser has nothing against the text, or nothing but that it ends there."""
    flags = ast.PyCF_ONLY_AST | PyCF_ALLOW_INCOMPLETE_INPUT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<answer>", "exec", flags, dont_inherit=True)
    except SyntaxError as error:
        return "incomplete input" in str(error.msg)
    except (ValueError, RecursionError, MemoryError):
        # What nests too deep does so with more behind it.
        return False
    return True


class _State(NamedTuple):
    """Between two characters of a program, what holds a statement open."""

    brackets: str
    """Those that are open."""

    quote: str
    """Of the string that is open; empty if none is."""

    continued: bool
    """After a backslash that ends a line."""


_PIECE = re.compile(
    r"""
    (?P<prefix>[A-Za-z]{0,2})(?P<quote>'''|\"\"\"|'|\")
  | (?P<open>[(\[{])
  | (?P<close>[)\]}])
  | (?P<continued>\\\n)
  | \#[^\n]* | \w+ | [^\S\n]+ | .
    """,
    re.VERBOSE | re.DOTALL,
)
_TO_END = {quote: re.compile(rf"(?:[^\\]|\\.)*?{quote}", re.DOTALL) for quote in ("'''", '"""')} | {
    quote: re.compile(rf"(?:[^\\\n{quote}]|\\.)*{quote}", re.DOTALL) for quote in "'\""
}
_FIELD = r"""\{[^{}'"#\\\n]*(?:(?:'[^{}'"#\\\n]*'|"[^{}'"#\\\n]*")[^{}'"#\\\n]*)*\}"""
_FORMATTED = {
    quote: re.compile(
        rf"(?:(?!{quote})[^{{}}\\{line}]|\\.|\{{\{{|\}}\}}|{_FIELD})*{quote}", re.DOTALL
    )
    for quote, line in (("'''", ""), ('"""', ""), ("'", "\n"), ('"', "\n"))
}
"""The rest of an f-string whose fields hold nothing that may be read in two ways: since Python 3.12
an f-string's own quote may stand in them."""
_OPENS = {")": "(", "]": "[", "}": "{"}
_FIELDS_HOLD_ANYTHING = sys.version_info >= (3, 12)
"""Before, an f-string ended at its first quote as any string does."""
_INDENT = re.compile(r"(?:[ \t\f]|\\\n)*")
_CLAUSE = re.compile(r"(?:else|elif|except|finally)\b")
_REPEATED = ("elif", "except")
"""Clauses that may follow one of their own kind."""

_NO_STATE = _State("", "", continued=False)


class _BrokenError(Exception):
    """A bracket closes none, or another one; or nothing ends a string in its line."""


def _after(text: str, state: _State) -> _State | None:
    """The state at the end of a text that begins in `state`; None where it is not known.

    Raises:
        _BrokenError: the text is part of no program.
    """
    brackets, quote, continued = state
    place = 0
    while place < len(text):
        continued = False
        if quote:
            end = _TO_END[quote].match(text, place)
            if end is None:
                if len(quote) == 1 and not text.endswith("\\\n"):
                    raise _BrokenError
                return _State(brackets, quote, continued=False)
            place, quote = end.end(), ""
            continue
        piece = _PIECE.match(text, place)
        assert piece is not None  # noqa: S101 - some character is left, and `.` takes any
        place = piece.end()
        if piece["quote"]:
            quote = piece["quote"]
            formatted = not {"f", "t"}.isdisjoint(piece["prefix"].lower())
            if formatted and _FIELDS_HOLD_ANYTHING:
                whole = _FORMATTED[quote].match(text, place)
                if whole is None:
                    return None
                place, quote = whole.end(), ""
        elif piece["open"]:
            brackets += piece["open"]
        elif piece["close"]:
            if not brackets.endswith(_OPENS[piece["close"]]):
                raise _BrokenError
            brackets = brackets[:-1]
        elif piece["continued"]:
            continued = True
    return _State(brackets, quote, continued)


class _Open(NamedTuple):
    """A statement, or the head of one, that what follows may belong to."""

    within: _Open | None
    """What stands before it in the outline."""

    column: int
    clause: str
    """The word it begins with, if it goes on with a statement that has begun; else empty."""

    text: str


class _Line(NamedTuple):
    """What is known where a line begins."""

    start: int
    state: _State | None
    """None: not known from here on."""

    open: _Open | None
    """Of whole statements before `statement`."""

    statement: int
    """Where the statement begins that the line is part of; its own start if it begins one."""

    broken: bool = False
    """What is before it begins no program."""


class _Outline:
    """A text, of which the statements that are over can be left out.

    Where a line begins a statement in a block, those before it in the same block are whole: what
    follows the line parses with them if and only if it does without them, as a block is any number
    of statements but none. So is the block before an `else` or the like, and of two `elif` or two
    `except` the first. The statement before the line in question always stays: it may lack
    something.
    """

    def __init__(self, text: str, after: str) -> None:
        self._text = text
        self._suffix = after
        self._ends: dict[_State, bool] = {}
        self._lines = list(self._read())
        self._starts = [line.start for line in self._lines]

    def _read(self) -> Iterator[_Line]:
        line = _Line(0, _NO_STATE, None, 0)
        yield line
        place = 0
        while line.state is not None and (place := self._text.find("\n", line.start) + 1):
            try:
                state = _after(self._text[line.start : place], line.state)
            except _BrokenError:
                yield _Line(place, None, None, 0, broken=True)
                return
            around, statement = line.open, line.statement
            if state == _NO_STATE:
                around = _with(around, self._text[statement:place])
                statement = place
            line = _Line(place, state, around, statement)
            yield line

    def reduced(self, end: int) -> str | None:
        """A program that parses if `text[:end] + after` does; None if that does not, surely."""
        line = self._lines[bisect_right(self._starts, end) - 1]
        if line.broken:
            return None
        if line.state is None:
            return self._text[:end] + self._suffix
        rest = self._text[line.start : end] + self._suffix
        if end == line.start:
            ends = self._ends.get(line.state)
            if ends is None:
                ends = self._ends[line.state] = _ends_well(rest, line.state)
        else:
            ends = _ends_well(rest, line.state)
        if not ends:
            return None
        parts = [self._text[line.statement : line.start] + rest]
        around = line.open
        while around is not None:
            parts.append(around.text)
            around = around.within
        return "".join(reversed(parts))


def _ends_well(text: str, state: _State) -> bool:
    """Whether all that is open at the beginning of a text may be closed at its end."""
    try:
        last = _after(text, state)
    except _BrokenError:
        return False
    return last is None or not (last.brackets or last.quote)


def _with(before: _Open | None, statement: str) -> _Open | None:
    """What is open after one more statement, or line without one."""
    indent = _indent(statement)
    if statement[len(indent) : len(indent) + 1] in ("", "\n", "#"):
        return before
    column = _column(indent)
    clause = _CLAUSE.match(statement, len(indent))
    if clause is None:
        while before is not None and before.column >= column:
            before = before.within
        return _Open(before, column, "", statement)
    block = None
    around = before
    while around is not None and around.column > column:
        block, around = around, around.within
    if around is None or around.column != column:
        # It belongs to nothing: whatever follows, this is no program.
        return _Open(before, column, clause[0], statement)
    if around.clause == clause[0] and clause[0] in _REPEATED:
        around = around.within
    elif block is not None:
        around = _Open(around, block.column, "", _indent(block.text) + "pass\n")
    return _Open(around, column, clause[0], statement)


def _indent(statement: str) -> str:
    found = _INDENT.match(statement)
    assert found is not None  # noqa: S101 - it matches the empty text
    return found[0]


def _column(indent: str) -> int:
    """As the tokenizer counts, from the last form feed.

    Where a backslash ends a line that is indented, its indentation is the statement's.
    """
    column = 0
    first = 0
    for mark in indent:
        match mark:
            case " ":
                column += 1
            case "\t":
                column = (column // 8 + 1) * 8
            case "\f":
                column = 0
            case "\\":
                first = first or column
    return first or column

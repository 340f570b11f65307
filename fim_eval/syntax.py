"""Programs as Python reads them. Knows no hole and no test."""

from __future__ import annotations

import ast
import re
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
    if not rest:
        return None
    rest = rest[_hopeless(before, filling, rest) :]
    text = before + filling
    outline = _Outline(text, after)
    for end in rest:
        reduced = outline.reduced(len(before) + end)
        if reduced is not None and parses(reduced) and parses(before + filling[:end] + after):
            return end
    return None


_PLAIN_TRIES = 8


def _hopeless(before: str, filling: str, ends: Sequence[int]) -> int:
    """How many of the `ends`, which fall, are beyond an error that no continuation repairs.

    A parser that reads from left to right, and has failed before it saw the end, fails in the same
    way whatever follows.
    """
    whole_lines = [
        place for place, end in enumerate(ends) if end and filling[end - 1] == "\n"
    ]  # within a line the last word may go on
    # From the longest to the shortest: hopeless up to some place, then not.
    low, high = 0, len(whole_lines)
    while low < high:
        middle = (low + high) // 2
        if _may_go_on(before + filling[: ends[whole_lines[middle]]]):
            high = middle
        else:
            low = middle + 1
    return whole_lines[low - 1] + 1 if low else 0


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
_GOES_ON = re.compile(r"(?:else|elif|except|finally)\b|\\")
"""How a line begins that is no statement of its own, or that does not show whether it is one."""

_NO_STATE = _State("", "", continued=False)


class _BracketError(Exception):
    """A bracket closes none, or another one."""


def _after(text: str, state: _State) -> _State | None:
    """The state at the end of a text that begins in `state`; None where it is not known.

    Raises:
        _BracketError: the text is part of no program.
    """
    brackets, quote, continued = state
    place = 0
    while place < len(text):
        continued = False
        if quote:
            end = _TO_END[quote].match(text, place)
            if end is None:
                # The line of a string that a backslash carries on, or one that nothing ends.
                known = len(quote) == 3 or text.endswith("\\\n")
                return _State(brackets, quote, continued=False) if known else None
            place, quote = end.end(), ""
            continue
        piece = _PIECE.match(text, place)
        assert piece is not None  # noqa: S101 - some character is left, and `.` takes any
        place = piece.end()
        if piece["quote"]:
            quote = piece["quote"]
            if not {"f", "t"}.isdisjoint(piece["prefix"].lower()):
                whole = _FORMATTED[quote].match(text, place)
                if whole is None:
                    return None
                place, quote = whole.end(), ""
        elif piece["open"]:
            brackets += piece["open"]
        elif piece["close"]:
            if not brackets.endswith(_OPENS[piece["close"]]):
                raise _BracketError
            brackets = brackets[:-1]
        elif piece["continued"]:
            continued = True
    return _State(brackets, quote, continued)


class _Open(NamedTuple):
    """A statement, or the head of one, that what follows may belong to."""

    within: _Open | None
    """What stands before it in the outline."""

    column: int
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


class _Outline:
    """A text, of which the statements that are over can be left out.

    Where a line begins a statement in a block, those before it in the same block are whole: the
    program parses with them if and only if it does without them, as a block is any number of
    statements but none. What has an `else` or the like behind it is not over.
    """

    def __init__(self, text: str, after: str) -> None:
        self._text = text
        self._suffix = after
        self._ends: dict[_State, bool] = {}
        self._lines = list(self._read())
        self._starts = [line.start for line in self._lines]

    def _read(self) -> Iterator[_Line]:
        odd = any(mark in part for mark in "\r\f\0" for part in (self._text, self._suffix))
        state: _State | None = None if odd else _NO_STATE
        line = _Line(0, state, None, 0)
        yield line
        place = 0
        while line.state is not None and (place := self._text.find("\n", line.start) + 1):
            words = self._text[line.start : place]
            try:
                state = _after(words, line.state)
            except _BracketError:
                state = None
            around, statement = line.open, line.statement
            if line.statement == line.start:
                if words.lstrip(" \t").startswith("\\"):
                    state = None
                around = _around(around, words)
            if state == _NO_STATE:
                told = self._text[statement:place]
                if statement < line.start or _says_something(words):
                    around = _Open(around, _column(told), told)
                statement = place
            line = _Line(place, state, around, statement)
            yield line

    def reduced(self, end: int) -> str | None:
        """A program that parses if `text[:end] + after` does; None if that does not, surely."""
        line = self._lines[bisect_right(self._starts, end) - 1]
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
        around = line.open
        if line.statement == line.start:
            around = _around(around, rest)
        parts = [self._text[line.statement : line.start] + rest]
        while around is not None:
            parts.append(around.text)
            around = around.within
        return "".join(reversed(parts))


def _ends_well(text: str, state: _State) -> bool:
    """Whether all that is open at the beginning of a text may be closed at its end."""
    try:
        last = _after(text, state)
    except _BracketError:
        return False
    return last is None or not (last.brackets or last.quote)


def _says_something(line: str) -> bool:
    return line.lstrip(" \t")[:1] not in ("", "\n", "#")


def _column(line: str) -> int:
    words = line.lstrip(" \t")
    return len(line[: len(line) - len(words)].expandtabs(8))


def _around(before: _Open | None, text: str) -> _Open | None:
    """What is still open before a text that begins a line."""
    line = text.partition("\n")[0]
    if not _says_something(line) or _GOES_ON.match(line.lstrip(" \t")):
        return before
    column = _column(line)
    while before is not None and before.column >= column:
        before = before.within
    return before

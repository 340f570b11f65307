"""Programs as Python reads them. Knows no hole and no test."""

from __future__ import annotations

import ast
import warnings
from functools import lru_cache


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

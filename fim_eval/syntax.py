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
    """
    if one == other:
        return True
    try:
        return ast.dump(parse(one)) == ast.dump(parse(other))
    except (SyntaxError, ValueError):
        return False

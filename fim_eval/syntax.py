"""Programs as Python reads them. Knows no hole and no test."""

from __future__ import annotations

import ast
import warnings


def parse(code: str) -> ast.Module:
    r"""The program's syntax tree, in silence: MBPP holds escapes such as `'\w'`, which warn.

    Raises:
        SyntaxError: it is no program; ValueError: it holds a NUL.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)

"""Programs in, holes out. Knows no prompt, no model, no file.

The line rule is that of HumanEval-Infilling (https://github.com/openai/human-eval-infilling):
every non-blank line of a body is one hole, comment lines included; the middle keeps its
indentation and its trailing newline. Where a data set does not say which part is the body
(MBPP), bodies are the functions' own: see `body_lines`.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from bisect import bisect_left
from collections.abc import Iterator

from fim_eval.records import InfillTask, Problem
from fim_eval.words import Kind


def single_line_tasks(problem: Problem) -> Iterator[InfillTask]:
    """One task for each non-blank line of the problem's bodies, in the order of the program.

    The number in `task_id` counts lines from 0: from the start of `canonical_solution` where the
    data set has one, as in the official files, and from the start of the program otherwise.
    """
    # Not splitlines: it also cuts at form feeds and U+2028, which Python's own lines do not.
    lines = [line + "\n" for line in problem.code.removesuffix("\n").split("\n")]
    if problem.body_offset is None:
        first = 0
        holes = body_lines(problem.code)
    else:
        first = problem.code.count("\n", 0, problem.body_offset)
        holes = list(range(first, len(lines)))
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    for number in holes:
        if lines[number].isspace():
            continue
        yield _task(
            problem, "single-line", f"L{number - first}", starts[number], starts[number + 1]
        )


def body_lines(code: str) -> list[int]:
    r"""Line numbers, from 0, of all function bodies: blank lines included, headers left out.

    A body is that of a function at module level or of a method of a class at module level: the
    lines after the header, and after the docstring if there is one, to the function's last line.
    A nested function belongs to the body around it; a body on the header's own line has no line.

    >>> body_lines("def f(x):\n    # twice\n    return 2 * x\n\nprint(f(1))\n")
    [1, 2]
    """
    numbers: list[int] = []
    line_ends = _logical_line_ends(code)
    for function in _outer_functions(parse(code)):
        header_end = line_ends[bisect_left(line_ends, function.lineno)]
        first = header_end + 1
        if ast.get_docstring(function, clean=False) is not None:
            docstring = function.body[0]
            first = (docstring.end_lineno or docstring.lineno) + 1
        last = function.end_lineno or function.lineno
        numbers.extend(range(first - 1, last))
    return numbers


def parse(code: str) -> ast.Module:
    r"""The program's syntax tree, in silence: MBPP holds escapes such as `'\w'`, which warn.

    Raises:
        SyntaxError: it is no program; ValueError: it holds a NUL.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)


def _outer_functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in module.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        for member in members:
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                yield member


def _logical_line_ends(code: str) -> list[int]:
    """Lines, from 1, on which a logical line ends, ascending.

    The syntax tree does not say where a header ends, and the first statement may come after
    comment lines, which are holes too.
    """
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return [token.start[0] for token in tokens if token.type == tokenize.NEWLINE]


def _task(problem: Problem, kind: Kind, place: str, start: int, end: int) -> InfillTask:
    code = problem.code
    return InfillTask(
        task_id=f"{problem.problem_id}/{kind}/{place}",
        problem_id=problem.problem_id,
        kind=kind,
        context=problem.text,
        prefix=code[:start],
        middle=code[start:end],
        suffix=code[end:],
    )

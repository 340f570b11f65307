"""Programs in, holes out. Knows no prompt, no model, no file.

Kinds:
    single-line: every non-blank line of a body, comment lines included, with its indentation and
        its newline. multi-line: every pair of first and last such line of one body, blank lines
        between included. Both by the rule of HumanEval-Infilling
        (https://github.com/openai/human-eval-infilling).
    random-span: two uniform character positions in one body, ten times per problem, none twice
        (the same source; the draws are ours, seeded by the problem's id).
    block: what the syntax tree calls one thing: the body of a compound statement, the condition of
        an `if` or `while`, the value of a `return`, a call (in the sense of SAFIM,
        https://arxiv.org/abs/2403.04814). Never a comment or a docstring.

Where a data set does not say which part is the body (MBPP), bodies are the functions' own: see
`bodies`.
"""

from __future__ import annotations

import ast
import hashlib
import io
import random
import tokenize
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, assert_never

from fim_eval.records import InfillTask, Problem
from fim_eval.syntax import parse
from fim_eval.words import BlockPart, Kind

SPANS_PER_PROBLEM = 10


class Hole(NamedTuple):
    """A span of a program, in characters, and the last part of its task's id."""

    place: str
    start: int
    end: int
    part: BlockPart | None = None


class Holes(NamedTuple):
    """What was found in one problem."""

    tasks: list[InfillTask]
    excluded: Counter[str]
    """How many places were no holes, by reason."""


def tasks_of(
    problem: Problem, kind: Kind, *, per_problem: int | None = None, seed: int = 0
) -> Holes:
    """The holes of one kind in one problem, in the order of the program.

    Numbers in `task_id` count lines from 0: from the start of `canonical_solution` where the data
    set has one, as in the official files, and from the start of the program otherwise. Those of
    `random-span` and `block` are characters from the start of the program.

    Args:
        problem: any that parses.
        kind: of hole.
        per_problem: keep at most so many, drawn by `seed` and the problem's id alone: the same
            whatever other problems there are. None: all, of `random-span` ten.
        seed: of every draw.
    """
    excluded: Counter[str] = Counter()
    match kind:
        case "single-line":
            found = _single_lines(problem)
        case "multi-line":
            found = _line_spans(problem)
        case "random-span":
            draw = _draw(problem, kind, seed)
            found = _random_spans(problem, draw, per_problem or SPANS_PER_PROBLEM)
        case "block":
            found = _blocks(problem, excluded)
        case _:
            assert_never(kind)
    if per_problem is not None and len(found) > per_problem:
        chosen = _draw(problem, f"{kind} sample", seed).sample(range(len(found)), per_problem)
        found = [found[index] for index in sorted(chosen)]
    return Holes([_task(problem, kind, hole) for hole in found], excluded)


def _draw(problem: Problem, purpose: str, seed: int) -> random.Random:
    digest = hashlib.sha256(f"{problem.problem_id}\n{purpose}\n{seed}".encode()).digest()
    return random.Random(int.from_bytes(digest))  # noqa: S311  a repeatable draw, no secret


# --- lines ----------------------------------------------------------------------------------------


class _Lines:
    """A program by lines: those of each body, and where each begins."""

    def __init__(self, problem: Problem) -> None:
        # Not splitlines: it also cuts at form feeds and U+2028, which Python's own lines do not.
        self.lines = [line + "\n" for line in problem.code.removesuffix("\n").split("\n")]
        if problem.body_offset is None:
            self.first = 0
            self.bodies = bodies(problem.code)
        else:
            self.first = problem.code.count("\n", 0, problem.body_offset)
            self.bodies = [list(range(self.first, len(self.lines)))]
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def filled(self, body: Sequence[int]) -> list[int]:
        """Those lines of a body that hold more than white space."""
        return [number for number in body if not self.lines[number].isspace()]


def _single_lines(problem: Problem) -> list[Hole]:
    program = _Lines(problem)
    return [
        Hole(f"L{line - program.first}", program.starts[line], program.starts[line + 1])
        for body in program.bodies
        for line in program.filled(body)
    ]


def _line_spans(problem: Problem) -> list[Hole]:
    program = _Lines(problem)
    spans = []
    for body in program.bodies:
        filled = program.filled(body)
        for index, first in enumerate(filled):
            for last in filled[index:]:
                place = f"L{first - program.first}-L{last - program.first}"
                spans.append(Hole(place, program.starts[first], program.starts[last + 1]))
    return spans


def _random_spans(problem: Problem, draw: random.Random, count: int) -> list[Hole]:
    """Distinct spans, each in one body; fewer if the bodies have no more."""
    program = _Lines(problem)
    regions = [
        (program.starts[body[0]], program.starts[body[-1] + 1]) for body in program.bodies if body
    ]
    if problem.body_offset is not None:
        regions = [(problem.body_offset, len(problem.code))]
    sizes = [end - start for start, end in regions]
    possible = sum((size + 1) * (size + 2) // 2 for size in sizes)
    spans: set[tuple[int, int]] = set()
    while len(spans) < min(count, possible):
        [(start, end)] = draw.choices(regions, weights=sizes)
        one, other = draw.randint(start, end), draw.randint(start, end)
        spans.add((min(one, other), max(one, other)))
    return [Hole(f"C{start}-C{end}", start, end) for start, end in sorted(spans)]


# --- syntax ---------------------------------------------------------------------------------------


def _blocks(problem: Problem, excluded: Counter[str]) -> list[Hole]:
    places = _Places(problem.code)
    module = parse(problem.code)
    candidates: list[tuple[int, int, BlockPart]] = []
    for function in _outer_functions(module):
        for node, part in _parts(function):
            start, end = places.span(node, whole_lines=part == "body")
            if problem.body_offset is not None and start < problem.body_offset:
                continue
            candidates.append((start, end, part))
    holes: dict[tuple[int, int], Hole] = {}
    for start, end, part in candidates:
        if (start, end) in holes:
            excluded["the same hole as another part's"] += 1
        elif places.has_comment(start, end):
            excluded["holds a comment"] += 1
        else:
            holes[start, end] = Hole(f"{part}-C{start}-C{end}", start, end, part)
    return sorted(holes.values(), key=lambda hole: (hole.start, hole.end))


def _parts(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[tuple[Sequence[ast.stmt | ast.expr], BlockPart]]:
    """Nodes of a function that can be holes, as runs of neighbours: bodies first, calls last."""
    nodes = list(_walk(function))
    for node in nodes:
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if not isinstance(body, list) or not body:
                continue
            is_elif = name == "orelse" and isinstance(node, ast.If) and _is_elif(body)
            statements = body[1:] if _has_docstring(node) else body
            if statements and not is_elif:
                yield statements, "body"
    for node in nodes:
        if isinstance(node, ast.If | ast.While):
            yield [node.test], "condition"
    for node in nodes:
        if isinstance(node, ast.Return) and node.value is not None:
            yield [node.value], "return-value"
    for node in nodes:
        if isinstance(node, ast.Call):
            yield [node], "call"


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, in order; not into f-strings, whose parts have no positions."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.JoinedStr):
            yield from _walk(child)


def _is_elif(body: Sequence[ast.stmt]) -> bool:
    """Whether an `else` part may be an `elif`: its own body and condition are holes already."""
    return len(body) == 1 and isinstance(body[0], ast.If)


def _has_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and ast.get_docstring(node, clean=False) is not None
    )


class _Places:
    """Characters of syntax nodes, and of comments."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._lines = code.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._comments = [
            self._starts[token.start[0] - 1] + token.start[1]
            for token in tokenize.generate_tokens(io.StringIO(code).readline)
            if token.type == tokenize.COMMENT
        ]

    def span(self, nodes: Sequence[ast.stmt | ast.expr], *, whole_lines: bool) -> tuple[int, int]:
        """From the first node's first character to the last one's last.

        Whole lines where nothing else stands on them: with indentation and newline.
        """
        first, last = nodes[0], nodes[-1]
        decorators = getattr(first, "decorator_list", [])
        begin = decorators[0] if decorators else first
        start = self._place(begin.lineno, begin.col_offset)
        end = self._place(last.end_lineno or last.lineno, last.end_col_offset or last.col_offset)
        if decorators:
            start = self._code.rindex("@", 0, start)
        if whole_lines:
            line_start = self._code.rfind("\n", 0, start) + 1
            line_end = self._code.find("\n", end)
            alone = not self._code[line_start:start].strip()
            # A semicolon at the end belongs to the line.
            if alone and self._code[end:line_end].strip() in ("", ";"):
                return line_start, line_end + 1
        return start, end

    def has_comment(self, start: int, end: int) -> bool:
        index = bisect_left(self._comments, start)
        return index < len(self._comments) and self._comments[index] < end

    def _place(self, line: int, column: int) -> int:
        """Characters before a place that the syntax tree gives in bytes of its line."""
        text = self._lines[line - 1]
        in_line = column if text.isascii() else len(text.encode()[:column].decode())
        return self._starts[line - 1] + in_line


# --- bodies ---------------------------------------------------------------------------------------


def bodies(code: str) -> list[list[int]]:
    r"""Line numbers, from 0, of each function's body: blank lines included, headers left out.

    A body is that of a function at module level or of a method of a class at module level: the
    lines after the header, and after the docstring if there is one, to the function's last line.
    A nested function belongs to the body around it; a body on the header's own line has no line.

    >>> bodies("def f(x):\n    # twice\n    return 2 * x\n\nprint(f(1))\n")
    [[1, 2]]
    """
    found: list[list[int]] = []
    line_ends = _logical_line_ends(code)
    for function in _outer_functions(parse(code)):
        header_end = line_ends[bisect_left(line_ends, function.lineno)]
        first = header_end + 1
        if ast.get_docstring(function, clean=False) is not None:
            docstring = function.body[0]
            first = (docstring.end_lineno or docstring.lineno) + 1
        last = function.end_lineno or function.lineno
        found.append(list(range(first - 1, last)))
    return found


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


def _task(problem: Problem, kind: Kind, hole: Hole) -> InfillTask:
    code = problem.code
    return InfillTask(
        task_id=f"{problem.problem_id}/{kind}/{hole.place}",
        problem_id=problem.problem_id,
        kind=kind,
        part=hole.part,
        context=problem.text,
        prefix=code[: hole.start],
        middle=code[hole.start : hole.end],
        suffix=code[hole.end :],
    )

"""Tests in, what to compute and what to compare; what a jail saw in, an outcome out. Runs nothing.

A test such as `assert f(3) == [1, 2]` is split: the jail gets `f(3)`, and its value comes back and
is compared here with `[1, 2]`, which never enters the jail. A program can lie about a value only by
knowing the answer, so it gains nothing from leaving early, from objects that equal everything, or
from forging messages. What cannot be split (HumanEval's `check(candidate)`) runs whole behind a
marker drawn for the one execution: weaker evidence, recorded as `completion` instead of `values`,
because a program that searches its own process could find the marker.

Still open, here as in any judge: a test that a constant satisfies, and a program that replaces what
a test's left side calls.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import operator
import reprlib
import sys
import warnings
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, assert_never

from fim_eval.errors import DatasetError
from fim_eval.records import Execution, Problem
from fim_eval.syntax import parse
from fim_eval.values import MalformedValueError, decode, parse_line
from fim_eval.words import Evidence, TestStyle, VerdictOutcome

LONGEST_DETAIL = 500
"""Characters."""

StepKind = Literal["value", "truth", "run"]


@dataclass(frozen=True, slots=True)
class Check:
    """One test: what the jail computes, and how its value is told to be right."""

    kind: StepKind
    """`value`: the value of an expression. `truth`: whether it is true. `run`: statements."""

    source: str
    relation: str
    """An operator of Python, `isclose`, or `marker` for what runs whole."""

    expected: Any = None
    options: tuple[tuple[str, float], ...] = ()
    """Keyword arguments of `math.isclose`."""

    def holds(self, value: Any) -> bool:
        """Whether the value is as expected; a comparison that raises does not hold."""
        try:
            if self.relation == "isclose":
                return math.isclose(value, self.expected, **dict(self.options))
            return bool(_RELATIONS[self.relation](value, self.expected))
        except (TypeError, ValueError, ArithmeticError):
            return False


@dataclass(frozen=True, slots=True)
class Examination:
    """All tests of one problem in one style, ready for a jail."""

    problem_id: str
    setup: str
    """Runs after the program and before the tests."""

    checks: tuple[Check, ...]
    evidence: Evidence
    tests_sha256: str
    """Of set-up and tests as the data set has them, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What an execution means."""

    outcome: VerdictOutcome
    detail: str
    """Where and why. Holds text that the program chose; any text that UTF-8 can carry."""


def examination(problem: Problem, style: TestStyle) -> Examination:
    """The tests of a problem, split where they can be.

    Raises:
        DatasetError: there are none in this style, or one is no Python.
    """
    match style:
        case "standard":
            tests = problem.tests
        case "challenge":
            tests = problem.challenge_tests
        case "all":
            tests = problem.tests + problem.challenge_tests
        case _:
            assert_never(style)
    if not tests:
        raise DatasetError(f"{problem.problem_id}: has no {style} tests, so nothing can be judged")
    for source in (problem.test_setup, *tests):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile(source, "test", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise DatasetError(
                f"{problem.problem_id}: its test {reprlib.repr(source)} is no Python ({error})"
            ) from error
    if not all(parse(test).body for test in tests):
        raise DatasetError(f"{problem.problem_id}: one of its tests holds no statement")
    checks = tuple(check for test in tests for check in _checks(test))
    whole = any(check.kind == "run" for check in checks)
    return Examination(
        problem_id=problem.problem_id,
        setup=problem.test_setup,
        checks=checks,
        evidence="completion" if whole else "values",
        tests_sha256=hashlib.sha256(json.dumps([problem.test_setup, tests]).encode()).hexdigest(),
    )


def program_key(program: str, tests_sha256: str) -> str:
    """SHA-256, in hexadecimal, of a program and its tests: what is executed once.

    Args:
        program: its source; lone surrogates are allowed, models write them.
        tests_sha256: of `Examination.tests_sha256`.
    """
    content = f"{tests_sha256}\n{program}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()


def rule(examined: Examination, execution: Execution) -> Ruling:
    """What an execution means: the first thing that went wrong, in the order of the tests."""
    ruling = _rule(examined, execution)
    # What a program wrote may be long, and hold a lone surrogate, which fits no file.
    detail = ruling.detail[:LONGEST_DETAIL].encode("utf-8", "backslashreplace").decode()
    return Ruling(ruling.outcome, detail)


def _rule(examined: Examination, execution: Execution) -> Ruling:
    match execution.end:
        case "sandbox-error":
            return Ruling("sandbox-error", execution.error or "")
        case "not-compiled":
            return Ruling("syntax-error", execution.error or "")
    lines = execution.output.split(b"\n")
    # The last piece is empty, or a line that was cut when the process was ended.
    whole_lines, rest = lines[:-1], lines[-1]
    checks = examined.checks
    for place, line in enumerate(whole_lines):
        try:
            message = parse_line(line)
            ruling = _ruling(message, place, checks, execution.marker)
        except MalformedValueError as error:
            return Ruling("protocol-error", str(error))
        if ruling is None:
            continue
        is_last = place == len(whole_lines) - 1 and not rest
        if ruling.outcome == "passed" and not is_last:
            return Ruling("protocol-error", "more was sent after the end")
        if ruling.outcome == "passed" and execution.end != "exited":
            break
        return ruling
    return _unfinished(execution)


def _ruling(
    message: Sequence[Any], place: int, checks: Sequence[Check], marker: str
) -> Ruling | None:
    """What one message means; None: so far all is well.

    Raises:
        MalformedValueError: it is none that is due.
    """
    match message:
        case [int(index), value] if index == place < len(checks):
            check = checks[place]
            if check.kind == "run":
                if value != marker:
                    raise MalformedValueError("a test was said to be done without its marker")
                return None
            found = decode(value)
            if check.holds(found):
                return None
            return Ruling("wrong-answer", _difference(place, check, found))
        case ["done", count] if count == place == len(checks):
            return Ruling("passed", "")
        case ["raised", where, str(kind), str(text), int() | None as line] if _is_due(where, place):
            return _raised(where, kind, text, line, checks)
        case ["foreign", where, str(kind)] if _is_due(where, place):
            return Ruling("foreign-type", f"{_place(where)}: {kind} compares in its own way")
        case ["large", where] if _is_due(where, place):
            return Ruling("output-limit", f"{_place(where)}: a value too large for any test")
    raise MalformedValueError(f"no such message is due: {reprlib.repr(message)}")


def _is_due(where: object, place: int) -> bool:
    """Whether something can have gone wrong there, after `place` tests were told."""
    if type(where) is int:
        return where == place
    return place == 0 and where in ("compile", "program", "setup")


def _raised(
    where: object, kind: str, text: str, line: int | None, checks: Sequence[Check]
) -> Ruling:
    detail = f"{_place(where)}: {kind}" + (f": {text[:200]}" if text else "")
    # Syntax errors name their line.
    if line is not None and 0 < line < 10**9 and not detail.endswith(f"line {line})"):
        detail += f" (line {line})"
    if where == "compile":
        return Ruling("syntax-error", detail.removeprefix("compile: "))
    if kind == "MemoryError":
        return Ruling("out-of-memory", detail)
    in_run = isinstance(where, int) and where < len(checks) and checks[where].kind == "run"
    if kind == "AssertionError" and in_run:
        return Ruling("wrong-answer", detail)
    return Ruling("error", detail)


def _unfinished(execution: Execution) -> Ruling:
    """The process ended, or was ended, before it had told all its tests."""
    match execution.end:
        case "timeout":
            return Ruling(
                "timeout", f"{execution.cpu_s:.1f} s of processor, {execution.wall_s:.1f} s in all"
            )
        case "output-limit":
            return Ruling("output-limit", "more was sent than any test needs")
        case "exited" if execution.signal is not None:
            return Ruling("died", f"signal {execution.signal} before its tests were done")
        case "exited":
            return Ruling("died", f"exit code {execution.exit_code} before its tests were done")
    return Ruling("died", "closed its descriptors before its tests were done")


def _place(where: object) -> str:
    return f"test {where + 1}" if isinstance(where, int) else str(where)


def _difference(place: int, check: Check, found: object) -> str:
    if check.kind == "truth":
        return f"test {place + 1}: is {'true' if found else 'false'}"
    wanted = "" if check.relation == "==" else f"{check.relation} "
    return f"test {place + 1}: {_shown(found)}, expected {wanted}{_shown(check.expected)}"


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)[:100]
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits
        return f"<{type(value).__name__}>"


# --- splitting tests ------------------------------------------------------------------------------

_OPERATORS: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "is",
    ast.IsNot: "is not",
}
_RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda value, container: value in container,
    "not in": lambda value, container: value not in container,
}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_SINGLETONS = (None, True, False)


def _checks(test: str) -> list[Check]:
    """One check per assert of a test, or one that runs all of it."""
    checks = []
    for statement in parse(test).body:
        try:
            check = _split(statement.test) if isinstance(statement, ast.Assert) else None
        except ValueError:  # `ast.unparse` writes no integer of more than 4,300 digits
            check = None
        if check is None:
            return [Check("run", test, "marker")]
        checks.append(check)
    return checks


def _split(condition: ast.expr) -> Check | None:
    """What of a condition the jail computes, and what it is compared with; None: inseparable."""
    match condition:
        case ast.Compare(left=left, ops=[operation], comparators=[right]):
            relation = _OPERATORS[type(operation)]
            sides = [(left, relation, right)]
            if relation in _MIRRORED:
                sides.append((right, _MIRRORED[relation], left))
                sides.sort(key=lambda side: not _calls(side[0]))
            for computed, told, other in sides:
                if (check := _against_constant(computed, told, other)) is not None:
                    return check
            return None
        case ast.Call(func=function, args=[left, right], keywords=options) if ast.unparse(
            function
        ) in ("math.isclose", "isclose"):
            try:
                bounds = tuple((str(option.arg), constant(option.value)) for option in options)
            except NotConstantError:
                return None
            for computed, other in sorted(
                ((left, right), (right, left)), key=lambda sides: not _calls(sides[0])
            ):
                try:
                    expected = constant(other)
                except NotConstantError:
                    continue
                return Check("value", ast.unparse(computed), "isclose", expected, bounds)
            return None
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Check("truth", ast.unparse(operand), "==", expected=False)
        case ast.BoolOp() | ast.Compare():
            return None
    return Check("truth", ast.unparse(condition), "==", expected=True)


def _calls(node: ast.expr) -> bool:
    """Whether it can be what is tested: `max(...)` may be the program's own, a literal cannot."""
    return any(isinstance(part, ast.Call) for part in ast.walk(node))


def _against_constant(computed: ast.expr, relation: str, other: ast.expr) -> Check | None:
    try:
        expected = constant(other)
    except NotConstantError:
        return None
    if relation in ("is", "is not"):
        if not any(expected is one for one in _SINGLETONS):
            return None
        # Told inside: no equality is asked for, so a value of any type and size will do.
        return Check("truth", f"({ast.unparse(computed)}) {relation} {expected}", "==", True)
    return Check("value", ast.unparse(computed), relation, expected)


class NotConstantError(ValueError):
    """The expression needs more than literals and the functions in `_PURE`."""


_PURE: Mapping[str, Callable[..., Any]] = {
    **{
        function.__name__: function
        for function in (
            abs, bool, bytes, complex, dict, float, frozenset, int, len, list, max, min, range,
            round, set, sorted, str, sum, tuple, Counter, Decimal, Fraction, OrderedDict, deque,
        )
    },
    "collections.Counter": Counter,
    "collections.OrderedDict": OrderedDict,
    "collections.deque": deque,
    "math.sqrt": math.sqrt,
    "math.factorial": math.factorial,
    # The jail runs the same interpreter, so sizes agree.
    "sys.getsizeof": sys.getsizeof,
}  # fmt: skip
_NAMED = {"math.pi": math.pi, "math.e": math.e, "math.tau": math.tau, "math.inf": math.inf}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_SIGNS: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}


def constant(node: ast.expr) -> Any:
    """The value of an expression of literals, signs, arithmetic and a closed list of functions.

    Raises:
        NotConstantError: it holds anything else, or cannot be computed.
    """
    try:
        return _constant(node)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise NotConstantError(str(error)) from error


def _constant(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value) if value is not ...:
            return value
        case ast.List(elts=parts):
            return [_constant(part) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(_constant(part) for part in parts)
        case ast.Set(elts=parts):
            return {_constant(part) for part in parts}
        case ast.Dict(keys=keys, values=values):
            if None in keys:
                raise NotConstantError("a dict is unpacked")
            return {
                _constant(key): _constant(value)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
        case ast.UnaryOp(op=sign, operand=operand):
            return _SIGNS[type(sign)](_constant(operand))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _ARITHMETIC:
            return _ARITHMETIC[type(operation)](_number(left), _number(right))
        case ast.Call(func=function, args=arguments, keywords=options):
            pure = _PURE.get(ast.unparse(function))
            if pure is not None and all(option.arg for option in options):
                named = {str(option.arg): _constant(option.value) for option in options}
                return pure(*[_constant(argument) for argument in arguments], **named)
        case ast.Attribute():
            name = ast.unparse(node)
            if name in _NAMED:
                return _NAMED[name]
    raise NotConstantError(f"{ast.unparse(node)} is no constant")


def _number(node: ast.expr) -> complex:
    """An operand of arithmetic. Numbers only: `[0] * 10**9` is nobody's expected value."""
    value = _constant(node)
    if not isinstance(value, int | float | complex):
        raise NotConstantError("arithmetic is with numbers")
    return value

from __future__ import annotations

import ast
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest

from fim_eval.errors import DatasetError
from fim_eval.judge import (
    LONGEST_DETAIL,
    Check,
    Examination,
    NotConstantError,
    Ruling,
    constant,
    examination,
    program_key,
    rule,
)
from fim_eval.problems import load_problems
from fim_eval.records import Execution, Problem
from fim_eval.words import TestStyle, VerdictOutcome
from tests.data_paths import FULL, SANITIZED, mbpp, needs_mbpp, quiet


def problem(*tests: str, setup: str = "", challenge: Sequence[str] = ()) -> Problem:
    return Problem(
        problem_id="T/1",
        split="test",
        text=None,
        code="def f(x):\n    return x\n",
        body_offset=None,
        tests=tests,
        challenge_tests=tuple(challenge),
        test_setup=setup,
    )


def checks(*tests: str) -> tuple[Check, ...]:
    return examination(problem(*tests), "standard").checks


def check(test: str) -> Check:
    (only,) = checks(test)
    return only


def value(source: str, relation: str, expected: object, **options: float) -> Check:
    return Check("value", source, relation, expected, tuple(options.items()))


def truth(source: str, expected: bool) -> Check:
    return Check("truth", source, "==", expected)


# Splitting


@pytest.mark.parametrize(
    ("test", "split"),
    [
        pytest.param("assert f(3) == [1, 2]", value("f(3)", "==", [1, 2]), id="equal"),
        pytest.param("assert [1, 2] == f(3)", value("f(3)", "==", [1, 2]), id="swapped"),
        pytest.param("assert f(3) != 4", value("f(3)", "!=", 4), id="unequal"),
        pytest.param("assert 4 != f(3)", value("f(3)", "!=", 4), id="unequal, swapped"),
        pytest.param("assert f(3) < 4", value("f(3)", "<", 4), id="less"),
        pytest.param("assert 4 < f(3)", value("f(3)", ">", 4), id="less, swapped"),
        pytest.param("assert f(3) <= 4", value("f(3)", "<=", 4), id="at most"),
        pytest.param("assert 4 <= f(3)", value("f(3)", ">=", 4), id="at most, swapped"),
        pytest.param("assert f(3) > 4", value("f(3)", ">", 4), id="greater"),
        pytest.param("assert 4 > f(3)", value("f(3)", "<", 4), id="greater, swapped"),
        pytest.param("assert f(3) >= 4", value("f(3)", ">=", 4), id="at least"),
        pytest.param("assert 4 >= f(3)", value("f(3)", "<=", 4), id="at least, swapped"),
        pytest.param("assert f(3) in [1, 2]", value("f(3)", "in", [1, 2]), id="in"),
        pytest.param("assert f(3) not in (1,)", value("f(3)", "not in", (1,)), id="not in"),
        pytest.param("assert f(3) is None", truth("(f(3)) is None", True), id="is None"),
        pytest.param("assert f(3) is True", truth("(f(3)) is True", True), id="is True"),
        pytest.param("assert f(3) is False", truth("(f(3)) is False", True), id="is False"),
        pytest.param(
            "assert f(3) is not None", truth("(f(3)) is not None", True), id="is not None"
        ),
        pytest.param("assert not f(3)", truth("f(3)", False), id="not"),
        pytest.param("assert not not f(3)", truth("not f(3)", False), id="not not"),
        pytest.param("assert f(3)", truth("f(3)", True), id="bare"),
        pytest.param("assert f", truth("f", True), id="bare name"),
        pytest.param("assert isinstance(f(3), int)", truth("isinstance(f(3), int)", True), id="is"),
        pytest.param("assert f(3) == 4, 'four'", value("f(3)", "==", 4), id="message"),
        pytest.param("assert f(3) == 4, g()", value("f(3)", "==", 4), id="computed message"),
        pytest.param(
            "assert set(f(3)) == set([1, 2])", value("set(f(3))", "==", {1, 2}), id="sets"
        ),
        pytest.param(
            "assert set(f((1, 2))) == set((1, 2))",
            value("set(f((1, 2)))", "==", {1, 2}),
            id="sets from tuples",
        ),
        pytest.param(
            "assert sorted(f(3)) == sorted([2, 1])",
            value("sorted(f(3))", "==", [1, 2]),
            id="sorted",
        ),
        pytest.param(
            "assert f(3) == sys.getsizeof((1, 'a'))",
            value("f(3)", "==", sys.getsizeof((1, "a"))),
            id="getsizeof",
        ),
        pytest.param(
            "assert math.isclose(f(3), 0.1, rel_tol=0.001)",
            value("f(3)", "isclose", 0.1, rel_tol=0.001),
            id="isclose",
        ),
        pytest.param(
            "assert math.isclose(0.1, f(3), abs_tol=1e-3)",
            value("f(3)", "isclose", 0.1, abs_tol=0.001),
            id="isclose, swapped",
        ),
        pytest.param(
            "assert isclose(f(3), math.pi, rel_tol=1e-9, abs_tol=0)",
            value("f(3)", "isclose", math.pi, rel_tol=1e-9, abs_tol=0),
            id="isclose by its own name",
        ),
        pytest.param("assert math.isclose(f(3), 2)", value("f(3)", "isclose", 2), id="isclose, 2"),
        pytest.param("assert sum(10,15) == 6", value("sum(10, 15)", "==", 6), id="shadowed name"),
        pytest.param("assert 6 == sum(10,15)", value("sum(10, 15)", "==", 6), id="shadowed, other"),
        pytest.param("assert f('''a\n''') == 1", value("f('a\\n')", "==", 1), id="over two lines"),
        pytest.param("assert f(3) == -1.5", value("f(3)", "==", -1.5), id="sign"),
        pytest.param("assert (f(3)) == (4)", value("f(3)", "==", 4), id="parentheses"),
        pytest.param("assert f(a=1)(2)[0].b == 4", value("f(a=1)(2)[0].b", "==", 4), id="chain"),
        pytest.param("assert f(3) + 1 == 4", value("f(3) + 1", "==", 4), id="arithmetic left"),
        pytest.param(
            r"assert f('\ud800\n') == '\\'", value(r"f('\ud800\n')", "==", "\\"), id="escapes"
        ),
    ],
)
def test_an_assert_splits_into_what_is_computed_and_what_is_expected(
    test: str, split: Check
) -> None:
    found = check(test)
    assert found == split
    assert type(found.expected) is type(split.expected)


def test_several_asserts_in_one_test_are_checks_of_their_own() -> None:
    assert checks("assert f(1) == 1; assert not f(0)\nassert f(2) == 2", "assert f(3) == 3") == (
        value("f(1)", "==", 1),
        truth("f(0)", False),
        value("f(2)", "==", 2),
        value("f(3)", "==", 3),
    )


@pytest.mark.parametrize(
    "test",
    [
        pytest.param("assert 1 < f(3) < 5", id="chained comparison"),
        pytest.param("assert f(3) == f(4) == 5", id="chained equality"),
        pytest.param("assert f(3) == 1 and f(4) == 2", id="and"),
        pytest.param("assert f(3) == 1 or f(4) == 2", id="or"),
        pytest.param("assert f(3) == f(4)", id="two computed sides"),
        pytest.param("assert f(3) == g", id="a name"),
        pytest.param("assert f(3) == [g(4)]", id="a call within the literal"),
        pytest.param("assert f(3) == [0] * 9", id="a list times a number"),
        pytest.param("assert f(3) == [x for x in (1, 2)]", id="comprehension"),
        pytest.param("assert f(3) == 10 ** 3", id="power"),
        pytest.param("assert f(3) is []", id="identity with a list"),
        pytest.param("assert 3 in f(3)", id="in what is computed"),
        pytest.param("assert math.isclose(f(3), g(3))", id="isclose of two computed sides"),
        pytest.param("assert math.isclose(f(3), 1, rel_tol=tol)", id="isclose, computed bound"),
        pytest.param("assert math.isclose(f(3), 1, **bounds)", id="isclose, unpacked bounds"),
        pytest.param("x = f(3)\nassert x == 4", id="a statement before"),
        pytest.param("assert f(3) == 4\nprint()", id="a statement after"),
        pytest.param("for x in (1, 2):\n    assert f(x) == x", id="loop"),
        pytest.param("if f(3) != 4:\n    raise AssertionError", id="if"),
        pytest.param("def check(f):\n    assert f(3) == 4\n\ncheck(f)\n", id="check(candidate)"),
        pytest.param("f(3)", id="no assert"),
    ],
)
def test_what_cannot_be_split_runs_whole(test: str) -> None:
    found = examination(problem(test), "standard")
    assert found.checks == (Check("run", test, "marker"),)
    assert found.evidence == "completion"


def test_one_test_that_runs_whole_weakens_the_evidence_of_all() -> None:
    found = examination(problem("assert f(1) == 1", "assert f(1) == f(2)"), "standard")
    assert [one.kind for one in found.checks] == ["value", "run"]
    assert found.evidence == "completion"


def test_the_expected_value_is_in_nothing_that_the_jail_is_given() -> None:
    for test in ("assert f(3) == 987654", "assert 987654 == f(3)", "assert f(3) in [987654]"):
        assert "987654" not in check(test).source


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("None", None),
        ("-3", -3),
        ("+3", 3),
        ("~3", -4),
        ("not 3", False),
        ("1 + 2 * 3 - 4 / 2", 5.0),
        ("7 // 2", 3),
        ("7 % 4", 3),
        ("1 + 2j", 1 + 2j),
        ("(1, [2, {3: 'a'}], {4}, b'b', 'c', 1e999)", (1, [2, {3: "a"}], {4}, b"b", "c", math.inf)),
        ("[]", []),
        ("{}", {}),
        ("set()", set()),
        ("frozenset([1])", frozenset([1])),
        ("dict(a=1)", {"a": 1}),
        ("list(range(3))", [0, 1, 2]),
        ("tuple('ab')", ("a", "b")),
        ("sorted([2, 1], reverse=True)", [2, 1]),
        ("max(1, 2) + min(3, 4) + len('ab') + abs(-1)", 8),
        ("sum([1, 2])", 3),
        ("round(2.567, 2)", 2.57),
        ("str(5) ", "5"),
        ("int('12')", 12),
        ("bool(0)", False),
        ("float('-inf')", -math.inf),
        ("math.sqrt(4)", 2.0),
        ("math.factorial(5)", 120),
        ("math.e", math.e),
        ("collections.Counter('aab')", Counter("aab")),
        ("Counter('aab')", Counter("aab")),
    ],
)
def test_a_constant_is_computed_from_literals_arithmetic_and_a_closed_list_of_functions(
    source: str, found: object
) -> None:
    computed = constant(ast.parse(source.strip(), mode="eval").body)
    assert computed == found
    assert type(computed) is type(found)


@pytest.mark.parametrize(
    "source",
    [
        "f(3)",
        "f",
        "[f]",
        "(1, f(3))",
        "{f: 1}",
        "{1: f}",
        "{**{1: 2}}",
        "[*(1, 2)]",
        "max(*[1, 2])",
        "dict(**{'a': 1})",
        "sorted([1], key=len)",
        "2 ** 9",
        "1 << 9",
        "1 | 2",
        "[0] * 9",
        "'a' * 9",
        "'a' + 'b'",
        "'%d' % 3",
        "-'a'",
        "1 / 0",
        "max([])",
        "int('x')",
        "{[]}",
        "[1][0]",
        "(1).real",
        "math.nan",
        "math.pow(2, 3)",
        "eval('1')",
        "open('x')",
        "__import__('os')",
        "lambda: 1",
        "1 if 2 else 3",
        "1 == 1",
        "1 and 2",
        "f'{1}'",
        "[x for x in (1,)]",
        "'a'.upper()",
        "sum(10, 15)",
    ],
)
def test_anything_else_is_no_constant(source: str) -> None:
    with pytest.raises(NotConstantError):
        constant(ast.parse(source, mode="eval").body)


def test_an_ellipsis_is_no_expected_value() -> None:
    assert check("assert f(3) == ...").kind == "run"


def test_an_unknown_encoding_is_no_constant() -> None:
    with pytest.raises(NotConstantError):
        constant(ast.parse("str(b'a', 'nowhere')", mode="eval").body)


def test_a_call_of_a_shadowed_name_is_computed_whichever_side_it_is_on() -> None:
    assert check("assert 6 == max([1, 6])") == value("max([1, 6])", "==", 6)


def test_an_argument_above_4300_digits_does_not_break_the_splitting() -> None:
    check(f"assert f(0x{'f' * 4_000}) == 1")


@pytest.mark.parametrize(
    ("relation", "holds", "fails"),
    [
        ("==", 3, 4),
        ("!=", 4, 3),
        ("<", 2, 3),
        ("<=", 3, 4),
        (">", 4, 3),
        (">=", 3, 2),
    ],
)
def test_a_relation_holds_as_the_operator_does(relation: str, holds: int, fails: int) -> None:
    assert value("f()", relation, 3).holds(holds)
    assert not value("f()", relation, 3).holds(fails)


def test_membership_and_identity_hold_as_the_operators_do() -> None:
    assert value("f()", "in", [1, 2]).holds(2)
    assert not value("f()", "in", [1, 2]).holds(3)
    assert value("f()", "not in", [1, 2]).holds(3)
    assert not value("f()", "not in", [1, 2]).holds(2)


def test_isclose_holds_within_the_bounds_of_the_test() -> None:
    assert value("f()", "isclose", 1.0, rel_tol=0.01).holds(1.009)
    assert not value("f()", "isclose", 1.0, rel_tol=0.01).holds(1.02)
    assert value("f()", "isclose", 0.0, abs_tol=0.01).holds(0.009)
    assert not value("f()", "isclose", 0.0).holds(0.009)


@pytest.mark.parametrize(
    ("one", "found"),
    [
        pytest.param(value("f()", "<", 3), "a", id="order of text and number"),
        pytest.param(value("f()", "in", {1}), [], id="a list in a set"),
        pytest.param(value("f()", "in", "abc"), 1, id="a number in a text"),
        pytest.param(value("f()", "isclose", 1.0), "a", id="isclose of a text"),
        pytest.param(value("f()", "isclose", 1.0, rel_tol=-1), 1.5, id="isclose, bad bound"),
        pytest.param(value("f()", "isclose", 1.0), 10**400, id="isclose of what is no float"),
    ],
)
def test_a_comparison_that_raises_does_not_hold(one: Check, found: object) -> None:
    assert not one.holds(found)


# Examinations


def test_a_style_without_tests_is_an_error_that_names_problem_and_style() -> None:
    with pytest.raises(DatasetError, match=r"T/1: has no challenge tests"):
        examination(problem("assert f(1) == 1"), "challenge")
    with pytest.raises(DatasetError, match=r"T/1: has no standard tests"):
        examination(problem(challenge=["assert f(1) == 1"]), "standard")
    with pytest.raises(DatasetError, match=r"T/1: has no all tests"):
        examination(problem(), "all")


@pytest.mark.parametrize(
    ("test", "setup"),
    [
        pytest.param("assert f(3) = 4", "", id="test"),
        pytest.param("assert f(3) == 4", "import", id="set-up"),
        pytest.param("assert f(3) == '\0'", "", id="NUL"),
        pytest.param("return f(3)", "", id="return outside a function"),
    ],
)
def test_a_test_that_is_no_python_is_an_error_that_names_problem_and_test(
    test: str, setup: str
) -> None:
    with pytest.raises(DatasetError, match=r"T/1: its test .* is no Python"):
        examination(problem(test, setup=setup), "standard")


@pytest.mark.parametrize("test", [r"assert f('\d') == 4", "assert f(3) is 4"])
def test_a_test_that_makes_python_warn_is_taken_in_silence(test: str) -> None:
    assert checks(test)


@pytest.mark.parametrize("test", ["", "# assert f(3) == 4"])
def test_a_test_without_statements_is_an_error(test: str) -> None:
    with pytest.raises(DatasetError):
        examination(problem(test), "standard")


@pytest.mark.parametrize(
    ("style", "sources"),
    [("standard", ["f(1)"]), ("challenge", ["f(2)"]), ("all", ["f(1)", "f(2)"])],
)
def test_a_style_chooses_the_tests(style: TestStyle, sources: list[str]) -> None:
    both = problem("assert f(1) == 1", challenge=["assert f(2) == 2"], setup="import math")
    found = examination(both, style)
    assert [one.source for one in found.checks] == sources
    assert (found.problem_id, found.setup, found.evidence) == ("T/1", "import math", "values")


def test_a_program_key_depends_on_program_setup_and_tests_and_on_nothing_else() -> None:
    base = problem("assert f(1) == 1", "assert f(2) == 2", challenge=["assert f(3) == 3"])
    alike = base.model_copy(
        update={
            "problem_id": "T/2",
            "split": "train",
            "text": "Other.",
            "code": "pass\n",
            "body_offset": 0,
            "challenge_tests": (),
        }
    )
    others = [
        problem("assert f(1) == 1", "assert f(2) == 3"),
        problem("assert f(2) == 2", "assert f(1) == 1"),
        problem("assert f(1) == 1"),
        problem("assert f(1) == 1\nassert f(2) == 2"),
        problem("assert f(1) == 1", "assert f(2) == 2", setup="import math"),
        problem("assert f(2) == 2", setup="assert f(1) == 1"),
    ]

    def key(one: Problem, program: str = "x = 1\n", style: TestStyle = "standard") -> str:
        return program_key(program, examination(one, style).tests_sha256)

    assert key(base) == key(alike)
    keys = [key(base), *map(key, others), key(base, style="all"), key(base, program="x = 2\n")]
    keys += [key(base, program="x = '\ud800'\n"), key(base, program="")]
    assert len(set(keys)) == len(keys)


def test_a_program_key_stays_the_same_from_version_to_version() -> None:
    tests = hashlib.sha256(b'["import math", ["assert f(1) == 1"]]').hexdigest()
    examined = examination(problem("assert f(1) == 1", setup="import math"), "standard")
    assert examined.tests_sha256 == tests
    expected = hashlib.sha256(f"{tests}\nx = 1\n".encode()).hexdigest()
    assert program_key("x = 1\n", tests) == expected


# Ruling

EXAMINED = Examination(
    problem_id="T/1",
    setup="",
    checks=(value("f(1)", "==", 10), value("f(2)", "==", 20), truth("f(3)", True)),
    evidence="values",
    tests_sha256="",
)
WHOLE = replace(EXAMINED, checks=(Check("run", "check(f)", "marker"),), evidence="completion")
MARKER = "5ca1ab1e"


def sent(*messages: Any, end: str = "exited", torn: bytes = b"", **seen: Any) -> Execution:
    """An execution whose process sent these messages."""
    output = b"".join(json.dumps(message).encode() + b"\n" for message in messages) + torn
    return Execution.model_validate({"end": end, "output": output, "exit_code": 0, **seen})


ALL = ([0, 10], [1, 20], [2, True], ["done", 3])


def outcome(execution: Execution, examined: Examination = EXAMINED) -> VerdictOutcome:
    return rule(examined, execution).outcome


RULINGS: list[tuple[str, Examination, Execution, Ruling]] = [
    ("all as expected", EXAMINED, sent(*ALL), Ruling("passed", "")),
    (
        "all as expected, then another exit code",
        EXAMINED,
        sent(*ALL, exit_code=3),
        Ruling("passed", ""),
    ),
    (
        "another value",
        EXAMINED,
        sent([0, 10], [1, 21], [2, True], ["done", 3]),
        Ruling("wrong-answer", "test 2: 21, expected 20"),
    ),
    (
        "another truth",
        EXAMINED,
        sent([0, 10], [1, 20], [2, False], ["done", 3]),
        Ruling("wrong-answer", "test 3: is false"),
    ),
    (
        "an exception of the program",
        EXAMINED,
        sent(["raised", "program", "NameError", "name 'x' is not defined", 3]),
        Ruling("error", "program: NameError: name 'x' is not defined (line 3)"),
    ),
    (
        "an exception of the set-up",
        EXAMINED,
        sent(["raised", "setup", "ImportError", "", None]),
        Ruling("error", "setup: ImportError"),
    ),
    (
        "an exception of a test",
        EXAMINED,
        sent([0, 10], ["raised", 1, "KeyError", "4", 2]),
        Ruling("error", "test 2: KeyError: 4 (line 2)"),
    ),
    (
        "a failed assertion within the program",
        EXAMINED,
        sent(["raised", 0, "AssertionError", "", 2]),
        Ruling("error", "test 1: AssertionError (line 2)"),
    ),
    (
        "no memory",
        EXAMINED,
        sent([0, 10], ["raised", 1, "MemoryError", "", None]),
        Ruling("out-of-memory", "test 2: MemoryError"),
    ),
    (
        "no Python",
        EXAMINED,
        Execution(end="not-compiled", error="SyntaxError: invalid syntax (line 1)"),
        Ruling("syntax-error", "SyntaxError: invalid syntax (line 1)"),
    ),
    (
        "no Python, as its own process found",
        EXAMINED,
        sent(["raised", "compile", "SyntaxError", "invalid syntax", 1]),
        Ruling("syntax-error", "SyntaxError: invalid syntax (line 1)"),
    ),
    (
        "time",
        EXAMINED,
        sent([0, 10], end="timeout", cpu_s=1.04, wall_s=1.26),
        Ruling("timeout", "1.0 s of processor, 1.3 s in all"),
    ),
    (
        "a signal",
        EXAMINED,
        sent([0, 10], exit_code=None, signal=11),
        Ruling("died", "signal 11 before its tests were done"),
    ),
    (
        "an exit",
        EXAMINED,
        sent([0, 10], exit_code=0),
        Ruling("died", "exit code 0 before its tests were done"),
    ),
    (
        "a closed pipe",
        EXAMINED,
        sent(end="closed"),
        Ruling("died", "closed its descriptors before its tests were done"),
    ),
    (
        "too much",
        EXAMINED,
        sent([0, 10], end="output-limit"),
        Ruling("output-limit", "more was sent than any test needs"),
    ),
    (
        "too large a value",
        EXAMINED,
        sent([0, 10], ["large", 1]),
        Ruling("output-limit", "test 2: a value too large for any test"),
    ),
    (
        "an equality of its own",
        EXAMINED,
        sent(["foreign", 0, "Yes"]),
        Ruling("foreign-type", "test 1: Yes compares in its own way"),
    ),
    (
        "no message",
        EXAMINED,
        sent({"passed": True}),
        Ruling("protocol-error", "no message"),
    ),
    (
        "our failure",
        EXAMINED,
        Execution(end="sandbox-error", error="did not answer in time"),
        Ruling("sandbox-error", "did not answer in time"),
    ),
    (
        "a whole test done",
        WHOLE,
        sent([0, MARKER], ["done", 1], marker=MARKER),
        Ruling("passed", ""),
    ),
    (
        "a whole test failed",
        WHOLE,
        sent(["raised", 0, "AssertionError", "", None], marker=MARKER),
        Ruling("wrong-answer", "test 1: AssertionError"),
    ),
    (
        "a whole test raised",
        WHOLE,
        sent(["raised", 0, "ValueError", "", 4], marker=MARKER),
        Ruling("error", "test 1: ValueError (line 4)"),
    ),
    (
        "an assertion before the whole test",
        WHOLE,
        sent(["raised", "program", "AssertionError", "", 4], marker=MARKER),
        Ruling("error", "program: AssertionError (line 4)"),
    ),
]


@pytest.mark.parametrize(
    ("examined", "execution", "ruling"),
    [pytest.param(*case, id=name) for name, *case in RULINGS],
)
def test_what_an_execution_means(
    examined: Examination, execution: Execution, ruling: Ruling
) -> None:
    assert rule(examined, execution) == ruling


def test_every_outcome_is_among_the_rulings_above_but_the_one_that_needs_a_reference() -> None:
    assert {ruling.outcome for *_, ruling in RULINGS} == set(get_args(VerdictOutcome)) - {
        "reference-fails"
    }


@pytest.mark.parametrize(
    ("execution", "first"),
    [
        pytest.param(
            sent([0, 11], ["raised", 1, "KeyError", "", None]), "wrong-answer", id="wrong, raises"
        ),
        pytest.param(sent([0, 11], exit_code=None, signal=9), "wrong-answer", id="wrong, dies"),
        pytest.param(sent([0, 11], end="timeout"), "wrong-answer", id="wrong, hangs"),
        pytest.param(sent([0, 11], ["foreign", 1, "Yes"]), "wrong-answer", id="wrong, foreign"),
        pytest.param(sent([0, 11], ["large", 1]), "wrong-answer", id="wrong, large"),
        pytest.param(sent([0, 11], {"no": "message"}), "wrong-answer", id="wrong, no message"),
        pytest.param(sent([0, 11], torn=b"[1, 2"), "wrong-answer", id="wrong, torn"),
        pytest.param(sent(["raised", 0, "E", "", None], [1, 20]), "error", id="raises, right"),
        pytest.param(sent(["foreign", 0, "E"], *ALL), "foreign-type", id="foreign, all right"),
        pytest.param(sent(["large", 0], *ALL), "output-limit", id="large, all right"),
        pytest.param(sent({}, *ALL), "protocol-error", id="no message, all right"),
        pytest.param(sent(), "died", id="leaves, nothing"),
        pytest.param(sent([0, 10], [1, 20], [2, True]), "died", id="right, leaves"),
        pytest.param(sent([0, 10], end="closed"), "died", id="right, closes"),
    ],
)
def test_the_first_thing_that_went_wrong_decides(
    execution: Execution, first: VerdictOutcome
) -> None:
    assert outcome(execution) == first


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([[0, 10], [0, 10], [1, 20], [2, True], ["done", 3]], id="one twice"),
        pytest.param([[1, 20], [0, 10], [2, True], ["done", 3]], id="another order"),
        pytest.param([[0, 10], [2, True], ["done", 3]], id="one left out"),
        pytest.param([[0, 10], [1, 20], [2, True], [3, 1], ["done", 4]], id="one too many"),
        pytest.param([[0, 10], [1, 20], ["done", 2]], id="done too early"),
        pytest.param([["done", 3]], id="done at once"),
        pytest.param([*ALL[:3], ["done", 4]], id="done with another number"),
        pytest.param([*ALL[:3], ["done"]], id="done without a number"),
        pytest.param([*ALL, ["done", 3]], id="done twice"),
        pytest.param([*ALL, [2, False]], id="a value after the end"),
        pytest.param([*ALL, ["raised", 0, "E", "", None]], id="an exception after the end"),
        pytest.param([[0, 10, 10], *ALL[1:]], id="two values"),
        pytest.param([[0], *ALL[1:]], id="no value"),
        pytest.param([["0", 10], *ALL[1:]], id="a number as text"),
        pytest.param([[-3, 10], *ALL[1:]], id="a number from the end"),
        pytest.param([[0, {"int": 10}], *ALL[1:]], id="an object"),
        pytest.param([[0, ["what", 10]], *ALL[1:]], id="an unknown tag"),
        pytest.param([[0, ["set", ["list"]]], *ALL[1:]], id="a set of lists"),
        pytest.param([["raised", 0, "E"]], id="half an exception"),
        pytest.param([["raised", 1, "E", "", None]], id="an exception of a later test"),
        pytest.param([[0, 10], ["raised", 0, "E", "", None]], id="an exception of a test told"),
        pytest.param([[0, 10], ["raised", "program", "E", "", None]], id="of the program, late"),
        pytest.param([["raised", "nowhere", "E", "", None]], id="an exception of no place"),
        pytest.param([["raised", False, "E", "", None]], id="an exception of a truth"),
        pytest.param([["foreign", 1, "E"]], id="a foreign value of a later test"),
        pytest.param([["large", 1]], id="a large value of a later test"),
        pytest.param([["raised", 0, 1, "", None]], id="an exception of no type"),
        pytest.param([["passed"]], id="a word of its own"),
        pytest.param([[]], id="an empty message"),
        pytest.param(["passed"], id="text"),
    ],
)
def test_a_message_that_is_not_due_is_a_protocol_error(messages: list[Any]) -> None:
    assert outcome(sent(*messages)) == "protocol-error"


@pytest.mark.parametrize(
    "line",
    [b"", b"passed", b"[0, 10", b"\xff\xfe", b'["done", 3]]', b"[" * 100_000, b"[0,%d]" % 10**4000],
)
def test_a_line_that_is_no_json_is_a_protocol_error(line: bytes) -> None:
    line += b"0" * 400 if line.startswith(b"[0,1") else b""
    assert outcome(sent(torn=line + b"\n")) == "protocol-error"


def test_a_last_line_that_is_torn_counts_for_nothing() -> None:
    assert outcome(sent(*ALL[:2], torn=b"[2, fal")) == "died"
    assert outcome(sent(*ALL[:2], torn=b"[2, fal", end="timeout")) == "timeout"
    assert outcome(sent(*ALL[:3], torn=b'["done", 3]')) == "died"
    assert outcome(sent([0, 10], torn=b"[1, 21]", end="output-limit")) == "output-limit"


def test_anything_after_the_end_is_a_protocol_error_even_torn() -> None:
    assert outcome(sent(*ALL, torn=b"[")) == "protocol-error"
    assert outcome(sent(*ALL, torn=b"\n")) == "protocol-error"


@pytest.mark.parametrize(
    ("end", "unfinished"),
    [("timeout", "timeout"), ("closed", "died"), ("output-limit", "output-limit")],
)
def test_a_process_that_said_all_but_did_not_end_by_itself_has_not_passed(
    end: str, unfinished: VerdictOutcome
) -> None:
    assert outcome(sent(*ALL, end=end)) == unfinished


@pytest.mark.parametrize(
    "forged", [pytest.param(one, id=repr(one)) for one in ("", "5ca1ab1f", True, None, ["list"])]
)
def test_a_whole_test_is_done_only_with_its_marker(forged: object) -> None:
    assert outcome(sent([0, forged], ["done", 1], marker=MARKER), WHOLE) == "protocol-error"


def test_a_marker_is_no_answer_to_a_test_that_was_split() -> None:
    messages = [[0, MARKER], *ALL[1:]]
    assert outcome(sent(*messages, marker=MARKER)) == "wrong-answer"


def test_a_detail_shows_values_shortly() -> None:
    found = rule(EXAMINED, sent([0, ["list", *range(1000)]]))
    assert found == Ruling("wrong-answer", "test 1: [0, 1, 2, 3, 4, 5, ...], expected 10")
    found = rule(EXAMINED, sent([0, ["int", hex(10**5000)]]))
    assert found == Ruling("wrong-answer", "test 1: <int>, expected 10")
    less = replace(EXAMINED, checks=(value("f(1)", "not in", [1]),))
    assert rule(less, sent([0, 1])).detail == "test 1: 1, expected not in [1]"


@pytest.mark.parametrize(
    "message",
    [
        ["raised", 0, "E", "\ud800", None],
        ["raised", 0, "\ud800", "", None],
        ["foreign", 0, "\ud800"],
        ["large", "\ud800"],
        [0, "\ud800"],
    ],
)
def test_a_detail_can_be_written_to_a_file(message: list[Any]) -> None:
    detail = rule(EXAMINED, sent(message)).detail
    assert "ud800" in detail.encode().decode()


@pytest.mark.parametrize(
    "message",
    [
        ["raised", 0, "E", "long" * 10_000, None],
        ["raised", 0, "E" * 40_000, "", None],
        ["raised", 0, "E", "", 10**4_000],
        ["foreign", 0, "E" * 40_000],
        [0, "long" * 10_000],
        ["long" * 10_000],
    ],
    ids=["text", "type", "line", "foreign", "value", "no message"],
)
def test_a_detail_is_short_whatever_was_sent(message: list[Any]) -> None:
    assert len(rule(EXAMINED, sent(message)).detail) <= LONGEST_DETAIL


# The data sets


@needs_mbpp
def test_every_assert_of_full_mbpp_is_split_into_values() -> None:
    found = [examination(one, "standard") for one in mbpp(FULL, "all")[0]]
    assert {one.evidence for one in found} == {"values"}
    assert shapes(found) == {("value", "=="): 2_922}


@needs_mbpp
def test_every_challenge_assert_of_full_mbpp_is_split_into_values() -> None:
    problems = [one for one in mbpp(FULL, "all")[0] if one.challenge_tests]
    found = [examination(one, "challenge") for one in problems]
    assert len(found) == 11
    assert {one.evidence for one in found} == {"values"}
    assert shapes(found) == {("value", "=="): 16}
    both = [examination(one, "all") for one in problems]
    assert shapes(both) == {("value", "=="): 16 + 3 * 11}


@needs_mbpp
def test_every_assert_of_sanitized_mbpp_is_split_into_values() -> None:
    found = [examination(one, "standard") for one in mbpp(SANITIZED, "all")[0]]
    assert len(found) == 427
    assert {one.evidence for one in found} == {"values"}
    assert shapes(found) == {
        ("value", "=="): 1_263,
        ("value", "isclose"): 39,
        ("truth", "=="): 22,
    }


def test_every_human_eval_problem_runs_whole() -> None:
    problems, _ = load_problems("humaneval", "all", quiet)
    found = [examination(one, "standard") for one in problems]
    assert {one.evidence for one in found} == {"completion"}
    assert shapes(found) == {("run", "marker"): 164}


def shapes(found: list[Examination]) -> dict[tuple[str, str], int]:
    return dict(Counter((one.kind, one.relation) for each in found for one in each.checks))

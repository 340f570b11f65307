from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import pytest

from fim_eval.infill import tasks_of
from fim_eval.problems import load_problems
from fim_eval.records import Problem
from tests.data_paths import FULL, SANITIZED, mbpp, needs_mbpp, quiet

RUNNER = """
import json, sys
programs = json.load(sys.stdin)
passed = []
for code, tests in programs:
    world = {"__name__": "program"}
    exec(compile(code, "program", "exec"), world)
    done = 0
    for test in tests:
        try:
            exec(compile(test, "test", "exec"), world)
        except Exception:
            continue
        done += 1
    passed.append(done)
print(json.dumps(passed))
"""
"""Runs our own programs; says of each how many tests were run to their end without an error."""


@cache
def starter() -> list[Problem]:
    return load_problems("starter", "all", quiet)[0]


def passed_tests(programs: Sequence[tuple[str, Sequence[str]]]) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", RUNNER],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        timeout=15,
        check=True,
    )
    counts: list[int] = json.loads(done.stdout)
    return counts


def test_there_are_at_least_60_starter_problems_under_their_own_names() -> None:
    names = [problem.problem_id for problem in starter()]
    assert len(names) >= 60
    assert names == [f"Starter/{number}" for number in range(1, len(names) + 1)]


def test_the_starter_set_needs_no_normalising() -> None:
    facts = load_problems("starter", "all", quiet)[1]
    assert (facts.name, facts.source) == ("starter", "starter.jsonl")
    assert (facts.programs_changed, facts.values_changed) == (0, ())


def test_most_starter_problems_are_in_the_test_split() -> None:
    splits = Counter(problem.split for problem in starter())
    assert set(splits) == {"prompt", "test"}
    assert splits["test"] >= 60


def test_every_starter_problem_has_words_three_tests_and_a_challenge() -> None:
    for problem in starter():
        assert problem.text, problem.problem_id
        assert len(problem.tests) == 3, problem.problem_id
        assert problem.challenge_tests, problem.problem_id
        assert len(set(problem.tests + problem.challenge_tests)) == 3 + len(problem.challenge_tests)


def test_every_starter_problem_has_holes() -> None:
    for problem in starter():
        assert tasks_of(problem, "single-line").tasks, problem.problem_id


def test_no_two_starter_problems_share_a_text_or_a_program() -> None:
    assert len({problem.text for problem in starter()}) == len(starter())
    assert len({problem.code for problem in starter()}) == len(starter())


def test_every_starter_reference_passes_its_tests_and_its_challenges() -> None:
    tests = [
        [f"{problem.test_setup}\n{test}" for test in (*problem.tests, *problem.challenge_tests)]
        for problem in starter()
    ]
    codes = [problem.code for problem in starter()]
    counts = passed_tests(list(zip(codes, tests, strict=True)))
    failed = [
        problem.problem_id
        for problem, count, wanted in zip(starter(), counts, tests, strict=True)
        if count != len(wanted)
    ]
    assert failed == []


def test_no_starter_function_that_returns_none_passes_all_its_tests() -> None:
    programs = [(f"{problem.code}\n{silenced(problem)}", problem.tests) for problem in starter()]
    counts = passed_tests(programs)
    fooled = [
        problem.problem_id
        for problem, count in zip(starter(), counts, strict=True)
        if count == len(problem.tests)
    ]
    assert fooled == []


def silenced(problem: Problem) -> str:
    """Every function of the program again, doing nothing."""
    names = re.findall(r"^def (\w+)\(", problem.code, re.MULTILINE)
    return "\n".join(f"def {name}(*args, **kwargs): pass" for name in names)


# Written for this project, not taken from the benchmarks


def words(problem: Problem) -> list[str]:
    texts = [problem.text or "", problem.code, *problem.tests, *problem.challenge_tests]
    return re.findall(r"\w+", "\n".join(texts).lower())


def code_tokens(problem: Problem) -> list[str]:
    layout = {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
        tokenize.ENDMARKER,
    }  # fmt: skip
    tokens = tokenize.generate_tokens(io.StringIO(problem.code).readline)
    return [token.string for token in tokens if token.type not in layout]


def runs(items: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(items[i : i + length]) for i in range(len(items) - length + 1)}


def shared(
    others: Iterable[Problem], sequence: Callable[[Problem], list[str]], length: int
) -> dict[str, set[tuple[str, ...]]]:
    """Runs of `length` items that a starter problem has in common with any of `others`."""
    theirs = {run for other in others for run in runs(sequence(other), length)}
    assert theirs
    found = {problem.problem_id: runs(sequence(problem), length) & theirs for problem in starter()}
    return {problem_id: common for problem_id, common in found.items() if common}


both_measures = pytest.mark.parametrize(
    ("sequence", "length"),
    [
        pytest.param(words, 13, id="13 words"),
        pytest.param(code_tokens, 10, id="10 tokens of code"),
    ],
)


@both_measures
def test_no_starter_problem_repeats_human_eval(
    sequence: Callable[[Problem], list[str]], length: int
) -> None:
    assert shared(load_problems("humaneval", "all", quiet)[0], sequence, length) == {}


@needs_mbpp
@both_measures
@pytest.mark.parametrize("name", [FULL, SANITIZED])
def test_no_starter_problem_repeats_mbpp(
    name: str, sequence: Callable[[Problem], list[str]], length: int
) -> None:
    assert shared(mbpp(name, "all")[0], sequence, length) == {}


def test_a_copied_problem_would_be_noticed() -> None:
    assert shared(starter()[:1], words, 13).keys() == {"Starter/1"}
    assert shared(starter()[:1], code_tokens, 10).keys() == {"Starter/1"}

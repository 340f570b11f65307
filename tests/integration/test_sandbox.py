"""Jails with the real thing inside: hostile programs, killed zygotes, early ends, much work."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import cast

import pytest

from fim_eval.errors import IsolationError
from fim_eval.judge import rule
from fim_eval.records import Execution
from fim_eval.sandbox import Examined, Jail, Job, Limits, find_jail, pool, run_jobs, tiers
from fim_eval.sandbox.jail import interpreter
from fim_eval.sandbox.worker import Zygote
from fim_eval.words import Isolation
from tests.data_paths import quiet
from tests.integration import hostile
from tests.integration.hostile import (
    CORPUS,
    HONEST,
    OPEN_IN_WHOLE_TESTS,
    TESTS,
    Hostile,
    Surroundings,
    adopting_orphans,
    alone,
    descendants,
    examined,
    left_behind,
    trial,
)

TIERS: tuple[Isolation, ...] = ("namespaces", "landlock")
UNHURRIED = Limits(time_s=10.0)
WRONG = "def answer(n):\n    return n\n"
HANGING = (
    "while True: pass",
    "import time\ntime.sleep(3600)",
    "import threading\nthreading.Semaphore(0).acquire()",
)


def jail_of(isolation: Isolation) -> Jail:
    """The jail of one tier; the test is skipped where the machine does not offer it."""
    try:
        return find_jail(isolation, quiet)
    except IsolationError as error:
        pytest.skip(str(error))


@pytest.fixture(params=TIERS)
def jail(request: pytest.FixtureRequest) -> Jail:
    return jail_of(request.param)


# --- the hostile corpus ---------------------------------------------------------------------------


def test_the_corpus_says_what_must_come_of_each_program_and_why() -> None:
    assert len({program.name for program in CORPUS}) == len(CORPUS) >= 55
    for program in CORPUS:
        expected = [program.expected_in(isolation) for isolation in TIERS]
        assert not any("passed" in each.outcomes for each in expected)
        differs = expected[0] != expected[1]
        assert bool(program.because) == (differs or len(program.expected.outcomes) > 1), (
            program.name
        )


def test_nothing_hostile_passes_gets_out_or_stays(jail: Jail, tmp_path: Path) -> None:
    with Surroundings(tmp_path) as surroundings:
        assert trial(jail, surroundings, workers=2) == []


def test_one_zygote_judges_right_after_every_hostile_program(jail: Jail, tmp_path: Path) -> None:
    with Surroundings(tmp_path) as surroundings:
        assert alone(jail, surroundings, hostile.contained()) == []


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            program,
            id=program.name,
            marks=pytest.mark.xfail(
                strict=True, reason="a test that runs whole is at the program's mercy"
            ),
        )
        for program in OPEN_IN_WHOLE_TESTS
    ],
)
def test_a_test_that_runs_whole_is_not_cheated(program: Hostile, tmp_path: Path) -> None:
    with Surroundings(tmp_path) as surroundings:
        assert alone(find_jail("auto", quiet), surroundings, [program]) == []


@pytest.mark.parametrize("program", OPEN_IN_WHOLE_TESTS, ids=lambda program: program.name)
def test_what_cheats_a_test_that_runs_whole_gains_nothing_from_values(
    program: Hostile, tmp_path: Path
) -> None:
    with Surroundings(tmp_path) as surroundings:
        (job,) = [Job(0, surroundings.prelude() + program.program, examined(TESTS), UNHURRIED)]
        (result,) = run_jobs([job], find_jail("auto", quiet), 1)
    assert result.ruling.outcome in ("wrong-answer", "foreign-type", "protocol-error", "error")


def test_members_that_collide_are_not_all_compared_with_each_other() -> None:
    members = ",".join(f'["Fraction",["int","{(2**61 - 1) * n + 1:x}"],1]' for n in range(1_000))
    output = f'[0,["set",{members}]]\n'.encode()
    compared = 0

    def count(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal compared
        compared += event == "call" and frame.f_code is Fraction.__eq__.__code__

    sys.setprofile(count)
    try:
        ruling = rule(examined(TESTS), Execution(end="exited", output=output, exit_code=0))
    finally:
        sys.setprofile(None)
    assert ruling.outcome in ("wrong-answer", "protocol-error")
    assert compared < 100 * 1_000


# --- an ordinary user -----------------------------------------------------------------------------

# `env`, because setpriv itself can still run what the user cannot reach.
AS_USER = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env")
NOT_ROOT = "the tests run as an ordinary user already"


def python_for_everyone() -> str:
    """An interpreter of this version that any user can run."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin")
    question = "import sys; print(*sys.version_info[:2])"
    for candidate in (interpreter(), found):
        if candidate is None:
            continue
        answer = subprocess.run(
            [*AS_USER, candidate, "-c", question], capture_output=True, text=True, check=False
        )
        if answer.stdout.split() == [str(part) for part in sys.version_info[:2]]:
            return candidate
    pytest.skip(f"no {name} that an ordinary user can run: install it below /usr")


def copy_packages(folder: Path) -> None:
    """What `hostile` imports from outside the standard library, as far as this process has it."""
    question = (
        "import json, sys, fim_eval.sandbox; json.dump({name: module.__file__ for name, module in "
        "sys.modules.items() if '.' not in name and name not in sys.stdlib_module_names "
        "and getattr(module, '__file__', None)}, sys.stdout)"
    )
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, check=True)
    for name, file in json.loads(answer.stdout).items():
        path = Path(file)
        if path.stem == "__init__":
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path.parent, folder / name, ignore=ignored)
        else:
            shutil.copy(path, folder)
    shutil.copy(hostile.__file__, folder)


@pytest.mark.skipif(os.getuid() != 0, reason=NOT_ROOT)
@pytest.mark.parametrize("isolation", TIERS)
def test_nothing_hostile_passes_gets_out_or_stays_for_an_ordinary_user(
    isolation: Isolation,
) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv, which changes the user, is not installed (package util-linux)")
    python = python_for_everyone()
    # Not pytest's own: no other user can enter it.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        copy_packages(folder)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o777)
        done = subprocess.run(
            [*AS_USER, python, "-B", "hostile.py", isolation],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "TMPDIR": str(folder / "tmp")},
            capture_output=True,
            text=True,
            check=False,
        )
        left = list((folder / "tmp").iterdir())
    assert done.stderr == ""
    told = json.loads(done.stdout)
    if "not_offered" in told:
        pytest.skip(f"to an ordinary user, {told['not_offered']}")
    assert told == {"uid": 1000, "found": []}
    assert left == []


# --- which tier -----------------------------------------------------------------------------------


@pytest.fixture
def no_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_tier_is_offered_or_says_why_not() -> None:
    for tier in tiers():
        assert tier.reason
        assert tier.jail is None or tier.jail.isolation == tier.isolation


@pytest.mark.usefixtures("no_bubblewrap")
def test_namespaces_without_bubblewrap_are_refused_with_how_to_install_it() -> None:
    with pytest.raises(IsolationError, match="apt-get install bubblewrap"):
        find_jail("namespaces", quiet)


@pytest.mark.usefixtures("no_bubblewrap")
def test_auto_without_bubblewrap_says_how_to_install_it_and_what_is_used_instead() -> None:
    jail_of("landlock")
    notices: list[str] = []
    assert find_jail("auto", notices.append).isolation == "landlock"
    (notice,) = notices
    assert "apt-get install bubblewrap" in notice
    assert notice.endswith("using landlock")


def test_auto_takes_the_best_tier_and_says_nothing() -> None:
    jail_of("namespaces")
    notices: list[str] = []
    assert find_jail("auto", notices.append).isolation == "namespaces"
    assert notices == []


def test_a_machine_without_any_tier_is_told_both_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.uname_result(("Linux", "name", "6.1", "", "s390x"))
    monkeypatch.setattr(os, "uname", lambda: other)
    reasons = "namespaces: .*s390x.*landlock: .*s390x.*--isolation none"
    with pytest.raises(IsolationError, match=reasons):
        find_jail("auto", quiet)


def test_no_isolation_comes_with_a_warning() -> None:
    notices: list[str] = []
    assert find_jail("none", notices.append).isolation == "none"
    assert "all of your rights" in notices[0]


# --- what goes wrong around programs --------------------------------------------------------------


def test_a_zygote_that_is_killed_costs_no_verdict_and_changes_none(
    jail: Jail, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine one program's zygotes may be killed three times before one has started.
    monkeypatch.setattr(pool, "ATTEMPTS", 50)
    honest = examined(TESTS)
    draw = random.Random(0)  # noqa: S311  no secret
    killed: list[int] = []

    def kill() -> None:
        """Bubblewrap, the interpreter or the program that it runs: of the oldest zygote."""
        ours = descendants(os.getpid())
        if not ours:
            return
        oldest = min(ours)
        victim = draw.choice([oldest, *descendants(oldest)])
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    jobs = [Job(n, HONEST if n % 3 else WRONG, honest, UNHURRIED) for n in range(300)]
    timers: list[threading.Timer] = []
    ended: list[Examined[int]] = []
    with adopting_orphans():
        for result in run_jobs(jobs, jail, 2):
            ended.append(result)
            if draw.random() < 0.1:
                timers.append(threading.Timer(draw.uniform(0, 0.02), kill))
                timers[-1].start()
        for timer in timers:
            timer.join()
    assert len(killed) >= 10
    assert any(result.execution.attempts > 1 for result in ended)
    assert sorted((result.job.key, result.ruling.outcome) for result in ended) == [
        (n, "passed" if n % 3 else "wrong-answer") for n in range(300)
    ]


@pytest.mark.parametrize("isolation", TIERS)
def test_closing_early_leaves_no_process_and_no_thread(isolation: Isolation) -> None:
    jail = jail_of(isolation)
    before = descendants(os.getpid())
    threads = set(threading.enumerate())
    programs = itertools.cycle((HANGING[0], HONEST, HANGING[1], HONEST, HONEST))
    jobs = (Job(n, program, examined(TESTS), UNHURRIED) for n, program in enumerate(programs))
    with adopting_orphans():
        results = cast("Generator[Examined[int]]", run_jobs(jobs, jail, 2))
        assert [next(results).ruling.outcome for _ in range(3)] == ["passed"] * 3
        assert len(descendants(os.getpid())) > len(before)
        started = time.monotonic()
        results.close()
        # The programs that hang would go on for twice as long as their limit.
        assert time.monotonic() - started < UNHURRIED.time_s
        assert left_behind(before) == []
    assert set(threading.enumerate()) == threads


JUDGE = """\
import sys
from fim_eval.sandbox import Job, find_jail, run_jobs
from tests.integration.hostile import HONEST, TESTS, examined
from tests.integration.test_sandbox import HANGING, UNHURRIED
programs = [*HANGING[:2], *[HONEST] * 20]
jobs = [Job(n, program, examined(TESTS), UNHURRIED) for n, program in enumerate(programs)]
for _ in run_jobs(jobs, find_jail(sys.argv[1], print), 2):
    print("one has ended", flush=True)
"""


def test_nothing_outlives_a_judge_that_is_killed(jail: Jail) -> None:
    before = descendants(os.getpid())
    with adopting_orphans():
        with subprocess.Popen(
            [sys.executable, "-c", JUDGE, jail.isolation],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        ) as judge:
            assert judge.stdout is not None
            assert judge.stdout.readline() == "one has ended\n"
            assert len(descendants(judge.pid)) >= 2
            judge.kill()
        assert left_behind(before) == []


def test_programs_that_hang_do_not_hold_up_the_others(jail: Jail) -> None:
    # More than there are lanes: each of them would be held up for twice its limit.
    hanging = [*HANGING] * 4
    programs = [*hanging, *[HONEST] * 200]
    jobs = [Job(n, program, examined(TESTS), UNHURRIED) for n, program in enumerate(programs)]
    results = cast("Generator[Examined[int]]", run_jobs(jobs, jail, 1))
    with contextlib.closing(results):
        first = list(itertools.islice(results, 200))
    assert {result.job.key for result in first} == set(range(len(hanging), len(programs)))
    assert {result.ruling.outcome for result in first} == {"passed"}


def test_a_program_that_was_put_off_has_all_its_time_and_is_told_once(jail: Jail) -> None:
    sleeping = "import time\ntime.sleep(0.6)\n" + HONEST
    programs = [sleeping, HONEST, sleeping, HONEST, HANGING[0]]
    jobs = [Job(n, program, examined(TESTS), Limits(0.5)) for n, program in enumerate(programs)]
    results = list(run_jobs(jobs, jail, 1))
    outcomes = {result.job.key: result.ruling.outcome for result in results}
    assert len(results) == len(programs)
    assert outcomes == {0: "passed", 1: "passed", 2: "passed", 3: "passed", 4: "timeout"}
    assert [result.job.key for result in results[:2]] == [1, 3]
    assert {result.execution.attempts for result in results} == {1}
    assert all(result.execution.wall_s > 0.6 for result in results if result.job.key in (0, 2))


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def varied(number: int) -> str:
    """A program like no other, of one of many kinds."""
    kinds = (
        HONEST,
        WRONG,
        "def answer(n): return\n  oops\n",
        "raise ValueError('no')\n",
        "class A:\n    pass\ndef answer(n): return [A() for _ in range(n)]\n",
        "def answer(n): return {str(i): [i] for i in range(n)}\n",
    )
    return f"name_{number} = 'text {number}'\n{kinds[number % len(kinds)]}"


def test_a_zygote_does_not_grow(jail: Jail) -> None:
    honest = examined(TESTS)
    with Zygote(jail) as zygote:
        python = [zygote.pid, *descendants(zygote.pid)][-1]

        def execute(numbers: range) -> Iterator[Execution]:
            for number in numbers:
                yield zygote.run(
                    varied(number),
                    "",
                    [(check.kind, check.source) for check in honest.checks],
                    UNHURRIED,
                    marker="",
                    careful=False,
                    patience_s=60.0,
                    on_slow=lambda: None,
                )

        assert len(list(execute(range(300)))) == 300
        before = resident_bytes(python)
        outcomes = {rule(honest, execution).outcome for execution in execute(range(300, 3_300))}
        grown = resident_bytes(python) - before
    assert outcomes == {"passed", "wrong-answer", "syntax-error", "error"}
    assert grown < 4 << 20

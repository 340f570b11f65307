"""From filled programs to verdicts and pass@1: what runs once, is kept, resumed, never lost."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fim_eval.errors import DatasetError, RunDirectoryError
from fim_eval.lines import json_lines
from fim_eval.records import Problem, Verdict
from fim_eval.report import score_run, summarise
from fim_eval.sandbox import Jail, find_jail
from fim_eval.verdicts import read_references, read_sessions, read_verdicts
from fim_eval.verify import Candidate, JudgeSettings, Watcher, judge_candidates, verify
from tests.data_paths import quiet
from tests.integration import InProcess, files_in, start_fim_eval, wait_until
from tests.integration.test_report import MIDDLES, make_run, row

SETTINGS = JudgeSettings(workers=2, time_floor_s=1.0)

SUFFIX = "    return None\n"

PROBLEMS = [
    Problem(
        problem_id=f"Made/{number}",
        split="test",
        text=None,
        code=f"def f(a, b):\n{middle}{SUFFIX}",
        body_offset=None,
        tests=(f"assert f(1, 2) == {value}",),
        challenge_tests=(),
        test_setup="",
    )
    for number, (middle, value) in enumerate(zip(MIDDLES, (1, 2, None, None), strict=True))
]
"""The last two cannot see their hole, an assignment that nothing reads."""

BROKEN = Jail("none", ("/bin/false",), {}, "a jail that nothing starts in")


@pytest.fixture(scope="module")
def jail() -> Jail:
    return find_jail("auto", quiet)


class Seen:
    """What a watcher was told."""

    def __init__(self) -> None:
        self.left: list[int] = []
        self.verdicts: list[Verdict] = []
        self.notices: list[str] = []

    def watcher(self) -> Watcher:
        return Watcher(
            on_start=lambda _total, left: self.left.append(left),
            on_verdict=self.verdicts.append,
            notice=self.notices.append,
        )


def judged(runs: Sequence[Path], jail: Jail, settings: JudgeSettings = SETTINGS) -> Seen:
    seen = Seen()
    verify(runs, PROBLEMS, jail, settings, seen.watcher())
    return seen


ANSWERS: list[dict[str, Any] | None] = [
    {"text": "    return a\n"},
    {"text": "    return a\n"},
    {"text": "    x = 1\n    y = (\n"},
    {"text": "    return\n"},
]
"""Right; wrong; right if cut to its first line; another text that does the same."""


def made_run(folder: Path) -> Path:
    return make_run(folder, ANSWERS, suffix=SUFFIX)


def test_known_answers_give_a_known_pass_rate(tmp_path: Path, jail: Jail) -> None:
    run = made_run(tmp_path / "run")
    before = row(summarise(score_run(run)), "raw")
    assert [before[name] for name in ("pass_at_1", "pass_at_1_low", "sensitive_tasks")] == [
        None
    ] * 3

    judged([run], jail)
    scores = score_run(run)
    raw, cut = row(summarise(scores), "raw"), row(summarise(scores), "reference-lines")
    assert [raw["pass_at_1"], cut["pass_at_1"]] == [2 / 4, 3 / 4]
    assert raw["sensitive_tasks"] == 2
    assert [raw["pass_at_1_sensitive"], cut["pass_at_1_sensitive"]] == [1 / 2, 1 / 2]
    assert [raw["unjudged"], raw["pass_at_1_low"], raw["pass_at_1_high"]] == [0, 0.5, 0.5]
    assert scores.filter(pl.col("policy") == "raw")["verdict"].to_list() == [
        "passed", "wrong-answer", "syntax-error", "passed",
    ]  # fmt: skip


def test_a_distinct_program_is_executed_once_over_all_runs(tmp_path: Path, jail: Jail) -> None:
    runs = [made_run(tmp_path / name) for name in ("one", "two")]
    seen = judged(runs, jail)
    # Per problem: the empty hole, and the answers that differ. The reference is one of them or not.
    programs = {verdict.program_sha256 for verdict in seen.verdicts}
    assert seen.left == [len(programs)] == [len(seen.verdicts)]
    assert set(read_verdicts(runs[0])) == set(read_verdicts(runs[1])) == programs
    assert judged(runs, jail).left == [0]

    third = made_run(tmp_path / "three")
    shared = judged([runs[0], third], jail)
    assert shared.left == [0]
    assert set(read_verdicts(third)) == programs
    assert row(summarise(score_run(third)), "raw")["pass_at_1"] == 0.5


def test_what_was_cut_off_is_judged_again_and_nothing_else(tmp_path: Path, jail: Jail) -> None:
    run = made_run(tmp_path / "run")
    judged([run], jail)
    whole = summarise(score_run(run))
    journal = run / "verdicts.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])
    torn = row(summarise(score_run(run)), "raw")
    assert torn["pass_at_1_high"] >= whole["pass_at_1"][0] >= torn["pass_at_1_low"]
    assert judged([run], jail).left == [1]
    assert summarise(score_run(run)).equals(whole)
    assert len(read_sessions(run)) == 2


def test_a_verdict_names_its_session_and_a_session_its_rules(tmp_path: Path, jail: Jail) -> None:
    run = made_run(tmp_path / "run")
    judged([run], jail)
    [session] = read_sessions(run)
    assert (session.isolation, session.rules) == (jail.isolation, SETTINGS.rules())
    assert {verdict.session for verdict in read_verdicts(run).values()} == {0}


def test_other_rules_are_refused_with_the_difference(tmp_path: Path, jail: Jail) -> None:
    run = made_run(tmp_path / "run")
    judged([run], jail)
    before = files_in(run)
    other = JudgeSettings(workers=2, time_floor_s=3.0)
    with pytest.raises(RunDirectoryError, match=r"time_floor_s: 1\.0 there, 3\.0 now"):
        judged([run], jail, other)
    assert files_in(run) == before


def test_the_limit_follows_from_the_reference_s_own_time(tmp_path: Path, jail: Jail) -> None:
    busy = "import time\n\n\ndef f():\n    end = time.process_time() + 0.2\n"
    slow = Problem(
        problem_id="Made/slow",
        split="test",
        text=None,
        code=busy + "    while time.process_time() < end:\n        pass\n    return 1\n",
        body_offset=None,
        tests=("assert f() == 1",),
        challenge_tests=(),
        test_setup="",
    )
    quick = slow.model_copy(update={"problem_id": "Made/quick", "code": "def f():\n    return 1\n"})
    problems = {problem.problem_id: problem for problem in (slow, quick)}
    wanted = [Candidate(name, problem.code) for name, problem in problems.items()]
    judge_candidates({tmp_path: wanted}, problems, jail, SETTINGS, Seen().watcher())
    references = read_references(tmp_path)
    assert references["Made/quick"].time_limit_s == 1.0
    assert references["Made/slow"].cpu_s >= 0.2
    assert references["Made/slow"].time_limit_s == pytest.approx(10 * references["Made/slow"].cpu_s)


def test_a_problem_whose_reference_fails_judges_nobody(tmp_path: Path, jail: Jail) -> None:
    run = made_run(tmp_path / "run")
    impossible = PROBLEMS[0].model_copy(update={"tests": ("assert f(1, 2) == 7",)})
    seen = Seen()
    verify([run], [impossible, *PROBLEMS[1:]], jail, SETTINGS, seen.watcher())
    assert any("Made/0: its own reference does not pass" in notice for notice in seen.notices)
    raw = row(summarise(score_run(run)), "raw")
    assert raw["unjudged"] == 1
    assert [raw["pass_at_1"], raw["pass_at_1_low"], raw["pass_at_1_high"]] == [None, 1 / 4, 2 / 4]


def test_two_problems_that_are_the_same_get_one_verdict(tmp_path: Path, jail: Jail) -> None:
    twin = PROBLEMS[0].model_copy(update={"problem_id": "Made/twin"})
    problems = {problem.problem_id: problem for problem in (PROBLEMS[0], twin)}
    wanted = [Candidate(name, PROBLEMS[0].code) for name in problems]
    judge_candidates({tmp_path: wanted}, problems, jail, SETTINGS, Seen().watcher())
    assert [verdict.outcome for verdict in read_verdicts(tmp_path).values()] == ["passed"]
    assert set(read_references(tmp_path)) == set(problems)


def test_our_own_failure_is_no_verdict_and_is_tried_again(tmp_path: Path, jail: Jail) -> None:
    run = made_run(tmp_path / "run")
    failed = judged([run], BROKEN)
    assert {verdict.outcome for verdict in failed.verdicts} == {"sandbox-error"}
    raw = row(summarise(score_run(run)), "raw")
    assert [raw["unjudged"], raw["pass_at_1_low"], raw["pass_at_1_high"]] == [4, 0.0, 1.0]
    assert judged([run], jail).left == failed.left
    assert row(summarise(score_run(run)), "raw")["pass_at_1"] == 0.5


def test_a_run_needs_the_problems_its_tasks_were_cut_from(tmp_path: Path, jail: Jail) -> None:
    run = made_run(tmp_path / "run")
    with pytest.raises(DatasetError, match="holds no tests for Made/0; name the data set"):
        verify([run], [], jail, SETTINGS, Seen().watcher())
    other = [problem.model_copy(update={"code": "def g():\n    pass\n"}) for problem in PROBLEMS]
    with pytest.raises(DatasetError, match="was cut from another program"):
        verify([run], other, jail, SETTINGS, Seen().watcher())
    assert not (run / "verdicts.jsonl").exists()


def test_a_problem_that_differs_between_runs_is_refused(tmp_path: Path, jail: Jail) -> None:
    runs = [made_run(tmp_path / name) for name in ("one", "two")]
    for run, value in zip(runs, (1, 2), strict=True):
        own = [p.model_copy(update={"tests": (f"assert f(1, 2) == {value}",)}) for p in PROBLEMS]
        add_problems(run, own)
    with pytest.raises(DatasetError, match="is another problem than that of the other runs"):
        judged(runs, jail)


def add_problems(run: Path, problems: Sequence[Problem]) -> None:
    import hashlib

    content = json_lines(problems)
    (run / "problems.jsonl").write_bytes(content)
    manifest = json.loads((run / "manifest.json").read_bytes())
    manifest["problems_sha256"] = hashlib.sha256(content).hexdigest()
    (run / "manifest.json").write_text(json.dumps(manifest))


# --- the commands ---------------------------------------------------------------------------------


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, monkeypatch, capfd)


def write_problems(folder: Path, count: int = 1) -> Path:
    rows = [
        {
            "task_id": number,
            "text": "Double it.",
            "code": "def double(x):\n    y = 2 * x\n    return y\n",
            "test_list": ["assert double(4) == 8", "assert double(-1) == -2"],
        }
        for number in range(11, 11 + count)
    ]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_candidates(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "candidates.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_judged_lines_come_back_in_order_with_all_they_held(in_process: InProcess) -> None:
    folder = in_process.folder
    rows: list[dict[str, Any]] = [
        {"problem_id": "MBPP/11", "program": "while True: pass", "mine": [1]},
        {"problem_id": "MBPP/11", "program": "def double(x): return x + x", "mine": "é"},
        {"problem_id": "MBPP/11", "program": "def double(x): return 8"},
        {"problem_id": "MBPP/11", "program": "x = '\ud800'"},
        {"problem_id": "MBPP/11", "program": "raise ValueError('\\ud800\\x1b[2J')"},
        {"problem_id": "MBPP/11", "program": "def double(x): return x + x", "mine": "again"},
    ]
    done = in_process(
        "judge", "--problems", write_problems(folder), "--candidates",
        write_candidates(folder, rows), "--out", "out/verdicts.jsonl", "--time-floor", "0.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in (folder / "out/verdicts.jsonl").read_text().splitlines()]
    assert [
        {name: each[name] for name in row} for each, row in zip(told, rows, strict=True)
    ] == rows
    assert [each["outcome"] for each in told] == [
        "timeout", "passed", "wrong-answer", "syntax-error", "error", "passed",
    ]  # fmt: skip
    assert told[2]["detail"] == "test 2: 8, expected -2"
    assert {each["evidence"] for each in told} == {"values"}
    assert told[1]["wall_s"] > 0
    assert "6 programs: 2 passed" in done.stderr
    assert "isolation " in done.stderr
    assert set(files_in(folder / "out")) == {"verdicts.jsonl", "verdicts.jsonl.facts.json"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        pytest.param("{", "candidates.jsonl:1: is not valid JSON", id="no JSON"),
        pytest.param("[]", "candidates.jsonl:1: has no text 'problem_id'", id="no object"),
        pytest.param('{"problem_id": "MBPP/11"}', "has no text 'program'", id="no program"),
        pytest.param(
            '{"problem_id": "MBPP/99", "program": ""}',
            "MBPP/99: is not among the 1 problems",
            id="no such problem",
        ),
        pytest.param("", "holds no candidate", id="nothing"),
    ],
)
def test_a_candidate_that_is_none_is_told_by_line(
    in_process: InProcess, line: str, told: str
) -> None:
    folder = in_process.folder
    (folder / "candidates.jsonl").write_text(line + "\n")
    done = in_process(
        "judge", "--problems", write_problems(folder), "--candidates", "candidates.jsonl", "--out",
        "verdicts.jsonl",
    )  # fmt: skip
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert set(files_in(folder)) == {"mine.jsonl", "candidates.jsonl"}


def test_a_tier_that_is_not_here_is_refused_with_what_would_help(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = in_process.folder
    monkeypatch.setenv("PATH", str(folder))
    words = (
        "judge", "--problems", write_problems(folder), "--candidates",
        write_candidates(folder, [{"problem_id": "MBPP/11", "program": "x = 1"}]), "--out", "-",
    )  # fmt: skip
    done = in_process(*words, "--isolation", "namespaces")
    assert done.returncode == 1
    assert "bubblewrap is not installed (apt-get install bubblewrap" in done.stderr
    assert "--isolation none" in done.stderr


def test_the_self_check_prints_ceiling_and_floor(in_process: InProcess) -> None:
    done = in_process(
        "selfcheck", "--problems", write_problems(in_process.folder), "--split", "all", "--out",
        "found.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["ceiling:", "the", "reference", "2/2", "100.0", "0", "0"] in lines
    assert ["floor:", "nothing", "0/2", "0.0", "2", "0"] in lines
    found = json.loads((in_process.folder / "found.json").read_bytes())
    assert [len(found[name]["passed"]) for name in ("ceiling", "empty", "filler")] == [2, 0, 0]


def test_the_self_check_names_a_reference_that_fails(in_process: InProcess) -> None:
    path = write_problems(in_process.folder)
    path.write_text(path.read_text().replace("double(4) == 8", "double(4) == 9"))
    done = in_process("selfcheck", "--problems", path, "--split", "all")
    assert done.returncode == 3
    assert "MBPP/11: its own reference does not pass its tests here" in done.stderr
    assert "MBPP/11/single-line/L1  reference-fails" in done.stdout


def test_the_doctor_says_what_holds_programs_here(in_process: InProcess) -> None:
    done = in_process("doctor")
    tiers = [line for line in done.stdout.splitlines() if line.startswith("isolation ")]
    assert len(tiers) == 2
    assert (done.returncode == 0) == any("in use" in line for line in tiers)
    assert "cores" in done.stdout


# --- kills ----------------------------------------------------------------------------------------


def descendants(pid: int) -> set[int]:
    """Every process below `pid`, at this moment."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that its parent has not looked at does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def many_candidates(count: int) -> list[dict[str, Any]]:
    """Right, wrong, crashing and slow ones in turn, all distinct."""
    programs: list[Callable[[int], str]] = [
        lambda n: f"def double(x):\n    return x + x + {n} - {n}\n",
        lambda n: f"def double(x):\n    return x + {n}\n",
        lambda n: f"def double(x):\n    return unknown_{n}\n",
        lambda n: f"import time\ntime.sleep(0.02)\ndef double(x):\n    return 2 * x + 0 * {n}\n",
    ]
    return [
        {"problem_id": "MBPP/11", "program": programs[number % 4](number)}
        for number in range(count)
    ]


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path) -> None:
    draw = random.Random(3)  # noqa: S311  moments, not secrets
    rows = many_candidates(400)
    words = (
        "judge", "--problems", write_problems(tmp_path), "--candidates",
        write_candidates(tmp_path, rows), "--out", "verdicts.jsonl",
    )  # fmt: skip
    journal = tmp_path / "verdicts.jsonl.judging" / "verdicts.jsonl"
    kills = 0
    while True:
        process = start_fim_eval(*words, cwd=tmp_path)
        try:
            before = journal.read_bytes().count(b"\n") if journal.exists() else 0
            wanted = before + draw.randrange(5, 80)

            def far_enough(process=process, wanted=wanted) -> bool:  # type: ignore[no-untyped-def]
                judged = journal.read_bytes().count(b"\n") if journal.exists() else 0
                return process.poll() is not None or judged >= wanted

            wait_until(far_enough, "some verdicts", 60)
            time.sleep(draw.random() / 50)
            below = descendants(process.pid)
            if process.poll() is not None:
                break
            process.kill()
            kills += 1
        finally:
            process.kill()
            _, errors = process.communicate()
        wait_until(lambda below=below: not any(map(alive, below)), "no process is left", 20)  # type: ignore[misc]
        lines = journal.read_bytes().split(b"\n")[:-1]
        keys = [json.loads(line)["program_sha256"] for line in lines]
        assert len(keys) == len(set(keys))
    assert process.returncode == 0, errors
    assert kills >= 3
    told = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [each["program"] for each in told] == [row["program"] for row in rows]
    expected = ["passed", "wrong-answer", "error", "passed"] * 100
    assert [each["outcome"] for each in told] == expected
    assert not (tmp_path / "verdicts.jsonl.judging").exists()


def test_an_interruption_is_one_sentence_and_leaves_no_process(tmp_path: Path) -> None:
    rows = many_candidates(2_000)
    process = start_fim_eval(
        "judge", "--problems", write_problems(tmp_path), "--candidates",
        write_candidates(tmp_path, rows), "--out", "verdicts.jsonl", cwd=tmp_path,
    )  # fmt: skip
    journal = tmp_path / "verdicts.jsonl.judging" / "verdicts.jsonl"
    try:
        wait_until(lambda: journal.exists() and journal.stat().st_size > 0, "a verdict", 60)
        below = descendants(process.pid)
        assert below
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted; what was answered is on disk" in errors
    assert "Traceback" not in errors
    wait_until(lambda: not any(map(alive, below)), "no process is left", 20)
    outcomes = Counter(json.loads(line)["outcome"] for line in journal.read_bytes().splitlines())
    assert not outcomes["sandbox-error"]

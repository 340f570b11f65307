"""Two runs whose differences are known, task by task."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fim_eval.errors import RunDirectoryError
from fim_eval.report import compare, read_scored
from fim_eval.report.comparison import Comparison, Flip, show_comparison
from tests.integration import InProcess
from tests.integration.simulated import Simulated, Suite, answer, suite, write_run

TASKS = suite(40, ("single-line",), lines=2)
ONE = Simulated("m", 0.6, card="CodeLlama-7b-hf")
OTHER = replace(ONE, noise=1, server_version="0.33.0")


def compared(first: Path, second: Path) -> Comparison:
    one, other = read_scored([first, second])
    return compare(one, other, "reference-lines", resamples=200)


def flips(of: Comparison) -> dict[str, Flip]:
    return {flip.metric: flip for flip in of.flips}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "a", TASKS, ONE), write_run(folder / "b", TASKS, OTHER)


def test_every_flip_is_counted_and_named(runs: tuple[Path, Path]) -> None:
    of = compared(*runs)
    answers = {
        task.task_id: [
            answer(task, model, TASKS.hardness[task.problem_id]) for model in (ONE, OTHER)
        ]
        for task in TASKS.tasks
    }
    found = flips(of)
    changed = {name for name, (was, now) in answers.items() if was[0] != now[0]}
    assert set(found["text"].gained) == changed
    gained = {name for name, (was, now) in answers.items() if now[1] and not was[1]}
    lost = {name for name, (was, now) in answers.items() if was[1] and not now[1]}
    passed = found["passed"]
    assert (set(passed.gained), set(passed.lost)) == (gained, lost)
    assert gained
    assert lost
    assert passed.changed == len(gained) + len(lost)
    assert (passed.both or 0) + (passed.neither or 0) + passed.changed == 80
    assert passed.difference is not None
    assert passed.difference.value == pytest.approx((len(gained) - len(lost)) / 80)
    assert found["exact_match"].changed < found["text"].changed


@pytest.mark.parametrize("width", [80, 120])
def test_a_narrow_terminal_gets_whole_columns(runs: tuple[Path, Path], width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(show_comparison(compared(*runs), width))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "exact_match_rstrip " in shown
    assert ("no room for" in shown) is (width == 80)


def test_what_differs_between_the_runs_is_named(runs: tuple[Path, Path]) -> None:
    assert compared(*runs).differing == {"server_version": ("0.32.0", "0.33.0")}


def test_a_run_does_not_differ_from_itself(runs: tuple[Path, Path]) -> None:
    of = compared(runs[0], runs[0])
    assert [flip.changed for flip in of.flips] == [0, 0, 0, 0]
    assert flips(of)["passed"].p_permutation == 1


def test_unresolved_tasks_are_no_flips_and_widen_the_difference(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    lost = frozenset(task.task_id for task in TASKS.tasks[:5])
    part = write_run(tmp_path / "part", TASKS, replace(ONE, unanswered=lost))
    of = flips(compared(runs[0], part))
    for metric in ("text", "exact_match", "passed"):
        assert (of[metric].unresolved, of[metric].changed) == (5, 0)
    difference = of["passed"].difference
    assert difference is not None
    assert difference.value is None
    assert difference.least is not None
    assert difference.most == pytest.approx(difference.least + 5 / 80)


def test_tasks_of_one_run_only_are_counted_and_left_out(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    half = write_run(tmp_path / "half", Suite(TASKS.problems, TASKS.tasks[:30], TASKS.hardness),
                     OTHER)  # fmt: skip
    of = compared(runs[0], half)
    assert (of.tasks, of.only_in_first, of.only_in_second) == (30, 50, 0)


def test_runs_without_a_common_task_are_refused(tmp_path: Path) -> None:
    rest = write_run(tmp_path / "rest", Suite(TASKS.problems, TASKS.tasks[30:], TASKS.hardness),
                     OTHER)  # fmt: skip
    half = write_run(tmp_path / "half", Suite(TASKS.problems, TASKS.tasks[:30], TASKS.hardness),
                     OTHER)  # fmt: skip
    with pytest.raises(RunDirectoryError, match="no task in common"):
        compared(rest, half)


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, monkeypatch, capfd)


class TestTheCommand:
    def test_shows_the_counts_and_lists_tasks(
        self, in_process: InProcess, runs: tuple[Path, Path]
    ) -> None:
        done = in_process("compare", *map(str, runs))
        assert done.returncode == 0, done.stderr
        assert "80 tasks, reference-lines" in done.stdout
        assert "server_version: 0.32.0 in the first, 0.33.0 in the second" in done.stderr
        listed = [line for line in done.stdout.splitlines() if line.startswith("passed ")]
        passed = flips(compared(*runs))["passed"]
        assert len(listed) == min(20, len(passed.gained)) + min(20, len(passed.lost))

    def test_prints_all_of_it_as_json(self, in_process: InProcess, runs: tuple[Path, Path]) -> None:
        done = in_process("compare", *map(str, runs), "--json", "--policy", "raw")
        found = Comparison.model_validate(json.loads(done.stdout))
        assert found.policy == "raw"
        assert flips(found)["text"].gained

    def test_says_that_passed_tests_are_not_compared(
        self, in_process: InProcess, runs: tuple[Path, Path], tmp_path: Path
    ) -> None:
        plain = write_run(tmp_path / "plain", TASKS, OTHER)
        for name in ("judging", "verdicts", "references"):
            (plain / f"{name}.jsonl").unlink()
        done = in_process("compare", str(runs[0]), str(plain))
        assert "passed tests are not compared" in done.stderr
        assert "passed gained" not in done.stdout

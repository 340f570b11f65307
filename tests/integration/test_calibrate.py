"""Official tasks asked of a server that knows the answers, beside what was published."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fim_eval.published import HUMAN_EVAL_INFILLING
from fim_eval.report import beside_published
from tests.integration import InProcess
from tests.integration.fake_server import FakeServer
from tests.integration.test_report import MIDDLES, make_run


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, monkeypatch, capfd)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(model="m") as server:
        yield server


def write_tasks(path: Path, suite: str) -> Path:
    rows = [
        {
            "task_id": f"{suite}/HumanEval/{number}/L0",
            "entry_point": f"f{number}",
            "prompt": f"def f{number}():\n",
            "canonical_solution": f"    return {number}\n",
            "suffix": "",
            "test": f"def check(candidate):\n    assert candidate() == {number}\n",
        }
        for number in range(4)
    ]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def test_our_numbers_stand_beside_the_published_ones(
    in_process: InProcess, server: FakeServer
) -> None:
    folder = in_process.folder
    files = [
        write_tasks(folder / "one.jsonl.gz", "SingleLineInfilling"),
        write_tasks(folder / "two.jsonl.gz", "RandomSpanInfillingLight"),
    ]
    done = in_process(
        "calibrate", *files, "--endpoint", server.endpoint, "--model", "m", "--strategies", "lr",
        "--out", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "m, lr, single-line" in done.stdout
    assert "m, lr, random-span" in done.stdout
    assert "nothing has been published of this model on these tasks" in done.stderr
    assert {body["prompt"] for body in server.requests[1:]} >= {"def f0():\n"}


def test_a_file_of_another_kind_is_refused(in_process: InProcess, server: FakeServer) -> None:
    done = in_process(
        "calibrate", "absent.jsonl.gz", "--endpoint", server.endpoint, "--model", "m", "--out",
        "out",
    )  # fmt: skip
    assert done.returncode == 1
    assert "absent.jsonl.gz: cannot be read" in done.stderr
    assert server.calls == 0


def test_a_difference_is_ours_less_the_published_one() -> None:
    row: dict[str, Any] = {
        "model": "m", "strategy": "fim-psm", "kind": "single-line", "policy": "raw", "tasks": 1033,
        "pass_at_1": 0.75, "pass_at_1_low": 0.75, "pass_at_1_high": 0.75,
        "exact_match": None, "exact_match_low": 0.6, "exact_match_high": 0.7,
    }  # fmt: skip
    table = beside_published(pl.DataFrame([row]), {"m": "codellama/CodeLlama-7b-hf"})
    first, second = table.to_dicts()
    assert (first["metric"], first["published"]) == ("pass_at_1", 0.741)
    assert first["difference"] == pytest.approx(0.009)
    assert (second["published"], second["difference"]) == (0.676, None)
    assert beside_published(pl.DataFrame([row]), {"m": None}).is_empty()


def test_every_published_number_is_a_rate_with_its_source() -> None:
    assert len(HUMAN_EVAL_INFILLING) == 16
    for number in HUMAN_EVAL_INFILLING:
        assert 0 < number.value < 1
        assert "arxiv.org" in number.source
    keys = [number[:4] for number in HUMAN_EVAL_INFILLING]
    assert len(set(keys)) == len(keys)


def test_runs_of_models_with_published_numbers_show_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fim_eval.cli.calibrating import tell_calibration

    make_run(
        tmp_path / "out" / "run",
        [{"text": middle} for middle in MIDDLES],
        model="m",
        card="CodeLlama-7b-hf",
        strategy="fim-psm",
    )
    tell_calibration([tmp_path / "out"], limit=4)
    output, errors = capsys.readouterr()
    # Exact match of all four; the run was not judged.
    [line] = [line.split() for line in output.splitlines() if "exact_match" in line]
    assert line[-4:] == ["4", "100.0", "67.6", "+32.4"]
    assert "table 6" in errors
    assert "only the first 4 tasks were asked" in errors

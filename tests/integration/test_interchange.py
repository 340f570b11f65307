"""Completions from elsewhere, through the judge and the report, and ours back out."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from fim_eval.interchange import export_run
from fim_eval.journal import read_manifest, read_tasks
from fim_eval.report import find_runs, findings, join_browsed, read_scored, score_run, summarise
from tests.data_paths import infilling_path, needs_infilling
from tests.integration import InProcess
from tests.integration.simulated import Simulated, suite, write_run

MADE = suite(6, ("single-line",), lines=2)


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, monkeypatch, capfd)


@pytest.fixture
def folder(in_process: InProcess) -> Path:
    """Holds `tasks.jsonl` of twelve starter tasks."""
    done = in_process("tasks", "--problems", "starter", "--out", "all.jsonl")
    assert done.returncode == 0, done.stderr
    lines = (in_process.folder / "all.jsonl").read_bytes().splitlines(keepends=True)
    (in_process.folder / "tasks.jsonl").write_bytes(b"".join(lines[:12]))
    return in_process.folder


def samples(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def references(tasks: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in tasks.read_text().splitlines()]
    return [{"task_id": row["task_id"], "completion": row["middle"]} for row in rows]


IMPORT = ("--tasks", "tasks.jsonl", "--model", "CodeLlama-7b-hf", "--strategy", "fim-psm")


@pytest.fixture
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of its first 80 tasks. Asked for first: `in_process` hides the variable that names it."""
    lines = gzip.decompress(infilling_path().read_bytes()).splitlines(keepends=True)
    path = tmp_path_factory.mktemp("official") / "HumanEval-SingleLineInfilling.jsonl"
    path.write_bytes(b"".join(lines[:80]))
    return path


@needs_infilling
def test_the_official_references_pass_when_they_are_imported_and_judged(
    official: Path, in_process: InProcess
) -> None:
    done = in_process("tasks", "--problems", official, "--out", "tasks.jsonl")
    assert done.returncode == 0, done.stderr
    rows = references(in_process.folder / "tasks.jsonl")
    assert rows[0]["task_id"] == "SingleLineInfilling/HumanEval/0/L0"
    samples(in_process.folder / "samples.jsonl", rows[:60])
    done = in_process("import", "samples.jsonl", *IMPORT, "--out", "run")
    assert done.returncode == 3
    assert "60 of 80 tasks" in done.stderr
    assert in_process("verify", "run").returncode == 0
    [row] = (
        summarise(score_run(in_process.folder / "run"))
        .filter(pl.col("policy") == "raw")
        .rows(named=True)
    )
    assert (row["tasks"], row["answered"], row["unjudged"]) == (80, 60, 0)
    assert row["pass_at_1_low"] == row["exact_match_low"] == pytest.approx(60 / 80)
    assert row["pass_at_1_high"] == 1
    found = findings(read_scored([in_process.folder / "run"]), resamples=200)
    assert [one.published for one in found.beside] == [0.741, 0.676]
    exported = in_process("export", "run")
    assert exported.returncode == 3
    assert [json.loads(line) for line in exported.stdout.splitlines()] == rows[:60]
    assert "are ours" not in exported.stderr


def test_what_is_not_known_of_an_imported_run_is_said_and_not_invented(
    in_process: InProcess, folder: Path
) -> None:
    samples(folder / "samples.jsonl", references(folder / "tasks.jsonl"))
    done = in_process("import", "samples.jsonl", *IMPORT, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "prompts, sampling and server are not known" in done.stderr
    manifest = read_manifest(folder / "run")
    identity = manifest.identity
    assert (identity.model, identity.strategy) == ("CodeLlama-7b-hf", "fim-psm")
    assert {
        identity.prompt_form, identity.prompts_sha256, identity.max_tokens, identity.sampling,
        identity.context, identity.server_version, manifest.server.base_url, manifest.concurrency,
        manifest.timeouts,
    } == {None}  # fmt: skip
    assert manifest.imported is not None
    assert manifest.imported.completions == 12
    summary = summarise(score_run(folder / "run"))
    for name in ("truncated", "no_end", "completion_tokens", "wall_s", "tokens_per_s"):
        assert summary[name].to_list() == [None] * 5, name
    assert summary["exact_match"].to_list() == [1.0] * 5
    found = findings(read_scored([folder / "run"]), resamples=200)
    assert found.runs[0].prompt_form == "unknown"
    assert found.runs[0].server == "unknown: imported from samples.jsonl"
    assert (found.rows[0].latency_s, found.rows[0].wall_s) == (None, None)
    assert any("imported completions" in caveat for caveat in found.caveats)
    assert in_process("report", "run", "--out", "out").returncode == 0


def test_what_is_exported_and_imported_scores_as_it_did(in_process: InProcess) -> None:
    run = write_run(in_process.folder / "ours", MADE, Simulated("m", 0.5))
    (in_process.folder / "tasks.jsonl").write_bytes((run / "tasks.jsonl").read_bytes())
    done = in_process("export", "ours", "--out", "samples.jsonl")
    assert done.returncode == 0, done.stderr
    assert "12 of 12 tasks, raw" in done.stderr
    assert "the official evaluator does not know them" in done.stderr
    words = ("--tasks", "tasks.jsonl", "--model", "m", "--strategy", "lr", "--out", "theirs")
    assert in_process("import", "samples.jsonl", *words).returncode == 0
    columns = ["task_id", "policy", "exact_match", "edit_distance", "ran_past"]
    ours, theirs = (
        score_run(in_process.folder / name).select(columns) for name in ("ours", "theirs")
    )
    assert ours.equals(theirs)


def test_a_policy_cuts_what_is_exported(in_process: InProcess) -> None:
    run = write_run(in_process.folder / "run", MADE, Simulated("m", 0.0))
    raw, cut = export_run(run, "raw"), export_run(run, "reference-lines")
    assert raw.lines.count(b"other = 0") == 12
    assert b"other = 0" not in cut.lines


def test_a_task_without_an_answer_has_no_line(in_process: InProcess) -> None:
    lost = frozenset({MADE.tasks[3].task_id})
    write_run(in_process.folder / "run", MADE, Simulated("m", 0.5, unanswered=lost))
    done = in_process("export", "run")
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 11
    assert "1 tasks have no answer, and no line" in done.stderr


def test_the_first_of_several_completions_is_the_answer(
    in_process: InProcess, folder: Path
) -> None:
    rows = references(folder / "tasks.jsonl")
    worse = {**rows[0], "completion": "    pass\n"}
    samples(folder / "samples.jsonl", [*rows, worse])
    done = in_process("import", "samples.jsonl", *IMPORT, "--out", "run")
    assert done.returncode == 0
    assert "13 completions to 12 of 12 tasks" in done.stderr
    assert "up to 2 completions of a task: the first is its answer" in done.stderr
    assert summarise(score_run(folder / "run"))["exact_match"].to_list() == [1.0] * 5
    assert read_manifest(folder / "run").identity.samples == 2


def test_a_compressed_file_is_read(in_process: InProcess, folder: Path) -> None:
    plain = samples(folder / "samples.jsonl", references(folder / "tasks.jsonl"))
    (folder / "samples.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert in_process("import", "samples.jsonl.gz", *IMPORT, "--out", "run").returncode == 0
    assert len(list(read_tasks(folder / "run"))) == 12


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param({"task_id": "Other/1", "completion": ""}, "Other/1 is none of the 12 tasks",
                     id="another task"),
        pytest.param({"task_id": "Starter/1"}, "needs task_id and completion", id="nothing"),
        pytest.param({"task_id": "x", "completion": 3}, "both text", id="number"),
        pytest.param([1], "needs task_id and completion", id="a list"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_sample_is_named(
    in_process: InProcess, folder: Path, row: object, message: str
) -> None:
    lines = [json.dumps(references(folder / "tasks.jsonl")[0]), json.dumps(row)]
    (folder / "samples.jsonl").write_text("\n".join(lines))
    done = in_process("import", "samples.jsonl", *IMPORT, "--out", "run")
    assert done.returncode == 1
    assert "samples.jsonl:2: " in done.stderr
    assert message in done.stderr
    assert not (folder / "run").exists()


def test_a_folder_that_holds_a_run_is_refused(in_process: InProcess, folder: Path) -> None:
    samples(folder / "samples.jsonl", references(folder / "tasks.jsonl"))
    assert in_process("import", "samples.jsonl", *IMPORT, "--out", "run").returncode == 0
    again = in_process("import", "samples.jsonl", *IMPORT, "--out", "run")
    assert again.returncode == 1
    assert "holds a run already" in again.stderr


def test_how_the_completions_were_asked_for_must_be_said(
    in_process: InProcess, folder: Path
) -> None:
    samples(folder / "samples.jsonl", references(folder / "tasks.jsonl"))
    done = in_process(
        "import", "samples.jsonl", "--tasks", "tasks.jsonl", "--model", "m", "--out", "run"
    )
    assert done.returncode == 2
    assert "--strategy" in done.stderr


def test_imported_and_asked_runs_are_reported_together(in_process: InProcess) -> None:
    ours = write_run(in_process.folder / "runs" / "ours", MADE, Simulated("a", 0.9))
    (in_process.folder / "tasks.jsonl").write_bytes((ours / "tasks.jsonl").read_bytes())
    rows: list[dict[str, object]] = [
        {"task_id": task.task_id, "completion": "\x1b[2J"} for task in MADE.tasks
    ]
    samples(in_process.folder / "samples.jsonl", rows)
    words = ("--tasks", "tasks.jsonl", "--model", "b", "--strategy", "lr", "--out", "runs/theirs")
    assert in_process("import", "samples.jsonl", *words).returncode == 0
    found = findings(read_scored(find_runs([in_process.folder / "runs"])), resamples=200)
    exact = [pair for pair in found.pairs if (pair.metric, pair.policy) == ("exact_match", "raw")]
    assert [(pair.smaller, pair.larger) for pair in exact] == [("a", "b")]


def test_how_imported_answers_ended_is_told_as_unknown_everywhere(
    in_process: InProcess, folder: Path
) -> None:
    samples(folder / "samples.jsonl", references(folder / "tasks.jsonl"))
    assert in_process("import", "samples.jsonl", *IMPORT, "--out", "run").returncode == 0
    assert in_process("report", "run", "--out", "out").returncode == 0
    rows = json.loads((folder / "out" / "report.json").read_bytes())["rows"]
    assert {(row["truncated"], row["no_end"], row["ran_past"]) for row in rows} == {(None, None, 0)}
    with (folder / "out" / "summary.csv").open() as file:
        assert {(row["truncated"], row["no_end"]) for row in csv.DictReader(file)} == {("", "")}
    page = (folder / "out" / "index.html").read_text()
    assert "<td>unknown</td><td>unknown</td><td>0</td></tr>" in page
    assert "how they ended is not known" in (folder / "out" / "answer.md").read_text()
    (read,) = read_scored([folder / "run"], browse=True)
    assert read.browsed is not None
    browsed = join_browsed([read.browsed])
    assert {answer.met_limit for task in browsed.tasks for answer in task.answers if answer} == {
        None
    }

"""From run directories made by hand to tables whose every number can be checked by eye."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from rich.console import Console

from fim_eval.errors import RunDirectoryError
from fim_eval.formats import card_of
from fim_eval.lines import json_lines, sealed
from fim_eval.postprocess import POLICIES
from fim_eval.records import InfillTask
from fim_eval.report import find_runs, score_run, show, store, summarise
from fim_eval.words import Strategy
from tests.integration import InProcess

MS = 1_000_000
"""Nanoseconds."""

MIDDLES = ("    return a\n", "    return b\n", "    x = 1\n", "    y = 2\n")


def make_run(
    folder: Path,
    answers: Sequence[dict[str, Any] | None],
    *,
    middles: Sequence[str] = MIDDLES,
    model: str = "fake-model",
    card: str | None = None,
    strategy: Strategy = "lr",
    suffix: str = "",
) -> Path:
    """A run directory of plain files. An answer's fields replace those of a plain completion;
    a `reason` makes it a failure; None: never asked.
    """
    found = card_of(card) if card else None
    tasks = [
        InfillTask(
            task_id=f"Made/{number}/single-line/L1",
            problem_id=f"Made/{number}",
            kind="single-line",
            context=None,
            prefix="def f(a, b):\n",
            middle=middle,
            suffix=suffix,
        )
        for number, middle in enumerate(middles)
    ]
    manifest = {
        "format": 1,
        "created_at": "2026-11-23T23:04:24.000+00:00",
        "fim_eval_version": "0.1.0",
        "code_revision": None,
        "python": "3.11.7",
        "platform": "Linux",
        "packages": {},
        "identity": {
            "tasks_sha256": hashlib.sha256(json_lines(tasks)).hexdigest(),
            "tasks": len(tasks),
            "model": model,
            "model_id": found.model_id if found else None,
            "strategy": strategy,
            "context": "text",
            "prompt_form": "text",
            "prompts_sha256": "2" * 64,
            "tokenizer_sha256": None,
            "max_tokens": 64,
            "stop": [],
            "stop_token_ids": [],
            "sampling": {},
            "answers_as": model,
            "server_version": None,
            "system_fingerprint": None,
        },
        "server": {
            "base_url": "http://127.0.0.1:8007/v1",
            "model": model,
            "answers_as": model,
            "root": None,
            "max_model_len": None,
            "version": None,
            "system_fingerprint": None,
        },
        "server_log": None,
        "card": found.model_dump() if found else None,
        "tokenizer": None,
        "task_facts": None,
        "limit": None,
        "concurrency": 64,
        "timeouts": {},
        "api_key_env": None,
    }
    lines = []
    for task, answer in zip(tasks, answers, strict=True):
        if answer is None:
            continue
        line = {
            "task_id": task.task_id,
            "strategy": strategy,
            "sample_index": 0,
            "attempts": 1,
            "segment": 0,
            "sent_ns": 0,
            "elapsed_ns": 100 * MS,
        }
        if "reason" in answer:
            line |= {"outcome": "failure", "detail": "600 s"}
        else:
            line |= {
                "outcome": "completion",
                "server_text": None,
                "token_ids": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "system_fingerprint": None,
                "answered_as": model,
            }
        lines.append(line | answer)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    (folder / "tasks.jsonl").write_bytes(as_lines([task.model_dump() for task in tasks]))
    (folder / "generations.jsonl").write_bytes(b"".join(map(sealed, map(orjson.dumps, lines))))
    return folder


def as_lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def row(summary: pl.DataFrame, policy: str) -> dict[str, Any]:
    [found] = summary.filter(pl.col("policy") == policy).to_dicts()
    return found


def rounded(table: dict[str, Any], *names: str) -> list[Any]:
    return [
        round(table[name], 6) if isinstance(table[name], float) else table[name] for name in names
    ]


def test_known_answers_give_known_numbers(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        [
            {"text": "    return a\n"},  # right
            {"text": "    return a\n", "sent_ns": 50 * MS},  # 1 of 13 characters wrong
            {"text": "    x = 1  \n    z = 3\n", "finish_reason": "length"},  # goes on
            {"text": "", "sent_ns": 100 * MS, "elapsed_ns": 400 * MS, "completion_tokens": 1},
        ],
    )
    summary = summarise(score_run(run))
    assert summary["policy"].to_list() == list(POLICIES)
    raw, cut = row(summary, "raw"), row(summary, "reference-lines")

    # Distances of the whole answers: 0; 1; two blanks and a line of ten; all ten of the reference.
    assert rounded(raw, "tasks", "answered", "unresolved", "truncated") == [4, 4, 0, 1]
    assert rounded(raw, "exact_match", "exact_match_rstrip") == [0.25, 0.25]
    assert rounded(raw, "edit_distance_mean", "edit_distance_median") == [23 / 4, 5.5]
    similarity = (1 + (1 - 1 / 13) + (1 - 12 / 22) + 0) / 4
    assert rounded(raw, "edit_similarity") == [round(similarity, 6)]
    indel = (1 + (1 - 2 / 26) + (1 - 12 / 32) + 0) / 4
    assert rounded(raw, "indel_ratio") == [round(indel, 6)]

    # Cut to the reference's one line: the third is right but for two blanks at its end.
    assert rounded(cut, "exact_match", "exact_match_rstrip") == [0.25, 0.5]
    assert rounded(cut, "edit_distance_mean", "edit_distance_median") == [13 / 4, 1.5]
    similarity = (1 + (1 - 1 / 13) + (1 - 2 / 12) + 0) / 4
    assert rounded(cut, "edit_similarity") == [round(similarity, 6)]

    for each in (raw, cut):
        # 5 + 5 + 5 + 1 tokens from 0 to 500 ms.
        assert rounded(each, "completion_tokens", "wall_s", "tokens_per_s") == [16, 0.5, 32.0]
        for name in ("exact_match", "exact_match_rstrip", "edit_similarity", "indel_ratio"):
            assert each[f"{name}_low"] == each[name] == each[f"{name}_high"]


def test_what_did_not_end_and_what_ran_past_the_hole_is_counted(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        [
            {"text": "    return a\n"},  # the end of the sequence
            {"text": "    return b\n", "stop_reason": 32010},  # the end token
            {"text": "    x = 1\n    return x", "stop_reason": "\ndef "},
            {"text": "    y = 2\n    z = 3\n", "finish_reason": "length"},
        ],
        suffix="    return x\n",
    )
    for each in summarise(score_run(run)).to_dicts():
        assert rounded(each, "no_end", "truncated", "ran_past") == [2, 1, 1]


def test_what_has_no_answer_is_in_the_denominator_and_rates_become_bounds(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        [
            {"text": "    return a\n"},
            {"text": "    return a\n"},
            {"reason": "timeout"},
            None,  # never asked
        ],
    )
    raw = row(summarise(score_run(run)), "raw")
    assert rounded(raw, "tasks", "answered", "unresolved") == [4, 2, 2]
    assert rounded(raw, "exact_match", "exact_match_low", "exact_match_high") == [None, 0.25, 0.75]
    low = (1 + (1 - 1 / 13)) / 4
    assert rounded(raw, "edit_similarity", "edit_similarity_low", "edit_similarity_high") == [
        None,
        round(low, 6),
        round(low + 0.5, 6),
    ]
    # Distances are of the answers there are.
    assert rounded(raw, "edit_distance_mean", "edit_distance_median") == [0.5, 0.5]
    assert rounded(raw, "completion_tokens") == [10]


@pytest.mark.parametrize("answers", [[None] * 4, [{"reason": "connection"}] * 4])
def test_a_run_without_an_answer_has_a_row_without_numbers(
    tmp_path: Path, answers: list[dict[str, Any] | None]
) -> None:
    raw = row(summarise(score_run(make_run(tmp_path / "run", answers))), "raw")
    assert rounded(raw, "tasks", "answered", "unresolved", "truncated") == [4, 0, 4, 0]
    assert rounded(raw, "exact_match", "exact_match_low", "exact_match_high") == [None, 0.0, 1.0]
    unknown = (
        "edit_distance_mean", "edit_distance_median", "completion_tokens", "wall_s", "tokens_per_s",
    )  # fmt: skip
    assert rounded(raw, *unknown) == [None] * 5


def test_the_failure_before_an_answer_does_not_count(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{"reason": "timeout"}], middles=MIDDLES[:1])
    later = make_run(tmp_path / "later", [{"text": MIDDLES[0]}], middles=MIDDLES[:1])
    journal = run / "generations.jsonl"
    journal.write_bytes(journal.read_bytes() + (later / "generations.jsonl").read_bytes())
    raw = row(summarise(score_run(run)), "raw")
    assert rounded(raw, "tasks", "answered", "exact_match") == [1, 1, 1.0]


def test_the_wall_time_of_two_sessions_is_the_sum_of_both(tmp_path: Path) -> None:
    right = [{"text": middle} for middle in MIDDLES]
    times = [
        {"segment": 0, "sent_ns": 10 * MS, "elapsed_ns": 100 * MS},
        {"segment": 0, "sent_ns": 60 * MS, "elapsed_ns": 150 * MS},  # 10 to 210 ms
        {"segment": 1, "sent_ns": 0, "elapsed_ns": 300 * MS},
        {"segment": 1, "sent_ns": 100 * MS, "elapsed_ns": 100 * MS},  # 0 to 300 ms
    ]
    answers = [answer | time for answer, time in zip(right, times, strict=True)]
    raw = row(summarise(score_run(make_run(tmp_path / "run", answers))), "raw")
    assert rounded(raw, "wall_s", "completion_tokens", "tokens_per_s") == [0.5, 20, 40.0]


def test_tokens_that_the_server_does_not_count_are_unknown(tmp_path: Path) -> None:
    uncounted = {"completion_tokens": None, "prompt_tokens": None}
    run = make_run(tmp_path / "run", [{"text": middle} | uncounted for middle in MIDDLES])
    raw = row(summarise(score_run(run)), "raw")
    assert rounded(raw, "completion_tokens", "tokens_per_s", "wall_s") == [None, None, 0.1]


def test_lengths_count_characters_not_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{"text": "ab🦙\n"}], middles=["abé\n"])
    raw = row(summarise(score_run(run)), "raw")
    assert rounded(raw, "edit_distance_mean", "edit_similarity") == [1.0, 0.75]


def test_a_journal_torn_at_its_end_can_be_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{"text": middle} for middle in MIDDLES])
    journal = run / "generations.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    before = journal.read_bytes()
    raw = row(summarise(score_run(run)), "raw")
    assert rounded(raw, "answered", "unresolved") == [3, 1]
    assert journal.read_bytes() == before


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param(lambda _: b"", id="all"),
        pytest.param(lambda lines: lines[:-30], id="the torn last"),
        pytest.param(lambda lines: lines.partition(b"\n")[2], id="the first"),
    ],
)
def test_a_run_that_lost_tasks_is_refused(tmp_path: Path, lose: Callable[[bytes], bytes]) -> None:
    """Its manifest tells how many there are: fewer would shrink the denominator unseen."""
    run = make_run(tmp_path / "run", [{"text": middle} for middle in MIDDLES])
    (run / "tasks.jsonl").write_bytes(lose((run / "tasks.jsonl").read_bytes()))
    with pytest.raises(RunDirectoryError):
        score_run(run)


def test_rows_come_by_size_then_strategy_then_policy(tmp_path: Path) -> None:
    right = [{"text": middle} for middle in MIDDLES]
    runs = [
        make_run(tmp_path / "a", right, model="codellama-13b", card="CodeLlama-13b-hf"),
        make_run(tmp_path / "b", right, model="unheard-of"),
        make_run(
            tmp_path / "c",
            right,
            model="codellama-7b",
            card="CodeLlama-7b-hf",
            strategy="fim-psm",
        ),
        make_run(tmp_path / "d", right, model="codellama-7b", card="CodeLlama-7b-hf"),
    ]
    summary = summarise(pl.concat([score_run(run) for run in runs]))
    two = summary.filter(pl.col("policy").is_in(["raw", "reference-lines"]))
    assert two.select("model", "strategy", "policy").rows() == [
        ("codellama-7b", "lr", "raw"),
        ("codellama-7b", "lr", "reference-lines"),
        ("codellama-7b", "fim-psm", "raw"),
        ("codellama-7b", "fim-psm", "reference-lines"),
        ("codellama-13b", "lr", "raw"),
        ("codellama-13b", "lr", "reference-lines"),
        ("unheard-of", "lr", "raw"),
        ("unheard-of", "lr", "reference-lines"),
    ]
    assert summary["parameters"].to_list()[-1] is None
    assert summary["tasks"].to_list() == [4] * 4 * len(POLICIES)
    shown = as_text(summary)
    assert shown.index("codellama-7b, lr") < shown.index("codellama-7b, fim-psm")
    assert shown.index("codellama-7b, fim-psm") < shown.index("codellama-13b, lr")


def test_the_three_files_hold_the_same_table(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "whole", [{"text": middle} for middle in MIDDLES]),
        make_run(
            tmp_path / "part",
            [{"text": "    retürn a\n"}, None, {"reason": "timeout"}, {"text": ""}],
            model='odd "name", with comma',
        ),
    ]
    summary = summarise(pl.concat([score_run(run) for run in runs]))
    paths = store(summary, tmp_path / "out")
    assert [path.name for path in paths] == ["summary.parquet", "summary.csv", "summary.json"]
    assert pl.read_parquet(paths[0]).equals(summary)
    assert pl.read_csv(paths[1], schema=summary.schema).equals(summary)
    rows = json.loads(paths[2].read_bytes())
    assert pl.DataFrame(rows, schema=summary.schema).equals(summary)


def test_runs_are_found_as_named_and_below_a_folder(tmp_path: Path) -> None:
    right = [{"text": middle} for middle in MIDDLES]
    study = tmp_path / "study"
    a, b = make_run(study / "a", right), make_run(study / "b", right)
    (study / "not-a-run").mkdir()
    (study / "summary.csv").write_bytes(b"")
    assert find_runs([study]) == [a, b]
    assert find_runs([b]) == [b]
    assert find_runs([b, study, study / "." / "b"]) == [b, a]
    for path in (study / "not-a-run", tmp_path / "absent", study / "summary.csv"):
        with pytest.raises(RunDirectoryError, match="neither is nor holds a run directory"):
            find_runs([path])


def as_text(summary: pl.DataFrame) -> str:
    """What a terminal of 140 columns receives, colours included."""
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system="truecolor")
    console.print(show(summary))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_shows_n_of_n_and_bounds(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", [{"text": "    return a\n"}, {"text": "?"}, {"reason": "timeout"}, None]
    )
    shown = as_text(summarise(score_run(run)))
    assert "2/4" in shown
    assert "25.0–75.0" in shown


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_narrow_terminal_gets_whole_columns_and_is_told_which_are_missing(
    tmp_path: Path, width: int
) -> None:
    summary = summarise(score_run(make_run(tmp_path / "run", [{"text": "?"}] * 4)))
    console = Console(file=io.StringIO(), width=width)
    console.print(show(summary, width))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "4/4" in shown
    assert "reference-lines" in shown
    assert ("no room for" in shown) is (width == 60)
    assert show(summary, 200).caption is None


CONTROLS = "\x1b[2J\x1b]0;owned\x07fake\r\nfim-eval: all is well"
MARKUP = "[bold red]fake[/] [link=http://evil.test]model[/link]"


def test_markup_in_a_models_name_is_text(tmp_path: Path) -> None:
    right = [{"text": middle} for middle in MIDDLES]
    shown = as_text(summarise(score_run(make_run(tmp_path / "run", right, model=MARKUP))))
    assert MARKUP in shown


def test_control_codes_in_a_models_name_do_not_reach_the_terminal(tmp_path: Path) -> None:
    right = [{"text": middle} for middle in MIDDLES]
    shown = as_text(summarise(score_run(make_run(tmp_path / "run", right, model=CONTROLS))))
    assert "fake" in shown
    assert "\x1b[2J" not in shown, "clears the screen"
    assert "\x1b]" not in shown, "sets the window's title"
    assert "\x07" not in shown, "rings"
    assert "\r" not in shown, "writes over the line"


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, monkeypatch, capfd)


class TestTheCommand:
    def test_reports_a_folder_of_runs_and_stores_the_table_there(
        self, in_process: InProcess
    ) -> None:
        right = [{"text": middle} for middle in MIDDLES]
        make_run(in_process.folder / "study" / "small", right, model="m7", card="CodeLlama-7b-hf")
        make_run(in_process.folder / "study" / "large", right, model="m13", card="CodeLlama-13b-hf")
        done = in_process("report", "study")
        assert done.returncode == 0, done.stderr
        assert done.stdout.index("m7, lr") < done.stdout.index("m13, lr")
        assert done.stdout.count("4/4") == 4
        stored = pl.read_parquet(in_process.folder / "study" / "summary.parquet")
        assert stored["model"].to_list() == ["m7"] * len(POLICIES) + ["m13"] * len(POLICIES)

    def test_prints_the_policies_that_are_asked_for(self, in_process: InProcess) -> None:
        make_run(in_process.folder / "run", [{"text": middle} for middle in MIDDLES])
        done = in_process("report", "run", "--policies", "syntax,raw")
        assert [line.split()[0] for line in done.stdout.splitlines() if "4/4" in line] == [
            "raw", "syntax",
        ]  # fmt: skip
        assert in_process("report", "run", "--policies", "all").stdout.count("4/4") == 5
        refused = in_process("report", "run", "--policies", "rwa")
        assert refused.returncode == 2
        assert "rwa is none of raw, reference-lines" in refused.stderr

    def test_prints_the_stored_rows_as_json(self, in_process: InProcess) -> None:
        make_run(
            in_process.folder / "run", [{"text": "?"}, None, {"reason": "timeout"}, {"text": ""}]
        )
        done = in_process("report", "run", "--json")
        assert done.returncode == 0, done.stderr
        stored = json.loads((in_process.folder / "run" / "summary.json").read_bytes())
        assert json.loads(done.stdout) == stored
        assert [row["unresolved"] for row in stored] == [2] * len(POLICIES)

    def test_writes_a_hostile_name_inertly(self, in_process: InProcess) -> None:
        right = [{"text": middle} for middle in MIDDLES]
        make_run(in_process.folder / "run", right, model=CONTROLS)
        done = in_process("report", "run")
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert "\x07" not in done.stdout + done.stderr

    def test_prints_one_table_of_several_runs_and_stores_each_run_s_own(
        self, in_process: InProcess
    ) -> None:
        right = [{"text": middle} for middle in MIDDLES]
        make_run(in_process.folder / "a", right, model="one")
        make_run(in_process.folder / "b", right, model="two")
        done = in_process("report", "a", "b")
        assert done.returncode == 0, done.stderr
        assert "one, lr" in done.stdout
        assert "two, lr" in done.stdout
        own = pl.read_csv(in_process.folder / "a" / "summary.csv")
        assert set(own["model"]) == {"one"}
        assert in_process("report", "a", "b", "--out", "c").returncode == 0
        assert set(pl.read_csv(in_process.folder / "c" / "summary.csv")["model"]) == {"one", "two"}

    def test_a_run_that_cannot_be_written_can_be_read(self, in_process: InProcess) -> None:
        make_run(in_process.folder / "a", [{"text": middle} for middle in MIDDLES], model="one")
        (in_process.folder / "a" / "summary.csv").mkdir()
        done = in_process("report", "a")
        assert done.returncode == 0
        assert "one, lr" in done.stdout
        assert "not stored: a: cannot be written" in done.stderr

    def test_names_a_folder_without_runs(self, in_process: InProcess) -> None:
        done = in_process("report", "absent")
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("fim-eval: absent: neither is nor holds a run directory")
        assert done.stderr.count("\n") == 1
        assert list(in_process.folder.iterdir()) == []

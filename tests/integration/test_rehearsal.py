"""The whole study without a GPU: four servers with known rates, asked, judged and reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fim_eval.report.findings import Findings
from tests.integration import InProcess
from tests.integration.fake_server import FakeServer

RATES = {"7b": 0.35, "13b": 0.5, "34b": 0.65, "70b": 0.85}


def answering(middles: dict[str, str], rate: float) -> Callable[[dict[str, Any]], str]:
    """Right in `rate` of the tasks, by the prompt's hash: a better model is right where a worse is.

    Else something that is no Python.
    """

    def answer(body: dict[str, Any]) -> str:
        prompt = body["prompt"]
        luck = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4]) / 2**32
        return middles[prompt] if luck < rate else "    ?\n"

    return answer


def test_the_answer_states_the_true_order_and_its_intervals_hold_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    in_process = InProcess(tmp_path, monkeypatch, capfd)
    assert in_process("tasks", "--problems", "starter", "--out", "tasks.jsonl").returncode == 0
    done = in_process(
        "prompts", "--tasks", "tasks.jsonl", "--model", "m", "--strategy", "lr", "--out", "-"
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    middles = {row["text"]: row["middle"] for row in rows}
    assert len(middles) == len(rows) == 449
    with ExitStack() as stack:
        for size, rate in RATES.items():
            model = f"CodeLlama-{size}-hf"
            server = stack.enter_context(FakeServer(model=model, answer=answering(middles, rate)))
            done = in_process(
                "run", "--tasks", "tasks.jsonl", "--endpoint", server.endpoint, "--model", model,
                "--strategy", "lr", "--out", f"runs/{size}",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    done = in_process("verify", *(f"runs/{size}" for size in RATES))
    assert done.returncode == 0, done.stderr
    done = in_process("report", "runs", "--out", "out")
    assert done.returncode == 0, done.stderr

    found = Findings.model_validate_json((tmp_path / "out" / "report.json").read_bytes())
    sentence = found.answer[0]
    assert sentence.startswith("The larger model is better: pass@1 on single-line holes")
    assert "rises with size" in sentence
    places = [sentence.index(f"CodeLlama-{size}-hf") for size in RATES]
    assert places == sorted(places)
    assert (tmp_path / "out" / "answer.md").read_text().startswith("**The larger model is better")
    for row in found.rows:
        if row.policy != "reference-lines":
            continue
        estimate = row.metrics["pass_at_1"]
        rate = RATES[row.model.removeprefix("CodeLlama-").removesuffix("-hf")]
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= rate <= estimate.high
        assert (row.tasks, row.problems, row.unjudged) == (449, 64, 0)
    pairs = [
        pair
        for pair in found.pairs
        if (pair.metric, pair.policy) == ("pass_at_1", "reference-lines")
    ]
    assert [pair.finding for pair in pairs] == ["larger better"] * 6
    assert {pair.only_smaller for pair in pairs} == {0}

"""`fim-eval plan` as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOKENIZER = os.environ.get("FIM_EVAL_CODELLAMA_TOKENIZER")


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fim_eval", "plan", "--problems", "starter", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def planned(*arguments: str) -> dict[str, Any]:
    done = plan("--json", *arguments)
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def test_the_four_sizes_are_planned_as_they_would_be_asked_and_served() -> None:
    found = planned("--gpu", "A100-80")
    rows = {row["model"]: row for row in found["models"]}
    strategies = {
        name.rpartition("-")[0].rpartition("-")[2]: [
            one["workload"]["name"] for one in row["estimates"]
        ]
        for name, row in rows.items()
    }
    infills = ["lr", "fim-psm", "fim-spm"]
    assert strategies == {"7b": infills, "13b": infills, "34b": ["lr"], "70b": ["lr"]}
    assert found["whole"]["tasks"] == 449
    assert found["whole"]["requests"] == 449 * 8
    assert found["whole"]["wall_s"] == pytest.approx(sum(row["wall_s"] for row in rows.values()))


def test_the_table_names_every_model_and_says_what_the_client_must_sustain() -> None:
    done = plan("--gpu", "H100", "--models", "70b,starcoder2-7b")
    assert done.returncode == 0, done.stderr
    assert "CodeLlama-70b-hf" in done.stdout
    assert "starcoder2-7b" in done.stdout
    assert "The client has to sustain" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 140


@pytest.mark.skipif(TOKENIZER is None, reason="FIM_EVAL_CODELLAMA_TOKENIZER is unset")
def test_tokens_guessed_from_characters_are_near_those_that_a_tokenizer_counts() -> None:
    def asked(*more: str) -> dict[str, float]:
        row = planned("--models", "7b", *more)["models"][0]
        return {
            one["workload"]["name"]: one["workload"]["prompt_tokens"] for one in row["estimates"]
        }

    guessed, counted = asked(), asked("--tokenizer", str(TOKENIZER))
    assert guessed == pytest.approx(counted, rel=0.2)
    assert guessed != counted


def test_candidates_and_reference_answers_are_work_too() -> None:
    found = planned("--models", "7b", "--strategies", "lr-rerank", "--samples", "4", "--gold")
    asked = {
        one["workload"]["name"]: one["workload"]["requests"]
        for one in found["models"][0]["estimates"]
    }
    assert asked == {"lr-rerank": 449 * 4, "lr-rerank, scored": 449 * 5}
    assert found["whole"]["programs"] == 449 * 4


def test_this_machine_is_measured_if_it_is_to_serve() -> None:
    found = planned("--gpu", "cpu", "--models", "smollm2")
    assert found["device"]["bandwidth"] > 1e8
    assert found["device"]["flops"] > 1e8
    (row,) = found["models"]
    assert row["memory"]["weights"] == 134_515_008 * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--models", "7c"), "7c: is no file of servers (there are 13b,"),
        (("--gpu", "V100"), "V100: is no GPU of the table"),
        (("--gpu", "A10G", "--gpus", "1"), "does not fit on 1 x 1 A10G"),
    ],
)
def test_what_cannot_be_planned_is_told_in_one_sentence(
    arguments: tuple[str, ...], said: str
) -> None:
    done = plan(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr

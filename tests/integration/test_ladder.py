"""The embedded ladder: trained as its log says, served as transformers computes it."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from fim_eval.formats import card_of
from fim_eval.infill import tasks_of
from fim_eval.problems import load_problems
from fim_eval.prompt import build_prompt, wording_of
from fim_eval.tokenizer import SentencePieceTokenizer
from fim_eval.words import INFILLING
from tests.integration.serving import ROOT, SERVER_PYTHON, with_server

MODEL = ROOT / "servers" / "ladder" / "models" / "1m"
LOGGED: dict[str, Any] = json.loads((MODEL / "training.jsonl").read_text().splitlines()[0])
STEPS = 10
TOLERANCE_NATS = 0.01
"""Other processors sum in another order; the log's fourth decimal is rounded."""

NOISE = 0.01
"""Two scores that are closer than this may change places between implementations in float32."""

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not SERVER_PYTHON.exists(), reason="no server environment here: `make env-server`"
    ),
]


def in_the_server_s_environment(*command: str | Path, given: str = "") -> Any:
    """What a script prints last, as JSON."""
    done = subprocess.run(
        [SERVER_PYTHON, *command],
        cwd=ROOT, capture_output=True, text=True, input=given, check=True, timeout=600,
        env={"PYTHONPATH": str(ROOT / "servers"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_a_training_that_was_stopped_gives_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    found = in_the_server_s_environment(Path(__file__).with_name("stopped_training.py"), tmp_path)
    assert found["steps"] == [[None, 1, 2, 3, 6, 8]] * 2
    assert found["held out"] == [[8]] * 2, "the last step is told, whichever it is"
    whole, stopped = found["sums"]
    assert whole == stopped
    assert found["line end counts"] == [*[12.0] * 4, *[1.5] * 2, *[1.0] * 2]
    assert found["knows tabs"] == [*[False] * 6, *[True] * 2]
    assert found["steps that look for loops"] == [6, 7], "of the second stage, all"
    assert found["tokenizer with tabs is saved"]
    assert "SHA256SUMS" in found["left"]
    assert not {"checkpoint.pt", "unfinished"} & set(found["left"])


def test_a_finished_model_of_another_recipe_is_refused() -> None:
    done = subprocess.run(
        [SERVER_PYTHON, "-m", "ladder", "--out", MODEL.parent, "--tokens", "2000000", MODEL.name],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env={"PYTHONPATH": str(ROOT / "servers"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "tokens: 9100000 there, 2000000 here" in done.stderr
    assert "remove it" in done.stderr


def test_a_finished_model_of_this_recipe_is_named_and_left_alone() -> None:
    before = {path.name: path.stat().st_mtime_ns for path in MODEL.iterdir()}
    done = subprocess.run(
        [SERVER_PYTHON, "-m", "ladder", "--out", MODEL.parent, MODEL.name],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env={"PYTHONPATH": str(ROOT / "servers"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"[ladder] {MODEL.name}: {MODEL} is there already\n"
    assert {path.name: path.stat().st_mtime_ns for path in MODEL.iterdir()} == before


def test_too_few_tokens_for_a_training_are_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [SERVER_PYTHON, "-m", "ladder", "--out", tmp_path, "--tokens", "6143"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env={"PYTHONPATH": str(ROOT / "servers"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "--tokens 6143: a step is 3,072 tokens" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    platform.python_version() != LOGGED["python"],
    reason=f"the text is the standard library of Python {LOGGED['python']}",
)
def test_training_the_smallest_again_gives_the_logged_losses() -> None:
    found = in_the_server_s_environment("-m", "ladder.replay", MODEL, str(STEPS))
    assert found["corpus_is_the_same"]
    assert found["tokenizer_is_the_same"]
    assert len(found["logged"]) == STEPS
    assert found["now"] == pytest.approx(found["logged"], abs=TOLERANCE_NATS)
    assert found["now"][-1] < found["now"][0] - 0.1, "it learns"


def test_every_size_begins_with_heads_that_copy_and_with_tabs_as_spaces() -> None:
    found = in_the_server_s_environment(Path(__file__).with_name("first_heads.py"), MODEL)
    assert list(found) == ["1m", "2m", "4m", "8m"]
    for one in found.values():
        assert one["to the token before"] > 0.99
        assert one["to the one before that"] > 0.99
        assert one["after its like"] > 10 * one["by chance"]
        assert one["from middle to suffix"] > 10 * one["from middle to elsewhere"]
        assert one["to the suffix's first"] > 10 * one["to its second"]
        assert one["rows of tabs that begin as spaces"] == 4


def test_attention_in_blocks_is_torch_s_own_and_leaves_no_trace() -> None:
    found = in_the_server_s_environment(Path(__file__).with_name("attended_in_blocks.py"), MODEL)
    assert found["attention"] == {"blocks": "blocks", "sdpa": "sdpa"}
    for which in ("values and gradients", "losses", "losses of each document alone", "padded"):
        assert found[which] < 1e-4, which
    assert found["blocks were used"] == {"in training": True, "without gradients": False}
    assert found["answers are the same"]
    assert not found["named in what is saved"], "vLLM knows no such attention"


def test_a_model_that_repeats_itself_unlearns_it_and_is_not_asked_in_spm() -> None:
    found = in_the_server_s_environment(Path(__file__).with_name("unlearned_loops.py"), MODEL)
    assert found["losses"][0] > 0
    assert (found["losses"][-1] or 0) < found["losses"][0] / 5, "loops are less likely"
    assert found["of others"] is None


def test_vllm_answers_as_transformers_does_but_for_ties(tmp_path: Path) -> None:
    encoder = SentencePieceTokenizer(MODEL / "tokenizer.model")
    problems, _ = load_problems("starter", "all", lambda _: None)
    tasks = [tasks_of(problem, "single-line").tasks[-1] for problem in problems[:6]]
    card = card_of("fim-eval/ladder-1m")
    wordings = [
        wording_of(strategy, context="text", model="fim-eval/ladder-1m", card=card, encoder=encoder)
        for strategy in INFILLING
    ]
    prompts = [build_prompt(task, wording, max_tokens=24) for task in tasks for wording in wordings]
    stop = prompts[0].stop_token_ids[0]
    asked = [{"ids": list(prompt.token_ids or ()), "stop": stop, "most": 24} for prompt in prompts]
    script = Path(__file__).with_name("greedy.py")
    other = in_the_server_s_environment(script, MODEL, given=json.dumps(asked))
    port = with_server.free_port()
    serve = [str(ROOT / "servers" / "serve.sh"), "ladder-1m", "--port", str(port)]
    with with_server.running(serve, port, tmp_path / "server.log") as model:
        body = {
            "model": model, "prompt": [one["ids"] for one in asked], "max_tokens": 24,
            "temperature": 0, "stop_token_ids": [stop], "return_token_ids": True,
        }  # fmt: skip
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=120)
    choices = sorted(answer.json()["choices"], key=lambda one: int(one["index"]))
    for choice, expected in zip(choices, other, strict=True):
        ours, theirs = choice["token_ids"], expected["ids"]
        if ours != theirs:
            pairs = enumerate(zip(ours, theirs, strict=False))
            shorter = min(len(ours), len(theirs)) - 1
            place = next((at for at, (one, two) in pairs if one != two), shorter)
            assert expected["above"][place] < NOISE, (ours, theirs)

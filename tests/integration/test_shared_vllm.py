"""A shared endpoint with nothing that stands in: nginx, vllm-router, two replicas of real vLLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import environment, fim_eval, start_fim_eval
from tests.integration.gateway import KEY, NGINX, nginx_before

ROOT = Path(__file__).parents[2]
MODEL = "fim-eval/ladder-1m"
START_LIMIT_S = 300

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not (ROOT / ".venv-server" / "ready").exists(),
        reason="no vLLM for the CPU here: `make .venv-server/ready` sets it up",
    ),
    pytest.mark.skipif(NGINX is None, reason="no nginx: apt-get install nginx-light"),
]


class Replicas:
    """Two servers behind a router, which a test may kill."""

    def __init__(self, address: str, pid: int) -> None:
        self.address = address
        self.pid = pid

    def servers(self) -> list[int]:
        """The process ids of the replicas."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"api_server" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    address = tmp_path / "address"
    told = f'echo "$FIM_EVAL_ENDPOINT" > {address}.part; mv {address}.part {address}'
    command = [
        sys.executable, str(ROOT / "servers" / "replicas.py"), "ladder-1m", "2",
        "--router", str(Path(sys.executable).parent / "vllm-router"), "--log",
        str(tmp_path / "log"), "--", "sh", "-c", f"{told}; exec sleep 900",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + START_LIMIT_S
        while not address.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.2)
        yield Replicas(address.read_text().strip(), process.pid)
    finally:
        process.terminate()
        process.wait(60)


def idle_for_a_while(run: subprocess.Popen[str], log: Path) -> tuple[set[str], set[str]]:
    """Keep the client from asking until the gateway has closed what is idle.

    Returns:
        The connections that were asked on before and after.
    """
    run.send_signal(signal.SIGSTOP)
    try:
        told = -1
        # What is in flight is answered meanwhile, and is idle for longer than a second then.
        while (size := log.stat().st_size) != told:
            told = size
            time.sleep(3)
    finally:
        run.send_signal(signal.SIGCONT)
    limit = time.monotonic() + 60
    while log.stat().st_size < told + 2000 and run.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    content = log.read_bytes()
    whole = content[told : content.rindex(b"\n")]
    before, after = content[:told].decode().splitlines(), whole.decode().splitlines()
    return {line.split()[0] for line in before}, {line.split()[0] for line in after}


def test_a_replica_killed_behind_a_gateway_costs_no_answer(
    replicas: Replicas, tmp_path: Path
) -> None:
    file = tmp_path / "tasks.jsonl"
    assert fim_eval("tasks", "--problems", "starter", "--out", file, cwd=tmp_path).returncode == 0
    journal = tmp_path / "run" / "generations.jsonl"
    with nginx_before(replicas.address, tmp_path / "nginx") as gateway:
        run = start_fim_eval(
            "run", "--tasks", file, "--endpoint", gateway.replace("/models/", "/limited/"),
            "--model", MODEL, "--strategy", "lr", "--out", "run", "--batch", "1",
            "--max-concurrency", "16", "--api-key-env", "TEAM_KEY",
            cwd=tmp_path, env=environment(TEAM_KEY=KEY, NO_COLOR="1"),
        )  # fmt: skip
        limit = time.monotonic() + 120
        while run.poll() is None and time.monotonic() < limit:
            if journal.exists() and journal.read_bytes().count(b"\n") >= 30:
                break
            time.sleep(0.05)
        assert run.poll() is None, "it was done before anything could be killed"
        before, after = idle_for_a_while(run, tmp_path / "nginx" / "access.log")
        assert before
        assert not before & after, "the gateway has closed no idle connection"
        victim, survivor = replicas.servers()
        os.kill(victim, signal.SIGKILL)
        out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert "449/449" in out
    assert replicas.servers() == [survivor]
    assert KEY not in out + err
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    log = (tmp_path / "nginx" / "access.log").read_text()
    assert "/team/limited/v1/completions" in log
    assert '/metrics HTTP/1.1" 404' in log

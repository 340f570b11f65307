"""A shared endpoint: a real nginx before the server, as a cluster's gateway is.

It puts a prefix before `/v1`, wants a key, hides what it does not know, lets few requests through
at a time, and closes connections that are idle for a second.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration import made_tasks, write_tasks
from tests.integration.fake_server import FakeServer

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
KEY = "a-key-that-must-not-be-seen"

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx: apt-get install nginx-light")

CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 128; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_timeout 1s;
  limit_req_zone $binary_remote_addr zone=all:1m rate=20r/s;
  limit_req_status 429;
  server {{
    listen 127.0.0.1:{port};
    location /team/models/v1/ {{
      if ($http_authorization != "Bearer {key}") {{ return 401; }}
      proxy_pass {upstream}/;
    }}
    location /team/limited/v1/ {{
      if ($http_authorization != "Bearer {key}") {{ return 401; }}
      limit_req zone=all burst=5 nodelay;
      proxy_pass {upstream}/;
    }}
    location / {{ return 404; }}
  }}
}}
"""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as listening:
        yield listening


@pytest.fixture
def gateway(server: FakeServer, tmp_path: Path) -> Iterator[str]:
    """The base URL that its users are told."""
    assert NGINX is not None
    folder = tmp_path / "nginx"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "nginx.conf").write_text(
        CONFIGURATION.format(folder=folder, port=port, key=KEY, upstream=server.endpoint)
    )
    process = subprocess.Popen(
        [NGINX, "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}/team/models/v1"
    finally:
        process.terminate()
        process.wait(10)


def ask(
    folder: Path, endpoint: str, *more: str, key: str | None = KEY
) -> subprocess.CompletedProcess[str]:
    file = write_tasks(folder / "tasks.jsonl", made_tasks(60))
    environment = {**os.environ, "TEAM_KEY": key or "", "NO_COLOR": "1"}
    return subprocess.run(
        [
            sys.executable, "-m", "fim_eval", "run", "--tasks", file, "--endpoint", endpoint,
            "--model", "fake-model", "--strategy", "lr", "--out", "run", "--api-key-env",
            "TEAM_KEY", *more,
        ],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_prefix_a_key_and_a_limit_on_requests_cost_no_answer(
    gateway: str, server: FakeServer, tmp_path: Path
) -> None:
    limited = gateway.replace("/models/", "/limited/")
    done = ask(tmp_path, limited, "--max-concurrency", "32", "--batch", "1")
    assert done.returncode == 0, done.stderr
    assert "60/60" in done.stdout
    log = (tmp_path / "nginx" / "access.log").read_text()
    assert log.count('completions HTTP/1.1" 429') > 0, "the limit was never met"
    assert "/team/limited/v1/completions" in log
    assert server.calls > 0


def test_the_key_stands_in_no_file_and_no_message(gateway: str, tmp_path: Path) -> None:
    done = ask(tmp_path, gateway, "--max-concurrency", "4")
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("key", [None, "another-key"])
def test_without_the_right_key_one_sentence_says_where_to_put_it(
    gateway: str, tmp_path: Path, key: str | None
) -> None:
    done = ask(tmp_path, gateway, key=key)
    assert done.returncode == 1
    assert "refuses the API key (HTTP 401)" in done.stderr
    assert "--api-key-env" in done.stderr
    assert not key or key not in done.stderr


def test_connections_that_the_gateway_closes_while_idle_are_no_failures(
    gateway: str, server: FakeServer, tmp_path: Path
) -> None:
    # Every answer takes longer than the gateway keeps an idle connection.
    server.delay_s = 1.2
    done = ask(tmp_path, gateway, "--max-concurrency", "12", "--batch", "1", "--limit", "24")
    assert done.returncode == 0, done.stderr
    assert "24/24" in done.stdout


def test_the_gateway_hides_what_is_beside_v1(gateway: str) -> None:
    with httpx.Client(trust_env=False) as http:
        root = gateway.removesuffix("/v1")
        assert http.get(f"{root}/version").status_code == 404
        assert http.get(f"{root}/metrics").status_code == 404

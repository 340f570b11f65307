"""A shared endpoint: a real nginx before the server, as a cluster's gateway is.

It puts a prefix before `/v1`, wants a key, hides what it does not know, lets few requests through
at a time, and closes connections that are idle for a second.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration import environment, made_tasks, write_tasks
from tests.integration.fake_server import FakeServer
from tests.integration.gateway import KEY, NGINX, nginx_before, proxy_to

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx: apt-get install nginx-light")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as listening:
        yield listening


@pytest.fixture
def gateway(server: FakeServer, tmp_path: Path) -> Iterator[str]:
    """The base URL that its users are told."""
    with nginx_before(server.endpoint, tmp_path / "nginx") as address:
        yield address


def ask(
    folder: Path, endpoint: str, *more: str, key: str | None = KEY, **changes: str
) -> subprocess.CompletedProcess[str]:
    file = write_tasks(folder / "tasks.jsonl", made_tasks(60))
    return subprocess.run(
        [
            sys.executable, "-m", "fim_eval", "run", "--tasks", file, "--endpoint", endpoint,
            "--model", "fake-model", "--strategy", "lr", "--out", "run", "--api-key-env",
            "TEAM_KEY", *more,
        ],
        cwd=folder, env=environment(TEAM_KEY=key or "", NO_COLOR="1", **changes),
        capture_output=True, text=True, check=False, timeout=120,
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


def test_a_certificate_of_a_team_s_own_authority_is_taken_where_it_is_named(
    server: FakeServer, tmp_path: Path
) -> None:
    with nginx_before(server.endpoint, tmp_path / "nginx", tls=True) as address:
        assert address.startswith("https://")
        unknown = ask(tmp_path, address)
        assert not server.calls, "an authority that nobody knows was trusted"
        done = ask(tmp_path, address, SSL_CERT_FILE=str(tmp_path / "nginx" / "ca.pem"))
    assert unknown.returncode == 1
    assert "certificate that is not trusted here" in unknown.stderr
    assert "SSL_CERT_FILE" in unknown.stderr
    assert unknown.stderr.count("\n") == 1
    assert KEY not in unknown.stderr
    assert done.returncode == 0, done.stderr
    assert "60/60" in done.stdout


def test_an_endpoint_that_only_a_proxy_can_reach_is_asked_through_it(
    gateway: str, server: FakeServer, tmp_path: Path
) -> None:
    proxy, _, path = gateway.partition("/team")
    hidden = f"http://models.invalid/team{path}"
    done = ask(tmp_path, hidden, HTTP_PROXY=proxy)
    assert done.returncode == 0, done.stderr
    assert "60/60" in done.stdout
    calls = server.calls
    bypassed = ask(tmp_path, hidden, "--out", "other", HTTP_PROXY=proxy, NO_PROXY="models.invalid")
    assert bypassed.returncode == 1
    assert "nothing answers" in bypassed.stderr
    assert server.calls == calls


def test_an_endpoint_with_tls_that_only_a_proxy_can_reach_is_asked_through_it(
    server: FakeServer, tmp_path: Path
) -> None:
    with nginx_before(server.endpoint, tmp_path / "nginx", tls=True) as address:
        port = int(address.partition("//127.0.0.1:")[2].partition("/")[0])
        with proxy_to(port) as (proxy, asked):
            done = ask(
                tmp_path,
                address.replace("127.0.0.1", "models.invalid"),
                HTTPS_PROXY=f"http://me:secret@{proxy}",
                SSL_CERT_FILE=str(tmp_path / "nginx" / "ca.pem"),
            )
    assert done.returncode == 0, done.stderr
    assert "60/60" in done.stdout
    for head in asked:
        assert head.startswith(f"CONNECT models.invalid:{port} ")
        assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in head
        assert KEY not in head, "it is the endpoint's"
    kept = b"".join(path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file())
    for secret in ("me:secret", "bWU6c2VjcmV0"):
        assert secret not in done.stderr + done.stdout
        assert secret.encode() not in kept


def test_this_machine_is_asked_without_the_proxy_of_its_environment(
    gateway: str, tmp_path: Path
) -> None:
    done = ask(tmp_path, gateway, HTTP_PROXY="http://proxy.invalid:3128")
    assert done.returncode == 0, done.stderr


def test_a_proxy_that_cannot_be_used_is_told_without_its_password(
    server: FakeServer, tmp_path: Path
) -> None:
    done = ask(tmp_path, "http://models.invalid/v1", ALL_PROXY="socks5://me:secret@proxy:1080")
    assert done.returncode == 1
    assert "ALL_PROXY" in done.stderr
    assert "NO_PROXY" in done.stderr
    assert "secret" not in done.stderr
    assert not server.calls

"""Start a vLLM server, run a command beside it, stop the server: whatever happens.

    python3 servers/with_server.py NAME [--port PORT] [--log FILE] [vLLM options] -- COMMAND ...

NAME is a configuration in servers/. The command finds the server in its environment:
FIM_EVAL_ENDPOINT (base URL), FIM_EVAL_MODEL (the name it answers to), FIM_EVAL_SERVER_LOG.
The exit code is the command's. Port 0, the default, is a free one. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

START_LIMIT_S = 900
STOP_LIMIT_S = 20
INTERRUPT_LIMIT_S = 30
TELL_EVERY_S = 10
PR_SET_PDEATHSIG = 1


class ServerError(Exception):
    """The server did not become ready; the message says why and where its log is."""


def free_port() -> int:
    """A port of the loopback address that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, log: Path, environment: dict[str, str] | None = None
) -> Iterator[str]:
    """A server started with `command`, ready on `port`; gives the name of its model.

    Its output is appended to `log`. On leaving, its whole process group is ended.

    Raises:
        ServerError: it ended before it was ready, or was not ready in time.
    """
    with started(command, log, environment) as server:
        yield wait_until_ready(server, port, log)


@contextlib.contextmanager
def started(
    command: Sequence[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output is appended to `log`; on leaving, its whole group is ended."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        # A session of its own: Ctrl-C at the terminal reaches us, and we stop the server.
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
            preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509  we have no threads
        )
    try:
        yield server
    finally:
        stop(server)


def wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> str:
    """Wait until the server has answered one token; return the name of its model."""
    started = told = time.monotonic()
    while True:
        if server.poll() is not None:
            raise ServerError(
                f"the server ended with code {server.returncode} before it was ready; "
                f"the end of {log}:\n{_last_lines(log, 15)}"
            )
        now = time.monotonic()
        if now - started > START_LIMIT_S:
            raise ServerError(f"the server was not ready after {START_LIMIT_S} s; see {log}")
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            model = first_answer(port)
            _say(f"ready after {now - started:.0f} s: {model} on port {port}")
            return model
        if now - told >= TELL_EVERY_S:
            told = now
            # What vLLM says, without its process, time and place.
            doing = _last_lines(log, 1).rpartition("] ")[2].strip()
            _say(f"starting, {now - started:.0f} s: {doing[:55]}".rstrip(": "))
        time.sleep(0.5)


def first_answer(port: int) -> str:
    """The server's model, if it is healthy, lists it and completes one token."""
    base = f"http://127.0.0.1:{port}"
    _get(f"{base}/health", 5)
    model = json.loads(_get(f"{base}/v1/models", 5))["data"][0]["id"]
    body = {"model": model, "prompt": "def", "max_tokens": 1, "temperature": 0}
    _get(f"{base}/v1/completions", 300, json.dumps(body).encode())
    return str(model)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and every process it started."""
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_LIMIT_S)
    # The group, not only the server: an engine process would outlive it and keep its memory.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def main(arguments: Sequence[str]) -> int:
    """Parse, start, run, stop; return the command's exit code."""
    if "--" not in arguments:
        sys.exit("usage: with_server.py NAME [--port PORT] [--log FILE] [options] -- COMMAND ...")
    end = list(arguments).index("--")
    parser = argparse.ArgumentParser(prog="with_server.py")
    parser.add_argument("name")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, default=None)
    options, extra = parser.parse_known_args(arguments[:end])
    port = options.port or free_port()
    log = options.log or Path(".cache") / f"server-{options.name}.log"
    folder = Path(__file__).parent
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    serve = [str(folder / "serve.sh"), options.name, "--port", str(port), *extra]
    _say(f"starting {options.name} on port {port}; log: {log}")
    try:
        with running(serve, port, log) as model:
            found = {
                "FIM_EVAL_ENDPOINT": f"http://127.0.0.1:{port}/v1",
                "FIM_EVAL_MODEL": model,
                "FIM_EVAL_SERVER_LOG": str(log),
            }
            return run(arguments[end + 1 :], found)
    except ServerError as error:
        _say(str(error))
        return 1
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        _say("interrupted; the server is stopped")
        return 128 + signal.SIGINT


def run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run the command to its end.

    Ctrl-C at a terminal reaches the command itself: it has `INTERRUPT_LIMIT_S` to end its own way.
    """
    child = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509  we have no threads
    )
    try:
        try:
            return child.wait()
        except KeyboardInterrupt:
            return child.wait(INTERRUPT_LIMIT_S)
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def _die_with(parent: int) -> None:
    """In a child, before it starts: be told to end when we end, even if killed without a chance to.

    It also covers a signal that comes between the start of a child and the `try` around it.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)  # We ended before the request was made.


def _get(url: str, timeout_s: float, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    # No proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout_s) as answer:
        content: bytes = answer.read()
    return content


def _last_lines(log: Path, count: int) -> str:
    lines = log.read_bytes().decode("utf-8", "replace").splitlines()[-count:]
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)


def _say(message: str) -> None:
    sys.stderr.write(f"[server] {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

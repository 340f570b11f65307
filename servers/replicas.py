"""Several servers of one model behind one address: `make serve-7b REPLICAS=4`.

    python3 servers/replicas.py NAME COUNT [--port PORT] [vLLM options] [-- COMMAND ...]

Each replica takes as many GPUs as NAME's tensor and pipeline parallelism, the next ones of
CUDA_VISIBLE_DEVICES, and a free port; vllm-router (https://pypi.org/project/vllm-router/) stands on
PORT, by default the one in servers/NAME.yaml, so that `make eval` finds it as it finds one server.
Each request goes to the less busy of two (docs/decisions/0017); a replica that dies is left out.
Runs until it is interrupted, or beside a command as with_server.py does.
Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import with_server  # noqa: E402  the path above comes first

ROUTER_LIMIT_S = 60


def main(arguments: Sequence[str]) -> int:
    """Start all, wait for all, stop all; return the command's exit code, 0 without one."""
    words = list(arguments)
    command = words[words.index("--") + 1 :] if "--" in words else []
    parser = argparse.ArgumentParser(prog="replicas.py", allow_abbrev=False)
    parser.add_argument("name")
    parser.add_argument("count", type=int)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1", help="Of the router; replicas stay inside.")
    parser.add_argument("--router", default=".venv/bin/vllm-router")
    parser.add_argument("--log", type=Path, default=None, help="Folder.")
    own = words[: words.index("--")] if "--" in words else words
    options, extra = parser.parse_known_args(own)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    port = options.port or int(setting(options.name, "port", "8000"))
    logs = options.log or Path(".cache") / f"replicas-{options.name}"
    try:
        return serve(options, port, logs, extra, command)
    except with_server.ServerError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; all servers are stopped")
        return 128 + signal.SIGINT


def serve(
    options: argparse.Namespace, port: int, logs: Path, extra: Sequence[str], command: Sequence[str]
) -> int:
    """Replicas, then the router, then the command."""
    shares = gpu_shares(options.name, options.count, extra, os.environ)
    with contextlib.ExitStack() as stack:
        replicas = []
        for number, share in enumerate(shares, 1):
            at = with_server.free_port()
            log = logs / f"server-{number}.log"
            start = [str(FOLDER / "serve.sh"), options.name, "--port", str(at), *extra]
            replicas.append((at, log, stack.enter_context(with_server.started(start, log, share))))
            say(f"replica {number} of {options.count} on port {at}, log {log}")
        models = {with_server.wait_until_ready(server, at, log) for at, log, server in replicas}
        (model,) = models
        log = logs / "router.log"
        route = [
            options.router, "--host", options.host, "--port", str(port), "--policy", "power_of_two",
            "--request-timeout-secs", "900", "--prometheus-port", str(with_server.free_port()),
            "--worker-urls", *[f"http://127.0.0.1:{at}" for at, _, _ in replicas],
        ]  # fmt: skip
        router = stack.enter_context(with_server.started(route, log))
        wait_for_router(router, port, log)
        say(f"ready: {model} on port {port}, {options.count} replicas")
        if command:
            found = {
                "FIM_EVAL_ENDPOINT": f"http://127.0.0.1:{port}/v1",
                "FIM_EVAL_MODEL": model,
                "FIM_EVAL_SERVER_LOG": str(logs / "server-1.log"),
            }
            return with_server.run(command, found)
        while router.poll() is None:
            time.sleep(1)
        raise with_server.ServerError(f"the router ended with code {router.returncode}; see {log}")


def wait_for_router(router: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until an answer comes through it.

    Raises:
        ServerError: it ended, or none came in time.
    """
    end = time.monotonic() + ROUTER_LIMIT_S
    while router.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError, urllib.error.URLError):
            with_server.first_answer(port)
            return
        time.sleep(0.2)
    raise with_server.ServerError(f"no answer comes through the router; see {log}")


def gpu_shares(
    name: str, count: int, extra: Sequence[str], environment: os._Environ[str] | dict[str, str]
) -> list[dict[str, str]]:
    """What each replica's environment has beside the rest: its own GPUs, else cores.

    Raises:
        ServerError: there are too few GPUs for so many replicas.
    """
    if count < 1:
        raise with_server.ServerError("at least one replica is needed")
    each = 1
    for option, short in (("tensor-parallel-size", "-tp"), ("pipeline-parallel-size", "-pp")):
        each *= int(given(extra, f"--{option}", short) or setting(name, option, "1"))
    gpus = visible_gpus(environment)
    if gpus is None:
        # Each on cores of its own: vLLM would bind the threads of all replicas to the same.
        cores = sorted(os.sched_getaffinity(0))
        parts = [cores[number::count] for number in range(count)]
        bound = [",".join(map(str, part)) for part in parts if part and each == 1]
        binding = "VLLM_CPU_OMP_THREADS_BIND"
        return [{binding: part} for part in bound] if len(bound) == count else [{}] * count
    if len(gpus) < count * each:
        raise with_server.ServerError(
            f"{count} replicas of {each} GPUs are wanted and {len(gpus)} GPUs visible; lower "
            "REPLICAS or TP"
        )
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[number * each : (number + 1) * each])}
        for number in range(count)
    ]


def visible_gpus(environment: os._Environ[str] | dict[str, str]) -> list[str] | None:
    """Names of the GPUs that may be used; None if this machine has none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],  # noqa: S607  on PATH
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    except FileNotFoundError:
        return None
    except subprocess.CalledProcessError as error:
        raise with_server.ServerError(
            f"nvidia-smi ends with code {error.returncode}; is the driver loaded?"
        ) from error
    named = environment.get("CUDA_VISIBLE_DEVICES")
    return done.stdout.split() if named is None else [one for one in named.split(",") if one]


def setting(name: str, option: str, otherwise: str) -> str:
    """An option of servers/NAME.yaml: one line `option: value` each, as all files here are."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        there = " ".join(sorted(each.stem for each in FOLDER.glob("*.yaml")))
        raise with_server.ServerError(f"no {path}; there are {there}")
    found = re.search(rf"^{option}:\s*(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else otherwise


def given(extra: Sequence[str], *names: str) -> str | None:
    """The value of an option among words, as `--name value` or `--name=value`; the last counts."""
    value = None
    for place, word in enumerate(extra):
        head, equals, tail = word.partition("=")
        if head in names:
            value = tail if equals else next(iter(extra[place + 1 :]), None)
    return value


def say(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"[replicas] {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

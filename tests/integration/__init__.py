"""Tests with files, child processes and servers on loopback; and the few things they share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from fim_eval.cli import main
from fim_eval.lines import json_lines
from fim_eval.records import InfillTask

COMMAND = str(Path(sys.executable).with_name("fim-eval"))
"""The command as installed beside the interpreter that runs the tests."""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what a shell may set for us, the hub or a proxy."""
    ours = ("FIM_EVAL_", "HF_", "HUGGING")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) and not name.lower().endswith("_proxy")
    }
    return {**kept, **changes}


def fim_eval(
    *words: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    given: bytes | None = None,
    limit_s: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end in `cwd`."""
    done = subprocess.run(
        [COMMAND, *map(str, words)],
        cwd=cwd,
        env=dict(env) if env is not None else environment(),
        input=given,
        stdin=None if given is not None else subprocess.DEVNULL,
        capture_output=True,
        timeout=limit_s,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def start_fim_eval(
    *words: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start the command in `cwd`; the caller ends it."""
    return subprocess.Popen(
        [COMMAND, *map(str, words)],
        cwd=cwd,
        env=dict(env) if env is not None else environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class InProcess:
    """The command in this process, in an empty folder: without half a second of starting up."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(folder)
        for name in (*os.environ.keys() - environment().keys(), "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end; an exception that it does not expect fails the test."""
        for name, value in env.items():
            self._monkeypatch.setenv(name, value)
        told = ["fim-eval", *map(str, words)]
        self._monkeypatch.setattr(sys, "argv", told)
        with pytest.raises(SystemExit) as ended:
            main()
        output, errors = self._capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(told, code, output, errors)


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Look every 5 ms until something holds; fail if it never does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def made_tasks(count: int) -> list[InfillTask]:
    """`Made/7` is `def f7():` with the hole `    return 7`."""
    return [
        InfillTask(
            task_id=f"Made/{number}/single-line/L1",
            problem_id=f"Made/{number}",
            kind="single-line",
            context=None,
            prefix=f"def f{number}():\n",
            middle=f"    return {number}\n",
            suffix="",
        )
        for number in range(count)
    ]


def write_tasks(path: Path, tasks: Iterable[InfillTask]) -> Path:
    """A task file without facts beside it."""
    path.write_bytes(json_lines(list(tasks)))
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

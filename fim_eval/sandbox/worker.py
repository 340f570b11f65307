"""One zygote from the outside: started in its jail, given one job at a time, ended.

A zygote is bound to the thread that started it: the kernel ends it when that thread ends.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import math
import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fim_eval.records import Execution
from fim_eval.sandbox.jail import ENVIRONMENT, Jail

SOURCE = Path(__file__).with_name("zygote.py")
START_S = 30.0
"""A zygote that has not greeted by then is given up: a loaded machine needs a second or two."""

CLOCK_FACTOR = 5
"""More than the lanes of a worker, so that each gets its processor time even if all take long."""

CLOSE_S = 5.0
"""How long it may take to leave once its channel is shut; then it is killed."""

SLACK_S = 10.0
"""How much longer than a program's own clock limit a zygote may take to answer."""


@cache
def _zygote() -> bytes:
    """The zygote's code. Compiled in each, it would cost 20 ms and leave memory to be forked."""
    return marshal.dumps(compile(SOURCE.read_bytes(), SOURCE.name, "exec", dont_inherit=True))


class SandboxError(Exception):
    """We failed, not the program: nothing is known of it."""


class KilledFromOutsideError(SandboxError):
    """A program's process was ended by none of us. Once, that is the machine; again, the program.

    A program can do this to itself in ways that no filter foresees, and must not escape its verdict
    so.
    """

    def __init__(self, message: str, execution: Execution) -> None:
        super().__init__(message)
        self.execution = execution


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use."""

    time_s: float
    """Processor seconds."""

    memory_bytes: int = 1 << 30
    """Address space."""

    output_bytes: int = 1 << 20
    """What it may send back."""

    @property
    def clock_s(self) -> float:
        """Seconds on the clock: what sleeps, or shares a processor with others that take long."""
        return CLOCK_FACTOR * self.time_s


class Zygote:
    """A running zygote. A context manager; `run` may be called until it raises."""

    def __init__(self, jail: Jail) -> None:
        """Nothing is started before the context is entered."""
        self.jail = jail
        self.executed = 0
        """Programs since the start."""

    def start(self) -> None:
        """Start it and wait for its greeting.

        Raises:
            SandboxError: it did not come up; the message holds what it wrote to standard error.
        """
        # A socket: shut down from any thread, it is seen at once by whoever waits at its ends.
        self._channel, theirs = socket.socketpair()
        code = os.memfd_create("zygote")
        os.write(code, _zygote())
        os.lseek(code, 0, os.SEEK_SET)
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter and source
                self.jail.command(code),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                pass_fds=(code,),
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            self._channel.close()
            raise SandboxError(f"cannot be started: {error}") from error
        finally:
            os.close(code)
            theirs.close()
        self._poll = select.poll()
        self._poll.register(self._channel, select.POLLIN)
        try:
            self._send(json.dumps(self.jail.config).encode())
            header, _ = self._receive(START_S)
        except SandboxError as error:
            self.close()
            raise SandboxError(f"did not start: {error}") from error
        self.python = str(header["python"])

    def __enter__(self) -> Self:
        """Start it, see `start`."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, and everything in it."""
        self.close()

    def run(
        self,
        program: str,
        setup: str,
        tests: Sequence[tuple[str, str]],
        limits: Limits,
        *,
        most_s: float = math.inf,
        marker: str,
        careful: bool,
        patience_s: float,
        on_slow: Callable[[], None],
    ) -> Execution:
        """Execute one program in a process of its own.

        Args:
            program: its source.
            setup: runs after it.
            tests: kind and source of each, see `judge.Check`.
            limits: what it may use.
            most_s: seconds on the clock after which it is ended, whatever its limits.
            marker: sent back by tests that run whole.
            careful: compile it in its own process, not in the zygote.
            patience_s: after so long, `on_slow` is called, once.
            on_slow: lets someone else have the processor's attention.

        Raises:
            SandboxError: the zygote ended, was silent for too long, or its process was killed from
                outside; start another.
        """
        job = {
            "program": program,
            "setup": setup,
            "tests": tests,
            "marker": marker,
            "careful": careful,
            "time_s": limits.time_s,
            "clock_s": min(limits.clock_s, most_s),
            "memory_bytes": limits.memory_bytes,
            "output_bytes": limits.output_bytes,
        }
        # The same interpreter reads it, in one call; JSON costs it page faults.
        self._send(marshal.dumps(job))
        if not self._poll.poll(1000 * patience_s):
            on_slow()
        header, output = self._receive(limits.clock_s + SLACK_S)
        self.executed += 1
        return self._execution(header, output, marker)

    def _execution(self, header: dict[str, Any], output: bytes, marker: str) -> Execution:
        if header["end"] == "not-compiled":
            kind, text, line = header["error"]
            # Syntax errors name their line themselves.
            named = line is None or text.endswith(f"line {line})")
            where = "" if named else f" (line {line})"
            return Execution(end="not-compiled", error=f"{kind}: {text}{where}")
        execution = Execution(
            end=header["end"],
            output=output,
            exit_code=header["exit_code"],
            signal=header["signal"],
            cpu_s=header["cpu_s"],
            wall_s=header["wall_s"],
            peak_bytes=header["peak_bytes"],
            marker=marker,
        )
        confined = self.jail.isolation != "none"
        if execution.end == "exited" and execution.signal == signal.SIGKILL and confined:
            # It cannot have sent that signal: the filter refuses it every one.
            raise KilledFromOutsideError(
                "a program was killed from outside; is the machine out of memory?", execution
            )
        if execution.exit_code == _NO_FILTER and not execution.output:
            raise KilledFromOutsideError("the system call filter could not be installed", execution)
        return execution

    def kill(self) -> None:
        """End it from another thread: whoever waits for its answer gets a `SandboxError`."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it, its program and its jail, and wait until they have."""
        self.kill()
        try:
            # It sees the channel shut and leaves; its jail follows. As root, bubblewrap may not
            # kill the user that it runs, so to kill bubblewrap first would leave that one behind.
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._channel.close()
        if self._process.stderr is not None:
            self._process.stderr.close()

    @property
    def pid(self) -> int:
        """Of the process that was started: bubblewrap, or the interpreter itself."""
        return self._process.pid

    def _send(self, body: bytes) -> None:
        try:
            self._channel.sendall(_LENGTH.pack(len(body)) + body)
        except OSError as error:
            raise SandboxError(self._last_words()) from error

    def _receive(self, within_s: float) -> tuple[dict[str, Any], bytes]:
        end = time.monotonic() + within_s
        frame = bytearray()
        wanted = _LENGTH.size
        while len(frame) < wanted:
            left = end - time.monotonic()
            if left <= 0 or not self._poll.poll(1000 * left):
                raise SandboxError("did not answer in time")
            try:
                part = self._channel.recv(_MOST_AT_ONCE)
            except OSError as error:
                raise SandboxError(self._last_words()) from error
            if not part:
                raise SandboxError(self._last_words())
            frame += part
            if len(frame) >= _LENGTH.size:
                wanted = _LENGTH.size + _LENGTH.unpack_from(frame)[0]
        header, _newline, output = bytes(frame[_LENGTH.size :]).partition(b"\n")
        return json.loads(header), output

    def _last_words(self) -> str:
        """Why it ended: the last line on its standard error, which closes once it has started."""
        self.kill()
        try:
            code = self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            return "did not end"
        assert self._process.stderr is not None  # noqa: S101  opened as a pipe
        lines = self._process.stderr.read(65_536).decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"ended with code {code}"


_LENGTH = struct.Struct(">I")
_MOST_AT_ONCE = 1 << 18

_NO_FILTER = 97
"""Exit code of a process whose filter was refused; see `_install_filter` in the zygote."""

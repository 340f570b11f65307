"""What commands print and write: standard error for people, standard output for results."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from fim_eval.cli.options import INTERRUPTED, STANDARD
from fim_eval.errors import DatasetError
from fim_eval.terminal import printable

if TYPE_CHECKING:
    import asyncio

ResultT = TypeVar("ResultT")


def say(message: str) -> None:
    """One line on standard error, with control codes made visible: servers write some of it."""
    sys.stderr.write(printable(message) + "\n")
    sys.stderr.flush()


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, or standard output."""
    if path == STANDARD:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    if path.is_dir():
        raise DatasetError(f"{path}: is a folder; name a file with --out")
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.rename(path)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written ({error.strerror}); name another with --out"
        ) from error


def run_async(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine, on uvloop where there is one."""
    import asyncio

    new_loop: Callable[[], asyncio.AbstractEventLoop]
    try:
        from uvloop import new_event_loop as new_loop
    except ImportError:
        new_loop = asyncio.new_event_loop
    with interruptible(), asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(work)


def run_stoppable(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, ResultT]], drain_s: float
) -> ResultT:
    """Run a coroutine that is told to stop by a first SIGINT or SIGTERM; a second ends it at once.

    Raises:
        typer.Exit: a second signal came; with the exit code of an interruption.
    """
    import asyncio

    async def stoppable() -> ResultT:
        stop = asyncio.Event()
        task = asyncio.create_task(work(stop))

        def on_signal() -> None:
            if stop.is_set():
                task.cancel()
                return
            say(
                f"fim-eval: stopping; waiting up to {drain_s:.0f} s for what is in flight, "
                "once more ends at once"
            )
            stop.set()

        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for each in signals:
            loop.add_signal_handler(each, on_signal)
        try:
            return await task
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            for each in signals:
                loop.remove_signal_handler(each)

    return run_async(stoppable())


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn an interruption into a sentence and its exit code."""
    try:
        yield
    except KeyboardInterrupt:
        # Here, and not in main(): typer would turn it into a bare "Aborted".
        say("fim-eval: interrupted; what was answered is on disk, the same command resumes")
        raise typer.Exit(INTERRUPTED) from None


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

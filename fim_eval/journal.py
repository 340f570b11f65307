"""A run directory: who owns it, what it holds, and lines that are on disk once written.

    manifest.json       what was asked of whom, written first (`RunManifest`)
    tasks.jsonl         the tasks of the run, so that everything can be computed again from here
    segments.jsonl      one line per session of asking
    generations.jsonl   one line per outcome, appended as it comes

A line is written with one system call to a file opened for appending, so a kill leaves at most
one torn line, at the end; it is cut off on the next opening and its prompt asked again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from fim_eval.errors import RunDirectoryError
from fim_eval.records import (
    Completion,
    Generation,
    InfillTask,
    Prompt,
    Record,
    RequestFailure,
    RunIdentity,
    RunManifest,
    Segment,
)
from fim_eval.words import PERMANENT_FAILURES

MANIFEST = "manifest.json"
TASKS = "tasks.jsonl"
SEGMENTS = "segments.jsonl"
GENERATIONS = "generations.jsonl"
LOCK = "lock"

T = TypeVar("T")
Key = tuple[str, str, int]
"""task_id, strategy, sample_index."""

_GENERATION: TypeAdapter[Completion | RequestFailure] = TypeAdapter(Generation)


def key_of(record: Prompt | Completion | RequestFailure) -> Key:
    """What is asked, or answered."""
    return record.task_id, record.strategy, record.sample_index


def json_lines(records: Iterable[Record]) -> bytes:
    """Records as they stand in files: one compact JSON object a line."""
    return b"".join(orjson.dumps(record.model_dump()) + b"\n" for record in records)


class RunDirectory:
    """A run directory opened for writing by this process alone. A context manager."""

    def __init__(self, path: Path) -> None:
        """Nothing is touched before the context is entered."""
        self.path = path

    def __enter__(self) -> Self:
        """Create the folder if need be, and lock it.

        Raises:
            RunDirectoryError: it cannot be written, or another process is using it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._lock, 100).decode("utf-8", "replace").strip()
            os.close(self._lock)
            raise RunDirectoryError(
                f"{self.path}: is in use by another run ({owner or 'owner unknown'}); wait for it, "
                "or choose another --out"
            ) from error
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        except OSError as error:
            os.close(self._lock)
            raise _cannot_write(self.path / LOCK, error) from error
        self._generations: int | None = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the folder; what was appended is on disk."""
        if self._generations is not None:
            os.fsync(self._generations)
            os.close(self._generations)
        os.close(self._lock)

    def claim(self, manifest: RunManifest, tasks: list[InfillTask]) -> None:
        """Make the folder this run's, or see that it already is.

        Raises:
            RunDirectoryError: it belongs to another run, with the difference named, or holds
                files but no manifest.
        """
        if has_manifest(self.path):
            difference = _difference(read_manifest(self.path).identity, manifest.identity)
            if difference:
                raise RunDirectoryError(
                    f"{self.path}: belongs to another run ({difference}); choose another --out"
                )
            return
        strangers = sorted(
            entry.name for entry in self.path.iterdir() if entry.name in (GENERATIONS, SEGMENTS)
        )
        if strangers:
            raise RunDirectoryError(
                f"{self.path}: holds {', '.join(strangers)} but no {MANIFEST}, so nobody can tell "
                "which run they are of; choose another --out"
            )
        self._create(TASKS, json_lines(tasks))
        self._create(MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")

    def begin_segment(self, segment: Segment) -> None:
        """Note that a session of asking begins."""
        descriptor = self._open_to_append(SEGMENTS)
        try:
            _write_line(descriptor, json_lines([segment]), self.path / SEGMENTS)
        finally:
            os.close(descriptor)

    def append(self, generation: Completion | RequestFailure) -> None:
        """Write one outcome. When this returns, a kill of the process cannot lose it.

        Raises:
            RunDirectoryError: the disk is full or gone; the run cannot go on.
        """
        if self._generations is None:
            self._generations = self._open_to_append(GENERATIONS)
        _write_line(self._generations, json_lines([generation]), self.path / GENERATIONS)

    def _open_to_append(self, name: str) -> int:
        """A descriptor for appending, after cutting off a torn last line."""
        path = self.path / name
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise _cannot_write(path, error) from error
        whole = path.read_bytes().rfind(b"\n") + 1
        os.ftruncate(descriptor, whole)
        return descriptor

    def _create(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        unfinished = self.path / f"{name}.unfinished"
        try:
            unfinished.write_bytes(content)
            unfinished.rename(self.path / name)
        except OSError as error:
            raise _cannot_write(self.path / name, error) from error


def _write_line(descriptor: int, line: bytes, path: Path) -> None:
    """Write a whole line with one call, or nothing.

    Raises:
        RunDirectoryError: the disk is full or gone.
    """
    try:
        written = os.write(descriptor, line)
    except OSError as error:
        raise _cannot_write(path, error) from error
    if written != len(line):
        # Nothing may be appended behind half a line.
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
        raise RunDirectoryError(
            f"{path}: only {written} of {len(line)} bytes could be written; is the disk full? "
            "Make room and run the same command again: it resumes"
        )


def has_manifest(path: Path) -> bool:
    """Whether the folder at `path` is a run directory already."""
    return (path / MANIFEST).exists()


def read_manifest(path: Path) -> RunManifest:
    """The manifest of the run directory at `path`.

    Raises:
        RunDirectoryError: there is none, or it cannot be understood.
    """
    file = path / MANIFEST
    try:
        return RunManifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise RunDirectoryError(
            f"{path}: is no run directory ({MANIFEST}: {error.strerror}); `fim-eval run` makes one"
        ) from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise RunDirectoryError(
            f"{file}: cannot be understood ({place}: {fault['msg']}); it was written by another "
            "version, or damaged"
        ) from error


def read_tasks(path: Path) -> list[InfillTask]:
    """The tasks of the run directory at `path`, in order.

    Raises:
        RunDirectoryError: they are not those that the manifest was written for.
    """
    try:
        content = (path / TASKS).read_bytes()
    except OSError as error:
        raise RunDirectoryError(f"{path / TASKS}: cannot be read ({error.strerror})") from error
    identity = read_manifest(path).identity
    if hashlib.sha256(content).hexdigest() != identity.tasks_sha256:
        raise RunDirectoryError(
            f"{path / TASKS}: is not the file of {identity.tasks} tasks that this run was made "
            "with; without it nothing can be scored. Restore it, or choose another --out"
        )
    adapter = TypeAdapter(InfillTask)
    return [adapter.validate_json(line) for line in content.splitlines()]


def read_segments(path: Path) -> list[Segment]:
    """The sessions of the run directory at `path`, in order."""
    return [
        _validated(TypeAdapter(Segment), line, path / SEGMENTS, number)
        for number, line in _whole_lines(path / SEGMENTS)
    ]


def read_generations(path: Path) -> dict[Key, Completion | RequestFailure]:
    """The last outcome of each key in the run directory at `path`.

    A failure may stand before the completion that a later session got.

    Raises:
        RunDirectoryError: a whole line is damaged, or a key was answered twice.
    """
    outcomes: dict[Key, Completion | RequestFailure] = {}
    for number, line in _whole_lines(path / GENERATIONS):
        generation = _validated(_GENERATION, line, path / GENERATIONS, number)
        key = key_of(generation)
        if isinstance(outcomes.get(key), Completion):
            raise RunDirectoryError(
                f"{path / GENERATIONS}:{number}: answers {key[0]} a second time"
            )
        outcomes[key] = generation
    return outcomes


def is_settled(generation: Completion | RequestFailure) -> bool:
    """Whether asking again would be in vain: it is answered, or refused for good."""
    return isinstance(generation, Completion) or generation.reason in PERMANENT_FAILURES


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without their newline; a torn last line is left out."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be read ({error.strerror})") from error
    yield from enumerate(content.split(b"\n")[:-1], 1)


def _validated(adapter: TypeAdapter[T], line: bytes, path: Path, number: int) -> T:
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise RunDirectoryError(
            f"{path}:{number}: is damaged ({fault['msg']}); remove that line to ask its prompt "
            "again, or choose another --out"
        ) from error


def _difference(stored: RunIdentity, wanted: RunIdentity) -> str:
    """The fields in which two runs differ, in words; empty if in none."""
    before, now = stored.model_dump(), wanted.model_dump()
    return "; ".join(
        f"{field}: {before[field]} there, {now[field]} now"
        for field in before
        if before[field] != now[field]
    )


def _cannot_write(path: Path, error: OSError) -> RunDirectoryError:
    return RunDirectoryError(
        f"{path}: cannot be written ({error.strerror}); name a folder of your own with --out"
    )

"""Files of records, one JSON object a line, that are on disk once written; and who owns a folder.

Lines are written with one system call to a file opened for appending, so a kill leaves at most one
torn line, at the end: it is cut off when the file is opened again, and left out when it is read.
Each line carries a checksum of itself as its last member, `crc32`: a bit that a disk has turned is
told, never taken for what a model wrote.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from fim_eval.errors import RunDirectoryError
from fim_eval.records import Record

LOCK = "lock"

SYNC_S = 5.0
"""Between two times that an open file is forced onto the disk: more often would cost more than the
writing, and only a machine that loses its power forgets what was written since."""

T = TypeVar("T")


def json_lines(records: Iterable[Record]) -> bytes:
    """Records as they stand in files: one compact JSON object a line."""
    return b"".join(map(line_of, records))


def sha256_of(records: Iterable[Record]) -> str:
    """Of `json_lines`, without holding them all."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(line_of(record))
    return digest.hexdigest()


def line_of(record: Record) -> bytes:
    """A record as its line in a file."""
    return json_of(record) + b"\n"


def json_of(record: Record) -> bytes:
    """A record as a compact JSON object, records inside of it likewise.

    Its fields as they are: `model_dump` first would take five times as long.
    """
    return orjson.dumps(vars(record), default=vars)


class OwnedFolder:
    """A folder that this process alone writes to, and files in it. A context manager."""

    def __init__(self, path: Path, *files: AppendFile) -> None:
        """Nothing is touched before the context is entered; the files are closed with it."""
        self.path = path
        self._files = files

    def __enter__(self) -> Self:
        """Create the folder if need be, and lock it.

        Raises:
            RunDirectoryError: it cannot be written, or another process is using it.
        """
        self._is_new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(self.path, error) from error
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
            raise cannot_write(self.path / LOCK, error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the folder; remove it, if it was made for this and nothing has come into it.

        What was appended to its files is on disk.

        Raises:
            RunDirectoryError: it may not be; the folder is released all the same.
        """
        with ExitStack() as stack:
            # One after the other, whatever becomes of the first.
            stack.callback(self._release)
            for file in self._files:
                stack.callback(file.close)

    def _release(self) -> None:
        if self._is_new and [entry.name for entry in self.path.iterdir()] == [LOCK]:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sealed(body: bytes) -> bytes:
    r"""A JSON object as a line with its checksum.

    >>> sealed(b'{"a":1}')
    b'{"a":1,"crc32":"561bacaf"}\n'
    """
    return b'%b,"crc32":"%08x"}\n' % (body[:-1], zlib.crc32(body))


def sealed_lines(records: Iterable[Record]) -> bytes:
    """Records as they stand in journals."""
    return b"".join(sealed(json_of(record)) for record in records)


def unsealed(line: bytes) -> bytes:
    """What was sealed, without its checksum.

    Raises:
        ValueError: there is no checksum, or it is another line's.
    """
    body, mark, rest = line[:-_SEAL] + b"}", line[-_SEAL:-10], line[-10:]
    if mark != b',"crc32":"':
        raise ValueError("has no checksum")
    if rest != b'%08x"}' % zlib.crc32(body):
        raise ValueError("its checksum does not match")
    return body


_SEAL = len(b',"crc32":"01234567"}')


class AppendFile:
    """A file of records that grows by whole lines. A context manager; opened by the first line.

    What was appended outlives the process at once, and the machine after `SYNC_S`.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is touched before the first `append`."""
        self.path = path
        self._descriptor: int | None = None
        self._synced = time.monotonic()

    def append(self, *records: Record) -> None:
        """Write records. When this returns, a kill of the process cannot lose them.

        Raises:
            RunDirectoryError: the disk is full or gone; the run cannot go on.
        """
        if self._descriptor is None:
            self._descriptor = _open_to_append(self.path)
        _write_lines(self._descriptor, sealed_lines(records), self.path)
        if time.monotonic() - self._synced > SYNC_S:
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                raise _cannot_keep(self.path, error) from error
            self._synced = time.monotonic()

    def close(self) -> None:
        """See that all of it is on the disk itself.

        Raises:
            RunDirectoryError: it may not be; the file is closed all the same.
        """
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            # Either may tell of what was written long before: a quota, or a disk that is gone.
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _cannot_keep(self.path, error) from error

    def __enter__(self) -> Self:
        """Nothing yet, see `append`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; what was appended is on disk."""
        self.close()


def create(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        RunDirectoryError: the disk is full or gone.
    """
    create_pieces(path, (content,))


def create_lines(path: Path, records: Iterable[Record]) -> None:
    """Write a file of records whole or not at all, without holding it in memory.

    Raises:
        RunDirectoryError: the disk is full or gone.
    """
    create_pieces(path, map(line_of, records))


def create_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file whole or not at all, piece by piece; it outlives the machine, too.

    Raises:
        RunDirectoryError: the disk is full or gone.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            # Before it has its name: else a machine that loses its power may keep the name alone.
            os.fsync(file.fileno())
        unfinished.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def read_lines(path: Path, adapter: TypeAdapter[T], remedy: str) -> Iterator[tuple[int, T]]:
    """Numbered records of a file; none if there is no file. A torn last line is left out.

    Args:
        path: the file.
        adapter: of what it holds.
        remedy: for the message about a damaged line, what removing it does.

    Raises:
        RunDirectoryError: it cannot be read, or a whole line is damaged.
    """
    return parsed(numbered_lines(path), path, adapter, remedy)


def parsed(
    lines: Iterable[tuple[int, bytes]], path: Path, adapter: TypeAdapter[T], remedy: str
) -> Iterator[tuple[int, T]]:
    """The records of some numbered lines of a file; see `read_lines`."""
    for number, line in lines:
        try:
            yield number, adapter.validate_json(unsealed(line))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise RunDirectoryError(
                f"{path}:{number}: was written by another version ({fault['msg']}); {remedy}"
            ) from error
        except ValueError as error:
            raise RunDirectoryError(f"{path}:{number}: is damaged ({error}); {remedy}") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """`whole_lines`, counted from 1."""
    return enumerate(whole_lines(path), 1)


def whole_lines(path: Path) -> Iterator[bytes]:
    """Lines without their ends; none if there is no file. Not all of a long file at once."""
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be read ({error.strerror})") from error


def cannot_write(path: Path, error: OSError) -> RunDirectoryError:
    """The error for a folder or file that the system does not let us write."""
    return RunDirectoryError(
        f"{path}: cannot be written ({error.strerror}); name a folder of your own with --out"
    )


def _cannot_keep(path: Path, error: OSError) -> RunDirectoryError:
    """The error for lines that were written, but that the disk may not have."""
    return RunDirectoryError(
        f"{path}: what was written may not be on the disk ({error.strerror}); see to the disk and "
        "its quota, and run the same command again: it resumes"
    )


def _sync_folder(folder: Path) -> None:
    """See that the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems know no such thing as a folder that is written out.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _open_to_append(path: Path) -> int:
    """A descriptor for appending, after cutting off a torn last line."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.ftruncate(descriptor, _end_of_whole_lines(descriptor))
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error
    return descriptor


def _end_of_whole_lines(descriptor: int) -> int:
    """Bytes up to the last line end: read from behind, for journals are long."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - _BLOCK)
        if found := os.pread(descriptor, end - start, start).rfind(b"\n") + 1:
            return start + found
        end = start
    return 0


_BLOCK = 1 << 16


def _write_lines(descriptor: int, lines: bytes, path: Path) -> None:
    """Write whole lines with one call, or nothing.

    Raises:
        RunDirectoryError: the disk is full or gone.
    """
    try:
        written = os.write(descriptor, lines)
        if written != len(lines):
            # Nothing may be appended behind half a line.
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
    except OSError as error:
        raise cannot_write(path, error) from error
    if written != len(lines):
        raise RunDirectoryError(
            f"{path}: only {written} of {len(lines)} bytes could be written; is the disk full? "
            "Make room and run the same command again: it resumes"
        )

"""What waits on disk: bytes by number, and numbers by key. Knows no record.

The files have no name: nothing of them is left, whatever ends the process.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from fim_eval.errors import RunDirectoryError

BUFFER = 1 << 18
CACHE_KIB = 512
"""Of an index, in memory at most: more made it no faster, up to a million keys."""


class Shelf:
    """Pieces of bytes, put there in order and read in any. A context manager.

    In memory it has eight bytes of each.
    """

    def __init__(self, folder: Path) -> None:
        """An empty one, on the disk of `folder`.

        Raises:
            RunDirectoryError: nothing can be written there.
        """
        self._folder = folder
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=BUFFER)  # noqa: SIM115  closed at the end
        except OSError as error:
            raise self._cannot(error) from error
        self._ends = array("Q", [0])
        self._is_written = True

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give its disk space back."""
        self._ends = array("Q", [0])
        try:
            self._file.close()
        except OSError as failed:  # what was left to be written, which nobody needs now
            if error is None:
                raise self._cannot(failed) from failed

    def append(self, piece: bytes) -> None:
        """One piece more.

        Raises:
            RunDirectoryError: the disk is full or gone.
        """
        try:
            self._file.write(piece)
        except OSError as error:
            raise self._cannot(error) from error
        self._ends.append(self._ends[-1] + len(piece))
        self._is_written = False

    def __len__(self) -> int:
        """How many pieces."""
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        """The piece that was put there as the `number`-th, counted from 0.

        Raises:
            RunDirectoryError: the disk is full or gone.
        """
        start, end = self._ends[number], self._ends[number + 1]
        try:
            if not self._is_written:
                self._file.flush()
                self._is_written = True
            return os.pread(self._file.fileno(), end - start, start)
        except OSError as error:
            raise self._cannot(error) from error

    def __iter__(self) -> Iterator[bytes]:
        """All pieces in order."""
        return map(self.__getitem__, range(len(self)))

    def _cannot(self, error: OSError) -> RunDirectoryError:
        return RunDirectoryError(
            f"{self._folder}: prompts that wait to be asked cannot be kept there "
            f"({error.strerror}); make room, or choose another --out"
        )


class Index:
    """Whole numbers by key, in a database that SQLite keeps in its temporary folder.

    A context manager. In memory it has half a megabyte, however many keys there are.
    """

    def __init__(self) -> None:
        """An empty one."""
        self._database = sqlite3.connect("", isolation_level=None)
        for told in (
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "PRAGMA temp_store = FILE",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE numbers (key PRIMARY KEY, number INTEGER) WITHOUT ROWID",
            "BEGIN",
        ):
            self._database.execute(told)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give its disk space back."""
        self._database.close()

    def setdefault(self, key: str | int, number: int) -> int:
        """The number of a key; this one, from now on, if it has none.

        Raises:
            RunDirectoryError: the disk is full or gone.
        """
        try:
            added = self._database.execute(
                "INSERT OR IGNORE INTO numbers VALUES (?, ?)", (key, number)
            )
        except sqlite3.Error as error:
            raise _no_index(error) from error
        if added.rowcount:
            return number
        known = self.get(key)
        assert known is not None  # noqa: S101  it was in the way
        return known

    def get(self, key: str | int) -> int | None:
        """The number of a key; None if it has none.

        Raises:
            RunDirectoryError: the disk is gone.
        """
        try:
            found = self._database.execute("SELECT number FROM numbers WHERE key = ?", (key,))
            row: tuple[int] | None = found.fetchone()
        except sqlite3.Error as error:
            raise _no_index(error) from error
        return None if row is None else row[0]


def _no_index(error: sqlite3.Error) -> RunDirectoryError:
    return RunDirectoryError(
        f"SQLite's temporary folder (SQLITE_TMPDIR, else TMPDIR, else /var/tmp): what is asked "
        f"cannot be told apart there ({error}); make room, or name another folder in SQLITE_TMPDIR"
    )

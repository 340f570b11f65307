"""Bytes that wait on disk, by number. Knows no record.

The file has no name: nothing of it is left, whatever ends the process.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from fim_eval.errors import RunDirectoryError

BUFFER = 1 << 18


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

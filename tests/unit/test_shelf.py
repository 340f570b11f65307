"""Bytes that wait on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fim_eval.errors import RunDirectoryError
from fim_eval.shelf import Shelf


@given(st.lists(st.binary(max_size=9)), st.data())
@settings(max_examples=30)
def test_every_piece_comes_back_whenever_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], data: st.DataObject
) -> None:
    with Shelf(tmp_path_factory.getbasetemp()) as shelf:
        for number, piece in enumerate(pieces):
            shelf.append(piece)
            place = data.draw(st.integers(0, number))
            assert shelf[place] == pieces[place]
        assert list(shelf) == pieces
        assert len(shelf) == len(pieces)


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    with Shelf(tmp_path) as shelf:
        shelf.append(b"x")
        assert shelf[0] == b"x"
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told() -> None:
    with pytest.raises(RunDirectoryError, match="cannot be kept there"):
        Shelf(Path("/proc"))

"""Bytes that wait on disk, and numbers by key."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fim_eval.errors import RunDirectoryError
from fim_eval.shelf import Index, Shelf


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


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1) | st.text(max_size=3), st.integers(0))))
@settings(max_examples=30)
def test_a_key_keeps_the_number_it_got_first(pairs: list[tuple[str | int, int]]) -> None:
    known: dict[str | int, int] = {}
    with Index() as index:
        for key, number in pairs:
            small = number % 2**63
            assert index.get(key) == known.get(key)
            assert index.setdefault(key, small) == known.setdefault(key, small)
        assert [index.get(key) for key, _ in pairs] == [known[key] for key, _ in pairs]


def test_an_index_that_cannot_be_kept_is_told() -> None:
    with Index() as index:
        index._database.execute("PRAGMA max_page_count = 4")
        with pytest.raises(RunDirectoryError, match=r"full\); make room, or name .* SQLITE_TMPDIR"):
            [index.setdefault(number, number) for number in range(10_000)]
    with Index() as index:
        index._database.set_progress_handler(lambda: 1, 1)
        with pytest.raises(RunDirectoryError, match="interrupted") as caught:
            index.get(1)
    assert isinstance(caught.value.__cause__, sqlite3.Error)

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import fuzz

from fim_eval.metrics import exact_match, exact_match_rstrip, score_columns

near = st.text(alphabet="ab é☺𝒳\n", max_size=12)
"""Few letters, so that two of these texts often share some."""


def naive_levenshtein(left: str, right: str) -> int:
    """The textbook's table, row by row."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]


def naive_longest_common_subsequence(left: str, right: str) -> int:
    row = [0] * (len(right) + 1)
    for a in left:
        above, row = row, [0]
        for j, b in enumerate(right, 1):
            row.append(above[j - 1] + 1 if a == b else max(above[j], row[j - 1]))
    return row[-1]


@pytest.mark.parametrize(
    ("answer", "reference", "scores"),
    [
        pytest.param("x = 1\n", "x = 1\n", (True, True, 0, 1.0, 1.0), id="equal"),
        pytest.param("", "", (True, True, 0, 1.0, 1.0), id="both empty"),
        pytest.param("", "abcd", (False, False, 4, 0.0, 0.0), id="empty answer"),
        pytest.param("abcd", "", (False, False, 4, 0.0, 0.0), id="empty reference"),
        pytest.param(
            "kitten", "sitting", (False, False, 3, 4 / 7, 8 / 13), id="the textbook's pair"
        ),
        pytest.param("ab", "cd", (False, False, 2, 0.0, 0.0), id="nothing in common"),
        pytest.param("x = 1", "x = 1\n", (False, True, 1, 5 / 6, 10 / 11), id="newline missing"),
        pytest.param(
            "x = 1 \t\n\n", "x = 1\n", (False, True, 3, 6 / 9, 12 / 15), id="blanks after"
        ),
        pytest.param("  x\n", "    x\n", (False, False, 2, 4 / 6, 8 / 10), id="other indentation"),
        pytest.param("\n\n", " ", (False, True, 2, 0.0, 0.0), id="white space on both sides"),
        pytest.param("é", "e\u0301", (False, False, 2, 0.0, 0.0), id="composed and decomposed"),
        pytest.param("𝒳☺", "𝒳", (False, False, 1, 1 / 2, 2 / 3), id="one code point, four bytes"),
    ],
)
def test_the_scores_of_a_pair_can_be_counted_by_hand(
    answer: str, reference: str, scores: tuple[bool, bool, int, float, float]
) -> None:
    strict, rstripped, distance, similarity, indel = scores
    row = score_columns([answer], [reference]).row(0, named=True)
    assert row["exact_match"] is strict
    assert row["exact_match_rstrip"] is rstripped
    assert row["edit_distance"] == distance
    assert row["edit_similarity"] == pytest.approx(similarity, abs=1e-12)
    assert row["indel_ratio"] == pytest.approx(indel, abs=1e-12)


def test_rows_stand_in_the_order_of_the_pairs() -> None:
    table = score_columns(["a", "", "abc"], ["a", "b", "x"])
    assert table["edit_distance"].to_list() == [0, 1, 3]


def test_the_columns_have_their_documented_types() -> None:
    assert dict(score_columns(["a"], ["b"]).schema) == {
        "exact_match": pl.Boolean(),
        "exact_match_rstrip": pl.Boolean(),
        "edit_distance": pl.UInt32(),
        "edit_similarity": pl.Float64(),
        "indel_ratio": pl.Float64(),
    }


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        score_columns(["a"], ["a", "b"])


@given(st.lists(st.tuples(near, near), min_size=1, max_size=20))
def test_the_edit_distance_is_that_of_the_textbook(pairs: list[tuple[str, str]]) -> None:
    table = score_columns([answer for answer, _ in pairs], [reference for _, reference in pairs])
    for (answer, reference), row in zip(pairs, table.iter_rows(named=True), strict=True):
        distance = naive_levenshtein(answer, reference)
        assert row["edit_distance"] == distance
        longer = max(len(answer), len(reference))
        expected = 1 - distance / longer if longer else 1.0
        assert row["edit_similarity"] == pytest.approx(expected, abs=1e-12)


@given(near, near)
def test_the_indel_ratio_times_100_is_rapidfuzz_s_ratio(answer: str, reference: str) -> None:
    ratio = score_columns([answer], [reference])["indel_ratio"].item()
    assert ratio * 100 == pytest.approx(fuzz.ratio(answer, reference), abs=1e-9)
    total = len(answer) + len(reference)
    common = naive_longest_common_subsequence(answer, reference)
    assert ratio == pytest.approx(2 * common / total if total else 1.0, abs=1e-12)


@given(st.text(), st.text())
def test_an_answer_is_an_exact_match_exactly_if_its_distance_is_zero(
    answer: str, reference: str
) -> None:
    row = score_columns([answer], [reference]).row(0, named=True)
    assert row["exact_match"] == (row["edit_distance"] == 0) == (row["edit_similarity"] == 1)


@given(st.text(), st.text(alphabet=" \t\r\n\f\u2028"), st.text(alphabet=" \t\r\n\f\u2028"))
def test_white_space_at_the_end_is_all_that_the_rstrip_match_forgives(
    text: str, after: str, more: str
) -> None:
    assert exact_match_rstrip(text + after, text + more)
    assert exact_match(text + after, text + more) == (after == more)
    assert not exact_match_rstrip(text + "x" + after, text + more)

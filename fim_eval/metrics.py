"""How near an answer is to the reference, and the table of it. Pure; runs no code, asks nobody.

Distances by rapidfuzz (https://rapidfuzz.github.io/RapidFuzz/), over Unicode code points.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from rapidfuzz import process
from rapidfuzz.distance import Indel, Levenshtein


def exact_match(answer: str, reference: str) -> bool:
    """Strict: equal to the last character, indentation and newline included."""
    return answer == reference


def exact_match_rstrip(answer: str, reference: str) -> bool:
    """Equal when white space at the very end of both is ignored: InCoder's rule.

    https://arxiv.org/abs/2204.05999; indentation still counts.
    """
    return answer.rstrip() == reference.rstrip()


def tpot_ms() -> pl.Expr:
    """Time per output token: (last token - first token) / (completion_tokens - 1), in milliseconds.

    Null below two tokens: there is no interval, and a zero would pull the median down.
    """
    tokens = pl.col("completion_tokens")
    span = pl.col("last_token_ns") - pl.col("first_token_ns")
    return pl.when(tokens >= 2).then(span / 1e6 / (tokens - 1))


def score_columns(answers: Sequence[str], references: Sequence[str]) -> pl.DataFrame:
    """One row per pair, in order.

    Columns:
        exact_match bool: see `exact_match`.
        exact_match_rstrip bool: see `exact_match_rstrip`.
        edit_distance u32, characters: Levenshtein, unit costs.
        edit_similarity f64 in [0, 1]: 1 - Levenshtein / length of the longer; two empty: 1
            (as in Qwen's RepoEval).
        indel_ratio f64 in [0, 1]: 1 - Indel distance / sum of lengths; two empty: 1. Times 100 it
            is the `fuzz.ratio` that CrossCodeEval and RepoBench report as edit similarity.
    """
    pairs = list(zip(answers, references, strict=True))
    return pl.DataFrame(
        {
            "exact_match": [exact_match(answer, reference) for answer, reference in pairs],
            "exact_match_rstrip": [exact_match_rstrip(*pair) for pair in pairs],
            "edit_distance": process.cpdist(answers, references, scorer=Levenshtein.distance),
            "edit_similarity": process.cpdist(
                answers, references, scorer=Levenshtein.normalized_similarity, dtype="float64"
            ),
            "indel_ratio": process.cpdist(
                answers, references, scorer=Indel.normalized_similarity, dtype="float64"
            ),
        },
        schema_overrides={"edit_distance": pl.UInt32},
    )

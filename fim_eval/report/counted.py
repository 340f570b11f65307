"""Run directories read for their summary alone: some tasks at a time, and of each only numbers.

The summary is that of `table.summarise` over all scores, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import polars as pl

from fim_eval.postprocess import POLICIES
from fim_eval.records import RunManifest
from fim_eval.report.filled import read_parts
from fim_eval.report.table import in_order, scores_of, summarise
from fim_eval.words import Kind, Policy

AT_ONCE = 5_000
"""Tasks that are in memory with their texts."""

OF_RUN = ("model", "parameters", "infills", "strategy")
OF_POLICY = (
    "exact_match", "exact_match_rstrip", "edit_distance", "edit_similarity", "indel_ratio",
    "passed",
)  # fmt: skip
OF_TASK = (
    "kind", "answered", "truncated", "ended", "ran_past", "completion_tokens", "segment",
    "sent_ns", "elapsed_ns", "first_token_ns", "last_token_ns", "judged", "sensitive",
    "asked_gold", "gold_bits", "gold_characters", "gold_end_bits",
)  # fmt: skip
"""Columns of `table.scores_of` that a summary is of, by what they are the same for."""


@dataclass(frozen=True, slots=True)
class CountedRun:
    """One run directory, about two hundred bytes a task."""

    path: Path
    manifest: RunManifest
    of_run: pl.DataFrame
    """One row."""

    of_task: pl.DataFrame
    of_policy: dict[Policy, pl.DataFrame]
    """Rows as those of `of_task`."""


def read_counted(path: Path) -> CountedRun:
    """The run directory at `path`.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    places: list[pl.Series] = []
    parts: list[CountedRun] = []
    for found, run in read_parts(path, AT_ONCE):
        places.append(pl.Series(found, dtype=pl.UInt32))
        parts.append(counted_of(path, run.manifest, scores_of(run)))
    order = pl.concat(places).arg_sort()
    first = parts[0]
    return CountedRun(
        path,
        first.manifest,
        pl.concat([part.of_run for part in parts]).head(1),
        pl.concat([part.of_task for part in parts])[order],
        {
            policy: pl.concat([part.of_policy[policy] for part in parts])[order]
            for policy in first.of_policy
        },
    )


def counted_of(path: Path, manifest: RunManifest, scores: pl.DataFrame) -> CountedRun:
    """What a summary needs of the scores of a run, or of a part of its tasks."""
    of_policy = {policy: scores.filter(pl.col("policy") == policy) for policy in POLICIES}
    of_task = of_policy["raw"].select(OF_TASK)
    return CountedRun(
        path,
        manifest,
        scores.head(1).select(OF_RUN),
        of_task.with_columns(pl.col("kind").cast(pl.Enum(get_args(Kind)))),
        {policy: frame.select(OF_POLICY) for policy, frame in of_policy.items()},
    )


def summary_of(runs: Sequence[CountedRun]) -> pl.DataFrame:
    """What `table.summarise` says of the scores of all runs together; one policy at a time."""
    return in_order(
        pl.concat(
            [summarise(pl.concat([_scores(run, policy) for run in runs])) for policy in POLICIES]
        )
    )


def _scores(run: CountedRun, policy: Policy) -> pl.DataFrame:
    frame = run.of_task.hstack(run.of_policy[policy])
    return frame.with_columns(
        *(pl.lit(column.first(), dtype=column.dtype).alias(column.name) for column in run.of_run),
        pl.lit(policy).alias("policy"),
        pl.col("kind").cast(pl.String),
    )

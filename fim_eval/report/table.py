"""Scores of each task, and their summary: one row per model, strategy, kind and policy.

N is every task of the run, n those with an answer. What has no answer is unresolved: it is in no
numerator and in every denominator, and where there is any, rates are told as bounds.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from fim_eval.journal import read_generations, read_manifest, read_tasks
from fim_eval.metrics import score_columns
from fim_eval.postprocess import POLICIES, filled_middle
from fim_eval.records import Completion

GROUP = ("model", "strategy", "kind", "policy")


def score_run(path: Path) -> pl.DataFrame:
    """One row per task and policy of the run directory at `path`.

    Columns: model str, parameters i64 (null: not in our table), infills str, strategy str, kind
    str, policy str, problem_id str, task_id str, answered bool; the columns of
    `metrics.score_columns`, null where unanswered; truncated bool (met the token limit),
    completion_tokens i64, segment i64, sent_ns i64, elapsed_ns i64, null where unanswered.
    """
    manifest = read_manifest(path)
    outcomes = read_generations(path)
    strategy = manifest.identity.strategy
    rows = []
    answers: list[str] = []
    references: list[str] = []
    for policy in POLICIES:
        for task in read_tasks(path):
            outcome = outcomes.get((task.task_id, strategy, 0))
            answer = outcome if isinstance(outcome, Completion) else None
            rows.append(
                (
                    policy, task.kind, task.problem_id, task.task_id, answer is not None,
                    answer and answer.finish_reason == "length",
                    answer and answer.completion_tokens,
                    answer and answer.segment,
                    answer and answer.sent_ns, answer and answer.elapsed_ns,
                )
            )  # fmt: skip
            answers.append(filled_middle(policy, answer.text, task.middle) if answer else "")
            references.append(task.middle)
    card = manifest.card
    schema = {
        "policy": pl.String,
        "kind": pl.String,
        "problem_id": pl.String,
        "task_id": pl.String,
        "answered": pl.Boolean,
        "truncated": pl.Boolean,
        "completion_tokens": pl.Int64,
        "segment": pl.Int64,
        "sent_ns": pl.Int64,
        "elapsed_ns": pl.Int64,
    }
    scores = score_columns(answers, references)
    frame = pl.DataFrame(rows, schema=schema, orient="row").hstack(scores)
    return frame.with_columns(
        pl.lit(manifest.identity.model).alias("model"),
        pl.lit(card.parameters if card else None, dtype=pl.Int64).alias("parameters"),
        pl.lit(card.infills if card else "unknown").alias("infills"),
        pl.lit(strategy).alias("strategy"),
        *(pl.when("answered").then(name).alias(name) for name in scores.columns),
    )


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """One row per model × strategy × kind × policy, smallest model first.

    Columns:
        model, strategy, kind, policy str; parameters i64; infills str.
        tasks u32: N. answered u32: n. unresolved u32: N - n.
        exact_match, exact_match_rstrip, edit_similarity, indel_ratio f64 in [0, 1]: mean over all
            N; null if any is unresolved. `<name>_low` and `<name>_high`: its bounds, every
            unresolved task counted as 0 or as 1; all three are equal if none is.
        edit_distance_mean, edit_distance_median f64, characters: over the n answered.
        truncated u32: answers that met the token limit.
        completion_tokens i64: sum over answers; null if the server counts none.
        wall_s f64: from the first request sent to the last answer received, summed over the
            run's sessions; null if nothing was answered.
        tokens_per_s f64: completion_tokens / wall_s.
    """
    rates = ("exact_match", "exact_match_rstrip", "edit_similarity", "indel_ratio")
    total = pl.len()
    answered = pl.col("answered").sum()
    sums = {name: pl.col(name).cast(pl.Float64).sum() for name in rates}
    wall = _wall_s(scores)
    summary = scores.group_by(GROUP, maintain_order=True).agg(
        pl.col("parameters").first(),
        pl.col("infills").first(),
        total.cast(pl.UInt32).alias("tasks"),
        answered.cast(pl.UInt32).alias("answered"),
        (total - answered).cast(pl.UInt32).alias("unresolved"),
        *(pl.when(answered == total).then(sums[name] / total).alias(name) for name in rates),
        *((sums[name] / total).alias(f"{name}_low") for name in rates),
        *(((sums[name] + (total - answered)) / total).alias(f"{name}_high") for name in rates),
        pl.col("edit_distance").mean().alias("edit_distance_mean"),
        pl.col("edit_distance").median().alias("edit_distance_median"),
        pl.col("truncated").sum().cast(pl.UInt32).alias("truncated"),
        pl.when(pl.col("completion_tokens").is_not_null().any())
        .then(pl.col("completion_tokens").sum())
        .alias("completion_tokens"),
    )
    return (
        summary.join(wall, on=GROUP, how="left", maintain_order="left")
        .with_columns((pl.col("completion_tokens") / pl.col("wall_s")).alias("tokens_per_s"))
        .sort(
            "parameters", "model", pl.col("strategy").replace_strict(_ORDER, default=9),
            "kind", pl.col("policy").replace_strict({p: i for i, p in enumerate(POLICIES)}),
            nulls_last=True,
        )
    )  # fmt: skip


_ORDER = {"lr": 0, "fim-psm": 1, "fim-spm": 2}


def _wall_s(scores: pl.DataFrame) -> pl.DataFrame:
    """Columns: those of `GROUP`, wall_s f64 in seconds; groups without an answer are missing."""
    return (
        scores.filter("answered")
        .group_by(*GROUP, "segment")
        .agg(
            ((pl.col("sent_ns") + pl.col("elapsed_ns")).max() - pl.col("sent_ns").min()).alias(
                "span_ns"
            )
        )
        .group_by(GROUP)
        .agg((pl.col("span_ns").sum() / 1e9).alias("wall_s"))
    )

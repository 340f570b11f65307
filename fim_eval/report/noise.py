"""What changed when a part of a run's tasks was asked again: the noise floor of its differences."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from fim_eval.report.comparison import raw_texts
from fim_eval.report.definitions import HEADLINE
from fim_eval.report.findings import Metric, Noise
from fim_eval.report.scored import ScoredRun, check_tasks
from fim_eval.words import Strategy


def noise_of(runs: Sequence[ScoredRun]) -> tuple[Noise, ...]:
    """One per model and strategy with an audit, over all its runs.

    Answers are scored under the headline policy of their kind. A task counts if it has an answer
    both times; `passed_changed` is None unless all such have verdicts both times.
    """
    found: dict[tuple[str, str], list[pl.DataFrame]] = {}
    for run in runs:
        if run.audit is not None:
            check_tasks([run, run.audit])
            once, again = _headline(run), _headline(run.audit)
            both = once.join(again, on="task_id", suffix="_again").drop_nulls(
                ["text", "text_again"]
            )
            if not both.is_empty():
                identity = run.manifest.identity
                found.setdefault((identity.model, identity.strategy), []).append(both)
    return tuple(_noise(pl.concat(frames)) for frames in found.values())


def _share(noise: Noise, metric: Metric) -> float | None:
    """The share of tasks that flipped by a metric; None where that is not known."""
    match metric:
        case "exact_match" | "exact_match_rstrip":
            return noise.exact_match_changed / noise.tasks
        case "pass_at_1" | "pass_at_1_sensitive" if noise.passed_changed is not None:
            return noise.passed_changed / noise.tasks
        case _:
            return None


def larger_share(
    noise: Sequence[Noise], asked: Sequence[tuple[str, Strategy]], metric: Metric
) -> float | None:
    """Of two runs, each a model and a strategy, the larger share; None unless both are known."""
    by_run = {(one.model, one.strategy): _share(one, metric) for one in noise}
    shares = [by_run.get(run) for run in asked]
    known = [one for one in shares if one is not None]
    return max(known) if len(known) == len(asked) else None


def _headline(run: ScoredRun) -> pl.DataFrame:
    texts = pl.DataFrame(
        {
            "task_id": run.scores.filter(pl.col("policy") == "raw")["task_id"],
            "text": pl.Series(raw_texts(run), dtype=pl.String),
        }
    )
    headline = pl.col("kind").replace_strict(HEADLINE, return_dtype=pl.String)
    return (
        run.scores.filter(pl.col("policy") == headline)
        .select("model", "strategy", "task_id", "exact_match", "passed")
        .join(texts, on="task_id", maintain_order="left")
    )


def _noise(both: pl.DataFrame) -> Noise:
    model, strategy = both.select("model", "strategy").row(0)
    judged = not (both["passed"].null_count() or both["passed_again"].null_count())
    return Noise(
        model=model,
        strategy=strategy,
        tasks=len(both),
        text_changed=int((both["text"] != both["text_again"]).sum()),
        exact_match_changed=int((both["exact_match"] != both["exact_match_again"]).sum()),
        passed_changed=int((both["passed"] != both["passed_again"]).sum()) if judged else None,
    )

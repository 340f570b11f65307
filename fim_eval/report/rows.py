"""The rows of a report: all that is told of one model under one strategy, kind and policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from fim_eval.report.definitions import RATES
from fim_eval.report.estimates import Answer, Later, Questions
from fim_eval.report.findings import Row
from fim_eval.report.study import Cell, Study
from fim_eval.statistics import wilson


def rows(study: Study, questions: Questions) -> list[Later[Row]]:
    """One per cell, in their order."""
    return [_row(study, cell, questions) for cell in study.cells]


def _row(study: Study, cell: Cell, questions: Questions) -> Later[Row]:
    frame = study.frames[cell]
    values = study.values[cell]
    asked = {metric: questions.ask(each) for metric, each in values.items()}
    model = study.models[cell.model]
    of_cell = study.summary.filter(
        *(pl.col(name) == word for name, word in zip(Cell._fields, cell, strict=True))
    )
    answered = frame.filter("answered")
    judged = bool(frame["judged"].any())
    tokens = _sum(of_cell["completion_tokens"])
    wall_s = _sum(of_cell["wall_s"])

    def row(answers: Sequence[Answer]) -> Row:
        metrics = {metric: answers[place].estimate for metric, place in asked.items()}
        return Row(
            **cell._asdict(),
            parameters=model.parameters,
            infills=model.infills,
            tasks=len(frame),
            problems=frame["problem"].n_unique(),
            answered=len(answered),
            unjudged=int(answered["passed"].is_null().sum()),
            judged=judged,
            sensitive_tasks=len(values["pass_at_1_sensitive"].tasks) if judged else None,
            metrics=metrics,
            wilson={
                metric: wilson(estimate.value * estimate.tasks, estimate.tasks)
                for metric, estimate in metrics.items()
                if metric in RATES
                and estimate.value is not None
                and estimate.tasks == estimate.problems
            },
            edit_distance_quartiles=_quantiles(answered["edit_distance"], (0.25, 0.5, 0.75)),
            truncated=_how_many(answered["truncated"]),
            no_end=_how_many(~answered["ended"]),
            ran_past=int(answered["ran_past"].sum()),
            outcomes=_counts(answered["verdict"]),
            failures=_counts(frame["failure"]),
            latency_s=_quantiles(answered["elapsed_ns"] / 1e9, (0.5, 0.95, 0.99)),
            completion_tokens=None if tokens is None else int(tokens),
            wall_s=wall_s,
            tokens_per_s=tokens / wall_s if tokens is not None and wall_s else None,
        )

    return row


def _sum(column: pl.Series) -> float | None:
    """None if a part of it is not known."""
    return None if column.null_count() or column.is_empty() else float(column.sum())


def _how_many(column: pl.Series) -> int | None:
    """None if of a part of it nothing is known."""
    return None if column.null_count() else int(column.sum())


def _counts(column: pl.Series) -> dict[str, int]:
    counted = column.drop_nulls().value_counts(sort=True).rows()
    return {str(name): int(count) for name, count in counted}


def _quantiles(
    column: pl.Series, shares: tuple[float, float, float]
) -> tuple[float, float, float] | None:
    known = column.drop_nulls().to_numpy()
    if not len(known):
        return None
    first, second, third = np.quantile(known, shares).tolist()
    return first, second, third

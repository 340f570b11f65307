"""Metrics on parts of the tasks: by length, position, part of the syntax tree, split, data set.

Under the headline policy of each kind only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from fim_eval.report.definitions import HEADLINE
from fim_eval.report.estimates import Answer, Later, Questions, combined
from fim_eval.report.findings import Breakdown, By, Metric, PartDifference
from fim_eval.report.study import Cell, Study

IN_PARTS: tuple[Metric, ...] = (
    "exact_match", "edit_similarity", "pass_at_1", "bits_per_character",
)  # fmt: skip


def breakdowns(study: Study, questions: Questions) -> Iterator[Later[Breakdown]]:
    """Each cell's metrics on each part of its tasks."""
    for cell in study.cells:
        if cell.policy != HEADLINE[cell.kind]:
            continue
        for by, order, group, tasks in study.parts[cell.kind]:
            for metric in IN_PARTS:
                values = study.values[cell].get(metric)
                if values is None:
                    continue
                part = values.where(np.isin(values.tasks, tasks))
                if len(part.tasks):
                    place = questions.ask(part)
                    yield partial(_breakdown, cell, metric, (by, order, group), place)


def _breakdown(
    cell: Cell,
    metric: Metric,
    part: tuple[By, int, str],
    place: int,
    answers: Sequence[Answer],
) -> Breakdown:
    by, order, group = part
    return Breakdown(
        **cell._asdict(),
        metric=metric,
        by=by,
        group=group,
        order=order,
        estimate=answers[place].estimate,
    )


def part_differences(study: Study, questions: Questions) -> Iterator[Later[PartDifference]]:
    """What the largest model gains over the smallest on each part of the tasks."""
    for cell, metric, models in study.alike():
        if cell.policy != HEADLINE[cell.kind] or metric not in IN_PARTS or len(models) < 2:
            continue
        (smaller, its), (larger, others) = models[0], models[-1]
        difference = combined([its, others], [-1, 1])
        for by, order, group, tasks in study.parts[cell.kind]:
            part = difference.where(np.isin(difference.tasks, tasks))
            if len(part.tasks):
                place = questions.ask(part)
                names = (smaller.name, larger.name)
                yield partial(_part_difference, (cell, metric), names, (by, order, group), place)


def _part_difference(
    what: tuple[Cell, Metric],
    names: tuple[str, str],
    part: tuple[By, int, str],
    place: int,
    answers: Sequence[Answer],
) -> PartDifference:
    cell, metric = what
    by, order, group = part
    return PartDifference(
        smaller=names[0],
        larger=names[1],
        strategy=cell.strategy,
        kind=cell.kind,
        policy=cell.policy,
        metric=metric,
        by=by,
        group=group,
        order=order,
        difference=answers[place].estimate,
    )

"""What the way of asking makes of one model: differences between strategies on the same tasks.

Under the headline policy of each kind only. What the suffix is worth is seen here, and where.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations

import numpy as np

from fim_eval.report.estimates import Answer, Later, Questions, combined
from fim_eval.report.findings import (
    By,
    Metric,
    Noise,
    StrategyDifference,
    StrategyPartDifference,
)
from fim_eval.report.noise import larger_share
from fim_eval.report.pairs import called
from fim_eval.report.parts import IN_PARTS
from fim_eval.report.study import Cell, Study
from fim_eval.statistics import holm_by_family
from fim_eval.words import INFILLING


def strategy_differences(study: Study, questions: Questions) -> Iterator[Later[StrategyDifference]]:
    """Every two strategies that a model was asked by. What noise and Holm add is `judged`'s."""
    for metric, ways in study.ways():
        for (than, before), (cell, after) in combinations(ways, 2):
            difference = combined([before, after], [-1, 1])
            if len(difference.tasks):
                place = questions.ask(difference, tested=True)
                yield partial(_difference, cell, than, metric, place)


def judged(
    differences: Sequence[StrategyDifference], noise: Sequence[Noise]
) -> tuple[StrategyDifference, ...]:
    """The differences with the noise floor, adjusted probabilities, and what follows from both.

    A family of Holm's is all models and strategies of the same kind and metric.
    """
    adjusted = holm_by_family(
        [one.p_permutation for one in differences],
        [(one.kind, one.metric) for one in differences],
    )
    return tuple(
        _judged(one, p_holm, noise) for one, p_holm in zip(differences, adjusted, strict=True)
    )


def strategy_part_differences(
    study: Study, questions: Questions
) -> Iterator[Later[StrategyPartDifference]]:
    """What infilling adds to left to right on each part of the tasks."""
    for metric, ways in study.ways():
        than, before = ways[0]
        if than.strategy != "lr" or metric not in IN_PARTS:
            continue
        for cell, after in ways[1:]:
            if cell.strategy not in INFILLING:
                continue
            difference = combined([before, after], [-1, 1])
            for by, order, group, tasks in study.parts[cell.kind]:
                part = difference.where(np.isin(difference.tasks, tasks))
                if len(part.tasks):
                    place = questions.ask(part)
                    yield partial(_part, (cell, than, metric), (by, order, group), place)


def _difference(
    cell: Cell, than: Cell, metric: Metric, place: int, answers: Sequence[Answer]
) -> StrategyDifference:
    return StrategyDifference(
        **cell._asdict(),
        than=than.strategy,
        metric=metric,
        difference=answers[place].estimate,
        p_permutation=answers[place].p_permutation,
        p_holm=None,
        noise=None,
        finding="no difference shown",
    )


def _part(
    what: tuple[Cell, Cell, Metric],
    part: tuple[By, int, str],
    place: int,
    answers: Sequence[Answer],
) -> StrategyPartDifference:
    cell, than, metric = what
    by, order, group = part
    return StrategyPartDifference(
        **cell._asdict(),
        than=than.strategy,
        metric=metric,
        by=by,
        group=group,
        order=order,
        difference=answers[place].estimate,
    )


def _judged(
    one: StrategyDifference, p_holm: float | None, noise: Sequence[Noise]
) -> StrategyDifference:
    runs = [(one.model, strategy) for strategy in (one.strategy, one.than)]
    floor = larger_share(noise, runs, one.metric)
    finding = called(one.difference, one.metric, p_holm, floor)
    return one.model_copy(update={"p_holm": p_holm, "noise": floor, "finding": finding})

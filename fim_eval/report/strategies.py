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
from fim_eval.report.noise import share
from fim_eval.report.pairs import called
from fim_eval.report.parts import IN_PARTS
from fim_eval.report.study import Cell, Study
from fim_eval.statistics import holm
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
    """The differences with the noise floor, adjusted probabilities, and what follows from both."""
    families: dict[tuple[str, str], list[int]] = {}
    for place, one in enumerate(differences):
        families.setdefault((one.kind, one.metric), []).append(place)
    found = list(differences)
    for places in families.values():
        chances = [differences[place].p_permutation for place in places]
        adjusted = holm([1.0 if one is None else one for one in chances])
        for place, chance, p_holm in zip(places, chances, adjusted, strict=True):
            one, floor = differences[place], _noise(differences[place], noise)
            found[place] = one.model_copy(
                update={
                    "p_holm": None if chance is None else p_holm,
                    "noise": floor,
                    "finding": called(one.difference, one.metric, p_holm, floor),
                }
            )
    return tuple(found)


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


def _noise(one: StrategyDifference, noise: Sequence[Noise]) -> float | None:
    """The larger of the two strategies' shares; None unless both are known."""
    shares = [
        share(other, one.metric)
        for strategy in (one.strategy, one.than)
        for other in noise
        if (other.model, other.strategy) == (one.model, strategy)
    ]
    known = [each for each in shares if each is not None]
    return max(known) if len(known) == 2 else None

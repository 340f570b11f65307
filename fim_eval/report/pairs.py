"""Differences between two models on the same tasks: estimated, tested, and told as a finding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import Literal

import numpy as np

from fim_eval.report.definitions import LOWER_IS_BETTER, RATES
from fim_eval.report.estimates import Answer, Later, Questions, Values, combined
from fim_eval.report.findings import Estimate, Metric, Noise, Pair
from fim_eval.report.noise import larger_share
from fim_eval.report.study import Cell, Study
from fim_eval.statistics import detectable, holm_by_family

SIGNIFICANT = 0.05


def pairs(study: Study, questions: Questions) -> Iterator[Later[Pair]]:
    """Every two models that are alike, by metric. What noise and Holm add is `judged`'s."""
    for cell, metric, models in study.alike():
        for (smaller, its), (larger, others) in combinations(models, 2):
            difference = combined([its, others], [-1, 1])
            if len(difference.tasks):
                place = questions.ask(difference, tested=True)
                counts = _both_ways(its, others) if metric in RATES else (None,) * 4
                yield partial(_pair, (cell, metric), (smaller.name, larger.name), counts, place)


def judged(pairs: Sequence[Pair], noise: Sequence[Noise]) -> tuple[Pair, ...]:
    """The pairs with the noise floor, adjusted probabilities, and what follows from both.

    A family of Holm's is all pairs of the same strategy, kind, policy and metric.
    """
    adjusted = holm_by_family(
        [pair.p_permutation for pair in pairs],
        [(pair.strategy, pair.kind, pair.policy, pair.metric) for pair in pairs],
    )
    return tuple(_judged(pair, p_holm, noise) for pair, p_holm in zip(pairs, adjusted, strict=True))


def _both_ways(smaller: Values, larger: Values) -> tuple[int, int, int, int]:
    """Tasks that both have right, only the smaller, only the larger, neither; resolved ones."""
    ours = smaller.where(np.isin(smaller.tasks, larger.tasks))
    theirs = larger.where(np.isin(larger.tasks, ours.tasks))
    known = (ours.low == ours.high) & (theirs.low == theirs.high)
    one, other = ours.low[known] > 0, theirs.low[known] > 0
    return (
        int((one & other).sum()),
        int((one & ~other).sum()),
        int((~one & other).sum()),
        int((~one & ~other).sum()),
    )


def _pair(
    what: tuple[Cell, Metric],
    names: tuple[str, str],
    counts: tuple[int | None, ...],
    place: int,
    answers: Sequence[Answer],
) -> Pair:
    cell, metric = what
    answer = answers[place]
    both, only_smaller, only_larger, neither = counts
    return Pair(
        smaller=names[0],
        larger=names[1],
        strategy=cell.strategy,
        kind=cell.kind,
        policy=cell.policy,
        metric=metric,
        difference=answer.estimate,
        both=both,
        only_smaller=only_smaller,
        only_larger=only_larger,
        neither=neither,
        p_mcnemar=answer.p_mcnemar,
        p_permutation=answer.p_permutation,
        p_holm=None,
        noise=None,
        detectable=None if not answer.error else detectable(answer.error),
        finding="no difference shown",
    )


def _judged(pair: Pair, p_holm: float | None, noise: Sequence[Noise]) -> Pair:
    runs = [(name, pair.strategy) for name in (pair.smaller, pair.larger)]
    floor = larger_share(noise, runs, pair.metric)
    finding = called(pair.difference, pair.metric, p_holm, floor)
    words = {"better": "larger better", "worse": "smaller better"}
    return pair.model_copy(
        update={"p_holm": p_holm, "noise": floor, "finding": words.get(finding, finding)}
    )


def called(
    difference: Estimate, metric: Metric, adjusted: float | None, noise: float | None
) -> Literal["better", "worse", "no difference shown", "below the noise"]:
    """What is said of that which the other is taken from.

    Args:
        difference: between two models, or of one model in two ways.
        metric: whose it is.
        adjusted: its probability after Holm; None: not known.
        noise: share of tasks that flip when the same is asked again; None: not known.
    """
    least, most = difference.least, difference.most
    if noise is not None and least is not None and most is not None:
        furthest = max(abs(least), abs(most))
        if 0 < furthest < noise:
            return "below the noise"
    if adjusted is None or adjusted >= SIGNIFICANT or least is None or most is None:
        return "no difference shown"
    return "better" if (least > 0) != (metric in LOWER_IS_BETTER) else "worse"

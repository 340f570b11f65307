"""Questions about tasks, and their numbers: estimates, intervals, tests. Arrays only; no names.

All questions of a report are answered together, so that those over the same problems share their
draws: a report asks thousands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fim_eval.report.findings import Estimate
from fim_eval.statistics import (
    cluster_starts,
    intervals,
    mcnemar_exact,
    sign_flip,
    standard_errors,
    wilson,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

T = TypeVar("T")


@dataclass(frozen=True)
class Values:
    """What a metric is of each task, as far as it is known: a ratio's two sums, task by task."""

    tasks: Integers
    """Numbers of the tasks, ascending; the tasks of a problem follow each other."""

    problems: Integers
    """Of each task, ascending."""

    low: Floats
    """The least that each adds to the numerator; all equal to `high` if nothing is unresolved."""

    high: Floats
    """The most; infinite where there is no bound."""

    weight: Floats
    """What each adds to the denominator; 0: it does not count."""

    scale: Literal["rate", "difference of rates", "other"] = "other"
    """Of what is 0 or 1 for each task, intervals are known where all tasks agree."""

    def where(self, mask: Booleans) -> Values:
        """These tasks only."""
        return replace(
            self,
            tasks=self.tasks[mask],
            problems=self.problems[mask],
            low=self.low[mask],
            high=self.high[mask],
            weight=self.weight[mask],
        )

    def counted(self) -> Values:
        """Without the tasks that do not count."""
        return self if self.weight.all() else self.where(self.weight > 0)


@dataclass(frozen=True)
class Answer:
    """What came of one question."""

    estimate: Estimate
    error: float | None
    """Standard error, of the less certain bound; None where nothing is known of it."""

    p_permutation: float | None = None
    p_mcnemar: float | None = None


Later = Callable[[Sequence[Answer]], T]
"""Makes a record once all questions are answered."""


@dataclass
class Questions:
    """Collects questions. Their numbers are those of `answers`."""

    asked: list[tuple[Values, bool]] = field(default_factory=list)

    def ask(self, values: Values, *, tested: bool = False) -> int:
        """Note a question; `tested`: whether its value is 0 by chance."""
        self.asked.append((values, tested))
        return len(self.asked) - 1

    def answers(self, *, seed: int, resamples: int) -> list[Answer]:
        """Answer all of them, in the order asked."""
        groups: dict[bytes, list[_Sums]] = {}
        starts: dict[bytes, Integers] = {}
        sums = [_sums(values, tested, starts) for values, tested in self.asked]
        for one in sums:
            groups.setdefault(one.problems.tobytes(), []).append(one)
        # Those over equally many problems share their draws.
        for group in sorted(groups.values(), key=lambda group: len(group[0].problems)):
            _solve(group, seed=seed, resamples=resamples)
        return [one.answer for one in sums]


def combined(some: Sequence[Values], weights: Sequence[float]) -> Values:
    """A weighted sum of several values, over the tasks that all have and all count.

    Larger minus smaller is `combined([smaller, larger], [-1, 1])`.
    """
    common = some[0].tasks
    if any(len(one.tasks) != len(common) or (one.tasks != common).any() for one in some):
        common = reduce(
            lambda left, right: np.intersect1d(left, right, assume_unique=True),
            (one.tasks for one in some),
        )
        some = [one.where(np.isin(one.tasks, common, assume_unique=True)) for one in some]
    counts = np.logical_and.reduce([one.weight > 0 for one in some])
    low, high = np.zeros(len(common)), np.zeros(len(common))
    for one, weight in zip(some, weights, strict=True):
        if weight:
            least, most = (one.low, one.high) if weight > 0 else (one.high, one.low)
            low, high = low + weight * least, high + weight * most
    is_difference = list(weights) == [-1, 1] and all(one.scale == "rate" for one in some)
    return Values(
        common,
        some[0].problems,
        low,
        high,
        np.where(counts, some[0].weight, 0.0),
        "difference of rates" if is_difference else "other",
    ).counted()


@dataclass
class _Sums:
    """Sums per problem of one question, and room for its answer."""

    values: Values
    tested: bool
    problems: Integers
    columns: list[Floats]
    """One bound, or two if they differ; those that are infinite are left out."""

    least: int | None
    most: int | None
    """Which of `columns` they are."""

    weight: Floats
    answer: Answer = field(init=False)


def _sums(values: Values, tested: bool, known_starts: dict[bytes, Integers]) -> _Sums:
    values = values.counted()
    # Thousands of questions are over the same few sets of tasks.
    key = values.problems.tobytes()
    starts = known_starts.get(key)
    if starts is None:
        starts = known_starts[key] = cluster_starts(values.problems)
    low, weight = (np.add.reduceat(some, starts) for some in (values.low, values.weight))
    is_known = bool((values.low == values.high).all())
    high = low if is_known else np.add.reduceat(values.high, starts)
    columns: list[Floats] = []
    least = most = None
    if np.isfinite(low).all():
        least = 0
        columns.append(low)
    if is_known:
        most = least
    elif np.isfinite(high).all():
        most = len(columns)
        columns.append(high)
    return _Sums(values, tested, values.problems[starts], columns, least, most, weight)


def _solve(group: list[_Sums], *, seed: int, resamples: int) -> None:
    columns = [(one, column) for one in group for column in one.columns]
    if not columns:
        for one in group:
            one.answer = _answer(one, [], [], [])
        return
    # Policies agree on most answers, and metrics on many: half of the columns are others' equals.
    distinct: dict[bytes, int] = {}
    kept: list[tuple[_Sums, Floats]] = []
    places: list[int] = []
    for one, column in columns:
        place = distinct.setdefault(column.tobytes() + one.weight.tobytes(), len(kept))
        if place == len(kept):
            kept.append((one, column))
        places.append(place)
    above = np.stack([column for _, column in kept], axis=1)
    below = np.stack([one.weight for one, _ in kept], axis=1)
    bounds = intervals(above, below, resamples=resamples, seed=seed)
    errors = standard_errors(above, below)
    tests = np.zeros(len(kept), dtype=bool)
    tests[[place for place, (one, _) in zip(places, columns, strict=True) if one.tested]] = True
    chances = np.full(len(kept), np.nan)
    if tests.any():
        chances[tests] = sign_flip(above[:, tests], resamples=resamples, seed=seed)
    first = 0
    for one in group:
        own = places[first : first + len(one.columns)]
        one.answer = _answer(one, bounds[own].tolist(), errors[own].tolist(), chances[own].tolist())
        first += len(one.columns)


def _answer(
    one: _Sums, bounds: list[list[float]], errors: list[float], chances: list[float]
) -> Answer:
    values, problems = one.values, len(one.problems)
    total = float(one.weight.sum())
    ratios = [float(column.sum()) / total if total else None for column in one.columns]
    least = None if one.least is None else ratios[one.least]
    most = None if one.most is None else ratios[one.most]
    low = None if one.least is None else _known(bounds[one.least][0])
    high = None if one.most is None else _known(bounds[one.most][1])
    if problems > 1:
        if values.scale == "rate":
            low = wilson(problems, problems)[0] if least == 1 else low
            high = wilson(0, problems)[1] if most == 0 else high
        elif values.scale == "difference of rates" and not (values.low.any() or values.high.any()):
            high = wilson(0, problems)[1]
            low = -high
    estimate = Estimate(
        value=least if one.least == one.most else None,
        least=least,
        most=most,
        low=low,
        high=high,
        tasks=len(values.tasks),
        problems=problems,
    )
    known = [error for error in errors if not math.isnan(error)]
    answer = Answer(estimate, max(known) if known else None)
    if not one.tested:
        return answer
    return replace(answer, p_permutation=_chance(estimate, chances), p_mcnemar=_mcnemar(one))


def _chance(estimate: Estimate, chances: list[float]) -> float | None:
    """Of the unresolved tasks' least favourable outcome; 1 if some outcome makes no difference."""
    least, most = estimate.least, estimate.most
    if not estimate.tasks:
        return None
    if least is None or most is None or (least <= 0 <= most and estimate.value is None):
        return 1.0
    return max(chances)


def _mcnemar(one: _Sums) -> float | None:
    """On problems: those with more right answers of the one, against those with more of the other.

    Of the unresolved tasks' least favourable outcome, too.
    """
    if one.values.scale != "difference of rates" or not len(one.problems):
        return None
    votes = [(int((column > 0).sum()), int((column < 0).sum())) for column in one.columns]
    if len({larger > smaller for larger, smaller in votes if larger != smaller}) > 1:
        return 1.0
    return max(mcnemar_exact(*vote) for vote in votes)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number

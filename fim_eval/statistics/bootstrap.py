"""The bootstrap over clusters: intervals of sums over sums.

A mean over tasks is one: the sum of their values over their number, and both change when clusters
of different sizes are drawn. Percentile intervals, with the tails moved outwards for few clusters:
T. Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 3.1.3 ("expanded
percentile"), https://arxiv.org/abs/1411.5279.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from fim_eval.statistics.clusters import Floats

_NORMAL = NormalDist()
_COLUMNS = 256
"""Columns at a time: 20 MB of ratios for 10,000 resamples."""

_RESAMPLES = 200
"""Resamples drawn at a time: their counts fit in a cache."""


def intervals(
    numerators: Floats, denominators: Floats, *, resamples: int, seed: int, level: float = 0.95
) -> Floats:
    """The interval of each column's ratio: its numerators' sum by its denominators'.

    Args:
        numerators: clusters × columns, sums per cluster.
        denominators: the same shape.
        resamples: how often as many clusters as there are get drawn, with replacement.
        seed: of the draw. All columns see the same draws.
        level: of the interval, in (0, 1).

    Returns:
        Columns × 2: low and high. NaN below two clusters, where nothing is known of their spread,
        and where a denominator sums to 0. A draw without a denominator is left out of its column.
    """
    clusters, columns = numerators.shape
    bounds = np.full((columns, 2), np.nan)
    if clusters < 2 or columns == 0:
        return bounds
    counts = _counts(clusters, resamples, seed)
    tail = interval_tail(clusters, level)
    for start in range(0, columns, _COLUMNS):
        part = slice(start, start + _COLUMNS)
        ratios = _ratios(counts, numerators[:, part], denominators[:, part])
        bounds[part] = _quantiles(ratios, tail)
    return bounds


def standard_errors(numerators: Floats, denominators: Floats) -> Floats:
    """The standard error of each column's ratio, clusters being independent.

    sqrt(C / (C - 1) · Σ_c (n_c - r d_c)²) / Σ_c d_c: the linearised estimator for cluster samples
    (W. G. Cochran, Sampling Techniques, 1977, section 11.7), without finite population correction.

    Args:
        numerators: clusters × columns, sums per cluster.
        denominators: the same shape.

    Returns:
        One per column; NaN below two clusters or where a denominator sums to 0.
    """
    clusters, columns = numerators.shape
    if clusters < 2:
        return np.full(columns, np.nan)
    below = denominators.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = numerators.sum(axis=0) / below
        residuals = numerators - ratios * denominators
        spread = clusters / (clusters - 1) * (residuals**2).sum(axis=0)
        errors: Floats = np.sqrt(spread) / below
    return errors


@lru_cache(maxsize=1024)
def interval_tail(clusters: int, level: float) -> float:
    """The share of resamples that is cut off at each end.

    Φ(-sqrt(C / (C - 1)) · t), t the quantile of Student's distribution with C - 1 degrees of
    freedom: (1 - level) / 2 for many clusters, less for few.

    >>> round(interval_tail(10_000, 0.95), 4), round(interval_tail(10, 0.95), 4)
    (0.025, 0.0086)
    """
    t = student_quantile((1 + level) / 2, clusters - 1)
    return _NORMAL.cdf(-math.sqrt(clusters / (clusters - 1)) * t)


@lru_cache(maxsize=1024)
def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t, by bisection, for probabilities above one half.

    >>> round(student_quantile(0.975, 9), 4)
    2.2622
    """
    low, high = 0.0, math.pi / 2
    wanted = 2 * probability - 1
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, freedom) < wanted else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _student_within(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) · tan(angle)).

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom == 1:
        return 2 * angle / math.pi
    odd = freedom % 2
    # Terms of the series, each from the one before: even 1, 1/2, 3/8 ...; odd 1, 2/3, 8/15 ...
    steps = np.arange(1, (freedom - 2 - odd) // 2 + 1)
    factors = (2 * steps - 1 + odd) / (2 * steps + odd) * cosine**2
    series = 1.0 + float(np.cumprod(factors).sum())
    if odd:
        return 2 / math.pi * (angle + sine * cosine * series)
    return sine * series


@lru_cache(maxsize=1)
def _counts(clusters: int, resamples: int, seed: int) -> Floats:
    """How often each cluster is drawn: resamples × clusters; every row sums to their number."""
    random = np.random.default_rng([seed, clusters])
    counts = np.empty((resamples, clusters))
    for start, rows in _blocks(resamples):
        drawn = random.integers(0, clusters, size=(rows, clusters), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * clusters
        counts[start : start + rows] = np.bincount(
            drawn.ravel(), minlength=rows * clusters
        ).reshape(rows, clusters)
    counts.flags.writeable = False
    return counts


def _blocks(resamples: int) -> Iterator[tuple[int, int]]:
    for start in range(0, resamples, _RESAMPLES):
        yield start, min(_RESAMPLES, resamples - start)


def _ratios(counts: Floats, numerators: Floats, denominators: Floats) -> Floats:
    """Columns × resamples; NaN where the denominator is 0."""
    above = numerators.T @ counts.T
    # Most columns share their denominators: tasks per problem.
    kinds: dict[bytes, int] = {}
    rows = np.ascontiguousarray(denominators.T)
    place = [kinds.setdefault(row.tobytes(), number) for number, row in enumerate(rows)]
    firsts, place_of = np.unique(place, return_inverse=True)
    below = (rows[firsts] @ counts.T)[place_of]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios: Floats = np.where(below == 0, np.nan, above / below)
    return ratios


def _quantiles(ratios: Floats, tail: float) -> Floats:
    """Columns × 2, linear between neighbours."""
    empty = np.isnan(ratios)
    if not empty.any():
        return np.quantile(ratios, [tail, 1 - tail], axis=1, overwrite_input=True).T
    found = np.full((len(ratios), 2), np.nan)
    for place, (row, without) in enumerate(zip(ratios, empty, strict=True)):
        if not without.all():
            found[place] = np.quantile(row[~without], [tail, 1 - tail])
    return found

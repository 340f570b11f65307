"""How small a difference a design can find."""

from __future__ import annotations

import math
from statistics import NormalDist


def detectable(error: float, *, significance: float = 0.05, power: float = 0.8) -> float:
    """The least difference that is found with probability `power`, two-sided at `significance`.

    (z(1 - significance / 2) + z(power)) · error: 2.80 standard errors by default.

    Args:
        error: standard error of the paired difference.
        significance: of the test.
        power: share of studies that shall find it.

    >>> round(detectable(0.01), 4)
    0.028
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - significance / 2) + normal.inv_cdf(power)) * error


def planned_error(
    problems: int, tasks_per_problem: float, *, discordant: float, correlation: float
) -> float:
    """The standard error of a paired difference of rates, before anything was asked.

    sqrt(discordant · (1 + (m - 1) · correlation) / (problems · m)), m tasks per problem: the
    difference per task is -1, 0 or 1 with variance `discordant` if the rates are alike, times
    Kish's design effect for clusters (L. Kish, Survey Sampling, 1965).

    Args:
        problems: how many.
        tasks_per_problem: their mean number of tasks.
        discordant: share of tasks that just one of the two models has right.
        correlation: of that difference between two tasks of one problem, in [0, 1].

    >>> round(planned_error(500, 5, discordant=0.2, correlation=0.1), 4)
    0.0106
    """
    effect = 1 + (tasks_per_problem - 1) * correlation
    return math.sqrt(discordant * effect / (problems * tasks_per_problem))

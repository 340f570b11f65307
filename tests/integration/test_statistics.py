"""Known answers: simulated models whose true rates, correlations and differences are set.

Each problem has a number of tasks of its own. A model's tasks of one problem succeed with a rate
drawn for that problem, so that they are correlated; models share a part of what makes a problem
hard. Thousands of studies are drawn, and what is said of each is held against the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from fim_eval.statistics import detectable, intervals, sign_flip, standard_errors

Floats = NDArray[np.float64]
STUDIES = 2_000
RESAMPLES = 2_000


@dataclass(frozen=True)
class Studies:
    """Sums per problem of two models' right answers, and how many tasks each problem has.

    Problems × studies each.
    """

    small: Floats
    large: Floats
    squares: Floats
    """Of the differences between the models, task by task."""

    tasks: Floats

    @property
    def difference(self) -> Floats:
        difference: Floats = self.large - self.small
        return difference


def simulated(problems: int, rate: float, gain: float, seed: int) -> Studies:
    """Studies of two models with true rates `rate` and `rate + gain`.

    The rate of a problem is a beta variate of correlation 1 / 3 between its tasks, and a third of
    the problems have three times as many tasks as the others: as multi-line holes do.
    """
    random = np.random.default_rng(seed)
    shape = (problems, STUDIES)
    many = np.where(random.random(shape) < 1 / 3, 9, 3)
    hardness = random.beta(2 * rate, 2 * (1 - rate), shape)
    # The larger model gains where there is something to gain: its mean is rate + gain.
    better = hardness + (1 - hardness) * gain / (1 - rate)
    small, large = np.zeros(shape), np.zeros(shape)
    squares = np.zeros(shape)
    for task in range(9):
        asked = task < many
        one = asked & (random.random(shape) < hardness)
        other = asked & (random.random(shape) < better)
        small += one
        large += other
        squares += one != other
    return Studies(small, large, squares, many.astype(float))


def covered(bounds: Floats, truth: float) -> float:
    return float(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean())


def of_tasks(sums: Floats, squares: Floats, tasks: Floats) -> Floats:
    """The usual interval that takes every task for a case of its own: mean ± 1.96 errors."""
    number = tasks.sum(axis=0)
    mean = sums.sum(axis=0) / number
    error = np.sqrt((squares.sum(axis=0) / number - mean**2) / number)
    return np.stack([mean - 1.96 * error, mean + 1.96 * error], axis=1)


@pytest.mark.parametrize(
    ("problems", "rate"),
    [
        pytest.param(500, 0.4, id="MBPP's test split"),
        pytest.param(64, 0.7, id="starter set"),
        pytest.param(164, 0.85, id="HumanEval, nearly all right"),
        pytest.param(20, 0.5, id="few problems"),
    ],
)
def test_clustered_intervals_hold_the_true_rate_and_those_of_tasks_do_not(
    problems: int, rate: float
) -> None:
    drawn = simulated(problems, rate, 0.0, seed=problems)
    bounds = intervals(drawn.small, drawn.tasks, resamples=RESAMPLES, seed=1)
    assert 0.93 <= covered(bounds, rate) <= 0.97
    assert covered(of_tasks(drawn.small, drawn.small, drawn.tasks), rate) < 0.85


@pytest.mark.parametrize("problems", [64, 500])
def test_intervals_of_a_difference_hold_the_true_one(problems: int) -> None:
    drawn = simulated(problems, 0.5, 0.06, seed=10 + problems)
    bounds = intervals(drawn.difference, drawn.tasks, resamples=RESAMPLES, seed=1)
    assert 0.93 <= covered(bounds, 0.06) <= 0.97


def test_errors_are_the_spread_of_the_studies() -> None:
    drawn = simulated(300, 0.5, 0.06, seed=3)
    errors = standard_errors(drawn.difference, drawn.tasks)
    found = drawn.difference.sum(axis=0) / drawn.tasks.sum(axis=0)
    assert errors.mean() == pytest.approx(found.std(), rel=0.05)


def apart(problems: int, seed: int) -> Studies:
    """Two models of the same rate, each with problems of its own that it finds hard."""
    one, other = (simulated(problems, 0.5, 0.0, seed=seed + place) for place in range(2))
    # The other's answers, to as many tasks as the one was asked.
    random = np.random.default_rng(seed)
    large = random.binomial(one.tasks.astype(int), other.small / other.tasks).astype(float)
    # Tasks in which they differ, if those of each model stand in any order.
    share, other_share = one.small / one.tasks, large / one.tasks
    squares = one.tasks * (share * (1 - other_share) + other_share * (1 - share))
    return Studies(one.small, large, squares, one.tasks)


@pytest.mark.parametrize("problems", [20, 64, 500])
def test_models_that_are_alike_are_called_different_in_one_study_of_twenty(problems: int) -> None:
    drawn = apart(problems, seed=20 + problems)
    found = sign_flip(drawn.difference, resamples=RESAMPLES, seed=1)
    assert 0.03 <= (found < 0.05).mean() <= 0.07


def test_tests_that_take_tasks_for_cases_find_differences_that_are_not_there() -> None:
    drawn = apart(500, seed=520)
    bounds = of_tasks(drawn.difference, drawn.squares, drawn.tasks)
    assert 1 - covered(bounds, 0.0) > 0.15


def test_a_difference_as_large_as_is_said_to_be_detectable_is_found_four_times_of_five() -> None:
    pilot = simulated(300, 0.5, 0.043, seed=5)
    gain = detectable(float(standard_errors(pilot.difference, pilot.tasks).mean()))
    assert gain == pytest.approx(0.043, abs=0.002)
    larger = simulated(300, 0.5, gain, seed=6)
    found = sign_flip(larger.difference, resamples=RESAMPLES, seed=1)
    assert (found < 0.05).mean() == pytest.approx(0.8, abs=0.04)

"""Statistics against scipy, and against what can be counted by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fim_eval.statistics import (
    cluster_sums,
    detectable,
    interval_tail,
    intervals,
    mcnemar_exact,
    planned_error,
    sign_flip,
    slope_weights,
    standard_errors,
    wilson,
)
from fim_eval.statistics.bootstrap import student_quantile


def exactly(expected: Any) -> Any:
    return pytest.approx(expected, rel=0, abs=1e-9)


@pytest.fixture
def tasks() -> tuple[np.ndarray, np.ndarray]:
    """Two columns of values, and the cluster of each row: 40 clusters of one to nine tasks."""
    random = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), random.integers(1, 10, size=40))
    return random.normal(size=(len(clusters), 2)) + clusters[:, None] / 40, clusters


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilson_agrees_with_scipy(right: int, wrong: int) -> None:
    cases = right + wrong
    oracle = scipy.stats.binomtest(right, cases).proportion_ci(method="wilson")
    assert wilson(right, cases) == exactly((oracle.low, oracle.high))


def test_wilson_stays_within_nothing_and_all() -> None:
    assert wilson(0, 7)[0] == 0
    assert wilson(7, 7)[1] == pytest.approx(1, abs=1e-15)
    with pytest.raises(ValueError, match="no cases"):
        wilson(0, 0)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_agrees_with_scipy(first: int, second: int) -> None:
    found = mcnemar_exact(first, second)
    if first + second:
        oracle = scipy.stats.binomtest(first, first + second, 0.5).pvalue
        assert found == exactly(oracle)


def test_mcnemar_holds_for_more_cases_than_a_float_has_powers() -> None:
    oracle = scipy.stats.binomtest(1_400, 3_000, 0.5).pvalue
    assert mcnemar_exact(1_400, 1_600) == pytest.approx(oracle, rel=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 163, 973, 974])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.9995])
def test_students_quantiles_agree_with_scipy(probability: float, freedom: int) -> None:
    oracle = scipy.stats.t.ppf(probability, freedom)
    assert student_quantile(probability, freedom) == pytest.approx(oracle, rel=1e-9)


def test_the_tail_of_few_clusters_is_shorter_so_that_their_interval_is_wider() -> None:
    tails = [interval_tail(clusters, 0.95) for clusters in (2, 5, 20, 100, 5_000)]
    assert tails == sorted(tails)
    assert tails[-1] == pytest.approx(0.025, abs=1e-4)


def test_intervals_are_those_of_drawing_whole_clusters_one_by_one(
    tasks: tuple[np.ndarray, np.ndarray],
) -> None:
    values, clusters = tasks
    of = [values[clusters == cluster] for cluster in range(40)]
    drawn = np.random.default_rng([7, 40]).integers(0, 40, size=(300, 40), dtype=np.int32)
    means = np.array([np.concatenate([of[one] for one in draw]).mean(axis=0) for draw in drawn])
    tail = interval_tail(40, 0.95)
    found = intervals(
        cluster_sums(values, clusters),
        cluster_sums(np.ones_like(values), clusters),
        resamples=300,
        seed=7,
    )
    assert found == exactly(np.quantile(means, [tail, 1 - tail], axis=0).T)


def test_intervals_agree_with_scipys_as_far_as_chance_allows(
    tasks: tuple[np.ndarray, np.ndarray],
) -> None:
    values, clusters = tasks
    above = cluster_sums(values[:, :1], clusters)
    below = cluster_sums(np.ones((len(values), 1)), clusters)
    tail = interval_tail(40, 0.95)
    oracle = scipy.stats.bootstrap(
        (above.ravel(), below.ravel()),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    [found] = intervals(above, below, resamples=20_000, seed=0)
    width = oracle.high - oracle.low
    assert found == pytest.approx([oracle.low, oracle.high], abs=0.03 * width)


def test_the_same_seed_gives_the_same_interval_and_another_another(
    tasks: tuple[np.ndarray, np.ndarray],
) -> None:
    values, clusters = tasks
    above, below = cluster_sums(values, clusters), cluster_sums(np.ones_like(values), clusters)
    first, again, other = (intervals(above, below, resamples=200, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).all()


def test_a_column_does_not_depend_on_those_beside_it(
    tasks: tuple[np.ndarray, np.ndarray],
) -> None:
    values, clusters = tasks
    above, below = cluster_sums(values, clusters), cluster_sums(np.ones_like(values), clusters)
    alone = intervals(above[:, :1], below[:, :1], resamples=200, seed=1)
    many = intervals(np.tile(above, 300), np.tile(below, 300), resamples=200, seed=1)
    assert many[::2] == exactly(np.repeat(alone, 300, axis=0))


def test_one_cluster_says_nothing_of_the_spread_of_clusters() -> None:
    one = np.array([[3.0]])
    assert np.isnan(intervals(one, one, resamples=100, seed=0)).all()
    assert np.isnan(standard_errors(one, one)).all()


def test_a_draw_without_a_denominator_is_left_out() -> None:
    above, below = np.array([[2.0], [0.0], [0.0]]), np.array([[4.0], [0.0], [0.0]])
    assert intervals(above, below, resamples=100, seed=0).tolist() == [[0.5, 0.5]]
    assert np.isnan(intervals(above, 0 * below, resamples=100, seed=0)).all()


def test_sums_keep_every_task_with_its_cluster() -> None:
    values = np.arange(6.0).reshape(6, 1)
    assert cluster_sums(values, np.array([3, 3, 5, 9, 9, 9])).ravel().tolist() == [1, 2, 12]
    assert cluster_sums(values[:0], np.array([], dtype=int)).shape == (0, 1)
    with pytest.raises(ValueError, match="ascend"):
        cluster_sums(values[:2], np.array([2, 1]))


@pytest.mark.parametrize("clusters", [1, 2, 7, 12])
def test_flipping_the_signs_of_few_clusters_is_exact(clusters: int) -> None:
    differences = np.random.default_rng(clusters).integers(-3, 5, size=(clusters, 1)).astype(float)
    oracle = 1.0
    if clusters > 1:
        oracle = scipy.stats.permutation_test(
            (differences.ravel(),),
            lambda some, axis: np.abs(some.sum(axis=axis)),
            permutation_type="samples",
            n_resamples=np.inf,
            alternative="greater",
        ).pvalue
    assert sign_flip(differences, resamples=10, seed=0) == exactly([oracle])


def test_flipping_the_signs_of_many_clusters_agrees_with_the_normal_law() -> None:
    random = np.random.default_rng(4)
    differences = random.normal(0.12, 1.0, size=(400, 3))
    found = sign_flip(differences, resamples=20_000, seed=0)
    distance = np.abs(differences.sum(axis=0)) / np.sqrt((differences**2).sum(axis=0))
    assert found == pytest.approx(2 * scipy.stats.norm.sf(distance), abs=0.01)


def test_a_probability_from_draws_is_never_zero_and_no_difference_is_one() -> None:
    large, none = np.ones((100, 1)), np.zeros((100, 1))
    assert sign_flip(large, resamples=999, seed=0).tolist() == [0.001]
    assert sign_flip(none, resamples=999, seed=0).tolist() == [1.0]
    assert sign_flip(none[:0], resamples=999, seed=0).tolist() == [1.0]


def test_ties_that_differ_in_their_last_bits_are_ties() -> None:
    differences = np.array([[0.1], [0.2], [0.3], [-0.6 + 1e-16]])
    assert sign_flip(differences, resamples=1, seed=0).tolist() == [1.0]


@given(st.lists(st.integers(1, 200), min_size=2, max_size=6), st.randoms())
def test_slope_weights_agree_with_scipys_line(sizes: list[int], random: object) -> None:
    values = [getattr(random, "random")() for _ in sizes]  # noqa: B009  hypothesis types it so
    weights = slope_weights(sizes)
    if len(set(sizes)) == 1:
        assert weights is None
        return
    assert weights is not None
    slope = math.fsum(weight * value for weight, value in zip(weights, values, strict=True))
    oracle = scipy.stats.linregress(np.log2(sizes), values).slope
    assert slope == pytest.approx(oracle, rel=1e-7, abs=1e-9)


def test_what_can_be_found_agrees_with_the_normal_law() -> None:
    oracle = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)
    assert detectable(1.0) == exactly(oracle)


def test_correlated_tasks_are_worth_less_than_as_many_problems() -> None:
    alone = planned_error(500, 1, discordant=0.2, correlation=0.3)
    assert alone == exactly(math.sqrt(0.2 / 500))
    together = planned_error(100, 5, discordant=0.2, correlation=0.3)
    assert together == exactly(alone * math.sqrt(1 + 4 * 0.3))

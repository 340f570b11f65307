"""Statistics against statsmodels, which takes seconds to import."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from fim_eval.statistics import cluster_sums, holm, mcnemar_exact, standard_errors, wilson
from tests.unit.test_statistics import exactly


@pytest.mark.parametrize(("right", "cases"), [(0, 1), (3, 7), (50, 164), (974, 974)])
def test_wilson_agrees_with_statsmodels(right: int, cases: int) -> None:
    oracle = proportion_confint(right, cases, alpha=0.05, method="wilson")
    assert wilson(right, cases) == exactly(oracle)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (5, 9), (140, 160)])
def test_mcnemar_agrees_with_statsmodels(first: int, second: int) -> None:
    oracle = mcnemar([[3, first], [second, 5]], exact=True).pvalue
    assert mcnemar_exact(first, second) == exactly(oracle)


@settings(max_examples=15, deadline=None)  # statsmodels takes a tenth of a second each
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_statsmodels(probabilities: list[float]) -> None:
    oracle = multipletests(probabilities, method="holm")[1]
    assert holm(probabilities) == exactly(oracle)


def test_standard_errors_agree_with_a_regression_on_nothing_clustered() -> None:
    random = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), random.integers(1, 10, size=40))
    values = random.normal(size=(len(clusters), 2)) + clusters[:, None] / 40
    sizes = cluster_sums(np.ones_like(values), clusters)
    found = standard_errors(cluster_sums(values, clusters), sizes)
    for column, error in enumerate(found):
        fitted = OLS(values[:, column], np.ones(len(values))).fit(
            cov_type="cluster", cov_kwds={"groups": clusters}
        )
        assert error == exactly(fitted.bse[0])

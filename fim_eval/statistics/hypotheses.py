"""Whether a paired difference may be chance. Two-sided throughout."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from fim_eval.statistics.clusters import Floats

EXACT_CLUSTERS = 13
"""Up to so many clusters every assignment of signs is tried: 8,192."""

_COLUMNS = 256


def mcnemar_exact(first: int, second: int) -> float:
    """The probability of a split at least as uneven, if either side were as likely.

    Args:
        first: cases that speak for one side.
        second: cases that speak for the other. Cases that speak for neither do not count.

    min(1, 2 P(X <= min(first, second))), X binomial over both with one half. Q. McNemar, 1947.

    >>> mcnemar_exact(0, 5)
    0.0625
    """
    cases, fewer = first + second, min(first, second)
    if cases == 0:
        return 1.0
    # As integers: 2 ** -cases is no float from 1,075 cases on.
    ways = term = 1
    for place in range(1, fewer + 1):
        term = term * (cases - place + 1) // place
        ways += term
    if 2 * ways >= 1 << cases:
        return 1.0
    return math.exp(math.log(2 * ways) - cases * math.log(2))


def sign_flip(differences: Floats, *, resamples: int, seed: int) -> Floats:
    """The probability, per column, of a sum as far from 0, if each cluster's sign were chance.

    The sign is drawn for a cluster as a whole. Up to `EXACT_CLUSTERS` clusters all assignments are
    counted; beyond, (1 + as far) / (1 + resamples) of those drawn: never 0 (B. Phipson and G. K.
    Smyth, 2010, https://doi.org/10.2202/1544-6115.1585).

    Args:
        differences: clusters × columns, sums per cluster.
        resamples: how many assignments are drawn.
        seed: of the draw. All columns see the same draws.

    Returns:
        One per column; 1 where there is no cluster.
    """
    clusters, columns = differences.shape
    if clusters == 0:
        return np.ones(columns)
    exact = clusters <= EXACT_CLUSTERS
    signs = _all_signs(clusters) if exact else _signs(clusters, resamples, seed)
    found = np.empty(columns)
    for start in range(0, columns, _COLUMNS):
        part = differences[:, start : start + _COLUMNS]
        # Sums of the same numbers in another order differ in their last bits.
        slack = 1e-9 * np.abs(part).sum(axis=0)
        reached = np.abs(part.sum(axis=0)) - slack
        far = (np.abs(part.T @ signs.T) >= reached[:, None]).sum(axis=1)
        found[start : start + _COLUMNS] = (
            far / len(signs) if exact else (1 + far) / (1 + len(signs))
        )
    return found


def holm(probabilities: Sequence[float]) -> list[float]:
    """The probabilities of a family of tests, adjusted so that one false finding in it is rare.

    S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(probabilities)), key=lambda place: probabilities[place])
    adjusted = [1.0] * len(probabilities)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * probabilities[place]))
        adjusted[place] = highest
    return adjusted


def holm_by_family(
    probabilities: Sequence[float | None], families: Sequence[Hashable]
) -> list[float | None]:
    """`holm` within each family, in the order given.

    Args:
        probabilities: None: not known; counts as 1 in its family, and stays None.
        families: of each probability, the name of its family.

    >>> holm_by_family([0.01, 0.04, None], ["a", "b", "a"])
    [0.02, 0.04, None]
    """
    places: dict[Hashable, list[int]] = {}
    for place, family in enumerate(families):
        places.setdefault(family, []).append(place)
    adjusted: list[float | None] = [None] * len(probabilities)
    for some in places.values():
        chances = [probabilities[place] for place in some]
        found = holm([1.0 if chance is None else chance for chance in chances])
        for place, chance, one in zip(some, chances, found, strict=True):
            adjusted[place] = None if chance is None else one
    return adjusted


@lru_cache(maxsize=1)
def _signs(clusters: int, resamples: int, seed: int) -> Floats:
    random = np.random.default_rng([seed, clusters, 1])
    drawn = random.integers(0, 2, size=(resamples, clusters), dtype=np.int8)
    signs = (2 * drawn - 1).astype(np.float64)
    signs.flags.writeable = False
    return signs


@lru_cache(maxsize=EXACT_CLUSTERS)
def _all_signs(clusters: int) -> Floats:
    return np.array(list(product((-1.0, 1.0), repeat=clusters)))

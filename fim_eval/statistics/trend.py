"""A line over sizes, as weights: its slope is then a sum over models, task by task."""

from __future__ import annotations

import math
from collections.abc import Sequence


def slope_weights(sizes: Sequence[float]) -> list[float] | None:
    """Weights whose sum with one value per size is the least-squares slope per doubling of size.

    (x - mean x) / Σ (x - mean x)², x = log2(size). None if all sizes are the same.

    >>> slope_weights([1, 2, 4])
    [-0.5, 0.0, 0.5]
    """
    places = [math.log2(size) for size in sizes]
    if len(set(places)) < 2:
        return None
    mean = math.fsum(places) / len(places)
    spread = math.fsum((place - mean) ** 2 for place in places)
    return [(place - mean) / spread for place in places]

"""Intervals for a share of independent cases."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(right: float, cases: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of right / cases, in [0, 1].

    Right where cases are independent: one task a problem. E. B. Wilson, Probable Inference, 1927.

    >>> [round(bound, 3) for bound in wilson(0, 10)]
    [0.0, 0.278]
    """
    if cases <= 0:
        raise ValueError("there are no cases")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = right / cases
    centre = share + z * z / (2 * cases)
    spread = z * math.sqrt(share * (1 - share) / cases + z * z / (4 * cases * cases))
    below = 1 + z * z / cases
    return max(0.0, (centre - spread) / below), min(1.0, (centre + spread) / below)

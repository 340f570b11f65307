"""From values per task to sums per cluster, which are all that resampling needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def cluster_starts(clusters: Integers) -> Integers:
    """Where each cluster begins.

    Args:
        clusters: of each task, ascending: the tasks of a cluster stand together.

    >>> cluster_starts(np.array([7, 7, 9])).tolist()
    [0, 2]
    """
    steps = np.diff(clusters)
    if (steps < 0).any():
        raise ValueError("clusters must ascend")
    return np.concatenate([np.zeros(min(1, len(clusters)), int), np.flatnonzero(steps) + 1])


def cluster_sums(values: Floats, clusters: Integers) -> Floats:
    """Sums of each cluster's values.

    Args:
        values: tasks × columns.
        clusters: as of `cluster_starts`.

    Returns:
        Clusters × columns, in the order of `clusters`.

    >>> cluster_sums(np.array([[1.0], [2.0], [4.0]]), np.array([7, 7, 9])).tolist()
    [[3.0], [4.0]]
    """
    if len(clusters) == 0:
        return np.zeros((0, values.shape[1]))
    return np.add.reduceat(values, cluster_starts(clusters), axis=0)

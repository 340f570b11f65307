"""Intervals and tests for tasks that come in clusters: the holes of one problem. Pure; numpy only.

Tasks of one problem succeed and fail together, so a problem is what is drawn again, never a task.
Nothing here knows of models, metrics or files: arrays in, numbers out. Every draw is seeded, and
depends on nothing but the seed and the number of clusters.
"""

from fim_eval.statistics.bootstrap import interval_tail, intervals, standard_errors
from fim_eval.statistics.clusters import cluster_starts, cluster_sums
from fim_eval.statistics.hypotheses import holm, holm_by_family, mcnemar_exact, sign_flip
from fim_eval.statistics.power import detectable, planned_error
from fim_eval.statistics.proportions import wilson
from fim_eval.statistics.trend import slope_weights

__all__ = [
    "cluster_starts",
    "cluster_sums",
    "detectable",
    "holm",
    "holm_by_family",
    "interval_tail",
    "intervals",
    "mcnemar_exact",
    "planned_error",
    "sign_flip",
    "slope_weights",
    "standard_errors",
    "wilson",
]

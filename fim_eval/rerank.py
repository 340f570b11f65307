"""Several candidates for one hole, put in order. Knows no task, no server.

InCoder's "L-R reranking" (https://arxiv.org/abs/2204.05999, section 4): complete the prefix several
times, and prefer the candidate that makes prefix, candidate and suffix together most probable. This
is how a model that only writes from left to right can take the suffix into account.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fim_eval.records import Likelihood, Ranking, Sampling
from fim_eval.words import RankedBy, Strategy

SAMPLES = 10
SAMPLING = Sampling(temperature=0.2, top_p=0.95)
"""InCoder's."""

HEADLINE: RankedBy = "mean"
"""Which ranking chooses the answer: a sum prefers the shorter of two programs."""


def first_of_each(candidates: Sequence[str]) -> dict[int, str]:
    """Each distinct text, by the lowest index that has it.

    >>> first_of_each(["a", "b", "a"])
    {0: 'a', 1: 'b'}
    """
    places: dict[str, int] = {}
    for index, text in enumerate(candidates):
        places.setdefault(text, index)
    return {index: text for text, index in places.items()}


def ranking(task_id: str, strategy: Strategy, likelihoods: Mapping[int, Likelihood]) -> Ranking:
    """Sample indices by how probable their programs are, best first; of equals, the lower first.

    Args:
        task_id: of the task.
        strategy: it was asked with.
        likelihoods: of each distinct candidate's program, by sample index.
    """
    sums = {index: math.fsum(one.logprobs) for index, one in likelihoods.items()}
    means = {index: sums[index] / max(len(one.logprobs), 1) for index, one in likelihoods.items()}
    return Ranking(
        task_id=task_id,
        strategy=strategy,
        by_sum=tuple(sorted(sums, key=lambda index: (-sums[index], index))),
        by_mean=tuple(sorted(means, key=lambda index: (-means[index], index))),
        headline=HEADLINE,
    )

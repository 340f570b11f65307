"""Answers that repeat themselves without end: what to ask to meet them, and where they do.

Knows no model. Greedy answers of small models fall into loops that no text of the training has;
what is seen of them is made less likely (unlikelihood training on the model's own sequences,
Welleck et al. 2020, https://arxiv.org/abs/1908.04319; docs/decisions/0033).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ladder.pieces import BOS, Pieces

LONGEST = 16
"""Tokens of what is repeated, at most."""

COPIES = 2
"""So many repetitions in a row may be meant; what comes after them is a loop."""

FEWEST = 6
"""Tokens repeated at least: a row of brackets is no loop."""


def looped(ids: Sequence[int]) -> list[bool]:
    """Of each token of an answer: whether it goes on with a loop.

    It does if it and those before it, `COPIES` times what is repeated and at least `FEWEST`, each
    equal the one that stands that much before.
    """
    found = [False] * len(ids)
    for period in range(1, LONGEST + 1):
        alike = 0
        for place in range(period, len(ids)):
            alike = alike + 1 if ids[place] == ids[place - period] else 0
            found[place] |= alike >= max(COPIES * period, FEWEST)
    return found


def asked(row: Sequence[int], pieces: Pieces, draw: random.Random) -> list[int]:
    """The first document of a row up to where a model is to go on; empty if that is SPM.

    In PSM that is where the middle begins; left to right, anywhere. In SPM nothing tells where it
    does: a model that is kept from loops there ends at once.
    """
    end = next((place for place in range(1, len(row)) if row[place] == BOS), len(row))
    document = list(row[:end])
    if pieces.mid not in document:
        return document[: draw.randint(1, max(1, end - 1))]
    is_psm = document[2:3] != [pieces.suf]
    return document[: document.index(pieces.mid) + 1] if is_psm else []

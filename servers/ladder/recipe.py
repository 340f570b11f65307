"""What the ladder's models are, and how they are trained. Numbers only; why: README.md."""

from __future__ import annotations

from dataclasses import dataclass

LENGTH = 384
"""Tokens of a row. Positions beyond it are never seen."""

ROWS = 8
"""In one step."""

TOKENS = 9_100_000
"""For every size; with those of the second stage ten million."""

SEED = 0
POSITIONS = 2_048
"""What the servers accept."""

HEAD = 32
WARM_UP = 0.05
"""Of the steps; from there to 0 in a straight line."""

MOMENTUM = 0.95
MATRIX_RATE = 0.03
OTHER_RATE = 0.02
WEIGHT_DECAY = 0.01
MATRIX_WEIGHT_DECAY = 0.3
END_WEIGHT = 4.0
"""How often the end token of a PSM middle counts in the loss."""

SPM_END_WEIGHT = 12.0
"""That of an SPM middle: nothing but the suffix tells there that the middle is over."""

SPM_LINE_END_WEIGHT, CALM_FROM = 1.5, 0.6
"""The same where a line is over, too, from this share of the steps on. Nothing tells where an SPM
middle begins: at the beginning of a line such an end is never far from likely."""

SECOND_TOKENS, SECOND_RATE = 0.1, 0.1
"""Of a second stage, as shares of those of the first."""

SECOND_SPM_LINE_END_WEIGHT = 1.0
"""There, in all of it."""

SECOND_UNLIKELIHOOD, ANSWER_TOKENS = 0.1, 40
"""There, in every step: how much the model's own loops count, in answers of so many tokens."""

FIRST_WEIGHT, FIRST_DECAY = 8.0, 0.7
"""How often the first token of a PSM middle counts; each further one that much less, down to 1."""

BFLOAT16_FROM = 160
"""Hidden size from which products in bfloat16 are faster, on a processor that has them."""


@dataclass(frozen=True)
class Size:
    """One model of the ladder."""

    layers: int
    hidden: int

    @property
    def intermediate(self) -> int:
        """Columns of the feed-forward: 8/3 of the hidden size, in whole 32s."""
        return round(self.hidden * 8 / 3 / 32) * 32


SIZES = {
    "1m": Size(layers=5, hidden=96),
    "2m": Size(layers=4, hidden=160),
    "4m": Size(layers=5, hidden=224),
    "8m": Size(layers=5, hidden=320),
}
"""By parameters, embeddings included, rounded; these are tied."""

"""Documents to rows of ids: Code Llama's infilling objective, and packing. No model, no clock.

Code Llama paper v3 (https://arxiv.org/abs/2308.12950), section 2.3: nine documents of ten are cut
at two characters into prefix, middle and suffix; half of these are shown as PSM and half as SPM;
the others stay left to right. Suffix and middle have no space of the tokenizer's in front; in SPM
prefix and middle are encoded as one text. The loss is of all tokens.

Ours, not the paper's (docs/decisions/0019): two cuts of ten are uniform, in the second stage one.
The others leave out words or whole lines, so that a small model sees middles that end where a
person would end them.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ladder import recipe
from ladder.corpus import Document
from ladder.pieces import BOS, EOS, Pieces

INFILLING_RATE = 0.9
SPM_RATE = 0.5
MOST_WORDS = 12
ONE_LINE_RATE = 0.6
"""Of the cuts of whole lines: a single one. Of the others, the number of lines is uniform in its
logarithm."""

PART_RATE = 0.7
"""Of the documents: only some whole lines of it are shown, so that more middles fit the tokens."""

ALIKE_RATE = 0.5
"""Of the documents that are shown twice: cut alike both times."""

INDENTATIONS = ("\t", "\t", "  ", "  ", " ", "   ")
"""Of a level, where a document is indented anew; one is drawn."""

SPACED_ENDS_RATE = 0.5
"""Of the lines, where a document is drawn whose lines end with a space."""

LEVEL = 4
"""Spaces of a level in the standard library."""

_WORD = re.compile(r"\w+|[^\w\s]")
_INDENTATION = re.compile(r"^ +", re.MULTILINE)
_LINE_END = re.compile(r"(?<=\S)$", re.MULTILINE)
WAITING = 32
"""Documents among which the one is looked for that fills a row best."""


@dataclass(frozen=True)
class Manner:
    """How documents are shown in a stage."""

    words_rate: float
    """Of the documents cut: some words and signs of one line, their number uniform in its
    logarithm."""

    lines_rate: float
    """Of the documents cut: whole lines."""

    twice_rate: float
    """Of the documents that fit a row twice: shown twice, so that copying pays."""

    restyled_rate: float
    """Of the documents, for each of three other styles."""


FIRST = Manner(words_rate=0.4, lines_rate=0.4, twice_rate=0.1, restyled_rate=0.0)
SECOND = Manner(words_rate=0.4, lines_rate=0.5, twice_rate=0.0, restyled_rate=0.3)
"""Copying pays enough by then: with documents shown twice, more answers repeat themselves without
end (docs/decisions/0031)."""


def shown(text: str, pieces: Pieces, draw: random.Random, length: int, manner: Manner) -> list[int]:
    """A document or a part of it; or twice the same as one, if both fit `length` ids."""
    # Nothing is drawn where no style is: the first stage's documents depend on what is.
    text = restyled(text, draw, manner.restyled_rate) if manner.restyled_rate else text
    taken = part(text, draw) if draw.random() < PART_RATE else text
    ids = ids_of(taken, pieces, draw, manner)
    if draw.random() >= manner.twice_rate:
        return ids
    again = ids if draw.random() < ALIKE_RATE else ids_of(taken, pieces, draw, manner)
    return ids + again[1:] if len(ids) + len(again) <= length else ids


def restyled(text: str, draw: random.Random, rate: float) -> str:
    """The text as others would set it: each style is drawn by itself."""
    if draw.random() < rate:
        text = reindented(text, draw.choice(INDENTATIONS))
    if draw.random() < rate:
        text = _LINE_END.sub(lambda _: " " if draw.random() < SPACED_ENDS_RATE else "", text)
    if draw.random() < rate:
        text = text.replace(", ", ",")
    return text


def reindented(text: str, level: str) -> str:
    """The text with `level` for each four spaces that begin a line; what is left stays spaces."""

    def anew(found: re.Match[str]) -> str:
        levels, rest = divmod(len(found[0]), LEVEL)
        return level * levels + " " * rest

    return _INDENTATION.sub(anew, text)


def part(text: str, draw: random.Random) -> str:
    """Two neighbouring lines or more, with a word in them; most often few."""
    lines = text.splitlines(keepends=True)
    count = min(len(lines), 1 + _log_uniform(len(lines), draw))
    first = draw.randint(0, len(lines) - count)
    taken = "".join(lines[first : first + count])
    return taken if _WORD.search(taken) else text


def ids_of(text: str, pieces: Pieces, draw: random.Random, manner: Manner) -> list[int]:
    """One document as the model sees it, with what begins and ends it."""
    if draw.random() >= INFILLING_RATE:
        return [BOS, *pieces.begins(text), EOS]
    first, second = cut(text, draw, manner)
    parts = text[:first], text[first:second], text[second:]
    return (spm_ids if draw.random() < SPM_RATE else psm_ids)(*parts, pieces)


def psm_ids(prefix: str, middle: str, suffix: str, pieces: Pieces) -> list[int]:
    """Prefix, suffix, middle."""
    return [
        BOS, pieces.pre, *pieces.begins(prefix), pieces.suf, *pieces.goes_on(suffix),
        pieces.mid, *pieces.goes_on(middle), pieces.eot,
    ]  # fmt: skip


def spm_ids(prefix: str, middle: str, suffix: str, pieces: Pieces) -> list[int]:
    """Suffix, then prefix and middle as one text."""
    return [
        BOS, pieces.pre, pieces.suf, *pieces.goes_on(suffix),
        pieces.mid, *pieces.begins(prefix + middle), pieces.eot,
    ]  # fmt: skip


def counts_of(row: Sequence[int], pieces: Pieces, spm_line_end_weight: float) -> list[float]:
    """How often each id of a row counts in the loss; the end of an SPM line so often."""
    counts = []
    for before, one, place in zip([BOS, *row[:-1]], row, _places(row, pieces), strict=True):
        count = 1.0
        if one == pieces.eot:
            count = recipe.SPM_END_WEIGHT if place is None else recipe.END_WEIGHT
            if place is None and before == pieces.line_end:
                count = spm_line_end_weight
        if place is not None:
            count += (recipe.FIRST_WEIGHT - 1) * recipe.FIRST_DECAY**place
        counts.append(count)
    return counts


def _places(row: Sequence[int], pieces: Pieces) -> list[int | None]:
    """Of each id: how many ids of its PSM middle, end token included, come before; else None.

    Where a prefix is empty the two layouts cannot be told apart: such a middle is SPM's.
    """
    places: list[int | None] = []
    psm, inside, place = False, False, 0
    for at, one in enumerate(row):
        places.append(place if inside else None)
        place += 1
        if one == pieces.pre:
            psm = row[at + 1 : at + 2] != [pieces.suf]
        elif one == pieces.mid:
            inside, place = psm, 0
        elif one == pieces.eot:
            inside = False
    return places


def cut(text: str, draw: random.Random, manner: Manner) -> tuple[int, int]:
    """Where the middle begins and ends, in characters."""
    kind = draw.random()
    if kind < manner.words_rate:
        return _words(text, draw)
    if kind < manner.words_rate + manner.lines_rate:
        starts = [0, *(place + 1 for place, sign in enumerate(text) if sign == "\n")]
        one = draw.random() < ONE_LINE_RATE
        count = 1 if one else _log_uniform(len(starts) - 1, draw)
        line = draw.randint(0, len(starts) - 1 - count)
        return starts[line], starts[line + count]
    first, second = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
    return first, second


def _words(text: str, draw: random.Random) -> tuple[int, int]:
    words = [found.span() for found in _WORD.finditer(text)]
    place = draw.randrange(len(words))
    first, last = words[place]
    line_end = text.find("\n", first) if "\n" in text[first:] else len(text)
    here = [end for _, end in words[place : place + MOST_WORDS] if end <= line_end]
    return first, here[_log_uniform(len(here), draw) - 1] if here else last


def _log_uniform(most: int, draw: random.Random) -> int:
    """From 1 to `most`, both included."""
    return min(most, int(math.exp(draw.uniform(0, math.log(most + 1)))))


@dataclass
class Rows:
    """An endless stream of rows, of which the state is two plain values.

    Each epoch shows all documents once, in another order and with other cuts. A row begins with a
    whole document and goes on with the longest that still fit; the few tokens left at its end are
    the beginning of one that comes again whole.
    """

    documents: Sequence[Document]
    pieces: Pieces
    length: int
    seed: int
    manner: Manner = FIRST
    taken: int = 0
    """Documents that have been taken in, epochs before this one included."""

    waiting: list[int] = field(default_factory=list)
    """Those of them that are in no row yet."""

    def __post_init__(self) -> None:
        """Nothing is encoded yet."""
        self._order: tuple[int, list[int]] = (-1, [])
        self._encoded: dict[int, list[int]] = {}

    def next(self) -> list[int]:
        """One row of `length` ids."""
        self._take_in()
        row: list[int] = []
        first = self.waiting.pop(0)
        row += self._encoded.pop(first)
        while len(row) < self.length:
            room = self.length - len(row)
            self._take_in()
            fitting = [one for one in self.waiting if len(self._encoded[one]) <= room]
            if not fitting:
                row += self._encoded[self.waiting[0]]
                break
            best = max(fitting, key=lambda one: len(self._encoded[one]))
            self.waiting.remove(best)
            row += self._encoded.pop(best)
        return row[: self.length]

    @property
    def epochs(self) -> float:
        """How often the documents have been shown."""
        return self.taken / len(self.documents)

    def _take_in(self) -> None:
        while len(self.waiting) < WAITING:
            self.waiting.append(self.taken)
            self.taken += 1
        for one in self.waiting:
            if one not in self._encoded:
                draw = random.Random(f"{self.seed}/{one}")  # noqa: S311  reproducible
                self._encoded[one] = shown(
                    self._document(one).text, self.pieces, draw, self.length, self.manner
                )

    def _document(self, number: int) -> Document:
        epoch, place = divmod(number, len(self.documents))
        if self._order[0] != epoch:
            order = list(range(len(self.documents)))
            random.Random(f"{self.seed}/epoch {epoch}").shuffle(order)  # noqa: S311
            self._order = (epoch, order)
        return self.documents[self._order[1][place]]

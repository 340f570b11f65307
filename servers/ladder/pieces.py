"""The ladder's tokenizer: SentencePiece BPE with Code Llama's infilling pieces. Knows no model.

As Llama's: byte fallback, a space in front of a text, nothing normalised, line ends as bytes. The
four infilling pieces are control pieces, which a text never becomes.

Not as Llama's: no piece holds a space and a word (docs/decisions/0029). A prefix often ends with
the space, and what follows it has to be what the model knows from everywhere else.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2

VOCABULARY = 4_096
"""Pieces, 256 bytes and the special ones included."""

BOS, EOS = 1, 2
PRE, SUF, MID, EOT = "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"
ANCHOR = "☺"
"""Code Llama's reference encodes it in front of a text that goes on, and cuts it off again. It
must be a piece of its own."""

TABS = (2, 4, 3, 1)
"""In a row, of the pieces for these; what comes first is put together first."""

_RUN = re.compile(r" +|\w+|[^\w\s]+")
"""What a piece stays within: spaces, a word, or signs."""


def train(texts: Sequence[str]) -> bytes:
    """The content of a `tokenizer.model`; the same texts give the same bytes."""
    model = io.BytesIO()
    runs = Counter(run for text in texts for run in _RUN.findall(text))
    SentencePieceTrainer.train(
        sentence_iterator=(f"{run}\t{count}" for run, count in sorted(runs.items())),
        input_format="tsv",
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        add_dummy_prefix=False,
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.9999,
        required_chars=ANCHOR,
        control_symbols=[PRE, SUF, MID, EOT],
        num_threads=1,
        input_sentence_size=0,
        minloglevel=2,
    )
    trained = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())  # type: ignore[attr-defined]
    trained.normalizer_spec.add_dummy_prefix = True  # of texts, not of the runs
    content: bytes = trained.SerializeToString()
    return content


def with_tabs(model: bytes) -> bytes:
    """The same tokenizer with pieces for rows of tabs, in the places of the pieces learned last.

    All other pieces keep their ids, so that a model that knows them goes on. The library that
    `train` sees is never indented by tabs; without these each tab would be a byte, and a row of
    them something to count, as rows of spaces are not (docs/decisions/0031).
    """
    known = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    learned = [
        piece for piece in known.pieces if piece.type == piece.NORMAL and len(piece.piece) > 1
    ]
    for piece, tabs in zip(learned[-len(TABS) :], TABS, strict=True):
        piece.piece = "\t" * tabs
    content: bytes = known.SerializeToString()
    return content


class Pieces:
    """Text to ids, as the objective needs it."""

    def __init__(self, model: bytes) -> None:
        """Read the content of a `tokenizer.model`."""
        self._pieces = SentencePieceProcessor()
        self._pieces.LoadFromSerializedProto(model)
        self.pre, self.suf, self.mid, self.eot = map(self._pieces.piece_to_id, (PRE, SUF, MID, EOT))
        self.line_end: int = self._pieces.piece_to_id("<0x0A>")

    def row_of(self, sign: str, count: int) -> int:
        """Id of the piece for so many spaces or tabs."""
        found: int = self._pieces.piece_to_id((sign * count).replace(" ", "▁"))
        return found

    def begins(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence, the tokenizer's own space in front."""
        ids: list[int] = self._pieces.encode(text)
        return ids

    def goes_on(self, text: str) -> list[int]:
        """Ids of a text that goes on in a sequence, without that space."""
        ids: list[int] = self._pieces.encode(ANCHOR + text)
        return ids[2:]

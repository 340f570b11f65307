"""A model's own tokenizer file, read as it is: text to ids and back. Knows no model, no prompt.

`tokenizer.model` is read with SentencePiece, as Meta's reference does
(https://github.com/meta-llama/codellama/blob/main/llama/tokenizer.py): transformers converts this
file to other ids, so neither it nor a server's `/tokenize` stands in. `tokenizer.json` is read with
the `tokenizers` library that wrote it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import tokenizers
from sentencepiece import SentencePieceProcessor

from fim_eval.errors import TokenizerError
from fim_eval.seams import parts_of, seams_of

SENTENCEPIECE_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"
_ANCHOR = "☺"
"""Encoded in front of a text and cut off again, it takes the leading space with it."""

REMEMBERED = 4_096
"""Parts of texts: lines of more problems than are asked at a time."""


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def source(self) -> str:
        """The file."""
        ...

    @property
    def sha256(self) -> str:
        """Of the file's bytes."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What the file itself puts in front of a text."""
        ...

    def piece_id(self, piece: str) -> int | None:
        """The id of a token spelled exactly so; None if the file has none."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence, without what the file puts in front."""
        ...

    def encode_infill(self, text: str) -> list[int]:
        """Ids of a text that continues a sequence: without the tokenizer's own leading space."""
        ...

    def decode_infill(self, ids: Sequence[int]) -> str:
        """Text of ids that continue a sequence; a real leading space stays.

        Raises:
            TokenizerError: an id is not this tokenizer's.
        """
        ...


def open_tokenizer(path: Path, marks: Collection[str] = ()) -> Tokenizer:
    """The tokenizer of a file, of whichever kind it is.

    Args:
        path: the file.
        marks: pieces that a text never becomes, even if it spells them (JSON files; in a
            SentencePiece file its type of piece decides).

    Raises:
        TokenizerError: it is missing, or no tokenizer of either kind.
    """
    content = _read(path)
    if content.lstrip()[:1] == b"{":
        return JsonTokenizer(path, marks)
    return SentencePieceTokenizer(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(
            f"{path}: cannot be read ({error.strerror}); --tokenizer takes the folder that "
            f"holds {SENTENCEPIECE_FILE} or {JSON_FILE}, or a repository on the hub"
        ) from error


class SentencePieceTokenizer:
    """`tokenizer.model`, with the leading space handled exactly as Meta's reference does."""

    def __init__(self, path: Path) -> None:
        """Read the file at `path`.

        Raises:
            TokenizerError: it is missing, not a SentencePiece model, or adds a leading space in a
                way that cannot be taken off.
        """
        content = _read(path)
        self.source = str(path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._pieces = SentencePieceProcessor()
        try:
            # Not the constructor's own argument: it takes an empty file for none at all.
            self._pieces.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise TokenizerError(f"{path}: is not a SentencePiece model ({error})") from error
        bos = self._pieces.bos_id()
        self.start_ids: tuple[int, ...] = (bos,) if bos >= 0 else ()
        self._anchor: list[int] = []
        """Empty where no space is added in front of a text."""
        if self._pieces.encode_as_pieces(_ANCHOR)[0].startswith("▁"):
            self._anchor = self._pieces.encode(_ANCHOR)
            if len(self._anchor) != 2 or self._anchor[1] == self._pieces.unk_id():
                raise TokenizerError(
                    f"{path}: does not encode {_ANCHOR!r} as a leading space and one known piece, "
                    "as Llama's tokenizer does, so no text can be continued with it"
                )

    def piece_id(self, piece: str) -> int | None:
        """The id of a piece of the file; None if it has none."""
        found: int = self._pieces.piece_to_id(piece)
        return found if self._pieces.id_to_piece(found) == piece else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence, without BOS; SentencePiece adds its space."""
        ids: list[int] = self._pieces.encode(text)
        return ids

    def encode_infill(self, text: str) -> list[int]:
        """Ids of a text that continues a sequence, without the leading space."""
        if not self._anchor:
            return self.encode(text)
        ids: list[int] = self._pieces.encode(_ANCHOR + text)
        return ids[2:]

    def decode_infill(self, ids: Sequence[int]) -> str:
        """Text of ids that continue a sequence; a real leading space stays.

        Raises:
            TokenizerError: an id is not this tokenizer's.
        """
        if ids and not 0 <= max(ids) < len(self._pieces):
            raise _foreign(self.source, max(ids))
        text: str = self._pieces.decode([*self._anchor[1:], *ids])
        return text[1:] if self._anchor else text


class JsonTokenizer:
    """`tokenizer.json`: byte-level BPE, and whatever else the `tokenizers` library reads.

    A text never becomes a special token, nor one of the marks, even if it spells one. Tokens that
    a file adds for plain text (Gemma's runs of spaces and line ends) are read as the model's own
    tokenizer reads them.
    """

    def __init__(self, path: Path, marks: Collection[str] = ()) -> None:
        """Read the file at `path`.

        Raises:
            TokenizerError: it is missing, not a tokenizer, or does not give back what it was given.
        """
        content = _read(path)
        self.source = str(path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises nothing narrower
            raise TokenizerError(f"{path}: is not a tokenizer ({error})") from error
        self._seams = seams_of(json.loads(content))
        self._part = lru_cache(REMEMBERED)(self._encode)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.start_ids: tuple[int, ...] = tuple(self._tokenizer.encode("").ids)
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {token.content: number for number, token in added.items()}
        plain = [token.content for token in added.values() if not token.special]
        # Only special tokens can be told to be text, so what must stay text is made special.
        self._tokenizer.add_special_tokens([mark for mark in plain if mark in set(marks)])
        self._tokenizer.encode_special_tokens = True
        self._anchor = self.encode(_ANCHOR)
        self._anchor_text = self._decode(self._anchor)
        first = self._tokenizer.id_to_token(self._anchor[0]) if self._anchor else None
        self._adds_space = first is not None and first.startswith(("▁", "Ġ"))
        sample = "  x = 'é'\n\t\n    y \r\n"
        if self.decode_infill(self.encode_infill(sample)) != sample:
            raise TokenizerError(
                f"{path}: does not give back a text that it encodes, so no program can be "
                "continued with it"
            )

    def piece_id(self, piece: str) -> int | None:
        """The id of a token that the file adds to its vocabulary; None if it has none."""
        return self._added.get(piece)

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence, without what the file puts in front.

        The holes of one problem share their lines, and where the file's seams are known each line
        is encoded once.
        """
        if self._seams is None:
            return self._encode(text)
        return [one for part in parts_of(text, self._seams) for one in self._part(part)]

    def _encode(self, text: str) -> list[int]:
        # A batch of one: without the offsets that `encode` keeps, a fifth faster.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def encode_infill(self, text: str) -> list[int]:
        """Ids of a text that continues a sequence, without a leading space of the tokenizer's.

        Raises:
            TokenizerError: the space cannot be taken off this text.
        """
        if not self._adds_space:
            return self.encode(text)
        cut = len(self._anchor)
        ids = self.encode(_ANCHOR + text)
        if ids[:cut] != self._anchor:
            raise TokenizerError(
                f"{self.source}: joins {_ANCHOR!r} with a text that begins {text[:8]!r}, so its "
                "own leading space cannot be taken off"
            )
        return ids[cut:]

    def decode_infill(self, ids: Sequence[int]) -> str:
        """Text of ids that continue a sequence; special tokens are spelled out.

        Raises:
            TokenizerError: an id is not this tokenizer's.
        """
        for number in ids:
            if self._tokenizer.id_to_token(number) is None:
                raise _foreign(self.source, number)
        return self._decode([*self._anchor, *ids]).removeprefix(self._anchor_text)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


def _foreign(source: str, number: int) -> TokenizerError:
    return TokenizerError(
        f"{source}: the server answered with id {number}, which this tokenizer does not have; "
        "--tokenizer or --card names another model than the server's"
    )


def tokenizer_path(source: str, revision: str | None) -> Path:
    """Where the tokenizer file is: in a folder, the file itself, or fetched from a hub repository.

    Where there are both, `tokenizer.model` is taken: it is what the model was trained with, and
    `tokenizer.json` a conversion.

    Raises:
        TokenizerError: there is no such folder, and the hub does not give the file.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = [path / name for name in (SENTENCEPIECE_FILE, JSON_FILE) if (path / name).exists()]
        return found[0] if found else path / SENTENCEPIECE_FILE
    if path.is_file():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise TokenizerError(
            f"{source}: no such folder; --tokenizer takes the folder that holds "
            f"{SENTENCEPIECE_FILE} or {JSON_FILE}, or a repository on the hub such as "
            "codellama/CodeLlama-7b-hf"
        )
    # Imported here: half a second that only the hub path needs.
    from huggingface_hub import hf_hub_download, try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
    )

    try:
        try:
            return Path(hf_hub_download(source, SENTENCEPIECE_FILE, revision=revision))
        except RemoteEntryNotFoundError:
            return Path(hf_hub_download(source, JSON_FILE, revision=revision))
        except LocalEntryNotFoundError:
            # Only the cache is looked into: the network has just been waited for.
            cached = try_to_load_from_cache(source, JSON_FILE, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
            raise
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise TokenizerError(
            f"{source}: is no folder here, and the hub does not give its {SENTENCEPIECE_FILE} or "
            f"{JSON_FILE} ({reason}); download the file once and name its folder with --tokenizer"
        ) from error

"""Code Llama's tokenizer: `tokenizer.model` read with SentencePiece. Nothing else is trusted.

transformers converts this file to other ids, so neither it nor a server's `/tokenize` stands in.
Recipe: https://github.com/meta-llama/codellama/blob/main/llama/tokenizer.py
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from fim_eval.errors import TokenizerError
from fim_eval.records import ModelCard

FILE_NAME = "tokenizer.model"
_ANCHOR = "☺"
"""Encoded in front of a text and cut off again, it takes the leading space with it."""


class Tokenizer:
    """Text to ids and back, exactly as Meta's reference does."""

    def __init__(self, path: Path) -> None:
        """Read the file at `path`.

        Raises:
            TokenizerError: it is missing, not a SentencePiece model, or unlike Llama's.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise TokenizerError(
                f"{path}: cannot be read ({error.strerror}); --tokenizer takes the folder that "
                f"holds {FILE_NAME}, or a repository on the hub"
            ) from error
        self.source = str(path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._pieces = SentencePieceProcessor()
        try:
            # Not the constructor's own argument: it takes an empty file for none at all.
            self._pieces.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise TokenizerError(f"{path}: is not a SentencePiece model ({error})") from error
        anchor = self._pieces.encode(_ANCHOR)
        if len(anchor) != 2 or anchor[1] == self._pieces.unk_id():
            raise TokenizerError(
                f"{path}: does not encode {_ANCHOR!r} as a leading space and one known piece, as "
                "Llama's tokenizer does, so no text can be continued with it"
            )
        self._anchor_id = anchor[1]

    def check(self, card: ModelCard) -> None:
        """Raise `TokenizerError` unless this tokenizer has the card's sentinels under their ids."""
        if card.format is None:
            return
        sentinels = card.format
        wanted = {
            sentinels.prefix_piece: sentinels.prefix_id,
            sentinels.suffix_piece: sentinels.suffix_id,
            sentinels.middle_piece: sentinels.middle_id,
            sentinels.end_piece: sentinels.end_id,
        }
        for piece, wanted_id in wanted.items():
            found = self._pieces.piece_to_id(piece)
            if found != wanted_id:
                raise TokenizerError(
                    f"{self.source}: {piece} has id {found}, but {card.model_id} needs "
                    f"{wanted_id}; take {FILE_NAME} from {card.model_id} itself"
                )

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence, without BOS; SentencePiece adds its space."""
        ids: list[int] = self._pieces.encode(text)
        return ids

    def encode_infill(self, text: str) -> list[int]:
        """Ids of a text that continues a sequence, without the leading space."""
        ids: list[int] = self._pieces.encode(_ANCHOR + text)
        return ids[2:]

    def decode_infill(self, ids: Sequence[int]) -> str:
        """Text of ids that continue a sequence; a real leading space stays.

        Raises:
            TokenizerError: an id is not this tokenizer's.
        """
        if ids and not 0 <= max(ids) < len(self._pieces):
            raise TokenizerError(
                f"{self.source}: the server answered with id {max(ids)}, but this tokenizer has "
                f"{len(self._pieces)} pieces; --tokenizer or --card names another model than the "
                "server's"
            )
        text: str = self._pieces.decode([self._anchor_id, *ids])
        return text[1:]


def tokenizer_path(source: str, revision: str | None) -> Path:
    """Where `tokenizer.model` is: in a folder, the file itself, or fetched from a hub repository.

    Raises:
        TokenizerError: there is no such folder, and the hub does not give the file.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path / FILE_NAME
    if path.is_file():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise TokenizerError(
            f"{source}: no such folder; --tokenizer takes the folder that holds {FILE_NAME}, or a "
            "repository on the hub such as codellama/CodeLlama-7b-hf"
        )
    # Imported here: half a second that only the hub path needs.
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        return Path(hf_hub_download(source, FILE_NAME, revision=revision))
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise TokenizerError(
            f"{source}: is no folder here, and the hub does not give its {FILE_NAME} ({reason}); "
            "download the file once and name its folder with --tokenizer"
        ) from error

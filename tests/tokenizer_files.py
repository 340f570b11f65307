"""Small tokenizer files of the `tokenizers` library, made where a test needs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

LINES = [f"    def f{n}(x):\n        return x + {n}\n" for n in range(20)]


def byte_level_file(
    folder: Path,
    added: Sequence[str],
    *,
    special: bool = True,
    start: str | None = None,
    plain: Sequence[str] = (),
) -> Path:
    """A byte-level BPE of some merges, as StarCoder's, Qwen's and DeepSeek's files are.

    Args:
        folder: where `tokenizer.json` is written.
        added: tokens added to its vocabulary.
        special: whether it calls them special; Qwen's and DeepSeek's files do not.
        start: the token that it puts in front of a text.
        plain: tokens added for plain text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_tokens(
        [AddedToken(token, special=special, normalized=not special) for token in added]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in plain])
    return _saved(tokenizer, folder, start)


def spaced_file(folder: Path, added: Sequence[str]) -> Path:
    """A BPE of characters that puts a space in front of a text, as conversions of Llama's do."""
    model = models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)  # noqa: S106  no password
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=["☺"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([line.strip() for line in LINES], trainer)
    tokenizer.add_special_tokens(list(added))
    return _saved(tokenizer, folder, None)


def _saved(tokenizer: Tokenizer, folder: Path, start: str | None) -> Path:
    if start is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path

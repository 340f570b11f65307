r"""Where a text can be cut so that the ids of its parts are, one after the other, its own ids.

A byte-level BPE first cuts a text into words by a fixed expression, then merges within each word
(Radford et al. 2019, https://openai.com/index/better-language-models/, section 2.2). A place at
which the expression cuts whatever stands around is a seam. Two kinds of expressions have one at
nearly every line end, but not on the same side of it:

* before it, behind a sign of ASCII: GPT-2's, where no alternative goes on from a sign to a line
  end, and DeepSeek-Coder's, which first sets every line end apart;
* behind it, where a sign of ASCII follows in the same line: that of GPT-4's family, whose runs of
  other signs take line ends along and whose runs of spaces stop behind the last one.

Expressions look neither back nor, beyond one space, ahead. Of a file whose parts are not all known
here no seam is assumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Seams = re.Pattern[str]

BEFORE = re.compile(r"\n(?<=[!-~]\n)")
"""Matches a line end: the seam is in front of it."""

BEHIND = re.compile(r"\n(?=[ \t]*[!-~])")
"""Matches a line end: the seam is behind it."""

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""As Qwen2.5's file has it; Llama 3's takes up to three digits together."""

UNKNOWN: tuple[frozenset[Seams], frozenset[Seams]] = (frozenset(), frozenset())
NEUTRAL = frozenset({BEFORE, BEHIND})
SPLITS: Mapping[str, tuple[frozenset[Seams], frozenset[Seams]]] = {
    GPT4: (frozenset({BEHIND}), frozenset({BEHIND})),
    GPT4.replace(r"\p{N}|", r"\p{N}{1,3}|", 1): (frozenset({BEHIND}), frozenset({BEHIND})),
    "[\r\n]": (NEUTRAL, NEUTRAL),
    r"[\r\n]": (NEUTRAL, NEUTRAL),
    r"\s?\p{L}+": (frozenset(), frozenset({BEFORE})),
    r"\s?\p{P}+": (frozenset(), frozenset({BEFORE})),
    "[一-龥ࠀ-一가-퟿]+": (frozenset(), NEUTRAL),
}
"""Expressions of `Split`: which seams they make, and across which they take nothing together."""


def seams_of(file: Mapping[str, Any]) -> Seams | None:
    """What matches a line end at a seam; None where nothing is known.

    Args:
        file: the content of a `tokenizer.json`.
    """
    model = file.get("model") or {}
    plain = [one for one in file.get("added_tokens") or () if not one.get("special")]
    if (
        model.get("type") != "BPE"
        or model.get("dropout")
        or (file.get("normalizer") or {"type": "NFC"}).get("type") != "NFC"
        or any("\n" in one["content"] or one.get("lstrip") or one.get("rstrip") for one in plain)
    ):
        return None
    made: frozenset[Seams] = frozenset()
    kept = NEUTRAL
    for step in _steps(file.get("pre_tokenizer")):
        makes, keeps = _seams_by(step)
        made |= makes
        kept &= keeps
    return min(made & kept, key=[BEFORE, BEHIND].index, default=None)


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return ()
    if pre_tokenizer.get("type") == "Sequence":
        nested = [_steps(one) for one in pre_tokenizer["pretokenizers"]]
        return [step for steps in nested for step in steps]
    return (pre_tokenizer,)


def _seams_by(step: Mapping[str, Any]) -> tuple[frozenset[Seams], frozenset[Seams]]:
    """Made and kept, as in `SPLITS`."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}:
            return frozenset(), NEUTRAL
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return frozenset({BEFORE}), frozenset({BEFORE})
        case {"type": "Digits"}:
            return frozenset(), NEUTRAL
        case {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated",
              "invert": False}:  # fmt: skip
            return SPLITS.get(expression, UNKNOWN)
        case _:
            return UNKNOWN


def parts_of(text: str, seams: Seams) -> list[str]:
    """The text, cut at its seams; put together, the parts are the text.

    Args:
        text: any.
        seams: `BEFORE` or `BEHIND`, as `seams_of` has found it for a tokenizer.
    """
    behind = seams is BEHIND
    places = [found.start() + behind for found in seams.finditer(text)]
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]

"""Texts encoded part by part: the ids are those of the whole, whatever the text."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split
from tokenizers.trainers import BpeTrainer

from fim_eval.seams import BEFORE, BEHIND, GPT4, Seams, parts_of, seams_of
from tests.data_paths import FULL, mbpp_tasks, needs_mbpp
from tests.tokenizer_files import LINES

SIGNS = (
    "\n",
    "\r",
    "\t",
    " ",
    "  ",
    ":",
    ")",
    "'s",
    "x",
    "def",
    "7",
    "é",
    "e\u0301",
    "一",
    "\u2028",
)
programs = st.lists(st.sampled_from(SIGNS) | st.characters(codec="utf-8"), max_size=60).map("".join)


def isolated(expression: str) -> PreTokenizer:
    return Split(Regex(expression), "isolated")


def plain_bytes(*, regex: bool = False) -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=regex)


FAMILIES: dict[str, tuple[list[PreTokenizer], Seams]] = {
    "StarCoder2 and SmolLM2": ([Digits(individual_digits=True), plain_bytes(regex=True)], BEFORE),
    "GPT-2": ([plain_bytes(regex=True)], BEFORE),
    "Qwen2.5": ([isolated(GPT4), plain_bytes()], BEHIND),
    "Llama 3": ([isolated(GPT4.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)), plain_bytes()], BEHIND),
    "DeepSeek-Coder": (
        [
            isolated("[\r\n]"),
            isolated(r"\s?\p{L}+"),
            isolated(r"\s?\p{P}+"),
            isolated("[一-龥ࠀ-一가-퟿]+"),
            Digits(individual_digits=True),
            plain_bytes(),
        ],
        BEFORE,
    ),
}


@cache
def tokenizer(family: str) -> Tokenizer:
    """Trained on what line ends can be merged with, wherever the family's expression allows it."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(FAMILIES[family][0])
    draw = random.Random(0)  # noqa: S311  reproducible
    mixed = ["".join(draw.choices(SIGNS, k=40)) for _ in range(200)]
    trainer = BpeTrainer(vocab_size=900, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator([*LINES, *mixed], trainer)
    return made


def file_of(family: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(tokenizer(family).to_str())
    return content


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seams_of_a_family_are_known(family: str) -> None:
    assert seams_of(file_of(family)) is FAMILIES[family][1]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150)
@given(text=programs)
@example(text="x):\n\n    y\n")
@example(text="x \n \n    y")
@example(text="x\r\n\ty\n\r\n")
@example(text="f(\n\u0301)\n")
@example(text="1\n22\n\n\n3")
def test_the_ids_of_the_parts_are_the_ids_of_the_text(family: str, text: str) -> None:
    library = tokenizer(family)
    parts = parts_of(text, FAMILIES[family][1])
    assert "".join(parts) == text
    assert [one for part in parts for one in library.encode(part).ids] == library.encode(text).ids


@needs_mbpp
@pytest.mark.parametrize("family", FAMILIES)
def test_a_program_is_cut_at_nearly_every_line_end(family: str) -> None:
    seams = FAMILIES[family][1]
    for task in mbpp_tasks(FULL, "test")[::50]:
        text = task.prefix + task.middle + task.suffix
        parts = parts_of(text, seams)
        assert [one for part in parts for one in tokenizer(family).encode(part).ids] == tokenizer(
            family
        ).encode(text).ids
        filled = sum(bool(line.strip()) for line in text.splitlines())
        assert len(parts) >= filled - 1


@pytest.mark.parametrize("wrong", [BEFORE, BEHIND])
def test_the_other_family_s_seams_would_change_ids(wrong: Seams) -> None:
    """Why they are told apart."""
    family = "Qwen2.5" if wrong is BEFORE else "GPT-2"
    library, text = tokenizer(family), "def f(x):\n    return x\n"
    cut = [one for part in parts_of(text, wrong) for one in library.encode(part).ids]
    assert cut != library.encode(text).ids


def changed(**changes: Any) -> dict[str, Any]:
    return {**file_of("GPT-2"), **changes}


def added(content: str, **flags: bool) -> dict[str, Any]:
    token = {"id": 1, "content": content, "lstrip": False, "rstrip": False, "special": False}
    return changed(added_tokens=[{**token, **flags}])


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(changed(pre_tokenizer=None), id="nothing cuts"),
        pytest.param(changed(pre_tokenizer={"type": "Metaspace"}), id="another way of cutting"),
        pytest.param(changed(pre_tokenizer={**BYTES, "add_prefix_space": True}), id="adds a space"),
        pytest.param(changed(pre_tokenizer={**BYTES, "use_regex": False}), id="cuts nothing"),
        pytest.param(
            changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTES, {"type": "Bert"}]}),
            id="one step unknown",
        ),
        pytest.param(
            changed(
                pre_tokenizer={
                    "type": "Sequence",
                    "pretokenizers": [BYTES, json.loads(isolated(GPT4).__getstate__())],
                }
            ),
            id="two that disturb each other",
        ),
        pytest.param(changed(normalizer={"type": "Strip"}), id="strips each part"),
        pytest.param(changed(model={"type": "Unigram"}), id="no BPE"),
        pytest.param(
            changed(model={**file_of("GPT-2")["model"], "dropout": 0.1}), id="random merges"
        ),
        pytest.param(added("):\n"), id="a token across a line end"),
        pytest.param(added("pass", rstrip=True), id="a token that takes what follows"),
        pytest.param(added("pass", lstrip=True), id="a token that takes what is before"),
        pytest.param({}, id="an empty file"),
    ],
)
def test_where_anything_is_unknown_no_seam_is_assumed(file: dict[str, Any]) -> None:
    assert seams_of(file) is None


def test_special_tokens_and_plain_ones_within_a_line_change_nothing() -> None:
    assert seams_of(added("<|end|>\n", special=True)) is BEFORE
    assert seams_of(added("    ")) is BEFORE

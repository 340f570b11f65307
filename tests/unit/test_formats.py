from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest

from fim_eval.formats import CODE_LLAMA, MODEL_CARDS, card_of
from fim_eval.records import ModelCard


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The fields of a Llama-shaped config.json that its number of weights follows from."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False
    head: int | None = None
    """Where it is not hidden / heads."""

    query_key_value_biases: bool = False
    """As in Qwen2."""

    starcoder2: bool = False
    """Two matrices in place of three, and a bias beside every matrix and norm."""

    def parameters(self) -> int:
        head = self.head or self.hidden // self.heads
        keys_and_values = 2 * self.kv_heads * head
        attention = (2 * self.heads * head + keys_and_values) * self.hidden
        feed_forward = (2 if self.starcoder2 else 3) * self.hidden * self.intermediate
        norm = (2 if self.starcoder2 else 1) * self.hidden
        layer = attention + feed_forward + 2 * norm
        if self.query_key_value_biases or self.starcoder2:
            layer += self.heads * head + keys_and_values
        if self.starcoder2:
            layer += self.hidden + self.intermediate + self.hidden
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.layers * layer + embeddings + norm


def llama(size: str, vocabulary: int) -> Architecture:
    layers, hidden, intermediate, heads, kv_heads = {
        "7b": (32, 4096, 11008, 32, 32),
        "13b": (40, 5120, 13824, 40, 40),
        "34b": (48, 8192, 22016, 64, 8),
        "70b": (80, 8192, 28672, 64, 8),
    }[size]
    return Architecture(
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        vocabulary=vocabulary,
    )


Shape = tuple[int, int, int, int, int]
"""Layers, hidden, intermediate, heads, heads of keys and values."""


def plain(
    shape: Shape, vocabulary: int, *, head: int | None = None, tied: bool = False
) -> Architecture:
    layers, hidden, intermediate, heads, kv_heads = shape
    return Architecture(
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        vocabulary=vocabulary,
        head=head,
        tied=tied,
    )


def qwen(shape: Shape, vocabulary: int) -> Architecture:
    tied = vocabulary == 151_936
    return replace(plain(shape, vocabulary, tied=tied), query_key_value_biases=True)


def starcoder2(shape: Shape, *, tied: bool) -> Architecture:
    return replace(plain(shape, 49_152, tied=tied), starcoder2=True)


PUBLISHED = {
    "bigcode/starcoder2-3b": starcoder2((30, 3072, 12288, 24, 2), tied=True),
    "bigcode/starcoder2-7b": starcoder2((32, 4608, 18432, 36, 4), tied=True),
    "bigcode/starcoder2-15b": starcoder2((40, 6144, 24576, 48, 4), tied=False),
    "deepseek-ai/deepseek-coder-1.3b-base": plain((24, 2048, 5504, 16, 16), 32_256),
    "deepseek-ai/deepseek-coder-6.7b-base": plain((32, 4096, 11008, 32, 32), 32_256),
    "deepseek-ai/deepseek-coder-33b-base": plain((62, 7168, 19200, 56, 8), 32_256),
    "Qwen/Qwen2.5-Coder-0.5B": qwen((24, 896, 4864, 14, 2), 151_936),
    "Qwen/Qwen2.5-Coder-1.5B": qwen((28, 1536, 8960, 12, 2), 151_936),
    "Qwen/Qwen2.5-Coder-3B": qwen((36, 2048, 11008, 16, 2), 151_936),
    "Qwen/Qwen2.5-Coder-7B": qwen((28, 3584, 18944, 28, 4), 152_064),
    "Qwen/Qwen2.5-Coder-14B": qwen((48, 5120, 13824, 40, 8), 152_064),
    "Qwen/Qwen2.5-Coder-32B": qwen((64, 5120, 27648, 40, 8), 152_064),
    "google/codegemma-2b": plain((18, 2048, 16384, 8, 1), 256_000, head=256, tied=True),
    "google/codegemma-7b": plain((28, 3072, 24576, 16, 16), 256_000, head=256, tied=True),
    "mistralai/Codestral-22B-v0.1": plain((56, 6144, 16384, 48, 8), 32_768),
    "codellama/CodeLlama-7b-hf": llama("7b", 32_016),
    "codellama/CodeLlama-13b-hf": llama("13b", 32_016),
    "codellama/CodeLlama-34b-hf": llama("34b", 32_000),
    "codellama/CodeLlama-70b-hf": llama("70b", 32_016),
    "codellama/CodeLlama-7b-Instruct-hf": llama("7b", 32_016),
    "codellama/CodeLlama-13b-Instruct-hf": llama("13b", 32_016),
    "codellama/CodeLlama-34b-Instruct-hf": llama("34b", 32_000),
    "codellama/CodeLlama-7b-Python-hf": llama("7b", 32_000),
    "codellama/CodeLlama-13b-Python-hf": llama("13b", 32_000),
    "codellama/CodeLlama-34b-Python-hf": llama("34b", 32_000),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Architecture(
        layers=30,
        hidden=576,
        intermediate=1536,
        heads=9,
        kv_heads=3,
        vocabulary=49_152,
        tied=True,
    ),
}
every_card = pytest.mark.parametrize(
    "card", [pytest.param(card, id=card.model_id) for card in MODEL_CARDS]
)


@every_card
def test_the_parameters_are_the_weights_of_the_published_architecture(card: ModelCard) -> None:
    architecture = PUBLISHED[card.model_id]
    assert card.parameters == architecture.parameters()
    assert card.vocabulary == architecture.vocabulary


def test_every_published_architecture_has_one_card() -> None:
    assert sorted(card.model_id for card in MODEL_CARDS) == sorted(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "billions"), [("7b", 6.74), ("13b", 13.0), ("34b", 33.7), ("70b", 69.0)]
)
def test_the_parameters_round_to_the_published_numbers(name: str, billions: float) -> None:
    card = card_of(f"CodeLlama-{name}-hf")
    assert card is not None
    assert card.parameters / 1e9 == pytest.approx(billions, rel=0.002)


def test_only_7b_and_13b_are_known_to_infill_and_70b_is_disputed() -> None:
    ours = [card for card in MODEL_CARDS if card.model_id.startswith(("codellama/", "Hugging"))]
    assert {card.model_id.partition("/")[2]: card.infills for card in ours} == {
        "CodeLlama-7b-hf": "yes",
        "CodeLlama-13b-hf": "yes",
        "CodeLlama-34b-hf": "no",
        "CodeLlama-70b-hf": "disputed",
        "CodeLlama-7b-Instruct-hf": "yes",
        "CodeLlama-13b-Instruct-hf": "yes",
        "CodeLlama-34b-Instruct-hf": "no",
        "CodeLlama-7b-Python-hf": "no",
        "CodeLlama-13b-Python-hf": "no",
        "CodeLlama-34b-Python-hf": "no",
        "SmolLM2-135M-Instruct": "no",
    }


@every_card
def test_a_card_has_sentinels_exactly_if_its_vocabulary_embeds_them(card: ModelCard) -> None:
    if card.infills == "no":
        assert card.format is None
    else:
        assert card.format is not None
        assert max(card.format.known_ids.values(), default=0) < card.vocabulary


@every_card
def test_whether_a_model_infills_is_said_with_its_source(card: ModelCard) -> None:
    assert len(card.source) > 20


@every_card
def test_a_revision_is_a_whole_commit(card: ModelCard) -> None:
    assert card.revision is None or re.fullmatch(r"[0-9a-f]{40}", card.revision)


def test_the_four_sizes_of_the_study_have_revisions_of_their_own() -> None:
    cards = [card_of(f"codellama/CodeLlama-{size}-hf") for size in ("7b", "13b", "34b", "70b")]
    revisions = {card.revision for card in cards if card is not None}
    assert len(revisions - {None}) == 4


def test_the_sentinels_are_those_of_meta_s_tokenizer() -> None:
    assert [CODE_LLAMA.known_ids[piece] for piece in ("<s>", "▁<PRE>", "▁<SUF>")] == [
        1, 32007, 32008,
    ]  # fmt: skip
    assert [CODE_LLAMA.known_ids[piece] for piece in ("▁<MID>", "▁<EOT>")] == [32009, 32010]


@pytest.mark.parametrize(
    "name",
    [
        "codellama/CodeLlama-13b-hf",
        "CodeLlama-13b-hf",
        "codellama-13b-hf",
        "CODELLAMA/CODELLAMA-13B-HF",
    ],
)
def test_a_card_is_found_by_its_id_or_what_follows_the_slash_in_any_case(name: str) -> None:
    card = card_of(name)
    assert card is not None
    assert card.model_id == "codellama/CodeLlama-13b-hf"


@every_card
def test_every_card_is_found_under_its_own_id(card: ModelCard) -> None:
    assert card_of(card.model_id) is card


@pytest.mark.parametrize(
    "name", ["", "codellama", "CodeLlama-13b", "other/CodeLlama-13b-hf", "/models/CodeLlama-13b-hf"]
)
def test_a_name_that_only_resembles_a_card_s_has_no_card(name: str) -> None:
    assert card_of(name) is None

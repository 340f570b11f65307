from __future__ import annotations

import re
from dataclasses import dataclass

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

    def parameters(self) -> int:
        head = self.hidden // self.heads
        queries_and_output = 2 * self.hidden * self.hidden
        keys_and_values = 2 * self.hidden * self.kv_heads * head
        gate_up_down = 3 * self.hidden * self.intermediate
        two_norms = 2 * self.hidden
        layer = queries_and_output + keys_and_values + gate_up_down + two_norms
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.layers * layer + embeddings + self.hidden


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


PUBLISHED = {
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
    assert {card.model_id.partition("/")[2]: card.infills for card in MODEL_CARDS} == {
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
        sentinels = card.format
        ids = (sentinels.prefix_id, sentinels.suffix_id, sentinels.middle_id, sentinels.end_id)
        assert max(ids) < card.vocabulary


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
    assert (CODE_LLAMA.bos_id, CODE_LLAMA.prefix_id, CODE_LLAMA.suffix_id) == (1, 32007, 32008)
    assert (CODE_LLAMA.middle_id, CODE_LLAMA.end_id) == (32009, 32010)


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

from __future__ import annotations

import re

import pytest

from fim_eval.architecture import ARCHITECTURES
from fim_eval.formats import CODE_LLAMA, MODEL_CARDS, card_of
from fim_eval.records import ModelCard

every_card = pytest.mark.parametrize(
    "card", [pytest.param(card, id=card.model_id) for card in MODEL_CARDS]
)


@every_card
def test_the_parameters_are_the_weights_of_the_published_architecture(card: ModelCard) -> None:
    architecture = ARCHITECTURES[card.model_id]
    assert card.parameters == architecture.parameters()
    assert card.vocabulary == architecture.vocabulary


def test_every_published_architecture_has_one_card() -> None:
    assert sorted(card.model_id for card in MODEL_CARDS) == sorted(ARCHITECTURES)


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

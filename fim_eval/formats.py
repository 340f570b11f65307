"""What is known of each model: size, vocabulary, sentinels, and whether it was trained to infill.

Facts only; how prompts are built from them is in `prompt`. To add a model, add a `ModelCard`.

Sources: Code Llama paper v3 (https://arxiv.org/abs/2308.12950, section 2.3 and table 1) and
https://github.com/meta-llama/codellama (README, MODEL_CARD.md, issue 153). Parameters follow from
each checkpoint's config.json; a test computes them again.
"""

from __future__ import annotations

from fim_eval.records import InfillFormat, ModelCard
from fim_eval.words import Infills

CODE_LLAMA = InfillFormat(
    name="code-llama",
    bos_id=1,
    prefix_piece="▁<PRE>",
    prefix_id=32007,
    suffix_piece="▁<SUF>",
    suffix_id=32008,
    middle_piece="▁<MID>",
    middle_id=32009,
    end_piece="▁<EOT>",
    end_id=32010,
)
"""https://github.com/meta-llama/codellama/blob/main/llama/tokenizer.py"""

_TRAINED = "Code Llama paper v3, section 2.3: the 7B and 13B models are trained with infilling"
_UNTRAINED_34B = (
    "Code Llama paper v3, section 2.3, and codellama issue 153: the 34B models are trained "
    "without infilling; their vocabulary of 32,000 has no row for the sentinels"
)
_DISPUTED_70B = (
    "the Code Llama paper v3 and MODEL_CARD.md say that the 70B base model infills, the README "
    "and the model's hub page do not; no infilling result of it has been published"
)
_UNTRAINED_PYTHON = (
    "Code Llama paper v3, section 2: the Python models are trained without infilling"
)


def _code_llama(
    name: str, parameters: int, infills: Infills, source: str, revision: str | None = None
) -> ModelCard:
    """A Code Llama card; the 34B and Python checkpoints have no rows for the sentinels."""
    has_sentinels = infills != "no"
    return ModelCard(
        model_id=f"codellama/CodeLlama-{name}-hf",
        parameters=parameters,
        vocabulary=32_016 if has_sentinels else 32_000,
        infills=infills,
        source=source,
        format=CODE_LLAMA if has_sentinels else None,
        bos_id=1,
        revision=revision,
    )


_7B, _13B, _34B, _70B = 6_738_546_688, 13_016_028_160, 33_743_970_304, 68_976_910_336
_7B_PYTHON, _13B_PYTHON = 6_738_415_616, 13_015_864_320

MODEL_CARDS: tuple[ModelCard, ...] = (
    _code_llama("7b", _7B, "yes", _TRAINED, "6c284d1468fe6c413cf56183e69b194dcfa27fe6"),
    _code_llama("13b", _13B, "yes", _TRAINED, "a49a368460ad22e43dfffb97a1e1b826a6418d3b"),
    _code_llama("34b", _34B, "no", _UNTRAINED_34B, "fda69408949a7c6689a3cf7e93e632b8e70bb8ad"),
    _code_llama("70b", _70B, "disputed", _DISPUTED_70B, "4570a4edc524fb9f20f605b417bb43828fa5997a"),
    _code_llama("7b-Instruct", _7B, "yes", _TRAINED),
    _code_llama("13b-Instruct", _13B, "yes", _TRAINED),
    _code_llama("34b-Instruct", _34B, "no", _UNTRAINED_34B),
    _code_llama("7b-Python", _7B_PYTHON, "no", _UNTRAINED_PYTHON),
    _code_llama("13b-Python", _13B_PYTHON, "no", _UNTRAINED_PYTHON),
    _code_llama("34b-Python", _34B, "no", _UNTRAINED_PYTHON),
    ModelCard(
        model_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        parameters=134_515_008,
        vocabulary=49_152,
        infills="no",
        source="its model card and vocabulary: trained left to right, no infilling tokens",
        format=None,
        bos_id=None,
        revision=None,
    ),
)


def card_of(name: str) -> ModelCard | None:
    """The card whose id, or the part of it after the slash, is `name` in any case; None if none is.

    >>> card_of("codellama-7b-HF").model_id
    'codellama/CodeLlama-7b-hf'
    """
    wanted = name.lower()
    for card in MODEL_CARDS:
        if wanted in (card.model_id.lower(), card.model_id.lower().partition("/")[2]):
            return card
    return None

"""What is known of families and models: sentinels, size, vocabulary, whether trained to infill.

Facts only; how prompts are built from them is in `prompt`. To add a family, add an `InfillFormat`
(docs/families.md shows how, also without touching this file); to add a model, a `ModelCard`.

Sources: each format and card names its own. Code Llama paper v3 (https://arxiv.org/abs/2308.12950,
section 2.3 and table 1) and https://github.com/meta-llama/codellama (README, MODEL_CARD.md, issue
153). Parameters follow from each checkpoint's config.json; a test computes them again.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from fim_eval.records import InfillFormat, ModelCard, Piece, Text
from fim_eval.words import Infills

CODE_LLAMA = InfillFormat(
    name="code-llama",
    start=Piece("<s>"),
    psm=(Piece("▁<PRE>"), "prefix", Piece("▁<SUF>"), "suffix", Piece("▁<MID>")),
    spm=(Piece("▁<PRE>"), Piece("▁<SUF>"), "suffix", Piece("▁<MID>"), "prefix"),
    ends=("▁<EOT>",),
    known_ids={
        "<s>": 1,
        "▁<PRE>": 32007,
        "▁<SUF>": 32008,
        "▁<MID>": 32009,
        "▁<EOT>": 32010,
    },
    text_may_spell_pieces=True,
    source="https://github.com/meta-llama/codellama/blob/main/llama/tokenizer.py",
)
"""Has no name patterns: they would meet 34B and the Python models too, which do not infill."""

LADDER = CODE_LLAMA.model_copy(
    update={
        "name": "ladder",
        "known_ids": {"<s>": 1},
        "text_may_spell_pieces": False,
        "source": "servers/ladder/README.md: Code Llama's layouts and pieces, ids of its own",
    }
)
"""Of the models that `make ladder` trains. Not among `FORMATS`: a tokenizer with Code Llama's
pieces would then be of two families."""

STARCODER = InfillFormat(
    name="starcoder",
    start=None,
    psm=(Piece("<fim_prefix>"), "prefix", Piece("<fim_suffix>"), "suffix", Piece("<fim_middle>")),
    spm=(Piece("<fim_prefix>"), Piece("<fim_suffix>"), "suffix", Piece("<fim_middle>"), "prefix"),
    ends=("<|endoftext|>", "<file_sep>"),
    names=("*starcoder*", "*granite-*code*", "*stable-code*", "*stablecode*", "*codeqwen1.5*"),
    source="https://arxiv.org/abs/2402.19173",
)
"""StarCoder, StarCoder2, Granite code, StableCode, CodeQwen1.5."""

SANTACODER = InfillFormat(
    name="santacoder",
    start=None,
    psm=(Piece("<fim-prefix>"), "prefix", Piece("<fim-suffix>"), "suffix", Piece("<fim-middle>")),
    spm=(Piece("<fim-prefix>"), Piece("<fim-suffix>"), "suffix", Piece("<fim-middle>"), "prefix"),
    ends=("<|endoftext|>",),
    names=("*santacoder*",),
    source="https://huggingface.co/bigcode/santacoder",
)

DEEPSEEK_CODER = InfillFormat(
    name="deepseek-coder",
    start=Piece("<｜begin▁of▁sentence｜>"),
    psm=(
        Piece("<｜fim▁begin｜>"), "prefix", Piece("<｜fim▁hole｜>"), "suffix",
        Piece("<｜fim▁end｜>"),
    ),
    spm=None,
    ends=("<｜end▁of▁sentence｜>",),
    names=("*deepseek-coder*",),
    source="https://github.com/deepseek-ai/DeepSeek-Coder#2-code-insertion",
)  # fmt: skip

QWEN_CODER = InfillFormat(
    name="qwen2.5-coder",
    start=None,
    psm=(
        Piece("<|fim_prefix|>"), "prefix", Piece("<|fim_suffix|>"), "suffix",
        Piece("<|fim_middle|>"),
    ),
    spm=None,
    ends=(
        "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|im_end|>",
        "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
    ),
    names=("*qwen2.5-coder*",),
    source="https://github.com/QwenLM/Qwen2.5-Coder#3-fill-in-the-middle-with-qwen25-coder",
)  # fmt: skip

CODEGEMMA = InfillFormat(
    name="codegemma",
    start=Piece("<bos>"),
    psm=QWEN_CODER.psm,
    spm=None,
    ends=(
        "<|file_separator|>", "<eos>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
    ),
    names=("*codegemma*",),
    source="https://ai.google.dev/gemma/docs/codegemma/prompt-structure",
)  # fmt: skip

CODESTRAL = InfillFormat(
    name="codestral",
    start=Piece("<s>"),
    psm=None,
    spm=(Piece("[SUFFIX]"), "suffix", Piece("[PREFIX]"), "prefix"),
    ends=("</s>",),
    names=("*codestral*",),
    source="https://github.com/mistralai/mistral-common, `InstructTokenizerV2.encode_fim`",
)

SEED_CODER = InfillFormat(
    name="seed-coder",
    start="file",
    psm=None,
    spm=(
        Piece("<[fim-suffix]>"), "suffix", Piece("<[fim-prefix]>"), "prefix",
        Piece("<[fim-middle]>"),
    ),
    ends=("<[end▁of▁sentence]>",),
    names=("*seed-coder*",),
    source="https://arxiv.org/abs/2506.03524, section 2.2.6",
)  # fmt: skip

INCODER = InfillFormat(
    name="incoder",
    start=Piece("<|endoftext|>"),
    psm=("prefix", Piece("<|mask:0|>"), "suffix", Piece("<|mask:1|>"), Piece("<|mask:0|>")),
    spm=None,
    ends=("<|endofmask|>",),
    names=("*incoder-*",),
    source="https://github.com/dpfried/incoder/blob/main/example_usage.py",
)

MELLUM = InfillFormat(
    name="mellum",
    start=None,
    psm=None,
    spm=(
        Piece("<filename>"), Text("program.py\n"), Piece("<fim_suffix>"), "suffix",
        Piece("<fim_prefix>"), "prefix", Piece("<fim_middle>"),
    ),
    ends=("<|endoftext|>",),
    names=("*mellum*",),
    source="https://huggingface.co/JetBrains/Mellum-4b-base",
)  # fmt: skip

FORMATS: tuple[InfillFormat, ...] = (
    CODE_LLAMA, STARCODER, SANTACODER, DEEPSEEK_CODER, QWEN_CODER, CODEGEMMA, CODESTRAL,
    SEED_CODER, INCODER, MELLUM,
)  # fmt: skip

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


def _trained(model_id: str, parameters: int, vocabulary: int, sentinels: InfillFormat) -> ModelCard:
    """A card of a family whose base models are all trained to infill."""
    return ModelCard(
        model_id=model_id,
        parameters=parameters,
        vocabulary=vocabulary,
        infills="yes",
        source=f"{sentinels.source}: the base models are trained with infilling",
        format=sentinels,
        bos_id=None,
        revision=_REVISIONS.get(model_id),
    )


def _ladder(size: str, parameters: int) -> ModelCard:
    """A model that `make ladder` trains; a demonstration, and a test of the instrument."""
    return ModelCard(
        model_id=f"fim-eval/ladder-{size}",
        parameters=parameters,
        vocabulary=4_096,
        infills="yes",
        source="servers/ladder/README.md: trained here, 9 of 10 documents with infilling",
        format=LADDER,
        bos_id=1,
        revision=None,
    )


_REVISIONS = {
    "bigcode/starcoder2-7b": "bb9afde76d7945da5745592525db122d4d729eb1",
    "deepseek-ai/deepseek-coder-6.7b-base": "ce2207a8bfef3ee92bd7dd4cc31c52cfa0046912",
    "Qwen/Qwen2.5-Coder-7B": "0396a76181e127dfc13e5c5ec48a8cee09938b02",
}
"""Of those that `servers/` starts, as independent public projects pin them or have them in their
hub cache. They and those of the Instruct models were not compared with the hub itself."""

_7B, _13B, _34B, _70B = 6_738_546_688, 13_016_028_160, 33_743_970_304, 68_976_910_336
_7B_PYTHON, _13B_PYTHON = 6_738_415_616, 13_015_864_320

MODEL_CARDS: tuple[ModelCard, ...] = (
    _code_llama("7b", _7B, "yes", _TRAINED, "6c284d1468fe6c413cf56183e69b194dcfa27fe6"),
    _code_llama("13b", _13B, "yes", _TRAINED, "a49a368460ad22e43dfffb97a1e1b826a6418d3b"),
    _code_llama("34b", _34B, "no", _UNTRAINED_34B, "fda69408949a7c6689a3cf7e93e632b8e70bb8ad"),
    _code_llama("70b", _70B, "disputed", _DISPUTED_70B, "4570a4edc524fb9f20f605b417bb43828fa5997a"),
    _code_llama("7b-Instruct", _7B, "yes", _TRAINED, "22cb240e0292b0b5ab4c17ccd97aa3a2f799cbed"),
    _code_llama("13b-Instruct", _13B, "yes", _TRAINED, "745795438019e47e4dad1347a0093e11deee4c68"),
    _code_llama("34b-Instruct", _34B, "no", _UNTRAINED_34B),
    _code_llama("7b-Python", _7B_PYTHON, "no", _UNTRAINED_PYTHON),
    _code_llama("13b-Python", _13B_PYTHON, "no", _UNTRAINED_PYTHON),
    _code_llama("34b-Python", _34B, "no", _UNTRAINED_PYTHON),
    *(
        _trained(f"bigcode/starcoder2-{size}", parameters, 49_152, STARCODER)
        for size, parameters in (
            ("3b", 3_030_371_328), ("7b", 7_173_923_840), ("15b", 15_957_889_024),
        )
    ),
    *(
        _trained(f"deepseek-ai/deepseek-coder-{size}-base", parameters, 32_256, DEEPSEEK_CODER)
        for size, parameters in (
            ("1.3b", 1_346_471_936), ("6.7b", 6_740_512_768), ("33b", 33_342_991_360),
        )
    ),
    *(
        _trained(f"Qwen/Qwen2.5-Coder-{size}", parameters, vocabulary, QWEN_CODER)
        for size, parameters, vocabulary in (
            ("0.5B", 494_032_768, 151_936), ("1.5B", 1_543_714_304, 151_936),
            ("3B", 3_085_938_688, 151_936), ("7B", 7_615_616_512, 152_064),
            ("14B", 14_770_033_664, 152_064), ("32B", 32_763_876_352, 152_064),
        )
    ),
    _trained("google/codegemma-2b", 2_506_172_416, 256_000, CODEGEMMA),
    _trained("google/codegemma-7b", 8_537_680_896, 256_000, CODEGEMMA),
    _trained("mistralai/Codestral-22B-v0.1", 22_247_282_688, 32_768, CODESTRAL),
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
    _ladder("1m", 947_232),
    _ladder("2m", 1_865_120),
    _ladder("4m", 3_966_368),
    _ladder("8m", 7_509_440),
)  # fmt: skip


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


def format_of(name: str) -> InfillFormat | None:
    """The format that bears this name."""
    return next((each for each in FORMATS if each.name == name), None)


def format_of_model(model: str) -> InfillFormat | None:
    """The format whose name patterns the model's name meets; None if none or several do.

    >>> format_of_model("my/Qwen2.5-Coder-7B-tuned").name
    'qwen2.5-coder'
    """
    met = [
        each
        for each in FORMATS
        if any(fnmatchcase(model.lower(), pattern) for pattern in each.names)
    ]
    return met[0] if len(met) == 1 else None


def formats_of_tokenizer(has: Callable[[str], bool]) -> list[InfillFormat]:
    """The formats whose sentinels a tokenizer has, first end included; several can share them."""
    return [each for each in FORMATS if all(map(has, each.sentinels))]

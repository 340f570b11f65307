"""The shape of each model: what its memory and its arithmetic follow from.

Facts and arithmetic only; standard library only, so that `servers/check.py` can read it beside any
vLLM. The numbers are those of each checkpoint's config.json on the hub; a test finds the parameters
of `formats.MODEL_CARDS` in them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fim_eval.errors import ArchitectureError


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """The fields of a Llama-shaped config.json that its number of weights follows from."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False
    """One matrix embeds tokens and predicts them."""

    head: int | None = None
    """Elements of one head, where that is not hidden / heads."""

    query_key_value_biases: bool = False
    """As in Qwen2."""

    starcoder2: bool = False
    """Two matrices in place of three, and a bias beside every matrix and norm."""

    @property
    def head_size(self) -> int:
        """Elements of one head."""
        return self.head or self.hidden // self.heads

    def parameters(self) -> int:
        """All weights, embeddings included."""
        keys_and_values = 2 * self.kv_heads * self.head_size
        attention = (2 * self.heads * self.head_size + keys_and_values) * self.hidden
        feed_forward = (2 if self.starcoder2 else 3) * self.hidden * self.intermediate
        norm = (2 if self.starcoder2 else 1) * self.hidden
        layer = attention + feed_forward + 2 * norm
        if self.query_key_value_biases or self.starcoder2:
            layer += self.heads * self.head_size + keys_and_values
        if self.starcoder2:
            layer += self.hidden + self.intermediate + self.hidden
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.layers * layer + embeddings + norm

    def multiplied_parameters(self) -> int:
        """Weights that every processed token is multiplied with.

        Without the embedding, which is looked up, and without the head, which only sampled tokens
        meet: `head_parameters`.
        """
        return self.parameters() - (1 if self.tied else 2) * self.head_parameters()

    def head_parameters(self) -> int:
        """Weights of the matrix that predicts a token."""
        return self.vocabulary * self.hidden

    def kv_elements(self, tensor_parallel: int = 1) -> int:
        """Numbers that one token leaves in the cache of one GPU, over all layers.

        A GPU holds at least one head of keys and values: beyond `kv_heads` GPUs they are copies.
        """
        heads = -(-self.kv_heads // tensor_parallel)
        return 2 * self.layers * heads * self.head_size

    def splits_into(self, tensor_parallel: int) -> bool:
        """Whether vLLM can split the model over that many GPUs.

        Query heads and the feed-forward's columns must divide evenly; heads of keys and values
        divide, or are copied evenly (vLLM 0.32, `model_executor/models/llama.py`).
        """
        if self.heads % tensor_parallel or self.intermediate % tensor_parallel:
            return False
        return self.kv_heads % tensor_parallel == 0 or tensor_parallel % self.kv_heads == 0


_Shape = tuple[int, int, int, int, int]
"""Layers, hidden, intermediate, heads, heads of keys and values."""


def _plain(
    shape: _Shape, vocabulary: int, *, head: int | None = None, tied: bool = False
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


def _qwen(shape: _Shape, vocabulary: int) -> Architecture:
    tied = vocabulary == 151_936
    return replace(_plain(shape, vocabulary, tied=tied), query_key_value_biases=True)


def _starcoder2(shape: _Shape, *, tied: bool) -> Architecture:
    return replace(_plain(shape, 49_152, tied=tied), starcoder2=True)


_CODE_LLAMA: dict[str, _Shape] = {
    "7b": (32, 4096, 11008, 32, 32),
    "13b": (40, 5120, 13824, 40, 40),
    "34b": (48, 8192, 22016, 64, 8),
    "70b": (80, 8192, 28672, 64, 8),
}

ARCHITECTURES: dict[str, Architecture] = {
    "codellama/CodeLlama-7b-hf": _plain(_CODE_LLAMA["7b"], 32_016),
    "codellama/CodeLlama-13b-hf": _plain(_CODE_LLAMA["13b"], 32_016),
    "codellama/CodeLlama-34b-hf": _plain(_CODE_LLAMA["34b"], 32_000),
    "codellama/CodeLlama-70b-hf": _plain(_CODE_LLAMA["70b"], 32_016),
    "codellama/CodeLlama-7b-Instruct-hf": _plain(_CODE_LLAMA["7b"], 32_016),
    "codellama/CodeLlama-13b-Instruct-hf": _plain(_CODE_LLAMA["13b"], 32_016),
    "codellama/CodeLlama-34b-Instruct-hf": _plain(_CODE_LLAMA["34b"], 32_000),
    "codellama/CodeLlama-7b-Python-hf": _plain(_CODE_LLAMA["7b"], 32_000),
    "codellama/CodeLlama-13b-Python-hf": _plain(_CODE_LLAMA["13b"], 32_000),
    "codellama/CodeLlama-34b-Python-hf": _plain(_CODE_LLAMA["34b"], 32_000),
    "bigcode/starcoder2-3b": _starcoder2((30, 3072, 12288, 24, 2), tied=True),
    "bigcode/starcoder2-7b": _starcoder2((32, 4608, 18432, 36, 4), tied=True),
    "bigcode/starcoder2-15b": _starcoder2((40, 6144, 24576, 48, 4), tied=False),
    "deepseek-ai/deepseek-coder-1.3b-base": _plain((24, 2048, 5504, 16, 16), 32_256),
    "deepseek-ai/deepseek-coder-6.7b-base": _plain((32, 4096, 11008, 32, 32), 32_256),
    "deepseek-ai/deepseek-coder-33b-base": _plain((62, 7168, 19200, 56, 8), 32_256),
    "Qwen/Qwen2.5-Coder-0.5B": _qwen((24, 896, 4864, 14, 2), 151_936),
    "Qwen/Qwen2.5-Coder-1.5B": _qwen((28, 1536, 8960, 12, 2), 151_936),
    "Qwen/Qwen2.5-Coder-3B": _qwen((36, 2048, 11008, 16, 2), 151_936),
    "Qwen/Qwen2.5-Coder-7B": _qwen((28, 3584, 18944, 28, 4), 152_064),
    "Qwen/Qwen2.5-Coder-14B": _qwen((48, 5120, 13824, 40, 8), 152_064),
    "Qwen/Qwen2.5-Coder-32B": _qwen((64, 5120, 27648, 40, 8), 152_064),
    "google/codegemma-2b": _plain((18, 2048, 16384, 8, 1), 256_000, head=256, tied=True),
    "google/codegemma-7b": _plain((28, 3072, 24576, 16, 16), 256_000, head=256, tied=True),
    "mistralai/Codestral-22B-v0.1": _plain((56, 6144, 16384, 48, 8), 32_768),
    "HuggingFaceTB/SmolLM2-135M-Instruct": _plain((30, 576, 1536, 9, 3), 49_152, tied=True),
    "fim-eval/ladder-1m": _plain((5, 96, 256, 3, 3), 4_096, tied=True),
    "fim-eval/ladder-2m": _plain((4, 160, 416, 5, 5), 4_096, tied=True),
    "fim-eval/ladder-4m": _plain((5, 224, 608, 7, 7), 4_096, tied=True),
    "fim-eval/ladder-8m": _plain((5, 320, 864, 10, 10), 4_096, tied=True),
}
"""By the model's id on the hub."""

_FAMILIES = ("llama", "mistral", "qwen2", "starcoder2", "gemma")
_TIED_UNLESS_SAID = ("starcoder2", "gemma")
"""What transformers takes for `tie_word_embeddings` where config.json is silent."""


def architecture_of(model: str) -> Architecture | None:
    """The architecture of a model by its id on the hub, in any case; None if it is not known.

    >>> architecture_of("codellama/CODELLAMA-7b-hf").layers
    32
    """
    wanted = model.lower()
    return next((each for name, each in ARCHITECTURES.items() if name.lower() == wanted), None)


def read_architecture(config: Mapping[str, Any], place: str) -> Architecture:
    """The architecture that a model's own config.json describes.

    Args:
        config: the file's content.
        place: names it in errors.

    Raises:
        ArchitectureError: its family's weights are not counted as those here are.
    """
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise ArchitectureError(
            f"{place}: model_type {family!r} is none of {', '.join(_FAMILIES)}, whose memory can "
            "be computed"
        )
    try:
        heads = int(config["num_attention_heads"])
        return Architecture(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", family in _TIED_UNLESS_SAID)),
            head=config.get("head_dim"),
            query_key_value_biases=family == "qwen2",
            starcoder2=family == "starcoder2",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArchitectureError(f"{place}: lacks {error}, or it is no number") from error

"""What others have reported, to put beside our own numbers. Facts only, each with its source."""

from __future__ import annotations

from typing import NamedTuple

from fim_eval.words import Kind, Strategy


class Published(NamedTuple):
    """One number of the literature."""

    model_id: str
    kind: Kind
    strategy: Strategy
    metric: str
    """A column of the summary."""

    value: float
    """In [0, 1]."""

    source: str


_TABLE_14 = "Code Llama paper v3 (https://arxiv.org/abs/2308.12950), table 14, greedy"
_TABLE_6 = "Code Llama paper v3 (https://arxiv.org/abs/2308.12950), table 6, Python"


def _code_llama(
    size: str, strategy: Strategy, *, single: float, multi: float, random: float, exact: float
) -> tuple[Published, ...]:
    model = f"codellama/CodeLlama-{size}-hf"
    return (
        Published(model, "single-line", strategy, "pass_at_1", round(single / 100, 4), _TABLE_14),
        Published(model, "multi-line", strategy, "pass_at_1", round(multi / 100, 4), _TABLE_14),
        Published(model, "random-span", strategy, "pass_at_1", round(random / 100, 4), _TABLE_14),
        Published(model, "single-line", strategy, "exact_match", round(exact / 100, 4), _TABLE_6),
    )


HUMAN_EVAL_INFILLING: tuple[Published, ...] = (
    *_code_llama("7b", "fim-psm", single=74.1, multi=48.2, random=59.7, exact=67.6),
    *_code_llama("7b", "fim-spm", single=83.3, multi=50.8, random=39.0, exact=72.7),
    *_code_llama("13b", "fim-psm", single=75.9, multi=51.0, random=63.6, exact=68.3),
    *_code_llama("13b", "fim-spm", single=85.6, multi=56.1, random=41.9, exact=74.5),
)
"""On the official tasks of HumanEval-Infilling."""


def published(model_id: str | None, kind: str, strategy: str, metric: str) -> Published | None:
    """The number reported for a model on the official tasks; None if there is none.

    >>> published("codellama/CodeLlama-7b-hf", "single-line", "fim-psm", "pass_at_1").value
    0.741
    """
    for number in HUMAN_EVAL_INFILLING:
        if (number.model_id, number.kind, number.strategy, number.metric) == (
            model_id, kind, strategy, metric,
        ):  # fmt: skip
            return number
    return None

"""What page and figures choose of the findings, and how they name it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from fim_eval.report.findings import Breakdown, By, Findings, Metric, Pair, Row
from fim_eval.terminal import printable
from fim_eval.words import Kind, Policy, Strategy

METRICS: dict[Metric, str] = {
    "pass_at_1": "pass@1",
    "pass_at_1_sensitive": "pass@1, sensitive tasks",
    "exact_match": "exact match",
    "exact_match_rstrip": "exact match, white space at the end ignored",
    "edit_similarity": "edit similarity",
    "edit_distance": "edit distance",
    "bits_per_character": "bits per character",
}
"""How a metric is called, in the order of telling."""

RATES: tuple[Metric, ...] = (
    "pass_at_1", "pass_at_1_sensitive", "exact_match", "exact_match_rstrip", "edit_similarity",
)  # fmt: skip
"""Told in percent."""

GROUPS: dict[By, str] = {
    "length": "length of the reference, characters",
    "position": "position in the program",
    "part": "part of the syntax tree",
    "split": "split",
    "dataset": "data set",
}
"""By what tasks are told in parts, and how that is called."""

STRATEGIES: tuple[Strategy, ...] = ("lr", "lr-rerank", "fewshot", "fim-psm", "fim-spm")
KINDS: tuple[Kind, ...] = get_args(Kind)


def headline_metric(findings: Findings) -> Metric:
    """What the answer is told in: passed tests where anything was judged, else exact match."""
    judged = any(row.judged and "pass_at_1" in row.metrics for row in findings.rows)
    return "pass_at_1" if judged else "exact_match"


def headline_policy(findings: Findings, kind: Kind) -> Policy:
    """What the answer is told under: the completion as it is, unless the findings name another."""
    return findings.headline_policy.get(kind, "raw")


def headline_rows(findings: Findings) -> list[Row]:
    """The rows under each kind's headline policy; by kind, size and strategy."""
    chosen = [row for row in findings.rows if row.policy == headline_policy(findings, row.kind)]
    order = {model: place for place, model in enumerate(models_of(findings))}
    return sorted(
        chosen,
        key=lambda row: (
            KINDS.index(row.kind), order[row.model], STRATEGIES.index(row.strategy),
        ),
    )  # fmt: skip


def headline_pairs(findings: Findings, metric: Metric) -> list[Pair]:
    """The pairs of one metric under each kind's headline policy, in order."""
    return [
        pair
        for pair in findings.pairs
        if pair.metric == metric and pair.policy == headline_policy(findings, pair.kind)
    ]


def headline_breakdowns(findings: Findings, metric: Metric, by: str) -> list[Breakdown]:
    """The breakdowns of one metric by one thing under each kind's headline policy, in order."""
    chosen = [
        each
        for each in findings.breakdowns
        if each.metric == metric
        and each.by == by
        and each.policy == headline_policy(findings, each.kind)
    ]
    return sorted(chosen, key=lambda each: each.order)


def models_of(findings: Findings) -> list[str]:
    """Every model once, smallest first, unknown sizes last by name."""
    sizes = sizes_of(findings)
    return sorted(sizes, key=lambda model: (sizes[model] or float("inf"), model))


def sizes_of(findings: Findings) -> dict[str, int | None]:
    """The parameters of every model; None where they are not known."""
    return {row.model: row.parameters for row in findings.rows}


def strategies_of(findings: Findings) -> list[Strategy]:
    """The strategies that were asked, in the order of telling."""
    present = {row.strategy for row in findings.rows}
    return [strategy for strategy in STRATEGIES if strategy in present]


def kinds_of(findings: Findings) -> list[Kind]:
    """The kinds of holes that were asked, in the order of telling."""
    present = {row.kind for row in findings.rows}
    return [kind for kind in KINDS if kind in present]


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Each model without its owner and the words that all of them begin or end with; printable.

    >>> short_names(["codellama/CodeLlama-7b-hf", "codellama/CodeLlama-13b-hf"])
    {'codellama/CodeLlama-7b-hf': '7b', 'codellama/CodeLlama-13b-hf': '13b'}
    >>> short_names(["org/one-model"])
    {'org/one-model': 'one-model'}
    >>> short_names(["org/one-1b", "org/one-3b", "other/two-7b"])
    {'org/one-1b': 'one-1b', 'org/one-3b': 'one-3b', 'other/two-7b': 'two-7b'}
    """
    if len(models) == 1:
        return plain_names(models)
    words = [re.split(r"([-/_])", each) for each in _without_owners(models)]
    start = _alike(words)
    end = _alike([each[start:][::-1] for each in words])
    shorts = ["".join(each[start : len(each) - end]).strip("-/_") for each in words]
    clear = all(shorts) and len(set(shorts)) == len(set(models))
    return {
        model: printable(short if clear else model)
        for model, short in zip(models, shorts, strict=True)
    }


def plain_names(models: Sequence[str]) -> dict[str, str]:
    """Each model without what stands before its last `/`, where that is not needed; printable."""
    names = _without_owners(models)
    return {model: printable(name) for model, name in zip(models, names, strict=True)}


def _without_owners(models: Sequence[str]) -> Sequence[str]:
    lasts = [model.rpartition("/")[2] for model in models]
    return lasts if all(lasts) and len(set(lasts)) == len(set(models)) else models


def _alike(words: Sequence[Sequence[str]]) -> int:
    """How many words all lists begin with, at least one of each kept."""
    most = min(map(len, words)) - 1
    for place in range(most):
        if len({each[place] for each in words}) > 1:
            return place
    return max(most, 0)


def told_size(parameters: int | None) -> str:
    """Parameters in words.

    >>> told_size(6_738_546_688), told_size(134_515_008), told_size(None)
    ('6.7B', '135M', 'size unknown')
    """
    if parameters is None:
        return "size unknown"
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters >= unit:
            amount = parameters / unit
            return f"{amount:.1f}{name}" if amount < 9.95 else f"{amount:.0f}{name}"
    return str(parameters)

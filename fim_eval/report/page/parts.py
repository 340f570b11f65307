"""The metric on parts of the tasks: by kind, length, position, part of the tree, split."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fim_eval.report.figures import Drawn
from fim_eval.report.findings import Breakdown, Estimate, Findings, Metric, Pair
from fim_eval.report.page.markup import Html, join, tag
from fim_eval.report.page.tables import (
    estimate_cell,
    figure,
    folded,
    head,
    model_name,
    section,
    table,
    tables_by_kind,
)
from fim_eval.report.views import (
    GROUPS,
    METRICS,
    headline_metric,
    headline_pairs,
    headline_policy,
    kinds_of,
    models_of,
    short_names,
    strategies_of,
)
from fim_eval.words import Kind, Strategy


def breakdowns(findings: Findings, figures: dict[str, Drawn]) -> Html | None:
    """The metric by kind, length, position, part of the tree, split and data set."""
    metric = headline_metric(findings)
    chosen = [
        each
        for each in findings.breakdowns
        if each.metric == metric and each.policy == headline_policy(findings, each.kind)
    ]
    kinds = figure(
        figures.get("kinds"),
        f"{METRICS[metric]} by kind of hole. Hollow marks: some tasks are unresolved.",
    )
    length = figure(
        figures.get("length"),
        f"{METRICS[metric]} by length of the reference in characters, with 95 % intervals.",
    )
    if not chosen and kinds is None:
        return None
    tables = [
        tag("details", tag("summary", f"By {words}"), _breakdown_table(findings, of, words, metric))
        for by, words in GROUPS.items()
        if (of := [each for each in chosen if each.by == by])
    ]
    return section(
        "parts",
        "By kind and by length of the hole",
        kinds,
        length,
        *tables,
        _gains(findings, metric),
    )


def _breakdown_table(
    findings: Findings, chosen: Sequence[Breakdown], words: str, metric: Metric
) -> Html:
    groups = dict.fromkeys(each.group for each in sorted(chosen, key=lambda each: each.order))
    found = {(each.kind, each.strategy, each.model, each.group): each.estimate for each in chosen}
    bodies = []
    for kind, strategy in itertools.product(kinds_of(findings), strategies_of(findings)):
        rows = [
            [
                head(model_name(findings, model)),
                *(
                    estimate_cell(found.get((kind, strategy, model, group)), metric)
                    for group in groups
                ),
            ]
            for model in models_of(findings)
            if any((kind, strategy, model, group) in found for group in groups)
        ]
        if rows:
            bodies.append((kind, str(strategy), rows))
    return tables_by_kind(f"{METRICS[metric]} by {words}", ["model", *groups], bodies)


class _Gain(NamedTuple):
    """What the largest model has more than the smallest, asked by one strategy."""

    strategy: Strategy
    estimate: Estimate


_Gains = Sequence[tuple[str, Sequence[_Gain]]]
"""By the name of the tasks that they are on."""


def _gains(findings: Findings, metric: Metric) -> Html | None:
    """What the largest model gains over the smallest: on each kind, then on the parts of each."""
    widest = _widest(findings, metric)
    wholes: dict[Kind, list[_Gain]] = {}
    for pair in widest.values():
        wholes.setdefault(pair.kind, []).append(_Gain(pair.strategy, pair.difference))
    parts: dict[Kind, dict[tuple[str, str], list[_Gain]]] = {}
    for each in sorted(findings.part_differences, key=lambda each: each.order):
        if each.metric == metric and (each.kind, each.strategy) in widest:
            gains = parts.setdefault(each.kind, {}).setdefault((each.by, each.group), [])
            gains.append(_Gain(each.strategy, each.difference))
    if not parts and len(wholes) < 2:
        return None
    kinds = [kind for kind in kinds_of(findings) if kind in wholes]
    names = short_names(models_of(findings))
    between = {
        pair.strategy: f"{names[pair.smaller]} → {names[pair.larger]}" for pair in widest.values()
    }
    heads = {each: between[each] for each in strategies_of(findings) if each in between}
    by_kind = [(kind, wholes[kind]) for kind in kinds]
    tables = [
        (
            kind,
            _gain_table(
                f"Gain on parts of {kind}",
                heads,
                [(None, [("all", wholes[kind])]), *_in_groups(parts[kind])],
                metric,
            ),
        )
        for kind in kinds
        if kind in parts
    ]
    return join(
        tag("h3", "Where the largest model gains"),
        tag(
            "p",
            f"Points of {METRICS[metric]}, largest model minus smallest, paired by task. A bar is "
            "the 95 % interval, the upright line no difference; grey bars meet it. Parts are not "
            "tested one by one: of those without a difference, one in twenty misses the line.",
            class_="note",
        ),
        _gain_table("Gain by kind", heads, [(None, by_kind)], metric) if len(kinds) > 1 else None,
        folded(tables) if tables else None,
    )


def _widest(findings: Findings, metric: Metric) -> dict[tuple[Kind, Strategy], Pair]:
    """Per kind and strategy the pair of its smallest and its largest model."""
    models = models_of(findings)
    pairs = sorted(
        headline_pairs(findings, metric),
        key=lambda pair: models.index(pair.larger) - models.index(pair.smaller),
    )
    return {(pair.kind, pair.strategy): pair for pair in pairs}


def _in_groups(parts: dict[tuple[str, str], list[_Gain]]) -> list[tuple[str, _Gains]]:
    return [
        (words, [(group, gains) for (its, group), gains in parts.items() if its == by])
        for by, words in GROUPS.items()
        if any(its == by for its, _ in parts)
    ]


def _gain_table(
    label: str,
    heads: dict[Strategy, str],
    bodies: Sequence[tuple[str | None, _Gains]],
    metric: Metric,
) -> Html:
    """A row per part, a column per strategy; all bars of the table in one scale."""
    estimates = [gain.estimate for _, rows in bodies for _, gains in rows for gain in gains]
    ends = [end for one in estimates for end in (one.low, one.high) if end is not None]
    scale = min([0.0, *ends]), max([0.0, *ends])

    def cells(gains: Sequence[_Gain]) -> Iterator[Html]:
        found = {gain.strategy: gain.estimate for gain in gains}
        for strategy in heads:
            one = found.get(strategy)
            yield estimate_cell(
                one, metric, signed=True, below=None if one is None else _bar(one, scale)
            )

    lines = [
        (
            group,
            [
                [
                    head(
                        name,
                        tag(
                            "span",
                            f"{max(gain.estimate.tasks for gain in gains):,} tasks",
                            class_="quiet",
                        ),
                    ),
                    *cells(gains),
                ]
                for name, gains in rows
            ],
        )
        for group, rows in bodies
    ]
    columns = [
        join(strategy, tag("span", ends, class_="quiet")) for strategy, ends in heads.items()
    ]
    return table(label, ["", *columns], lines, snug=True)


_BAR = 96
"""Pixels that a bar's scale is wide."""


def _bar(estimate: Estimate, scale: tuple[float, float]) -> Html | None:
    """The interval of a difference over a scale that holds 0; None where there is no interval."""
    low, high, least, most = estimate.low, estimate.high, estimate.least, estimate.most
    if low is None or high is None or least is None or most is None or scale[0] == scale[1]:
        return None

    def place(value: float) -> str:
        return f"{5 + (_BAR - 10) * (value - scale[0]) / (scale[1] - scale[0]):.1f}"

    sure = "gained" if low > 0 else "lost" if high < 0 else "unsure"
    return tag(
        "svg",
        tag("path", d=f"M{place(0)} 0V14", class_="zero"),
        tag("path", d=f"M{place(low)} 7H{place(high)}", class_="reach"),
        tag("path", d=f"M{place(least)} 7H{place(most)}", class_="middle"),
        viewBox=f"0 0 {_BAR} 14", width=_BAR, height=14,
        preserveAspectRatio="none", class_=f"bar {sure}", aria_hidden="true",
    )  # fmt: skip

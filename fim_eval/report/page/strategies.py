"""What the way of asking does: each strategy, and one minus another on the same tasks."""

from __future__ import annotations

from fim_eval.report.findings import Findings, Metric, StrategyDifference
from fim_eval.report.page.markup import Html, Piece, join, tag
from fim_eval.report.page.tables import (
    cell,
    estimate_cell,
    head,
    if_narrow,
    interval,
    model_name,
    section,
    tables_by_kind,
    told_estimate,
)
from fim_eval.report.views import (
    GROUPS,
    METRICS,
    headline_metric,
    headline_rows,
    kinds_of,
    models_of,
    short_names,
    strategies_of,
)
from fim_eval.words import Kind, Strategy

_STRATEGY_WORDS: dict[Strategy, str] = {
    "lr": "left to right: the program before the hole",
    "lr-rerank": "left to right, the most probable of several candidates",
    "fewshot": "both sides as plain text, after worked examples",
    "fim-psm": "infilling: prefix, suffix, middle",
    "fim-spm": "infilling: suffix, prefix, middle",
}

_COMPARED: tuple[Metric, ...] = (
    "pass_at_1", "exact_match", "edit_similarity", "bits_per_character",
)  # fmt: skip


def asking(findings: Findings) -> Html | None:
    """The same tasks, asked otherwise."""
    metric = headline_metric(findings)
    strategies = strategies_of(findings)
    if len(strategies) < 2:
        return None
    found = {(row.kind, row.model, row.strategy): row for row in headline_rows(findings)}
    bodies = []
    for kind in kinds_of(findings):
        rows = []
        for model in models_of(findings):
            cells = [found.get((kind, model, strategy)) for strategy in strategies]
            if any(cells):
                shown = [
                    estimate_cell(row.metrics.get(metric) if row else None, metric) for row in cells
                ]
                rows.append([head(model_name(findings, model)), *shown])
        if rows:
            bodies.append((kind, None, rows))
    return section(
        "strategies",
        "What the way of asking does",
        tag("p", f"{METRICS[metric]} in percent, under the headline truncation."),
        tag(
            "ul",
            *(
                tag("li", tag("b", strategy), f" {_STRATEGY_WORDS[strategy]}")
                for strategy in strategies
            ),
            class_="plain",
        ),
        tables_by_kind(f"{METRICS[metric]} by strategy", ["model", *strategies], bodies),
        _between_strategies(findings),
        _where_the_suffix_tells(findings),
    )


def _between_strategies(findings: Findings) -> Html | None:
    """What one way of asking adds to another, for each model."""
    differences = findings.strategy_differences
    shown = [metric for metric in _COMPARED if any(one.metric == metric for one in differences)]
    rows: dict[Kind, dict[tuple[str, Strategy, Strategy], dict[Metric, StrategyDifference]]] = {}
    for one in differences:
        ways = rows.setdefault(one.kind, {})
        ways.setdefault((one.model, one.strategy, one.than), {})[one.metric] = one
    if not rows:
        return None
    heads: list[Piece] = ["model", "strategies", *map(_difference_unit, shown)]
    bodies = [
        (
            kind,
            None,
            [
                [
                    head(model_name(findings, model), if_narrow(f"{strategy} − {than}")),
                    cell(f"{strategy} − {than}", class_="word if-wide"),
                    *(_difference_cell(found.get(metric), metric) for metric in shown),
                ]
                for (model, strategy, than), found in rows[kind].items()
            ],
        )
        for kind in kinds_of(findings)
        if kind in rows
    ]
    return join(
        tag("h3", "One way of asking minus another"),
        tag(
            "p",
            "On the same tasks, paired, with 95 % intervals by problem. Shaded: a difference that "
            "stands after Holm over all rows of its kind. Under ",
            tag("code", "reference-lines"),
            " an answer is cut to as many lines as the reference has, which helps left to right: "
            "it cannot know where the hole ends. Bits per character know no cut.",
            class_="note",
        ),
        tables_by_kind("Differences between strategies", heads, bodies),
    )


def _difference_unit(metric: Metric) -> Html:
    unit = None if metric == "bits_per_character" else "points"
    return join(METRICS[metric], tag("span", unit, class_="quiet") if unit else None)


_SHADES = {"better": "up", "worse": "down"}


def _difference_cell(one: StrategyDifference | None, metric: Metric) -> Html:
    if one is None:
        return cell("–", class_="none")
    noise = tag("span", "below the noise", class_="interval")
    return cell(
        tag("span", told_estimate(one.difference, metric, signed=True), class_="value"),
        interval(one.difference, metric, signed=True),
        noise if one.finding == "below the noise" else None,
        class_=_SHADES.get(one.finding),
    )


def _where_the_suffix_tells(findings: Findings) -> Html | None:
    """What infilling adds to left to right on parts of the tasks, by the finest metric there is."""
    parts = findings.strategy_part_differences
    metric = next(
        (
            metric
            for metric in ("bits_per_character", headline_metric(findings))
            if any(one.metric == metric for one in parts)
        ),
        None,
    )
    if metric is None:
        return None
    chosen = sorted((one for one in parts if one.metric == metric), key=lambda one: one.order)
    found = {
        (one.kind, one.by, one.group, one.strategy, one.model): one.difference for one in chosen
    }
    heads = [
        (strategy, model)
        for strategy in strategies_of(findings)
        for model in models_of(findings)
        if any((one.strategy, one.model) == (strategy, model) for one in chosen)
    ]
    shorts = short_names(models_of(findings))
    columns: list[Piece] = [
        "",
        *(join(strategy, tag("span", shorts[model], class_="quiet")) for strategy, model in heads),
    ]
    bodies = [
        (
            kind,
            f"by {words}",
            [
                [
                    head(group),
                    *(
                        estimate_cell(found.get((kind, by, group, *one)), metric, signed=True)
                        for one in heads
                    ),
                ]
                for group in dict.fromkeys(
                    one.group for one in chosen if (one.kind, one.by) == (kind, by)
                )
            ],
        )
        for kind in kinds_of(findings)
        for by, words in GROUPS.items()
        if any((one.kind, one.by) == (kind, by) for one in chosen)
    ]
    unit = "" if metric == "bits_per_character" else " in points"
    return tag(
        "details",
        tag("summary", "Where the suffix tells, and where it does not"),
        tag(
            "p",
            f"Infilling minus left to right in {METRICS[metric]}{unit}, on parts of the tasks. "
            "Parts are not tested one by one.",
            class_="note",
        ),
        tables_by_kind("Infilling minus left to right on parts", columns, bodies),
    )

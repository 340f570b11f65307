"""What was found: over size, in numbers, and by truncation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from fim_eval.report.figures import Drawn
from fim_eval.report.findings import Findings, Metric, Row, Trend
from fim_eval.report.page.markup import Html, Piece, join, tag
from fim_eval.report.page.tables import (
    cell,
    estimate_cell,
    figure,
    head,
    if_narrow,
    model_name,
    section,
    table,
    tables_by_kind,
    told,
)
from fim_eval.report.views import (
    METRICS,
    headline_metric,
    headline_policy,
    headline_rows,
    kinds_of,
    models_of,
    short_names,
    strategies_of,
)


def _sentence(words: str) -> str:
    """A note that may have been made to stand in a sentence of others.

    >>> _sentence("a line through 4 sizes")
    'A line through 4 sizes.'
    """
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def scaling(findings: Findings, figures: dict[str, Drawn]) -> Html | None:
    """The metric over size, and what a doubling of the parameters brings."""
    if "scaling" not in figures:
        return None
    metric = headline_metric(findings)
    shorts = short_names(models_of(findings))
    named = ", ".join(f"{short} is {model}" for model, short in shorts.items() if short != model)
    policies = "; ".join(
        f"{kind} under {headline_policy(findings, kind)}" for kind in kinds_of(findings)
    )
    trends = [
        trend
        for trend in findings.trends
        if trend.metric == metric and trend.policy == headline_policy(findings, trend.kind)
    ]
    return section(
        "scaling",
        "What a larger model buys",
        figure(
            figures["scaling"],
            f"{METRICS[metric]} with 95 % intervals, bootstrapped by problem. Hollow marks: some "
            f"tasks are unresolved, and the thick part spans their bounds. Truncation: {policies}."
            + (f" {named}." if named else ""),
        ),
        _slopes(findings, trends, metric) if trends else None,
        tag(
            "details",
            tag("summary", "The same in exact match"),
            figure(
                figures["scaling-exact-match"],
                "Exact match: equal to the reference to the last character.",
            ),
        )
        if "scaling-exact-match" in figures
        else None,
        figure(
            figures["scaling-bits"],
            "Bits per character of the reference, given the prompt: the lower, the more of what "
            "belongs in the hole is known, whether or not it is written.",
        )
        if "scaling-bits" in figures
        else None,
    )


def _slopes(findings: Findings, trends: Sequence[Trend], metric: Metric) -> Html:
    found = {(trend.strategy, trend.kind): trend for trend in trends}
    kinds = [kind for kind in kinds_of(findings) if any(trend.kind == kind for trend in trends)]
    rows = [
        [
            head(strategy),
            *(
                estimate_cell(trend.slope, metric, signed=True)
                if (trend := found.get((strategy, kind)))
                else cell("–", class_="none")
                for kind in kinds
            ),
        ]
        for strategy in dict.fromkeys(trend.strategy for trend in trends)
    ]
    notes: dict[str, list[str]] = {}
    for trend in trends:
        asked = notes.setdefault(trend.note, [])
        if trend.strategy not in asked:
            asked.append(trend.strategy)
    return join(
        tag("h3", f"Points of {METRICS[metric]} per doubling of the parameters"),
        table("Slope per doubling of parameters", ["", *kinds], [(None, rows)], snug=True),
        *(
            tag(
                "p",
                f"{', '.join(asked)}: {note}." if len(notes) > 1 else _sentence(note),
                class_="note",
            )
            for note, asked in notes.items()
        ),
    )


def main_table(findings: Findings) -> Html | None:
    """Every metric under the headline truncation."""
    rows = headline_rows(findings)
    if not rows:
        return None
    shown = [
        metric
        for metric in METRICS
        if any(metric in row.metrics for row in rows) and metric != "exact_match_rstrip"
    ]
    heads: list[Piece] = ["model", "strategy", *map(_unit, shown), "answered, of tasks"]
    bodies = [
        (
            f"{kind}, {headline_policy(findings, kind)}",
            [_main_row(findings, row, shown) for row in of_kind],
        )
        for kind, of_kind in itertools.groupby(rows, key=lambda row: row.kind)
    ]
    return section(
        "table",
        "All numbers under the headline truncation",
        table("Main results by kind, model and strategy", heads, bodies),
        tag(
            "p",
            "Below each number its 95 % interval, from a bootstrap clustered by problem. "
            "A number that is two is unresolved: everything unanswered counted as wrong, and as "
            "right.",
            class_="note",
        ),
    )


def _unit(metric: Metric) -> Html:
    unit = {"edit_distance": "mean, quartiles", "bits_per_character": None}.get(metric, "%")
    return join(METRICS[metric], tag("span", unit, class_="quiet") if unit else None)


def _main_row(findings: Findings, row: Row, shown: Sequence[Metric]) -> list[Html]:
    doubted = row.infills in {"disputed", "unknown"} and row.strategy.startswith("fim")
    return [
        head(
            model_name(findings, row.model),
            if_narrow(row.strategy),
            tag("span", f"infills: {row.infills}", class_="quiet") if doubted else None,
        ),
        cell(row.strategy, class_="word if-wide"),
        *(
            estimate_cell(
                row.metrics.get(metric),
                metric,
                below=_below(row, metric),
            )
            for metric in shown
        ),
        cell(
            tag("span", f"{row.answered:,}", class_="value"),
            tag("span", f"of {row.tasks:,}", class_="interval"),
            class_=None if row.answered == row.tasks else "alert",
        ),
    ]


def _below(row: Row, metric: Metric) -> Html | None:
    """What else stands in a metric's cell of the main table."""
    words = []
    if metric == "edit_distance" and row.edit_distance_quartiles is not None:
        words.append(" · ".join(f"{each:g}" for each in row.edit_distance_quartiles))
    if metric == "pass_at_1_sensitive" and row.sensitive_tasks is not None:
        words.append(f"of {row.sensitive_tasks:,}")
    if metric in row.wilson:
        low, high = (told(end, metric) for end in row.wilson[metric])
        words.append(f"Wilson {low} to {high}")
    return join(*(tag("span", each, class_="interval") for each in words)) if words else None


def truncation(findings: Findings) -> Html | None:
    """The same completions, cut otherwise."""
    metric = headline_metric(findings)
    policies = list(dict.fromkeys(row.policy for row in findings.rows))
    if len(policies) < 2:
        return None
    found = {(row.kind, row.strategy, row.model, row.policy): row for row in findings.rows}
    bodies = []
    for kind, strategy in itertools.product(kinds_of(findings), strategies_of(findings)):
        rows = []
        for model in models_of(findings):
            cells = [found.get((kind, strategy, model, policy)) for policy in policies]
            if any(cells):
                told_by = headline_policy(findings, kind)
                shown = [
                    estimate_cell(
                        row.metrics.get(metric) if row else None, metric, chosen=policy == told_by
                    )
                    for policy, row in zip(policies, cells, strict=True)
                ]
                rows.append([head(model_name(findings, model)), *shown])
        if rows:
            bodies.append((kind, str(strategy), rows))
    return section(
        "policies",
        "What truncation does",
        tag(
            "p",
            f"{METRICS[metric]} in percent of the same completions, cut in different ways. "
            "Shaded: the policy that the answer is told under.",
        ),
        tables_by_kind(f"{METRICS[metric]} by truncation policy", ["model", *policies], bodies),
    )

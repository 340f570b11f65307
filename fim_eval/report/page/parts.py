"""The metric on parts of the tasks: by kind, length, position, part of the tree, split."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from fim_eval.report.figures import Drawn
from fim_eval.report.findings import Breakdown, Findings, Metric
from fim_eval.report.page.markup import Html, tag
from fim_eval.report.page.tables import (
    estimate_cell,
    figure,
    head,
    model_name,
    section,
    tables_by_kind,
)
from fim_eval.report.views import (
    METRICS,
    headline_metric,
    headline_policy,
    kinds_of,
    models_of,
    strategies_of,
)

_GROUPS: dict[str, str] = {
    "length": "length of the reference, characters",
    "position": "position in the program",
    "part": "part of the syntax tree",
    "split": "split",
    "dataset": "data set",
}


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
        for by, words in _GROUPS.items()
        if (of := [each for each in chosen if each.by == by])
    ]
    return section("parts", "By kind and by length of the hole", kinds, length, *tables)


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

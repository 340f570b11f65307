"""Differences between models, on the same tasks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from fim_eval.report.figures import Drawn
from fim_eval.report.findings import Findings, Pair
from fim_eval.report.page.markup import Html, tag
from fim_eval.report.page.tables import (
    cell,
    estimate_cell,
    figure,
    folded,
    head,
    interval,
    scrolled,
    section,
    table,
    told,
    told_count,
    told_estimate,
    told_probability,
)
from fim_eval.report.views import (
    METRICS,
    STRATEGIES,
    headline_metric,
    headline_pairs,
    kinds_of,
    models_of,
    short_names,
)


def differences(findings: Findings, figures: dict[str, Drawn]) -> Html | None:
    """Every pair of models: a picture, matrices, then counts and tests."""
    metric = headline_metric(findings)
    pairs = headline_pairs(findings, metric)
    if not pairs:
        return None
    order = {model: place for place, model in enumerate(models_of(findings))}
    shorts = short_names(list(order))

    def place(pair: Pair) -> tuple[int, int]:
        return kinds_of(findings).index(pair.kind), STRATEGIES.index(pair.strategy)

    grouped = [
        (key, list(group)) for key, group in itertools.groupby(sorted(pairs, key=place), key=place)
    ]
    matrices = [
        (
            kind,
            tag("div", *(_matrix(group, order, shorts) for _, group in of_kind), class_="matrices"),
        )
        for kind, of_kind in itertools.groupby(grouped, key=lambda each: each[1][0].kind)
    ]
    details = [
        (
            f"{group[0].kind}, {group[0].strategy}",
            [_pair_row(pair, shorts) for pair in group],
        )
        for _, group in grouped
    ]
    heads = (
        "pair", "difference, points", "both right", "only smaller", "only larger", "neither",
        "p, permutation", "p, McNemar", "p after Holm", "noise, %", "detectable, points", "finding",
    )  # fmt: skip
    return section(
        "differences",
        "Differences, on the same tasks",
        figure(
            figures.get("differences"),
            f"Larger minus smaller in {METRICS[metric]}, paired by task, 95 % intervals by "
            "problem. Hollow marks: no difference shown after Holm's correction, or one below the "
            "noise of asking twice.",
        ),
        folded(matrices),
        tag(
            "p",
            "Column minus row, in percentage points; p after Holm over the pairs of a matrix. "
            "Shaded: a difference that stands.",
            class_="note",
        ),
        tag(
            "details",
            tag("summary", "Every pair, with counts and tests"),
            table("Pairs of models with counts and tests", heads, details),
        ),
    )


def _matrix(pairs: Sequence[Pair], order: dict[str, int], shorts: dict[str, str]) -> Html:
    models = sorted({m for pair in pairs for m in (pair.smaller, pair.larger)}, key=order.get)  # type: ignore[arg-type]
    found = {(pair.smaller, pair.larger): pair for pair in pairs}
    title = f"{pairs[0].kind}, {pairs[0].strategy}"
    columns = [model for model in models if any(pair.larger == model for pair in pairs)]
    lines = [
        tag(
            "tr",
            head(shorts[smaller]),
            *(_matrix_cell(found.get((smaller, larger))) for larger in columns),
        )
        for smaller in models
        if any(pair.smaller == smaller for pair in pairs)
    ]
    heads = tag("tr", tag("td"), *(tag("th", shorts[model], scope="col") for model in columns))
    return tag(
        "div",
        scrolled(
            tag("table", tag("caption", title), tag("thead", heads), tag("tbody", *lines)),
            f"Differences, {title}",
        ),
        class_="matrix",
    )


_SHADES = {
    "larger better": "up",
    "smaller better": "down",
    "no difference shown": "same",
    "below the noise": "same",
}


def _matrix_cell(pair: Pair | None) -> Html:
    if pair is None:
        return cell(class_="none")
    metric, found = pair.metric, pair.difference
    noise = tag("span", "below the noise", class_="interval")
    return cell(
        tag("span", told_estimate(found, metric, signed=True), class_="value"),
        interval(found, metric, signed=True),
        tag("span", f"p {told_probability(pair.p_holm)}", class_="interval"),
        noise if pair.finding == "below the noise" else None,
        class_=_SHADES[pair.finding],
    )


def _pair_row(pair: Pair, shorts: dict[str, str]) -> list[Html]:
    counts = (pair.both, pair.only_smaller, pair.only_larger, pair.neither)
    return [
        head(f"{shorts[pair.smaller]} → {shorts[pair.larger]}"),
        estimate_cell(pair.difference, pair.metric, signed=True),
        *(cell(told_count(count)) for count in counts),
        *(cell(told_probability(p)) for p in (pair.p_permutation, pair.p_mcnemar, pair.p_holm)),
        cell(told(pair.noise, "pass_at_1") if pair.noise is not None else "not audited"),
        cell(told(pair.detectable, pair.metric)),
        cell(pair.finding, class_="word"),
    ]

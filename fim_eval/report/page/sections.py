"""Findings in, the parts of the page out. Static: all of it is read without a script."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import get_args

from fim_eval.report.figures import Drawn, for_both
from fim_eval.report.findings import Breakdown, Estimate, Findings, Metric, Pair, Row, Trend
from fim_eval.report.page.markup import Html, Piece, join, tag, text
from fim_eval.report.views import (
    METRICS,
    RATES,
    STRATEGIES,
    headline_metric,
    headline_pairs,
    headline_policy,
    headline_rows,
    kinds_of,
    models_of,
    plain_names,
    short_names,
    sizes_of,
    strategies_of,
    told_size,
)
from fim_eval.words import Kind, Strategy, VerdictOutcome

_GROUPS: dict[str, str] = {
    "length": "length of the reference, characters",
    "position": "position in the program",
    "part": "part of the syntax tree",
    "split": "split",
    "dataset": "data set",
}
_STRATEGY_WORDS: dict[Strategy, str] = {
    "lr": "left to right: the program before the hole",
    "lr-rerank": "left to right, the most probable of several candidates",
    "fewshot": "both sides as plain text, after worked examples",
    "fim-psm": "infilling: prefix, suffix, middle",
    "fim-spm": "infilling: suffix, prefix, middle",
}


_WORDS: dict[str, str] = {
    "strategy": "word if-wide", "tasks cut as": "word", "metric": "word", "of": "word",
    "finding": "word", "source": "word",
}  # fmt: skip
"""Columns of words, not of numbers, with their classes."""


_PROMPTS: dict[str, str] = {"ids": "token ids", "text": "text"}


def sections(findings: Findings, drawn: Sequence[Drawn]) -> Html:
    """Every section for which the findings hold anything, in the order of reading."""
    figures = {figure.name: figure for figure in drawn}
    made = [
        _scaling(findings, figures),
        _main_table(findings),
        _differences(findings, figures),
        _breakdowns(findings, figures),
        _policies(findings),
        _strategies(findings),
        _speed(findings),
        _failures(findings),
        _checks(findings),
        _beside(findings),
    ]
    return join(*(each for each in made if each is not None))


def answer(findings: Findings) -> Html:
    """The answer in words, and what to know before believing it."""
    first, *rest = findings.answer or ("Nothing was found: the runs hold no answers.",)
    caveats = (
        tag(
            "aside",
            tag("h2", "Before you believe it"),
            tag("ul", *(tag("li", each) for each in findings.caveats)),
            class_="caveats",
            aria_label="Caveats",
        )
        if findings.caveats
        else None
    )
    return join(
        tag("p", _unbroken(first), class_="answer" if len(first) < _LONG else "answer long"),
        *(tag("p", _unbroken(each)) for each in rest),
        caveats,
    )


_LONG = 180
"""Characters from which a first sentence is set smaller."""


def _unbroken(words: str) -> Html:
    """A number keeps its unit on its line."""
    return Html(re.sub(r"(?<=\d) (?=%|[BM]\b)", "&nbsp;", text(words)))


def _sentence(words: str) -> str:
    """A note that may have been made to stand in a sentence of others.

    >>> _sentence("a line through 4 sizes")
    'A line through 4 sizes.'
    """
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def appendix(findings: Findings) -> Html:
    """Definitions and manifests."""
    definitions = [
        join(tag("dt", METRICS.get(name, name.replace("_", " "))), tag("dd", meaning))  # type: ignore[call-overload]
        for name, meaning in findings.definitions.items()
    ]
    runs = [
        tag(
            "details",
            tag(
                "summary",
                tag("span", run.path, class_="path"),
                tag("span", f"{run.model}, {run.strategy}", class_="quiet"),
            ),
            _facts(
                {
                    "data": run.dataset,
                    "server": run.server,
                    "asked": run.created_at,
                    "code": run.code_revision or "not known",
                    "prompts": _PROMPTS.get(run.prompt_form, "not known"),
                    "judged": f"in {run.isolation}" if run.isolation else "no",
                }
            ),
            _scrolled(
                tag("pre", json.dumps(run.manifest, indent=2, ensure_ascii=False)),
                f"Manifest of {run.path}",
            ),
        )
        for run in findings.runs
    ]
    return join(
        _section("definitions", "Definitions", tag("dl", *definitions)) if definitions else None,
        _section("runs", "Runs and their manifests", *runs) if runs else None,
    )


def contents(findings: Findings, *, browser: bool) -> Html:
    """Links to the sections."""
    places = [
        ("scaling", "Size", True),
        ("table", "Table", True),
        ("differences", "Differences", bool(findings.pairs)),
        ("parts", "Kinds and lengths", len(kinds_of(findings)) > 1 or bool(findings.breakdowns)),
        ("policies", "Truncation", True),
        ("strategies", "Strategies", len(strategies_of(findings)) > 1),
        ("speed", "Speed", True),
        ("failures", "Failures", True),
        ("checks", "Checks", bool(findings.checks or findings.noise)),
        ("beside", "Published", bool(findings.beside)),
        ("browser", "Tasks", browser),
        ("definitions", "Definitions", bool(findings.definitions)),
        ("runs", "Runs", bool(findings.runs)),
    ]
    return join(*(tag("a", name, href=f"#{place}") for place, name, there in places if there))


def _section(name: str, title: str, *pieces: Piece) -> Html:
    return tag(
        "section", tag("h2", title, id=f"{name}-title"), *pieces, id=name,
        aria_labelledby=f"{name}-title",
    )  # fmt: skip


def _figure(drawn: Drawn | None, caption: str) -> Html | None:
    if drawn is None:
        return None
    pictures = [
        tag("div", Html(for_both(svg)), class_=width, role="img", aria_label=drawn.alt)
        for width, svg in (("wide", drawn.wide), ("narrow", drawn.narrow))
    ]
    return tag("figure", *pictures, tag("figcaption", caption))


def _scrolled(content: Html, label: str) -> Html:
    """What may be wider than the screen: reached and moved by keys, too."""
    return tag(
        "div", content, class_="scrolled", role="region", aria_label=f"{label}, scrolls",
        tabindex="0",
    )  # fmt: skip


def _facts(facts: dict[str, str]) -> Html:
    return tag(
        "dl", *(join(tag("dt", name), tag("dd", value)) for name, value in facts.items()),
        class_="facts",
    )  # fmt: skip


def _table(
    label: str,
    heads: Sequence[Piece],
    bodies: Iterable[tuple[str | None, Sequence[Sequence[Html]]]],
    *,
    snug: bool = False,
) -> Html:
    """A table with a body per group; cells are elements, the first of each row its head."""
    parts = []
    for group, rows in bodies:
        lines = [tag("tr", *row) for row in rows]
        if group is not None:
            lines.insert(
                0, tag("tr", tag("th", group, scope="rowgroup", colspan=len(heads)), class_="group")
            )
        parts.append(tag("tbody", *lines))
    heading = tag(
        "tr",
        *(
            tag("th", head, scope="col", class_=_WORDS.get(head)) if head else tag("td")
            for head in heads
        ),
    )
    return _scrolled(
        tag(
            "table",
            tag("caption", label, class_="unseen"),
            tag("thead", heading),
            *parts,
            class_="snug" if snug else None,
        ),
        label,
    )


def _by_kind(
    label: str,
    heads: Sequence[Piece],
    bodies: Sequence[tuple[Kind, str | None, Sequence[Sequence[Html]]]],
) -> Html:
    """A table for each kind, the first one open; a body for each of its groups."""
    grouped = [(kind, list(of)) for kind, of in itertools.groupby(bodies, key=lambda body: body[0])]
    tables = [
        (kind, _table(f"{label}, {kind}", heads, [(group, rows) for _, group, rows in of]))
        for kind, of in grouped
    ]
    return _folded(tables)


def _folded(parts: Sequence[tuple[Kind, Html]]) -> Html:
    """A part for each kind, the first one open; bare if there is but one."""
    if len(parts) == 1:
        return parts[0][1]
    return join(
        *(
            tag("details", tag("summary", kind), part, open=place == 0)
            for place, (kind, part) in enumerate(parts)
        )
    )


def _narrow(words: str) -> Html:
    """What narrow screens show here, and wide ones in a column of its own."""
    return tag("span", words, class_="quiet if-narrow")


def _head(*pieces: Piece) -> Html:
    return tag("th", *pieces, scope="row")


def _cell(*pieces: Piece, class_: str | None = None) -> Html:
    return tag("td", *pieces, class_=class_)


def _model(findings: Findings, model: str) -> Html:
    names = plain_names(models_of(findings))
    size = told_size(sizes_of(findings)[model])
    return join(tag("span", names[model], class_="model"), tag("span", size, class_="quiet size"))


def told(value: float | None, metric: Metric, *, signed: bool = False) -> str:
    """A value as the page shows it; rates in percent.

    >>> told(0.4567, "pass_at_1"), told(-0.012, "pass_at_1", signed=True), told(None, "pass_at_1")
    ('45.7', '−1.2', '–')
    """
    if value is None:
        return "–"
    digits = 3 if metric == "bits_per_character" else 1
    shown = 100 * value if metric in RATES else value
    return f"{shown:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def told_probability(p: float | None) -> str:
    """A p value.

    >>> told_probability(0.00004), told_probability(0.0213), told_probability(None)
    ('< 0.001', '0.021', '–')
    """
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _estimate(
    estimate: Estimate | None,
    metric: Metric,
    *,
    signed: bool = False,
    chosen: bool = False,
    below: Html | None = None,
) -> Html:
    """A cell: the value or its bounds, the interval below, and what else stands there."""
    if estimate is None or estimate.value is estimate.least is estimate.most is None:
        return _cell("–", class_="none")
    bounded = estimate.value is None
    return _cell(
        tag(
            "span", told_estimate(estimate, metric, signed=signed),
            class_="bounds" if bounded else "value",
        ),
        _interval(estimate, metric, signed=signed),
        below,
        class_="chosen" if chosen else None,
    )  # fmt: skip


def told_estimate(estimate: Estimate, metric: Metric, *, signed: bool = False) -> str:
    """The value, or the bounds that it is between, as far as it has any."""
    if estimate.value is not None:
        return told(estimate.value, metric, signed=signed)
    least, most = (told(end, metric, signed=signed) for end in (estimate.least, estimate.most))
    if least == most:
        return least
    if estimate.most is None:
        return f"{least} or more"
    return f"{most} or less" if estimate.least is None else f"{least} to {most}"


def _interval(estimate: Estimate, metric: Metric, *, signed: bool) -> Html | None:
    """None where too little is known for one."""
    if estimate.low is None and estimate.high is None:
        return None
    low, high = (
        told(end, metric, signed=signed) if end is not None else "?"
        for end in (estimate.low, estimate.high)
    )
    return tag("span", f"{low} to {high}", class_="interval")


def _scaling(findings: Findings, figures: dict[str, Drawn]) -> Html | None:
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
    return _section(
        "scaling",
        "What a larger model buys",
        _figure(
            figures["scaling"],
            f"{METRICS[metric]} with 95 % intervals, bootstrapped by problem. Hollow marks: some "
            f"tasks are unresolved, and the thick part spans their bounds. Truncation: {policies}."
            + (f" {named}." if named else ""),
        ),
        _slopes(findings, trends, metric) if trends else None,
        tag(
            "details",
            tag("summary", "The same in exact match"),
            _figure(
                figures["scaling-exact-match"],
                "Exact match: equal to the reference to the last character.",
            ),
        )
        if "scaling-exact-match" in figures
        else None,
    )


def _slopes(findings: Findings, trends: Sequence[Trend], metric: Metric) -> Html:
    found = {(trend.strategy, trend.kind): trend for trend in trends}
    kinds = [kind for kind in kinds_of(findings) if any(trend.kind == kind for trend in trends)]
    rows = [
        [
            _head(strategy),
            *(
                _estimate(trend.slope, metric, signed=True)
                if (trend := found.get((strategy, kind)))
                else _cell("–", class_="none")
                for kind in kinds
            ),
        ]
        for strategy in dict.fromkeys(trend.strategy for trend in trends)
    ]
    notes = dict.fromkeys(trend.note for trend in trends)
    return join(
        tag("h3", f"Points of {METRICS[metric]} per doubling of the parameters"),
        _table("Slope per doubling of parameters", ["", *kinds], [(None, rows)], snug=True),
        *(tag("p", _sentence(note), class_="note") for note in notes),
    )


def _main_table(findings: Findings) -> Html | None:
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
    return _section(
        "table",
        "All numbers under the headline truncation",
        _table("Main results by kind, model and strategy", heads, bodies),
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
        _head(
            _model(findings, row.model),
            _narrow(row.strategy),
            tag("span", f"infills: {row.infills}", class_="quiet") if doubted else None,
        ),
        _cell(row.strategy, class_="word if-wide"),
        *(
            _estimate(
                row.metrics.get(metric),
                metric,
                below=_below(row, metric),
            )
            for metric in shown
        ),
        _cell(
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


def _differences(findings: Findings, figures: dict[str, Drawn]) -> Html | None:
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
    return _section(
        "differences",
        "Differences, on the same tasks",
        _figure(
            figures.get("differences"),
            f"Larger minus smaller in {METRICS[metric]}, paired by task, 95 % intervals by "
            "problem. Hollow marks: no difference shown after Holm's correction, or one below the "
            "noise of asking twice.",
        ),
        _folded(matrices),
        tag(
            "p",
            "Column minus row, in percentage points; p after Holm over the pairs of a matrix. "
            "Shaded: a difference that stands.",
            class_="note",
        ),
        tag(
            "details",
            tag("summary", "Every pair, with counts and tests"),
            _table("Pairs of models with counts and tests", heads, details),
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
            _head(shorts[smaller]),
            *(_matrix_cell(found.get((smaller, larger))) for larger in columns),
        )
        for smaller in models
        if any(pair.smaller == smaller for pair in pairs)
    ]
    heads = tag("tr", tag("td"), *(tag("th", shorts[model], scope="col") for model in columns))
    return tag(
        "div",
        _scrolled(
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
        return _cell(class_="none")
    metric, found = pair.metric, pair.difference
    noise = tag("span", "below the noise", class_="interval")
    return _cell(
        tag("span", told_estimate(found, metric, signed=True), class_="value"),
        _interval(found, metric, signed=True),
        tag("span", f"p {told_probability(pair.p_holm)}", class_="interval"),
        noise if pair.finding == "below the noise" else None,
        class_=_SHADES[pair.finding],
    )


def _pair_row(pair: Pair, shorts: dict[str, str]) -> list[Html]:
    counts = (pair.both, pair.only_smaller, pair.only_larger, pair.neither)
    return [
        _head(f"{shorts[pair.smaller]} → {shorts[pair.larger]}"),
        _estimate(pair.difference, pair.metric, signed=True),
        *(_cell(_count(count)) for count in counts),
        *(_cell(told_probability(p)) for p in (pair.p_permutation, pair.p_mcnemar, pair.p_holm)),
        _cell(told(pair.noise, "pass_at_1") if pair.noise is not None else "not audited"),
        _cell(told(pair.detectable, pair.metric)),
        _cell(pair.finding, class_="word"),
    ]


def _decimal(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _count(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _breakdowns(findings: Findings, figures: dict[str, Drawn]) -> Html | None:
    metric = headline_metric(findings)
    chosen = [
        each
        for each in findings.breakdowns
        if each.metric == metric and each.policy == headline_policy(findings, each.kind)
    ]
    kinds = _figure(
        figures.get("kinds"),
        f"{METRICS[metric]} by kind of hole. Hollow marks: some tasks are unresolved.",
    )
    length = _figure(
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
    return _section("parts", "By kind and by length of the hole", kinds, length, *tables)


def _breakdown_table(
    findings: Findings, chosen: Sequence[Breakdown], words: str, metric: Metric
) -> Html:
    groups = dict.fromkeys(each.group for each in sorted(chosen, key=lambda each: each.order))
    found = {(each.kind, each.strategy, each.model, each.group): each.estimate for each in chosen}
    bodies = []
    for kind, strategy in itertools.product(kinds_of(findings), strategies_of(findings)):
        rows = [
            [
                _head(_model(findings, model)),
                *(_estimate(found.get((kind, strategy, model, group)), metric) for group in groups),
            ]
            for model in models_of(findings)
            if any((kind, strategy, model, group) in found for group in groups)
        ]
        if rows:
            bodies.append((kind, str(strategy), rows))
    return _by_kind(f"{METRICS[metric]} by {words}", ["model", *groups], bodies)


def _policies(findings: Findings) -> Html | None:
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
                    _estimate(
                        row.metrics.get(metric) if row else None, metric, chosen=policy == told_by
                    )
                    for policy, row in zip(policies, cells, strict=True)
                ]
                rows.append([_head(_model(findings, model)), *shown])
        if rows:
            bodies.append((kind, str(strategy), rows))
    return _section(
        "policies",
        "What truncation does",
        tag(
            "p",
            f"{METRICS[metric]} in percent of the same completions, cut in different ways. "
            "Shaded: the policy that the answer is told under.",
        ),
        _by_kind(f"{METRICS[metric]} by truncation policy", ["model", *policies], bodies),
    )


def _strategies(findings: Findings) -> Html | None:
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
                    _estimate(row.metrics.get(metric) if row else None, metric) for row in cells
                ]
                rows.append([_head(_model(findings, model)), *shown])
        if rows:
            bodies.append((kind, None, rows))
    return _section(
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
        _by_kind(f"{METRICS[metric]} by strategy", ["model", *strategies], bodies),
    )


def _speed(findings: Findings) -> Html | None:
    rows = headline_rows(findings)
    if not rows:
        return None
    bodies: list[tuple[Kind, str | None, list[list[Html]]]] = [
        (
            kind,
            None,
            [
                [
                    _head(_model(findings, row.model), _narrow(row.strategy)),
                    _cell(row.strategy, class_="word if-wide"),
                    *(_cell(_decimal(part, 2)) for part in (row.latency_s or (None, None, None))),
                    _cell(_count(row.completion_tokens)),
                    _cell(_decimal(row.wall_s, 1)),
                    _cell(_decimal(row.tokens_per_s, 0)),
                ]
                for row in of_kind
            ],
        )
        for kind, of_kind in itertools.groupby(rows, key=lambda row: row.kind)
    ]
    return _section(
        "speed",
        "Latency and throughput",
        _by_kind(
            "Latency and throughput",
            (
                "model", "strategy", "median, s", "95 %, s", "99 %, s", "tokens", "wall, s",
                "tokens per s",
            ),
            bodies,
        ),
        tag(
            "p",
            "Of whole answers, as our client saw them under its own load: not a measure of the "
            "server alone.",
            class_="note",
        ),
    )  # fmt: skip


def _failures(findings: Findings) -> Html | None:
    rows = headline_rows(findings)
    if not rows:
        return None
    order = {name: place for place, name in enumerate(get_args(VerdictOutcome))}
    outcomes = sorted({name for row in rows for name in row.outcomes}, key=order.__getitem__)
    failures = list(dict.fromkeys(name for row in rows for name in row.failures))
    heads = [
        "model", "strategy", *outcomes, "unjudged", *failures, "met the limit", "wrote no end",
        "ran past",
    ]  # fmt: skip
    bodies = []
    for kind, of_kind in itertools.groupby(rows, key=lambda row: row.kind):
        lines = [
            [
                _head(_model(findings, row.model), _narrow(row.strategy)),
                _cell(row.strategy, class_="word if-wide"),
                *(
                    _cell(_count(row.outcomes.get(name, 0 if row.judged else None)))
                    for name in outcomes
                ),
                _cell(_count(row.unjudged), class_="alert" if row.unjudged else None),
                *(
                    _cell(
                        _count(row.failures.get(name, 0)),
                        class_="alert" if row.failures.get(name) else None,
                    )
                    for name in failures
                ),
                *(
                    _cell("unknown" if count is None else _count(count))
                    for count in (row.truncated, row.no_end, row.ran_past)
                ),
            ]
            for row in of_kind
        ]
        bodies.append((kind, None, lines))
    unresolved = sum(row.tasks - row.answered + row.unjudged for row in rows)
    return _section(
        "failures",
        "Outcomes, failures, unresolved",
        tag(
            "p",
            "Every task has an answer and a verdict."
            if unresolved == 0
            else f"{unresolved:,} times a task has no answer or no verdict: it is in every "
            "denominator, and rates with it are told as bounds.",
        ),
        _by_kind("Outcomes and failures in tasks", heads, bodies),
    )


def _checks(findings: Findings) -> Html | None:
    checks = [
        [
            _head(check.name),
            _cell(f"{check.passed:,} of {check.tasks:,}"),
            _cell(f"{100 * check.passed / check.tasks:.1f} %" if check.tasks else "–"),
            _cell(check.detail, class_="word"),
        ]
        for check in findings.checks
    ]
    noise = [
        [
            _head(each.model, _narrow(each.strategy)),
            _cell(each.strategy, class_="word if-wide"),
            _cell(f"{each.tasks:,}"),
            *(
                _cell("–" if count is None else f"{count:,}")
                for count in (each.text_changed, each.exact_match_changed, each.passed_changed)
            ),
        ]
        for each in findings.noise
    ]
    if not checks and not noise:
        return None
    return _section(
        "checks",
        "Ceiling, floor and noise",
        _table("Ceiling and floor", ("check", "passed", "share", "of"), [(None, checks)])
        if checks
        else None,
        _table(
            "What changed when the same was asked again",
            ("asked twice", "strategy", "tasks", "other text", "other exact match", "other pass"),
            [(None, noise)],
        )
        if noise
        else tag(
            "p", "No task was asked twice: the noise of the server is not known.", class_="note"
        ),
    )


def _beside(findings: Findings) -> Html | None:
    if not findings.beside:
        return None
    lines = [
        [
            _head(each.model),
            _cell(f"{each.kind}, {each.strategy}", class_="word"),
            _cell(METRICS[each.metric], class_="word"),
            _estimate(each.ours, each.metric),
            _cell(told(each.published, each.metric)),
            _cell(
                told(
                    None if each.ours.value is None else each.ours.value - each.published,
                    each.metric,
                    signed=True,
                )
            ),
            _cell(each.source, class_="word source"),
        ]
        for each in findings.beside
    ]
    return _section(
        "beside",
        "Published numbers beside ours",
        _table(
            "Published numbers beside ours",
            ("model", "tasks cut as", "metric", "ours, %", "published, %", "difference", "source"),
            [(None, lines)],
        ),
    )

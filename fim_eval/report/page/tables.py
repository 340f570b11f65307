"""Pieces that sections of the page are built of: tables, cells, numbers. Static."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from fim_eval.report.figures import Drawn, for_both
from fim_eval.report.findings import Estimate, Findings, Metric
from fim_eval.report.page.markup import Html, Piece, join, tag
from fim_eval.report.views import RATES, models_of, plain_names, sizes_of, told_size
from fim_eval.words import Kind

_WORDS: dict[str, str] = {
    "strategy": "word if-wide", "strategies": "word if-wide", "tasks cut as": "word",
    "metric": "word", "of": "word", "finding": "word", "source": "word",
}  # fmt: skip
"""Columns of words, not of numbers, with their classes."""


def section(name: str, title: str, *pieces: Piece) -> Html:
    """A section with its title, to be linked to by its name."""
    return tag(
        "section", tag("h2", title, id=f"{name}-title"), *pieces, id=name,
        aria_labelledby=f"{name}-title",
    )  # fmt: skip


def figure(drawn: Drawn | None, caption: str) -> Html | None:
    """A drawn figure in two widths, of which the screen shows one."""
    if drawn is None:
        return None
    pictures = [
        tag("div", Html(for_both(svg)), class_=width, role="img", aria_label=drawn.alt)
        for width, svg in (("wide", drawn.wide), ("narrow", drawn.narrow))
    ]
    return tag("figure", *pictures, tag("figcaption", caption))


def scrolled(content: Html, label: str) -> Html:
    """What may be wider than the screen: reached and moved by keys, too."""
    return tag(
        "div", content, class_="scrolled", role="region", aria_label=f"{label}, scrolls",
        tabindex="0",
    )  # fmt: skip


def fact_list(facts: dict[str, str]) -> Html:
    """Names and what stands for each."""
    return tag(
        "dl", *(join(tag("dt", name), tag("dd", value)) for name, value in facts.items()),
        class_="facts",
    )  # fmt: skip


def table(
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
            tag("th", name, scope="col", class_=_WORDS.get(name)) if name else tag("td")
            for name in heads
        ),
    )
    return scrolled(
        tag(
            "table",
            tag("caption", label, class_="unseen"),
            tag("thead", heading),
            *parts,
            class_="snug" if snug else None,
        ),
        label,
    )


def tables_by_kind(
    label: str,
    heads: Sequence[Piece],
    bodies: Sequence[tuple[Kind, str | None, Sequence[Sequence[Html]]]],
) -> Html:
    """A table for each kind, the first one open; a body for each of its groups."""
    grouped = [(kind, list(of)) for kind, of in itertools.groupby(bodies, key=lambda body: body[0])]
    tables = [
        (kind, table(f"{label}, {kind}", heads, [(group, rows) for _, group, rows in of]))
        for kind, of in grouped
    ]
    return folded(tables)


def folded(parts: Sequence[tuple[Kind, Html]]) -> Html:
    """A part for each kind, the first one open; bare if there is but one."""
    if len(parts) == 1:
        return parts[0][1]
    return join(
        *(
            tag("details", tag("summary", kind), part, open=place == 0)
            for place, (kind, part) in enumerate(parts)
        )
    )


def if_narrow(words: str) -> Html:
    """What narrow screens show here, and wide ones in a column of its own."""
    return tag("span", words, class_="quiet if-narrow")


def head(*pieces: Piece) -> Html:
    """The head of a row."""
    return tag("th", *pieces, scope="row")


def cell(*pieces: Piece, class_: str | None = None) -> Html:
    """A cell of a row."""
    return tag("td", *pieces, class_=class_)


def model_name(findings: Findings, model: str) -> Html:
    """A model, its size below."""
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


def estimate_cell(
    estimate: Estimate | None,
    metric: Metric,
    *,
    signed: bool = False,
    chosen: bool = False,
    below: Html | None = None,
) -> Html:
    """A cell: the value or its bounds, the interval below, and what else stands there."""
    if estimate is None or estimate.value is estimate.least is estimate.most is None:
        return cell("–", class_="none")
    bounded = estimate.value is None
    return cell(
        tag(
            "span", told_estimate(estimate, metric, signed=signed),
            class_="bounds" if bounded else "value",
        ),
        interval(estimate, metric, signed=signed),
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


def interval(estimate: Estimate, metric: Metric, *, signed: bool) -> Html | None:
    """None where too little is known for one."""
    if estimate.low is None and estimate.high is None:
        return None
    low, high = (
        told(end, metric, signed=signed) if end is not None else "?"
        for end in (estimate.low, estimate.high)
    )
    return tag("span", f"{low} to {high}", class_="interval")


def told_decimal(value: float | None, digits: int) -> str:
    """A number as the page shows it, if it is known."""
    return "–" if value is None else f"{value:,.{digits}f}"


def told_count(count: int | None) -> str:
    """A count as the page shows it, if it is known."""
    return "–" if count is None else f"{count:,}"

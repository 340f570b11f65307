"""Findings in, charts out: altair specifications, drawn to SVG and PNG by vl-convert, offline.

Colours: strategies after Okabe and Ito (https://jfly.uni-koeln.de/color/), models after plasma of
matplotlib, by lightness with size, so that both can be told apart without hue; shapes say it again.
Altair takes half a second to import: nothing imports this module before it draws.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import altair as alt
import vl_convert

from fim_eval.errors import RunDirectoryError
from fim_eval.report.findings import Estimate, Findings, Metric
from fim_eval.report.views import (
    METRICS,
    RATES,
    headline_breakdowns,
    headline_metric,
    headline_pairs,
    headline_rows,
    kinds_of,
    models_of,
    short_names,
    sizes_of,
    strategies_of,
    told_size,
)
from fim_eval.words import Strategy

Theme = Literal["light", "dark"]
Width = Literal["wide", "narrow"]
Shown = dict[str, Any]
"""One datum of a chart."""

Chart = Any
"""Of altair, whose layered and faceted charts have no type in common that tells anything."""

INK = {"light": "#1d2024", "dark": "#e8e6e1"}
MUTED = {"light": "#5b616a", "dark": "#a3a8b0"}
GRID = {"light": "#e3e4e6", "dark": "#33373d"}
PAPER = {"light": "#ffffff", "dark": "#15171a"}

STRATEGY_COLOURS: dict[Strategy, dict[Theme, str]] = {
    "lr": {"light": "#0072b2", "dark": "#56b4e9"},
    "lr-rerank": {"light": "#00805d", "dark": "#2bc79a"},
    "fewshot": {"light": "#6b6b6c", "dark": "#b4b4b5"},
    "fim-psm": {"light": "#c25400", "dark": "#ff9a4d"},
    "fim-spm": {"light": "#a8477f", "dark": "#e8a2cb"},
}
_SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")
_PLASMA: dict[Theme, tuple[str, ...]] = {
    "light": ("#d8576b", "#a62098", "#6a00a8", "#0d0887"),
    "dark": ("#9a4fc9", "#e16462", "#fca636", "#f0f921"),
}


_FILES: tuple[tuple[Theme, str], ...] = (("light", ""), ("dark", "-dark"))


class Drawn(NamedTuple):
    """One figure as SVG, in light colours and without a background."""

    name: str
    title: str
    alt: str
    wide: str
    narrow: str


class Figure(NamedTuple):
    """One chart, ready to draw."""

    name: str
    """Of its files."""

    title: str
    alt: str
    """What it shows, for those who do not see it."""

    wide: Chart
    narrow: Chart
    """For screens of 360 pixels."""


def figures(findings: Findings) -> list[Figure]:
    """Every chart for which the findings hold anything, in the order of telling."""
    metric = headline_metric(findings)
    made = [_scaling(findings, metric, "scaling")]
    if metric != "exact_match":
        made.append(_scaling(findings, "exact_match", "scaling-exact-match"))
    made.append(_scaling(findings, "bits_per_character", "scaling-bits"))
    made += [_differences(findings, metric), _kinds(findings, metric), _length(findings, metric)]
    return [figure for figure in made if figure is not None]


def draw(findings: Findings) -> list[Drawn]:
    """Every figure, drawn."""
    return [
        Drawn(each.name, each.title, each.alt, _drawn(each.wide), _drawn(each.narrow))
        for each in figures(findings)
    ]


def write_figures(drawn: Sequence[Drawn], folder: Path) -> list[Path]:
    """Write every figure as `<name>.svg` and `.png`, and `<name>-dark.*`; return the paths.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in drawn:
            for theme, mark in _FILES:
                svg = on_paper(figure.wide, theme)
                png = vl_convert.svg_to_png(svg, scale=2)
                for suffix, content in (("svg", svg.encode()), ("png", png)):
                    path = folder / f"{figure.name}{mark}.{suffix}"
                    path.write_bytes(content)
                    paths.append(path)
    except OSError as error:
        raise RunDirectoryError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "name a folder of your own with --out"
        ) from error
    return paths


def _drawn(chart: Chart) -> str:
    """The chart as SVG in light colours, without a background."""
    specification = chart.to_dict(validate=False)
    specification["config"] = _CONFIG
    svg = _ROLE.sub("", str(vl_convert.vegalite_to_svg(specification)))
    # A hundredth of a pixel is enough, and two thirds of the size.
    return _FRACTION.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), svg)


def on_paper(svg: str, theme: Theme) -> str:
    """A drawn SVG in the colours of one theme, with its background."""
    if theme == "dark":
        svg = _recoloured(svg, lambda _, dark: dark)
    start = svg.index(">") + 1
    return f'{svg[:start]}<rect width="100%" height="100%" fill="{PAPER[theme]}"/>{svg[start:]}'


def for_both(svg: str) -> str:
    """A drawn SVG whose colours follow the page's `color-scheme`."""
    plain = _PAGE_SAYS.sub("", svg)
    return _recoloured(plain, lambda light, dark: f"light-dark({light},{dark})")


def _recoloured(svg: str, mixed: Callable[[str, str], str]) -> str:
    return _COLOUR.sub(lambda found: f'"{mixed(found[1], _DARK.get(found[1], found[1]))}"', svg)


def model_colours(count: int, theme: Theme) -> list[str]:
    """So many colours, in order of size; four steps, and what lies between them."""
    stops = _PLASMA[theme]
    if count == 1:
        return [stops[-2]]
    places = [place * (len(stops) - 1) / (count - 1) for place in range(count)]
    return [_between(stops, place) for place in places]


def _between(stops: Sequence[str], place: float) -> str:
    low = min(int(place), len(stops) - 2)
    share = place - low
    mixed = [
        round((1 - share) * int(one, 16) + share * int(other, 16))
        for one, other in (
            (stops[low][at : at + 2], stops[low + 1][at : at + 2]) for at in (1, 3, 5)
        )
    ]
    return "#" + "".join(f"{part:02x}" for part in mixed)


# What a figure shows is said once, of the whole.
_ROLE = re.compile(r' (role|aria-[a-z]+)="[^"]*"')
_PAGE_SAYS = re.compile(r' (font-family="[^"]*"|class="[^"]*"|opacity="1")')
_COLOUR = re.compile(r'"(#[0-9a-f]{6})"')
_FRACTION = re.compile(r"(?<=[\s,(\"MLHVACQZ-])\d+\.\d{3,}(?=[\s,)\"LHVACQZ-])")
_DARK: dict[str, str] = {
    **{colours["light"]: colours["dark"] for colours in (INK, MUTED, GRID, PAPER)},
    **{colours["light"]: colours["dark"] for colours in STRATEGY_COLOURS.values()},
    **{
        light: dark
        for count in range(1, 33)
        for light, dark in zip(
            model_colours(count, "light"), model_colours(count, "dark"), strict=True
        )
    },
}
"""What each light colour is on dark paper."""

_CONFIG: Shown = {
    "background": None,
    "font": "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', sans-serif",
    "padding": 8,
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED["light"],
        "titleColor": MUTED["light"],
        "gridColor": GRID["light"],
        "domainColor": GRID["light"],
        "tickColor": GRID["light"],
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "titlePadding": 10,
        "labelLimit": 220,
    },
    "axisY": {"domain": False, "ticks": False},
    "header": {
        "labelColor": INK["light"],
        "labelFontSize": 13,
        "labelFontWeight": "bold",
        "labelAnchor": "start",
        "labelPadding": 8,
        "title": None,
    },
    "legend": {
        "labelColor": INK["light"],
        "labelFontSize": 12,
        "labelLimit": 260,
        "orient": "top",
        "symbolSize": 90,
        "symbolOpacity": 1,
        "symbolStrokeWidth": 2,
        "offset": 12,
        "columnPadding": 18,
    },
}


def _estimate(estimate: Estimate, scale: float = 100) -> Shown | None:
    """What is drawn of an estimate; None if nothing is known of it, or no end (bits unresolved)."""
    if estimate.least is None or estimate.most is None or math.isinf(estimate.most):
        return None
    low, high = estimate.low, estimate.high
    return {
        "value": scale * (estimate.least + estimate.most) / 2,
        "least": scale * estimate.least,
        "most": scale * estimate.most,
        "low": scale * (estimate.least if low is None else low),
        "high": scale * (estimate.most if high is None else high),
        "open": estimate.value is None,
    }


def _coloured(names: Sequence[str], colours: Sequence[str]) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of the same names, in one legend."""
    shapes = [_SHAPES[place % len(_SHAPES)] for place in range(len(names))]
    legend = {"title": None}
    return (
        alt.Color("series:N", scale={"domain": names, "range": colours}, legend=legend),
        alt.Shape("series:N", scale={"domain": names, "range": shapes}, legend=legend),
    )


def _panels(layers: Chart, data: Sequence[Shown], panels: Sequence[str], columns: int) -> Chart:
    """The layers once for each value of `panel`; bare if there is but one without a name."""
    values = alt.InlineData(values=list(data))
    if list(panels) == [""]:
        layers.data = values
        return layers
    facet = alt.Facet("panel:N", sort=list(panels), header={"title": None})
    return layers.facet(facet=facet, data=values, columns=columns).resolve_axis(x="independent")


def _intervals(
    x: Shown, y: Shown, colour: alt.Color, shape: alt.Shape, across: Literal["x", "y"]
) -> list[Chart]:
    """Interval, bounds of what is unresolved, and point (between the bounds), along one axis."""
    ends = {"x": ("x", "x2"), "y": ("y", "y2")}[across]
    scale = (x if across == "x" else y)[across]

    def along(first: str, last: str) -> Shown:
        start = scale.copy()
        start.shorthand = f"{first}:Q"
        rest = y if across == "x" else x
        return {**rest, ends[0]: start, ends[1]: last}

    return [
        _marks("rule", strokeWidth=1.5, opacity=0.85).encode(**along("low", "high"), color=colour),
        _marks("rule", strokeWidth=7, opacity=0.4)
        .transform_filter("datum.open")
        .encode(**along("least", "most"), color=colour),
        _marks("point", filled=True, size=70, opacity=1).encode(
            **x, **y, color=colour, shape=shape
        ),
    ]


def _marks(shape: Literal["point", "rule", "line"], **said: float | str | list[int]) -> Chart:
    """A chart of such marks.

    In dictionaries, here and in encodings, because a chart is copied at every step of building it:
    altair's own objects copy every property that they might have.
    """
    mark: Any = {"type": shape, **said}
    return alt.Chart(mark=mark)


def _hollow(where: str) -> Chart:
    """Marks over marks, so that these look empty."""
    marks = _marks("point", filled=True, size=22, opacity=1, color=PAPER["light"])
    return marks.transform_filter(where)


def _unlisted(shape: alt.Shape) -> alt.Shape:
    """The same, without a second entry in the legend."""
    return alt.Shape("series:N", scale=shape["scale"], legend=None)


def _scaling(findings: Findings, metric: Metric, name: str) -> Figure | None:
    """A metric over size, a line per strategy, a panel per kind."""
    strategies, kinds, sizes = strategies_of(findings), kinds_of(findings), sizes_of(findings)
    models = models_of(findings)
    shorts = short_names(models)
    known = [size for size in sizes.values() if size is not None]
    by_size = len(set(known)) == len(sizes)
    percent = metric in RATES
    data = []
    for row in headline_rows(findings):
        estimate = row.metrics.get(metric)
        drawn = _estimate(estimate, 100 if percent else 1) if estimate else None
        if drawn is None:
            continue
        aside = strategies.index(row.strategy) - (len(strategies) - 1) / 2
        data.append(
            drawn
            | {
                "panel": row.kind,
                "series": row.strategy,
                # Side by side, where intervals would hide each other.
                "size": (row.parameters or 0) * 1.03**aside,
                "model": f"{shorts[row.model]} ({told_size(row.parameters)})",
            }
        )
    if not data:
        return None
    colour, shape = _coloured(
        strategies, [STRATEGY_COLOURS[strategy]["light"] for strategy in strategies]
    )

    def chart(width: int, height: int, columns: int) -> Chart:
        if by_size:
            ticks = sorted(known)
            words = "{" + ",".join(f"'{size}':'{told_size(size)}'" for size in ticks) + "}"
            x: Any = alt.X(
                "size:Q",
                title="parameters",
                scale={
                    "type": "log",
                    "base": 2,
                    "nice": False,
                    "domain": [min(ticks) / 1.35, max(ticks) * 1.35],
                },
                axis={"values": ticks, "labelExpr": f"({words})[datum.value]", "grid": False},
            )
        else:
            x = alt.X(
                "model:N",
                title=None,
                sort=[f"{shorts[model]} ({told_size(sizes[model])})" for model in models],
                axis={"labelAngle": -30, "grid": False},
            )
        top = max(datum["high"] for datum in data)
        y = alt.Y(
            "value:Q",
            title=METRICS[metric] + (", %" if percent else ""),
            scale={"domain": [0, 100 if top > 50 else max(5, top * 1.1)]}
            if percent
            else {"zero": False},
            axis={"tickCount": 5},
        )
        places: Shown = {"x": x}
        if not by_size:
            places["xOffset"] = alt.XOffset("series:N", sort=strategies)
        layers = _intervals(places, {"y": y}, colour, shape, "y")
        if by_size:
            layers.insert(0, _marks("line", strokeWidth=2).encode(x=x, y=y, color=colour))
        layers.append(_hollow("datum.open").encode(**places, y=y, shape=_unlisted(shape)))
        return _panels(
            alt.layer(*layers).properties(width=width, height=height), data, kinds, columns
        )

    across = min(len(kinds), 2)
    return Figure(
        name,
        f"{METRICS[metric].capitalize()} over size",
        f"{METRICS[metric]}{' in percent' if percent else ''} over the size of the model, one line"
        " per strategy"
        f" ({', '.join(strategies)}), one panel per kind of hole ({', '.join(kinds)}),"
        " with 95 % intervals. The table below holds the same numbers.",
        chart(860 if across == 1 else 410, 320 if across == 1 else 230, across),
        chart(250, 180, 1),
    )


def _differences(findings: Findings, metric: Metric) -> Figure | None:
    """Every pair's difference with its interval; filled where Holm leaves it standing."""
    strategies, kinds, models = strategies_of(findings), kinds_of(findings), models_of(findings)
    shorts = short_names(models)
    data, names = [], {}
    for pair in headline_pairs(findings, metric):
        drawn = _estimate(pair.difference)
        if drawn is None:
            continue
        name = f"{shorts[pair.smaller]} → {shorts[pair.larger]}"
        names[name] = (models.index(pair.smaller), models.index(pair.larger))
        data.append(
            drawn
            | {
                "panel": pair.kind,
                "series": pair.strategy,
                "pair": name,
                "shown": pair.finding in {"larger better", "smaller better"},
            }
        )
    if not data:
        return None
    present = [each for each in strategies if any(datum["series"] == each for datum in data)]
    panels = [kind for kind in kinds if any(datum["panel"] == kind for datum in data)]
    colour, shape = _coloured(present, [STRATEGY_COLOURS[each]["light"] for each in present])
    order = sorted(names, key=names.__getitem__)

    def chart(width: int, columns: int) -> Chart:
        x = alt.X("value:Q", title="percentage points", axis={"tickCount": 6})
        y: Shown = {
            "y": alt.Y("pair:N", title=None, sort=order, axis={"grid": False, "labelLimit": 280}),
            "yOffset": alt.YOffset("series:N", sort=present),
        }
        zero = _marks("rule", color=MUTED["light"], strokeDash=[3, 3])
        layers = _intervals({"x": x}, y, colour, shape, "x")
        hollow = _hollow("!datum.shown").encode(x=x, **y, shape=_unlisted(shape))
        return _panels(
            alt.layer(zero.encode(x=alt.datum(0)), *layers, hollow).properties(
                width=width, height=alt.Step(max(7, 22 / len(present)))
            ),
            data,
            panels,
            columns,
        )

    across = min(len(panels), 2)
    return Figure(
        "differences",
        "Differences between models",
        f"Larger minus smaller model in {METRICS[metric]}, paired by task, in percentage points,"
        " with 95 % intervals. Filled marks differ from zero after Holm's correction, hollow ones"
        " do not. The matrices hold the same numbers.",
        chart(760 if across == 1 else 330, across),
        chart(190, 1),
    )


def _kinds(findings: Findings, metric: Metric) -> Figure | None:
    """A metric by kind, a mark per model, a panel per strategy."""
    kinds = kinds_of(findings)
    if len(kinds) == 1:
        return None
    data = []
    shorts = short_names(models_of(findings))
    for row in headline_rows(findings):
        drawn = _estimate(row.metrics[metric]) if metric in row.metrics else None
        if drawn is not None:
            data.append(
                drawn | {"panel": row.strategy, "series": shorts[row.model], "kind": row.kind}
            )
    if not data:
        return None
    models, colour, shape = _by_model(findings, {datum["series"] for datum in data})
    panels = [each for each in strategies_of(findings) if any(d["panel"] == each for d in data)]

    def chart(width: int, columns: int) -> Chart:
        x = alt.X("value:Q", title=f"{METRICS[metric]}, %", axis={"tickCount": 5})
        y: Shown = {
            "y": alt.Y("kind:N", title=None, sort=list(kinds), axis={"grid": False}),
            "yOffset": alt.YOffset("series:N", sort=models),
        }
        hollow = _hollow("datum.open").encode(x=x, **y, shape=_unlisted(shape))
        layers = alt.layer(*_intervals({"x": x}, y, colour, shape, "x"), hollow)
        step = alt.Step(max(7, 36 / len(models)))
        return _panels(layers.properties(width=width, height=step), data, panels, columns)

    across = min(len(panels), 2)
    return Figure(
        "kinds",
        f"{METRICS[metric].capitalize()} by kind of hole",
        f"{METRICS[metric]} in percent by kind of hole, a mark per model, a panel per strategy,"
        " with 95 % intervals. The main table holds the same numbers.",
        chart(760 if across == 1 else 360, across),
        chart(200, 1),
    )


def _length(findings: Findings, metric: Metric) -> Figure | None:
    """A metric by length of the reference, a line per model, a panel per kind and strategy."""
    data = []
    panels: dict[str, tuple[int, int]] = {}
    groups: dict[str, int] = {}
    kinds, strategies = kinds_of(findings), strategies_of(findings)
    shorts = short_names(models_of(findings))
    for each in headline_breakdowns(findings, metric, "length"):
        drawn = _estimate(each.estimate)
        if drawn is None:
            continue
        panel = f"{each.kind}, {each.strategy}"
        panels[panel] = (kinds.index(each.kind), strategies.index(each.strategy))
        groups[each.group] = each.order
        data.append(drawn | {"panel": panel, "series": shorts[each.model], "group": each.group})
    if not data:
        return None
    models, colour, shape = _by_model(findings, {datum["series"] for datum in data})
    order = sorted(groups, key=groups.__getitem__)
    across = 1 if len(panels) == 1 else max(2, min(3, len(strategies)))

    def chart(width: int, height: int, columns: int) -> Chart:
        places: Shown = {
            "x": alt.X(
                "group:N",
                title="characters of the reference",
                sort=order,
                axis={
                    "labelAngle": 0 if width > 75 * len(order) else -40,
                    "grid": False,
                    "labelFontSize": 11,
                },
            ),
            "xOffset": alt.XOffset("series:N", sort=models),
        }
        y = alt.Y("value:Q", title=f"{METRICS[metric]}, %", axis={"tickCount": 5})
        hollow = _hollow("datum.open").encode(**places, y=y, shape=_unlisted(shape))
        layers = alt.layer(*_intervals(places, {"y": y}, colour, shape, "y"), hollow)
        sized = layers.properties(width=width, height=height)
        return _panels(sized, data, sorted(panels, key=panels.__getitem__), columns)

    return Figure(
        "length",
        f"{METRICS[metric].capitalize()} by length of the hole",
        f"{METRICS[metric]} in percent by length of the reference in characters, a mark per model,"
        " a panel per kind of hole and strategy, with 95 % intervals.",
        chart((860, 410, 265)[across - 1], 240 if across == 1 else 130, across),
        chart(250, 110, 1),
    )


def _by_model(findings: Findings, present: set[str]) -> tuple[list[str], alt.Color, alt.Shape]:
    shorts = list(short_names(models_of(findings)).values())
    colours = dict(zip(shorts, model_colours(len(shorts), "light"), strict=True))
    shown = [short for short in shorts if short in present]
    return shown, *_coloured(shown, [colours[short] for short in shown])

"""The parts of the report's page that need no browser: words, colours, packing."""

from __future__ import annotations

import base64
import gzip
import itertools
import re
from importlib.resources import files
from typing import Any

import orjson
import pytest

from fim_eval.postprocess import POLICIES
from fim_eval.report.browser import Answer, Answerer, Browsed, BrowsedTask, Filling
from fim_eval.report.figures import (
    INK,
    MUTED,
    PAPER,
    STRATEGY_COLOURS,
    Drawn,
    Theme,
    model_colours,
)
from fim_eval.report.findings import Estimate
from fim_eval.report.page.packing import VERDICTS, pack
from fim_eval.report.page.sections import appendix, contents, sections
from fim_eval.report.page.tables import told_estimate
from fim_eval.report.views import headline_pairs, headline_rows
from tests.made_report import made_browsed, made_findings

THEMES: tuple[Theme, ...] = ("light", "dark")


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_marks_stand_out_from_the_paper(theme: Theme) -> None:
    colours = [each[theme] for each in STRATEGY_COLOURS.values()]
    colours += [colour for count in range(1, 9) for colour in model_colours(count, theme)]
    assert min(contrast(colour, PAPER[theme]) for colour in colours) >= 3
    assert min(contrast(colour, PAPER[theme]) for colour in (INK[theme], MUTED[theme])) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
def test_models_are_told_apart_by_lightness(theme: Theme) -> None:
    lights = [luminance(colour) for colour in model_colours(4, theme)]
    assert lights == sorted(lights, reverse=theme == "light")
    assert (
        min((max(a, b) + 0.05) / (min(a, b) + 0.05) for a, b in itertools.pairwise(lights)) > 1.25
    )


@pytest.mark.parametrize("place", [0, 1], ids=THEMES)
@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        *itertools.product(("ink", "muted", "link", "alert"), ("paper", "raised")),
        ("gone-ink", "gone"), ("come-ink", "come"), ("gone-ink", "paper"), ("come-ink", "paper"),
        ("ink", "up"), ("ink", "down"), ("gone-ink", "up"), ("come-ink", "up"),
    ],
)  # fmt: skip
def test_text_of_the_page_can_be_read(ink: str, paper: str, place: int) -> None:
    style = files("fim_eval.report.page").joinpath("page.css").read_text(encoding="utf-8")
    colours = {
        name: pair
        for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    }
    assert contrast(colours[ink][place], colours[paper][place]) >= 4.5


def unpacked(packed: str) -> Any:
    return orjson.loads(gzip.decompress(base64.b64decode(packed)))


def test_what_is_packed_is_all_there() -> None:
    browsed = made_browsed(3000)
    first, pieces = pack(browsed, {"block": "syntax"})
    index = unpacked(first)
    lists = [unpacked(piece) for piece in pieces]
    assert len(pieces) > 1
    assert index["ids"] == [task.task_id for task in browsed.tasks]
    assert index["headline"] == {"block": "syntax"}
    starts = [sum(map(len, lists[:place])) for place in range(len(lists))]
    assert index["starts"] == starts
    assert sum(map(len, lists)) == 3000
    for number, (task, told) in enumerate(
        zip(browsed.tasks, (each for piece in lists for each in piece), strict=True)
    ):
        assert told[:5] == [task.context, task.prefix, task.middle, task.suffix, task.sensitive]
        for place, given in enumerate(task.answers):
            assert given is not None
            failure, limit, fillings = told[5][place]
            assert (failure, limit) == (given.failure, given.met_limit)
            texts = [(text, distance, detail) for text, distance, detail, _ in fillings]
            assert texts == [
                (each.middle, each.edit_distance, each.detail) for each in given.fillings
            ]
            for at, policy in enumerate(POLICIES):
                state = ord(index["states"][at][place][number]) - 48
                by = [each for each in given.fillings if policy in each.policies]
                if not by:
                    assert state == 2
                else:
                    assert by[0].verdict is not None
                    assert state == 2 * (3 + VERDICTS.index(by[0].verdict)) + by[0].exact_match


def test_not_asked_not_answered_and_not_judged_are_three_things() -> None:
    filling = Filling(POLICIES, "x", True, 0, None, "")
    answers = (
        None,
        Answer((), "not asked", met_limit=False),
        Answer((filling,), None, met_limit=False),
    )
    task = BrowsedTask("T/1", "block", None, "", "x", "", None, answers)
    browsed = Browsed(tuple(Answerer(name, "lr") for name in "abc"), (task,))
    index = unpacked(pack(browsed, {})[0])
    assert index["states"][0] == ["0", "2", "5"]


def test_one_task_larger_than_a_piece_is_whole() -> None:
    browsed = made_browsed(2)
    text = "</script>" * 200_000
    filling = Filling(POLICIES, text, False, 1, "error", "")
    tasks = tuple(
        BrowsedTask(
            task.task_id, task.kind, None, "", "x", "", True,
            (Answer((filling,), None, met_limit=False),) * 4,
        )
        for task in browsed.tasks
    )  # fmt: skip
    _, pieces = pack(Browsed(browsed.answerers, tasks), {})
    assert len(pieces) == 2
    assert all("<" not in piece for piece in pieces)
    assert unpacked(pieces[1])[0][5][3][2][0][0] == text


def test_every_headline_number_stands_in_the_page() -> None:
    findings = made_findings()
    shown = re.sub("<[^>]+>", " ", sections(findings, ()))
    rows = headline_rows(findings)
    assert len(rows) == 44
    for row in rows:
        value = row.metrics["edit_distance"].value
        assert value is not None
        assert f" {value:.1f} " in shown
    for pair in headline_pairs(findings, "pass_at_1"):
        assert f"{pair.only_larger:,}" in shown
    assert "64.9 to 65.4" in shown  # 70B's bounds
    assert "not audited" not in shown


def test_every_gain_on_a_part_stands_in_the_page_with_its_interval() -> None:
    findings = made_findings()
    shown = sections(findings, ())
    tables = dict(re.findall(r"Gain on parts of ([\w-]+)</caption>(.*?)</table>", shown))
    assert list(tables) == ["single-line", "multi-line", "random-span", "block"]
    for each in findings.part_differences:
        told_as = told_estimate(each.difference, "pass_at_1", signed=True)
        assert f'<span class="value">{told_as}</span>' in tables[each.kind]
        assert f">{each.group}<span" in tables[each.kind]
    assert 'lr<span class="quiet">7b → 70b</span>' in tables["block"]
    assert 'fim-psm<span class="quiet">7b → 70b</span>' in tables["block"]
    # In each table three strategies on the whole, and on every part.
    assert [len(re.findall("<svg", of)) for of in tables.values()] == [33, 33, 33, 45]


def test_every_difference_between_strategies_stands_in_the_page_with_its_interval() -> None:
    findings = made_findings()
    shown = sections(findings, ())
    tables = dict(
        re.findall(r"Differences between strategies, ([\w-]+)</caption>(.*?)</table>", shown)
    )
    assert list(tables) == ["single-line", "multi-line", "random-span", "block"]
    for each in findings.strategy_differences:
        told_as = told_estimate(each.difference, "pass_at_1", signed=True)
        shade = ' class="up"' if each.finding == "better" else ""
        assert f'<td{shade}><span class="value">{told_as}</span>' in tables[each.kind]
        assert f"{each.strategy} − lr" in tables[each.kind]
    lines = tables["block"].count("<tr>") - 1
    assert lines == sum(each.kind == "block" for each in findings.strategy_differences)


def test_where_the_suffix_tells_is_told_by_part_of_the_tasks() -> None:
    shown = sections(made_findings(), ())
    (table,) = re.findall(
        r"Infilling minus left to right on parts, block</caption>(.*?)</table>", shown
    )
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table)
    first = dict(rows)["first fifth"]
    assert re.findall(r'class="value">([^<]+)', first) == ["−0.210"] * 3, "34B does not infill"
    assert "by position in the program" in table


def test_models_asked_in_one_way_have_no_differences_between_strategies() -> None:
    shown = sections(made_findings(strategies=("lr",)), ())
    assert "One way of asking minus another" not in shown
    assert "Where the suffix tells" not in shown


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.01, 0.05, "gained"), (-0.05, -0.01, "lost"), (-0.01, 0.05, "unsure"), (0, 0.05, "unsure")],
)
def test_a_gain_is_grey_where_its_interval_meets_no_difference(
    low: float, high: float, word: str
) -> None:
    findings = made_findings(kinds=("single-line",), strategies=("lr",))
    given = findings.part_differences[0]
    middle = (low + high) / 2
    changed = given.difference.model_copy(
        update={"value": middle, "least": middle, "most": middle, "low": low, "high": high}
    )
    shown = sections(
        findings.model_copy(
            update={"part_differences": (given.model_copy(update={"difference": changed}),)}
        ),
        (),
    )
    (table,) = re.findall(r"Gain on parts of .*?</table>", shown)
    assert re.findall(r'class="bar (\w+)"', table) == ["gained", word]


def test_without_an_interval_a_gain_has_no_bar() -> None:
    findings = made_findings(kinds=("single-line",), strategies=("lr",))
    given = findings.part_differences[0]
    one_problem = given.difference.model_copy(update={"low": None, "high": None})
    changed = given.model_copy(update={"difference": one_problem})
    shown = sections(findings.model_copy(update={"part_differences": (changed,)}), ())
    (table,) = re.findall(r"Gain on parts of .*?</table>", shown)
    assert len(re.findall('class="bar', table)) == 1


def test_what_has_no_bound_or_no_interval_is_told_as_such() -> None:
    def told_as(value: float | None, least: float | None, most: float | None) -> str:
        estimate = Estimate(
            value=value, least=least, most=most, low=None, high=None, tasks=3, problems=1
        )
        return told_estimate(estimate, "edit_distance")

    assert told_as(2.0, 2.0, 2.0) == "2.0"
    assert told_as(None, 2.0, None) == "2.0 or more"
    assert told_as(None, None, 2.0) == "2.0 or less"
    assert told_as(None, 2.0, 3.0) == "2.0 to 3.0"
    assert told_as(None, None, None) == "–"


def test_every_link_leads_to_a_section() -> None:
    for findings in (made_findings(), made_findings({"one": (None, "unknown")}, judged=False)):
        figure = Drawn("scaling", "Size", "Over size.", "<svg></svg>", "<svg></svg>")
        whole = sections(findings, [figure]) + appendix(findings)
        places = set(re.findall(r'<section id="(\w+)"', whole)) | {"browser"}
        links = re.findall(r'href="#(\w+)"', contents(findings, browser=True))
        assert len(links) > 5
        assert set(links) <= places

"""Findings in, the parts of the page out. Static: all of it is read without a script."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from fim_eval.report.figures import Drawn
from fim_eval.report.findings import Findings
from fim_eval.report.page.conduct import beside, ceiling_and_noise, failures, speed
from fim_eval.report.page.differences import differences
from fim_eval.report.page.markup import Html, join, tag, text
from fim_eval.report.page.parts import breakdowns
from fim_eval.report.page.results import main_table, scaling, truncation
from fim_eval.report.page.strategies import asking
from fim_eval.report.page.tables import fact_list, scrolled, section
from fim_eval.report.views import METRICS, kinds_of, strategies_of

_PROMPTS: dict[str, str] = {"ids": "token ids", "text": "text"}


def sections(findings: Findings, drawn: Sequence[Drawn]) -> Html:
    """Every section for which the findings hold anything, in the order of reading."""
    figures = {figure.name: figure for figure in drawn}
    made = [
        scaling(findings, figures),
        main_table(findings),
        differences(findings, figures),
        breakdowns(findings, figures),
        truncation(findings),
        asking(findings),
        speed(findings),
        failures(findings),
        ceiling_and_noise(findings),
        beside(findings),
    ]
    return join(*(each for each in made if each is not None))


def _marked(words: str) -> Html:
    """A sentence of `answer.md`, in which commands stand between backticks."""
    pieces = words.split("`")
    if len(pieces) % 2 == 0:
        return text(words)
    return join(*(tag("code", each) if nth % 2 else each for nth, each in enumerate(pieces)))


def answer(findings: Findings) -> Html:
    """The answer in words, and what to know before believing it."""
    first, *rest = findings.answer or ("Nothing was found: the runs hold no answers.",)
    caveats = (
        tag(
            "aside",
            tag("h2", "Before you believe it"),
            tag("ul", *(tag("li", _marked(each)) for each in findings.caveats)),
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
            fact_list(
                {
                    "data": run.dataset,
                    "server": run.server,
                    "asked": run.created_at,
                    "code": run.code_revision or "not known",
                    "prompts": _PROMPTS.get(run.prompt_form, "not known"),
                    "judged": f"in {run.isolation}" if run.isolation else "no",
                }
            ),
            scrolled(
                tag("pre", json.dumps(run.manifest, indent=2, ensure_ascii=False)),
                f"Manifest of {run.path}",
            ),
        )
        for run in findings.runs
    ]
    return join(
        section("definitions", "Definitions", tag("dl", *definitions)) if definitions else None,
        section("runs", "Runs and their manifests", *runs) if runs else None,
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

"""How it went: speed, failures, checks, and what others have published."""

from __future__ import annotations

import itertools
from typing import get_args

from fim_eval.report.findings import Findings
from fim_eval.report.page.markup import Html, tag
from fim_eval.report.page.tables import (
    cell,
    estimate_cell,
    head,
    if_narrow,
    model_name,
    section,
    table,
    tables_by_kind,
    told,
    told_count,
    told_decimal,
)
from fim_eval.report.views import METRICS, headline_rows
from fim_eval.words import Kind, VerdictOutcome


def speed(findings: Findings) -> Html | None:
    """Latency and throughput of each row of the main table."""
    rows = headline_rows(findings)
    if not rows:
        return None
    bodies: list[tuple[Kind, str | None, list[list[Html]]]] = [
        (
            kind,
            None,
            [
                [
                    head(model_name(findings, row.model), if_narrow(row.strategy)),
                    cell(row.strategy, class_="word if-wide"),
                    *(
                        cell(told_decimal(part, 2))
                        for part in (row.latency_s or (None, None, None))
                    ),
                    cell(told_count(row.completion_tokens)),
                    cell(told_decimal(row.wall_s, 1)),
                    cell(told_decimal(row.tokens_per_s, 0)),
                ]
                for row in of_kind
            ],
        )
        for kind, of_kind in itertools.groupby(rows, key=lambda row: row.kind)
    ]
    return section(
        "speed",
        "Latency and throughput",
        tables_by_kind(
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


def failures(findings: Findings) -> Html | None:
    """Verdicts, and tasks without an answer or a verdict."""
    rows = headline_rows(findings)
    if not rows:
        return None
    order = {name: place for place, name in enumerate(get_args(VerdictOutcome))}
    outcomes = sorted({name for row in rows for name in row.outcomes}, key=order.__getitem__)
    # A program and a request may both time out.
    failures = list(dict.fromkeys(name for row in rows for name in row.failures))
    heads = [
        "model", "strategy", *outcomes, "unjudged", *(f"no answer: {name}" for name in failures),
        "met the limit", "wrote no end", "ran past",
    ]  # fmt: skip
    bodies = []
    for kind, of_kind in itertools.groupby(rows, key=lambda row: row.kind):
        lines = [
            [
                head(model_name(findings, row.model), if_narrow(row.strategy)),
                cell(row.strategy, class_="word if-wide"),
                *(
                    cell(told_count(row.outcomes.get(name, 0 if row.judged else None)))
                    for name in outcomes
                ),
                cell(told_count(row.unjudged), class_="alert" if row.unjudged else None),
                *(
                    cell(
                        told_count(row.failures.get(name, 0)),
                        class_="alert" if row.failures.get(name) else None,
                    )
                    for name in failures
                ),
                *(
                    cell("unknown" if count is None else told_count(count))
                    for count in (row.truncated, row.no_end, row.ran_past)
                ),
            ]
            for row in of_kind
        ]
        bodies.append((kind, None, lines))
    unresolved = sum(row.tasks - row.answered + row.unjudged for row in rows)
    return section(
        "failures",
        "Outcomes, failures, unresolved",
        tag(
            "p",
            "Every task has an answer and a verdict."
            if unresolved == 0
            else f"{unresolved:,} times a task has no answer or no verdict: it is in every "
            "denominator, and rates with it are told as bounds.",
        ),
        tables_by_kind("Outcomes and failures in tasks", heads, bodies),
    )


def ceiling_and_noise(findings: Findings) -> Html | None:
    """Ceiling, floor, and what changed when the same was asked again."""
    checks = [
        [
            head(check.name),
            cell(f"{check.passed:,} of {check.tasks:,}"),
            cell(f"{100 * check.passed / check.tasks:.1f} %" if check.tasks else "–"),
            cell(check.detail, class_="word"),
        ]
        for check in findings.checks
    ]
    noise = [
        [
            head(each.model, if_narrow(each.strategy)),
            cell(each.strategy, class_="word if-wide"),
            cell(f"{each.tasks:,}"),
            *(
                cell("–" if count is None else f"{count:,}")
                for count in (each.text_changed, each.exact_match_changed, each.passed_changed)
            ),
        ]
        for each in findings.noise
    ]
    if not checks and not noise:
        return None
    return section(
        "checks",
        "Ceiling, floor and noise",
        table("Ceiling and floor", ("check", "passed", "share", "of"), [(None, checks)])
        if checks
        else None,
        table(
            "What changed when the same was asked again",
            ("asked twice", "strategy", "tasks", "other text", "other exact match", "other pass"),
            [(None, noise)],
        )
        if noise
        else tag(
            "p", "No task was asked twice: the noise of the server is not known.", class_="note"
        ),
    )


def beside(findings: Findings) -> Html | None:
    """Published numbers beside ours."""
    if not findings.beside:
        return None
    lines = [
        [
            head(each.model),
            cell(f"{each.kind}, {each.strategy}", class_="word"),
            cell(METRICS[each.metric], class_="word"),
            estimate_cell(each.ours, each.metric),
            cell(told(each.published, each.metric)),
            cell(
                told(
                    None if each.ours.value is None else each.ours.value - each.published,
                    each.metric,
                    signed=True,
                )
            ),
            cell(each.source, class_="word source"),
        ]
        for each in findings.beside
    ]
    return section(
        "beside",
        "Published numbers beside ours",
        table(
            "Published numbers beside ours",
            ("model", "tasks cut as", "metric", "ours, %", "published, %", "difference", "source"),
            [(None, lines)],
        ),
    )

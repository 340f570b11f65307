"""Findings as files: for people, for spreadsheets, for papers and for other programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from fim_eval.errors import RunDirectoryError
from fim_eval.report.definitions import METRIC_NAMES, billions
from fim_eval.report.findings import (
    Estimate,
    Findings,
    Metric,
    Pair,
    Row,
    StrategyDifference,
)
from fim_eval.report.scored import ScoredRun
from fim_eval.terminal import printable

TABLE: tuple[Metric, ...] = (
    "pass_at_1", "pass_at_1_sensitive", "exact_match", "edit_similarity", "edit_distance",
    "bits_per_character",
)  # fmt: skip
"""Columns of the main table."""

Cells = Callable[[Estimate, Metric], str]


def write_findings(found: Findings, runs: Sequence[ScoredRun], folder: Path) -> list[Path]:
    """Write what a report finds into `folder`; return the paths.

    report.json     all of `Findings`
    answer.md       the answer in words, the main table, what to know before believing it
    pairs.csv       one row per pair of models and metric: see `pairs_table`
    strategies.csv  one row per model, pair of strategies and metric: see `strategies_table`
    table.tex       the main table, for LaTeX with booktabs
    tasks.parquet   one row per task, model, strategy and policy: see `tasks_table`

    Args:
        found: of `analysis.findings`.
        runs: that it is over.
        folder: made if need be.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    texts = {
        "report.json": found.model_dump_json(indent=1) + "\n",
        "answer.md": as_markdown(found),
        "table.tex": as_latex(found),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            # What a model's name cannot be encoded with is shown, not dropped.
            content = text.encode("utf-8", "backslashreplace")
            (folder / name).write_bytes(content)
        pairs_table(found).write_csv(folder / "pairs.csv")
        strategies_table(found).write_csv(folder / "strategies.csv")
        tasks_table(runs).write_parquet(folder / "tasks.parquet")
    except OSError as error:
        raise RunDirectoryError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "name a folder of your own with --out"
        ) from error
    return [folder / name for name in (*texts, "pairs.csv", "strategies.csv", "tasks.parquet")]


def pairs_table(found: Findings) -> pl.DataFrame:
    """One row per pair of models, strategy, kind, policy and metric.

    Columns: those of `findings.Pair`, its difference spread over difference (null if something is
    unresolved), least, most, low, high f64; tasks, problems i64.
    """
    words = ("smaller", "larger", "strategy", "kind", "policy", "metric")
    counts = ("tasks", "problems", "both", "only_smaller", "only_larger", "neither")
    numbers = (
        "difference", "least", "most", "low", "high", "p_mcnemar", "p_permutation", "p_holm",
        "noise", "detectable",
    )  # fmt: skip
    schema = (
        dict.fromkeys(words, pl.String)
        | dict.fromkeys((*numbers[:5], *counts, *numbers[5:]), pl.Float64)
        | dict.fromkeys(counts, pl.Int64)
        | {"finding": pl.String}
    )
    return pl.DataFrame(list(map(_spread, found.pairs)), schema=schema, orient="row")


def strategies_table(found: Findings) -> pl.DataFrame:
    """One row per model, pair of strategies, kind and metric, under the kind's headline policy.

    Columns: those of `findings.StrategyDifference`, its difference spread as in `pairs_table`.
    """
    words = ("model", "strategy", "than", "kind", "policy", "metric")
    numbers = ("difference", "least", "most", "low", "high")
    tests = ("p_permutation", "p_holm", "noise")
    schema = (
        dict.fromkeys(words, pl.String)
        | dict.fromkeys(numbers, pl.Float64)
        | dict.fromkeys(("tasks", "problems"), pl.Int64)
        | dict.fromkeys(tests, pl.Float64)
        | {"finding": pl.String}
    )
    rows = list(map(_spread, found.strategy_differences))
    return pl.DataFrame(rows, schema=schema, orient="row")


def _spread(one: Pair | StrategyDifference) -> dict[str, object]:
    """A record whose difference stands beside its other columns."""
    return (
        one.model_dump(exclude={"difference"})
        | {"difference": one.difference.value}
        | one.difference.model_dump(exclude={"value"})
    )


def tasks_table(runs: Sequence[ScoredRun]) -> pl.DataFrame:
    """One row per task, model, strategy and policy, in the order of the runs.

    Columns: run str (its path), dataset str, split str (`unknown` if the run came without
    problems), then those of `table.score_run`.
    """
    frames = [
        run.scores.select(
            pl.lit(str(run.path)).alias("run"),
            pl.lit(run.dataset).alias("dataset"),
            pl.col("problem_id")
            .replace_strict(run.splits, default="unknown", return_dtype=pl.String)
            .alias("split"),
            pl.col(
                "model", "parameters", "infills", "strategy", "kind", "policy", "problem_id",
                "task_id",
            ),
            pl.all().exclude(
                "model", "parameters", "infills", "strategy", "kind", "policy", "problem_id",
                "task_id",
            ),
        )
        for run in runs
    ]  # fmt: skip
    return pl.concat(frames)


def as_markdown(found: Findings) -> str:
    """The answer, the main table and the caveats. Names of models are text, never markup."""
    first, *rest = found.answer
    rows = headline_rows(found)
    shown = [metric for metric in TABLE if any(metric in row.metrics for row in rows)]
    lines = [f"**{_markdown(first)}**", ""]
    if rest:
        lines += [_markdown(sentence) for sentence in rest] + [""]
    header = ["model", "parameters", "strategy", "kind", "policy", "n/N", "problems"]
    lines.append(f"| {' | '.join([*header, *(_heading(metric) for metric in shown)])} |")
    lines.append("|" + "---|" * 5 + "---:|" * (2 + len(shown)))
    for row in rows:
        words = [
            _markdown(row.model), billions(row.parameters) if row.parameters else "unknown",
            row.strategy, row.kind, row.policy, f"{row.answered:,}/{row.tasks:,}",
            f"{row.problems:,}",
        ]  # fmt: skip
        numbers = [_with_interval(row, metric) for metric in shown]
        lines.append(f"| {' | '.join([*words, *numbers])} |")
    lines += [
        "",
        "In brackets 95 % intervals, from a bootstrap over problems. Rates in percent.",
        "",
        "Before believing it:",
        "",
        *(f"* {_markdown(caveat)}" for caveat in found.caveats),
        *([] if found.caveats else ["* Nothing was found that stands against it."]),
    ]
    return "\n".join(lines) + "\n"


def as_latex(found: Findings) -> str:
    r"""The main table as a `tabular`; needs booktabs. Names of models are text, never commands."""
    rows = headline_rows(found)
    shown = [metric for metric in TABLE if any(metric in row.metrics for row in rows)]
    headings = [_latex(_heading(metric)) for metric in shown]
    lines = [
        "% \\usepackage{booktabs}. In brackets 95 % intervals, bootstrap over problems.",
        f"\\begin{{tabular}}{{lllr{'r' * len(shown)}}}",
        "\\toprule",
        " & ".join(["model", "strategy", "holes", "$n/N$", *headings]) + " \\\\",
        "\\midrule",
    ]
    for row in rows:
        words = [_latex(row.model), row.strategy, row.kind, f"{row.answered}/{row.tasks}"]
        numbers = [_latex(_with_interval(row, metric)) for metric in shown]
        lines.append(" & ".join([*words, *numbers]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def headline_rows(found: Findings) -> list[Row]:
    """The rows of the main table: those under the headline policy of their kind."""
    return [row for row in found.rows if row.policy == found.headline_policy[row.kind]]


def _heading(metric: Metric) -> str:
    unit = {"edit_distance": "", "bits_per_character": ""}.get(metric, " %")
    return METRIC_NAMES[metric] + unit


def _with_interval(row: Row, metric: Metric) -> str:
    estimate = row.metrics.get(metric)
    if estimate is None:
        return "–"
    digits = {"edit_distance": 1, "bits_per_character": 3}.get(metric, 1)
    scale = 1 if metric in ("edit_distance", "bits_per_character") else 100

    def figure(value: float | None) -> str:
        return "?" if value is None else f"{scale * value:.{digits}f}"

    shown = figure(estimate.least)
    if estimate.value is None:
        shown += f" to {figure(estimate.most)}"
    return f"{shown} [{figure(estimate.low)}, {figure(estimate.high)}]"


def _markdown(text: str) -> str:
    r"""Text that Markdown shows as it is.

    >>> _markdown("<b>a_b|*c*")
    '&lt;b&gt;a\\_b\\|\\*c\\*'
    """
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~!])", r"\\\1", text)


_LATEX = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "–": "--",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


def _latex(text: str) -> str:
    r"""Text that LaTeX shows as it is.

    >>> _latex("a_b 50 %")
    'a\\_b 50 \\%'
    """
    return "".join(_LATEX.get(character, character) for character in printable(text))

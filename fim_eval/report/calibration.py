"""Our numbers on the official infilling tasks beside those that others have published."""

from __future__ import annotations

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from fim_eval.published import published
from fim_eval.terminal import printable

METRICS = ("pass_at_1", "exact_match")


def beside_published(summary: pl.DataFrame, model_ids: dict[str, str | None]) -> pl.DataFrame:
    """One row per run, of the whole completion, and metric that somebody has reported.

    Args:
        summary: of `summarise`.
        model_ids: the card's id of each model name in it; None: not in our table.

    Columns:
        model, strategy, kind, metric str.
        ours f64 in [0, 1], null if unresolved; ours_low, ours_high: its bounds.
        published f64 in [0, 1]. difference f64: ours - published. tasks u32: ours.
        source str: where it was published.
    """
    rows = []
    for row in summary.filter(pl.col("policy") == "raw").iter_rows(named=True):
        for metric in METRICS:
            model_id = model_ids.get(row["model"])
            number = published(model_id, row["kind"], row["strategy"], metric)
            if number is None:
                continue
            ours = row[metric]
            rows.append(
                (
                    row["model"], row["strategy"], row["kind"], metric, ours, row[f"{metric}_low"],
                    row[f"{metric}_high"], number.value,
                    None if ours is None else ours - number.value, row["tasks"], number.source,
                )
            )  # fmt: skip
    schema = {
        "model": pl.String,
        "strategy": pl.String,
        "kind": pl.String,
        "metric": pl.String,
        "ours": pl.Float64,
        "ours_low": pl.Float64,
        "ours_high": pl.Float64,
        "published": pl.Float64,
        "difference": pl.Float64,
        "tasks": pl.UInt32,
        "source": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def show_calibration(table: pl.DataFrame) -> Table:
    """The comparison for a terminal, in percent and percentage points."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("", overflow="fold")
    for header in ("tasks", "ours %", "published %", "difference"):
        shown.add_column(header, justify="right", no_wrap=True)
    for row in table.iter_rows(named=True):
        name = f"{row['model']}, {row['strategy']}, {row['kind']}, {row['metric']}"
        low, high = row["ours_low"], row["ours_high"]
        ours = "–" if low is None else f"{100 * low:.1f}"
        if low is not None and low != high:
            ours += f"–{100 * high:.1f}"
        difference = "–" if row["difference"] is None else f"{100 * row['difference']:+.1f}"
        shown.add_row(
            Text(printable(name)), str(row["tasks"]), ours, f"{100 * row['published']:.1f}",
            difference,
        )  # fmt: skip
    return shown

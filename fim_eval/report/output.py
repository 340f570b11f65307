"""Where a summary goes: files for other tools, a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from fim_eval.errors import RunDirectoryError
from fim_eval.journal import has_manifest
from fim_eval.terminal import left_out, no_room, printable


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run directories among `paths`, and those directly inside of them, each once.

    Raises:
        RunDirectoryError: a path neither is nor holds a run directory.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        runs = (
            [path]
            if has_manifest(path)
            else sorted(
                child for child in (path.iterdir() if path.is_dir() else ()) if has_manifest(child)
            )
        )
        if not runs:
            raise RunDirectoryError(
                f"{path}: neither is nor holds a run directory; `fim-eval run --out {path}` "
                "makes one"
            )
        found.update({run.resolve(): run for run in runs})
    return list(found.values())


def store(summary: pl.DataFrame, folder: Path) -> list[Path]:
    """Write the summary as `summary.parquet`, `.csv` and `.json`; return their paths.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    paths = [folder / f"summary.{suffix}" for suffix in ("parquet", "csv", "json")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        summary.write_parquet(paths[0])
        summary.write_csv(paths[1])
        summary.write_json(paths[2])
    except OSError as error:
        raise RunDirectoryError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "name a folder of your own with --out"
        ) from error
    return paths


SPARED = (
    "wall\ns", "tokens\n/s", "TPOT\nms", "TTFT\ns", "edit d.\nmedian", "EM %\nrstrip",
    "pass@1 %\nsensitive", "edit d.\nmean", "bits\n/char", "edit\nsim. %",
)  # fmt: skip
"""Left out first where a terminal is narrow."""

NAMES_WIDTH = 26
"""Of the first column at least: names that are longer are folded."""


def show(summary: pl.DataFrame, width: int | None = None) -> Table:
    """The summary for a terminal: a line per model, strategy and kind, then a row per policy.

    Args:
        summary: see `summarise`.
        width: columns of the terminal; what does not fit is left out, and named below. None: all.
    """
    columns = _columns(summary)
    cells = {header: [cell.plain for cell in column] for header, column in columns.items()}
    missing = left_out(cells, SPARED, None if width is None else width - NAMES_WIDTH)
    for header in missing:
        del columns[header]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=17)
    for header in columns:
        table.add_column(header, justify="right", no_wrap=True)
    table.caption = no_room(missing, "see summary.csv")
    before = ""
    for place, row in enumerate(summary.iter_rows(named=True)):
        # A server chooses its model's name: neither markup nor control codes pass.
        names = printable(f"{row['model']}, {row['strategy']}, {row['kind']}")
        if names != before:
            table.add_row(Text(names, "bold"))
        before = names
        table.add_row(Text(f"  {row['policy']}"), *(column[place] for column in columns.values()))
    return table


def _columns(summary: pl.DataFrame) -> dict[str, list[Text]]:
    """The cells of every column that has something to say, by header."""
    judged = not summary["pass_at_1_low"].is_null().all()
    scored = not summary["gold_tasks"].is_null().all()
    streamed = bool(summary["streamed"].sum())
    columns: dict[str, list[Text]] = {}
    for row in summary.iter_rows(named=True):
        answered = Text(
            f"{row['answered']}/{row['tasks']}", "bold red" if row["unresolved"] else ""
        )
        cells: dict[str, str | Text] = {"n/N": answered}
        if judged:
            cells["pass@1\n%"] = _rate(row, "pass_at_1")
            cells["pass@1 %\nsensitive"] = _rate(row, "pass_at_1_sensitive")
        cells |= {
            "exact\nmatch %": _rate(row, "exact_match"),
            "EM %\nrstrip": _rate(row, "exact_match_rstrip"),
            "edit d.\nmean": _number(row["edit_distance_mean"], 1),
            "edit d.\nmedian": _number(row["edit_distance_median"], 1),
            "edit\nsim. %": _rate(row, "edit_similarity"),
        }
        if scored:
            cells["bits\n/char"] = _bits(row)
        cells |= {
            "tokens\n/s": _number(row["tokens_per_s"], 0),
            "wall\ns": _number(row["wall_s"], 1),
        }
        if streamed:
            cells["TTFT\ns"] = _number(row["ttft_s"], 3)
            cells["TPOT\nms"] = _number(row["tpot_ms"], 1)
        for header, cell in cells.items():
            columns.setdefault(header, []).append(cell if isinstance(cell, Text) else Text(cell))
    return columns


def _rate(row: dict[str, float | None], name: str) -> str:
    """A rate in percent, or its bounds where something is unresolved."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None:
        return "–"
    if low == high:
        return f"{100 * low:.1f}"
    return f"{100 * low:.1f}–{100 * high:.1f}"


def _bits(row: dict[str, float | None]) -> str:
    """Bits per character of the reference, and n/N if they are not known of every task."""
    shown = _number(row["bits_per_character"], 3)
    if row["gold_tasks"] in (None, row["tasks"]):
        return shown
    return f"{shown} ({row['gold_tasks']}/{row['tasks']})"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"

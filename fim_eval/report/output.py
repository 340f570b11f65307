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
from fim_eval.terminal import printable


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


def show(summary: pl.DataFrame) -> Table:
    """The summary for a terminal: a line per model, strategy and kind, then a row per policy."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=17)
    judged = not summary["pass_at_1_low"].is_null().all()
    pass_headers = ("pass@1\n%", "pass@1 %\nsensitive") if judged else ()
    scored = not summary["gold_tasks"].is_null().all()
    streamed = bool(summary["streamed"].sum())
    for header in (
        "n/N", *pass_headers, "exact\nmatch %", "EM %\nrstrip", "edit d.\nmean",
        "edit d.\nmedian", "edit\nsim. %", *(("bits\n/char",) if scored else ()),
        "tokens\n/s", "wall\ns", *(("TTFT\ns", "TPOT\nms") if streamed else ()),
    ):  # fmt: skip
        table.add_column(header, justify="right", no_wrap=True)
    before = ""
    for row in summary.iter_rows(named=True):
        # A server chooses its model's name: neither markup nor control codes pass.
        names = printable(f"{row['model']}, {row['strategy']}, {row['kind']}")
        if names != before:
            table.add_row(Text(names, "bold"))
        before = names
        table.add_row(
            Text(f"  {row['policy']}"),
            Text(f"{row['answered']}/{row['tasks']}", "bold red" if row["unresolved"] else ""),
            *((_rate(row, "pass_at_1"), _rate(row, "pass_at_1_sensitive")) if judged else ()),
            _rate(row, "exact_match"),
            _rate(row, "exact_match_rstrip"),
            _number(row["edit_distance_mean"], 1),
            _number(row["edit_distance_median"], 1),
            _rate(row, "edit_similarity"),
            *((_bits(row),) if scored else ()),
            _number(row["tokens_per_s"], 0),
            _number(row["wall_s"], 1),
            *((_number(row["ttft_s"], 3), _number(row["tpot_ms"], 1)) if streamed else ()),
        )
    return table


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

"""The command that shows what came of runs: `report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fim_eval.cli.console import say
from fim_eval.errors import RunDirectoryError


def report(
    paths: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders that hold them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the table's files; by default the one that was named. Each run's own "
            "table is stored beside its manifest in any case.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the rows as JSON instead.")
    ] = False,
) -> None:
    """Print and store the table of one or more runs; asks nobody."""
    from fim_eval.journal import has_manifest

    is_parent = len(paths) == 1 and not has_manifest(paths[0])
    tell(paths, out or (paths[0] if is_parent else None), as_json=as_json)


def tell(paths: Sequence[Path], folder: Path | None, *, as_json: bool) -> None:
    """Print the table of the runs; store it in `folder`, and each run's own beside its manifest."""
    import polars as pl
    from rich.console import Console

    from fim_eval.journal import read_manifest
    from fim_eval.report import find_runs, score_run, show, store, summarise

    runs = find_runs(paths)
    if len({read_manifest(path).identity.tasks_sha256 for path in runs}) > 1:
        say("these runs hold different tasks: compare rows only where n/N and the tasks agree")
    scores = [score_run(path) for path in runs]
    summary = summarise(pl.concat(scores))
    if as_json:
        sys.stdout.write(summary.write_json() + "\n")
    else:
        # A pipe or a log has no width: wide enough for every column.
        console = Console() if sys.stdout.isatty() else Console(width=140)
        console.print(show(summary))
    stored = []
    for path, own in zip(runs, scores, strict=True):
        try:
            store(summarise(own), path)
            stored.append(path)
        except RunDirectoryError as error:  # someone else's run can be read all the same
            say(f"not stored: {error}")
    if folder is not None:
        store(summary, folder)
        stored.append(folder)
    say(f"stored as summary.parquet, .csv and .json in {', '.join(map(str, stored)) or 'no place'}")

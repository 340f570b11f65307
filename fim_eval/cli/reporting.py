"""The command that shows what came of runs: `report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from fim_eval.cli.console import cores, say
from fim_eval.errors import RunDirectoryError
from fim_eval.words import Policy

if TYPE_CHECKING:
    from fim_eval.report import CountedRun, ScoredRun

SHOWN = "raw,reference-lines"
"""What a terminal shows unless asked for more: the answer itself, and the usual comparison."""


def report(
    paths: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders that hold them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the whole report: report.json, answer.md, pairs.csv, table.tex, "
            "tasks.parquet and the table. Without it the table alone is stored, in the folder that "
            "was named. Each run's own table is stored beside its manifest in any case.",
        ),
    ] = None,
    policies: Annotated[
        str,
        typer.Option(
            "--policies",
            help="Truncation policies to print, separated by commas, or all; files hold all.",
        ),
    ] = SHOWN,
    resamples: Annotated[
        int, typer.Option("--resamples", min=100, help="Draws of every interval and test.")
    ] = 10_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draws.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the rows as JSON instead.")
    ] = False,
) -> None:
    """Print the table of one or more runs; --out writes the whole report. Asks nobody."""
    from fim_eval.journal import has_manifest
    from fim_eval.report import counted_of, find_runs, read_scored

    shown = named_policies(policies)
    if out is None:
        is_parent = len(paths) == 1 and not has_manifest(paths[0])
        tell(paths, paths[0] if is_parent else None, as_json=as_json, policies=shown)
        return
    runs = read_scored(find_runs(paths), workers=cores(), browse=True)
    counts = [counted_of(run.path, run.manifest, run.scores) for run in runs]
    _tell(counts, out, as_json=as_json, policies=shown)
    write_report(runs, out, resamples=resamples, seed=seed)


def write_report(runs: Sequence[ScoredRun], folder: Path, *, resamples: int, seed: int) -> None:
    """Write the whole report over `runs`, read with `browse`, into `folder`; say the answer."""
    from fim_eval.report import findings, join_browsed, write_findings
    from fim_eval.report.page import write_report_page

    found = findings(runs, seed=seed, resamples=resamples)
    tasks = join_browsed([run.browsed for run in runs if run.browsed is not None])
    written = [
        *write_findings(found, runs, folder),
        *write_report_page(found, tasks, folder),
    ]
    say(found.answer[0])
    # Of the figures only their folder: there are twenty.
    parts = [path.relative_to(folder).parts for path in written]
    beside = dict.fromkeys(part[0] + "/" * (len(part) > 1) for part in parts)
    say(f"{folder}: {', '.join(beside)}")


MOST_NAMED = 2
"""Run directories that are named one by one where all of them were written to."""

LISTED = 20
"""Flipped tasks that a terminal lists of each kind; --json has all."""


def compare(
    first: Annotated[Path, typer.Argument(help="Run directory.")],
    second: Annotated[Path, typer.Argument(help="Another one, of the same tasks.")],
    policy: Annotated[
        Policy, typer.Option("--policy", help="Truncation policy that answers are scored under.")
    ] = "reference-lines",
    resamples: Annotated[
        int, typer.Option("--resamples", min=100, help="Draws of every interval and test.")
    ] = 10_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draws.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print it as JSON, with every flipped task.")
    ] = False,
) -> None:
    """What flipped between two runs of the same tasks: another server, version or model."""
    from rich.console import Console

    from fim_eval.report import compare as compared
    from fim_eval.report import find_runs, read_scored, show_comparison
    from fim_eval.terminal import printable

    paths = find_runs([first]) + find_runs([second])
    if len(paths) != 2:
        raise typer.BadParameter(f"{len(paths)} run directories are named; compare takes two")
    one, other = read_scored(paths, workers=cores())
    found = compared(one, other, policy, seed=seed, resamples=resamples)
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=1) + "\n")
        return
    for name, values in found.differing.items():
        before, now = (printable(str(value)) for value in values)
        say(f"{name}: {before} in the first, {now} in the second")
    if found.only_in_first or found.only_in_second:
        say(
            f"{found.only_in_first} tasks are only in the first, {found.only_in_second} only in "
            "the second; they are left out"
        )
    if not any(flip.metric == "passed" for flip in found.flips):
        say("passed tests are not compared: only judged runs have them (`fim-eval verify`)")
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(show_comparison(found, console.width if sys.stdout.isatty() else None))
    for flip in found.flips:
        for word, names in (("changed" if flip.metric == "text" else "gained", flip.gained),
                            ("lost", flip.lost)):  # fmt: skip
            for name in names[:LISTED]:
                sys.stdout.write(f"{flip.metric} {word}: {printable(name)}\n")
            if len(names) > LISTED:
                say(f"{flip.metric} {word}: {len(names) - LISTED} more; --json lists all")


def named_policies(names: str) -> tuple[Policy, ...]:
    """The policies of a list with commas."""
    known = get_args(Policy)
    chosen = known if names == "all" else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise typer.BadParameter(
                f"{name} is none of {', '.join(known)}, all", param_hint="--policies"
            )
    return cast("tuple[Policy, ...]", tuple(chosen))


def tell(
    paths: Sequence[Path], folder: Path | None, *, as_json: bool, policies: Sequence[Policy] = ()
) -> None:
    """Print the table of the runs; store it in `folder`, and each run's own beside its manifest.

    Of `policies` only: by default those of `SHOWN`. Files and JSON hold all.
    """
    from fim_eval.report import find_runs, read_counted, read_each

    runs = read_each(find_runs(paths), read_counted, cores())
    _tell(runs, folder, as_json=as_json, policies=policies)


def _tell(
    runs: Sequence[CountedRun], folder: Path | None, *, as_json: bool, policies: Sequence[Policy]
) -> None:
    import polars as pl
    from rich.console import Console

    from fim_eval.report import show, store, summary_of

    manifests = [run.manifest for run in runs]
    for run in runs:
        if (shard := run.manifest.shard) is not None:
            say(
                f"{run.path}: shard {shard.shard}, {shard.tasks} of {run.manifest.identity.tasks} "
                "tasks; `fim-eval merge` puts the shards of a run together"
            )
    if len({(one.shard or one.identity).tasks_sha256 for one in manifests}) > 1:
        say("these runs hold different tasks: compare rows only where n/N and the tasks agree")
    summary = summary_of(runs)
    if as_json:
        sys.stdout.write(summary.write_json() + "\n")
    else:
        # A pipe or a log has no width: wide enough for every column.
        terminal = sys.stdout.isatty()
        console = Console() if terminal else Console(width=140)
        chosen = summary.filter(pl.col("policy").is_in(policies or named_policies(SHOWN)))
        console.print(show(chosen, console.width if terminal else None))
    stored = []
    for run in runs:
        try:
            store(summary_of([run]), run.path)
            stored.append(str(run.path))
        except RunDirectoryError as error:  # someone else's run can be read all the same
            say(f"not stored: {error}")
    if len(stored) > MOST_NAMED:
        stored = [f"the directories of {len(stored)} runs"]
    if folder is not None:
        store(summary, folder)
        stored.append(str(folder))
    say(f"stored as summary.parquet, .csv and .json in {' and '.join(stored) or 'no place'}")

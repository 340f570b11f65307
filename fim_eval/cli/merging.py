"""The command that puts parts of a run together: `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fim_eval.cli.console import say
from fim_eval.cli.options import UNRESOLVED


def merge(
    parts: Annotated[
        list[Path],
        typer.Argument(
            metavar="PART...", help="Run directories, one of each --shard: all of them."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the whole run; a new one.")],
) -> None:
    """Put the parts of one run together, as `--shard` 1/4 to 4/4 asked them.

    Exit code 3 if tasks of the run stay unanswered.
    """
    from fim_eval.merge import merge_runs

    merged = merge_runs(parts, out)
    say(
        f"{out}: {merged.answered}/{merged.tasks} answered, from {len(parts)} parts"
        + (f"; {merged.verdicts} verdicts" if merged.verdicts else "")
        + f"; `fim-eval verify {out}` judges what is left"
    )
    if merged.audits:
        say(
            f"left where they are: {', '.join(map(str, merged.audits))}; audits are put together "
            "if all parts have one. The command of the run without --shard, with --audit and "
            f"--out {out}, asks one of the whole"
        )
    raise typer.Exit(UNRESOLVED if merged.answered < merged.tasks else 0)

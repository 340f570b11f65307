"""Commands that take others' completions and give ours: `import`, `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fim_eval.cli.asking import read_suite
from fim_eval.cli.console import say, write
from fim_eval.cli.options import STANDARD, UNRESOLVED, CardName, TasksFile
from fim_eval.words import Policy, Strategy


def export(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    out: Annotated[
        Path, typer.Option("--out", help="File to write; - is standard output.")
    ] = STANDARD,
    format_: Annotated[
        Literal["humaneval-infilling"],
        typer.Option("--format", help="Lines of task_id and completion."),
    ] = "humaneval-infilling",
    policy: Annotated[
        Policy, typer.Option("--policy", help="How answers are cut first; raw: not at all.")
    ] = "raw",
) -> None:
    """Write a run's answers as samples that other evaluators read.

    Exit code 3 if a task has no answer.
    """
    from fim_eval.interchange import export_run

    exported = export_run(run, policy)
    write(out, exported.lines)
    say(f"{exported.answered} of {exported.tasks} tasks, {policy}, as {format_} samples")
    if not exported.official:
        say("the tasks, and their ids, are ours: the official evaluator does not know them")
    if exported.answered < exported.tasks:
        say(f"{exported.tasks - exported.answered} tasks have no answer, and no line")
        raise typer.Exit(UNRESOLVED)


def import_(
    file: Annotated[
        Path, typer.Argument(help="Samples, .jsonl or .jsonl.gz: task_id and completion a line.")
    ],
    tasks_file: TasksFile,
    model: Annotated[str, typer.Option("--model", help="Whose completions they are.")],
    strategy: Annotated[
        Strategy,
        typer.Option("--strategy", help="How they were asked for: the file does not say."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Run directory to make.")],
    card: CardName = None,
) -> None:
    """Make a run directory of others' completions, for `verify` and `report`.

    Exit code 3 if a task has no completion.
    """
    from fim_eval.generate import code_revision
    from fim_eval.interchange import import_run

    suite = read_suite(tasks_file)
    imported = import_run(
        file,
        out,
        tasks=list(suite.tasks),
        problems=suite.problems,
        facts=suite.facts,
        model=model,
        strategy=strategy,
        card=card,
        code_revision=code_revision(),
    )
    say(
        f"{out}: {imported.completions} completions to {imported.answered} of {imported.tasks} "
        "tasks; prompts, sampling and server are not known and stay so"
    )
    if imported.samples > 1:
        say(
            f"up to {imported.samples} completions of a task: the first is its answer, the others "
            "are kept and not scored"
        )
    if not suite.problems:
        say("the tasks came without their problems: `fim-eval verify` needs --problems")
    if imported.answered < imported.tasks:
        say(f"{imported.tasks - imported.answered} tasks have no completion: unresolved")
        raise typer.Exit(UNRESOLVED)

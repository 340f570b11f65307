"""The command that holds the instrument against the literature: `calibrate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fim_eval.cli.asking import named_strategies
from fim_eval.cli.console import say
from fim_eval.cli.judging import jail_for
from fim_eval.cli.options import (
    DEFAULT_KEY_ENV,
    Batch,
    CardName,
    IsolationName,
    KeyEnv,
    Limit,
    MaxConcurrency,
    ModelName,
    ProbeFirst,
    TokenizerSource,
    Workers,
)
from fim_eval.cli.running import api_key, ask_each, check_each
from fim_eval.errors import DatasetError


def calibrate(
    files: Annotated[
        list[Path], typer.Argument(help="Files of HumanEval-Infilling (.jsonl.gz), one or more.")
    ],
    endpoint: Annotated[
        str, typer.Option("--endpoint", help="Full base URL, as in https://host/prefix/v1.")
    ],
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", help="Folder for the run directories.")],
    strategies: Annotated[
        str, typer.Option("--strategies", help="Separated by commas.")
    ] = "fim-psm,fim-spm",
    tokenizer: TokenizerSource = None,
    card: CardName = None,
    limit: Limit = None,
    max_concurrency: MaxConcurrency = 512,
    batch: Batch = 16,
    api_key_env: KeyEnv = DEFAULT_KEY_ENV,
    probe_first: ProbeFirst = True,
    isolation: IsolationName = "auto",
    workers: Workers = None,
) -> None:
    """Ask a model the official infilling tasks, and put what others report beside our numbers."""
    from fim_eval.generate import Request
    from fim_eval.recipe import Recipe
    from fim_eval.study import run_path
    from fim_eval.suite import build_suite

    requests = []
    for file in files:
        suite = build_suite(str(file), "test", None, say)
        if suite.facts is None or suite.facts.dataset.name != "humaneval-infilling":
            raise DatasetError(
                f"{file}: is no file of HumanEval-Infilling; they are at "
                "https://github.com/openai/human-eval-infilling/tree/master/data"
            )
        requests += [
            Request(
                tasks=suite.tasks,
                task_facts=suite.facts,
                problems=suite.problems,
                recipe=Recipe(
                    model=model, strategy=strategy, card=card, context="none", tokenizer=tokenizer
                ),
                endpoint=endpoint,
                out=run_path(out / suite.facts.kind, model, strategy),
                limit=limit,
                concurrency=max_concurrency,
                batch=batch,
                api_key_env=api_key_env,
                api_key=api_key(api_key_env),
            )
            for strategy in named_strategies(strategies)
        ]
    check_each(requests)
    jail = jail_for(isolation)
    folders = list(dict.fromkeys(request.out.parent for request in requests))
    code = ask_each(requests, folders, jail, workers, probe_first=probe_first)
    tell_calibration(folders, limit)
    raise typer.Exit(code)


def tell_calibration(folders: list[Path], limit: int | None) -> None:
    """Print our numbers beside published ones, and store them in each folder."""
    import polars as pl
    from rich.console import Console

    from fim_eval.journal import read_manifest
    from fim_eval.report import (
        beside_published,
        find_runs,
        score_run,
        show_calibration,
        summarise,
    )

    runs = find_runs([folder for folder in folders if folder.exists()])
    identities = [read_manifest(run).identity for run in runs]
    summary = summarise(pl.concat([score_run(run) for run in runs]))
    table = beside_published(summary, {each.model: each.model_id for each in identities})
    if table.is_empty():
        say("nothing has been published of this model on these tasks")
        return
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(show_calibration(table))
    for source in table["source"].unique().sort():
        say(f"published: {source}")
    if limit is not None:
        say(f"only the first {limit} tasks were asked of each file; published numbers are of all")

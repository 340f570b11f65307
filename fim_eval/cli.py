"""The command line: parse, build the parts, print, exit code. The only place that prints.

Exit codes: 0 all tasks answered; 1 the run cannot go on; 2 wrong usage; 3 finished, but some tasks
stay without an answer; 130 interrupted. Results go to standard output, all else to standard error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args

import typer

from fim_eval.errors import DatasetError, EndpointError, FimEvalError, RunDirectoryError
from fim_eval.terminal import printable
from fim_eval.words import Context, Kind, Strategy

if TYPE_CHECKING:
    from fim_eval.generate import Outcome, Request, RunResult
    from fim_eval.records import InfillTask, TaskFacts

ResultT = TypeVar("ResultT")

FAILED = 1
UNRESOLVED = 3
INTERRUPTED = 130
DEFAULT_KEY_ENV = "FIM_EVAL_API_KEY"
STANDARD = Path("-")
"""Standard input or output."""

app = typer.Typer(
    help="How code infilling improves with model size: tasks, prompts, runs and their table.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TasksFile = Annotated[
    Path, typer.Option("--tasks", help="Task file from `fim-eval tasks`; - is standard input.")
]
ModelName = Annotated[str, typer.Option("--model", help="Name the server gives the model.")]
CardName = Annotated[
    str | None,
    typer.Option(
        "--card", help="Which model of our table it is, if the server's name does not say."
    ),
]
TokenizerSource = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Folder or hub repository with tokenizer.model. For fim-* by default the model's own "
        "repository; for lr by default none: the server tokenises text.",
    ),
]
ContextChoice = Annotated[
    Context, typer.Option("--context", help="Show the problem's text above the program, or not.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, help="Most new tokens; by default 64 for a line."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N tasks.")]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, help="Requests in flight.")]
KeyEnv = Annotated[
    str,
    typer.Option(
        "--api-key-env", help="Environment variable that holds the API key, if one is needed."
    ),
]
Problems = Annotated[
    str,
    typer.Option(
        "--problems",
        help="mbpp, mbpp-sanitized, humaneval, starter, or a path (.jsonl, .json, .parquet).",
    ),
]
SplitName = Annotated[str, typer.Option("--split", help="prompt, test, validation, train or all.")]
KindName = Annotated[Kind, typer.Option("--kind", help="Kind of hole.")]


@app.command()
def tasks(
    problems: Problems,
    out: Annotated[Path, typer.Option("--out", help="File to write; - is standard output.")],
    split: SplitName = "test",
    kind: KindName = "single-line",
) -> None:
    """Cut holes into programs: one task a line."""
    from fim_eval.journal import json_lines
    from fim_eval.suite import build_tasks, facts_path

    found, facts = build_tasks(problems, split, kind, say)
    write(out, json_lines(found))
    if out != STANDARD:
        write(facts_path(out), facts.model_dump_json(indent=2).encode() + b"\n")
    changed = (
        f", {facts.dataset.programs_changed} normalised" if facts.dataset.programs_changed else ""
    )
    without = len(facts.problems_without_holes)
    say(
        f"{facts.tasks} {kind} tasks from split {split} of {facts.dataset.source} "
        f"({facts.dataset.problems} problems in all{changed}"
        + (
            f"; {without} without a hole: {', '.join(facts.problems_without_holes)})"
            if without
            else ")"
        )
    )


@app.command()
def prompts(
    tasks_file: TasksFile,
    model: ModelName,
    strategy: Annotated[Strategy, typer.Option("--strategy")],
    out: Annotated[Path, typer.Option("--out", help="File to write; - is standard output.")],
    tokenizer: TokenizerSource = None,
    context: ContextChoice = "text",
    card: CardName = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Build prompts without asking anyone: each task's line, and what would be sent."""
    import orjson

    from fim_eval.generate import Recipe, prepare

    found, _ = read_suite(tasks_file)
    recipe = Recipe(
        model=model,
        strategy=strategy,
        card=card,
        context=context,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
    )
    prepared = prepare(found, recipe)
    rows = (
        orjson.dumps(task.model_dump() | {"model": model} | prompt.model_dump())
        for task, prompt in zip(found, prepared.prompts, strict=True)
    )
    write(out, b"".join(row + b"\n" for row in rows))
    form = "token ids" if prepared.prompts[0].token_ids is not None else "text"
    say(f"{len(prepared.prompts)} {strategy} prompts as {form}")


@app.command()
def run(
    tasks_file: TasksFile,
    endpoint: Annotated[
        str, typer.Option("--endpoint", help="Full base URL, as in https://host/prefix/v1.")
    ],
    model: ModelName,
    strategy: Annotated[Strategy, typer.Option("--strategy")],
    out: Annotated[Path, typer.Option("--out", help="Run directory; the same command resumes it.")],
    tokenizer: TokenizerSource = None,
    context: ContextChoice = "text",
    card: CardName = None,
    limit: Limit = None,
    max_tokens: MaxTokens = None,
    concurrency: Concurrency = 64,
    api_key_env: KeyEnv = DEFAULT_KEY_ENV,
    server_log: Annotated[
        str | None,
        typer.Option(
            "--server-log", envvar="FIM_EVAL_SERVER_LOG", help="The server's log, for the manifest."
        ),
    ] = None,
) -> None:
    """Ask one model every task in one way; resumes what is unfinished."""
    from fim_eval.generate import Recipe, Request

    found, facts = read_suite(tasks_file)
    result = ask(
        Request(
            tasks=found,
            task_facts=facts,
            recipe=Recipe(
                model=model,
                strategy=strategy,
                card=card,
                context=context,
                tokenizer=tokenizer,
                max_tokens=max_tokens,
            ),
            endpoint=endpoint,
            out=out,
            limit=limit,
            concurrency=concurrency,
            api_key_env=api_key_env,
            api_key=api_key(api_key_env),
            server_log=server_log,
        )
    )
    tell([out], None, as_json=False)
    raise typer.Exit(UNRESOLVED if result.unresolved else 0)


@app.command(name="eval")
def eval_(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the run directories and their table.")
    ],
    problems: Problems = "mbpp",
    split: SplitName = "test",
    kind: KindName = "single-line",
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            envvar="FIM_EVAL_ENDPOINT",
            help="Full base URL; without it, the servers of --servers that answer.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", envvar="FIM_EVAL_MODEL", help="Name the endpoint gives the model."),
    ] = None,
    servers: Annotated[
        Path,
        typer.Option(
            "--servers", help="Folder of vLLM configuration files, for their ports and models."
        ),
    ] = Path("servers"),
    strategies: Annotated[
        str | None,
        typer.Option(
            "--strategies",
            help="Separated by commas; by default lr, and fim-psm and fim-spm where trained.",
        ),
    ] = None,
    tokenizer: TokenizerSource = None,
    context: ContextChoice = "text",
    card: CardName = None,
    limit: Limit = None,
    max_tokens: MaxTokens = None,
    concurrency: Concurrency = 64,
    api_key_env: KeyEnv = DEFAULT_KEY_ENV,
    server_log: Annotated[
        str | None,
        typer.Option(
            "--server-log", envvar="FIM_EVAL_SERVER_LOG", help="The server's log, for the manifest."
        ),
    ] = None,
) -> None:
    """Ask every model that answers every task, and print one table over all of them."""
    from fim_eval.formats import card_of
    from fim_eval.generate import Recipe, Request
    from fim_eval.study import answering_servers, run_path, strategies_for
    from fim_eval.suite import build_tasks

    if (endpoint is None) != (model is None):
        raise EndpointError("--endpoint and --model belong together (make eval ENDPOINT=… MODEL=…)")
    if endpoint is not None and model is not None:
        targets = [(endpoint, model)]
    else:
        answering = run_async(answering_servers(servers))
        targets = [(server.base_url, server.model) for server in answering]
        say("answering: " + ", ".join(f"{name} at {url}" for url, name in targets))
    found, facts = build_tasks(problems, split, kind, say)
    requests = []
    for url, name in targets:
        known = card_of(card or name)
        if not strategies and known is not None and known.infills == "disputed":
            say(
                f"{name}: asked left to right only; {known.source}. "
                "--strategies lr,fim-psm asks it all the same"
            )
        requests += [
            Request(
                tasks=found,
                task_facts=facts,
                recipe=Recipe(
                    model=name,
                    strategy=strategy,
                    card=card,
                    context=context,
                    tokenizer=tokenizer,
                    max_tokens=max_tokens,
                ),
                endpoint=url,
                out=run_path(out, name, strategy),
                limit=limit,
                concurrency=concurrency,
                api_key_env=api_key_env,
                api_key=api_key(api_key_env),
                server_log=server_log,
            )
            for strategy in named_strategies(strategies) or strategies_for(known)
        ]
    raise typer.Exit(ask_each(requests, out))


@app.command()
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


def named_strategies(names: str | None) -> tuple[Strategy, ...]:
    """The strategies of a list with commas; none for no list."""
    known = get_args(Strategy)
    chosen = [name.strip() for name in (names or "").split(",") if name.strip()]
    for name in chosen:
        if name not in known:
            raise typer.BadParameter(
                f"{name} is none of {', '.join(known)}", param_hint="--strategies"
            )
    return cast("tuple[Strategy, ...]", tuple(dict.fromkeys(chosen)))


def ask_each(requests: Sequence[Request], out: Path) -> int:
    """Run requests one after the other, tell the table over all runs in `out`; the exit code.

    What can be refused is refused before the first model is asked, not after hours of another.
    """
    from fim_eval.generate import prepare

    for request in requests:
        prepare(request.tasks[:1], request.recipe)
    unresolved = failed = 0
    for request in requests:
        count = len(request.tasks[: request.limit])
        say(f"{request.recipe.model}, {request.recipe.strategy}: {count} tasks")
        try:
            unresolved += ask(request).unresolved
        except FimEvalError as error:
            # One server's end is not the others': what stands is still asked, told and stored.
            say(f"fim-eval: {error}")
            failed += 1
    if failed < len(requests):
        tell([out], out, as_json=False)
    return FAILED if failed else UNRESOLVED if unresolved else 0


def api_key(variable: str) -> str | None:
    """The key in an environment variable; None if it is unset or empty.

    Raises:
        EndpointError: it holds what no HTTP header can carry; the message does not show it.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and (key.isprintable())) or " " in key:
        raise EndpointError(
            f"the key in {variable} holds a space, a line break or a letter outside ASCII, which "
            "no HTTP header can carry; set it again"
        )
    return key or None


def ask(request: Request) -> RunResult:
    """Run one request with its progress on standard error, and say how it ended."""
    from fim_eval.generate import run as generate

    with progress() as (on_start, on_outcome):
        result = run_async(generate(request, on_start, on_outcome))
    resumed = result.tasks - result.asked
    say(
        f"{result.out}: {result.answered}/{result.tasks} answered"
        + (f", {resumed} of them already there" if resumed else "")
    )
    if result.unresolved:
        reasons = ", ".join(f"{count} {reason}" for reason, count in result.failures.most_common())
        say(
            f"{result.unresolved} unresolved ({reasons}); "
            "the same command asks again what may yet be answered"
        )
    if result.text_differences:
        say(
            f"{result.text_differences} texts differ from the server's own; "
            "ours, decoded from ids, are scored"
        )
    return result


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


def read_suite(path: Path) -> tuple[list[InfillTask], TaskFacts | None]:
    """Tasks of a file or of standard input, and the facts beside the file."""
    from fim_eval.suite import read_facts, read_tasks

    if path == STANDARD:
        return read_tasks(sys.stdin.buffer.read(), "standard input"), None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); `fim-eval tasks` writes such files"
        ) from error
    return read_tasks(content, str(path)), read_facts(path, content)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, or standard output."""
    if path == STANDARD:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    if path.is_dir():
        raise DatasetError(f"{path}: is a folder; name a file with --out")
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.rename(path)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written ({error.strerror}); name another with --out"
        ) from error


def run_async(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine, on uvloop where there is one."""
    import asyncio

    new_loop: Callable[[], asyncio.AbstractEventLoop]
    try:
        from uvloop import new_event_loop as new_loop
    except ImportError:
        new_loop = asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        # Here, and not in main(): typer would turn it into a bare "Aborted".
        say("fim-eval: interrupted; what was answered is on disk, the same command resumes")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def progress() -> Iterator[tuple[Callable[[int, int], None], Callable[[Outcome], None]]]:
    """Two callbacks that show how far a run is: a bar on a terminal, else a line every 10 s."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]} failed"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=None, failed=0)
            failed = 0

            def start(total: int, left: int) -> None:
                bar.update(task, total=total, completed=total - left)

            def advance(outcome: Outcome) -> None:
                nonlocal failed
                failed += outcome.outcome == "failure"
                bar.update(task, advance=1, failed=failed)

            yield start, advance
        return
    counts = {"total": 0, "done": 0, "failed": 0}
    told = time.monotonic()

    def start_lines(total: int, left: int) -> None:
        counts.update(total=total, done=total - left)

    def advance_lines(outcome: Outcome) -> None:
        nonlocal told
        counts["done"] += 1
        counts["failed"] += outcome.outcome == "failure"
        if time.monotonic() - told >= 10:
            told = time.monotonic()
            say(f"{counts['done']}/{counts['total']} asked, {counts['failed']} failed")

    yield start_lines, advance_lines


def say(message: str) -> None:
    """One line on standard error, with control codes made visible: servers write some of it."""
    sys.stderr.write(printable(message) + "\n")
    sys.stderr.flush()


def main() -> None:
    """Run the command line; every expected error is one sentence and exit code 1."""
    # The hub's client tells each of its retries; we tell what came of them, in one sentence.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        app()
    except FimEvalError as error:
        say(f"fim-eval: {error}")
        sys.exit(FAILED)

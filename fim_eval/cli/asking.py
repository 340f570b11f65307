"""Commands that make tasks and ask models: `tasks`, `prompts`, `run`, `eval`."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from fim_eval.cli.console import run_async, say, write
from fim_eval.cli.judging import cluster_of, jail_for
from fim_eval.cli.options import (
    DEFAULT_KEY_ENV,
    STANDARD,
    UNRESOLVED,
    Audit,
    Batch,
    CardName,
    ContextChoice,
    EngineName,
    FormatName,
    Gold,
    IsolationName,
    KeyEnv,
    KindName,
    Limit,
    MaxConcurrency,
    MaxTokens,
    ModelName,
    PerProblem,
    Priority,
    ProbeFirst,
    Problems,
    RayAddress,
    Samples,
    Seed,
    Shard,
    Shots,
    SplitName,
    Stream,
    TasksFile,
    TokenizerSource,
    Workers,
)
from fim_eval.cli.reporting import tell
from fim_eval.cli.running import api_key, ask_all, ask_each, asking, check_each, told_format
from fim_eval.errors import (
    EndpointError,
    IsolationError,
)
from fim_eval.terminal import printable
from fim_eval.words import INFILLING, Strategy

if TYPE_CHECKING:
    from fim_eval.records import InfillTask
    from fim_eval.suite import Suite


def tasks(
    problems: Problems,
    out: Annotated[Path, typer.Option("--out", help="File to write; - is standard output.")],
    split: SplitName = "test",
    kind: KindName = None,
    per_problem: PerProblem = None,
    seed: Seed = 0,
) -> None:
    """Cut holes into programs: one task a line."""
    from fim_eval.lines import json_lines
    from fim_eval.suite import build_suite, facts_path, problems_path

    suite = build_suite(problems, split, kind, say, per_problem=per_problem, seed=seed)
    facts = suite.facts
    assert facts is not None  # noqa: S101  what is built comes with its facts
    write(out, json_lines(suite.tasks))
    if out != STANDARD:
        write(problems_path(out), json_lines(suite.problems))
        write(facts_path(out), facts.model_dump_json(indent=2).encode() + b"\n")
    changed = (
        f", {facts.dataset.programs_changed} normalised" if facts.dataset.programs_changed else ""
    )
    without = len(facts.problems_without_holes)
    for reason, count in facts.excluded.items():
        say(f"{count} places are no {facts.kind} holes: {reason}")
    say(
        f"{facts.tasks} {facts.kind} tasks from split {split} of {facts.dataset.source} "
        f"({facts.dataset.problems} problems in all{changed}"
        + (
            f"; {without} without a hole: {', '.join(facts.problems_without_holes)})"
            if without
            else ")"
        )
    )


def prompts(
    tasks_file: TasksFile,
    model: ModelName,
    strategy: Annotated[Strategy, typer.Option("--strategy")],
    out: Annotated[Path, typer.Option("--out", help="File to write; - is standard output.")],
    tokenizer: TokenizerSource = None,
    context: ContextChoice = "text",
    card: CardName = None,
    format_: FormatName = "auto",
    max_tokens: MaxTokens = None,
    samples: Samples = 10,
    shots: Shots = 3,
) -> None:
    """Build prompts without asking anyone: each task's line, and what would be sent."""
    import orjson

    from fim_eval.recipe import Recipe, prepare

    suite = read_suite(tasks_file)
    recipe = Recipe(
        model=model,
        strategy=strategy,
        card=card,
        format=format_,
        context=context,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        samples=samples,
        examples=examples_for(strategy, suite, shots),
    )
    prepared = prepare(recipe)
    if line := told_format(prepared):
        say(line)
    rows = [
        orjson.dumps(task.model_dump() | {"model": model} | prompt.model_dump()) + b"\n"
        for task in suite.tasks
        for prompt in prepared.prompts_of(task)
    ]
    write(out, b"".join(rows))
    form = "text" if prepared.wording.encoder is None else "token ids"
    say(f"{len(rows)} {strategy} prompts as {form}")


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
    format_: FormatName = "auto",
    limit: Limit = None,
    max_tokens: MaxTokens = None,
    samples: Samples = 10,
    shots: Shots = 3,
    gold: Gold = False,
    max_concurrency: MaxConcurrency = 512,
    batch: Batch = 16,
    priority: Priority = 0,
    shard: Shard = None,
    audit: Audit = None,
    stream: Stream = None,
    api_key_env: KeyEnv = DEFAULT_KEY_ENV,
    server_log: Annotated[
        str | None,
        typer.Option(
            "--server-log", envvar="FIM_EVAL_SERVER_LOG", help="The server's log, for the manifest."
        ),
    ] = None,
    probe_first: ProbeFirst = True,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
) -> None:
    """Ask one model every task in one way; resumes what is unfinished."""
    from fim_eval.generate import Request
    from fim_eval.recipe import Recipe

    suite = read_suite(tasks_file)
    request = Request(
        tasks=suite.tasks,
        task_facts=suite.facts,
        problems=suite.problems,
        recipe=Recipe(
            model=model,
            strategy=strategy,
            card=card,
            format=format_,
            context=context,
            tokenizer=tokenizer,
            max_tokens=max_tokens,
            samples=samples,
            examples=examples_for(strategy, suite, shots),
        ),
        gold=gold,
        endpoint=endpoint,
        out=out,
        limit=limit,
        concurrency=max_concurrency,
        batch=batch,
        priority=priority,
        shard=shard_named(shard),
        stream=share_named(stream, "--stream"),
        api_key_env=api_key_env,
        api_key=api_key(api_key_env),
        server_log=server_log,
    )
    check_each([request])
    audited = share_named(audit)
    with cluster_of(engine, ray_address) as cluster, asking(cluster) as elsewhere:
        request = replace(request, elsewhere=elsewhere)
        (result,) = ask_all([request], probe_first=probe_first, audit=audited)
    tell([out], None, as_json=False)
    raise typer.Exit(UNRESOLVED if result.unresolved or result.unscored else 0)


def eval_(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the run directories and their table.")
    ],
    problems: Problems = "mbpp",
    split: SplitName = "test",
    kind: KindName = None,
    per_problem: PerProblem = None,
    seed: Seed = 0,
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
            help="Separated by commas, of lr, lr-rerank, fewshot, fim-psm, fim-spm; by default lr, "
            "and fim-psm and fim-spm where trained.",
        ),
    ] = None,
    tokenizer: TokenizerSource = None,
    context: ContextChoice = "text",
    card: CardName = None,
    format_: FormatName = "auto",
    limit: Limit = None,
    max_tokens: MaxTokens = None,
    samples: Samples = 10,
    shots: Shots = 3,
    gold: Gold = False,
    max_concurrency: MaxConcurrency = 512,
    batch: Batch = 16,
    priority: Priority = 0,
    shard: Shard = None,
    audit: Audit = None,
    stream: Stream = None,
    api_key_env: KeyEnv = DEFAULT_KEY_ENV,
    server_log: Annotated[
        str | None,
        typer.Option(
            "--server-log", envvar="FIM_EVAL_SERVER_LOG", help="The server's log, for the manifest."
        ),
    ] = None,
    probe_first: ProbeFirst = True,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Execute the filled programs, or do not."),
    ] = True,
    isolation: IsolationName = "auto",
    workers: Workers = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
) -> None:
    """Ask every model that answers every task, run what it wrote, and print one table over all."""
    from fim_eval.formats import card_of
    from fim_eval.generate import Request
    from fim_eval.recipe import Recipe
    from fim_eval.study import answering_servers, run_path, strategies_for
    from fim_eval.suite import build_suite

    if (endpoint is None) != (model is None):
        raise EndpointError("--endpoint and --model belong together (make eval ENDPOINT=… MODEL=…)")
    if endpoint is not None and model is not None:
        targets = [(endpoint, model)]
    else:
        answering = run_async(answering_servers(servers))
        targets = [(server.base_url, server.model) for server in answering]
        say("answering: " + ", ".join(f"{name} at {url}" for url, name in targets))
    suite = build_suite(problems, split, kind, say, per_problem=per_problem, seed=seed)
    chosen = named_strategies(strategies)
    examples = {strategy: examples_for(strategy, suite, shots) for strategy in chosen}
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
                tasks=suite.tasks,
                task_facts=suite.facts,
                problems=suite.problems,
                recipe=Recipe(
                    model=name,
                    strategy=strategy,
                    card=card,
                    format=format_,
                    context=context,
                    tokenizer=tokenizer,
                    max_tokens=max_tokens,
                    samples=samples,
                    examples=examples.get(strategy, ()),
                ),
                gold=gold,
                endpoint=url,
                out=run_path(out, name, strategy),
                limit=limit,
                concurrency=max_concurrency,
                batch=batch,
                priority=priority,
                shard=shard_named(shard),
                stream=share_named(stream, "--stream"),
                api_key_env=api_key_env,
                api_key=api_key(api_key_env),
                server_log=server_log,
            )
            for strategy in chosen or strategies_for(known)
        ]
    check_each(requests)
    jail = None
    if verify:
        try:
            jail = jail_for(isolation)
        except IsolationError as error:
            raise IsolationError(
                f"{error}. --no-verify asks and scores without running programs"
            ) from error
    audited = share_named(audit)
    with cluster_of(engine, ray_address) as cluster:
        code = ask_each(
            requests, [out], jail, workers, probe_first=probe_first, audit=audited, cluster=cluster
        )
    raise typer.Exit(code)


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


def shard_named(name: str | None) -> tuple[int, int] | None:
    """Part and number of parts of `2/4`; None for none."""
    if name is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", name)
    if found is None or int(found[1]) > int(found[2]):
        raise typer.BadParameter(
            f"{name}: is no part of a whole, as 1/4, 2/4, 3/4 and 4/4 are", param_hint="--shard"
        )
    return int(found[1]), int(found[2])


def share_named(name: str | None, option: str = "--audit") -> float:
    """A share in [0, 1] of `5%` or `5`; 0 for none."""
    if name is None:
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", name.strip())
    if found is None or not 0 < float(found[1]) <= 100:
        raise typer.BadParameter(f"{name}: is no percentage, as 5% is", param_hint=option)
    return float(found[1]) / 100


def examples_for(strategy: Strategy, suite: Suite, shots: int) -> Sequence[InfillTask]:
    """The worked examples that a strategy shows; none if it shows none."""
    from fim_eval.suite import worked_examples

    return worked_examples(suite, say, shots=shots) if strategy == "fewshot" else ()


def probe(
    endpoint: Annotated[
        str, typer.Option("--endpoint", help="Full base URL, as in https://host/prefix/v1.")
    ],
    model: ModelName,
    strategy: Annotated[Strategy, typer.Option("--strategy", help="fim-psm or fim-spm.")] = (
        "fim-psm"
    ),
    tokenizer: TokenizerSource = None,
    card: CardName = None,
    api_key_env: KeyEnv = DEFAULT_KEY_ENV,
) -> None:
    """Does the model behind an endpoint infill? Asks sixteen plain holes and shows the evidence.

    Exit code 0 if it infills, 3 if it does not or that is unclear.
    """
    from fim_eval.recipe import Recipe
    from fim_eval.study import probe_model

    if strategy not in INFILLING:
        raise typer.BadParameter(
            f"{strategy} shows no suffix; {' or '.join(INFILLING)}", param_hint="--strategy"
        )
    recipe = Recipe(model=model, strategy=strategy, card=card, tokenizer=tokenizer)
    found = run_async(probe_model(endpoint, recipe, api_key(api_key_env), notice=say))
    lines = [f"{model}, {strategy}: {found.verdict}", *(f"  {line}" for line in found.evidence)]
    sys.stdout.write("".join(printable(line) + "\n" for line in lines))
    raise typer.Exit(0 if found.verdict == "infills" else UNRESOLVED)


def read_suite(path: Path) -> Suite:
    """Tasks of a file or of standard input, and what stands beside the file."""
    from fim_eval.suite import Suite, TaskFile, read_facts, read_problems, read_tasks

    if path == STANDARD:
        content = io.BytesIO(sys.stdin.buffer.read())
        return Suite(list(read_tasks(content, "standard input")))
    facts = read_facts(path)
    return Suite(TaskFile(path), read_problems(path, facts), facts)

"""Asking as commands do it: several models at once with their progress, then judged and told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fim_eval.cli.console import cores, run_stoppable, say
from fim_eval.cli.judging import executing, judge_runs
from fim_eval.cli.options import FAILED, INTERRUPTED, UNRESOLVED
from fim_eval.cli.progress import Step, steps
from fim_eval.cli.reporting import tell
from fim_eval.errors import FimEvalError, StrategyRefusedError
from fim_eval.words import INFILLING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from fim_eval.cluster import RayCluster
    from fim_eval.errand import Elsewhere, Outcome
    from fim_eval.generate import Request, RunResult
    from fim_eval.recipe import Prepared
    from fim_eval.sandbox import Jail


def check_each(requests: Sequence[Request]) -> None:
    """Refuse what can be refused before the first model is asked, not after hours of another.

    Says of each model in which format it will be asked.
    """
    from fim_eval.recipe import prepare

    told = []
    for request in requests:
        prepared = prepare(request.recipe)
        for task in islice(request.tasks, 1):
            prepared.content_of(task)
        told.append(told_format(prepared))
    for line in dict.fromkeys(filter(None, told)):
        say(line)


def told_format(prepared: Prepared) -> str | None:
    """In which format a model will be asked, and how that is known; None for prompts of text."""
    sentinels, recipe = prepared.format, prepared.recipe
    if sentinels is None:
        return None
    line = f"{recipe.model}: format {sentinels.name}, {prepared.format_from}"
    if prepared.card is None and recipe.strategy != "lr":
        line += "; it is not in the table of models: that it infills is taken on your word"
    return line


def ask_each(
    requests: Sequence[Request],
    folders: Sequence[Path],
    jail: Jail | None,
    workers: int | None,
    *,
    probe_first: bool,
    audit: float = 0.0,
    cluster: RayCluster | None = None,
) -> int:
    """Run requests, judge them, tell the table over all runs in `folders`.

    Servers are asked side by side, each with what it is to be asked in turn. One server's end is
    not the others': what stands is still asked, told and stored. A cluster's nodes ask and judge
    in this process's place.

    Returns the exit code.
    """
    from fim_eval.verify import JudgeSettings

    with asking(cluster) as elsewhere:
        requests = [replace(request, elsewhere=elsewhere) for request in requests]
        results = ask_all(requests, probe_first=probe_first, audit=audit)
    asked = [result.out for result in results]
    unresolved = sum(result.unresolved + result.unscored for result in results)
    if asked and jail is not None:
        settings = JudgeSettings(workers=workers or cores())
        unresolved += judge_runs(asked, jail, settings, execute=executing(cluster))
    if asked:
        tell(folders, folders[0] if len(folders) == 1 else None, as_json=False)
    failed = len(results) < len(requests)
    return FAILED if failed else UNRESOLVED if unresolved else 0


def ask_all(
    requests: Sequence[Request], *, probe_first: bool, audit: float = 0.0
) -> list[RunResult]:
    """Run requests, different servers at the same time; how those stand that could be run.

    Why one could not is said, and raised if it was the only one.

    Raises:
        typer.Exit: it was told to stop before all was there: answers, the probabilities of
            reference answers, what was to be asked once more.
    """
    import asyncio

    in_turn: dict[str, list[Request]] = {}
    for request in requests:
        in_turn.setdefault(request.endpoint, []).append(request)
    results: dict[Path, RunResult] = {}
    alone = len(requests) == 1

    async def ask_server(own: Sequence[Request], stop: asyncio.Event) -> None:
        for request in own:
            if stop.is_set():
                break
            try:
                found = await ask(request, begin, stop, probe_first=probe_first, audit=audit)
            except FimEvalError as error:
                if alone:
                    raise
                say(f"fim-eval: {error}")
            else:
                if found is not None:
                    results[request.out] = found

    async def ask_servers(stop: asyncio.Event) -> bool:
        await asyncio.gather(*(ask_server(own, stop) for own in in_turn.values()))
        return stop.is_set()

    with steps("asked", "failed") as begin:
        drain_s = max(request.timeouts.drain_s for request in requests)
        was_stopped = run_stoppable(ask_servers, drain_s)
    unfinished = [
        request
        for request in requests
        if request.out not in results or not results[request.out].is_whole
    ]
    if was_stopped and unfinished:
        folders = ", ".join(str(request.out) for request in unfinished)
        say(f"stopped; the same command goes on with {folders}")
        raise typer.Exit(INTERRUPTED)
    return [results[request.out] for request in requests if request.out in results]


async def ask(
    request: Request,
    begin: Callable[[str], Step],
    stop: asyncio.Event,
    *,
    probe_first: bool,
    audit: float,
) -> RunResult | None:
    """Run one request, and a share of it once more; None if it was stopped before that began."""
    from fim_eval.muster import unless_stopped
    from fim_eval.study import asks, audit_of, audited

    if probe_first:
        known = await unless_stopped(probed(request), stop)
        if known is None:
            return None
        request = known
    result = await ask_once(request, begin(name_of(request)), stop)
    tasks = audited(request, audit) if audit else []
    if not tasks:
        return result
    own = sum(asks(request, task) for task in tasks)
    if stop.is_set():
        # Not looked at: what an earlier session has of them, the next one sees.
        return replace(result, unaudited=own)
    again = audit_of(request, tasks)
    name = name_of(request)
    say(f"{name}: {own} tasks once more, {again.concurrency} in flight: what changes?")
    second = await ask_once(again, begin(f"{name}, again"), stop)
    return replace(result, unaudited=second.unresolved)


def name_of(request: Request) -> str:
    """Model and strategy, short enough to stand in front of a bar."""
    return f"{request.recipe.model.rpartition('/')[2]} {request.recipe.strategy}"


async def ask_once(request: Request, step: Step, stop: asyncio.Event) -> RunResult:
    """Run one request, and say how it ended."""
    from fim_eval.generate import run as generate
    from fim_eval.records import Completion

    name = name_of(request)

    def on_start(total: int, left: int) -> None:
        say(f"{name}: {left} of {total} prompts to ask at {request.endpoint}")
        step.start(total, left)

    def on_outcome(outcome: Outcome) -> None:
        tokens = outcome.completion_tokens if isinstance(outcome, Completion) else None
        step.advance(
            outcome.outcome == "failure", tokens=tokens or 0, retries=max(outcome.attempts - 1, 0)
        )

    def on_flight(prompts: int) -> None:
        step.in_flight = prompts

    def notice(message: str) -> None:
        say(f"{name}: {message}")

    result = await generate(
        request, on_start, on_outcome, on_flight=on_flight, notice=notice, stop=stop
    )
    before = result.answered_before
    say(
        f"{result.out}: {result.answered}/{result.tasks} answered"
        + (f", {before} of them already there" if before else "")
    )
    if result.unresolved or result.unscored:
        unscored = f", {result.unscored} without bits" if result.unscored else ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in result.failures.most_common())
        say(
            f"{name}: {result.unresolved} unresolved{unscored}{reasons and f' ({reasons})'}; "
            "the same command asks again what may yet be answered"
        )
    if result.text_differences:
        say(
            f"{name}: {result.text_differences} texts differ from the server's own; "
            "ours, decoded from ids, are scored"
        )
    return result


async def probed(request: Request) -> Request:
    """The request with what a probe of its model showed; as it is where there is nothing to show.

    Raises:
        StrategyRefusedError: sources conflict on whether the model infills, and it does not.
    """
    from fim_eval.journal import has_manifest
    from fim_eval.recipe import model_card
    from fim_eval.study import probe_model

    recipe = request.recipe
    if recipe.strategy not in INFILLING or has_manifest(request.out):
        return request
    found = await probe_model(
        request.endpoint, recipe, request.api_key, priority=request.priority, notice=say
    )
    shown = "; ".join(found.evidence[:3])
    so = "; it is asked all the same" if found.verdict == "unclear" else ""
    say(f"probe: {recipe.model}, {recipe.strategy}: {found.verdict} ({shown}){so}")
    known = model_card(recipe)
    if found.verdict == "does not infill":
        if known is None or known.infills != "yes":
            raise StrategyRefusedError(
                f"{recipe.strategy} for {recipe.model}: sixteen plain holes say that it does not "
                "infill; `fim-eval probe` shows them. --no-probe asks it all the same"
            )
        say(
            f"{recipe.model} was trained to infill ({known.source}), but does not answer so: does "
            "the server load the model that it names, with its own weights and tokenizer?"
        )
    return replace(request, probe=found)


@contextmanager
def asking(cluster: RayCluster | None) -> Iterator[Elsewhere | None]:
    """A cluster's nodes as those who ask, and says how many; None, this process, for None."""
    if cluster is None:
        yield None
        return
    with cluster.asking(say) as elsewhere:
        say(f"Ray: {cluster.nodes()} nodes ask, with the keys of their own environment")
        yield elsewhere


def api_key(variable: str) -> str | None:
    """The key in an environment variable; None if it is unset or empty.

    Raises:
        EndpointError: it holds what no HTTP header can carry; the message does not show it.
    """
    from fim_eval.transport import key_in

    return key_in(os.environ, variable)

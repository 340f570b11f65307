"""Several models over the same tasks: who can be asked, in which ways, into which directories."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path

from fim_eval.client import Client
from fim_eval.errand import Clock
from fim_eval.errors import EndpointError, StrategyRefusedError
from fim_eval.formats import card_of
from fim_eval.generate import Request, as_decoded
from fim_eval.journal import AUDIT
from fim_eval.muster import PATIENCE_S, those_that_answer
from fim_eval.order import is_audited, shard_of
from fim_eval.probe import MAX_TOKENS, TASKS, cannot_be_asked, conclude
from fim_eval.recipe import Recipe, prepare
from fim_eval.records import Completion, InfillTask, ModelCard, Probe, Sampling, Timeouts
from fim_eval.server import KnownServer, known_servers, list_models
from fim_eval.transport import base_urls, open_http
from fim_eval.words import Strategy


async def answering_servers(folder: Path) -> list[KnownServer]:
    """Those of the servers configured in `folder` that answer and list their model, smallest first.

    Raises:
        EndpointError: none does; names each address tried.
    """
    states = await server_states(folder)
    servers = [server for server, _ in states]
    answering = [server for server, fault in states if fault is None]
    if not answering:
        tried = ", ".join(f"{server.config} at {server.base_url}" for server in servers)
        make = ", ".join(f"`make serve-{server.config}`" for server in servers)
        raise EndpointError(
            f"no server answers (tried {tried}); start one in another shell ({make}), or name "
            "yours: "
            "make eval ENDPOINT=https://cluster.example/some/prefix/v1 MODEL=name"
        )
    return answering


async def server_states(folder: Path) -> list[tuple[KnownServer, str | None]]:
    """The servers configured in `folder`, smallest first, and why one cannot be asked, if so."""
    servers = in_order(known_servers(folder))
    faults = await asyncio.gather(*map(_fault, servers))
    return list(zip(servers, faults, strict=True))


async def _fault(server: KnownServer) -> str | None:
    timeouts = Timeouts(request_s=5.0, connect_s=2.0)
    async with open_http(server.base_url, None, concurrency=1, timeouts=timeouts) as http:
        try:
            listing = await list_models(http)
        except EndpointError as error:
            return str(error)
    return None if server.model in listing.roots else f"serves {', '.join(listing.roots)}"


async def probe_model(
    endpoint: str,
    recipe: Recipe,
    api_key: str | None,
    *,
    priority: int = 0,
    notice: Callable[[str], None] = lambda _: None,
) -> Probe:
    """Ask a few plain holes, and say whether the model infills.

    Args:
        endpoint: full base URL; of several, separated by commas, the first that answers is asked.
        recipe: the model, and how it would be asked to infill.
        api_key: sent if given.
        priority: of every request.
        notice: told, for a person, that a server is waited for.

    Raises:
        EndpointError: none answers, or the one that does refuses us or does not serve the model.
        TokenizerError: the model's tokenizer is missing, or not the model's.
    """
    recipe = replace(recipe, context="none", max_tokens=MAX_TOKENS)
    timeouts = Timeouts()
    async with AsyncExitStack() as stack:

        async def client(url: str, answers_as: str | None) -> Client:
            return Client(
                await stack.enter_async_context(
                    open_http(url, api_key, concurrency=len(TASKS), timeouts=timeouts)
                ),
                model=recipe.model,
                answers_as=answers_as,
                sampling=Sampling(),
                timeouts=timeouts,
                segment=0,
                clock_ns=Clock(),
                sleep=asyncio.sleep,
                priority=priority,
            )

        clients = {url: await client(url, None) for url in base_urls(endpoint)}
        heard = await those_that_answer(clients, recipe.model, timeouts, PATIENCE_S, notice)
        url, seen = next(iter(heard.items()))
        try:
            prepared = prepare(recipe)
            prompts = [prompt for task in TASKS for prompt in prepared.prompts_of(task)]
        except StrategyRefusedError as error:
            return cannot_be_asked(str(error))
        ask = (await client(url, seen.server.answers_as)).complete
        outcomes = await asyncio.gather(*map(ask, prompts))
    decoded = [
        as_decoded(outcome, prompt, prepared.tokenizer)
        if isinstance(outcome, Completion)
        else outcome
        for prompt, outcome in zip(prompts, outcomes, strict=True)
    ]
    return conclude(list(zip(TASKS, prompts, decoded, strict=True)))


def audited(request: Request, share: float) -> list[InfillTask]:
    """The part of the whole suite's tasks that is asked again, by whichever shard they are of."""
    tasks = islice(request.tasks, request.limit)
    return [task for task in tasks if is_audited(task.task_id, share)]


def asks(request: Request, task: InfillTask) -> bool:
    """Whether a task is of the shard that a request asks."""
    part, parts = request.shard or (1, 1)
    return shard_of(task.problem_id, parts) == part


def audit_of(request: Request, tasks: Sequence[InfillTask]) -> Request:
    """Some tasks asked again: at a quarter of the concurrency, one a request.

    Greedy answers depend on what else a server works on at the time
    (https://github.com/vllm-project/vllm/issues/23138): how many of these change is the noise
    floor of every difference.
    """
    return replace(
        request,
        tasks=tasks,
        out=request.out / AUDIT,
        concurrency=max(1, min(request.concurrency, 64) // 4),
        batch=1,
        limit=None,
        gold=False,
    )


def strategies_for(card: ModelCard | None) -> tuple[Strategy, ...]:
    """How a model is asked unless the user says: left to right, and infilling if trained for it.

    Infilling in those layouts that its family defines.

    A disputed model is asked left to right only; its infilling has to be named to be asked.
    """
    if card is None or card.infills != "yes" or card.format is None:
        return ("lr",)
    psm: tuple[Strategy, ...] = ("fim-psm",) if card.format.psm else ()
    spm: tuple[Strategy, ...] = ("fim-spm",) if card.format.spm else ()
    return ("lr", *psm, *spm)


def run_path(out: Path, model: str, strategy: Strategy) -> Path:
    """Where the run of one model and strategy goes: a folder with a plain name.

    >>> run_path(Path("runs/eval"), "codellama/CodeLlama-7b-hf", "lr").as_posix()
    'runs/eval/codellama-CodeLlama-7b-hf.lr'
    """
    return out / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model).strip('.-')}.{strategy}"


def in_order(servers: Sequence[KnownServer]) -> list[KnownServer]:
    """Smallest model first, so that the first rows of a long study come soon."""

    def size(server: KnownServer) -> int:
        card = card_of(server.model)
        return card.parameters if card else 0

    return sorted(servers, key=size)

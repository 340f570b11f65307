"""Several models over the same tasks: who can be asked, in which ways, into which directories."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from fim_eval.errors import EndpointError
from fim_eval.formats import card_of
from fim_eval.records import ModelCard, Timeouts
from fim_eval.server import KnownServer, known_servers, list_models
from fim_eval.transport import open_http
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

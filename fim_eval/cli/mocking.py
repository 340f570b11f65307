"""The command that rehearses: `mock-server`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fim_eval.cli.console import run_async, say
from fim_eval.cli.options import TokenizerSource

if TYPE_CHECKING:
    from fim_eval.mock import Fault, MockServer


def mock_server(
    prompts_file: Annotated[
        Path,
        typer.Option("--prompts", help="File from `fim-eval prompts`: their references answer."),
    ],
    model: Annotated[str, typer.Option("--model", help="Name it answers to.")] = "mock",
    port: Annotated[int, typer.Option("--port", min=0, help="0: a free one.")] = 0,
    tokenizer: TokenizerSource = None,
    end: Annotated[
        str | None,
        typer.Option("--end", help="Piece that ends an answer of ids, as in \u2581<EOT>."),
    ] = None,
    first_token_ms: Annotated[float, typer.Option("--first-token-ms", min=0)] = 0.0,
    per_token_ms: Annotated[float, typer.Option("--per-token-ms", min=0)] = 0.0,
    most_running: Annotated[
        int, typer.Option("--most-running", min=1, help="Prompts at work at once; others wait.")
    ] = 256,
    most_waiting: Annotated[
        int | None,
        typer.Option("--most-waiting", min=0, help="Prompts that may wait; more get HTTP 503."),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            help="NAME:RATE, a share of requests, or NAME@N, the Nth request. Several may be "
            "given. docs/mock-server.md has the names.",
        ),
    ] = None,
    corrupted: Annotated[
        float, typer.Option("--corrupted", min=0, max=1, help="Share of prompts answered wrong.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Serve known answers as vLLM would, with set delays and faults, until interrupted.

    To rehearse a study without a model: it generates nothing. Listens on 127.0.0.1 only.
    """
    from fim_eval.mock import Behaviour, MockServer, known_answers

    rates, script = faults_named(fault or [])
    behaviour = Behaviour(
        model=model,
        first_token_s=first_token_ms / 1000,
        per_token_s=per_token_ms / 1000,
        most_running=most_running,
        most_waiting=most_waiting,
        faults=rates,
        script=script,
        corrupted=corrupted,
        seed=seed,
    )
    tokens = None
    if tokenizer is not None:
        from fim_eval.tokenizer import open_tokenizer, tokenizer_path

        encoder = open_tokenizer(tokenizer_path(tokenizer, None))
        ending = None if end is None else encoder.piece_id(end)
        if end is not None and ending is None:
            raise typer.BadParameter(f"{end} is no token of {encoder.source}", param_hint="--end")
        last = [] if ending is None else [ending]

        def tokens(text: str) -> list[int]:
            return [*encoder.encode_infill(text), *last]

    known = known_answers(prompts_file, tokens)

    async def serve() -> None:
        # Inside: it makes what belongs to the running loop.
        await _serve(MockServer(behaviour, known), port)

    run_async(serve())


async def _serve(server: MockServer, port: int) -> None:
    import asyncio
    import logging

    from aiohttp import web

    from fim_eval.errors import EndpointError

    # Connections that it breaks on purpose are no errors to log.
    quiet = logging.getLogger("fim_eval.mock")
    quiet.setLevel(logging.CRITICAL)
    runner = web.AppRunner(server.app, access_log=None, logger=quiet, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        raise EndpointError(f"--port {port}: cannot be listened on ({error.strerror})") from error
    host, bound = runner.addresses[0][:2]
    say(f"mock server ready: http://{host}:{bound}/v1, model {server.behaviour.model}")
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def faults_named(names: list[str]) -> tuple[dict[Fault, float], dict[int, Fault]]:
    """Rates by fault, and faults by request number, of `503:0.02` and `hang@17`."""
    from fim_eval.mock import FAULTS

    rates: dict[Fault, float] = {}
    script: dict[int, Fault] = {}
    for each in names:
        for mark in (":", "@"):
            name, found, value = each.partition(mark)
            known = next((fault for fault in FAULTS if fault == name), None)
            try:
                if found and known and mark == ":" and 0 <= float(value) <= 1:
                    rates[known] = float(value)
                    break
                if found and known and mark == "@":
                    script[int(value)] = known
                    break
            except ValueError:
                pass
        else:
            raise typer.BadParameter(
                f"{each} is neither NAME:RATE nor NAME@N with a name of {', '.join(FAULTS)}",
                param_hint="--fault",
            )
    return rates, script

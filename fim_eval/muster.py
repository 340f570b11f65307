"""The start: which of several servers answer. Knows no task and no run directory.

A server that is busy answers late, as one that hangs never does: nobody can tell which it is, so
both are waited for as long as any prompt is, a person is told, and may stop it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fim_eval.client import Client
from fim_eval.errand import Seen, identify
from fim_eval.errors import FimEvalError, UnansweredError
from fim_eval.records import Timeouts

ResultT = TypeVar("ResultT")

PATIENCE_S = 10.0
"""Without one token, before a person is told that the server is waited for."""


async def unless_stopped(work: Coroutine[Any, Any, ResultT], stop: asyncio.Event) -> ResultT | None:
    """What comes of some work; None if `stop` was set before, and the work is given up."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def greet(
    url: str, model: str, client: Client, timeouts: Timeouts, notice: Callable[[str], None]
) -> Seen:
    """What `identify` sees of a server.

    Args:
        url: its base.
        model: the name it has to serve.
        client: asks it.
        timeouts: that the client keeps to.
        notice: told, for a person, that the server is waited for.

    Raises:
        UnansweredError: it does not answer now.
        EndpointError: it answers, but refuses us or does not serve the model.
    """
    told = (
        f"{url}: no token within {PATIENCE_S:.0f} s; it may be busy or hang, and is waited for up "
        f"to {math.ceil(_longest_s(timeouts) / 60)} min. Ctrl-C stops, and nothing is lost"
    )
    telling = asyncio.get_running_loop().call_later(PATIENCE_S, notice, told)
    try:
        return await identify(url, model, client)
    finally:
        telling.cancel()


def _longest_s(timeouts: Timeouts) -> float:
    """How long one prompt is tried at most: every attempt, and every wait between them."""
    waits = timeouts.attempts - 1
    return timeouts.attempts * timeouts.request_s + waits * timeouts.longest_wait_s


async def those_that_answer(
    greetings: Sequence[tuple[str, Awaitable[Seen]]], notice: Callable[[str], None]
) -> list[Seen]:
    """What the servers that answer say of themselves, in their order, once all have been heard.

    Args:
        greetings: URL and `greet` of each.
        notice: told, for a person, who does not answer, if others do.

    Raises:
        UnansweredError: none answers.
        EndpointError: one answers, but refuses us or does not serve the model.
    """
    errors: dict[str, UnansweredError] = {}

    async def hear(url: str, greeting: Awaitable[Seen]) -> Seen | None:
        try:
            return await greeting
        except UnansweredError as error:
            errors[url] = error
            return None

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(hear(url, greeting)) for url, greeting in greetings]
    except* FimEvalError as several:
        raise several.exceptions[0] from None
    seen = [found for task in tasks if (found := task.result()) is not None]
    if not seen:
        raise none_answers([errors[url] for url, _ in greetings])
    for url, error in errors.items():
        notice(f"{url}: is left out, what it was to be asked goes to the others ({error})")
    return seen


def none_answers(errors: Sequence[UnansweredError]) -> UnansweredError:
    """What there is to say if no server answers: why, of each."""
    if len(errors) == 1:
        return errors[0]
    return UnansweredError(
        f"none of {len(errors)} servers answers: " + "; ".join(str(error) for error in errors)
    )

"""The start: which of several servers answer. Knows no task and no run directory.

A server that is busy answers late, as one that hangs never does: nobody can tell which it is. A
person is told, and may stop it; both are waited for as long as any prompt is, or for a while only
if others answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
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


async def those_that_answer(
    clients: Mapping[str, Client],
    model: str,
    timeouts: Timeouts,
    patience_s: float,
    notice: Callable[[str], None],
) -> dict[str, Seen]:
    """What the servers that answer say of themselves, by URL in their order, once all are heard.

    Args:
        clients: by base URL, who asks there.
        model: the name they have to serve.
        timeouts: that the clients keep to.
        patience_s: so long the others are waited for once one has answered.
        notice: told, for a person, who is waited for; and who does not answer, if others do.

    Raises:
        UnansweredError: none answers.
        EndpointError: one answers, but refuses us or does not serve the model.
    """
    errors: dict[str, UnansweredError] = {}
    longest = f"{math.ceil(_longest_s(timeouts) / 60)} min"
    if len(clients) > 1:
        longest += f", or {patience_s:.0f} s once another answers"

    async def hear(url: str) -> Seen | None:
        told = (
            f"{url}: no token within {PATIENCE_S:.0f} s; it may be busy or hang, and is waited for "
            f"up to {longest}. Ctrl-C stops, and nothing is lost"
        )
        telling = asyncio.get_running_loop().call_later(PATIENCE_S, notice, told)
        try:
            return await identify(url, model, clients[url])
        except UnansweredError as error:
            errors[url] = error
            return None
        finally:
            telling.cancel()

    try:
        async with asyncio.TaskGroup() as group:
            hearing = {url: group.create_task(hear(url)) for url in clients}
            for url in await _late(hearing, patience_s):
                hearing[url].cancel()
                errors[url] = UnansweredError(
                    f"{url}: no token within {patience_s:.0f} s after others gave one"
                )
    except* FimEvalError as several:
        raise several.exceptions[0] from None
    heard = {url: task.result() for url, task in hearing.items() if url not in errors}
    seen = {url: found for url, found in heard.items() if found is not None}
    if not seen:
        raise _none_answers([errors[url] for url in clients])
    for url, error in errors.items():
        notice(f"{url}: is left out, what it was to be asked goes to the others ({error})")
    return seen


def _longest_s(timeouts: Timeouts) -> float:
    """How long one prompt is tried at most, unless the server itself says when to come back."""
    waits = timeouts.attempts - 1
    return timeouts.attempts * timeouts.request_s + waits * timeouts.longest_wait_s


async def _late(hearing: Mapping[str, asyncio.Task[Seen | None]], patience_s: float) -> list[str]:
    """Those that have told nothing so long after the first that answered."""
    left = set(hearing.values())
    while left and not any(task.done() and task.result() for task in hearing.values()):
        _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
    if left:
        await asyncio.wait(left, timeout=patience_s)
    return [url for url, task in hearing.items() if not task.done()]


def _none_answers(errors: Sequence[UnansweredError]) -> UnansweredError:
    """What there is to say if no server answers: why, of each."""
    if len(errors) == 1:
        return errors[0]
    return UnansweredError(
        f"none of {len(errors)} servers answers: " + "; ".join(str(error) for error in errors)
    )

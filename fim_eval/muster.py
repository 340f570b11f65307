"""The start: which of several servers answer. Knows no task and no run directory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fim_eval.client import Client
from fim_eval.errand import Seen, identify
from fim_eval.errors import EndpointError, FimEvalError, UnansweredError
from fim_eval.records import Completion, Prompt, RequestFailure
from fim_eval.words import PERMANENT_FAILURES

ClientT = TypeVar("ClientT", bound=Client)


class Greeter(Client):
    """A client that remembers whether what it asked last may be answered another time."""

    may_answer_later = False

    async def complete(self, prompt: Prompt) -> Completion | RequestFailure:
        """As `Client.complete`."""
        outcome = await super().complete(prompt)
        self.may_answer_later = (
            isinstance(outcome, RequestFailure) and outcome.reason not in PERMANENT_FAILURES
        )
        return outcome


async def greet(url: str, model: str, greeter: Greeter) -> Seen:
    """What `identify` sees of a server.

    Raises:
        UnansweredError: it does not answer now.
        EndpointError: it answers, but refuses us or does not serve the model.
    """
    try:
        return await identify(url, model, greeter)
    except EndpointError as error:
        if greeter.may_answer_later:
            raise UnansweredError(str(error)) from error
        raise


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

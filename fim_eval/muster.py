"""The start: which of several servers answer. Knows no task and no run directory."""

from __future__ import annotations

from typing import TypeVar

from fim_eval.client import Client
from fim_eval.errand import Seen, identify
from fim_eval.errors import EndpointError, UnansweredError
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


def none_answers(errors: list[UnansweredError]) -> UnansweredError:
    """What there is to say if no server answers: why, of each."""
    if len(errors) == 1:
        return errors[0]
    return UnansweredError(
        f"none of {len(errors)} servers answers: " + "; ".join(str(error) for error in errors)
    )

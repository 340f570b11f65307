"""What a server's answer says, and what is wrong with one: bodies and headers, no request.

API: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, SkipValidation, ValidationError

from fim_eval.transport import LONGEST_DETAIL, error_message
from fim_eval.words import FailureReason


class Usage(BaseModel):
    """Tokens of a request, all its prompts together."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Logprob(BaseModel):
    """In nats."""

    logprob: float | None


class Choice(BaseModel):
    """What one prompt of a request got, or a piece of it in a stream."""

    index: int = 0
    text: str
    finish_reason: str | None
    stop_reason: str | int | None = None
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: Annotated[Any, SkipValidation] = None
    """A list; compared with what was sent, which says more than its type."""

    prompt_logprobs: tuple[dict[int, Logprob] | None, ...] | None = None
    """Of each prompt token given those before it, by id; None for the first."""


class _BrokenChoice(Choice):
    """Stands where one was malformed, whose neighbours are answers."""

    fault: str


class Answer(BaseModel):
    """A body, or an event of a stream."""

    model_config = ConfigDict(extra="ignore")

    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None = None
    system_fingerprint: str | None = None


class NoAnswerError(Exception):
    """One attempt without an answer."""

    def __init__(
        self, reason: FailureReason, detail: str, retry_after_s: float | None = None
    ) -> None:
        """Keep why, in the words of `docs/mock-server.md`, and when to ask again, in seconds."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail[:LONGEST_DETAIL]
        self.retry_after_s = retry_after_s


def parse_answer(content: bytes, response: httpx.Response, prompts: int = 1) -> Answer:
    """A body, or an event of a stream; of several prompts, each choice by itself if need be.

    Raises:
        NoAnswerError: it is an error, or malformed in more than a choice.
    """
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise NoAnswerError("malformed-response", f"not JSON: {error}") from error
    if isinstance(body, dict) and body.get("error"):
        raise NoAnswerError("error-in-body", error_message(response, content))
    try:
        return Answer.model_validate(body)
    except ValidationError as error:
        if prompts > 1 and isinstance(body, dict) and isinstance(body.get("choices"), list):
            return _piece_by_piece(body)
        raise NoAnswerError("malformed-response", _fault(error)) from error


def choice_of(answer: Answer, place: int) -> Choice:
    """The choice for the prompt at a place of the request.

    Raises:
        NoAnswerError: the server gave it up, or it is malformed.
    """
    choice = answer.choices[place]
    if isinstance(choice, _BrokenChoice):
        raise NoAnswerError("malformed-response", choice.fault)
    if choice.finish_reason not in ("stop", "length"):
        raise NoAnswerError("aborted", f"finish_reason {choice.finish_reason!r}")
    return choice


def _piece_by_piece(body: dict[str, Any]) -> Answer:
    """A body that does not pass as a whole, its broken choices replaced.

    Raises:
        NoAnswerError: it is not a choice that is broken.
    """
    try:
        answer = Answer.model_validate(body | {"choices": ()})
    except ValidationError as error:
        raise NoAnswerError("malformed-response", _fault(error)) from error
    choices: list[Choice] = []
    for place, choice in enumerate(body["choices"]):
        try:
            choices.append(Choice.model_validate(choice))
        except ValidationError as error:
            told = choice.get("index") if isinstance(choice, dict) else None
            choices.append(
                _BrokenChoice(
                    index=told if isinstance(told, int) else place,
                    text="",
                    finish_reason=None,
                    fault=f"choices.{place}.{_fault(error)}",
                )
            )
    answer.choices = tuple(choices)
    return answer


def _fault(error: ValidationError) -> str:
    """Where a body is malformed, and how."""
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"


def put_together(choices: Sequence[Choice]) -> Choice:
    """The pieces of one choice."""
    ids = [one.token_ids for one in choices]
    known = [one for one in choices if one.finish_reason is not None]
    return Choice(
        text="".join(one.text for one in choices),
        finish_reason=known[-1].finish_reason if known else None,
        stop_reason=known[-1].stop_reason if known else None,
        token_ids=None
        if all(one is None for one in ids)
        else tuple(token for one in ids for token in one or ()),
        prompt_token_ids=next(
            (one.prompt_token_ids for one in choices if one.prompt_token_ids is not None), None
        ),
    )


@dataclass(frozen=True)
class Measured:
    """The log-probabilities of a scored text, and of its end."""

    logprobs: tuple[float, ...]
    end_logprobs: tuple[float, ...]
    tokens: int
    prompt_tokens: int


def measured(choice: Choice, ids: tuple[int, ...], given: int, end: int) -> Measured:
    """What a choice says of `ids`, of which the first `given` and the last `end` are not the text.

    The first id of all has no probability.

    Raises:
        NoAnswerError: a probability is missing or no number, or is another prompt's.
    """
    logprobs = choice.prompt_logprobs
    if logprobs is None:
        raise NoAnswerError("corrupted", "no log-probabilities of the prompt")
    if len(logprobs) != len(ids):
        raise NoAnswerError(
            "malformed-response", f"{len(logprobs)} log-probabilities of {len(ids)} prompt tokens"
        )
    values = []
    for place, (token, known) in enumerate(zip(ids[1:], logprobs[1:], strict=True), 1):
        if known is not None and token not in known:
            raise NoAnswerError("prompt-altered", f"token {place} is not the id {token} sent")
        value = None if known is None else known[token].logprob
        if value is None or not math.isfinite(value):
            raise NoAnswerError("corrupted", f"no log-probability of token {place}")
        values.append(value)
    until = len(ids) - end
    return Measured(
        logprobs=tuple(values[max(given - 1, 0) : until - 1]),
        end_logprobs=tuple(values[until - 1 :]) if end else (),
        tokens=until - given,
        prompt_tokens=len(ids),
    )


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds that a `Retry-After` header asks for; None if there is none that can be read.

    A date counts from the server's own `Date`, if it tells one: its clock may be another than ours.

    Spec: https://www.rfc-editor.org/rfc/rfc9110.html#name-retry-after
    """
    asked = headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(asked))
    until = _date(asked)
    if until is None:
        return None
    now = _date(headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _date(text: str) -> datetime | None:
    """An HTTP-date, which is always in GMT; None if it is none."""
    try:
        return parsedate_to_datetime(text).replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None

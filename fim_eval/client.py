"""One prompt asked of an OpenAI-compatible server, or one text scored, and its outcome classified.

Knows HTTP and the answer's shape; knows no task, no tokenizer, no file. An answer is a
`Completion` or a `Likelihood`; no answer after all attempts is a `RequestFailure`; a server that
refuses us altogether is an `EndpointError` and ends the run.

API: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from fim_eval.errors import EndpointError
from fim_eval.records import (
    Completion,
    Likelihood,
    Prompt,
    RequestFailure,
    Sampling,
    Scoring,
    Timeouts,
)
from fim_eval.transport import LONGEST_DETAIL, describe, error_message, is_timeout
from fim_eval.words import PERMANENT_FAILURES, FailureReason

AnswerT = TypeVar("AnswerT")


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Logprob(BaseModel):
    logprob: float | None


class _Choice(BaseModel):
    text: str
    finish_reason: str | None
    stop_reason: str | int | None = None
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_logprobs: tuple[dict[int, _Logprob] | None, ...] | None = None
    """Of each prompt token given those before it, by id; None for the first."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: str
    choices: tuple[_Choice, ...]
    usage: _Usage | None = None
    system_fingerprint: str | None = None


class _NoAnswerError(Exception):
    """One attempt without an answer."""

    def __init__(
        self, reason: FailureReason, detail: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail[:LONGEST_DETAIL]
        self.retry_after_s = retry_after_s


class Client:
    """Asks one model on one endpoint. The HTTP client, the clock and the sleep are arguments."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        model: str,
        answers_as: str | None,
        sampling: Sampling,
        timeouts: Timeouts,
        segment: int,
        clock_ns: Callable[[], int],
        sleep: Callable[[float], Any],
    ) -> None:
        """Nothing is sent yet.

        Args:
            http: see `open_http`.
            model: the name sent in requests.
            answers_as: the `model` that answers must carry; None: not known yet, any.
            sampling: sent with every request.
            timeouts: attempts, and waits between them.
            segment: the session that records belong to.
            clock_ns: monotonic, in nanoseconds from the segment's start.
            sleep: awaited between attempts.
        """
        self._http = http
        self._model = model
        self._answers_as = answers_as
        self._sampling = sampling.model_dump()
        self._timeouts = timeouts
        self._segment = segment
        self._clock_ns = clock_ns
        self._sleep = sleep

    async def complete(self, prompt: Prompt) -> Completion | RequestFailure:
        """Ask until there is an answer, a permanent refusal, or no attempt is left.

        Raises:
            EndpointError: the endpoint refuses us altogether: key, path or model name are wrong.
        """
        body = {
            "prompt": prompt.text if prompt.token_ids is None else prompt.token_ids,
            "max_tokens": prompt.max_tokens,
            "stop": prompt.stop,
            "stop_token_ids": prompt.stop_token_ids,
            "return_token_ids": True,
            **self._sampling,
            "seed": self._sampling["seed"] + prompt.sample_index,
        }

        async def ask() -> tuple[_Answer, _Choice]:
            answer, choice = await self._ask(body)
            if prompt.token_ids is not None and choice.token_ids is None:
                raise self._no_ids("a prompt of ids cannot be decoded")
            return answer, choice

        attempted = _Attempted()
        try:
            answer, choice = await self._insist(ask, attempted)
        except _NoAnswerError as error:
            return self._failure(prompt, error, attempted)
        return Completion(
            task_id=prompt.task_id,
            strategy=prompt.strategy,
            sample_index=prompt.sample_index,
            text=choice.text,
            server_text=None,
            token_ids=choice.token_ids,
            finish_reason="stop" if choice.finish_reason == "stop" else "length",
            stop_reason=choice.stop_reason,
            prompt_tokens=answer.usage.prompt_tokens if answer.usage else None,
            completion_tokens=answer.usage.completion_tokens if answer.usage else None,
            system_fingerprint=answer.system_fingerprint,
            answered_as=answer.model,
            attempts=attempted.attempts,
            segment=self._segment,
            sent_ns=attempted.sent_ns,
            elapsed_ns=self._clock_ns() - attempted.sent_ns,
        )

    async def score(self, scoring: Scoring) -> Likelihood | RequestFailure:
        """Ask how probable a text is until there is an answer, a refusal, or no attempt is left.

        Where the parts are text and something stands before the scored one, the server tokenises
        each by itself, so that the boundary is known and the prompt is the one that completions
        get; what the ids put together say is compared with the text, and refused if it differs.

        Raises:
            EndpointError: as `complete`.
        """

        async def ask() -> tuple[_Answer, _Measured]:
            if scoring.scored == "candidate" and isinstance(scoring.text, str):
                return await self._measure_text(scoring.text)
            parts = (scoring.given, scoring.text, scoring.end)
            if any(isinstance(part, str) for part in parts):
                return await self._measure_parts(scoring)
            ids = tuple(int(token) for part in parts for token in part)
            answer, choice = await self._ask(_scoring_body(ids))
            return answer, _measured(choice, ids, len(scoring.given), len(scoring.end))

        attempted = _Attempted()
        try:
            answer, measured = await self._insist(ask, attempted)
        except _NoAnswerError as error:
            return self._failure(scoring, error, attempted)
        return Likelihood(
            task_id=scoring.task_id,
            strategy=scoring.strategy,
            sample_index=scoring.sample_index,
            scored=scoring.scored,
            logprobs=measured.logprobs,
            end_logprobs=measured.end_logprobs,
            tokens=measured.tokens,
            characters=scoring.characters,
            prompt_tokens=measured.prompt_tokens,
            system_fingerprint=answer.system_fingerprint,
            answered_as=answer.model,
            attempts=attempted.attempts,
            segment=self._segment,
            sent_ns=attempted.sent_ns,
            elapsed_ns=self._clock_ns() - attempted.sent_ns,
        )

    async def _measure_text(self, text: str) -> tuple[_Answer, _Measured]:
        """All of a text, tokenised by the server, but its first token."""
        answer, choice = await self._ask(_scoring_body(text))
        if choice.prompt_token_ids is None:
            raise self._no_ids("what was scored cannot be told")
        return answer, _measured(choice, choice.prompt_token_ids, 0, 0)

    async def _measure_parts(self, scoring: Scoring) -> tuple[_Answer, _Measured]:
        """A text after another, each tokenised by the server."""
        parts = (str(scoring.given), str(scoring.text), str(scoring.end))
        given = await self._ids_of(parts[0], begins=True)
        text = await self._ids_of(parts[1], begins=False)
        end = await self._ids_of(parts[2], begins=False)
        if not given:
            raise _NoAnswerError("boundary-unknown", "nothing stands before what is scored")
        ids = (*given, *text, *end)
        # `echo` has the server say what the ids mean; it cannot return ids at the same time.
        body = _scoring_body(ids) | {"echo": True, "return_token_ids": False}
        answer, choice = await self._ask(body)
        # Not equality: a token was generated behind, and BOS may be shown in front.
        if "".join(parts) not in choice.text:
            raise _NoAnswerError(
                "boundary-unknown",
                "the server's tokenizer does not give the same text for the scored part alone as "
                "behind its prompt; name the model's own tokenizer.model with --tokenizer",
            )
        return answer, _measured(choice, ids, len(given), len(end))

    async def _ids_of(self, text: str, *, begins: bool) -> tuple[int, ...]:
        """The server's ids of a text that begins a sequence, or of one that continues it."""
        if not text:
            return ()
        body = _plain_body(text) | {"return_token_ids": True, "add_special_tokens": begins}
        _, choice = await self._ask(body)
        if choice.prompt_token_ids is None:
            raise self._no_ids("what is scored cannot be told from what stands before it")
        return choice.prompt_token_ids

    def _no_ids(self, consequence: str) -> EndpointError:
        return EndpointError(
            f"{self._http.base_url}completions: returns no token ids, without which {consequence}; "
            "it needs vLLM 0.11 or newer"
        )

    async def _insist(
        self, ask: Callable[[], Awaitable[AnswerT]], attempted: _Attempted
    ) -> AnswerT:
        """What `ask` returns, tried as often as may help; `attempted` counts and times.

        Raises:
            _NoAnswerError: of the last attempt.
        """
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_may_answer_later),
            stop=stop_after_attempt(self._timeouts.attempts),
            wait=self._wait_s,
            sleep=self._sleep,
            reraise=True,
        ):
            with attempt:
                attempted.attempts += 1
                attempted.sent_ns = self._clock_ns()
                return await ask()
        raise AssertionError("the last attempt returns or raises")

    def _failure(
        self, asked: Prompt | Scoring, error: _NoAnswerError, attempted: _Attempted
    ) -> RequestFailure:
        return RequestFailure(
            task_id=asked.task_id,
            strategy=asked.strategy,
            sample_index=asked.sample_index,
            scored=asked.scored if isinstance(asked, Scoring) else None,
            reason=error.reason,
            detail=error.detail,
            attempts=attempted.attempts,
            segment=self._segment,
            sent_ns=attempted.sent_ns,
            elapsed_ns=self._clock_ns() - attempted.sent_ns,
        )

    async def _ask(self, body: Mapping[str, Any]) -> tuple[_Answer, _Choice]:
        whole = {"model": self._model, "n": 1, "stream": False, **body}
        try:
            response = await self._http.post(
                "completions",
                content=orjson.dumps(whole),
                headers={"Content-Type": "application/json"},
            )
        except httpx.TransportError as error:
            reason: FailureReason = "timeout" if is_timeout(error) else "connection"
            raise _NoAnswerError(reason, describe(error)) from error
        except httpx.DecodingError as error:
            raise _NoAnswerError("malformed-response", describe(error)) from error
        if response.status_code != 200:
            raise self._refusal(response)
        return self._read(body["prompt"], response)

    def _refusal(self, response: httpx.Response) -> Exception:
        status = response.status_code
        message = error_message(response)
        detail = f"HTTP {status}: {message}"
        where = str(response.request.url)
        if status in (401, 403):
            return EndpointError(f"{where}: refuses the API key (HTTP {status}: {message})")
        if status == 404:
            return EndpointError(f"{where}: HTTP 404 for model {self._model!r} ({message})")
        if status in (429, 503):
            return _NoAnswerError("overloaded", detail, retry_after_s(response.headers))
        if status == 408:
            return _NoAnswerError("timeout", detail)
        if status >= 500:
            return _NoAnswerError("server-error", detail)
        if status in (400, 413, 422):
            too_long = status == 413 or "max_model_len" in message or "context length" in message
            return _NoAnswerError("prompt-too-long" if too_long else "bad-request", detail)
        return EndpointError(f"{where}: unexpected answer ({detail}); is this the full base URL?")

    def _read(
        self, prompt: str | tuple[int, ...], response: httpx.Response
    ) -> tuple[_Answer, _Choice]:
        try:
            body = orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise _NoAnswerError("malformed-response", f"not JSON: {error}") from error
        if isinstance(body, dict) and body.get("error"):
            raise _NoAnswerError("error-in-body", error_message(response))
        try:
            answer = _Answer.model_validate(body)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"]))
            raise _NoAnswerError("malformed-response", f"{place}: {fault['msg']}") from error
        if len(answer.choices) != 1:
            raise _NoAnswerError(
                "malformed-response", f"{len(answer.choices)} choices, asked for 1"
            )
        choice = answer.choices[0]
        if choice.finish_reason not in ("stop", "length"):
            raise _NoAnswerError("aborted", f"finish_reason {choice.finish_reason!r}")
        if self._answers_as is not None and answer.model != self._answers_as:
            raise _NoAnswerError(
                "wrong-model",
                f"answered as {answer.model!r}, the run began with {self._answers_as!r}",
            )
        if not isinstance(prompt, str) and choice.prompt_token_ids not in (None, prompt):
            raise _NoAnswerError("prompt-altered", "the server's prompt ids are not those sent")
        return answer, choice

    def _wait_s(self, state: RetryCallState) -> float:
        """What the server asks for, else exponential with full jitter, up to the longest wait."""
        longest = self._timeouts.longest_wait_s
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _NoAnswerError) and error.retry_after_s is not None:
            return min(error.retry_after_s, longest)
        backoff = wait_random_exponential(multiplier=self._timeouts.first_wait_s, max=longest)
        return backoff(state)


@dataclass
class _Attempted:
    """What has been tried of one request."""

    attempts: int = 0
    sent_ns: int = 0
    """Of the last attempt."""


@dataclass(frozen=True)
class _Measured:
    """The log-probabilities of a scored text, and of its end."""

    logprobs: tuple[float, ...]
    end_logprobs: tuple[float, ...]
    tokens: int
    prompt_tokens: int


def _plain_body(prompt: str | tuple[int, ...]) -> dict[str, Any]:
    """A request whose completion nobody reads: one token, as servers give at least one."""
    return {
        "prompt": prompt,
        "max_tokens": 1,
        "stop": (),
        "stop_token_ids": (),
        **Sampling().model_dump(),
    }


def _scoring_body(prompt: str | tuple[int, ...]) -> dict[str, Any]:
    """A request for the probability of each prompt token, and of no other (0)."""
    return _plain_body(prompt) | {"return_token_ids": True, "prompt_logprobs": 0}


def _measured(choice: _Choice, ids: tuple[int, ...], given: int, end: int) -> _Measured:
    """What a choice says of `ids`, of which the first `given` and the last `end` are not the text.

    The first id of all has no probability.

    Raises:
        _NoAnswerError: a probability is missing or no number, or is another prompt's.
    """
    logprobs = choice.prompt_logprobs
    if logprobs is None:
        raise _NoAnswerError("corrupted", "no log-probabilities of the prompt")
    if len(logprobs) != len(ids):
        raise _NoAnswerError(
            "malformed-response", f"{len(logprobs)} log-probabilities of {len(ids)} prompt tokens"
        )
    values = []
    for place, (token, known) in enumerate(zip(ids[1:], logprobs[1:], strict=True), 1):
        if known is not None and token not in known:
            raise _NoAnswerError("prompt-altered", f"token {place} is not the id {token} sent")
        value = None if known is None else known[token].logprob
        if value is None or not math.isfinite(value):
            raise _NoAnswerError("corrupted", f"no log-probability of token {place}")
        values.append(value)
    until = len(ids) - end
    return _Measured(
        logprobs=tuple(values[max(given - 1, 0) : until - 1]),
        end_logprobs=tuple(values[until - 1 :]) if end else (),
        tokens=until - given,
        prompt_tokens=len(ids),
    )


def _may_answer_later(error: BaseException) -> bool:
    return isinstance(error, _NoAnswerError) and error.reason not in PERMANENT_FAILURES


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds that a `Retry-After` header asks for; None if there is none or it is a date."""
    try:
        return max(0.0, float(headers["Retry-After"]))
    except (KeyError, ValueError):
        return None

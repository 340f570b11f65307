"""One prompt asked of an OpenAI-compatible server, and its outcome classified.

Knows HTTP and the answer's shape; knows no task, no tokenizer, no file. An answer is a
`Completion`; no answer after all attempts is a `RequestFailure`; a server that refuses us
altogether is an `EndpointError` and ends the run.

API: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from fim_eval.errors import EndpointError
from fim_eval.records import Completion, Prompt, RequestFailure, Sampling, Timeouts
from fim_eval.transport import LONGEST_DETAIL, describe, error_message, is_timeout
from fim_eval.words import PERMANENT_FAILURES, FailureReason


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Choice(BaseModel):
    text: str
    finish_reason: str | None
    stop_reason: str | int | None = None
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None


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
        body = orjson.dumps(
            {
                "model": self._model,
                "prompt": prompt.text if prompt.token_ids is None else prompt.token_ids,
                "max_tokens": prompt.max_tokens,
                "stop": prompt.stop,
                "stop_token_ids": prompt.stop_token_ids,
                "n": 1,
                "stream": False,
                "return_token_ids": True,
                **self._sampling,
                "seed": self._sampling["seed"] + prompt.sample_index,
            }
        )
        attempts = 0
        sent_ns = 0
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_may_answer_later),
                stop=stop_after_attempt(self._timeouts.attempts),
                wait=self._wait_s,
                sleep=self._sleep,
                reraise=True,
            ):
                with attempt:
                    attempts += 1
                    sent_ns = self._clock_ns()
                    answer, choice = await self._ask(prompt, body)
        except _NoAnswerError as error:
            return RequestFailure(
                task_id=prompt.task_id,
                strategy=prompt.strategy,
                sample_index=prompt.sample_index,
                reason=error.reason,
                detail=error.detail,
                attempts=attempts,
                segment=self._segment,
                sent_ns=sent_ns,
                elapsed_ns=self._clock_ns() - sent_ns,
            )
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
            attempts=attempts,
            segment=self._segment,
            sent_ns=sent_ns,
            elapsed_ns=self._clock_ns() - sent_ns,
        )

    async def _ask(self, prompt: Prompt, body: bytes) -> tuple[_Answer, _Choice]:
        try:
            response = await self._http.post(
                "completions", content=body, headers={"Content-Type": "application/json"}
            )
        except httpx.TransportError as error:
            reason: FailureReason = "timeout" if is_timeout(error) else "connection"
            raise _NoAnswerError(reason, describe(error)) from error
        except httpx.DecodingError as error:
            raise _NoAnswerError("malformed-response", describe(error)) from error
        if response.status_code != 200:
            raise self._refusal(response)
        return self._read(prompt, response)

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

    def _read(self, prompt: Prompt, response: httpx.Response) -> tuple[_Answer, _Choice]:
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
        if prompt.token_ids is not None:
            if choice.prompt_token_ids not in (None, prompt.token_ids):
                raise _NoAnswerError("prompt-altered", "the server's prompt ids are not those sent")
            if choice.token_ids is None:
                raise EndpointError(
                    f"{response.request.url}: returns no token ids, without which a prompt of ids "
                    "cannot be decoded; it needs vLLM 0.11 or newer"
                )
        return answer, choice

    def _wait_s(self, state: RetryCallState) -> float:
        """What the server asks for, else exponential with full jitter, up to the longest wait."""
        longest = self._timeouts.longest_wait_s
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _NoAnswerError) and error.retry_after_s is not None:
            return min(error.retry_after_s, longest)
        backoff = wait_random_exponential(multiplier=self._timeouts.first_wait_s, max=longest)
        return backoff(state)


def _may_answer_later(error: BaseException) -> bool:
    return isinstance(error, _NoAnswerError) and error.reason not in PERMANENT_FAILURES


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds that a `Retry-After` header asks for; None if there is none or it is a date."""
    try:
        return max(0.0, float(headers["Retry-After"]))
    except (KeyError, ValueError):
        return None

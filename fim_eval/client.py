"""One prompt asked of an OpenAI-compatible server, or one text scored, and its outcome classified.

Knows HTTP and when to ask again; knows no task, no tokenizer, no file. An answer is a
`Completion` or a `Likelihood`; no answer after all attempts is a `RequestFailure`; a server that
refuses us altogether is an `EndpointError` and ends the run.

API: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import orjson
from httpx_sse import SSEError, aconnect_sse
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random_exponential

from fim_eval.answers import (
    Answer,
    Choice,
    Measured,
    NoAnswerError,
    Usage,
    choice_of,
    measured,
    parse_answer,
    put_together,
    retry_after_s,
)
from fim_eval.errors import EndpointError, FimEvalError
from fim_eval.health import Health, HungError
from fim_eval.records import (
    Completion,
    Likelihood,
    Prompt,
    RequestFailure,
    Sampling,
    Scoring,
    Timeouts,
)
from fim_eval.transport import Http, describe, error_message, is_timeout
from fim_eval.words import PERMANENT_FAILURES, FailureReason

AnswerT = TypeVar("AnswerT")

LOSES_SERVER: frozenset[FailureReason] = frozenset(
    {"connection", "server-error", "timeout", "wrong-model"}
)
"""After these it is seen whether the server still generates, and is who it was, before it is asked
again."""

OVERLOADS = 3
"""So many in a row of one request may be the end of a server behind a gateway, too: it is seen."""


class Client:
    """Asks one model on one endpoint. The HTTP client, the clock and the sleep are arguments."""

    def __init__(
        self,
        http: Http,
        *,
        model: str,
        answers_as: str | None,
        sampling: Sampling,
        timeouts: Timeouts,
        segment: int,
        clock_ns: Callable[[], int],
        sleep: Callable[[float], Any],
        health: Health | None = None,
        on_overload: Callable[[], None] = lambda: None,
        priority: int = 0,
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
            health: of the endpoint; None: it is not waited for when it is lost.
            on_overload: told whenever the server has too much to do.
            priority: sent with every request, unless 0: lower goes first, where the server does so.
        """
        self.http = http
        self._every = {"model": model, "n": 1, "stream": False}
        if priority:
            # Servers that know none refuse the field.
            self._every["priority"] = priority
        self._answers_as = answers_as
        self._sampling = sampling.model_dump()
        self._timeouts = timeouts
        self._segment = segment
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._health = health
        self._on_overload = on_overload

    async def complete(self, prompt: Prompt) -> Completion | RequestFailure:
        """Ask one prompt: see `complete_all`."""
        (outcome,) = await self.complete_all([prompt])
        return outcome

    async def complete_all(self, prompts: Sequence[Prompt]) -> list[Completion | RequestFailure]:
        """Ask prompts in one request until each has an answer, a refusal, or no attempt left.

        What is wrong with one is not its neighbours' fault: of a request that is refused each half
        is asked by itself, and what was answered is not asked again. What has no answer after two
        attempts is asked in halves, quarters and so on, side by side: six attempts leave each of
        16 alone.

        Args:
            prompts: alike in all but what is asked: see `order.batches`.

        Returns:
            Their outcomes, in order.

        Raises:
            EndpointError: the endpoint refuses us altogether: key, path or model name are wrong;
                or it is lost and does not come back.
        """
        attempted = [_Attempted() for _ in prompts]
        outcomes: dict[int, Completion | RequestFailure] = {}
        errors: dict[int, NoAnswerError] = {}

        async def ask_part(places: Sequence[int]) -> None:
            sent_ns = self._clock_ns()
            for place in places:
                attempted[place].attempts += 1
                attempted[place].sent_ns = sent_ns
            answers = await self._ask_prompts([prompts[place] for place in places])
            for place, found in zip(places, answers, strict=True):
                if isinstance(found, NoAnswerError):
                    errors[place] = found
                    if found.reason in PERMANENT_FAILURES:
                        outcomes[place] = self._failure(prompts[place], found, attempted[place])
                else:
                    alone = len(places) == 1
                    outcomes[place] = self._completion(
                        prompts[place], *found, attempted[place], counted=alone
                    )

        async def ask() -> None:
            places = [place for place in range(len(prompts)) if place not in outcomes]
            halvings = max(0, attempted[places[0]].attempts - 1)
            size = max(1, len(prompts) >> halvings)
            errors.clear()
            await _side_by_side(
                [ask_part(places[start : start + size]) for start in range(0, len(places), size)]
            )
            open_ = [error for place, error in errors.items() if place not in outcomes]
            if open_:
                raise _together(open_)

        try:
            await self._insist(ask)
        except NoAnswerError:
            for place, error in errors.items():
                if place not in outcomes:
                    outcomes[place] = self._failure(prompts[place], error, attempted[place])
        return [outcomes[place] for place in range(len(prompts))]

    async def stream(self, prompt: Prompt) -> Completion | RequestFailure:
        """Ask one prompt token by token, to see when they come; otherwise as `complete`.

        Costs several times the processor time of one answer as a whole.

        Raises:
            EndpointError: as `complete_all`.
        """
        attempted = _Attempted()

        async def ask() -> _Streamed:
            attempted.attempts += 1
            attempted.sent_ns = self._clock_ns()
            return await self._streamed(prompt)

        try:
            found = await self._insist(ask)
        except NoAnswerError as error:
            return self._failure(prompt, error, attempted)
        completion = self._completion(prompt, found.answer, found.choice, attempted, counted=True)
        return completion.model_copy(
            update={
                "first_token_ns": found.first_ns - attempted.sent_ns,
                "last_token_ns": found.last_ns - attempted.sent_ns,
            }
        )

    async def _streamed(self, prompt: Prompt) -> _Streamed:
        """One attempt: every event read, the choice put together.

        An error comes inside of a stream that has begun with 200, and a connection that ends early
        raises nothing: only an end that is said to be one, with its usage, is an answer.
        """
        body = self._body([prompt]) | {
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        choices: list[Choice] = []
        times: list[int] = []
        last: Answer | None = None
        usage: Usage | None = None
        is_done = False
        async with (
            self._on_the_wire(prompt.max_tokens),
            aconnect_sse(
                self.http,
                "POST",
                "completions",
                content=orjson.dumps(body),
                headers={"Content-Type": "application/json"},
            ) as source,
        ):
            if source.response.status_code != 200:
                await source.response.aread()
                raise self._refusal(source.response)
            async for event in source.aiter_sse():
                if event.data == "[DONE]":
                    is_done = True
                    break
                last = parse_answer(event.data.encode(), source.response)
                usage = last.usage or usage
                if last.choices:
                    choices += last.choices
                    times.append(self._clock_ns())
        if last is None or not choices or not is_done or usage is None:
            raise NoAnswerError("connection", "the stream ended before it was whole")
        self._check_model(last)
        choice = put_together(choices)
        answer = last.model_copy(update={"choices": (choice,), "usage": usage})
        found = self._checked(answer, 0, prompt)
        if isinstance(found, NoAnswerError):
            raise found
        return _Streamed(*found, times[0], times[-1])

    async def _ask_prompts(
        self, prompts: Sequence[Prompt]
    ) -> list[tuple[Answer, Choice] | NoAnswerError]:
        """One attempt, in order; a request that is refused for good is split."""
        body = self._body(prompts)
        try:
            answer = await self._post(body)
        except NoAnswerError as error:
            if len(prompts) == 1 or error.reason not in PERMANENT_FAILURES:
                return [error] * len(prompts)
            middle = len(prompts) // 2
            return [
                *await self._ask_prompts(prompts[:middle]),
                *await self._ask_prompts(prompts[middle:]),
            ]
        return [self._checked(answer, place, prompt) for place, prompt in enumerate(prompts)]

    def _body(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        contents = [
            prompt.text if prompt.token_ids is None else prompt.token_ids for prompt in prompts
        ]
        first = prompts[0]
        return {
            **self._every,
            "prompt": contents[0] if len(contents) == 1 else contents,
            "max_tokens": first.max_tokens,
            "stop": first.stop,
            "stop_token_ids": first.stop_token_ids,
            "return_token_ids": True,
            **self._sampling,
            "seed": self._sampling["seed"] + first.sample_index,
        }

    def _checked(
        self, answer: Answer, place: int, prompt: Prompt
    ) -> tuple[Answer, Choice] | NoAnswerError:
        """The choice that answers a prompt of a request, or what is wrong with it."""
        try:
            choice = choice_of(answer, place)
            if prompt.token_ids is not None:
                self._check_ids(choice, prompt.token_ids)
                if choice.token_ids is None:
                    raise self._no_ids("a prompt of ids cannot be decoded")
        except NoAnswerError as error:
            return error
        return answer, choice

    def _completion(
        self,
        prompt: Prompt,
        answer: Answer,
        choice: Choice,
        attempted: _Attempted,
        *,
        counted: bool,
    ) -> Completion:
        """What is recorded of an answer; `counted`: its usage is of this prompt alone."""
        usage = answer.usage if counted else None
        ids, prompt_ids = choice.token_ids, choice.prompt_token_ids
        return Completion(
            task_id=prompt.task_id,
            strategy=prompt.strategy,
            sample_index=prompt.sample_index,
            text=choice.text,
            server_text=None,
            token_ids=ids,
            finish_reason="stop" if choice.finish_reason == "stop" else "length",
            stop_reason=choice.stop_reason,
            prompt_tokens=usage.prompt_tokens if usage else _length(prompt_ids),
            completion_tokens=usage.completion_tokens if usage else _length(ids),
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
        attempted = _Attempted()

        async def ask() -> tuple[Answer, Measured]:
            attempted.attempts += 1
            attempted.sent_ns = self._clock_ns()
            if scoring.scored == "candidate" and isinstance(scoring.text, str):
                return await self._measure_text(scoring.text)
            parts = (scoring.given, scoring.text, scoring.end)
            if any(isinstance(part, str) for part in parts):
                return await self._measure_parts(scoring)
            ids = tuple(int(token) for part in parts for token in part)
            answer, choice = await self._ask(_scoring_body(ids))
            return answer, measured(choice, ids, len(scoring.given), len(scoring.end))

        try:
            answer, found = await self._insist(ask)
        except NoAnswerError as error:
            return self._failure(scoring, error, attempted)
        return Likelihood(
            task_id=scoring.task_id,
            strategy=scoring.strategy,
            sample_index=scoring.sample_index,
            scored=scoring.scored,
            logprobs=found.logprobs,
            end_logprobs=found.end_logprobs,
            tokens=found.tokens,
            characters=scoring.characters,
            prompt_tokens=found.prompt_tokens,
            system_fingerprint=answer.system_fingerprint,
            answered_as=answer.model,
            attempts=attempted.attempts,
            segment=self._segment,
            sent_ns=attempted.sent_ns,
            elapsed_ns=self._clock_ns() - attempted.sent_ns,
        )

    async def _measure_text(self, text: str) -> tuple[Answer, Measured]:
        """All of a text, tokenised by the server, but its first token."""
        answer, choice = await self._ask(_scoring_body(text))
        if choice.prompt_token_ids is None:
            raise self._no_ids("what was scored cannot be told")
        return answer, measured(choice, tuple(choice.prompt_token_ids), 0, 0)

    async def _measure_parts(self, scoring: Scoring) -> tuple[Answer, Measured]:
        """A text after another, each tokenised by the server."""
        parts = (str(scoring.given), str(scoring.text), str(scoring.end))
        given = await self._ids_of(parts[0], begins=True)
        text = await self._ids_of(parts[1], begins=False)
        end = await self._ids_of(parts[2], begins=False)
        if not given:
            raise NoAnswerError("boundary-unknown", "nothing stands before what is scored")
        ids = (*given, *text, *end)
        # `echo` has the server say what the ids mean; it cannot return ids at the same time.
        body = _scoring_body(ids) | {"echo": True, "return_token_ids": False}
        answer, choice = await self._ask(body)
        # Not equality: a token was generated behind, and BOS may be shown in front.
        if "".join(parts) not in choice.text:
            raise NoAnswerError(
                "boundary-unknown",
                "the server's tokenizer does not give the same text for the scored part alone as "
                "behind its prompt; name the model's own tokenizer.model with --tokenizer",
            )
        return answer, measured(choice, ids, len(given), len(end))

    async def _ids_of(self, text: str, *, begins: bool) -> tuple[int, ...]:
        """The server's ids of a text that begins a sequence, or of one that continues it."""
        if not text:
            return ()
        body = _plain_body(text) | {"return_token_ids": True, "add_special_tokens": begins}
        _, choice = await self._ask(body)
        if choice.prompt_token_ids is None:
            raise self._no_ids("what is scored cannot be told from what stands before it")
        return tuple(choice.prompt_token_ids)

    def _no_ids(self, consequence: str) -> EndpointError:
        return EndpointError(
            f"{self.http.base_url}completions: returns no token ids, without which {consequence}; "
            "it needs vLLM 0.11 or newer"
        )

    async def _insist(self, ask: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """What `ask` returns, tried as often as may help; a lost server is waited for in between.

        Raises:
            NoAnswerError: of the last attempt.
        """
        try:
            # Nearly all are answered at once: what retrying costs is left to those that are not.
            return await ask()
        except NoAnswerError as error:
            first = [error]
        overloads = 0
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_may_answer_later),
            stop=stop_after_attempt(self._timeouts.attempts),
            wait=self._wait_s,
            sleep=self._sleep,
            reraise=True,
        ):
            with attempt:
                try:
                    if first:
                        raise first.pop()
                    return await ask()
                except NoAnswerError as error:
                    # One that says when to come back is there.
                    is_overload = error.reason == "overloaded" and error.retry_after_s is None
                    overloads = overloads + 1 if is_overload else 0
                    may_be_lost = error.reason in LOSES_SERVER or overloads >= OVERLOADS
                    if self._health is not None and may_be_lost:
                        await self._health.recovered()
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _failure(
        self, asked: Prompt | Scoring, error: NoAnswerError, attempted: _Attempted
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

    async def _ask(self, body: Mapping[str, Any]) -> tuple[Answer, Choice]:
        """The one choice of a request with one prompt."""
        answer = await self._post(body)
        choice = choice_of(answer, 0)
        if not isinstance(body["prompt"], str):
            self._check_ids(choice, body["prompt"])
        return answer, choice

    async def _post(self, body: Mapping[str, Any]) -> Answer:
        whole = {**self._every, **body}
        async with self._on_the_wire(body["max_tokens"]):
            response = await self.http.post_completions(orjson.dumps(whole))
            if response.status_code != 200:
                raise self._refusal(response)
        return self._read(response, 1 if _is_one(body["prompt"]) else len(body["prompt"]))

    @contextlib.asynccontextmanager
    async def _on_the_wire(self, max_tokens: int) -> AsyncIterator[None]:
        """What goes wrong inside, before an answer could be read, is a `NoAnswerError`."""
        watched = self._health.watched(max_tokens) if self._health else contextlib.nullcontext()
        try:
            async with watched:
                yield
        except HungError as error:
            raise NoAnswerError("timeout", str(error)) from error
        except SSEError as error:
            raise NoAnswerError("malformed-response", str(error)) from error
        except httpx.TransportError as error:
            reason: FailureReason = "timeout" if is_timeout(error) else "connection"
            raise NoAnswerError(reason, describe(error)) from error
        except httpx.DecodingError as error:
            raise NoAnswerError("malformed-response", describe(error)) from error

    def _refusal(self, response: httpx.Response) -> Exception:
        status = response.status_code
        message = error_message(response)
        detail = f"HTTP {status}: {message}"
        where = str(response.request.url)
        if status in (401, 403):
            return EndpointError(f"{where}: refuses the API key (HTTP {status}: {message})")
        if status == 404:
            return EndpointError(
                f"{where}: HTTP 404 for model {self._every['model']!r} ({message})"
            )
        if status in (429, 503):
            self._on_overload()
            return NoAnswerError("overloaded", detail, retry_after_s(response.headers))
        if status == 408:
            return NoAnswerError("timeout", detail)
        if status >= 500:
            return NoAnswerError("server-error", detail)
        if status in (400, 413, 422):
            too_long = status == 413 or "max_model_len" in message or "context length" in message
            return NoAnswerError("prompt-too-long" if too_long else "bad-request", detail)
        return EndpointError(f"{where}: unexpected answer ({detail}); is this the full base URL?")

    def _read(self, response: httpx.Response, prompts: int) -> Answer:
        answer = parse_answer(response.content, response, prompts)
        answer.choices = tuple(sorted(answer.choices, key=lambda choice: choice.index))
        if [choice.index for choice in answer.choices] != list(range(prompts)):
            raise NoAnswerError(
                "malformed-response", f"{len(answer.choices)} choices, asked for {prompts}"
            )
        self._check_model(answer)
        return answer

    def _check_model(self, answer: Answer) -> None:
        if self._answers_as is not None and answer.model != self._answers_as:
            raise NoAnswerError(
                "wrong-model",
                f"answered as {answer.model!r}, the run began with {self._answers_as!r}",
            )

    @staticmethod
    def _check_ids(choice: Choice, sent: Sequence[int]) -> None:
        if choice.prompt_token_ids is not None and choice.prompt_token_ids != list(sent):
            raise NoAnswerError("prompt-altered", "the server's prompt ids are not those sent")

    def _wait_s(self, state: RetryCallState) -> float:
        """What the server asks for, up to `recovery_s`; else exponential, up to the longest wait.

        Half of that is at random, so that clients do not come back together, and half is certain:
        how long a server is waited for in all must not be left to chance.
        """
        longest = self._timeouts.longest_wait_s
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, NoAnswerError) and error.retry_after_s is not None:
            return min(error.retry_after_s, max(longest, self._timeouts.recovery_s))
        half = {"multiplier": self._timeouts.first_wait_s / 2, "max": longest / 2}
        return (wait_exponential(**half) + wait_random_exponential(**half))(state)


async def _side_by_side(parts: Sequence[Coroutine[Any, Any, None]]) -> None:
    """All of them; the first that ends the run ends the others.

    Raises:
        FimEvalError: as they do.
    """
    if len(parts) == 1:
        # Nearly always: a task and its group cost more than the rest.
        return await parts[0]
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except* FimEvalError as several:
        raise several.exceptions[0] from None


def _together(errors: Sequence[NoAnswerError]) -> NoAnswerError:
    """What says when several may be asked again: not before the last of them may."""
    worst = max(errors, key=lambda error: error.reason in LOSES_SERVER)
    asked_s = [error.retry_after_s for error in errors if error.retry_after_s is not None]
    return NoAnswerError(worst.reason, worst.detail, max(asked_s, default=None))


def _length(ids: Sequence[int] | None) -> int | None:
    return None if ids is None else len(ids)


def _is_one(prompt: Any) -> bool:
    """Whether it is one prompt, not several: a text, or ids."""
    return isinstance(prompt, str) or not prompt or isinstance(prompt[0], int)


@dataclass(frozen=True)
class _Streamed:
    """An answer whose tokens were seen to come."""

    answer: Answer
    choice: Choice
    first_ns: int
    last_ns: int


@dataclass
class _Attempted:
    """What has been tried of one request."""

    attempts: int = 0
    sent_ns: int = 0
    """Of the last attempt."""


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


def _may_answer_later(error: BaseException) -> bool:
    return isinstance(error, NoAnswerError) and error.reason not in PERMANENT_FAILURES

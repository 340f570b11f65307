"""A server that answers as vLLM does, with set delays, limits and faults: to rehearse a run.

It generates nothing: what it answers is known before, from the prompts it is given. It never stands
in for a model, and says so in its name and version. Wire format:
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html; faults: docs/mock-server.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import orjson
from aiohttp import web

from fim_eval.errors import EndpointError

Fault = Literal[
    "429",
    "429-retry-after",
    "503",
    "500",
    "dead",
    "hang",
    "reset",
    "reset-in-body",
    "cut-json",
    "not-json",
    "error-in-body",
    "abort",
    "no-choice",
    "wrong-model",
    "other-fingerprint",
    "altered-prompt",
    "null-logprobs",
    "slow",
    "400",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

DEAD_S = 3.0
"""How long a dead engine refuses everything before it is back."""

SLOW_BYTES_S = 0.002
"""Between two pieces of a slow body."""

BREAK_OFF: frozenset[Fault | None] = frozenset(
    {"reset-in-body", "cut-json", "not-json", "error-in-body"}
)
"""In a stream: after the first token, or instead of it where there is no other."""

ERROR = {"error": {"message": "EngineCore encountered an issue", "code": 500}}
NOT_JSON = b"<html>Bad Gateway</html>"

VERSION = "0.32.0-mock"


@dataclass(frozen=True, slots=True)
class Known:
    """What is answered to a prompt."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Decided:
    """What one prompt of a request gets, whichever way it is sent."""

    text: str
    ids: tuple[int, ...]
    finish_reason: str
    prompt_ids: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What the server does, all of it decided by the seed and the requests that come."""

    model: str = "mock"
    fingerprint: str = "vllm-0.32.0-mock"
    first_token_s: float = 0.0
    per_token_s: float = 0.0
    most_running: int = 256
    """Prompts at work at once; others wait, as in a real server."""

    most_waiting: int | None = None
    """Prompts that may wait; more are refused with 503. None: any number."""

    faults: Mapping[Fault, float] = field(default_factory=dict)
    """How probable each fault is, for a request."""

    script: Mapping[int, Fault] = field(default_factory=dict)
    """Faults of single requests, by number: the first that `_is_rehearsed` is 1."""

    corrupted: float = 0.0
    """Share of prompts that get a wrong answer, chosen by their content."""

    seed: int = 0


class MockServer:
    """The application; `app` is served by whoever wants to."""

    def __init__(
        self, behaviour: Behaviour, known: Callable[[Any], Known | None], max_model_len: int = 4096
    ) -> None:
        """Nothing listens yet.

        Args:
            behaviour: what it does.
            known: the right answer to a prompt, a text or a list of ids; None: it is not known.
            max_model_len: longer prompts are refused.
        """
        self.behaviour = behaviour
        self._known = known
        self._max_model_len = max_model_len
        self._draw = random.Random(behaviour.seed)  # noqa: S311  no secret
        self._places = asyncio.Semaphore(behaviour.most_running)
        self._waiting = 0
        self._running = 0
        self._finished = 0
        self._requests = 0
        self._dead_until = 0.0
        self.faults: dict[str, int] = dict.fromkeys(FAULTS, 0)
        """How often each was shown."""

        self.prompts = 0
        """Completions asked for, refused ones included."""

        self.app = web.Application(client_max_size=1 << 28)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_get("/version", self._version)
        self.app.router.add_get("/health", self._health)
        self.app.router.add_get("/metrics", self._metrics)
        self.app.router.add_post("/v1/completions", self._completions)

    async def _models(self, _: web.Request) -> web.Response:
        row = {
            "id": self.behaviour.model,
            "object": "model",
            "owned_by": "fim_eval",
            "root": "mock",
            "max_model_len": self._max_model_len,
        }
        return _json({"object": "list", "data": [row]})

    async def _version(self, _: web.Request) -> web.Response:
        return _json({"version": VERSION})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        name = self.behaviour.model
        lines = (
            f'vllm:num_requests_running{{model_name="{name}"}} {self._running}',
            f'vllm:num_requests_waiting{{model_name="{name}"}} {self._waiting}',
            f'vllm:request_success_total{{model_name="{name}"}} {self._finished}',
        )
        return web.Response(text="\n".join(lines) + "\n")

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        prompts = body["prompt"]
        if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int)):
            prompts = [prompts]
        self.prompts += len(prompts)
        now = asyncio.get_running_loop().time()
        if now < self._dead_until:
            return _refusal(500, "EngineCore encountered an issue: it is dead")
        if body["model"] != self.behaviour.model:
            return _refusal(404, f"The model `{body['model']}` does not exist.")
        if too_long := [one for one in prompts if len(one) > self._max_model_len]:
            return _refusal(
                400,
                f"This model's maximum context length is {self._max_model_len} tokens. However, "
                f"your request has {len(too_long[0])} input tokens.",
            )
        if self._is_full(len(prompts)):
            return _refusal(503, "The server is overloaded")
        fault = self._next_fault() if _is_rehearsed(body) else None
        if fault == "null-logprobs" and (body.get("stream") or "prompt_logprobs" not in body):
            fault = None  # there is none to be null
        if fault is not None:
            self.faults[fault] += 1
            early = await self._before_work(fault, request, now)
            if early is not None:
                return early
        if body.get("stream"):
            self._waiting += 1
            return await self._streamed(request, body, prompts[0], fault)
        # Here, not when they wait: requests that come at once would all find the same room.
        self._waiting += len(prompts)
        choices = await asyncio.gather(
            *(self._choice(body, place, prompt) for place, prompt in enumerate(prompts))
        )
        return await self._answered(request, prompts, list(choices), fault)

    def _is_full(self, prompts: int) -> bool:
        behaviour = self.behaviour
        if behaviour.most_waiting is None:
            return False
        wanted = self._running + self._waiting + prompts
        return wanted > behaviour.most_running + behaviour.most_waiting

    def _next_fault(self) -> Fault | None:
        self._requests += 1
        if self._requests in self.behaviour.script:
            return self.behaviour.script[self._requests]
        drawn = self._draw.random()
        for fault, rate in self.behaviour.faults.items():
            if drawn < rate:
                return fault
            drawn -= rate
        return None

    async def _before_work(
        self, fault: Fault, request: web.Request, now: float
    ) -> web.StreamResponse | None:
        """The faults that need no answer."""
        match fault:
            case "429":
                return _refusal(429, "Too many requests")
            case "429-retry-after":
                return _refusal(429, "Too many requests", {"Retry-After": "1"})
            case "503":
                return _refusal(503, "The server is overloaded")
            case "500":
                return _refusal(500, "CUDA error: an illegal memory access was encountered")
            case "400":
                return _refusal(400, "logit_bias is out of range")
            case "dead":
                self._dead_until = now + DEAD_S
                return _refusal(500, "EngineCore encountered an issue: it is dead")
            case "hang":
                await asyncio.sleep(3600)
            case "reset":
                # Not raised: a server's log is no place for what is done on purpose.
                _close(request)
                return web.Response()
            case _:
                pass
        return None

    def _decided(self, body: Mapping[str, Any], prompt: Any) -> _Decided:
        known = self._known(prompt) or Known(" pass", (_id_of(" pass"),))
        if self._is_corrupted(prompt):
            known = Known(" " + known.text, (*known.ids[:1], *known.ids))
        ids = known.ids[: body.get("max_tokens", 16)]
        is_whole = len(ids) == len(known.ids)
        return _Decided(
            text=known.text if is_whole else known.text[: len(ids)],
            ids=ids,
            finish_reason="stop" if is_whole else "length",
            # A text of four characters is a token, as in code.
            prompt_ids=list(map(_id_of, prompt[::4])) if isinstance(prompt, str) else prompt,
        )

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        """A place for a prompt that is counted as waiting already."""
        async with self._places:
            self._waiting -= 1
            self._running += 1
            try:
                yield
            finally:
                self._running -= 1

    async def _choice(self, body: dict[str, Any], place: int, prompt: Any) -> dict[str, Any]:
        answer = self._decided(body, prompt)
        async with self._at_work():
            await _pause(
                self.behaviour.first_token_s + self.behaviour.per_token_s * len(answer.ids)
            )
        self._finished += 1
        returned = bool(body.get("return_token_ids"))
        choice: dict[str, Any] = {
            "index": place,
            "text": answer.text,
            "logprobs": None,
            "finish_reason": answer.finish_reason,
            "stop_reason": None,
            "token_ids": answer.ids if returned else None,
            "prompt_token_ids": answer.prompt_ids if returned else None,
            "prompt_logprobs": None,
            "_tokens": len(answer.ids),
        }
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [
                None,
                *({str(one): {"logprob": -1.0, "rank": 1}} for one in answer.prompt_ids[1:]),
            ]
        return choice

    async def _streamed(
        self, request: web.Request, body: dict[str, Any], prompt: Any, fault: Fault | None
    ) -> web.StreamResponse:
        """One prompt, token by token, as server-sent events."""
        answer = self._decided(body, prompt)
        pieces = _pieces(answer, returned=bool(body.get("return_token_ids")))
        _strike(pieces, fault)
        if fault == "no-choice":
            pieces = []
        if fault in BREAK_OFF:
            pieces = pieces[: min(1, len(pieces) - 1)]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(content: bytes) -> None:
            event = b"data: " + content + b"\n\n"
            if fault == "slow":
                half = len(event) // 2
                await response.write(event[:half])
                await asyncio.sleep(SLOW_BYTES_S)
                event = event[half:]
            await response.write(event)

        async with self._at_work():
            await _pause(self.behaviour.first_token_s)
            for piece in pieces:
                await _pause(self.behaviour.per_token_s)
                await send(orjson.dumps(self._body([piece], fault)))
        usage = _usage([prompt], len(answer.ids))
        last = orjson.dumps(self._body([], fault) | {"usage": usage})
        match fault:
            case "reset-in-body":
                _close(request)
                raise ConnectionResetError("on purpose")
            case "error-in-body":
                await send(orjson.dumps(ERROR))
            case "cut-json":
                await send(last[: len(last) // 2])
            case "not-json":
                await send(NOT_JSON)
            case _:
                self._finished += 1
                if (body.get("stream_options") or {}).get("include_usage"):
                    await send(last)
        await response.write(b"data: [DONE]\n\n")
        return response

    def _is_corrupted(self, prompt: Any) -> bool:
        if not self.behaviour.corrupted:
            return False
        # By content: the same prompt gets the same answer, however often and in whatever order.
        digest = hashlib.sha256(orjson.dumps([self.behaviour.seed, prompt])).digest()
        return int.from_bytes(digest[:8]) < self.behaviour.corrupted * 2**64

    async def _answered(
        self,
        request: web.Request,
        prompts: Sequence[Any],
        choices: list[dict[str, Any]],
        fault: Fault | None,
    ) -> web.StreamResponse:
        usage = _usage(prompts, sum(choice.pop("_tokens") for choice in choices))
        _strike(choices, fault)
        if fault == "no-choice":
            choices.pop()
        content = orjson.dumps(self._body(choices, fault) | {"usage": usage})
        match fault:
            case "error-in-body":
                content = orjson.dumps(ERROR)
            case "cut-json":
                content = content[: len(content) // 2]
            case "not-json":
                content = NOT_JSON
            case "slow" | "reset-in-body":
                return await _in_pieces(request, content, cut=fault == "reset-in-body")
            case _:
                pass
        return web.Response(body=content, content_type="application/json")

    def _body(self, choices: Sequence[dict[str, Any]], fault: Fault | None) -> dict[str, Any]:
        """An answer, or an event of a stream, but for what was used."""
        behaviour = self.behaviour
        is_other = fault == "other-fingerprint"
        return {
            "id": "cmpl-mock",
            "object": "text_completion",
            "created": 0,
            "model": "another" if fault == "wrong-model" else behaviour.model,
            "choices": choices,
            "system_fingerprint": "vllm-0.33.0-other" if is_other else behaviour.fingerprint,
        }


def known_answers(
    path: Path, tokens: Callable[[str], Sequence[int]] | None
) -> Callable[[Any], Known | None]:
    """The references of a file of prompts, as `fim-eval prompts` writes it.

    Args:
        path: the file.
        tokens: the ids of a text that continues a sequence, the end token included; None: a
            server for prompts of text, each character of whose answers is a token.

    Raises:
        EndpointError: it cannot be read, or holds something else.
    """
    answers: dict[Any, Known] = {}
    try:
        for line in path.read_bytes().splitlines():
            row = orjson.loads(line)
            key = row["text"] if row["token_ids"] is None else tuple(row["token_ids"])
            middle = row["middle"]
            ids = tokens(middle) if tokens else [_id_of(character) for character in middle]
            answers[key] = Known(middle, tuple(ids))
    except OSError as error:
        raise EndpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EndpointError(
            f"{path}: is no file of prompts ({error!r}); `fim-eval prompts` writes such files"
        ) from error

    def known(prompt: Any) -> Known | None:
        return answers.get(prompt if isinstance(prompt, str) else tuple(prompt))

    return known


def _is_rehearsed(body: Mapping[str, Any]) -> bool:
    """Whether faults strike a request: no sign of life, and no question for the ids of a text."""
    return body.get("max_tokens", 16) > 1 or "prompt_logprobs" in body


def _pieces(answer: _Decided, *, returned: bool) -> list[dict[str, Any]]:
    """The choice of each event of a stream: a token each, one at least."""
    last = max(0, len(answer.ids) - 1)
    return [
        {
            "index": 0,
            "text": answer.text[place : None if place == last else place + 1],
            "logprobs": None,
            "finish_reason": answer.finish_reason if place == last else None,
            "stop_reason": None,
            "token_ids": answer.ids[place : place + 1] if returned else None,
            "prompt_token_ids": answer.prompt_ids if returned and place == 0 else None,
        }
        for place in range(last + 1)
    ]


def _strike(choices: Sequence[dict[str, Any]], fault: Fault | None) -> None:
    """The faults inside of a choice, or of a piece of one."""
    match fault:
        case "abort":
            choices[-1]["finish_reason"] = "abort"
        case "altered-prompt":
            choices[0]["prompt_token_ids"] = [0]
        case "null-logprobs":
            choices[0]["prompt_logprobs"][-1] = None
        case _:
            pass


def _usage(prompts: Sequence[Any], completion_tokens: int) -> dict[str, int]:
    prompt_tokens = sum(map(len, prompts))
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


async def _pause(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)


def _id_of(character: str) -> int:
    return ord(character[0])


def _json(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", headers=headers
    )


def _refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    error = {"message": message, "type": "Error", "param": None, "code": status}
    return _json({"error": error}, status, headers)


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _in_pieces(request: web.Request, content: bytes, *, cut: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(content)
    await response.prepare(request)
    size = max(1, len(content) // 20)
    for place in range(0, len(content), size):
        if cut and place > len(content) // 2:
            _close(request)
            raise ConnectionResetError("on purpose")
        await response.write(content[place : place + size])
        await asyncio.sleep(SLOW_BYTES_S)
    return response

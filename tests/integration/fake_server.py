"""A server that answers like vLLM's, with known delays and answers. For tests only.

Serves `/v1/models`, `/version` and `/v1/completions` on a free port of loopback, from a thread of
its own. Bodies and refusals are shaped like those of vLLM 0.32. It knows no tokens: it counts one
per character, and a character's code point is its id. Asked for `prompt_logprobs`, it gives those
of `logprob`; asked to `echo`, it puts the prompt's text in front.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

PROBE = "def"
"""What `generate.identify` asks before the first task."""


@dataclass(frozen=True)
class Reply:
    """A whole answer, where a text is not enough: a refusal, a fault, ids of another kind."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[[dict[str, Any]], str | Reply]


def eighths(ids: Sequence[int], place: int) -> float | None:
    """The log-probability of a prompt's token: its id modulo 8, in eighths, below zero."""
    return -(ids[place] % 8) / 8


def right_answer(body: dict[str, Any]) -> str:
    """What is missing in a prompt of `made_tasks`: `    return 7` after `def f7():`."""
    found = re.search(r"def f(\d+)\(\)", str(body["prompt"]))
    return f"    return {found[1]}\n" if found else " x"


class FakeServer:
    """A context manager: listens inside of it. All settings may change while it listens."""

    def __init__(
        self,
        *,
        model: str = "fake-model",
        fingerprint: str | None = "vllm-0.32.0-5b2ef2de",
        version: str = "0.32.0",
        api_key: str | None = None,
        delay_s: float = 0.0,
        answer: Answer = right_answer,
    ) -> None:
        self.model = model
        self.answers_as = model
        self.fingerprint = fingerprint
        self.version = version
        self.tell_version: Callable[[], Reply] = self.right_version
        self.tell_models: Callable[[], Reply] = self.right_models
        self.api_key = api_key
        self.delay_s = delay_s
        self.answer = answer
        self.probe: Answer = lambda _: " "
        self.logprob: Callable[[Sequence[int], int], float | None] = eighths
        self.tokens: Callable[[str], list[int]] = lambda text: [ord(c) for c in text]
        self.requests: list[dict[str, Any]] = []
        """One body of every prompt asked, the probe included, in order of arrival."""

        self.keys: set[str] = set()
        """Keys that came with prompts."""

        self.batches: list[int] = []
        """Prompts of each request."""

        self.calls = 0
        """Requests of every kind, to any path."""

        self.in_flight = 0
        self.max_in_flight = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._stop = asyncio.Event()
        self._listens = threading.Event()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def prompts(self) -> list[Any]:
        """Prompts asked so far, without the probe and what was only scored."""
        return [
            body["prompt"]
            for body in list(self.requests)
            if body["prompt"] != PROBE and body["max_tokens"] > 1
        ]

    @property
    def scored(self) -> list[Any]:
        """Prompts whose tokens' probabilities were asked."""
        return [body["prompt"] for body in list(self.requests) if "prompt_logprobs" in body]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listens.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every connection and the port; needless to say twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)

    def right_version(self) -> Reply:
        """What `/version` tells."""
        return Reply(200, {"version": self.version})

    def right_models(self) -> Reply:
        """What `/v1/models` lists."""
        return Reply(200, {"object": "list", "data": [self._model_row()]})

    def completion(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        """The body of an answer with this text, cut at the request's limit."""
        kept = text[: body["max_tokens"]]
        prompt = body["prompt"]
        prompt_ids = self.tokens(prompt) if isinstance(prompt, str) else prompt
        returns_ids = body.get("return_token_ids", False)
        shown = "".join(map(chr, prompt_ids)) if body.get("echo") and not returns_ids else ""
        return {
            "id": "cmpl-b57d2c6ee52cdbc4",
            "object": "text_completion",
            "created": 1795475029,
            "model": self.answers_as,
            "choices": [
                {
                    "index": 0,
                    "text": shown + kept,
                    "logprobs": None,
                    "finish_reason": "stop" if kept == text else "length",
                    "stop_reason": None,
                    "token_ids": [ord(c) for c in kept] if returns_ids else None,
                    "prompt_logprobs": self._prompt_logprobs(body, prompt_ids),
                    "prompt_token_ids": prompt_ids if returns_ids else None,
                }
            ],
            "system_fingerprint": self.fingerprint,
            "usage": {
                "prompt_tokens": len(prompt_ids),
                "completion_tokens": len(kept),
                "total_tokens": len(prompt_ids) + len(kept),
            },
        }

    def _prompt_logprobs(self, body: dict[str, Any], ids: Sequence[int]) -> list[Any] | None:
        if "prompt_logprobs" not in body:
            return None
        known = [
            {str(token): {"logprob": self.logprob(ids, place), "rank": 1, "decoded_token": "?"}}
            for place, token in enumerate(ids)
        ]
        return [None, *known[1:]]

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._listen())
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._listens.set()
        await self._stop.wait()
        server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while True:
                reply = await self._reply(*await read_request(reader))
                writer.write(as_bytes(reply))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client has left, or we are told to
        finally:
            self._connections.discard(task)
            writer.close()

    async def _reply(self, target: str, headers: Mapping[str, str], content: bytes) -> Reply:
        self.calls += 1
        if target == "GET /version":
            return self.tell_version()
        if self.api_key and headers.get("authorization") != f"Bearer {self.api_key}":
            return Reply(401, {"error": "Unauthorized"})
        match target:
            case "GET /v1/models":
                return self.tell_models()
            case "POST /v1/completions":
                self.keys.add(headers.get("authorization", "").removeprefix("Bearer "))
                return await self._complete(json.loads(content))
            case _:
                return Reply(404, {"detail": "Not Found"})

    async def _complete(self, body: dict[str, Any]) -> Reply:
        prompts = body["prompt"]
        if isinstance(prompts, str) or isinstance(prompts[0], int):
            prompts = [prompts]
        bodies = [body | {"prompt": prompt} for prompt in prompts]
        self.requests.extend(bodies)
        self.batches.append(len(bodies))
        if body["model"] != self.model:
            return refusal(404, f"The model `{body['model']}` does not exist.")
        self.in_flight += len(bodies)
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.in_flight -= len(bodies)
        answers = [
            (self.probe if each["prompt"] == PROBE else self.answer)(each) for each in bodies
        ]
        for answer in answers:
            if isinstance(answer, Reply) and (answer.status != 200 or len(bodies) == 1):
                return answer
        return Reply(200, self._together(bodies, answers))

    def _together(
        self, bodies: Sequence[dict[str, Any]], answers: Sequence[str | Reply]
    ) -> dict[str, Any]:
        """One body with a choice for each prompt, and the usage of all."""
        single = [
            answer.body if isinstance(answer, Reply) else self.completion(body, answer)
            for body, answer in zip(bodies, answers, strict=True)
        ]
        whole: dict[str, Any] = single[0]
        for place, other in enumerate(single[1:], 1):
            whole["choices"].append(other["choices"][0] | {"index": place})
            for name in whole["usage"] or {}:
                whole["usage"][name] += other["usage"][name]
        return whole

    def _model_row(self) -> dict[str, Any]:
        return {
            "id": self.model,
            "object": "model",
            "created": 1795475029,
            "owned_by": "vllm",
            "root": "/models/fake",
            "parent": None,
            "max_model_len": 2048,
            "permission": [],
        }


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error as vLLM words it."""
    error = {"message": message, "type": "Error", "param": None, "code": status}
    return Reply(status, {"error": error}, headers or {})


async def read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """Method with path, headers by lower-case name, and body of the next request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return first.rpartition(" ")[0], headers, body


def as_bytes(reply: Reply) -> bytes:
    """The reply on the wire; the connection stays open."""
    content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    lines = [
        f"HTTP/1.1 {reply.status} Fake",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in reply.headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """A port of loopback that treats connections as told: for faults below HTTP."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._open: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            await self._connection(reader, writer)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass  # told to stop, or the client has left
        finally:
            self._open.discard(task)
            writer.close()

"""Many prompts past few servers: each with its queue, its workers, its limit and its health.

Workers take requests from their server's queue, as many at a time as its limiter lets. A problem
stays with its server while that one is well and the others have work of their own; a server that
has none left takes what waits for one that is full, or is waited for itself. What a server that
stays lost has not begun goes to the others. Knows no task and no file: what came of a prompt is
handed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from fim_eval.errors import EndpointError, FimEvalError
from fim_eval.health import Health
from fim_eval.limiter import Limiter
from fim_eval.supply import Supply

WorkT = TypeVar("WorkT")


@dataclass(slots=True)
class Post(Generic[WorkT]):
    """One server: what it is to be asked, and how."""

    url: str
    ask: Callable[[Sequence[WorkT]], Awaitable[None]]
    """Ask what goes into one request; returns when all of it has its outcome."""

    limiter: Limiter
    health: Health
    load: Callable[[], Awaitable[tuple[float, float] | None]]
    """Prompts that wait inside the server and that it works on; None where it does not tell."""

    queue: Supply[Sequence[WorkT]] = field(default_factory=Supply)
    in_flight: int = 0
    """Prompts."""


async def work_off(
    posts: Sequence[Post[WorkT]],
    clock_s: Callable[[], float],
    stop: asyncio.Event,
    drain_s: float,
) -> None:
    """Ask all that is queued, each server up to its limit.

    Args:
        posts: the servers.
        clock_s: monotonic, for the limiters.
        stop: once set, nothing more is asked.
        drain_s: so long answers in flight are waited for then; what has none is given up.

    Raises:
        EndpointError: every server is lost.
        FimEvalError: as `ask`; what is in flight is given up.
        Exception: whatever ends one who watches a server or its queue: without them a server that
            hangs would be waited for without end.
    """
    crew = _Crew(posts, clock_s, stop)
    helpers = [
        asyncio.create_task(each)
        for post in posts
        for each in (post.health.watch(), crew.look_at_queue(post))
    ]
    # Done with the first that fails: nobody who watches a server comes to an end.
    helping = asyncio.gather(*helpers)
    working = asyncio.create_task(crew.work())
    stopping = asyncio.create_task(stop.wait())
    try:
        first = asyncio.FIRST_COMPLETED
        ends: set[asyncio.Future[Any]] = {working, helping}
        await asyncio.wait({*ends, stopping}, return_when=first)
        if stopping.done():
            await asyncio.wait(ends, timeout=drain_s, return_when=first)
        if working.done():
            await working
        elif helping.done():
            await helping
    finally:
        for task in (*helpers, stopping, working):
            task.cancel()
        await asyncio.gather(*helpers, helping, stopping, working, return_exceptions=True)


class _Crew(Generic[WorkT]):
    def __init__(
        self, posts: Sequence[Post[WorkT]], clock_s: Callable[[], float], stop: asyncio.Event
    ) -> None:
        self._posts = posts
        self._clock_s = clock_s
        self._stop = stop
        self._lost: dict[str, EndpointError] = {}
        self._group: asyncio.TaskGroup | None = None

    async def work(self) -> None:
        for post in self._posts:
            post.limiter.begin(self._clock_s())
        # As long as one has work: what a lost server leaves may come to one that was done.
        while any(post.queue for post in self._posts) and not self._stop.is_set():
            try:
                async with asyncio.TaskGroup() as self._group:
                    # Twice: only who has filled the others sees what waits for them.
                    for post in (*self._posts, *self._posts):
                        self._fill(post, self._group)
            except* FimEvalError as several:
                raise several.exceptions[0] from None
            # Nothing was awaited if no server may be asked now: whoever frees one needs his turn.
            await asyncio.sleep(0.01)

    def _fill(self, post: Post[WorkT], group: asyncio.TaskGroup) -> None:
        """As many workers as the limit lets."""
        while (request := self._take(post)) is not None:
            group.create_task(self._work(post, request, group))

    def _take(self, post: Post[WorkT]) -> Sequence[WorkT] | None:
        """The next request of a server; None if there is none, or none may be asked now."""
        if self._stop.is_set() or post.health.is_lost or post.url in self._lost:
            return None
        queue = post.queue or self._waiting_elsewhere(post)
        if not queue or not _has_room(post, len(queue.peek())):
            return None
        post.in_flight += len(queue.peek())
        return queue.take()

    def _waiting_elsewhere(self, post: Post[WorkT]) -> Supply[Sequence[WorkT]]:
        """What another server has in its queue and cannot be asked now; else the own, empty queue.

        Of several the one with the most in flight, which takes longest.
        """
        busy = [
            other
            for other in self._posts
            if other.queue
            and (other.health.is_lost or not _has_room(other, len(other.queue.peek())))
        ]
        return max(busy, key=lambda other: other.in_flight, default=post).queue

    async def _work(
        self, post: Post[WorkT], first: Sequence[WorkT], group: asyncio.TaskGroup
    ) -> None:
        request: Sequence[WorkT] | None = first
        while request is not None:
            try:
                await post.ask(request)
                post.limiter.answered(len(request), self._clock_s())
            except EndpointError as error:
                self._hand_over(post, request, error)
            finally:
                post.in_flight -= len(request)
            request = self._take(post)
            self._fill(post, group)

    def _hand_over(self, post: Post[WorkT], request: Sequence[WorkT], error: EndpointError) -> None:
        """What a lost server was to be asked goes to the others.

        Raises:
            EndpointError: there is none left.
        """
        self._lost[post.url] = error
        others = [other for other in self._posts if other.url not in self._lost]
        if not others:
            raise error
        post.queue.put_back(request)
        post.queue.leave_to(other.queue for other in others)

    async def look_at_queue(self, post: Post[WorkT]) -> None:
        """Tell the limiter how much waits inside the server; without end, if the server tells."""
        has_told = False
        while (load := await post.load()) is not None or has_told:
            has_told = has_told or load is not None
            if load is None:
                post.limiter.not_told()
            elif post.queue or self._waiting_elsewhere(post):
                # With nothing left to ask, the server's load says nothing of the limit.
                post.limiter.queued(*load, self._clock_s())
                # Only beside a worker: without one the group may be at its end.
                if self._group is not None and post.in_flight:
                    self._fill(post, self._group)
            await asyncio.sleep(post.limiter.look_again_s)


def _has_room(post: Post[WorkT], prompts: int) -> bool:
    """Whether so many more may be in flight."""
    # One request always: a limit below its size must not stop everything.
    return not post.in_flight or post.in_flight + prompts <= post.limiter.limit


async def load_of(http: httpx.AsyncClient) -> tuple[float, float] | None:
    """Prompts that wait and that are worked on, by vLLM's own count at `/metrics`.

    None where there is none.
    """
    base = str(http.base_url).rstrip("/").removesuffix("/v1")
    try:
        response = await http.get(f"{base}/metrics", timeout=5.0)
    except httpx.RequestError:
        return None
    waiting, running = (
        _counted(response.text, f"vllm:num_requests_{state}{{") for state in ("waiting", "running")
    )
    return None if waiting is None or running is None else (waiting, running)


def _counted(metrics: str, name: str) -> float | None:
    """The sum over a server's engines; None if it is not told, or is no number."""
    try:
        counts = [
            float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(name)
        ]
    except ValueError:
        return None
    return sum(counts) if counts else None

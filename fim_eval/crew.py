"""Many prompts past few servers: each with its queue, its workers, its limit and its health.

Workers take requests from their server's queue, as many at a time as its limiter lets. A problem
stays with its server while that one is well and the others have work of their own; a server that
has none left takes what waits for one that is full, or is waited for itself, and in the end what a
lost server has begun, too. What a server that stays lost has not begun goes to the others. Knows no
task and no file: what came of a prompt is handed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar

import httpx

from fim_eval.errors import EndpointError, FimEvalError
from fim_eval.health import Health
from fim_eval.limiter import Limiter
from fim_eval.supply import Supply

WorkT = TypeVar("WorkT")

RELIEF_S = 1.0
"""Between two looks for a server that has nothing to do while another is waited for."""


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

    recognise: Callable[[], Coroutine[Any, Any, None]]
    """Without end, see that the server is who it was; raises what ends the run if it is not."""

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
    of_each = ((post.health.watch(), crew.look_at_queue(post), post.recognise()) for post in posts)
    helpers = [asyncio.create_task(each) for each in (crew.relieve(), *chain(*of_each))]
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
        self._asking: dict[asyncio.Task[None], tuple[Post[WorkT], Sequence[WorkT]]] = {}
        """By worker."""

        self._relieved: set[asyncio.Task[None]] = set()
        """Workers that are to give back what a lost server was asked."""

        self._given_back: list[Sequence[WorkT]] = []
        """What they gave back. Once: one that no server outlives has its attempts at the next."""

    async def work(self) -> None:
        for post in self._posts:
            post.limiter.begin(self._clock_s())
        # As long as one has work: what a lost server leaves may come to one that was done.
        while any(post.queue for post in self._posts) and not self._stop.is_set():
            try:
                async with asyncio.TaskGroup() as self._group:
                    # Twice: only who has filled the others sees what waits for them.
                    for post in (*self._posts, *self._posts):
                        self._fill(post)
            except* FimEvalError as several:
                raise several.exceptions[0] from None
            # Nothing was awaited if no server may be asked now: whoever frees one needs his turn.
            await asyncio.sleep(0.01)

    def _fill(self, post: Post[WorkT]) -> None:
        """As many workers as the limit lets; beside another, or the group may be at its end."""
        while self._group is not None and (request := self._take(post)) is not None:
            self._group.create_task(self._work(post, request))

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

    async def _work(self, post: Post[WorkT], request: Sequence[WorkT] | None) -> None:
        try:
            while request is not None:
                await self._ask(post, request)
                request = self._take(post)
                self._fill(post)
        except BaseException:
            # All others are told to end, too.
            self._group = None
            raise

    async def _ask(self, post: Post[WorkT], request: Sequence[WorkT]) -> None:
        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101  for mypy
        self._asking[worker] = post, request
        try:
            await post.ask(request)
            post.limiter.answered(len(request), self._clock_s())
        except EndpointError as error:
            self._hand_over(post, request, error)
        except asyncio.CancelledError:
            if worker not in self._relieved or worker.uncancel():
                raise
            post.queue.put_back(request)
        finally:
            post.in_flight -= len(request)
            self._relieved.discard(worker)
            del self._asking[worker]

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

    async def relieve(self) -> None:
        """Have what a lost server has begun asked of one that has nothing to do; without end.

        Not at once: a server that is only started again keeps it.
        """
        while True:
            await asyncio.sleep(RELIEF_S)
            if not self._asking:
                continue
            for post in self._posts:
                # One that is back has no worker left if it was relieved of all.
                self._fill(post)
            if any(self._is_idle(post) for post in self._posts):
                for worker, (post, request) in self._asking.items():
                    if post.health.is_long_lost and not _is_in(request, self._given_back):
                        self._given_back.append(request)
                        self._relieved.add(worker)
                        worker.cancel()

    def _is_idle(self, post: Post[WorkT]) -> bool:
        """Whether it is well, and was asked all that it could be."""
        is_well = not post.health.is_lost and post.url not in self._lost
        return is_well and _has_room(post, 1) and not (post.queue or self._waiting_elsewhere(post))

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
                if self._asking:
                    self._fill(post)
            await asyncio.sleep(post.limiter.look_again_s)


def _is_in(request: object, requests: Sequence[object]) -> bool:
    """Whether it is one of them; not whether it equals one."""
    return any(request is one for one in requests)


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

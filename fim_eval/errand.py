"""What one server is asked, by whom and how: by this process, or by one on another machine.

Knows HTTP's outcome, no task, no file and no cluster. A key is never part of an errand, only the
name of the environment variable that holds it where the errand is run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from fim_eval.client import Client
from fim_eval.errors import EndpointError, ServerChangedError, UnansweredError
from fim_eval.health import Health
from fim_eval.records import (
    Completion,
    Likelihood,
    Prompt,
    RequestFailure,
    Sampling,
    Scoring,
    ServerIdentity,
    Timeouts,
    may_be_one_version,
)
from fim_eval.server import list_models
from fim_eval.transport import Http, key_in, open_http
from fim_eval.words import PERMANENT_FAILURES

Asked = Prompt | Scoring
Outcome = Completion | Likelihood | RequestFailure


class Clock:
    """Nanoseconds since it was started: monotonic, so that no clock change bends a duration."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self._start_ns = time.perf_counter_ns()

    def __call__(self) -> int:
        """Nanoseconds since the start."""
        return time.perf_counter_ns() - self._start_ns

    def seconds(self) -> float:
        """Seconds since the start."""
        return self() / 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Errand:
    """How one server is asked, for as long as a session lasts."""

    url: str
    server: ServerIdentity
    """Who it was at the beginning, and has to stay."""

    sampling: Sampling
    timeouts: Timeouts
    segment: int
    concurrency: int
    """Requests at most."""

    api_key_env: str | None
    """The variable that holds the key; None: the server wants none."""

    priority: int = 0
    """Sent with every request but those that see whether the server is well."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Whoever is told how asking goes."""

    clock: Clock
    """That times count from."""

    notice: Callable[[str], None]
    """Told, for a person, when the server is lost and when it is back."""

    on_overload: Callable[[], None]
    """Told whenever the server has too much to do."""


class Asker:
    """Asks one server, and sees whether it is well."""

    def __init__(self, errand: Errand, http: Http, listener: Listener) -> None:
        """Nothing is sent yet.

        Args:
            errand: which server, and how.
            http: opened for it.
            listener: told how it goes.
        """
        client = partial(
            Client,
            http,
            model=errand.server.model,
            sampling=errand.sampling,
            segment=errand.segment,
            clock_ns=listener.clock,
            sleep=asyncio.sleep,
        )
        timeouts = errand.timeouts
        self._errand = errand
        self._http = http
        self._clock = listener.clock
        # Under whatever name: `look` compares it. And before all else: a token that has to wait for
        # what others ask says nothing of the server.
        once = client(answers_as=None, timeouts=timeouts.model_copy(update={"attempts": 1}))
        self.health = Health(
            partial(look, errand.url, errand.server, once, timeouts.look_s),
            timeouts,
            where=errand.url,
            clock_s=listener.clock.seconds,
            sleep=asyncio.sleep,
            notice=listener.notice,
        )
        self._client = client(
            answers_as=errand.server.answers_as,
            timeouts=timeouts,
            health=self.health,
            on_overload=listener.on_overload,
            priority=errand.priority,
        )

    async def __call__(self, asked: Sequence[Asked], *, streamed: bool) -> list[Outcome]:
        """Ask what belongs into one request: several prompts, or one text to score.

        Args:
            asked: alike in all but what is asked.
            streamed: whether the first, and only, prompt is asked token by token.

        Returns:
            Outcomes, in order.

        Raises:
            EndpointError: as `Client.complete_all`.
            ServerChangedError: the server was looked at, and is another.
        """
        prompts = [one for one in asked if isinstance(one, Prompt)]
        if len(prompts) < len(asked):
            return [await self._client.score(one) for one in asked if isinstance(one, Scoring)]
        if streamed:
            return [await self._client.stream(prompts[0])]
        return [*await self._client.complete_all(prompts)]

    async def recognise(self) -> None:
        """See again and again that the server lists of itself what it did; without end.

        What its answers tell is compared with each of them. This is for what they do not tell, as
        behind a gateway that turns to another server while none is lost.

        Raises:
            ServerChangedError: it lists something else.
        """
        known_s = self._clock.seconds()
        while True:
            await asyncio.sleep(self._errand.timeouts.identity_s)
            began_s = self._clock.seconds()
            if changed := await listed_otherwise(self._errand.server, self._http):
                raise _another(
                    self._errand.url,
                    f"{changed}; its answers do not tell, so that those that came after second "
                    f"{known_s:.0f} of segment {self._errand.segment} may be the other's: remove "
                    "their lines to have them asked again",
                )
            known_s = began_s


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of what was asked elsewhere."""

    outcomes: tuple[Outcome, ...]
    """In the order of what was asked; `sent_ns` counts from `started_ns`."""

    started_ns: int
    """Wall clock there, since the epoch: enough to line up what several machines sent."""

    overloads: int
    """Times that the server had too much to do since the last delivery from there."""

    notices: tuple[str, ...]
    """For a person, since the last delivery from there."""


class Elsewhere(Protocol):
    """Whoever asks in our place, on other machines."""

    def __call__(
        self, errand: Errand, asked: Sequence[Asked], *, streamed: bool
    ) -> Awaitable[Delivery]:
        """Have it asked; raises as `Asker`, and if nobody is left who could."""
        ...


async def ask_elsewhere(
    elsewhere: Elsewhere,
    errand: Errand,
    listener: Listener,
    asked: Sequence[Asked],
    *,
    streamed: bool,
) -> list[Outcome]:
    """What `Asker` does, by somebody else; times are put onto our clock."""
    delivery = await elsewhere(errand, asked, streamed=streamed)
    for _ in range(delivery.overloads):
        listener.on_overload()
    for each in delivery.notices:
        listener.notice(each)
    shift_ns = delivery.started_ns - (time.time_ns() - listener.clock())
    return [
        one.model_copy(update={"sent_ns": max(0, one.sent_ns + shift_ns)})
        for one in delivery.outcomes
    ]


class Envoy:
    """Runs errands on a machine of its own: with its own client, connections, key and clock."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        """Nothing is opened before it is needed.

        Args:
            name: of the machine, for messages.
            environment: where keys are looked for.
        """
        self._name = name
        self._environment = environment
        self._desks: dict[Errand, _Desk] = {}

    async def close(self) -> None:
        """Give up every connection."""
        for desk in self._desks.values():
            desk.watching.cancel()
            await desk.http.aclose()
        self._desks.clear()

    def key(self, variable: str) -> str:
        """The key in a variable of this machine's environment.

        Raises:
            EndpointError: there is none, or none that can be sent.
        """
        key = key_in(self._environment, variable)
        if key is None:
            raise EndpointError(
                f"node {self._name}: has no API key in {variable}; set it there before "
                "`ray start`, on every node"
            )
        return key

    async def __call__(self, errand: Errand, asked: Sequence[Asked], *, streamed: bool) -> Delivery:
        """Ask it from here.

        Raises:
            EndpointError: the key is not in this machine's environment; or as `Asker`.
            ServerChangedError: as `Asker`.
        """
        if errand not in self._desks:
            self._desks[errand] = self._open(errand)
        desk = self._desks[errand]
        if desk.watching.done():
            # Raises what ended it: a server that hangs would be waited for without end.
            await desk.watching
        outcomes = tuple(await desk.ask(asked, streamed=streamed))
        delivery = Delivery(outcomes, desk.started_ns, desk.overloads, tuple(desk.notices))
        desk.overloads = 0
        desk.notices.clear()
        return delivery

    def _open(self, errand: Errand) -> _Desk:
        key = None if errand.api_key_env is None else self.key(errand.api_key_env)
        return _Desk(
            errand,
            open_http(errand.url, key, concurrency=errand.concurrency, timeouts=errand.timeouts),
            self._name,
        )


@dataclass
class _Desk:
    """One server, asked from here until this process ends."""

    errand: Errand
    http: Http
    name: str
    overloads: int = 0
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started_ns = time.time_ns()
        listener = Listener(
            Clock(),
            notice=lambda told: self.notices.append(f"node {self.name}: {told}"),
            on_overload=self._overloaded,
        )
        self.ask = Asker(self.errand, self.http, listener)
        self.watching = asyncio.create_task(self.ask.health.watch())

    def _overloaded(self) -> None:
        self.overloads += 1


@dataclass(frozen=True, slots=True)
class Seen:
    """A server that was looked at."""

    server: ServerIdentity
    unread: str | None
    """Why its version is missing, if that may pass: see `server.Listing`."""


async def identify(base_url: str, model: str, client: Client, *, has_version: bool = False) -> Seen:
    """See that the endpoint serves the model and answers, and who it says it is.

    Args:
        base_url: of the endpoint.
        model: the name it has to serve.
        client: asks it.
        has_version: whether it told its version before.

    Raises:
        UnansweredError: it does not answer now.
        EndpointError: it answers, but refuses us or does not serve the model.
    """
    listing = await list_models(client.http, has_version=has_version)
    if model not in listing.roots:
        raise EndpointError(
            f"{base_url}: serves no model {model!r}, but {', '.join(listing.roots) or 'none'}; "
            "name one of these with --model, and with --card which model of the table it is"
        )
    answer = await client.complete(ONE_TOKEN)
    if isinstance(answer, RequestFailure):
        refused = EndpointError if answer.reason in PERMANENT_FAILURES else UnansweredError
        raise refused(
            f"{base_url}: lists {model!r} but does not answer one token "
            f"({answer.reason}: {answer.detail}); look at the server's log"
        )
    return Seen(
        ServerIdentity(
            base_url=base_url,
            model=model,
            answers_as=answer.answered_as,
            root=listing.roots[model],
            max_model_len=listing.max_model_lens[model],
            version=listing.version,
            system_fingerprint=answer.system_fingerprint,
        ),
        listing.unread,
    )


ONE_TOKEN = Prompt(
    task_id="probe",
    strategy="lr",
    sample_index=0,
    text="def",
    token_ids=None,
    stop=(),
    stop_token_ids=(),
    max_tokens=1,
)
"""A sign of life."""


async def look(url: str, before: ServerIdentity, client: Client, look_s: float) -> str | None:
    """What is wrong with a server; None if it generates, and is who it was.

    Raises:
        ServerChangedError: it generates, but is another.
    """
    has_version = before.version is not None
    try:
        async with asyncio.timeout(look_s):
            seen = await identify(url, before.model, client, has_version=has_version)
    except TimeoutError:
        return f"no token within {look_s:.0f} s"
    except EndpointError as error:
        return str(error)
    now = seen.server
    if changed := difference(before, now):
        if seen.unread and not difference(
            before, now.model_copy(update={"version": before.version})
        ):
            # Nothing else tells the version: it may be another, or a gateway that has to recover.
            return f"its version cannot be read any more: {seen.unread}; it was {before.version}"
        raise _another(url, changed)
    return None


async def listed_otherwise(before: ServerIdentity, http: Http) -> str:
    """In what a server lists itself otherwise than before, in words; empty if it does not.

    Whatever keeps it from telling is no difference: whoever asks it meets that, too.
    """
    try:
        listing = await list_models(http, has_version=before.version is not None)
    except EndpointError:
        return ""
    if before.model not in listing.roots:
        return ""
    now = {
        "root": listing.roots[before.model],
        "max_model_len": listing.max_model_lens[before.model],
        "version": before.version if listing.unread else listing.version,
    }
    return difference(before, before.model_copy(update=now))


def _another(url: str, changed: str) -> ServerChangedError:
    return ServerChangedError(
        f"{url}: is not the server any more that the run began with ({changed}). Restore it and "
        "run the same command again, or choose another --out"
    )


def difference(one: ServerIdentity, other: ServerIdentity) -> str:
    """In what two servers differ, but for their address, in words; empty if in nothing."""
    names = ["answers_as", "root", "max_model_len", "version", "system_fingerprint"]
    if may_be_one_version(*((each.version, each.system_fingerprint) for each in (one, other))):
        names.remove("version")
    before, now = one.model_dump(), other.model_dump()
    return "; ".join(
        f"{name}: {before[name]} there, {now[name]} here"
        for name in names
        if before[name] != now[name]
    )

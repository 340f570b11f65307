"""Stage 1: tasks and servers in, a run directory of generations out.

Only asks and times: completions first, then how probable texts are, where that is wanted.
Everything that can be refused is refused before the first task is asked: the strategy, the
tokenizer, the model's name, the run directory.
"""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from fim_eval.agenda import Agenda, ToComplete, ToScore, Work
from fim_eval.client import Client
from fim_eval.crew import Post, load_of, work_off
from fim_eval.errand import (
    Asker,
    Clock,
    Elsewhere,
    Errand,
    Listener,
    Outcome,
    ask_elsewhere,
    difference,
)
from fim_eval.errors import EndpointError, ServerChangedError
from fim_eval.journal import (
    RunDirectory,
    has_manifest,
    next_segment,
    note_outcomes,
    read_manifest,
    read_outcomes,
    scoring_key_of,
)
from fim_eval.limiter import Limiter
from fim_eval.lines import sha256_of
from fim_eval.muster import those_that_answer, unless_stopped
from fim_eval.order import Question, is_streamed, replica_of
from fim_eval.postprocess import continuation
from fim_eval.recipe import Recipe, prepare
from fim_eval.records import (
    Completion,
    ConcurrencyChange,
    InfillTask,
    Likelihood,
    Probe,
    Problem,
    Prompt,
    RequestFailure,
    RunIdentity,
    RunManifest,
    Scoring,
    Segment,
    ServerIdentity,
    ShardFacts,
    TaskFacts,
    Timeouts,
)
from fim_eval.rerank import ranking
from fim_eval.supply import Supply
from fim_eval.tokenizer import Tokenizer
from fim_eval.transport import Http, base_urls, open_http
from fim_eval.words import Scored

BATCH = 16
"""Prompts in one request, unless the user says: benchmarks/README.md has what others give."""

CONCURRENCY = 512
"""Prompts in flight at most, of each server, unless the user says: the 256 that vLLM works on, and
room for the short queue that the limiter keeps."""

PACKAGES = (
    "httpx",
    "httpx-aiohttp",
    "aiohttp",
    "sentencepiece",
    "tokenizers",
    "rapidfuzz",
    "polars",
    "datasets",
)
"""Whose versions a manifest records."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for: one model, one strategy, one directory."""

    tasks: Iterable[InfillTask]
    """Of the whole suite; a file of them is read as they are needed. Gone through several times."""

    task_facts: TaskFacts | None
    recipe: Recipe
    endpoint: str
    """Base URL; several servers of the same model, separated by commas."""

    out: Path
    problems: Sequence[Problem] = ()
    """That the tasks were cut from, for their tests; the run directory keeps those it needs."""

    gold: bool = False
    """Whether to ask how probable the reference answers are, too. Not part of what makes a run:
    the same run can be asked for it later."""

    limit: int | None = None
    shard: tuple[int, int] | None = None
    """Which part of how many: only its problems are asked, and kept in the run directory. The parts
    of one run are merged."""

    concurrency: int = CONCURRENCY
    """Prompts in flight at most, of each server; how many there are is found out."""

    batch: int = BATCH
    """Prompts in one request at most."""

    priority: int = 0
    """Of every request, where the server serves by priority: higher waits for lower."""

    stream: float = 0.0
    """Share of the tasks whose answers are streamed, each by itself, to see when tokens come."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    api_key_env: str | None = None
    api_key: str | None = field(default=None, repr=False)
    server_log: str | None = None
    probe: Probe | None = None
    """What the model showed before; for the manifest."""

    elsewhere: Elsewhere | None = field(default=None, repr=False)
    """Who asks in this process's place; None: it asks itself."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run stands when its session has ended."""

    out: Path
    tasks: int
    """Of the shard, if that was asked."""

    asked: int
    """Prompts and texts of this session."""

    answered: int
    answered_before: int
    """Tasks that had their answer when the session began."""

    failures: Counter[str]
    """By reason, those requests of the whole run that stay without an answer."""

    unscored: int
    """Tasks whose reference answer's probability is not known; 0 if it was not asked."""

    text_differences: int
    """Completions in which the server's own text differs from its ids decoded by us."""

    unaudited: int = 0
    """Tasks that were to be asked once more and have no second answer."""

    was_stopped: bool = False
    """Whether it was told to stop before all was asked."""

    @property
    def unresolved(self) -> int:
        """Tasks without an answer."""
        return self.tasks - self.answered

    @property
    def is_whole(self) -> bool:
        """Whether all that was asked for is there."""
        return not (self.unresolved or self.unscored or self.unaudited)


async def run(
    request: Request,
    on_start: Callable[[int, int], None],
    on_outcome: Callable[[Outcome], None],
    *,
    on_flight: Callable[[int], None] = lambda _: None,
    notice: Callable[[str], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> RunResult:
    """Ask every task of the request that its run directory does not hold yet.

    Args:
        request: what to ask of whom.
        on_start: told how many prompts and texts to score there are, and how many are left to ask;
            told again when answers have made more.
        on_outcome: told each outcome once it is on disk.
        on_flight: told how many prompts are in flight when a request is sent.
        notice: told what a person should know while it goes on.
        stop: once set, nothing more is asked, and what is in flight is waited for a while; a server
            that has not told yet who it is, is not waited for.

    Raises:
        FimEvalError: the run cannot begin or go on; what came before is on disk.
    """
    urls = base_urls(request.endpoint)
    prepared = prepare(request.recipe)
    stop = stop or asyncio.Event()
    agenda = Agenda(prepared, request.out, shard=request.shard, gold=request.gold)
    with RunDirectory(request.out) as directory, agenda:
        is_new = not has_manifest(request.out)
        agenda.draw_up(islice(request.tasks, request.limit))
        manifest_of = partial(_manifest, request, agenda)
        ready, candidates = 0, list[ToScore]()
        if not is_new:
            # With the stored server in place of today's: what is finished needs no server.
            directory.claim(manifest_of(read_manifest(request.out).server), agenda.lines())
            with agenda.noting() as note:
                note_outcomes(request.out, note)
            ready, candidates = _candidates(agenda, directory, agenda.is_open)
            if not agenda.pending and not candidates:
                _rank(agenda, directory)
                on_start(agenda.wanted + ready, 0)
                return _result(request, agenda, agenda.answered, asked=0)
        async with AsyncExitStack() as stack:
            session = _Session(
                request,
                agenda,
                directory,
                on_outcome=on_outcome,
                on_flight=on_flight,
                notice=notice,
            )
            server = await unless_stopped(session.open(urls, stack), stop)
            if server is None:
                return _result(request, agenda, agenda.answered, asked=0, was_stopped=True)
            directory.claim(
                manifest_of(server),
                agenda.lines(),
                _own_problems(request, agenda),
                request.recipe.examples,
                agenda.places,
            )
            before = agenda.answered
            asked = agenda.pending + len(candidates)
            on_start(agenda.wanted + ready, asked)
            session.begin(asked)
            await session.ask(candidates, stop, prompts=True)
            if not stop.is_set():
                # What answers have made possible: their programs can be scored now.
                ready, candidates = _candidates(agenda, directory, agenda.is_untried)
                if candidates:
                    asked += len(candidates)
                    on_start(agenda.wanted + ready, len(candidates))
                    await session.ask(candidates, stop, prompts=False)
            _rank(agenda, directory)
    return _result(request, agenda, before, asked=asked, was_stopped=stop.is_set())


_Ask = Callable[..., Awaitable[list[Outcome]]]
"""`Asker.__call__`."""


class _Session:
    """One session of asking: its servers, and where their answers go."""

    def __init__(
        self,
        request: Request,
        agenda: Agenda,
        directory: RunDirectory,
        *,
        on_outcome: Callable[[Outcome], None],
        on_flight: Callable[[int], None],
        notice: Callable[[str], None],
    ) -> None:
        self._request = request
        self._agenda = agenda
        self._directory = directory
        self._on_outcome = on_outcome
        self._on_flight = on_flight
        self._notice = notice
        self._clock = Clock()
        self._segment = next_segment(directory.path)
        self._posts: list[Post[Work]] = []
        self._stored: dict[str, int] = {}
        """By server, how many changes of its limit are on disk."""

    async def open(self, urls: Sequence[str], stack: AsyncExitStack) -> ServerIdentity:
        """Reach the servers, and see that those that answer are the same but for their address.

        Raises:
            EndpointError: none answers, or one that does cannot be asked.
            ServerChangedError: they differ.
        """
        request = self._request
        https = {
            url: await stack.enter_async_context(
                open_http(
                    url,
                    request.api_key,
                    concurrency=request.concurrency,
                    timeouts=request.timeouts,
                )
            )
            for url in urls
        }
        model, timeouts = request.recipe.model, request.timeouts
        clients = {url: self._client(http, None) for url, http in https.items()}
        heard = await those_that_answer(clients, model, timeouts, timeouts.stall_s, self._notice)
        for url, seen in heard.items():
            if seen.unread:
                self._notice(
                    f"{url}: its version could not be read ({seen.unread}); it counts as not told"
                )
        answering = {url: seen.server for url, seen in heard.items()}
        (first, identity), *others = answering.items()
        for url, found in others:
            if changed := difference(identity, found):
                raise ServerChangedError(
                    f"{url}: is not the same server as {first} ({changed}); one run asks one "
                    "model in one configuration. Ask them in two runs"
                )
        await self._check_scoring(first, self._client(https[first], identity.answers_as))
        self._posts = [self._post(url, https[url], found) for url, found in answering.items()]
        return identity.model_copy(update={"replicas": tuple(url for url, _ in others)})

    def _client(self, http: Http, answers_as: str | None) -> Client:
        return Client(
            http,
            model=self._request.recipe.model,
            answers_as=answers_as,
            sampling=self._request.recipe.sampling,
            timeouts=self._request.timeouts,
            segment=self._segment,
            clock_ns=self._clock,
            sleep=asyncio.sleep,
            priority=self._request.priority,
        )

    def _post(self, url: str, http: Http, server: ServerIdentity) -> Post[Work]:
        request = self._request
        limiter = Limiter(request.concurrency)

        def on_overload() -> None:
            limiter.overloaded(self._clock.seconds())

        errand = Errand(
            url=url,
            server=server,
            sampling=request.recipe.sampling,
            timeouts=request.timeouts,
            segment=self._segment,
            concurrency=request.concurrency,
            priority=request.priority,
            api_key_env=request.api_key_env if request.api_key else None,
        )
        listener = Listener(self._clock, self._notice, on_overload)
        here = Asker(errand, http, listener)
        ask: _Ask = here
        if request.elsewhere is not None:
            ask = partial(ask_elsewhere, request.elsewhere, errand, listener)
        return Post(
            url,
            partial(self._ask, ask, server),
            limiter,
            here.health,
            partial(load_of, http),
            here.recognise,
        )

    def begin(self, pending: int) -> None:
        """Note that so many prompts and texts are left; time counts from here."""
        request = self._request
        self._directory.begin_segment(
            Segment(
                segment=self._segment,
                started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                base_url=request.endpoint,
                asked=pending,
                gold=request.gold,
                pid=os.getpid(),
                concurrency=request.concurrency,
                batch=request.batch,
                priority=request.priority,
                shard=None if request.shard is None else "{}/{}".format(*request.shard),
            )
        )
        self._clock.restart()

    async def ask(
        self, candidates: Sequence[ToScore], stop: asyncio.Event, *, prompts: bool
    ) -> None:
        """Ask once; every outcome is on disk when this returns, unless it was stopped.

        Args:
            candidates: to be scored.
            stop: once set, nothing more is asked.
            prompts: whether to ask before them all else that is pending.

        Raises:
            FimEvalError: see `run`.
        """
        urls = [post.url for post in self._posts]
        for post in self._posts:

            def is_own(problem_id: str, url: str = post.url) -> bool:
                return replica_of(problem_id, urls) == url

            post.queue = Supply(self._requests(candidates, is_own, prompts=prompts))
        await work_off(self._posts, self._clock.seconds, stop, self._request.timeouts.drain_s)
        self._store_limits()

    def _requests(
        self, candidates: Sequence[ToScore], is_own: Callable[[str], bool], *, prompts: bool
    ) -> Iterator[Sequence[Work]]:
        """What one server is asked, request by request."""
        agenda, request = self._agenda, self._request
        if prompts:
            yield from agenda.requests(
                is_own,
                partial(is_streamed, share=request.stream) if request.stream else None,
                min(request.batch, request.concurrency),
            )
        yield from ([one] for one in candidates if is_own(agenda.home(one.task)))

    async def _ask(
        self,
        ask: _Ask,
        server: ServerIdentity,
        work: Sequence[Work],
    ) -> None:
        self._on_flight(sum(post.in_flight for post in self._posts))
        asked = [one.prompt if isinstance(one, ToComplete) else one.scoring for one in work]
        streamed = is_streamed(asked[0].task_id, self._request.stream)
        found: list[tuple[int, Outcome]] = []
        for one, outcome in zip(work, await ask(asked, streamed=streamed), strict=True):
            if isinstance(one, ToScore):
                found.append((one.task, outcome))
            elif not isinstance(outcome, Likelihood):
                found += zip(one.tasks, self._fanned_out(one.question, outcome), strict=True)
        for _, outcome in found:
            _check_fingerprint(outcome, server)
        self._directory.append(*(outcome for _, outcome in found))
        self._store_limits()
        for number, outcome in found:
            self._agenda.note(number, outcome)
            self._on_outcome(outcome)

    def _fanned_out(
        self, question: Question, outcome: Completion | RequestFailure
    ) -> list[Completion | RequestFailure]:
        """The outcome of a question for every task that asked it."""
        if isinstance(outcome, Completion):
            outcome = as_decoded(outcome, question.prompt, self._agenda.prepared.tokenizer)
        asked_as = {"asked_as": outcome.task_id} if isinstance(outcome, Completion) else {}
        return [
            outcome,
            *(
                outcome.model_copy(update={"task_id": other.task_id, **asked_as})
                for other in question.others
            ),
        ]

    def _store_limits(self) -> None:
        for post in self._posts:
            for change in post.limiter.history[self._stored.get(post.url, 0) :]:
                self._directory.append_limit(
                    ConcurrencyChange(
                        segment=self._segment,
                        base_url=post.url,
                        at_s=round(change.at_s, 3),
                        limit=change.limit,
                        prompts_per_s=change.prompts_per_s,
                        reason=change.reason,
                    )
                )
            self._stored[post.url] = len(post.limiter.history)

    async def _check_scoring(self, base_url: str, client: Client) -> None:
        """See that the server tells probabilities, before anything is asked that needs them.

        Raises:
            EndpointError: it does not, or not in the way that is needed.
        """
        if not self._request.gold and self._request.recipe.strategy != "lr-rerank":
            return
        if not len(self._agenda):
            return
        answer = await client.score(_scoring_probe(self._agenda, gold=self._request.gold))
        if isinstance(answer, RequestFailure):
            raise EndpointError(
                f"{base_url}: does not tell how probable a text is ({answer.reason}: "
                f"{answer.detail}); lr-rerank and --gold need vLLM's prompt_logprobs"
            )


def _check_fingerprint(outcome: Outcome, server: ServerIdentity) -> None:
    if isinstance(outcome, RequestFailure):
        return
    before, now = server.system_fingerprint, outcome.system_fingerprint
    if now != before:
        raise ServerChangedError(
            f"{server.base_url}: is not the server any more that the run began with "
            f"(system_fingerprint: {before} there, {now} in the answer to {outcome.task_id}): it "
            "was restarted with another configuration, or several differ behind one address. "
            "Restore it and run the same command again, or choose another --out"
        )


def _scoring_probe(agenda: Agenda, *, gold: bool) -> Scoring:
    """A text in the form of those that will be scored."""
    prepared = agenda.prepared
    scored: Scored = "gold" if gold else "candidate"
    given: str | tuple[int, ...] = "def" if gold else ""
    text: str | tuple[int, ...] = " f" if gold else "def f"
    end: str | tuple[int, ...] = ""
    ids = agenda.prompts(0)[0].token_ids
    if ids is not None and prepared.tokenizer is not None:
        given, text, end = ids[:1], tuple(prepared.tokenizer.encode_infill("def f")), ()
    return Scoring(
        task_id="probe",
        strategy=prepared.recipe.strategy,
        sample_index=0,
        scored=scored,
        given=given,
        text=text,
        end=end,
        characters=len("def f"),
    )


def as_decoded(completion: Completion, prompt: Prompt, tokenizer: Tokenizer | None) -> Completion:
    """The completion with our own decoding of its ids as its text, where the prompt was ids."""
    if prompt.token_ids is None or completion.token_ids is None or tokenizer is None:
        return completion
    text = continuation(completion.token_ids, prompt, tokenizer.decode_infill)
    if text == completion.text:
        return completion
    return completion.model_copy(update={"text": text, "server_text": completion.text})


def _candidates(
    agenda: Agenda, directory: RunDirectory, is_wanted: Callable[[ToScore], bool]
) -> tuple[int, list[ToScore]]:
    """How many candidates can be scored now, and those of them that are wanted."""
    if agenda.prepared.recipe.strategy != "lr-rerank":
        return 0, []
    ready = list(agenda.ready_candidates(read_outcomes(directory.path)))
    return len(ready), list(filter(is_wanted, ready))


def _rank(agenda: Agenda, directory: RunDirectory) -> None:
    """Write the ranking of each task whose candidates are all scored, if it is not there yet."""
    strategy = agenda.prepared.recipe.strategy
    if strategy != "lr-rerank":
        return
    outcomes = read_outcomes(directory.path)
    for number in range(len(agenda)):
        scorings = agenda.candidates(number, outcomes)
        likelihoods = {
            index: found
            for index, one in scorings.items()
            if isinstance(found := outcomes.likelihoods.get(scoring_key_of(one)), Likelihood)
        }
        if likelihoods and len(likelihoods) == len(scorings):
            task_id = scorings[0].task_id
            if task_id not in outcomes.rankings:
                ranked = ranking(task_id, strategy, likelihoods)
                directory.append(ranked)
                agenda.note(number, ranked)


def _result(
    request: Request,
    agenda: Agenda,
    answered_before: int,
    *,
    asked: int,
    was_stopped: bool = False,
) -> RunResult:
    """How the run stands now."""
    return RunResult(
        out=request.out,
        tasks=len(agenda),
        asked=asked,
        answered=agenda.answered,
        answered_before=answered_before,
        failures=agenda.failures,
        unscored=len(agenda) - agenda.scored if request.gold else 0,
        text_differences=agenda.text_differences,
        was_stopped=was_stopped,
    )


def _own_problems(request: Request, agenda: Agenda) -> list[Problem]:
    return [one for one in request.problems if agenda.has_own_problem(one.problem_id)]


def _shard_facts(request: Request, agenda: Agenda) -> ShardFacts | None:
    if request.shard is None:
        return None
    problems = _own_problems(request, agenda)
    return ShardFacts(
        shard="{}/{}".format(*request.shard),
        tasks=len(agenda),
        tasks_sha256=agenda.own_sha256,
        problems_sha256=sha256_of(problems) if problems else None,
    )


def _manifest(request: Request, agenda: Agenda, server: ServerIdentity) -> RunManifest:
    """The manifest of this request against this server."""
    problems = [one for one in request.problems if agenda.has_problem(one.problem_id)]
    prepared = agenda.prepared
    card, tokenizer, wording = prepared.card, prepared.tokenizer, prepared.wording
    identity = RunIdentity(
        tasks_sha256=agenda.suite_sha256,
        tasks=agenda.suite_tasks,
        model=request.recipe.model,
        model_id=card.model_id if card else None,
        strategy=request.recipe.strategy,
        context=request.recipe.context,
        infill_format=prepared.format.name if prepared.format else None,
        prompt_form="text" if wording.encoder is None else "ids",
        prompts_sha256=agenda.prompts_sha256,
        tokenizer_sha256=tokenizer.sha256 if tokenizer else None,
        max_tokens=agenda.max_tokens,
        stop=wording.stop,
        stop_token_ids=wording.stop_token_ids,
        sampling=request.recipe.sampling,
        samples=request.recipe.prompts_per_task,
        examples=tuple(example.task_id for example in request.recipe.examples),
        answers_as=server.answers_as,
        server_version=server.version,
        system_fingerprint=server.system_fingerprint,
    )
    return RunManifest(
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        fim_eval_version=version("fim-eval"),
        code_revision=code_revision(),
        python=sys.version.split()[0],
        platform=platform.platform(),
        packages={name: version(name) for name in PACKAGES},
        identity=identity,
        server=server,
        server_log=request.server_log,
        card=card,
        infill_format=prepared.format,
        infill_format_from=prepared.format_from,
        tokenizer=tokenizer.source if tokenizer else None,
        task_facts=request.task_facts,
        problems_sha256=sha256_of(problems) if problems else None,
        probe=request.probe,
        shard=_shard_facts(request, agenda),
        limit=request.limit,
        concurrency=request.concurrency,
        batch=request.batch,
        timeouts=request.timeouts,
        api_key_env=request.api_key_env if request.api_key else None,
    )


def code_revision() -> str | None:
    """The commit this code was run from, `+` if changed since; None if it is no checkout."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    git = ["git", "-C", str(folder)]

    def output(*command: str) -> str:
        done = subprocess.run(  # noqa: S603  fixed words and our own folder
            [*git, *command], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return output("rev-parse", "HEAD") + ("+" if output("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None

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
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from fim_eval.client import Client
from fim_eval.crew import Post, load_of, work_off
from fim_eval.errand import (
    Asked,
    Asker,
    Clock,
    Elsewhere,
    Errand,
    Listener,
    Outcome,
    ask_elsewhere,
    difference,
    identify,
)
from fim_eval.errors import EndpointError, ServerChangedError
from fim_eval.journal import (
    Outcomes,
    RunDirectory,
    Standing,
    has_manifest,
    key_of,
    place_of,
    read_manifest,
    read_outcomes,
    read_segments,
    read_standing,
    scoring_key_of,
)
from fim_eval.limiter import Limiter
from fim_eval.lines import sha256_of
from fim_eval.order import (
    Question,
    batches,
    distinct,
    in_cache_order,
    is_streamed,
    replica_of,
    shard_of,
)
from fim_eval.postprocess import continuation, filled_middle
from fim_eval.prompt import candidate_scoring, gold_scoring
from fim_eval.recipe import Prepared, Recipe, prepare
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
    TaskFacts,
    Timeouts,
)
from fim_eval.rerank import first_of_each, ranking
from fim_eval.tokenizer import Tokenizer
from fim_eval.transport import Http, check_base_url, open_http
from fim_eval.words import Scored

Work = Question | Scoring
"""What goes into a request."""

BATCH = 16
"""Prompts in one request, unless the user says: benchmarks/README.md has what others give."""

CONCURRENCY = 256
"""Prompts in flight at most, of each server, unless the user says."""

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

    tasks: Sequence[InfillTask]
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
    """Which part of how many: only its problems are asked. Not part of what makes a run, either:
    the parts of one run are merged, or asked in turn."""

    concurrency: int = CONCURRENCY
    """Prompts in flight at most, of each server; how many there are is found out."""

    batch: int = BATCH
    """Prompts in one request at most."""

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
    """Of the shard, if only one was asked."""

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

    was_stopped: bool = False
    """Whether it was told to stop before all was asked."""

    @property
    def unresolved(self) -> int:
        """Tasks without an answer."""
        return self.tasks - self.answered


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
        stop: once set, nothing more is asked, and what is in flight is waited for a while.

    Raises:
        FimEvalError: the run cannot begin or go on; what came before is on disk.
    """
    urls = [check_base_url(url.strip()) for url in request.endpoint.split(",")]
    tasks = list(request.tasks[: request.limit])
    problems = problems_of(tasks, request.problems)
    prepared = prepare(tasks, request.recipe)
    stop = stop or asyncio.Event()
    manifest_of = partial(_manifest, request, problems, prepared)
    with RunDirectory(request.out) as directory:
        standing = Standing()
        if has_manifest(request.out):
            # With the stored server in place of today's: what is finished needs no server.
            directory.claim(manifest_of(read_manifest(request.out).server), tasks)
            standing = read_standing(request.out)
            wanted = _wanted(request, prepared)
            if not _pending(wanted, standing):
                _rank(prepared, standing, directory)
                on_start(len(wanted), 0)
                before = _answered(request, prepared, standing)
                return _result(request, prepared, standing, before, asked=0)
        async with AsyncExitStack() as stack:
            session = _Session(
                request,
                prepared,
                directory,
                standing,
                on_outcome=on_outcome,
                on_flight=on_flight,
                notice=notice,
            )
            server = await session.open(urls, stack)
            directory.claim(manifest_of(server), tasks, problems, request.recipe.examples)
            before = _answered(request, prepared, standing)
            wanted = _wanted(request, prepared)
            pending = _pending(wanted, standing)
            on_start(len(wanted), len(pending))
            session.begin(len(pending))
            asked = 0
            while pending:
                await session.ask(pending, stop)
                asked += len(pending)
                if stop.is_set() or request.recipe.strategy != "lr-rerank":
                    break
                # What candidates have made possible: their programs can be scored now.
                known = set(map(place_of, wanted))
                wanted = _wanted(request, prepared)
                pending = [one for one in _pending(wanted, standing) if place_of(one) not in known]
                if pending:
                    on_start(len(wanted), len(pending))
            _rank(prepared, standing, directory)
    return _result(request, prepared, standing, before, asked=asked, was_stopped=stop.is_set())


_Ask = Callable[..., Awaitable[list[Outcome]]]
"""`Asker.__call__`."""


class _Session:
    """One session of asking: its servers, and where their answers go."""

    def __init__(
        self,
        request: Request,
        prepared: Prepared,
        directory: RunDirectory,
        standing: Standing,
        *,
        on_outcome: Callable[[Outcome], None],
        on_flight: Callable[[int], None],
        notice: Callable[[str], None],
    ) -> None:
        self._request = request
        self._prepared = prepared
        self._directory = directory
        self._standing = standing
        self._on_outcome = on_outcome
        self._on_flight = on_flight
        self._notice = notice
        self._clock = Clock()
        self._segment = len(read_segments(directory.path))
        self._posts: list[Post[Work]] = []
        self._stored: dict[str, int] = {}
        """By server, how many changes of its limit are on disk."""

    async def open(self, urls: Sequence[str], stack: AsyncExitStack) -> ServerIdentity:
        """Reach every server, and see that they are the same but for their address.

        Raises:
            EndpointError: one cannot be asked.
            ServerChangedError: they differ.
        """
        request, identity = self._request, None
        for url in urls:
            http = await stack.enter_async_context(
                open_http(
                    url,
                    request.api_key,
                    concurrency=request.concurrency,
                    timeouts=request.timeouts,
                )
            )
            found = await identify(url, request.recipe.model, self._client(http, None))
            if identity is None:
                identity = found
                await self._check_scoring(url, self._client(http, found.answers_as))
            elif changed := difference(identity, found):
                raise ServerChangedError(
                    f"{url}: is not the same server as {urls[0]} ({changed}); one run asks one "
                    "model in one configuration. Ask them in two runs"
                )
            self._posts.append(self._post(url, http, found))
        assert identity is not None  # noqa: S101  there is a URL
        return identity.model_copy(update={"replicas": tuple(urls[1:])})

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
                shard=None if request.shard is None else "{}/{}".format(*request.shard),
            )
        )
        self._clock.restart()

    async def ask(self, pending: Sequence[Asked], stop: asyncio.Event) -> None:
        """Ask all of it once; every outcome is on disk when this returns, unless it was stopped.

        Raises:
            FimEvalError: see `run`.
        """
        problem_of = {task.task_id: task.problem_id for task in self._prepared.tasks}
        urls = [post.url for post in self._posts]
        url_of = cache(lambda problem_id: replica_of(problem_id, urls))
        size = min(self._request.batch, self._request.concurrency)
        prompts = [one for one in pending if isinstance(one, Prompt)]
        scorings = [one for one in pending if isinstance(one, Scoring)]
        questions = in_cache_order(distinct(prompts), problem_of)
        for post in self._posts:

            def belongs(task_id: str, url: str = post.url) -> bool:
                return url_of(problem_of[task_id]) == url

            own = [one for one in questions if belongs(one.prompt.task_id)]
            streamed = [one for one in own if self._is_streamed(one)]
            post.queue.extend([one] for one in streamed)
            whole = [one for one in own if not self._is_streamed(one)] if streamed else own
            post.queue.extend(batches(whole, size))
            post.queue.extend([one] for one in scorings if belongs(one.task_id))
        await work_off(self._posts, self._clock.seconds, stop, self._request.timeouts.drain_s)
        self._store_limits()

    async def _ask(
        self,
        ask: _Ask,
        server: ServerIdentity,
        work: Sequence[Work],
    ) -> None:
        self._on_flight(sum(post.in_flight for post in self._posts))
        asked = [one.prompt if isinstance(one, Question) else one for one in work]
        streamed = is_streamed(asked[0].task_id, self._request.stream)
        outcomes: list[Outcome] = []
        for one, outcome in zip(work, await ask(asked, streamed=streamed), strict=True):
            if isinstance(one, Question) and not isinstance(outcome, Likelihood):
                outcomes += self._fanned_out(one, outcome)
            else:
                outcomes.append(outcome)
        for outcome in outcomes:
            _check_fingerprint(outcome, server.system_fingerprint)
        self._directory.append(*outcomes)
        self._store_limits()
        for outcome in outcomes:
            self._standing.note(outcome)
            self._on_outcome(outcome)

    def _is_streamed(self, question: Question) -> bool:
        return is_streamed(question.prompt.task_id, self._request.stream)

    def _fanned_out(
        self, question: Question, outcome: Completion | RequestFailure
    ) -> list[Completion | RequestFailure]:
        """The outcome of a question for every task that asked it."""
        if isinstance(outcome, Completion):
            outcome = as_decoded(outcome, question.prompt, self._prepared.tokenizer)
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
        answer = await client.score(_scoring_probe(self._prepared, gold=self._request.gold))
        if isinstance(answer, RequestFailure):
            raise EndpointError(
                f"{base_url}: does not tell how probable a text is ({answer.reason}: "
                f"{answer.detail}); lr-rerank and --gold need vLLM's prompt_logprobs"
            )


def _check_fingerprint(outcome: Outcome, fingerprint: str | None) -> None:
    if isinstance(outcome, Completion | Likelihood) and outcome.system_fingerprint != fingerprint:
        raise ServerChangedError(
            f"{outcome.task_id}: answered by {outcome.system_fingerprint}, but the run began with "
            f"{fingerprint}; the server was restarted with another configuration, or several "
            "differ behind one address. Restore it and run the same command again, or choose "
            "another --out"
        )


def _scoring_probe(prepared: Prepared, *, gold: bool) -> Scoring:
    """A text in the form of those that will be scored."""
    scored: Scored = "gold" if gold else "candidate"
    given: str | tuple[int, ...] = "def" if gold else ""
    text: str | tuple[int, ...] = " f" if gold else "def f"
    end: str | tuple[int, ...] = ""
    ids = prepared.prompts[0].token_ids
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


def _wanted(request: Request, prepared: Prepared) -> list[Asked]:
    """All that a run needs as far as is known: prompts, then reference answers, then candidates.

    In this order, so that what is timed is not disturbed by what is scored.
    """
    places = _places(request, prepared)
    wanted: list[Asked] = [prompt for place in places for prompt in prepared.prompts_of(place)]
    if request.gold:
        wanted += [
            gold_scoring(prepared.tasks[place], prepared.prompts_of(place)[0], prepared.tokenizer)
            for place in places
        ]
    if prepared.recipe.strategy == "lr-rerank":
        outcomes = read_outcomes(request.out)
        for place in places:
            wanted += _candidates(prepared, place, outcomes).values()
    return wanted


def _places(request: Request, prepared: Prepared) -> list[int]:
    """Of the tasks that are to be asked: those of the shard, or all."""
    if request.shard is None:
        return list(range(len(prepared.tasks)))
    part, parts = request.shard
    return [
        place
        for place, task in enumerate(prepared.tasks)
        if shard_of(task.problem_id, parts) == part
    ]


def _candidates(prepared: Prepared, place: int, outcomes: Outcomes) -> dict[int, Scoring]:
    """What is to be scored of a task's candidates, by sample index; none until all are there."""
    task, prompts = prepared.tasks[place], prepared.prompts_of(place)
    completions = [outcomes.generations.get(key_of(prompt)) for prompt in prompts]
    texts = [
        filled_middle("reference-lines", one.text, task)
        for one in completions
        if isinstance(one, Completion)
    ]
    if len(texts) < len(prompts):
        return {}
    return {
        index: candidate_scoring(
            task,
            prompts[index],
            text,
            context=prepared.recipe.context,
            start=prepared.start,
            encoder=prepared.tokenizer,
        )
        for index, text in first_of_each(texts).items()
    }


def _rank(prepared: Prepared, standing: Standing, directory: RunDirectory) -> None:
    """Write the ranking of each task whose candidates are all scored, if it is not there yet."""
    if prepared.recipe.strategy != "lr-rerank":
        return
    outcomes = read_outcomes(directory.path)
    for place, task in enumerate(prepared.tasks):
        if task.task_id in standing.ranked:
            continue
        scorings = _candidates(prepared, place, outcomes)
        likelihoods = {
            index: found
            for index, one in scorings.items()
            if isinstance(found := outcomes.likelihoods.get(scoring_key_of(one)), Likelihood)
        }
        if likelihoods and len(likelihoods) == len(scorings):
            ranked = ranking(task.task_id, prepared.recipe.strategy, likelihoods)
            directory.append(ranked)
            standing.note(ranked)


def _pending(wanted: Iterable[Asked], standing: Standing) -> list[Asked]:
    """What is neither answered nor refused for good."""
    return [one for one in wanted if not standing.is_settled(place_of(one))]


def _answered(request: Request, prepared: Prepared, standing: Standing) -> int:
    """Tasks that have their answer."""
    tasks = (prepared.tasks[place].task_id for place in _places(request, prepared))
    return sum(standing.has_answer(task_id, request.recipe.strategy) for task_id in tasks)


def _result(
    request: Request,
    prepared: Prepared,
    standing: Standing,
    answered_before: int,
    *,
    asked: int,
    was_stopped: bool = False,
) -> RunResult:
    """How the run stands now."""
    strategy = request.recipe.strategy
    tasks = [prepared.tasks[place].task_id for place in _places(request, prepared)]
    scored = sum(standing.is_answered((task_id, strategy, 0, "gold")) for task_id in tasks)
    return RunResult(
        out=request.out,
        tasks=len(tasks),
        asked=asked,
        answered=_answered(request, prepared, standing),
        answered_before=answered_before,
        failures=Counter(reason for reason in standing.reasons.values() if reason),
        unscored=len(tasks) - scored if request.gold else 0,
        text_differences=standing.text_differences,
        was_stopped=was_stopped,
    )


def problems_of(tasks: Iterable[InfillTask], problems: Iterable[Problem]) -> list[Problem]:
    """Those of the problems that the tasks were cut from, in order."""
    wanted = {task.problem_id for task in tasks}
    return [problem for problem in problems if problem.problem_id in wanted]


def _manifest(
    request: Request,
    problems: Sequence[Problem],
    prepared: Prepared,
    server: ServerIdentity,
) -> RunManifest:
    """The manifest of this request against this server."""
    card, tokenizer = prepared.card, prepared.tokenizer
    identity = RunIdentity(
        tasks_sha256=sha256_of(prepared.tasks),
        tasks=len(prepared.tasks),
        model=request.recipe.model,
        model_id=card.model_id if card else None,
        strategy=request.recipe.strategy,
        context=request.recipe.context,
        infill_format=prepared.format.name if prepared.format else None,
        prompt_form="ids" if any(prompt.token_ids for prompt in prepared.prompts) else "text",
        prompts_sha256=sha256_of(prepared.prompts),
        tokenizer_sha256=tokenizer.sha256 if tokenizer else None,
        max_tokens=max(prompt.max_tokens for prompt in prepared.prompts),
        stop=prepared.prompts[0].stop,
        stop_token_ids=prepared.prompts[0].stop_token_ids,
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

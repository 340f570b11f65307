"""Stage 1: tasks and an endpoint in, a run directory of generations out.

Only asks and times: completions first, then how probable texts are, where that is wanted.
Everything that can be refused is refused before the first task is asked: the strategy, the
tokenizer, the model's name, the run directory.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from fim_eval.client import Client
from fim_eval.errors import (
    EndpointError,
    ServerChangedError,
    StrategyRefusedError,
    TokenizerError,
)
from fim_eval.formats import (
    FORMATS,
    card_of,
    format_of,
    format_of_model,
    formats_of_tokenizer,
)
from fim_eval.journal import (
    Outcomes,
    RunDirectory,
    has_manifest,
    is_settled,
    key_of,
    read_manifest,
    read_outcomes,
    read_segments,
    scoring_key_of,
)
from fim_eval.lines import json_lines
from fim_eval.postprocess import continuation, filled_middle
from fim_eval.prompt import (
    FILL_END_TOKENS,
    MAX_TOKENS,
    Remembering,
    build_prompt,
    candidate_scoring,
    gold_scoring,
    infill_format,
    sentinel_ids,
    start_of,
)
from fim_eval.records import (
    Completion,
    InfillFormat,
    InfillTask,
    Likelihood,
    ModelCard,
    Probe,
    Problem,
    Prompt,
    RequestFailure,
    RunIdentity,
    RunManifest,
    Sampling,
    Scoring,
    Segment,
    ServerIdentity,
    TaskFacts,
    Timeouts,
)
from fim_eval.rerank import SAMPLES, SAMPLING, first_of_each, ranking
from fim_eval.server import Listing, list_models
from fim_eval.tokenizer import Tokenizer, open_tokenizer, tokenizer_path
from fim_eval.transport import check_base_url, open_http
from fim_eval.words import INFILLING, Context, Scored, Strategy

Asked = Prompt | Scoring
AskedT = TypeVar("AskedT", bound=Prompt | Scoring)
Outcome = Completion | Likelihood | RequestFailure

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
class Recipe:
    """How tasks become prompts for one model."""

    model: str
    """The name the server gives it."""

    strategy: Strategy
    card: str | None = None
    """Name of the model card if it is not the served name."""

    format: str = "auto"
    """Name of a format or path of a `.json` file that holds one; `auto`: by the model's card, its
    name or its tokenizer."""

    context: Context = "text"
    tokenizer: str | None = None
    """Folder or repository; None: the model's own where ids are needed, else the server's."""

    max_tokens: int | None = None
    """None: the default of each kind of hole."""

    samples: int = SAMPLES
    """Candidates for each task, where the strategy asks several."""

    examples: Sequence[InfillTask] = ()
    """Worked examples, where the strategy shows some: see `suite.worked_examples`."""

    @property
    def prompts_per_task(self) -> int:
        """How many completions each task is asked."""
        return self.samples if self.strategy == "lr-rerank" else 1

    @property
    def sampling(self) -> Sampling:
        """The strategy's own: greedy where one answer is asked."""
        return SAMPLING if self.strategy == "lr-rerank" else Sampling()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for: one model, one strategy, one directory."""

    tasks: Sequence[InfillTask]
    task_facts: TaskFacts | None
    recipe: Recipe
    endpoint: str
    out: Path
    problems: Sequence[Problem] = ()
    """That the tasks were cut from, for their tests; the run directory keeps those it needs."""

    gold: bool = False
    """Whether to ask how probable the reference answers are, too. Not part of what makes a run:
    the same run can be asked for it later."""

    limit: int | None = None
    concurrency: int = 64
    timeouts: Timeouts = field(default_factory=Timeouts)
    api_key_env: str | None = None
    api_key: str | None = field(default=None, repr=False)
    server_log: str | None = None
    probe: Probe | None = None
    """What the model showed before; for the manifest."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run stands when its session has ended."""

    out: Path
    tasks: int
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

    @property
    def unresolved(self) -> int:
        """Tasks without an answer."""
        return self.tasks - self.answered


@dataclass(frozen=True)
class Prepared:
    """Prompts, and what they were made with."""

    tasks: list[InfillTask]
    prompts: list[Prompt]
    """All of one task stand together."""

    recipe: Recipe
    card: ModelCard | None
    tokenizer: Tokenizer | None
    format: InfillFormat | None
    """None where prompts are text, or hold no more than a card says of them."""

    format_from: str | None
    """How it was chosen, for a person."""

    @property
    def start(self) -> tuple[int, ...] | None:
        """What every sequence begins with; None where prompts are text."""
        if self.tokenizer is None:
            return None
        return start_of(self.card, self.tokenizer, self.format)

    def prompts_of(self, place: int) -> list[Prompt]:
        """The prompts of the task at a place."""
        count = self.recipe.prompts_per_task
        return self.prompts[place * count : (place + 1) * count]


def prepare(tasks: Iterable[InfillTask], recipe: Recipe) -> Prepared:
    """Build every prompt of a run; contacts nobody but the hub, for a tokenizer it must fetch.

    Raises:
        StrategyRefusedError: the model cannot be asked this way.
        TokenizerError: its tokenizer is missing or not the model's.
    """
    card = model_card(recipe)
    named, origin = named_format(recipe, card)
    encoder = encoder_for(recipe, card, named)
    if encoder is None:
        named = origin = None
    elif named is None and (card is None or card.bos_id is None):
        named, origin = format_of_file(recipe, encoder), "from the tokenizer"
    if encoder is not None and named is not None:
        sentinel_ids(encoder, named)
    tasks = list(tasks)
    shown = {example.problem_id for example in recipe.examples}
    if asked := sorted(shown & {task.problem_id for task in tasks}):
        raise StrategyRefusedError(
            f"{recipe.strategy}: {asked[0]} would be a worked example and is asked, too"
        )
    more = FILL_END_TOKENS if recipe.strategy == "fewshot" else 0
    remembering = None if encoder is None else Remembering(encoder)
    prompts = []
    for task in tasks:
        prompt = build_prompt(
            task,
            recipe.strategy,
            context=recipe.context,
            max_tokens=recipe.max_tokens or MAX_TOKENS[task.kind] + more,
            model=recipe.model,
            card=card,
            encoder=remembering,
            examples=recipe.examples,
            named=named,
        )
        prompts.append(prompt)
        prompts += [
            prompt.model_copy(update={"sample_index": index})
            for index in range(1, recipe.prompts_per_task)
        ]
    return Prepared(tasks, prompts, recipe, card, encoder, named, origin)


def model_card(recipe: Recipe) -> ModelCard | None:
    """The card of the recipe's model; None if it is not in our table and none is named."""
    card = card_of(recipe.card or recipe.model)
    if recipe.card is not None and card is None:
        raise StrategyRefusedError(
            f"--card {recipe.card}: is not in the table of models (fim_eval/formats.py)"
        )
    return card


def named_format(
    recipe: Recipe, card: ModelCard | None
) -> tuple[InfillFormat, str] | tuple[None, None]:
    """The format that can be known without the tokenizer, and from what; None: none can.

    Raises:
        StrategyRefusedError: `--format` names none, or a file that holds none.
    """
    if recipe.format.endswith(".json"):
        return read_format(Path(recipe.format)), f"from {recipe.format}"
    if recipe.format != "auto":
        found = format_of(recipe.format)
        if found is None:
            raise StrategyRefusedError(
                f"--format {recipe.format}: is none of "
                f"{', '.join(each.name for each in FORMATS)}, nor the name of a .json file"
            )
        return found, "from --format"
    if card is not None:
        return (card.format, "from the model's card") if card.format else (None, None)
    met = format_of_model(recipe.model)
    return (met, "from the model's name") if met else (None, None)


def read_format(path: Path) -> InfillFormat:
    """The format that a file holds as JSON (docs/families.md).

    Raises:
        StrategyRefusedError: it cannot be read, or holds none.
    """
    try:
        return InfillFormat.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StrategyRefusedError(f"--format {path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise StrategyRefusedError(
            f"--format {path}: holds no format ({place}: {first['msg']}); docs/families.md has an "
            "example"
        ) from error


def format_of_file(recipe: Recipe, encoder: Tokenizer) -> InfillFormat:
    """The format whose sentinels the tokenizer has.

    Raises:
        TokenizerError: none is, or several are, which only the user can decide.
    """
    found = formats_of_tokenizer(lambda piece: encoder.piece_id(piece) is not None)
    if len(found) == 1:
        return found[0]
    names = ", ".join(each.name for each in found)
    raise TokenizerError(
        f"{encoder.source}: "
        + (
            f"has the sentinels of several formats ({names}); name the one with --format"
            if found
            else f"has the sentinels of no format that is known, and nothing is known of how "
            f"{recipe.model} begins a sequence; name its format with --format, or the model it is "
            "with --card, or leave --tokenizer out: then its prompts are sent as text, left to "
            "right"
        )
    )


def encoder_for(
    recipe: Recipe, card: ModelCard | None, named: InfillFormat | None
) -> Tokenizer | None:
    """The tokenizer that the recipe needs or names; None where the server tokenises."""
    wanted = recipe.tokenizer
    if recipe.strategy in INFILLING:
        if card is not None or named is not None or wanted is None:
            infill_format(recipe.model, card, recipe.strategy, named)
        wanted = wanted or (card.model_id if card else recipe.model)
    if wanted is None:
        return None
    if card is not None and card.infills == "no" and card.bos_id is None:
        raise TokenizerError(
            f"--tokenizer {wanted}: nothing is known of how {recipe.model} begins a sequence, so "
            "its prompts are sent as text; leave --tokenizer out"
        )
    owner = card_of(wanted)
    marks = {piece for each in (*FORMATS, *((named,) if named else ())) for piece in marks_of(each)}
    return open_tokenizer(tokenizer_path(wanted, owner.revision if owner else None), marks)


def marks_of(sentinels: InfillFormat) -> tuple[str, ...]:
    """The pieces of a format that a program's text must never become."""
    return (*sentinels.sentinels, *sentinels.ends)


async def run(
    request: Request, on_start: Callable[[int, int], None], on_outcome: Callable[[Outcome], None]
) -> RunResult:
    """Ask every task of the request that its run directory does not hold yet.

    Args:
        request: what to ask of whom.
        on_start: told how many prompts and texts to score there are, and how many are left to ask;
            told again when answers have made more.
        on_outcome: told each outcome once it is on disk.

    Raises:
        FimEvalError: the run cannot begin or go on; what came before is on disk.
    """
    base_url = check_base_url(request.endpoint)
    tasks = list(request.tasks[: request.limit])
    problems = problems_of(tasks, request.problems)
    prepared = prepare(tasks, request.recipe)
    with RunDirectory(request.out) as directory:
        if has_manifest(request.out):
            # With the stored server in place of today's: what is finished needs no server.
            stored = read_manifest(request.out)
            directory.claim(_manifest(request, tasks, problems, prepared, stored.server), tasks)
            outcomes = read_outcomes(request.out)
            wanted = _wanted(prepared, outcomes, gold=request.gold)
            if not _pending(wanted, outcomes):
                _rank(prepared, outcomes, directory)
                on_start(len(wanted), 0)
                return _result(request, prepared, outcomes, asked=0)
        async with open_http(
            base_url,
            request.api_key,
            concurrency=request.concurrency,
            timeouts=request.timeouts,
        ) as http:
            clock = Clock()
            segment = len(read_segments(request.out))

            def client(answers_as: str | None) -> Client:
                return Client(
                    http,
                    model=request.recipe.model,
                    answers_as=answers_as,
                    sampling=request.recipe.sampling,
                    timeouts=request.timeouts,
                    segment=segment,
                    clock_ns=clock,
                    sleep=asyncio.sleep,
                )

            listing = await list_models(http)
            server = await identify(base_url, request.recipe.model, listing, client(None))
            if request.gold or request.recipe.strategy == "lr-rerank":
                scored: Scored = "gold" if request.gold else "candidate"
                await _check_scoring(base_url, prepared, scored, client(server.answers_as))
            manifest = _manifest(request, tasks, problems, prepared, server)
            directory.claim(manifest, tasks, problems, request.recipe.examples)
            before = read_outcomes(request.out)
            wanted = _wanted(prepared, before, gold=request.gold)
            pending = _pending(wanted, before)
            on_start(len(wanted), len(pending))
            directory.begin_segment(
                Segment(
                    segment=segment,
                    started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                    base_url=base_url,
                    asked=len(pending),
                    gold=request.gold,
                    pid=os.getpid(),
                    concurrency=request.concurrency,
                )
            )
            clock.restart()

            def sink(outcome: Outcome) -> None:
                directory.append(outcome)
                on_outcome(outcome)

            asking = client(server.answers_as)

            async def answer(one: Asked) -> Outcome:
                return await (
                    asking.complete(one) if isinstance(one, Prompt) else asking.score(one)
                )

            asked = 0
            while pending:
                await ask_all(
                    pending,
                    answer,
                    sink,
                    tokenizer=prepared.tokenizer,
                    fingerprint=server.system_fingerprint,
                    concurrency=request.concurrency,
                )
                asked += len(pending)
                outcomes = read_outcomes(request.out)
                # What candidates have made possible: their programs can be scored now.
                known = set(map(_key, wanted))
                wanted = _wanted(prepared, outcomes, gold=request.gold)
                pending = [one for one in _pending(wanted, outcomes) if _key(one) not in known]
                if pending:
                    on_start(len(wanted), len(pending))
            _rank(prepared, read_outcomes(request.out), directory)
    return _result(request, prepared, before, asked=asked)


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


async def identify(base_url: str, model: str, listing: Listing, client: Client) -> ServerIdentity:
    """See that the endpoint serves the model and answers, and who it says it is.

    Raises:
        EndpointError: it does not serve the model, or one token cannot be had.
    """
    if model not in listing.roots:
        raise EndpointError(
            f"{base_url}: serves no model {model!r}, but {', '.join(listing.roots) or 'none'}; "
            "name one of these with --model, and with --card which model of the table it is"
        )
    probe = Prompt(
        task_id="probe",
        strategy="lr",
        sample_index=0,
        text="def",
        token_ids=None,
        stop=(),
        stop_token_ids=(),
        max_tokens=1,
    )
    answer = await client.complete(probe)
    if isinstance(answer, RequestFailure):
        raise EndpointError(
            f"{base_url}: lists {model!r} but does not answer one token "
            f"({answer.reason}: {answer.detail}); look at the server's log"
        )
    return ServerIdentity(
        base_url=base_url,
        model=model,
        answers_as=answer.answered_as,
        root=listing.roots[model],
        max_model_len=listing.max_model_lens[model],
        version=listing.version,
        system_fingerprint=answer.system_fingerprint,
    )


async def _check_scoring(base_url: str, prepared: Prepared, scored: Scored, client: Client) -> None:
    """See that the server tells probabilities, before anything is asked that needs them.

    Raises:
        EndpointError: it does not, or not in the way that is needed.
    """
    given: str | tuple[int, ...] = "def" if scored == "gold" else ""
    text: str | tuple[int, ...] = " f" if scored == "gold" else "def f"
    end: str | tuple[int, ...] = ""
    ids = prepared.prompts[0].token_ids
    if ids is not None and prepared.tokenizer is not None:
        given, text, end = ids[:1], tuple(prepared.tokenizer.encode_infill("def f")), ()
    probe = Scoring(
        task_id="probe",
        strategy=prepared.recipe.strategy,
        sample_index=0,
        scored=scored,
        given=given,
        text=text,
        end=end,
        characters=len("def f"),
    )
    answer = await client.score(probe)
    if isinstance(answer, RequestFailure):
        raise EndpointError(
            f"{base_url}: does not tell how probable a text is ({answer.reason}: {answer.detail}); "
            "lr-rerank and --gold need vLLM's prompt_logprobs"
        )


async def ask_all(
    prompts: Iterable[AskedT],
    complete: Callable[[AskedT], Awaitable[Outcome]],
    sink: Callable[[Outcome], None],
    *,
    tokenizer: Tokenizer | None,
    fingerprint: str | None,
    concurrency: int,
) -> None:
    """Ask each prompt once, at most `concurrency` at a time; hand every outcome to `sink`.

    Raises:
        ServerChangedError: an answer came with another fingerprint than `fingerprint`.
        FimEvalError: as `complete` and `sink`; prompts in flight are given up.
    """
    feed = iter(prompts)

    async def work() -> None:
        for prompt in feed:
            outcome = await complete(prompt)
            if (
                isinstance(outcome, Completion | Likelihood)
                and outcome.system_fingerprint != fingerprint
            ):
                raise ServerChangedError(
                    f"{prompt.task_id}: answered by {outcome.system_fingerprint}, but the run "
                    f"began with {fingerprint}; the server was restarted with another "
                    "configuration, or several differ behind one address. Restore it and run "
                    "the same command again, or choose another --out"
                )
            if isinstance(outcome, Completion) and isinstance(prompt, Prompt):
                outcome = as_decoded(outcome, prompt, tokenizer)
            sink(outcome)

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def as_decoded(completion: Completion, prompt: Prompt, tokenizer: Tokenizer | None) -> Completion:
    """The completion with our own decoding of its ids as its text, where the prompt was ids."""
    if prompt.token_ids is None or completion.token_ids is None or tokenizer is None:
        return completion
    text = continuation(completion.token_ids, prompt, tokenizer.decode_infill)
    if text == completion.text:
        return completion
    return completion.model_copy(update={"text": text, "server_text": completion.text})


def _wanted(prepared: Prepared, outcomes: Outcomes, *, gold: bool) -> list[Asked]:
    """All that a run needs as far as is known: prompts, then reference answers, then candidates.

    In this order, so that what is timed is not disturbed by what is scored.
    """
    wanted: list[Asked] = list(prepared.prompts)
    if gold:
        wanted += [
            gold_scoring(task, prepared.prompts_of(place)[0], prepared.tokenizer)
            for place, task in enumerate(prepared.tasks)
        ]
    if prepared.recipe.strategy == "lr-rerank":
        for place in range(len(prepared.tasks)):
            wanted += _candidates(prepared, place, outcomes).values()
    return wanted


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


def _rank(prepared: Prepared, outcomes: Outcomes, directory: RunDirectory) -> None:
    """Write the ranking of each task whose candidates are all scored, if it is not there yet."""
    if prepared.recipe.strategy != "lr-rerank":
        return
    for place, task in enumerate(prepared.tasks):
        if task.task_id in outcomes.rankings:
            continue
        scorings = _candidates(prepared, place, outcomes)
        likelihoods = {
            index: found
            for index, one in scorings.items()
            if isinstance(found := outcomes.likelihoods.get(scoring_key_of(one)), Likelihood)
        }
        if likelihoods and len(likelihoods) == len(scorings):
            directory.append(ranking(task.task_id, prepared.recipe.strategy, likelihoods))


def _key(asked: Asked) -> tuple[str, str, int, Scored | None]:
    return (*key_of(asked), None) if isinstance(asked, Prompt) else scoring_key_of(asked)


def _pending(wanted: Iterable[Asked], outcomes: Outcomes) -> list[Asked]:
    """What is neither answered nor refused for good."""

    def found(one: Asked) -> Outcome | None:
        if isinstance(one, Prompt):
            return outcomes.generations.get(key_of(one))
        return outcomes.likelihoods.get(scoring_key_of(one))

    return [one for one in wanted if (outcome := found(one)) is None or not is_settled(outcome)]


def _result(request: Request, prepared: Prepared, before: Outcomes, *, asked: int) -> RunResult:
    """How the run stands now, `before` being what it held when the session began."""
    outcomes = read_outcomes(request.out)
    strategy = request.recipe.strategy
    tasks = [task.task_id for task in prepared.tasks]

    def answered(then: Outcomes) -> int:
        return sum(then.answer(task_id, strategy) is not None for task_id in tasks)

    gold = [outcomes.likelihoods.get((task_id, strategy, 0, "gold")) for task_id in tasks]
    return RunResult(
        out=request.out,
        tasks=len(tasks),
        asked=asked,
        answered=answered(outcomes),
        answered_before=answered(before),
        failures=Counter(
            outcome.reason
            for outcome in (*outcomes.generations.values(), *outcomes.likelihoods.values())
            if isinstance(outcome, RequestFailure)
        ),
        unscored=sum(not isinstance(one, Likelihood) for one in gold) if request.gold else 0,
        text_differences=sum(
            isinstance(outcome, Completion) and outcome.server_text is not None
            for outcome in outcomes.generations.values()
        ),
    )


def problems_of(tasks: Iterable[InfillTask], problems: Iterable[Problem]) -> list[Problem]:
    """Those of the problems that the tasks were cut from, in order."""
    wanted = {task.problem_id for task in tasks}
    return [problem for problem in problems if problem.problem_id in wanted]


def _manifest(
    request: Request,
    tasks: Sequence[InfillTask],
    problems: Sequence[Problem],
    prepared: Prepared,
    server: ServerIdentity,
) -> RunManifest:
    """The manifest of this request against this server."""
    card, tokenizer = prepared.card, prepared.tokenizer
    identity = RunIdentity(
        tasks_sha256=hashlib.sha256(json_lines(tasks)).hexdigest(),
        tasks=len(tasks),
        model=request.recipe.model,
        model_id=card.model_id if card else None,
        strategy=request.recipe.strategy,
        context=request.recipe.context,
        infill_format=prepared.format.name if prepared.format else None,
        prompt_form="ids" if any(prompt.token_ids for prompt in prepared.prompts) else "text",
        prompts_sha256=hashlib.sha256(json_lines(prepared.prompts)).hexdigest(),
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
        problems_sha256=hashlib.sha256(json_lines(problems)).hexdigest() if problems else None,
        probe=request.probe,
        limit=request.limit,
        concurrency=request.concurrency,
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

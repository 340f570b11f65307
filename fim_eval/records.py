"""The records that travel through a run. Facts only: frozen, each with its key, no behaviour.

Files hold these records one JSON object a line. Character offsets and lengths count Unicode
code points; durations are integers in nanoseconds of a monotonic clock.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from fim_eval.words import (
    BlockPart,
    Context,
    Evidence,
    FailureReason,
    Infills,
    Isolation,
    Kind,
    ProbeVerdict,
    RankedBy,
    Scored,
    Split,
    Strategy,
    TestStyle,
    VerdictOutcome,
)


class Record(BaseModel):
    """Frozen, closed, documented: the parent of everything that is written to a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Problem(Record):
    """One programming problem with its reference program and tests. Key: `problem_id`."""

    problem_id: str
    """Namespace and number, as in `MBPP/11`, `HumanEval/0`, `Starter/3`."""

    split: Split
    text: str | None
    """What the program must do, in words; None where the program itself says it (HumanEval)."""

    code: str
    """The reference program, normalised; ends with exactly one newline."""

    body_offset: int | None
    """Where the data set's own solution begins in `code`, in characters (HumanEval's
    `canonical_solution`); None where bodies are found by syntax (MBPP)."""

    tests: tuple[str, ...]
    challenge_tests: tuple[str, ...]
    test_setup: str
    """Code that the tests need; runs after the program and before them."""


class InfillTask(Record):
    """One hole in one program. Key: `task_id`. `prefix + middle + suffix` is the whole program."""

    task_id: str
    """`MBPP/11/single-line/L2`: problem, kind, place; see `infill.tasks_of`."""

    problem_id: str
    kind: Kind
    part: BlockPart | None = None
    """What a `block` is; None for other kinds."""

    context: str | None
    """The problem's text, for the prompt to show above the program; None: there is none."""

    prefix: str
    middle: str
    """The reference answer. Whole lines, with indentation and trailing newline, where the kind is
    one of lines; empty in some random spans."""

    suffix: str


class Prompt(Record):
    """What is sent for one task. Key: `task_id`, `strategy`, `sample_index`."""

    task_id: str
    strategy: Strategy
    sample_index: int
    text: str | None
    """The prompt as text, for the server to tokenise; None if it is sent as ids."""

    token_ids: tuple[int, ...] | None
    """The prompt as ids, beginning with BOS if the model has one; None if it is sent as text."""

    stop: tuple[str, ...]
    """The server ends the completion before the first of these strings."""

    stop_token_ids: tuple[int, ...]
    max_tokens: int

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.text is None) == (self.token_ids is None):
            raise ValueError("a prompt is either text or token ids")
        return self


class Scoring(Record):
    """A text whose probability is asked. Key: `task_id`, `strategy`, `sample_index`, `scored`.

    Its parts are ids where the tokenizer is ours, else text for the server to tokenise.
    """

    task_id: str
    strategy: Strategy
    sample_index: int
    scored: Scored
    given: str | tuple[int, ...]
    """What stands before and is not scored: the prompt; nothing, or BOS, before a whole program."""

    text: str | tuple[int, ...]
    """What is scored."""

    end: str | tuple[int, ...]
    """What a model writes to say that it is done, scored apart; empty where the strategy has no
    such thing."""

    characters: int
    """Of the scored text, its end not counted."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if len({type(self.given), type(self.text), type(self.end)}) != 1:
            raise ValueError("what is scored is either text or token ids")
        return self


class Completion(Record):
    """A model's answer, as received. Key: `task_id`, `strategy`, `sample_index`."""

    outcome: Literal["completion"] = "completion"
    task_id: str
    strategy: Strategy
    sample_index: int
    text: str
    """The continuation that is scored. For id prompts decoded by us from `token_ids`."""

    server_text: str | None
    """The server's own text where it differs from `text`; None where they agree."""

    token_ids: tuple[int, ...] | None
    """Ids as generated, the end token included; None if the server does not return ids."""

    finish_reason: Literal["stop", "length"]
    stop_reason: str | int | None
    """The stop string or stop token id met; None for the end-of-sequence token or the limit."""

    prompt_tokens: int | None
    """The server's count; None if it sent no usage."""

    completion_tokens: int | None
    system_fingerprint: str | None
    answered_as: str
    """The `model` field of the answer."""

    first_token_ns: int | None = None
    """From sending to the first token; None: it was not streamed."""

    last_token_ns: int | None = None
    """From sending to the last token; None: it was not streamed."""

    asked_as: str | None = None
    """The task with which this was asked, where several tasks have the same prompt; None: this
    one."""

    attempts: int
    segment: int
    """Which session of the run asked this, counted from 0: `sent_ns` is relative to its start."""

    sent_ns: int
    elapsed_ns: int
    """From sending the last attempt to its whole body received."""


class Imported(Record):
    """An answer that somebody else asked for: its text is all that is known of it.

    Key as `Completion`.
    """

    outcome: Literal["imported"] = "imported"
    task_id: str
    strategy: Strategy
    sample_index: int
    text: str


class Likelihood(Record):
    """How probable a model finds a text, as received. Key as `Scoring`."""

    outcome: Literal["likelihood"] = "likelihood"
    task_id: str
    strategy: Strategy
    sample_index: int
    scored: Scored
    logprobs: tuple[float, ...]
    """Natural logarithm of each scored token's probability, in order. One fewer than `tokens` where
    nothing stands before the first."""

    end_logprobs: tuple[float, ...]
    """The same of the end's tokens; empty where the strategy has no end."""

    tokens: int
    """Of the scored text."""

    characters: int
    """Of the scored text."""

    prompt_tokens: int
    """All that was sent: given, scored, end."""

    system_fingerprint: str | None
    answered_as: str
    attempts: int
    segment: int
    sent_ns: int
    elapsed_ns: int


class RequestFailure(Record):
    """A request without an answer: counted beside the score, never scored.

    Key as what was asked: `Prompt` or `Scoring`.
    """

    outcome: Literal["failure"] = "failure"
    task_id: str
    strategy: Strategy
    sample_index: int
    scored: Scored | None = None
    """None: a completion was asked."""

    reason: FailureReason
    detail: str
    attempts: int
    segment: int
    sent_ns: int
    elapsed_ns: int


class Ranking(Record):
    """The candidates of one task in order of their programs' probability. Key: `task_id`."""

    outcome: Literal["ranking"] = "ranking"
    task_id: str
    strategy: Strategy
    by_sum: tuple[int, ...]
    """Sample indices, best first, by the sum of log-probabilities. Of candidates with the same
    text, the first stands for all."""

    by_mean: tuple[int, ...]
    """The same by the mean per token."""

    headline: RankedBy
    """Whose first is the task's answer."""


Outcome = Annotated[
    Completion | Imported | RequestFailure | Likelihood | Ranking,
    Field(discriminator="outcome"),
]
"""A line of a run's journal."""


class Execution(Record):
    """What the sandbox saw of one program. Says nothing about right or wrong."""

    end: Literal["exited", "closed", "timeout", "output-limit", "not-compiled", "sandbox-error"]
    """`closed`: it closed its private pipe and went on, and was killed. `not-compiled`: Python
    refused its text, nothing ran. `sandbox-error`: we failed, as often as it was tried."""

    output: bytes = b""
    """What its process wrote on the private pipe: lines of JSON, the last perhaps torn."""

    error: str | None = None
    """Why it was not compiled, or how the sandbox failed."""

    exit_code: int | None = None
    """None if a signal ended it."""

    signal: int | None = None
    cpu_s: float = 0.0
    """Processor time, user and system, of the program's process."""

    wall_s: float = 0.0
    """From the fork to its end."""

    peak_bytes: int | None = None
    """Most memory resident at once, the interpreter's own included."""

    marker: str = ""
    """What a test that ran whole sends at its end."""

    attempts: int = 1


class Verdict(Record):
    """What came of one program and one problem's tests. Key: `program_sha256`."""

    program_sha256: str
    """Of the program and its tests: `judge.program_key`."""

    problem_id: str
    outcome: VerdictOutcome
    detail: str
    """Where and why, for a person. Holds text that a program chose."""

    evidence: Evidence
    cpu_s: float
    wall_s: float
    peak_bytes: int | None
    attempts: int
    session: int
    """Which session of judging this is from, counted from 0."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Piece:
    """One token of the model's tokenizer, spelled as its file spells it."""

    piece: str


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Text:
    """Words that every prompt of a format holds; encoded as text."""

    text: str


Part = Literal["prefix", "suffix"] | Piece | Text
"""What a prompt is laid out of: `"prefix"` and `"suffix"` are the task's."""


class InfillFormat(Record):
    """How a model family marks the parts of a hole. Ids are never here: its tokenizer has them."""

    name: str
    psm: tuple[Part, ...] | None
    """The prompt of `fim-psm`; None: the family defines none."""

    spm: tuple[Part, ...] | None
    """The prompt of `fim-spm`; None: the family defines none."""

    ends: tuple[str, ...] = Field(min_length=1)
    """Pieces that end a middle. The first must exist; the others stop too where the file has
    them."""

    start: Literal["file"] | Piece | None
    """What every sequence begins with, left to right too. `file`: what the tokenizer file itself
    puts in front of a text. None: nothing."""

    names: tuple[str, ...] = ()
    """Patterns with `*` of the names of models that use it, in lower case."""

    known_ids: dict[str, int] = {}
    """Ids that the family's own code fixes: a file with others is another model's."""

    text_may_spell_pieces: bool = False
    """Whether the family's reference itself reads a sentinel that a program spells as one.
    Otherwise such a task is refused where the tokenizer cannot keep it text."""

    source: str
    """Where the layouts are known from."""

    @model_validator(mode="after")
    def _whole_layouts(self) -> Self:
        if self.psm is None and self.spm is None:
            raise ValueError("a format has a layout")
        for layout in (self.psm, self.spm):
            if layout and not layout.count("prefix") == layout.count("suffix") == 1:
                raise ValueError("a layout shows the prefix once and the suffix once")
        return self

    @property
    def sentinels(self) -> tuple[str, ...]:
        """The pieces that a tokenizer must have, each once: start, layouts, first end."""
        parts = (*(self.psm or ()), *(self.spm or ()), self.start)
        pieces = [part.piece for part in parts if isinstance(part, Piece)]
        return tuple(dict.fromkeys([*pieces, self.ends[0]]))


class ModelCard(Record):
    """What is known of a model before it is asked anything."""

    model_id: str
    parameters: int
    """All weights, embeddings included."""

    vocabulary: int
    """Rows of the embedding matrix: a prompt id at or above it is refused by the server."""

    infills: Infills
    """Whether the model was trained to infill."""

    source: str
    """Where `infills` is known from."""

    format: InfillFormat | None
    """Sentinels, if there are any that the model can embed."""

    bos_id: int | None
    """What a left-to-right prompt of ids begins with; None: as `format` says, if there is one."""

    revision: str | None
    """Commit on the hub that `servers/` pins; None if the model does not come from there."""


class Sampling(Record):
    """Sent with every request, all of it: a server's own defaults differ by version and model."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""

    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0


class DatasetFacts(Record):
    """Where problems came from, exactly."""

    name: str
    source: str
    """Path as given, or repository, configuration and revision on the hub."""

    sha256: str | None
    """Of the file's bytes; None if the source is not one file."""

    content_sha256: str
    """Of the rows themselves, in order, independent of the file format that carried them."""

    problems: int
    normalisation: str
    programs_changed: int
    """How many programs the normalisation changed."""

    values_changed: tuple[str, ...]
    """Problems in which it also changed a string literal (trailing blanks inside a long string)."""


class TaskFacts(Record):
    """Which tasks a file holds. Stored beside it as `<file>.facts.json`."""

    dataset: DatasetFacts
    split: str
    kind: Kind
    per_problem: int | None
    """Most tasks of one problem, drawn by `seed`; None: all there are, or the kind's own number."""

    seed: int
    tasks: int
    excluded: dict[str, int]
    """Places that are no holes of this kind, by reason."""

    problems_without_holes: tuple[str, ...]
    tasks_sha256: str
    problems_sha256: str
    """Of the problems with holes, one a line: the file beside the tasks."""


Told = tuple[str | None, str | None]
"""Version and fingerprint of a server, None where it does not tell."""


class ServerIdentity(Record):
    """What the server said of itself before the first task."""

    base_url: str | None
    """None: unknown, the run was imported. So is all else but `model` then."""

    model: str
    """The name it answers to in requests."""

    answers_as: str | None
    """The `model` field of its answers; gateways sometimes rename."""

    root: str | None
    """Path or repository that the name stands for, as told by `/v1/models`."""

    max_model_len: int | None
    version: str | None
    """From `/version`; None where a gateway hides it."""

    system_fingerprint: str | None
    replicas: tuple[str, ...] = ()
    """Base URLs of other servers of the same model; each said the same of itself."""


def may_be_one_version(one: Told, other: Told) -> bool:
    """Whether two servers may be of one version: one that only one of them tells counts as both's.

    Provided that both give the same fingerprint, and that it names that version, as vLLM's do:

    >>> may_be_one_version(("0.32.0", "vllm-0.32.0-5b2ef2de"), (None, "vllm-0.32.0-5b2ef2de"))
    True
    >>> may_be_one_version(("0.32.0", None), (None, None))
    False
    """
    (version, fingerprint), (other_version, other_fingerprint) = one, other
    if version == other_version:
        return True
    known = version or other_version
    return (
        None in (version, other_version)
        and fingerprint == other_fingerprint
        and f"{fingerprint}-".startswith(f"vllm-{known}-")
    )


class Probe(Record):
    """Whether a model infills, as far as a few plain holes can tell. See `fim_eval.probe`."""

    verdict: ProbeVerdict
    asked: int
    answered: int
    ended: int
    """Answers that end with the model's own end token."""

    right: int
    """Answers that are what was expected, but for white space at their ends."""

    ids_kept: bool | None
    """Whether the server returned ids, and the prompt's own unchanged; None: nothing was asked."""

    evidence: tuple[str, ...]
    """For people. Holds text that the model wrote."""


class RunIdentity(Record):
    """What makes two runs the same run. A directory belongs to one of these.

    What is None here and in the manifest though every run of ours has it is not known: the run was
    imported.
    """

    tasks_sha256: str
    tasks: int
    model: str
    model_id: str | None
    """The card that was used; None for a model that is not in our table."""

    strategy: Strategy
    context: Context | None
    infill_format: str | None = None
    """Name of the format that the prompts of ids follow; None: no format says anything of them."""

    prompt_form: Literal["ids", "text"] | None
    prompts_sha256: str | None
    """The sum, modulo 2**256, of the sha256 of what is shown of each task: in the directory of a
    shard of its own tasks, so that those of all shards add up to that of the run."""

    tokenizer_sha256: str | None
    max_tokens: int | None
    """Most new tokens of any prompt."""

    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    sampling: Sampling | None
    samples: int = 1
    """Candidates asked for each task."""

    examples: tuple[str, ...] = ()
    """Tasks shown as worked examples, in order; none where the strategy shows none."""

    answers_as: str | None
    server_version: str | None
    system_fingerprint: str | None


class Timeouts(Record):
    """How long and how often one prompt is tried."""

    request_s: float = 600.0
    connect_s: float = 10.0
    attempts: int = 6
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    stall_s: float = 120.0
    """Without any answer, before a server that should be busy is asked for a sign of life."""

    overdue_s: float = 30.0
    """A single request is never given up earlier than this, however fast others were answered."""

    look_s: float = 30.0
    """For that sign of life."""

    identity_s: float = 60.0
    """Between two readings of what a server lists of itself."""

    recovery_s: float = 900.0
    """How long a lost server is waited for; 0: not at all."""

    drain_s: float = 30.0
    """How long answers in flight are waited for when a run is told to stop."""


class ImportFacts(Record):
    """A file of somebody else's answers."""

    source: str
    """Path as given."""

    sha256: str
    """Of the file's bytes."""

    completions: int
    """That it holds."""


class ShardFacts(Record):
    """What the directory of a shard holds: some problems with all of their tasks, no others."""

    shard: str
    """`2/4`."""

    tasks: int
    tasks_sha256: str
    problems_sha256: str | None
    """Of `problems.jsonl`; None if the task file came without problems beside it."""


class RunManifest(Record):
    """Everything needed to run again. Written before the first task is asked, never changed."""

    format: Literal[1] = 1
    created_at: str
    """UTC, ISO 8601."""

    fim_eval_version: str
    code_revision: str | None
    """Commit of the checkout; ends in `+` if it had changes; None if installed otherwise."""

    python: str
    platform: str
    packages: dict[str, str]
    identity: RunIdentity
    server: ServerIdentity
    server_log: str | None
    """Where the server that was started for this run writes its log, if we know."""

    card: ModelCard | None
    infill_format: InfillFormat | None = None
    infill_format_from: str | None = None
    """How it was chosen: by `--format`, the model's card or name, or the tokenizer."""

    tokenizer: str | None
    """The tokenizer file, `tokenizer.model` or `tokenizer.json`."""

    task_facts: TaskFacts | None
    """None if the task file came without facts beside it."""

    problems_sha256: str | None = None
    """Of the problems of all tasks, one a line; None if the task file came without problems beside
    it."""

    probe: Probe | None = None
    """Of `fim-*` runs: what a few plain holes showed before the first task was asked."""

    shard: ShardFacts | None = None
    """None: the directory holds all tasks of the run."""

    limit: int | None
    """Only the first so many tasks of the file were taken; None: all."""

    concurrency: int | None
    """Prompts in flight at most, of each server."""

    batch: int = 1
    """Prompts in one request at most."""

    timeouts: Timeouts | None
    api_key_env: str | None
    """Name of the environment variable the key was read from, never the key; None: no key."""
    imported: ImportFacts | None = None
    """Where the answers came from, if not from a server that we asked."""


class Segment(Record):
    """One session of asking. A run that was interrupted and resumed has several."""

    segment: int
    started_at: str
    """UTC, ISO 8601, to line up with server logs."""

    base_url: str
    asked: int
    """How many prompts, and texts to score, were left when it started."""

    gold: bool = False
    """Whether the probability of the reference answers was asked."""

    pid: int
    concurrency: int
    """Prompts in flight at most."""

    batch: int = 1
    """Prompts in one request at most."""

    priority: int = 0
    """Of every request; 0: none was sent."""

    shard: str | None = None
    """`2/4`: only the problems of this part were asked."""


class ConcurrencyChange(Record):
    """How many prompts might be in flight from a moment on: `limiter.Change`, as it is stored."""

    segment: int
    base_url: str
    at_s: float
    """From the segment's start."""

    limit: int
    prompts_per_s: float
    """Of the round before."""

    reason: str


class JudgeRules(Record):
    """What every verdict of a file was reached under. Another rule: another verdict."""

    tests: TestStyle
    python: str
    """Major and minor version of the interpreter that runs the programs."""

    time_floor_s: float
    """Processor seconds that any program may take; five times as many on the clock."""

    time_factor: float
    """A program may take so many times the reference's own processor time, if that is more."""

    memory_bytes: int
    """Address space of a program's process."""

    output_bytes: int
    """What a program may return, over all its tests."""


class ReferenceRun(Record):
    """The reference program of one problem, executed on this machine. Key: `problem_id`."""

    problem_id: str
    tests_sha256: str
    """Of its set-up and tests: with it, a program's key can be computed without them."""

    outcome: VerdictOutcome
    detail: str
    cpu_s: float
    time_limit_s: float
    """What programs for this problem may take, in processor seconds."""


class JudgeSession(Record):
    """One session of judging. A file that was interrupted and resumed has several."""

    session: int
    started_at: str
    """UTC, ISO 8601."""

    fim_eval_version: str
    rules: JudgeRules
    isolation: Isolation
    isolation_detail: str
    workers: int
    python: str
    platform: str
    pid: int

"""A run directory: who owns it, what it holds, and lines that are on disk once written.

    manifest.json       what was asked of whom, written first (`RunManifest`)
    tasks.jsonl         the tasks of the run, so that everything can be computed again from here
    problems.jsonl      the problems they were cut from, with their tests
    segments.jsonl      one line per session of asking
    examples.jsonl      the worked examples that prompts show, if they show any
    concurrency.jsonl   one line per change of how many prompts might be in flight
    places.json         of a shard: where in the whole run its tasks stand
    generations.jsonl   one line per outcome, appended as it comes: completions, failures, and the
                        probabilities and rankings of what was scored

What was judged of it is in three files more: see `fim_eval.verdicts`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from fim_eval.errors import RunDirectoryError
from fim_eval.lines import (
    AppendFile,
    OwnedFolder,
    create,
    create_lines,
    create_pieces,
    numbered_lines,
    parsed,
    read_lines,
    whole_lines,
)
from fim_eval.records import (
    Completion,
    ConcurrencyChange,
    Imported,
    InfillTask,
    Likelihood,
    Outcome,
    Problem,
    Prompt,
    Ranking,
    RequestFailure,
    RunManifest,
    Scoring,
    Segment,
    may_be_one_version,
)
from fim_eval.words import FailureReason, Scored, Strategy

MANIFEST = "manifest.json"
TASKS = "tasks.jsonl"
PROBLEMS = "problems.jsonl"
EXAMPLES = "examples.jsonl"
PLACES = "places.json"
SEGMENTS = "segments.jsonl"
GENERATIONS = "generations.jsonl"
LIMITS = "concurrency.jsonl"
AUDIT = "audit"
"""A run directory inside of one: a part of its tasks, asked again."""

OF_THE_SERVER = frozenset(
    {"answers_as", "server_version", "system_fingerprint", "root", "max_model_len"}
)
"""What makes two runs different though the same was asked for."""

Key = tuple[str, str, int]
"""task_id, strategy, sample_index."""

ScoringKey = tuple[str, str, int, Scored]
"""task_id, strategy, sample_index, scored."""

_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)
_ASK_AGAIN = "remove that line to ask its prompt again, or choose another --out"
_FORGET_SESSION = (
    "remove that line: all answers stay, only how that session asked is forgotten; if it was with "
    "--gold, run the same command again"
)
_FORGET_CHANGE = "remove that line: all answers stay, only that change of the limit is forgotten"
_NUMBER = re.compile(rb'"segment":(\d+)')
"""Of the session that a line is of. In a text its quotes would be escaped."""


def key_of(record: Prompt | Completion | RequestFailure) -> Key:
    """What is asked, or answered."""
    return record.task_id, record.strategy, record.sample_index


def scoring_key_of(record: Scoring | Likelihood) -> ScoringKey:
    """What is scored."""
    return record.task_id, record.strategy, record.sample_index, record.scored


Place = tuple[str, str, int, Scored | None]
"""Of whatever is asked: task_id, strategy, sample_index, scored; None: a completion."""


def place_of(
    record: Prompt | Scoring | Completion | Imported | RequestFailure | Likelihood,
) -> Place:
    """Where an outcome stands, or will."""
    scored = record.scored if isinstance(record, Scoring | RequestFailure | Likelihood) else None
    return record.task_id, record.strategy, record.sample_index, scored


@dataclass
class Standing:
    """How far a run is, without its answers."""

    reasons: dict[Place, FailureReason | None] = field(default_factory=dict)
    """Why there is no answer; None: there is one."""

    ranked: set[str] = field(default_factory=set)
    """Tasks whose candidates are ranked."""

    def note(self, outcome: Outcome) -> None:
        """One outcome more.

        A failure may stand before the answer that a later session got.

        Raises:
            ValueError: it answers what was answered.
        """
        if isinstance(outcome, Ranking):
            if outcome.task_id in self.ranked:
                raise ValueError(f"answers {outcome.task_id} a second time")
            self.ranked.add(outcome.task_id)
            return
        place = place_of(outcome)
        if self.is_answered(place):
            raise ValueError(f"answers {outcome.task_id} a second time")
        self.reasons[place] = outcome.reason if isinstance(outcome, RequestFailure) else None

    def is_answered(self, place: Place) -> bool:
        """Whether there is an answer."""
        return place in self.reasons and self.reasons[place] is None

    def answered(self, strategy: Strategy) -> int:
        """Tasks that have the completion that answers them."""
        if strategy == "lr-rerank":
            return len(self.ranked)
        return sum(
            reason is None and (sample, scored) == (0, None)
            for (_, _, sample, scored), reason in self.reasons.items()
        )


@dataclass(frozen=True)
class Outcomes:
    """What a run directory holds: the last outcome of each key."""

    generations: dict[Key, Completion | RequestFailure] = field(default_factory=dict)
    likelihoods: dict[ScoringKey, Likelihood | RequestFailure] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict)
    """By task."""

    imported: dict[Key, Imported] = field(default_factory=dict)

    def answer(self, task_id: str, strategy: Strategy) -> Completion | Imported | None:
        """The completion that answers a task; None while it has no answer."""
        sample_index = 0
        if strategy == "lr-rerank":
            ranking = self.rankings.get(task_id)
            if ranking is None:
                return None
            ranked = ranking.by_sum if ranking.headline == "sum" else ranking.by_mean
            sample_index = ranked[0]
        key = (task_id, strategy, sample_index)
        found = self.generations.get(key) or self.imported.get(key)
        return None if isinstance(found, RequestFailure) else found


class RunDirectory(OwnedFolder):
    """A run directory opened for writing by this process alone. A context manager."""

    def __init__(self, path: Path) -> None:
        """Nothing is touched before the context is entered."""
        self._generations = AppendFile(path / GENERATIONS)
        self._limits = AppendFile(path / LIMITS)
        super().__init__(path, self._limits, self._generations)

    def claim(
        self,
        manifest: RunManifest,
        tasks: Iterable[bytes],
        problems: Sequence[Problem] = (),
        examples: Sequence[InfillTask] = (),
        places: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Make the folder this run's, or see that it already is.

        Args:
            manifest: of the run.
            tasks: that it asks, each as its line.
            problems: that the tasks were cut from; none if they came without.
            examples: that its prompts show.
            places: of a shard, where in the run its tasks stand: first place and length of each
                run of neighbours.

        Raises:
            RunDirectoryError: it belongs to another run, with the difference named, or holds
                files but no manifest.
        """
        if has_manifest(self.path):
            if reason := _another_run(read_manifest(self.path), manifest):
                raise RunDirectoryError(f"{self.path}: belongs to another run {reason}")
            return
        strangers = sorted(
            entry.name for entry in self.path.iterdir() if entry.name in (GENERATIONS, SEGMENTS)
        )
        if strangers:
            raise RunDirectoryError(
                f"{self.path}: holds {', '.join(strangers)} but no {MANIFEST}, so nobody can tell "
                "which run they are of; choose another --out"
            )
        create_pieces(self.path / TASKS, tasks)
        if problems:
            create_lines(self.path / PROBLEMS, problems)
        if examples:
            create_lines(self.path / EXAMPLES, examples)
        if manifest.shard is not None:
            create(self.path / PLACES, orjson.dumps(places) + b"\n")
        create(self.path / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")

    def begin_segment(self, segment: Segment) -> None:
        """Note that a session of asking begins."""
        with AppendFile(self.path / SEGMENTS) as segments:
            segments.append(segment)

    def append(self, *outcomes: Outcome) -> None:
        """Write outcomes. When this returns, a kill of the process cannot lose them.

        Raises:
            RunDirectoryError: the disk is full or gone; the run cannot go on.
        """
        self._generations.append(*outcomes)

    def append_limit(self, change: ConcurrencyChange) -> None:
        """Write a change of how many prompts may be in flight."""
        self._limits.append(change)


def has_manifest(path: Path) -> bool:
    """Whether the folder at `path` is a run directory already."""
    return (path / MANIFEST).exists()


def read_manifest(path: Path) -> RunManifest:
    """The manifest of the run directory at `path`.

    Raises:
        RunDirectoryError: there is none, or it cannot be understood.
    """
    file = path / MANIFEST
    try:
        return RunManifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise RunDirectoryError(
            f"{path}: is no run directory ({MANIFEST}: {error.strerror}); `fim-eval run` makes one"
        ) from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise RunDirectoryError(
            f"{file}: cannot be understood ({place}: {fault['msg']}); it was written by another "
            "version, or damaged"
        ) from error


def read_tasks(path: Path) -> Iterator[InfillTask]:
    """The tasks of the run directory at `path`, in order, as they are needed.

    Raises:
        RunDirectoryError: they are not those that the manifest was written for.
    """
    return map(InfillTask.model_validate_json, task_lines(path))


def task_lines(path: Path) -> Iterator[bytes]:
    """Their lines; see `read_tasks`."""
    manifest = read_manifest(path)
    held = manifest.shard or manifest.identity
    file = path / TASKS
    try:
        with file.open("rb") as lines:
            if hashlib.file_digest(lines, "sha256").hexdigest() != held.tasks_sha256:
                raise RunDirectoryError(
                    f"{file}: is not the file of {held.tasks} tasks that this run was made with; "
                    "without it nothing can be scored. Restore it, or choose another --out"
                )
            lines.seek(0)
            yield from lines
    except OSError as error:
        raise RunDirectoryError(f"{file}: cannot be read ({error.strerror})") from error


def read_places(path: Path) -> Iterator[int]:
    """Where in the whole run the tasks of the shard at `path` stand, in order.

    Raises:
        RunDirectoryError: it does not say.
    """
    try:
        runs = orjson.loads((path / PLACES).read_bytes())
        return iter([place for first, count in runs for place in range(first, first + count)])
    except (OSError, ValueError, TypeError) as error:
        raise RunDirectoryError(f"{path / PLACES}: cannot be read ({error})") from error


def read_problems(path: Path) -> list[Problem]:
    """The problems of the run directory at `path`; none if its tasks came without.

    Raises:
        RunDirectoryError: they are not those that the manifest was written for.
    """
    manifest = read_manifest(path)
    expected = (manifest.shard or manifest).problems_sha256
    if expected is None:
        return []
    file = path / PROBLEMS
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RunDirectoryError(f"{file}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise RunDirectoryError(
            f"{file}: is not the file that this run was made with; restore it, or name the "
            "problems with --problems"
        )
    adapter = TypeAdapter(Problem)
    return [adapter.validate_json(line) for line in content.splitlines()]


def read_segments(path: Path) -> list[Segment]:
    """The sessions of the run directory at `path`, in order."""
    adapter = TypeAdapter(Segment)
    return [segment for _, segment in read_lines(path / SEGMENTS, adapter, _FORGET_SESSION)]


def next_segment(path: Path) -> int:
    """The number of a new session in the run directory at `path`, which nothing there has.

    Not how many there were: a damaged line may have been removed, and what came in its session
    tells times from that session's start.

    Raises:
        RunDirectoryError: `segments.jsonl` is damaged, or a file cannot be read.
    """
    known = (segment.segment for segment in read_segments(path))
    lines = chain(whole_lines(path / LIMITS), whole_lines(path / GENERATIONS))
    named = (int(found[1]) for line in lines if (found := _NUMBER.search(line)))
    return max(chain(known, named), default=-1) + 1


def read_limits(path: Path) -> list[ConcurrencyChange]:
    """How many prompts might be in flight in the run directory at `path`, change by change."""
    adapter = TypeAdapter(ConcurrencyChange)
    return [change for _, change in read_lines(path / LIMITS, adapter, _FORGET_CHANGE)]


def read_outcome_lines(
    path: Path,
) -> Iterator[Outcome]:
    """Every line of the journal of the run directory at `path`, in order, as it is needed.

    Raises:
        RunDirectoryError: a whole line is damaged.
    """
    return (outcome for _, outcome in read_lines(path / GENERATIONS, _OUTCOME, _ASK_AGAIN))


def read_generations(path: Path) -> dict[Key, Completion | RequestFailure]:
    """The last completion or failure of each key in the run directory at `path`."""
    return read_outcomes(path).generations


def read_outcomes(path: Path) -> Outcomes:
    """All that the run directory at `path` holds.

    A failure may stand before the completion that a later session got.

    Raises:
        RunDirectoryError: a whole line is damaged, or a key was answered twice.
    """
    return outcomes_of(numbered_lines(path / GENERATIONS), path)


def outcomes_of(lines: Iterable[tuple[int, bytes]], path: Path) -> Outcomes:
    """What some numbered lines of a journal hold: all that are of the same tasks, in order.

    Raises:
        RunDirectoryError: as `read_outcomes`.
    """
    found, standing = Outcomes(), Standing()
    for outcome in _noted(lines, path, standing.note):
        match outcome:
            case Ranking():
                found.rankings[outcome.task_id] = outcome
            case Imported():
                name = (outcome.task_id, outcome.strategy, outcome.sample_index)
                found.imported[name] = outcome
            case Completion() | RequestFailure(scored=None):
                found.generations[key_of(outcome)] = outcome
            case Likelihood(scored=scored) | RequestFailure(scored=str() as scored):
                place = (outcome.task_id, outcome.strategy, outcome.sample_index, scored)
                found.likelihoods[place] = outcome
    return found


def read_standing(path: Path) -> Standing:
    """How far the run directory at `path` is.

    Raises:
        RunDirectoryError: as `read_outcomes`.
    """
    standing = Standing()
    note_outcomes(path, standing.note)
    return standing


def note_outcomes(path: Path, note: Callable[[Outcome], None]) -> None:
    """Tell what the run directory at `path` holds, outcome by outcome, in order.

    Args:
        path: of the run directory.
        note: told each; raises ValueError if one cannot stand there.

    Raises:
        RunDirectoryError: a whole line is damaged, or cannot stand there.
    """
    for _ in _noted(numbered_lines(path / GENERATIONS), path, note):
        pass


def _noted(
    lines: Iterable[tuple[int, bytes]], path: Path, note: Callable[[Outcome], None]
) -> Iterator[Outcome]:
    """Every outcome in order, once it is noted."""
    for number, outcome in parsed(lines, path / GENERATIONS, _OUTCOME, _ASK_AGAIN):
        try:
            note(outcome)
        except ValueError as error:
            raise RunDirectoryError(
                f"{path / GENERATIONS}:{number}: {error}; {_ASK_AGAIN}"
            ) from error
        yield outcome


def difference(stored: RunManifest, wanted: RunManifest, *but: str) -> str:
    """In what two runs or their servers differ, but for some fields, in words; empty if nowhere."""
    return "; ".join(_differences(stored, wanted, but).values())


def _differences(
    stored: RunManifest, wanted: RunManifest, but: Collection[str] = ()
) -> dict[str, str]:
    """By field, in words. What a server lists of itself counts: not all have a fingerprint."""
    identities = (stored.identity, wanted.identity)
    if may_be_one_version(*((one.server_version, one.system_fingerprint) for one in identities)):
        but = {*but, "server_version"}
    before, now = (
        {
            **one.identity.model_dump(),
            "root": one.server.root,
            "max_model_len": one.server.max_model_len,
        }
        for one in (stored, wanted)
    )
    return {
        field: f"{field}: {before[field]} there, {now[field]} now"
        for field in before
        if before[field] != now[field] and field not in but
    }


def _another_run(stored: RunManifest, wanted: RunManifest) -> str | None:
    """Why a directory is not this run's, and what to do; None if it is.

    A shard is another run than its neighbour, or the whole.
    """
    before, now = (one.shard and one.shard.shard for one in (stored, wanted))
    found = _differences(stored, wanted, () if before == now else ("prompts_sha256",))
    if before != now:
        found = {"shard": f"shard: {before} there, {now} now", **found}
    if not found:
        return None
    remedy = "choose another --out"
    if found.keys() <= OF_THE_SERVER:
        remedy = f"start the server as it was and run the same command again, or {remedy}"
    return f"({'; '.join(found.values())}); {remedy}"

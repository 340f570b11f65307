"""A run directory, read and cut once: what fills each hole under every policy, and its verdict.

Tables count it, the browser of tasks tells it. Knows neither.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from fim_eval.journal import (
    GENERATIONS,
    TASKS,
    Outcomes,
    outcomes_of,
    read_manifest,
    read_outcomes,
    read_segments,
    read_tasks,
    task_lines,
)
from fim_eval.judge import program_key
from fim_eval.lines import whole_lines
from fim_eval.postprocess import POLICIES, filled_middle, filled_program
from fim_eval.records import (
    Completion,
    Imported,
    InfillTask,
    JudgeSession,
    ReferenceRun,
    RunManifest,
    Verdict,
)
from fim_eval.verdicts import read_references, read_sessions, read_verdicts
from fim_eval.words import Policy


class FilledTask(NamedTuple):
    """One hole, and what one run made of it."""

    task: InfillTask
    answer: Completion | Imported | None
    """None while there is none."""

    middles: Mapping[Policy, str]
    """What fills the hole, in the order of `postprocess.POLICIES`; none without an answer."""

    verdicts: Mapping[str, Verdict | None]
    """On each distinct of `middles`, in their order; None: not judged."""

    floor: Verdict | None
    """On the program whose hole is left empty; None: not judged."""


@dataclass(frozen=True, slots=True)
class FilledRun:
    """One run directory."""

    path: Path
    manifest: RunManifest
    outcomes: Outcomes
    asked_gold: bool
    """Whether the reference answers' probability was asked."""

    tasks: tuple[FilledTask, ...]
    sessions: tuple[JudgeSession, ...]
    """Of judging; none if nothing was judged."""

    references: Mapping[str, ReferenceRun]
    """What each problem's own reference came to."""


def read_filled(path: Path) -> FilledRun:
    """The run directory at `path`.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    return _reader(path)(read_tasks(path), read_outcomes(path))


def read_parts(path: Path, size: int) -> Iterator[tuple[list[int], FilledRun]]:
    """The same, about `size` tasks at a time, never all in memory; with each task's place.

    Which tasks come together is by a hash of their ids: so both files are gone through once, and
    what is of one part is read from where it stands.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    manifest = read_manifest(path)
    count = max(1, (manifest.shard or manifest.identity).tasks // size)
    tasks = _Parted(path / TASKS, task_lines(path), count)
    journal = _Parted(
        path / GENERATIONS, (line + b"\n" for line in whole_lines(path / GENERATIONS)), count
    )
    filled = _reader(path)
    for part in range(count):
        places, lines = [], []
        for place, line in tasks.lines(part):
            places.append(place)
            lines.append(line)
        outcomes = outcomes_of(
            ((place + 1, line.rstrip(b"\n")) for place, line in journal.lines(part)), path
        )
        yield places, filled(map(InfillTask.model_validate_json, lines), outcomes)


class _Parted:
    """Where the lines of a file stand, by a hash of the task that they are of."""

    def __init__(self, path: Path, lines: Iterable[bytes], count: int) -> None:
        self._path = path
        self._parts = [(array("Q"), array("Q")) for _ in range(count)]
        start = 0
        for place, line in enumerate(lines):
            places, starts = self._parts[_hash(line) % count if count > 1 else 0]
            places.append(place)
            starts.append(start)
            start += len(line)

    def lines(self, part: int) -> Iterator[tuple[int, bytes]]:
        """Those of one part in order, each with its place in the file."""
        places, starts = self._parts[part]
        if not places:
            return
        with self._path.open("rb") as file:
            for place, start in zip(places, starts, strict=True):
                file.seek(start)
                yield place, file.readline()


def _hash(line: bytes) -> int:
    try:
        return zlib.crc32(str(orjson.loads(line)["task_id"]).encode())
    except (ValueError, LookupError, TypeError):  # damaged: whoever reads it says so
        return 0


def _reader(path: Path) -> Callable[[Iterable[InfillTask], Outcomes], FilledRun]:
    """What fills some tasks of the run directory at `path`."""
    sessions = read_sessions(path)
    references = read_references(path)
    verdicts = read_verdicts(path)
    manifest = read_manifest(path)
    asked_gold = any(segment.gold for segment in read_segments(path))

    def filled(tasks: Iterable[InfillTask], outcomes: Outcomes) -> FilledRun:
        return FilledRun(
            path=path,
            manifest=manifest,
            outcomes=outcomes,
            asked_gold=asked_gold,
            tasks=tuple(_filled(tasks, manifest, outcomes, references, verdicts)),
            sessions=tuple(sessions),
            references=references,
        )

    return filled


def _filled(
    tasks: Iterable[InfillTask],
    manifest: RunManifest,
    outcomes: Outcomes,
    references: Mapping[str, ReferenceRun],
    verdicts: Mapping[str, Verdict],
) -> Iterator[FilledTask]:
    strategy = manifest.identity.strategy
    for task in tasks:
        reference = references.get(task.problem_id)
        tests = None if reference is None else reference.tests_sha256
        answer = outcomes.answer(task.task_id, strategy)
        middles = (
            {} if answer is None else {p: filled_middle(p, answer.text, task) for p in POLICIES}
        )
        yield FilledTask(
            task,
            answer,
            middles,
            {
                middle: _verdict(verdicts, task, middle, tests)
                for middle in dict.fromkeys(middles.values())
            },
            _verdict(verdicts, task, "", tests),
        )


def _verdict(
    verdicts: Mapping[str, Verdict], task: InfillTask, middle: str, tests: str | None
) -> Verdict | None:
    if tests is None:
        return None
    return verdicts.get(program_key(filled_program(task, middle), tests))

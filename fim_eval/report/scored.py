"""Run directories, scored, with what a report must know of where they come from."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import polars as pl

from fim_eval.errors import RunDirectoryError
from fim_eval.journal import AUDIT, GENERATIONS, TASKS, has_manifest, read_problems
from fim_eval.records import JudgeRules, ReferenceRun, RunManifest
from fim_eval.report.browser import BrowsedRun, browsed_run
from fim_eval.report.filled import read_filled
from fim_eval.report.table import scores_of
from fim_eval.words import Infills, Split

T = TypeVar("T")

OFFICIAL = "humaneval-infilling"
"""The data set of the official infilling files."""

_PARALLEL_BYTES = 4 << 20
"""Below so much to read, starting processes costs more than it spares."""


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """One run directory."""

    path: Path
    manifest: RunManifest
    scores: pl.DataFrame
    """Of `table.scores_of`."""

    splits: dict[str, Split]
    """Of problems; empty if the run came without them."""

    references: dict[str, ReferenceRun]
    """What each problem's own reference came to; empty if not judged."""

    rules: JudgeRules | None
    """Of judging; None: not judged."""

    isolation: str | None
    """Of the last session of judging; None: not judged."""

    browsed: BrowsedRun | None = None
    """What a person looks at of it; None unless asked for."""

    audit: ScoredRun | None = None
    """A part of its tasks, asked again: the run directory `AUDIT` inside of it; None: there is
    none."""

    @property
    def dataset(self) -> str:
        """The name of the data set; `unknown` if the tasks came without facts."""
        facts = self.manifest.task_facts
        return facts.dataset.name if facts else "unknown"


def read_scored(
    paths: Sequence[Path], *, workers: int = 1, browse: bool = False
) -> list[ScoredRun]:
    """Score run directories, in their order.

    Args:
        paths: of them.
        workers: processes to share the work if there is much of it. They are spawned, so with more
            than one a script of yours must guard its `__main__`.
        browse: whether to keep what a person looks at, too.

    Raises:
        RunDirectoryError: one cannot be read.
    """
    return read_each(paths, partial(_scored, browse=browse), workers)


def read_each(paths: Sequence[Path], read: Callable[[Path], T], workers: int) -> list[T]:
    """What `read` makes of each run directory, in their order; see `read_scored`."""
    size = sum(
        file.stat().st_size
        for path in paths
        for name in (TASKS, GENERATIONS)
        if (file := path / name).exists()
    )
    workers = min(workers, len(paths))
    if size < _PARALLEL_BYTES or workers < 2:
        return list(map(read, paths))
    # Not forked: polars has threads of its own.
    context = multiprocessing.get_context("spawn")
    # A fifth of the time went into looking for cycles among records, which have none.
    with ProcessPoolExecutor(workers, mp_context=context, initializer=gc.disable) as pool:
        return list(pool.map(read, paths))


def _scored(path: Path, *, browse: bool) -> ScoredRun:
    run = read_filled(path)
    return ScoredRun(
        path=path,
        manifest=run.manifest,
        scores=scores_of(run),
        splits={problem.problem_id: problem.split for problem in read_problems(path)},
        references=dict(run.references),
        rules=run.sessions[-1].rules if run.sessions else None,
        isolation=run.sessions[-1].isolation if run.sessions else None,
        browsed=browsed_run(run) if browse else None,
        audit=_scored(path / AUDIT, browse=False) if has_manifest(path / AUDIT) else None,
    )


def check_tasks(runs: Sequence[ScoredRun]) -> None:
    """See that a task id means the same task in all of `runs`.

    Raises:
        RunDirectoryError: it does not.
    """
    seen: dict[str, ScoredRun] = {}
    for run in runs:
        sha256 = run.manifest.identity.tasks_sha256
        if sha256 in seen:
            continue
        for other in seen.values():
            ours, theirs = (_shapes(one.scores) for one in (run, other))
            changed = ours.join(theirs, on="task_id").filter(
                pl.col("task_sha256") != pl.col("task_sha256_right")
            )
            if not changed.is_empty():
                raise RunDirectoryError(
                    f"{run.path}: its {changed['task_id'][0]} is another task than that of "
                    f"{other.path}; report them apart"
                )
        seen[sha256] = run


def _shapes(scores: pl.DataFrame) -> pl.DataFrame:
    first = scores.filter(pl.col("policy") == scores["policy"][0])
    return first.select("task_id", "task_sha256")


@dataclass(frozen=True)
class Model:
    """What the runs of a report know of one model."""

    name: str
    model_id: str | None
    parameters: int | None
    infills: Infills
    trained: bool
    """To infill: by its card, or, where that is disputed or unknown, by its own probe."""

    @property
    def order(self) -> tuple[bool, int, str]:
        """Smallest first; by name where sizes are unknown."""
        return self.parameters is None, self.parameters or 0, self.name

"""Two runs of the same tasks: what flipped. Another server, another version, the same once more."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from rich import box
from rich.table import Table

from fim_eval.errors import RunDirectoryError
from fim_eval.journal import read_outcomes
from fim_eval.records import Record
from fim_eval.report.estimates import Questions, Values, combined
from fim_eval.report.findings import Estimate
from fim_eval.report.scored import ScoredRun, check_tasks
from fim_eval.terminal import left_out, no_room
from fim_eval.words import Policy

Flipped = Literal["text", "exact_match", "exact_match_rstrip", "passed"]


class Flip(Record):
    """What one metric says of both runs, task by task."""

    metric: Flipped
    """`text`: the answers' texts, raw."""

    both: int | None
    """Tasks right in both; these four are None for `text`."""

    only_first: int | None
    only_second: int | None
    neither: int | None
    changed: int
    """Tasks that flipped, of those resolved in both."""

    unresolved: int
    """Tasks without an answer or a verdict in one of them, or both."""

    difference: Estimate | None
    """Second minus first; None for `text`."""

    p_permutation: float | None
    gained: tuple[str, ...]
    """Tasks that only the second has right; of `text`, those that changed."""

    lost: tuple[str, ...]
    """Tasks that only the first has right."""


class Comparison(Record):
    """Two runs on the tasks that both hold. `fim-eval compare --json`."""

    first: str
    second: str
    policy: Policy
    """Of all metrics but `text`."""

    tasks: int
    only_in_first: int
    only_in_second: int
    differing: dict[str, tuple[object, object]]
    """Fields of the runs' identities that differ: theirs, first and second."""

    flips: tuple[Flip, ...]
    """Without `passed` unless both runs were judged."""


def compare(
    first: ScoredRun, second: ScoredRun, policy: Policy, *, seed: int = 0, resamples: int = 10_000
) -> Comparison:
    """Compare two runs, task by task.

    Args:
        first: of `read_scored`.
        second: too. Model and strategy may differ; the tasks may not.
        policy: that answers are scored under.
        seed: of the draws.
        resamples: draws of the interval and the test.

    Raises:
        RunDirectoryError: they have no task in common, or different tasks under one id.
    """
    check_tasks([first, second])
    one, other = (
        run.scores.filter(pl.col("policy") == policy).with_columns(
            pl.Series("text", raw_texts(run), dtype=pl.String)
        )
        for run in (first, second)
    )
    both = one.join(other, on="task_id", suffix="_second", maintain_order="left")
    if both.is_empty():
        raise RunDirectoryError(
            f"{first.path} and {second.path}: have no task in common, so nothing can be compared"
        )
    both = both.with_columns(
        (pl.col("problem_id").rank("dense") - 1).cast(pl.Int64).alias("problem")
    ).sort("problem", maintain_order=True)
    metrics: list[Flipped] = ["exact_match", "exact_match_rstrip"]
    if both["judged"].any() and both["judged_second"].any():
        metrics.append("passed")
    flips = [
        _text_flip(both),
        *(_flip(both, metric, seed=seed, resamples=resamples) for metric in metrics),
    ]
    ours, theirs = (run.manifest.identity.model_dump() for run in (first, second))
    return Comparison(
        first=str(first.path),
        second=str(second.path),
        policy=policy,
        tasks=len(both),
        only_in_first=len(one) - len(both),
        only_in_second=len(other) - len(both),
        differing={name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]},
        flips=tuple(flips),
    )


def raw_texts(run: ScoredRun) -> list[str | None]:
    """The raw answers, in the order of the rows of one policy; None: no answer."""
    outcomes = read_outcomes(run.path)
    tasks = run.scores.filter(pl.col("policy") == run.scores["policy"][0])["task_id"]
    answers = (outcomes.answer(task, run.manifest.identity.strategy) for task in tasks)
    return [None if answer is None else answer.text for answer in answers]


def _text_flip(both: pl.DataFrame) -> Flip:
    known = both.filter(pl.col("answered") & pl.col("answered_second"))
    changed = known.filter(pl.col("text") != pl.col("text_second"))
    return Flip(
        metric="text",
        both=None,
        only_first=None,
        only_second=None,
        neither=None,
        changed=len(changed),
        unresolved=len(both) - len(known),
        difference=None,
        p_permutation=None,
        gained=tuple(changed["task_id"]),
        lost=(),
    )


def _flip(both: pl.DataFrame, metric: Flipped, *, seed: int, resamples: int) -> Flip:
    sides = [_values(both, metric), _values(both, f"{metric}_second")]
    questions = Questions()
    questions.ask(combined(sides, [-1, 1]), tested=True)
    [answer] = questions.answers(seed=seed, resamples=resamples)
    known = both.drop_nulls([metric, f"{metric}_second"])
    was, now = known[metric], known[f"{metric}_second"]
    gained, lost = known.filter(~was & now)["task_id"], known.filter(was & ~now)["task_id"]
    return Flip(
        metric=metric,
        both=int((was & now).sum()),
        only_first=len(lost),
        only_second=len(gained),
        neither=int((~was & ~now).sum()),
        changed=len(gained) + len(lost),
        unresolved=len(both) - len(known),
        difference=answer.estimate,
        p_permutation=answer.p_permutation,
        gained=tuple(gained),
        lost=tuple(lost),
    )


def _values(both: pl.DataFrame, column: str) -> Values:
    numbers = both[column].cast(pl.Float64)
    return Values(
        np.arange(len(both)),
        both["problem"].to_numpy(),
        numbers.fill_null(0).to_numpy(),
        numbers.fill_null(1).to_numpy(),
        np.ones(len(both)),
        "rate",
    )


SPARED = ("unresolved", "neither", "both\nright", "flipped\n%")
"""Left out first where a terminal is narrow; `unresolved` only where nothing is."""


def show_comparison(found: Comparison, width: int | None = None) -> Table:
    """The comparison for a terminal, in percentage points.

    Args:
        found: by `compare`.
        width: columns of the terminal; what does not fit is left out, and named below. None: all.
    """
    columns: dict[str, list[str]] = {}
    for flip in found.flips:
        known = found.tasks - flip.unresolved
        points, interval = _shown(flip.difference)
        for header, cell in (
            ("both\nright", _count(flip.both)),
            ("only\nfirst", _count(flip.only_first)),
            ("only\nsecond", _count(flip.only_second)),
            ("neither", _count(flip.neither)),
            ("flipped\n%", f"{100 * flip.changed / known:.2f}" if known else "–"),
            ("unresolved", str(flip.unresolved)),
            ("second - first\npoints", points),
            ("95 %\ninterval", interval),
            ("p", "–" if flip.p_permutation is None else f"{flip.p_permutation:.3g}"),
        ):
            columns.setdefault(header, []).append(cell)
    names = [flip.metric for flip in found.flips]
    first = f"{found.tasks} tasks,{' ' if width is None else chr(10)}{found.policy}"
    spared = SPARED[any(flip.unresolved for flip in found.flips) :]
    room = None if width is None else width - 4 - max(map(len, [*names, *first.split("\n")]))
    missing = left_out(columns, spared, room, gap=2)
    for header in missing:
        del columns[header]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for header in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for place, name in enumerate(names):
        table.add_row(name, *(cells[place] for cells in columns.values()))
    table.caption = no_room(missing, "--json has all")
    return table


def _count(number: int | None) -> str:
    return "–" if number is None else str(number)


def _shown(difference: Estimate | None) -> tuple[str, str]:
    if difference is None or difference.least is None or difference.most is None:
        return "–", "–"
    points = f"{100 * difference.least:+.1f}"
    if difference.value is None:
        points += f" to {100 * difference.most:+.1f}"
    if difference.low is None or difference.high is None:
        return points, "–"
    return points, f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"

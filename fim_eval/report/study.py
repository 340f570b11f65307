"""The scores of runs over one universe of tasks, as arrays: by cell and metric, and in parts.

Models are compared on the tasks that both were asked, alike in strategy, kind and policy; in
infilling only those are that were trained for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, assert_never, get_args

import numpy as np
import polars as pl

from fim_eval.errors import RunDirectoryError
from fim_eval.postprocess import POLICIES
from fim_eval.report.definitions import HEADLINE
from fim_eval.report.estimates import Floats, Integers, Values
from fim_eval.report.findings import By, Check, Metric
from fim_eval.report.scored import Model, ScoredRun, check_tasks
from fim_eval.report.table import STRATEGY_ORDER, summarise
from fim_eval.words import INFILLING, BlockPart, Kind, Policy, Split, Strategy

LENGTHS = ((10, "1 to 10"), (20, "11 to 20"), (40, "21 to 40"), (80, "41 to 80"),
           (160, "81 to 160"), (320, "161 to 320"))  # fmt: skip
FIFTHS = ("first fifth", "second fifth", "third fifth", "fourth fifth", "last fifth")


class Cell(NamedTuple):
    """Whose values: a row of the main table, in the order of the rows."""

    model: str
    strategy: Strategy
    kind: Kind
    policy: Policy


class Study:
    """Runs over one universe of tasks."""

    def __init__(self, runs: Sequence[ScoredRun]) -> None:
        check_tasks(runs)
        self.runs = runs
        self.models = {model.name: model for model in _models(runs)}
        frames = [
            run.scores.with_columns(
                pl.lit(run.dataset).alias("dataset"),
                pl.col("problem_id")
                .replace_strict(run.splits, default="unknown", return_dtype=pl.String)
                .alias("split"),
            )
            for run in runs
        ]
        scores = pl.concat(frames)
        _refuse_twice(scores, runs)
        self.tasks = (
            scores.unique("task_id", keep="first", maintain_order=True)
            .select(
                "task_id", "problem_id", "kind", "part", "prefix_characters",
                "reference_characters", "program_characters", "dataset", "split",
            )
            .with_columns((pl.col("problem_id").rank("dense") - 1).cast(pl.Int64).alias("problem"))
            .sort("problem", maintain_order=True)
            .with_row_index("task")
        )  # fmt: skip
        placed = scores.join(self.tasks.select("task_id", "task", "problem"), on="task_id")
        self.frames: dict[Cell, pl.DataFrame] = {
            Cell(*key): frame.sort("task")
            for key, frame in placed.partition_by(
                list(Cell._fields), as_dict=True, maintain_order=True
            ).items()
        }
        self.cells = sorted(self.frames, key=self._order)
        self.values = {cell: _values(frame) for cell, frame in self.frames.items()}
        self.kinds = {cell.kind for cell in self.cells}
        self.summary = pl.concat([summarise(run.scores) for run in runs])
        self.parts = {kind: list(self._parts(kind)) for kind in self.kinds}

    def _order(self, cell: Cell) -> tuple[object, ...]:
        return (
            self.models[cell.model].order,
            STRATEGY_ORDER[cell.strategy],
            get_args(Kind).index(cell.kind),
            POLICIES.index(cell.policy),
        )

    def alike(self) -> Iterator[tuple[Cell, Metric, list[tuple[Model, Values]]]]:
        """Per strategy, kind, policy and metric: the models to compare, smallest first.

        The cell's own model is the first.
        """
        groups: dict[tuple[Strategy, Kind, Policy], list[Cell]] = {}
        for cell in self.cells:
            if cell.strategy not in INFILLING or self.models[cell.model].trained:
                groups.setdefault((cell.strategy, cell.kind, cell.policy), []).append(cell)
        for cells in groups.values():
            for metric in get_args(Metric):
                some = [
                    (self.models[cell.model], self.values[cell][metric])
                    for cell in cells
                    if metric in self.values[cell]
                ]
                if some:
                    yield cells[0], metric, some

    def ways(self) -> Iterator[tuple[Metric, list[tuple[Cell, Values]]]]:
        """Per model, kind and metric: the strategies to compare, under the headline policy."""
        groups: dict[tuple[str, Kind], list[Cell]] = {}
        for cell in self.cells:
            trained = cell.strategy not in INFILLING or self.models[cell.model].trained
            if trained and cell.policy == HEADLINE[cell.kind]:
                groups.setdefault((cell.model, cell.kind), []).append(cell)
        for cells in groups.values():
            for metric in get_args(Metric):
                some = [
                    (cell, self.values[cell][metric])
                    for cell in cells
                    if metric in self.values[cell]
                ]
                if len(some) > 1:
                    yield metric, some

    def _parts(self, kind: Kind) -> Iterator[tuple[By, int, str, Integers]]:
        for by in get_args(By):
            for order, (group, tasks) in enumerate(self._groups(by, kind)):
                yield by, order, group, tasks

    def _groups(self, by: By, kind: Kind) -> list[tuple[str, Integers]]:
        """The tasks of a kind in groups, in order; none if all are in one."""
        tasks = self.tasks.filter(pl.col("kind") == kind)
        match by:
            case "length":
                found = [_length_group(n) for n in tasks["reference_characters"]]
                order = ["empty", *(name for _, name in LENGTHS), f"over {LENGTHS[-1][0]}"]
            case "position":
                middle = tasks["prefix_characters"] + tasks["reference_characters"] / 2
                share = middle / tasks["program_characters"].clip(1)
                found = [FIFTHS[min(4, int(5 * one))] for one in share]
                order = list(FIFTHS)
            case "part":
                found = [part or "unknown" for part in tasks["part"]]
                order = [*get_args(BlockPart), "unknown"]
            case "split":
                found = tasks["split"].to_list()
                order = [*get_args(Split), "unknown"]
            case "dataset":
                found = tasks["dataset"].to_list()
                order = sorted(set(found))
            case _:
                assert_never(by)
        numbers = tasks["task"].cast(pl.Int64).to_numpy()
        names = np.array(found)
        groups = [(name, numbers[names == name]) for name in order if name in set(found)]
        return groups if len(groups) > 1 else []

    def checks(self) -> Iterator[Check]:
        """Ceiling and floor, as far as judging the runs has shown them."""
        references = {name: one for run in self.runs for name, one in run.references.items()}
        if references:
            failing = [name for name, one in references.items() if one.outcome != "passed"]
            yield Check(
                name="ceiling",
                passed=len(references) - len(failing),
                tasks=len(references),
                detail="problems whose own reference passes its tests here"
                + (f"; not: {', '.join(failing[:10])}" if failing else "")
                + (f" and {len(failing) - 10} more" if len(failing) > 10 else ""),
            )
        judged = (
            pl.concat([run.scores.select("task_id", "sensitive") for run in self.runs])
            .drop_nulls("sensitive")
            .unique("task_id")
        )
        if not judged.is_empty():
            yield Check(
                name="floor",
                passed=int((~judged["sensitive"]).sum()),
                tasks=len(judged),
                detail="tasks whose tests pass with the hole left empty: no test sees the hole",
            )


def _models(runs: Sequence[ScoredRun]) -> Iterator[Model]:
    by_name: dict[str, list[ScoredRun]] = {}
    for run in runs:
        by_name.setdefault(run.manifest.identity.model, []).append(run)
    for name, some in by_name.items():
        cards = [run.manifest.card for run in some if run.manifest.card is not None]
        card = cards[0] if cards else None
        if any(other.model_id != card.model_id for other in cards if card):
            raise RunDirectoryError(
                f"{some[0].path}: the model {name} is {cards[0].model_id} in one run and "
                f"{cards[-1].model_id} in another; report them apart"
            )
        infills = card.infills if card else "unknown"
        probes = [run.manifest.probe for run in some if run.manifest.probe is not None]
        probed = any(probe.verdict == "infills" for probe in probes)
        yield Model(
            name,
            card.model_id if card else None,
            card.parameters if card else None,
            infills,
            infills == "yes" or (infills in ("disputed", "unknown") and probed),
        )


def _refuse_twice(scores: pl.DataFrame, runs: Sequence[ScoredRun]) -> None:
    key = ["model", "strategy", "policy", "task_id"]
    twice = scores.filter(pl.struct(key).is_duplicated())
    if twice.is_empty():
        return
    model, strategy, task = twice.select("model", "strategy", "task_id").row(0)
    paths = [
        str(run.path)
        for run in runs
        if (run.manifest.identity.model, run.manifest.identity.strategy) == (model, strategy)
        and task in set(run.scores["task_id"])
    ]
    raise RunDirectoryError(
        f"{' and '.join(paths)}: all answer {task} by {model}, {strategy}; report one of them, or "
        "compare them with `fim-eval compare`"
    )


def _length_group(characters: int) -> str:
    """The name of the group of a reference's length.

    >>> _length_group(0), _length_group(10), _length_group(321)
    ('empty', '1 to 10', 'over 320')
    """
    if characters == 0:
        return "empty"
    return next((name for most, name in LENGTHS if characters <= most), f"over {LENGTHS[-1][0]}")


def _values(frame: pl.DataFrame) -> dict[Metric, Values]:
    """What each metric is of each task of a cell, as far as it was measured."""
    tasks = frame["task"].cast(pl.Int64).to_numpy()
    problems = frame["problem"].to_numpy()
    answered = frame["answered"].to_numpy()
    ones = np.ones(len(frame))

    def numbers(name: str, otherwise: float) -> Floats:
        return frame[name].cast(pl.Float64).fill_null(otherwise).to_numpy()

    found: dict[Metric, Values] = {}
    rates: tuple[Metric, ...] = ("exact_match", "exact_match_rstrip")
    for metric in rates:
        found[metric] = Values(
            tasks, problems, numbers(metric, 0), numbers(metric, 1), ones, "rate"
        )
    name: Metric = "edit_similarity"
    found[name] = Values(tasks, problems, numbers(name, 0), numbers(name, 1), ones)
    distance = numbers("edit_distance", 0)
    found["edit_distance"] = Values(
        tasks, problems, distance, np.where(answered, distance, np.inf), ones
    )
    if frame["judged"].any():
        low, high = numbers("passed", 0), numbers("passed", 1)
        found["pass_at_1"] = Values(tasks, problems, low, high, ones, "rate")
        # A task whose floor has no verdict may be sensitive: it stays.
        sensitive = numbers("sensitive", 1)
        found["pass_at_1_sensitive"] = Values(
            tasks, problems, low * sensitive, high * sensitive, sensitive, "rate"
        ).counted()
    characters = numbers("reference_characters", 0)
    if frame["asked_gold"].any() and characters.any():
        found["bits_per_character"] = Values(
            tasks, problems, numbers("gold_bits", 0), numbers("gold_bits", np.inf), characters
        ).counted()
    return found

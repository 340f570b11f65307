"""From scored runs to findings: every number of a report, and where it comes from.

Models are compared on the tasks that both were asked, alike in strategy, kind and policy; over
sizes, infilling is compared only among models that were trained for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import combinations
from typing import Literal, NamedTuple, TypeVar, assert_never, get_args
from urllib.parse import urlsplit

import numpy as np
import polars as pl

from fim_eval.errors import RunDirectoryError
from fim_eval.postprocess import POLICIES
from fim_eval.published import Published, published
from fim_eval.report.answer import caveats_of, in_words, is_rehearsed
from fim_eval.report.definitions import DEFINITIONS, HEADLINE, LOWER_IS_BETTER, RATES, billions
from fim_eval.report.estimates import Answer, Floats, Integers, Questions, Values, combined
from fim_eval.report.findings import (
    Beside,
    Breakdown,
    By,
    Check,
    Findings,
    Metric,
    Noise,
    Pair,
    PartDifference,
    Row,
    Run,
    Trend,
)
from fim_eval.report.noise import noise_of, share
from fim_eval.report.scored import OFFICIAL, Model, ScoredRun, check_tasks
from fim_eval.report.table import STRATEGY_ORDER, summarise
from fim_eval.statistics import detectable, holm, slope_weights, wilson
from fim_eval.words import INFILLING, BlockPart, Kind, Policy, Split, Strategy

T = TypeVar("T")
IN_PARTS: tuple[Metric, ...] = (
    "exact_match", "edit_similarity", "pass_at_1", "bits_per_character",
)  # fmt: skip

LENGTHS = ((10, "1 to 10"), (20, "11 to 20"), (40, "21 to 40"), (80, "41 to 80"),
           (160, "81 to 160"), (320, "161 to 320"))  # fmt: skip
FIFTHS = ("first fifth", "second fifth", "third fifth", "fourth fifth", "last fifth")
SIGNIFICANT = 0.05


class Cell(NamedTuple):
    """Whose values: a row of the main table, in the order of the rows."""

    model: str
    strategy: Strategy
    kind: Kind
    policy: Policy


Later = Callable[[Sequence[Answer]], T]
"""Makes a record once all questions are answered."""


def findings(
    runs: Sequence[ScoredRun],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    made_at: datetime | None = None,
) -> Findings:
    """All that a report over `runs` says.

    Args:
        runs: of `scored.read_scored`. If some are of HumanEval-Infilling's own files and some are
            not, the former are only put beside what others have published.
        seed: of all draws.
        resamples: draws of every interval and test.
        made_at: for the record; None: now.

    Raises:
        RunDirectoryError: two runs answer the same task by the same model and strategy, or hold
            different tasks under one id.
    """
    official = [run for run in runs if run.dataset == OFFICIAL]
    others = [run for run in runs if run.dataset != OFFICIAL]
    study = _Study(others or official)
    calibration = study if not others else _Study(official) if official else None
    questions = Questions()
    rows = [_row(study, cell, questions) for cell in study.cells]
    pairs = list(_pairs(study, questions))
    trends = list(_trends(study, questions))
    breakdowns = list(_breakdowns(study, questions))
    differences = list(_part_differences(study, questions))
    beside = list(_beside(calibration, questions)) if calibration else []
    answers = questions.answers(seed=seed, resamples=resamples)
    noise = sorted(
        noise_of(study.runs),
        key=lambda one: (study.models[one.model].order, STRATEGY_ORDER[one.strategy]),
    )
    headline = {kind: policy for kind, policy in HEADLINE.items() if kind in study.kinds}
    found = Findings(
        made_at=(made_at or datetime.now(UTC)).isoformat(timespec="seconds"),
        fim_eval_version=version("fim-eval"),
        seed=seed,
        resamples=resamples,
        headline_policy=headline,
        answer=(),
        caveats=(),
        rows=tuple(later(answers) for later in rows),
        pairs=tuple(_with_holm([_with_noise(later(answers), noise) for later in pairs])),
        trends=tuple(later(answers) for later in trends),
        breakdowns=tuple(later(answers) for later in breakdowns),
        part_differences=tuple(later(answers) for later in differences),
        noise=tuple(noise),
        beside=tuple(later(answers) for later in beside),
        checks=tuple(study.checks()),
        runs=tuple(_run(run) for run in runs),
        definitions=DEFINITIONS,
    )
    set_apart = bool(others and official)
    return found.model_copy(
        update={
            "answer": _rehearsal(runs, in_words(found)),
            "caveats": caveats_of(found, runs, set_apart=set_apart),
        }
    )


def _rehearsal(runs: Sequence[ScoredRun], answer: tuple[str, ...]) -> tuple[str, ...]:
    """The answer; its first sentence stands alone, so it says if no model was asked."""
    if not any(map(is_rehearsed, runs)):
        return answer
    return (f"A rehearsal, no model was asked. {answer[0]}", *answer[1:])


class _Study:
    """The scores of runs over one universe of tasks, as arrays."""

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


def _row(study: _Study, cell: Cell, questions: Questions) -> Later[Row]:
    frame = study.frames[cell]
    values = study.values[cell]
    asked = {metric: questions.ask(each) for metric, each in values.items()}
    model = study.models[cell.model]
    of_cell = study.summary.filter(
        *(pl.col(name) == word for name, word in zip(Cell._fields, cell, strict=True))
    )
    answered = frame.filter("answered")
    judged = bool(frame["judged"].any())
    tokens = _sum(of_cell["completion_tokens"])
    wall_s = _sum(of_cell["wall_s"])

    def row(answers: Sequence[Answer]) -> Row:
        metrics = {metric: answers[place].estimate for metric, place in asked.items()}
        return Row(
            **cell._asdict(),
            parameters=model.parameters,
            infills=model.infills,
            tasks=len(frame),
            problems=frame["problem"].n_unique(),
            answered=len(answered),
            unjudged=int(answered["passed"].is_null().sum()),
            judged=judged,
            sensitive_tasks=len(values["pass_at_1_sensitive"].tasks) if judged else None,
            metrics=metrics,
            wilson={
                metric: wilson(estimate.value * estimate.tasks, estimate.tasks)
                for metric, estimate in metrics.items()
                if metric in RATES
                and estimate.value is not None
                and estimate.tasks == estimate.problems
            },
            edit_distance_quartiles=_quantiles(answered["edit_distance"], (0.25, 0.5, 0.75)),
            truncated=_how_many(answered["truncated"]),
            no_end=_how_many(~answered["ended"]),
            ran_past=int(answered["ran_past"].sum()),
            outcomes=_counts(answered["verdict"]),
            failures=_counts(frame["failure"]),
            latency_s=_quantiles(answered["elapsed_ns"] / 1e9, (0.5, 0.95, 0.99)),
            completion_tokens=None if tokens is None else int(tokens),
            wall_s=wall_s,
            tokens_per_s=tokens / wall_s if tokens is not None and wall_s else None,
        )

    return row


def _sum(column: pl.Series) -> float | None:
    """None if a part of it is not known."""
    return None if column.null_count() or column.is_empty() else float(column.sum())


def _how_many(column: pl.Series) -> int | None:
    """None if of a part of it nothing is known."""
    return None if column.null_count() else int(column.sum())


def _counts(column: pl.Series) -> dict[str, int]:
    counted = column.drop_nulls().value_counts(sort=True).rows()
    return {str(name): int(count) for name, count in counted}


def _quantiles(
    column: pl.Series, shares: tuple[float, float, float]
) -> tuple[float, float, float] | None:
    known = column.drop_nulls().to_numpy()
    if not len(known):
        return None
    first, second, third = np.quantile(known, shares).tolist()
    return first, second, third


def _pairs(study: _Study, questions: Questions) -> Iterator[Later[Pair]]:
    for cell, metric, models in study.alike():
        for (smaller, its), (larger, others) in combinations(models, 2):
            difference = combined([its, others], [-1, 1])
            if len(difference.tasks):
                place = questions.ask(difference, tested=True)
                counts = _both_ways(its, others) if metric in RATES else (None,) * 4
                yield partial(_pair, (cell, metric), (smaller.name, larger.name), counts, place)


def _both_ways(smaller: Values, larger: Values) -> tuple[int, int, int, int]:
    """Tasks that both have right, only the smaller, only the larger, neither; resolved ones."""
    ours = smaller.where(np.isin(smaller.tasks, larger.tasks))
    theirs = larger.where(np.isin(larger.tasks, ours.tasks))
    known = (ours.low == ours.high) & (theirs.low == theirs.high)
    one, other = ours.low[known] > 0, theirs.low[known] > 0
    return (
        int((one & other).sum()),
        int((one & ~other).sum()),
        int((~one & other).sum()),
        int((~one & ~other).sum()),
    )


def _pair(
    what: tuple[Cell, Metric],
    names: tuple[str, str],
    counts: tuple[int | None, ...],
    place: int,
    answers: Sequence[Answer],
) -> Pair:
    cell, metric = what
    answer = answers[place]
    both, only_smaller, only_larger, neither = counts
    return Pair(
        smaller=names[0],
        larger=names[1],
        strategy=cell.strategy,
        kind=cell.kind,
        policy=cell.policy,
        metric=metric,
        difference=answer.estimate,
        both=both,
        only_smaller=only_smaller,
        only_larger=only_larger,
        neither=neither,
        p_mcnemar=answer.p_mcnemar,
        p_permutation=answer.p_permutation,
        p_holm=None,
        noise=None,
        detectable=None if not answer.error else detectable(answer.error),
        finding="no difference shown",
    )


def _with_noise(pair: Pair, noise: Sequence[Noise]) -> Pair:
    """The pair with the larger of its models' shares; None unless both are known."""
    shares = [
        share(one, pair.metric)
        for name in (pair.smaller, pair.larger)
        for one in noise
        if (one.model, one.strategy) == (name, pair.strategy)
    ]
    known = [one for one in shares if one is not None]
    return pair.model_copy(update={"noise": max(known)}) if len(known) == 2 else pair


def _with_holm(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """The pairs with their probabilities adjusted in families, and what follows from these."""
    families: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        key = (pair.strategy, pair.kind, pair.policy, pair.metric)
        families.setdefault(key, []).append(pair)
    for family in families.values():
        chances = [1.0 if pair.p_permutation is None else pair.p_permutation for pair in family]
        for pair, adjusted in zip(family, holm(chances), strict=True):
            yield pair.model_copy(
                update={
                    "p_holm": None if pair.p_permutation is None else adjusted,
                    "finding": _finding(pair, adjusted),
                }
            )


def _finding(
    pair: Pair, adjusted: float
) -> Literal["larger better", "smaller better", "no difference shown", "below the noise"]:
    least, most = pair.difference.least, pair.difference.most
    if pair.noise is not None and least is not None and most is not None:
        furthest = max(abs(least), abs(most))
        if 0 < furthest < pair.noise:
            return "below the noise"
    if adjusted >= SIGNIFICANT or least is None or most is None:
        return "no difference shown"
    goes_up = least > 0
    return "larger better" if goes_up != (pair.metric in LOWER_IS_BETTER) else "smaller better"


def _trends(study: _Study, questions: Questions) -> Iterator[Later[Trend]]:
    for cell, metric, models in study.alike():
        sized = [(model, values) for model, values in models if model.parameters is not None]
        weights = slope_weights([model.parameters or 0 for model, _ in sized])
        if weights is None:
            continue
        slope = combined([values for _, values in sized], weights)
        if len(slope.tasks):
            place = questions.ask(slope)
            yield partial(_trend, cell, metric, [model for model, _ in sized], place)


def _trend(
    cell: Cell, metric: Metric, models: Sequence[Model], place: int, answers: Sequence[Answer]
) -> Trend:
    sizes = sorted({model.parameters or 0 for model in models})
    reach = f"{billions(sizes[0])} to {billions(sizes[-1])} parameters"
    note = (
        f"two sizes, {reach}: their difference, by the number of doublings"
        if len(sizes) == 2
        else f"a line through {len(sizes)} sizes, {reach}"
    )
    note += "; it says nothing of sizes beyond or between"
    families = {_family(model) for model in models}
    if len(families) > 1:
        note += (
            f". The models are of {len(families)} families ({', '.join(sorted(families))}): what "
            "differs between families is in the slope too"
        )
    return Trend(
        strategy=cell.strategy,
        kind=cell.kind,
        policy=cell.policy,
        metric=metric,
        models=tuple(model.name for model in models),
        parameters=tuple(model.parameters or 0 for model in models),
        slope=answers[place].estimate,
        note=note,
    )


def _family(model: Model) -> str:
    """A model's id without its size.

    >>> _family(Model("m", "codellama/CodeLlama-7b-Instruct-hf", 7, "yes", trained=True))
    'codellama/CodeLlama-Instruct-hf'
    """
    return re.sub(
        r"-\d+(\.\d+)?[bm](?![a-z])", "", model.model_id or model.name, flags=re.IGNORECASE
    )


def _breakdowns(study: _Study, questions: Questions) -> Iterator[Later[Breakdown]]:
    for cell in study.cells:
        if cell.policy != HEADLINE[cell.kind]:
            continue
        for by, order, group, tasks in study.parts[cell.kind]:
            for metric in IN_PARTS:
                values = study.values[cell].get(metric)
                if values is None:
                    continue
                part = values.where(np.isin(values.tasks, tasks))
                if len(part.tasks):
                    place = questions.ask(part)
                    yield partial(_breakdown, cell, metric, (by, order, group), place)


def _breakdown(
    cell: Cell,
    metric: Metric,
    part: tuple[By, int, str],
    place: int,
    answers: Sequence[Answer],
) -> Breakdown:
    by, order, group = part
    return Breakdown(
        **cell._asdict(),
        metric=metric,
        by=by,
        group=group,
        order=order,
        estimate=answers[place].estimate,
    )


def _part_differences(study: _Study, questions: Questions) -> Iterator[Later[PartDifference]]:
    for cell, metric, models in study.alike():
        if cell.policy != HEADLINE[cell.kind] or metric not in IN_PARTS or len(models) < 2:
            continue
        (smaller, its), (larger, others) = models[0], models[-1]
        difference = combined([its, others], [-1, 1])
        for by, order, group, tasks in study.parts[cell.kind]:
            part = difference.where(np.isin(difference.tasks, tasks))
            if len(part.tasks):
                place = questions.ask(part)
                names = (smaller.name, larger.name)
                yield partial(_part_difference, (cell, metric), names, (by, order, group), place)


def _part_difference(
    what: tuple[Cell, Metric],
    names: tuple[str, str],
    part: tuple[By, int, str],
    place: int,
    answers: Sequence[Answer],
) -> PartDifference:
    cell, metric = what
    by, order, group = part
    return PartDifference(
        smaller=names[0],
        larger=names[1],
        strategy=cell.strategy,
        kind=cell.kind,
        policy=cell.policy,
        metric=metric,
        by=by,
        group=group,
        order=order,
        difference=answers[place].estimate,
    )


def _length_group(characters: int) -> str:
    """The name of the group of a reference's length.

    >>> _length_group(0), _length_group(10), _length_group(321)
    ('empty', '1 to 10', 'over 320')
    """
    if characters == 0:
        return "empty"
    return next((name for most, name in LENGTHS if characters <= most), f"over {LENGTHS[-1][0]}")


def _beside(study: _Study, questions: Questions) -> Iterator[Later[Beside]]:
    """Of the raw completions, as others have scored them."""
    for cell in study.cells:
        if cell.policy != "raw":
            continue
        metrics: tuple[Metric, ...] = ("pass_at_1", "exact_match")
        for metric in metrics:
            number = published(study.models[cell.model].model_id, cell.kind, cell.strategy, metric)
            values = study.values[cell].get(metric)
            if number is not None and values is not None:
                yield partial(_beside_one, cell, metric, number, questions.ask(values))


def _beside_one(
    cell: Cell, metric: Metric, number: Published, place: int, answers: Sequence[Answer]
) -> Beside:
    return Beside(
        model=cell.model,
        strategy=cell.strategy,
        kind=cell.kind,
        metric=metric,
        ours=answers[place].estimate,
        published=number.value,
        source=number.source,
    )


def _run(run: ScoredRun) -> Run:
    manifest = run.manifest
    server, imported = manifest.server, manifest.imported
    if server.base_url is not None:
        parts = urlsplit(server.base_url)
        where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        told = (where, server.version and f"vLLM {server.version}", server.system_fingerprint)
    else:
        told = (f"unknown: imported from {imported.source}" if imported else "unknown", None, None)
    return Run(
        path=str(run.path),
        model=manifest.identity.model,
        strategy=manifest.identity.strategy,
        dataset=run.dataset,
        created_at=manifest.created_at,
        code_revision=manifest.code_revision,
        server=", ".join(word for word in told if word),
        prompt_form=manifest.identity.prompt_form or "unknown",
        isolation=run.isolation,
        manifest=manifest.model_dump(mode="json"),
    )

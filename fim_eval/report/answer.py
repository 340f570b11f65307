"""The answer in words, from the numbers and nothing else. No file, no markup.

Names of models come from servers: control codes in them are made visible here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import get_args

from fim_eval.report.definitions import (
    LOWER_IS_BETTER,
    METRIC_NAMES,
    STRATEGY_NAMES,
    billions,
)
from fim_eval.report.findings import Estimate, Findings, Metric, Pair, Row, Trend
from fim_eval.report.scored import OFFICIAL, ScoredRun
from fim_eval.terminal import printable
from fim_eval.words import INFILLING, Kind, Strategy

FEW_PROBLEMS = 30
FINDINGS = {
    "larger better": "better",
    "smaller better": "worse",
    "no difference shown": "no difference shown",
    "below the noise": "less than changes when the same is asked again",
}
"""What is said of the larger model."""


def in_words(found: Findings) -> tuple[str, ...]:
    """The answer: one sentence that stands alone, then a few more.

    Args:
        found: with rows, pairs and trends; its own `answer` is not looked at.
    """
    kinds = [kind for kind in get_args(Kind) if kind in found.headline_policy]
    told = [
        (strategy, kind, rows)
        for kind in kinds
        for strategy in get_args(Strategy)
        if (rows := _headline_rows(found, strategy, kind))
    ]
    # Left to right first: the one way in which every size can be asked.
    told.sort(key=lambda one: (len(one[2]) < 2, one[0] != "lr"))
    strategy, kind, rows = told[0]
    metric: Metric = "pass_at_1" if any(row.judged for row in rows) else "exact_match"
    sentences = [_main(found, rows, metric)]
    if metric == "pass_at_1":
        sentences += _brief(found, rows, "exact_match")
    sentences += _brief(found, rows, "edit_similarity")
    sentences += _slope(found, rows, metric)
    sentences += _not_shown(found, rows, metric)
    sentences += _brief(found, rows, "bits_per_character")
    for other in told[1:]:
        if other[0] in INFILLING and other[1] == kind:
            sentences += _infilling(found, other[2], metric)
    for infilling in INFILLING:
        sentences += _worth(found, infilling, kind, (metric, "bits_per_character"))
    for other in told[1:]:
        if other[0] == strategy and other[1] != kind:
            sentences += _brief(found, other[2], metric, of_kind=True)
    return tuple(sentences)


def _headline_rows(found: Findings, strategy: Strategy, kind: Kind) -> list[Row]:
    """Of models that may be compared over sizes, smallest first."""
    paired = {
        name
        for pair in found.pairs
        if (pair.strategy, pair.kind) == (strategy, kind)
        for name in (pair.smaller, pair.larger)
    }
    rows = [
        row
        for row in found.rows
        if (row.strategy, row.kind, row.policy) == (strategy, kind, found.headline_policy[kind])
    ]
    compared = [row for row in rows if row.model in paired]
    # Those of known sizes, if these differ: the rest says nothing of size.
    sized = [row for row in compared if row.parameters is not None]
    if len({row.parameters for row in sized}) > 1:
        return sized
    return compared or rows[:1]


def _main(found: Findings, rows: Sequence[Row], metric: Metric) -> str:
    first = rows[0]
    where = f"{METRIC_NAMES[metric]} on {first.kind} holes, {STRATEGY_NAMES[first.strategy]}"
    of = f"{first.tasks:,} tasks of {first.problems:,} problems"
    if not any(row.answered for row in rows):
        return f"Nothing is known yet: none of {of} has an answer."
    shown = [f"{_number(row, metric)} for {_with_size(row)}" for row in rows]
    if len(rows) == 1:
        interval = _interval(first.metrics.get(metric), metric)
        return (
            f"Of size nothing can be said, because only one model is here to be compared: {where}, "
            f"is {_number(first, metric)} for {_with_size(first)} ({interval}; {of})."
        )
    pair = _pair(found, rows, metric)
    if pair is None:
        return f"{_capital(where)}: {_and(shown)}; they have no task in common to be compared on."
    common = pair.difference
    gap = (
        f"{_points(common, metric)} ({_interval(common, metric)}; {_chance(pair)}; "
        f"{common.tasks:,} tasks of {common.problems:,} problems)"
    )
    smaller, larger = _plain(pair.smaller), _plain(pair.larger)
    if len({row.parameters for row in rows} - {None}) < 2:
        sizes = (
            "not all sizes are known"
            if any(row.parameters is None for row in rows)
            else "the models are of one size"
        )
        return (
            f"{_capital(where)}: {_and(shown)}; {larger} minus {smaller} is {gap}, "
            f"{FINDINGS[pair.finding]}; {sizes}, so of size nothing can be said."
        )
    if pair.finding == "no difference shown":
        least, most = pair.difference.least, pair.difference.most
        hangs = least is None or most is None or least < 0 < most
        return (
            f"A larger model is not shown to be better or worse: {where}, is {_and(shown)}; from "
            f"smallest to largest {gap}, which "
            f"{'hangs on what is unresolved' if hangs else 'may be chance'}."
        )
    if pair.finding == "below the noise":
        return (
            f"A larger model is not shown to be better or worse: {where}, is {_and(shown)}; from "
            f"smallest to largest {gap}, less than what changes when the same is asked again."
        )
    up = pair.difference.least is not None and pair.difference.least > 0
    steady = all(_steps(one, other, metric, up=up) for one, other in pairwise(rows))
    gain = "better" if pair.finding == "larger better" else "worse"
    return (
        f"The larger model is {gain}: {where}, {'rises' if up else 'falls'}"
        f"{'' if steady else ', not at every step,'} with size: {_and(shown)}; from smallest to "
        f"largest {gap}."
    )


def _steps(one: Row, other: Row, metric: Metric, *, up: bool) -> bool:
    """Whether the metric goes from one row to the other as it does on the whole."""
    before, after = one.metrics.get(metric), other.metrics.get(metric)
    if before is None or after is None:
        return False
    for low, high in ((before.least, after.least), (before.most, after.most)):
        if low is None or high is None or (low > high if up else low < high):
            return False
    return True


def _brief(
    found: Findings, rows: Sequence[Row], metric: Metric, *, of_kind: bool = False
) -> Iterator[str]:
    """Smallest and largest by another metric, or on another kind of hole."""
    pair = _pair(found, rows, metric)
    if pair is None:
        return
    smallest, largest = rows[0], rows[-1]
    name = _capital(METRIC_NAMES[metric])
    if of_kind:
        name += f" on {smallest.kind} holes"
    better = ", where less is better," if metric in LOWER_IS_BETTER else ""
    yield (
        f"{name}{better} is {_number(smallest, metric)} for {_plain(smallest.model)} and "
        f"{_number(largest, metric)} for {_plain(largest.model)}: "
        f"{_points(pair.difference, metric)} ({_interval(pair.difference, metric)}; "
        f"{_chance(pair)}), {FINDINGS[pair.finding]}."
    )


def _slope(found: Findings, rows: Sequence[Row], metric: Metric) -> Iterator[str]:
    trend = _trend(found, rows[0], metric)
    if trend is not None:
        yield (
            f"Each doubling of the parameters brings {_points(trend.slope, metric)} of "
            f"{METRIC_NAMES[metric]} ({_interval(trend.slope, metric)}): {_plain(trend.note)}."
        )


def _not_shown(found: Findings, rows: Sequence[Row], metric: Metric) -> Iterator[str]:
    pairs = [
        pair
        for pair in found.pairs
        if _same(pair, rows[0]) and pair.metric == metric and "better" not in pair.finding
    ]
    if pairs and len(rows) > 2:
        names = [f"{_plain(pair.smaller)} and {_plain(pair.larger)}" for pair in pairs]
        yield (
            f"Not shown to differ in {METRIC_NAMES[metric]}, after Holm over all pairs: "
            f"{'; '.join(names)}."
        )


def _infilling(found: Findings, rows: Sequence[Row], metric: Metric) -> Iterator[str]:
    first = rows[0]
    how = f"{_capital(STRATEGY_NAMES[first.strategy])}, {METRIC_NAMES[metric]} is"
    shown = _and([f"{_number(row, metric)} for {_plain(row.model)}" for row in rows])
    pair = _pair(found, rows, metric)
    if pair is None:
        yield f"{how} {shown}; of size nothing can be said here."
        return
    yield (
        f"{how} {shown}, counting models that were trained to infill; from smallest to largest "
        f"{_points(pair.difference, metric)} ({_interval(pair.difference, metric)}; "
        f"{_chance(pair)}), {FINDINGS[pair.finding]}."
    )


def _worth(
    found: Findings, strategy: Strategy, kind: Kind, metrics: Sequence[Metric]
) -> Iterator[str]:
    """What infilling brings the smallest and the largest model over left to right."""
    told = []
    for metric in metrics:
        some = [
            one
            for one in found.strategy_differences
            if (one.strategy, one.than, one.kind, one.metric) == (strategy, "lr", kind, metric)
        ]
        shown = [
            f"{_points(one.difference, metric)} for {_plain(one.model)} "
            f"({_interval(one.difference, metric)}), {one.finding}"
            for one in (some if len(some) < 2 else (some[0], some[-1]))
        ]
        if shown:
            told.append(f"{METRIC_NAMES[metric]} changes by {_and(shown)}")
    if told:
        how = _capital(STRATEGY_NAMES[strategy])
        yield f"{how} instead of left to right, on the same tasks: {'; '.join(told)}."


def caveats_of(found: Findings, runs: Sequence[ScoredRun], *, set_apart: bool) -> tuple[str, ...]:
    """What a reader must know before believing the answer.

    Args:
        found: with rows and pairs.
        runs: that it is over.
        set_apart: whether runs of the official files are only put beside published numbers.
    """
    return (
        *_rehearsed(found, runs),
        *_unresolved(found),
        *_of_models(found),
        *_of_tasks(found, runs, set_apart=set_apart),
        *_of_noise(found),
        *_of_judging(found, runs),
        *_of_asking(found, runs),
    )


def is_rehearsed(run: ScoredRun) -> bool:
    """Whether its answers come from `fim-eval mock-server`."""
    return (run.manifest.identity.server_version or "").endswith("-mock")


def _rehearsed(found: Findings, runs: Sequence[ScoredRun]) -> Iterator[str]:
    rehearsed = {run.manifest.identity.model for run in runs if is_rehearsed(run)}
    by_size = dict.fromkeys(row.model for row in found.rows) | dict.fromkeys(sorted(rehearsed))
    names = [_plain(model) for model in by_size if model in rehearsed]
    if names:
        yield (
            f"This is a rehearsal: the answers of {_and(names)} come from `fim-eval mock-server`, "
            "which knows the references. No model was asked."
        )


def _unresolved(found: Findings) -> Iterator[str]:
    for row in _headlines(found):
        name = f"{_plain(row.model)}, {row.strategy}, {row.kind}"
        missing = row.tasks - row.answered
        if missing:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in row.failures.items())
            yield (
                f"{name}: no answer to {missing:,} of {row.tasks:,} tasks ({reasons}); its "
                "numbers are told as the least and the most they can be."
            )
        if row.judged and row.unjudged:
            yield (
                f"{name}: {row.unjudged:,} answers have no verdict; its pass@1 is told as the "
                "least and the most it can be. `fim-eval verify` judges what is missing."
            )


def _of_models(found: Findings) -> Iterator[str]:
    seen = set()
    for row in found.rows:
        if row.strategy not in INFILLING or row.infills == "yes" or row.model in seen:
            continue
        seen.add(row.model)
        compared = any(
            row.model in (pair.smaller, pair.larger) and pair.strategy in INFILLING
            for pair in found.pairs
        )
        what = {
            "disputed": "sources disagree whether it was trained to infill",
            "no": "it was not trained to infill",
            "unknown": "it is not known whether it was trained to infill",
        }[row.infills]
        then = (
            "the probe of its run says that it infills, and it is compared over sizes"
            if compared
            else "its infilling is not compared over sizes"
        )
        yield f"{_plain(row.model)}: {what}; {then}."
    unsized = sorted({row.model for row in found.rows if row.parameters is None})
    if unsized and len({row.model for row in found.rows}) > 1:
        names = _and([_plain(name) for name in unsized])
        yield f"The size of {names} is not known: no trend holds it, and pairs go by name."
    for trend in found.trends:
        if "families" in trend.note:
            yield "Models of more than one family are compared: family and size differ together."
            break


def _of_tasks(found: Findings, runs: Sequence[ScoredRun], *, set_apart: bool) -> Iterator[str]:
    if set_apart:
        yield (
            f"Runs over {OFFICIAL} are only put beside published numbers; no other number here "
            "holds them."
        )
    rows = _headlines(found)
    for (strategy, kind), some in groupby(rows, key=lambda row: (row.strategy, row.kind)):
        sizes = {row.tasks for row in some}
        common = {
            pair.difference.tasks
            for pair in found.pairs
            if (pair.strategy, pair.kind, pair.metric) == (strategy, kind, "exact_match")
        }
        if len(sizes) > 1 or not common <= sizes:
            yield (
                f"{strategy}, {kind}: not all models were asked the same tasks; rows are of each "
                "model's own, differences of those that both were asked."
            )
    fewest = min(row.problems for row in rows)
    if fewest < FEW_PROBLEMS:
        yield (
            f"Some numbers are over {fewest} problems only: below some {FEW_PROBLEMS} an interval "
            "is rough, below ten it is not to be trusted."
        )
    limits = sorted({run.manifest.limit for run in runs if run.manifest.limit is not None})
    if limits:
        shown = ", ".join(f"{limit:,}" for limit in limits)
        yield f"Only the first tasks of a file were asked ({shown}): the rest may differ."


def _of_noise(found: Findings) -> Iterator[str]:
    quiet = [noise for noise in found.noise if not noise.text_changed]
    if len(quiet) > 1:
        names = "; ".join(f"{_plain(noise.model)}, {noise.strategy}" for noise in quiet)
        asked = sum(noise.tasks for noise in quiet)
        yield f"Asked again, none of {asked:,} answers changed ({names})."
    for noise in found.noise:
        if len(quiet) > 1 and noise in quiet:
            continue
        passed = (
            "passed tests unknown"
            if noise.passed_changed is None
            else f"passed tests of {noise.passed_changed:,}"
        )
        yield (
            f"{_plain(noise.model)}, {noise.strategy}: asked again, {noise.text_changed:,} of "
            f"{noise.tasks:,} answers changed, exact match of {noise.exact_match_changed:,}, "
            f"{passed}."
        )
    if any(pair.noise is None and pair.metric == "exact_match" for pair in found.pairs):
        of = "all models" if found.noise else "any model"
        yield (
            f"How much changes when the same is asked again was not measured for {of}: a "
            "difference of a few tasks may be the server's arithmetic."
        )


def _of_judging(found: Findings, runs: Sequence[ScoredRun]) -> Iterator[str]:
    if not any(row.judged for row in found.rows):
        yield "No program was run: nothing is said of passed tests. `fim-eval verify` runs them."
    for check in found.checks:
        if check.name == "ceiling" and check.passed < check.tasks:
            yield (
                f"{check.tasks - check.passed} of {check.tasks} problems judge nobody, because "
                "their own reference fails here; their tasks are unresolved."
            )
        if check.name == "floor" and check.passed:
            yield (
                f"The tests of {check.passed:,} of {check.tasks:,} tasks pass with the hole left "
                "empty: pass@1 on sensitive tasks leaves these out."
            )
    rules = {run.rules for run in runs if run.rules is not None}
    if len(rules) > 1:
        yield "Runs were judged under different rules (tests, limits or Python): see the manifests."


def _of_asking(found: Findings, runs: Sequence[ScoredRun]) -> Iterator[str]:
    for row in _headlines(found):
        if row.truncated and row.truncated > 0.05 * row.answered and row.strategy != "lr":
            yield (
                f"{_plain(row.model)}, {row.strategy}, {row.kind}: {row.truncated:,} of "
                f"{row.answered:,} answers met the token limit and may have been cut short."
            )
    for run in runs:
        if run.manifest.imported is not None:
            yield (
                f"{_plain(run.manifest.identity.model)}, {run.manifest.identity.strategy}: "
                "imported completions; how they were asked for, by which server, and how they "
                "ended is not known here."
            )
    versions = {run.manifest.identity.server_version for run in runs} - {None}
    if len(versions) > 1:
        names = ", ".join(sorted(map(str, versions)))
        yield f"Servers of different versions answered ({_plain(names)})."
    if len({run.manifest.identity.context for run in runs}) > 1:
        yield "Some prompts show the problem's text and some do not."


def _headlines(found: Findings) -> list[Row]:
    rows = [row for row in found.rows if row.policy == found.headline_policy[row.kind]]
    return sorted(rows, key=lambda row: (row.strategy, row.kind))


def _same(one: Pair | Trend, row: Row) -> bool:
    return (one.strategy, one.kind, one.policy) == (row.strategy, row.kind, row.policy)


def _pair(found: Findings, rows: Sequence[Row], metric: Metric) -> Pair | None:
    """Of the smallest and the largest model."""
    names = (rows[0].model, rows[-1].model)
    for pair in found.pairs:
        if _same(pair, rows[0]) and pair.metric == metric and (pair.smaller, pair.larger) == names:
            return pair
    return None


def _trend(found: Findings, row: Row, metric: Metric) -> Trend | None:
    for trend in found.trends:
        if _same(trend, row) and trend.metric == metric:
            return trend
    return None


def _plain(name: str) -> str:
    return printable(name)


def _with_size(row: Row) -> str:
    name = _plain(row.model)
    return name if row.parameters is None else f"{name} ({billions(row.parameters)})"


def _number(row: Row, metric: Metric) -> str:
    return number(row.metrics.get(metric), metric)


def number(estimate: Estimate | None, metric: Metric) -> str:
    """A metric as people read it: rates in percent, with their bounds if something is unresolved.

    >>> number(None, "pass_at_1")
    'unknown'
    """
    if estimate is None or (estimate.least is None and estimate.most is None):
        return "unknown"
    if estimate.value is not None:
        return _unit(estimate.value, metric)
    if estimate.most is None or estimate.least is None:
        return f"at least {_unit(estimate.least or 0.0, metric)}"
    return f"between {_figure(estimate.least, metric)} and {_unit(estimate.most, metric)}"


def _points(estimate: Estimate, metric: Metric) -> str:
    """A difference as people read it."""
    unit = {"edit_distance": "characters", "bits_per_character": "bits"}.get(metric, "points")
    if estimate.value is not None:
        return f"{_signed(estimate.value, metric)} {unit}"
    if estimate.least is None or estimate.most is None:
        return "a difference without bounds"
    return f"{_signed(estimate.least, metric)} to {_signed(estimate.most, metric)} {unit}"


def _interval(estimate: Estimate | None, metric: Metric) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "no interval"
    return f"95 % interval {_figure(estimate.low, metric)} to {_figure(estimate.high, metric)}"


def _figure(value: float, metric: Metric) -> str:
    match metric:
        case "edit_distance":
            return f"{value:.1f}"
        case "bits_per_character":
            return f"{value:.3f}"
        case _:
            return f"{100 * value:.1f}"


def _unit(value: float, metric: Metric) -> str:
    unit = {"edit_distance": "characters", "bits_per_character": "bits per character"}
    return f"{_figure(value, metric)} {unit.get(metric, '%')}"


def _signed(value: float, metric: Metric) -> str:
    figure = _figure(value, metric)
    return f"+{figure}" if value > 0 else figure


def _chance(pair: Pair) -> str:
    """Its probability after Holm."""
    if pair.p_holm is None:
        return "p unknown"
    return f"p {pair.p_holm:.2g}" if pair.p_holm >= 0.001 else "p below 0.001"


def _and(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

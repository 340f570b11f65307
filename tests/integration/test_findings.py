"""From run directories with known truth to findings, and to the files that hold them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import orjson
import polars as pl
import polars.testing
import pytest

from fim_eval import lines as lines_module
from fim_eval.errors import RunDirectoryError
from fim_eval.postprocess import POLICIES
from fim_eval.report import counted as counted_module
from fim_eval.report import (
    find_runs,
    findings,
    read_counted,
    read_scored,
    score_run,
    summarise,
    summary_of,
    write_findings,
)
from fim_eval.report import scored as scored_module
from fim_eval.report.files import (
    as_latex,
    as_markdown,
    pairs_table,
    strategies_table,
    tasks_table,
)
from fim_eval.report.findings import (
    Estimate,
    Findings,
    Metric,
    Pair,
    Row,
    StrategyDifference,
)
from fim_eval.statistics import mcnemar_exact, wilson
from tests.integration import InProcess
from tests.integration.simulated import Simulated, Suite, suite, true_rates, write_run, write_study

SIZES = ("7b", "13b", "34b", "70b")
RATES = (0.45, 0.55, 0.65, 0.8)
FOUR = [
    Simulated(f"size-{size}", rate, card=f"CodeLlama-{size}-hf")
    for size, rate in zip(SIZES, RATES, strict=True)
]
RESAMPLES = 500


@pytest.fixture(scope="module")
def tasks() -> Suite:
    return suite(120, ("single-line", "random-span"), lines=2)


@pytest.fixture(scope="module")
def study(tasks: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Findings]:
    """Four models left to right, three of them infilling, one task without an answer."""
    folder = tmp_path_factory.mktemp("study")
    lost = frozenset({tasks.tasks[5].task_id})
    infilling = [
        replace(model, strategy="fim-psm", rate=model.rate + 0.1)
        for model in (FOUR[0], FOUR[1], FOUR[3])
    ]
    models = [*FOUR[:3], replace(FOUR[3], unanswered=lost), *infilling]
    write_study(folder, tasks, models)
    return folder, found(folder)


def found(*paths: Path, seed: int = 0) -> Findings:
    return findings(read_scored(find_runs(paths)), seed=seed, resamples=RESAMPLES)


def row(of: Findings, model: str, kind: str = "single-line", strategy: str = "lr") -> Row:
    [one] = [
        one
        for one in of.rows
        if (one.model, one.kind, one.strategy) == (model, kind, strategy)
        and one.policy == of.headline_policy[one.kind]
    ]
    return one


def pairs(
    of: Findings, metric: Metric = "pass_at_1", kind: str = "single-line", strategy: str = "lr"
) -> dict[tuple[str, str], Pair]:
    return {
        (one.smaller, one.larger): one
        for one in of.pairs
        if (one.metric, one.kind, one.strategy) == (metric, kind, strategy)
        and one.policy == of.headline_policy[one.kind]
    }


def estimates(of: Findings) -> Iterator[Estimate]:
    for one in of.rows:
        yield from one.metrics.values()
    yield from (one.difference for one in of.pairs)
    yield from (one.slope for one in of.trends)
    yield from (one.estimate for one in of.breakdowns)
    yield from (one.difference for one in of.part_differences)
    yield from (one.difference for one in of.strategy_differences)
    yield from (one.difference for one in of.strategy_part_differences)


def test_intervals_hold_the_rates_that_the_models_were_given(
    study: tuple[Path, Findings],
) -> None:
    for model in FOUR:
        for kind in ("single-line", "random-span"):
            estimate = row(study[1], model.name, kind).metrics["pass_at_1"]
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low < model.rate < estimate.high
            assert estimate.high - estimate.low < 0.25
    difference = pairs(study[1])["size-7b", "size-70b"].difference
    assert difference.low is not None
    assert difference.high is not None
    assert difference.low < 0.8 - 0.45 < difference.high


def test_the_first_sentence_states_the_true_order_and_stands_alone(
    study: tuple[Path, Findings],
) -> None:
    sentence = study[1].answer[0]
    assert sentence.startswith("The larger model is better: pass@1 on single-line holes")
    assert "rises with size" in sentence
    assert [sentence.index(f"size-{size}") for size in SIZES] == sorted(
        sentence.index(f"size-{size}") for size in SIZES
    )
    assert "95 % interval" in sentence
    assert "240 tasks of 120 problems" in sentence


def test_models_that_are_alike_are_not_said_to_differ(tasks: Suite, tmp_path: Path) -> None:
    alike = [replace(FOUR[0], rate=0.6), replace(FOUR[1], rate=0.6)]
    write_study(tmp_path, tasks, alike)
    of = found(tmp_path)
    assert of.answer[0].startswith("A larger model is not shown to be better or worse: ")
    assert "may be chance" in of.answer[0]


def test_a_larger_model_that_is_worse_is_said_to_be(tasks: Suite, tmp_path: Path) -> None:
    write_study(tmp_path, tasks, [replace(FOUR[0], rate=0.9), replace(FOUR[1], rate=0.4)])
    of = found(tmp_path)
    assert of.answer[0].startswith("The larger model is worse: ")
    assert "falls with size" in of.answer[0]
    [pair] = pairs(of, "edit_distance").values()
    assert pair.difference.least is not None
    assert pair.difference.least > 0
    assert pair.finding == "smaller better", "a distance that goes up is no gain"


def test_rows_are_the_summary_s_own_numbers(study: tuple[Path, Findings]) -> None:
    folder, of = study
    runs = read_scored(find_runs([folder]))
    summary = summarise(pl.concat([run.scores for run in runs]))
    assert len(of.rows) == len(summary) == 7 * 2 * len(POLICIES)
    for one, stored in zip(
        sorted(of.rows, key=lambda row: (row.model, row.strategy, row.kind, row.policy)),
        summary.sort("model", "strategy", "kind", "policy").to_dicts(),
        strict=True,
    ):
        for name in ("tasks", "answered", "unjudged", "truncated", "no_end", "ran_past",
                     "sensitive_tasks", "parameters", "completion_tokens"):  # fmt: skip
            assert getattr(one, name) == stored[name], name
        for metric in ("exact_match", "edit_similarity", "pass_at_1", "pass_at_1_sensitive"):
            estimate = one.metrics[metric]
            assert estimate.value == pytest.approx(stored[metric])
            assert estimate.least == pytest.approx(stored[f"{metric}_low"])
            assert estimate.most == pytest.approx(stored[f"{metric}_high"])
        if one.answered == one.tasks:
            distance = one.metrics["edit_distance"].value
            assert distance == pytest.approx(stored["edit_distance_mean"])
        assert one.edit_distance_quartiles is not None
        assert one.edit_distance_quartiles[1] == stored["edit_distance_median"]


def test_an_unresolved_task_widens_what_it_is_in_and_is_never_dropped(
    study: tuple[Path, Findings],
) -> None:
    of = study[1]
    lost = row(of, "size-70b", "random-span")
    if lost.answered == lost.tasks:
        lost = row(of, "size-70b")
    assert (lost.tasks, lost.answered, lost.failures) == (240, 239, {"timeout": 1})
    rate, distance = lost.metrics["pass_at_1"], lost.metrics["edit_distance"]
    assert rate.value is None
    assert rate.least is not None
    assert rate.most == pytest.approx(rate.least + 1 / 240)
    assert rate.tasks == 240
    assert distance.value is None
    assert (distance.most, distance.high) == (None, None), "a distance has no upper bound"
    pair = pairs(of, kind=lost.kind)["size-7b", "size-70b"]
    assert pair.difference.tasks == 240
    assert pair.difference.least is not None
    assert pair.difference.most == pytest.approx(pair.difference.least + 1 / 240)
    assert pair.both is not None
    assert (pair.only_smaller or 0) + (pair.only_larger or 0) + (pair.neither or 0) + pair.both == (
        239
    )
    assert any("1 of 240 tasks" in caveat for caveat in of.caveats)


def test_answers_without_a_verdict_are_unresolved(tasks: Suite, tmp_path: Path) -> None:
    lost = frozenset(task.task_id for task in tasks.tasks[:8])
    write_study(tmp_path, tasks, [replace(FOUR[0], unjudged=lost), FOUR[1]])
    of = found(tmp_path)
    one = row(of, "size-7b")
    assert one.unjudged == 4
    rate = one.metrics["pass_at_1"]
    assert rate.least is not None
    assert rate.most == pytest.approx(rate.least + 4 / 240)
    assert one.metrics["exact_match"].value is not None
    assert any("4 answers have no verdict" in caveat for caveat in of.caveats)


def test_a_difference_that_hangs_on_unresolved_tasks_is_not_shown(
    tasks: Suite, tmp_path: Path
) -> None:
    """Scored as wrong, they would make the larger model significantly worse."""
    single = [task.task_id for task in tasks.tasks if task.kind == "single-line"]
    lost = frozenset(single[:160])
    one, other = replace(FOUR[0], rate=0.6), replace(FOUR[1], rate=0.6, unanswered=lost)
    write_study(tmp_path, tasks, [one, other])
    [pair] = pairs(found(tmp_path)).values()
    assert (pair.p_permutation, pair.p_mcnemar, pair.p_holm) == (1, 1, 1)
    assert pair.finding == "no difference shown"
    assert "which hangs on what is unresolved" in found(tmp_path).answer[0]


def test_pairs_count_tasks_and_problems_as_one_counts_them_by_hand(
    tasks: Suite, study: tuple[Path, Findings]
) -> None:
    one, other = (true_rates(tasks, model) for model in FOUR[:2])
    names = [task for task in tasks.tasks if task.kind == "single-line"]
    pair = pairs(study[1])["size-7b", "size-13b"]
    counts = [
        sum((one[task.task_id], other[task.task_id]) == which for task in names)
        for which in ((True, True), (True, False), (False, True), (False, False))
    ]
    assert [pair.both, pair.only_smaller, pair.only_larger, pair.neither] == counts
    gains: dict[str, int] = {}
    for task in names:
        gain = other[task.task_id] - one[task.task_id]
        gains[task.problem_id] = gains.get(task.problem_id, 0) + gain
    votes = (sum(gain > 0 for gain in gains.values()), sum(gain < 0 for gain in gains.values()))
    assert pair.p_mcnemar == pytest.approx(mcnemar_exact(*votes))
    assert pair.difference.value == pytest.approx((counts[2] - counts[1]) / 240)


def test_holm_is_over_all_pairs_of_a_family(study: tuple[Path, Findings]) -> None:
    family = sorted(
        pairs(study[1]).values(), key=lambda pair: pair.p_permutation or 0, reverse=True
    )
    assert len(family) == 6
    assert family[0].p_holm is not None
    assert family[-1].p_permutation is not None
    assert family[-1].p_holm == pytest.approx(6 * family[-1].p_permutation)
    for pair in family:
        assert pair.p_holm is not None
        assert pair.p_permutation is not None
        assert pair.p_holm >= pair.p_permutation
        assert (pair.finding == "larger better") == (pair.p_holm < 0.05)


def test_every_estimate_lies_within_its_interval(study: tuple[Path, Findings]) -> None:
    some = list(estimates(study[1]))
    assert len(some) > 500
    for one in some:
        if one.value is not None and one.low is not None and one.high is not None:
            assert one.low <= one.value <= one.high
            assert one.least == one.value == one.most
        assert one.problems <= one.tasks


def test_infilling_is_compared_only_among_models_that_were_trained_for_it(
    study: tuple[Path, Findings],
) -> None:
    of = study[1]
    assert set(pairs(of, strategy="fim-psm")) == {("size-7b", "size-13b")}
    assert row(of, "size-70b", strategy="fim-psm").metrics["pass_at_1"].value is not None
    trends = [one for one in of.trends if one.strategy == "fim-psm"]
    assert {one.models for one in trends} == {("size-7b", "size-13b")}
    assert any("size-70b: sources disagree" in caveat for caveat in of.caveats)


def test_what_can_be_compared_comes_first(tasks: Suite, tmp_path: Path) -> None:
    infilling = [replace(model, strategy="fim-psm") for model in FOUR[:2]]
    write_study(tmp_path, tasks, [FOUR[0], *infilling])
    assert "asked to infill (prefix first)" in found(tmp_path).answer[0]
    write_run(tmp_path / "more", tasks, FOUR[1])
    assert "asked left to right" in found(tmp_path).answer[0]


def test_a_disputed_model_whose_probe_infills_is_compared(tasks: Suite, tmp_path: Path) -> None:
    models = [replace(FOUR[place], strategy="fim-psm") for place in (0, 3)]
    write_study(tmp_path, tasks, models)
    assert not found(tmp_path).trends
    manifest = tmp_path / "size-70b.fim-psm" / "manifest.json"
    probe = {
        "verdict": "infills", "asked": 8, "answered": 8, "ended": 8, "right": 8, "ids_kept": True,
        "evidence": [],
    }  # fmt: skip
    manifest.write_bytes(orjson.dumps(orjson.loads(manifest.read_bytes()) | {"probe": probe}))
    of = found(tmp_path)
    assert set(pairs(of, strategy="fim-psm")) == {("size-7b", "size-70b")}
    assert any("the probe of its run says" in caveat for caveat in of.caveats)


def test_a_trend_says_how_few_sizes_it_has_and_goes_no_further(
    study: tuple[Path, Findings],
) -> None:
    [four] = [
        one
        for one in study[1].trends
        if (one.strategy, one.kind, one.metric) == ("lr", "single-line", "pass_at_1")
        and one.policy == "reference-lines"
    ]
    assert four.models == tuple(f"size-{size}" for size in SIZES)
    assert "4 sizes, 6.7 B to 69 B" in four.note
    assert "nothing of sizes beyond" in four.note
    assert four.slope.low is not None
    assert four.slope.high is not None
    # 0.45, 0.55, 0.65, 0.8 at 6.7, 13, 33.7 and 69 billion.
    assert four.slope.low < 0.103 < four.slope.high
    [two] = {one.note for one in study[1].trends if one.strategy == "fim-psm"}
    assert two.startswith("two sizes")


def test_models_of_two_families_are_called_so(tasks: Suite, tmp_path: Path) -> None:
    other = Simulated("star", 0.6, card="starcoder2-15b")
    write_study(tmp_path, tasks, [FOUR[0], other])
    of = found(tmp_path)
    assert all("2 families" in one.note for one in of.trends)
    assert any("more than one family" in caveat for caveat in of.caveats)


def test_models_without_a_size_are_in_no_trend(tasks: Suite, tmp_path: Path) -> None:
    write_study(tmp_path, tasks, [Simulated("b", 0.9), Simulated("a", 0.3), FOUR[0]])
    of = found(tmp_path)
    assert not of.trends
    assert set(pairs(of)) == {("size-7b", "a"), ("size-7b", "b"), ("a", "b")}
    assert "not all sizes are known, so of size nothing can be said" in of.answer[0]
    write_run(tmp_path / "larger", tasks, FOUR[2])
    of = found(tmp_path)
    assert {one.models for one in of.trends} == {("size-7b", "size-34b")}
    assert of.answer[0].startswith("The larger model is better")
    assert "for a" not in of.answer[0]
    assert any("size of a and b is not known" in caveat for caveat in of.caveats)


def test_models_are_compared_on_the_tasks_that_both_were_asked(
    tasks: Suite, tmp_path: Path
) -> None:
    half = Suite(tasks.problems, tasks.tasks[:240], tasks.hardness)
    write_run(tmp_path / "half", half, FOUR[0])
    write_run(tmp_path / "whole", tasks, FOUR[1])
    of = found(tmp_path)
    assert (row(of, "size-7b").tasks, row(of, "size-13b").tasks) == (120, 240)
    [pair] = pairs(of).values()
    assert (pair.difference.tasks, pair.difference.problems) == (120, 60)
    assert any("not all models were asked the same tasks" in caveat for caveat in of.caveats)


def test_the_same_model_twice_over_one_task_is_refused(tasks: Suite, tmp_path: Path) -> None:
    write_run(tmp_path / "first", tasks, FOUR[0])
    write_run(tmp_path / "second", tasks, replace(FOUR[0], noise=1))
    with pytest.raises(
        RunDirectoryError, match=r"first and .*second: all answer .*fim-eval compar"
    ):
        found(tmp_path)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "one", suite(5, ("single-line",)), FOUR[0])
    write_run(tmp_path / "two", suite(5, ("single-line",), seed=1), FOUR[1])
    with pytest.raises(RunDirectoryError, match="is another task than that of"):
        found(tmp_path)


def test_official_tasks_beside_others_are_only_put_beside_published_numbers(
    tasks: Suite, tmp_path: Path
) -> None:
    official = suite(40, ("single-line",), seed=9)
    renamed = Suite(
        [one.model_copy(update={"problem_id": f"Official/{i}"}) for i, one in enumerate(
            official.problems)],
        [task.model_copy(update={"task_id": f"SingleLineInfilling/{task.task_id}",
                                 "problem_id": task.problem_id.replace("Made", "Official")})
         for task in official.tasks],
        {name.replace("Made", "Official"): one for name, one in official.hardness.items()},
    )  # fmt: skip
    calibrated = replace(FOUR[0], strategy="fim-psm", dataset="humaneval-infilling", rate=0.74)
    write_run(tmp_path / "official", renamed, calibrated)
    alone = found(tmp_path)
    assert [(one.metric, one.published) for one in alone.beside] == [
        ("pass_at_1", 0.741), ("exact_match", 0.676),
    ]  # fmt: skip
    assert alone.beside[0].ours.tasks == 40
    assert alone.rows
    write_run(tmp_path / "mbpp", tasks, FOUR[0])
    both = found(tmp_path)
    assert both.beside == alone.beside
    assert {one.strategy for one in both.rows} == {"lr"}
    assert len(both.runs) == 2
    assert any("only put beside published" in caveat for caveat in both.caveats)


def test_parts_hold_every_task_once_and_one_part_alone_is_not_told(
    study: tuple[Path, Findings],
) -> None:
    of = study[1]
    split: dict[tuple[str, ...], int] = {}
    for one in of.breakdowns:
        key = (one.model, one.strategy, one.kind, one.metric, one.by)
        split[key] = split.get(key, 0) + one.estimate.tasks
    assert set(split.values()) == {240}
    assert {key[-1] for key in split} == {"length", "position", "split"}
    ordered = [
        one.group
        for one in of.breakdowns
        if (one.model, one.strategy, one.kind, one.metric, one.by)
        == ("size-7b", "lr", "single-line", "pass_at_1", "split")
    ]
    assert ordered == ["test", "validation", "train"]
    gains = [one for one in of.part_differences if one.strategy == "lr"]
    assert {(one.smaller, one.larger) for one in gains} == {("size-7b", "size-70b")}


def ways(of: Findings, metric: Metric, kind: str = "single-line") -> list[StrategyDifference]:
    return [one for one in of.strategy_differences if (one.metric, one.kind) == (metric, kind)]


def test_strategies_of_one_model_are_compared_as_one_compares_them_by_hand(
    tasks: Suite, study: tuple[Path, Findings]
) -> None:
    some = ways(study[1], "pass_at_1")
    assert [(one.model, one.strategy, one.than) for one in some] == [
        ("size-7b", "fim-psm", "lr"), ("size-13b", "fim-psm", "lr"),
    ], "70B's probe says nothing, 34B does not infill"  # fmt: skip
    for one, model in zip(some, FOUR, strict=False):
        before = true_rates(tasks, model)
        after = true_rates(tasks, replace(model, strategy="fim-psm", rate=model.rate + 0.1))
        names = [task.task_id for task in tasks.tasks if task.kind == "single-line"]
        gain = sum(after[name] - before[name] for name in names) / len(names)
        assert one.difference.value == pytest.approx(gain)
        assert one.difference.tasks == len(names)
    [distance, _] = ways(study[1], "edit_distance")
    assert distance.difference.value is not None
    assert (distance.difference.value < 0) == (distance.finding == "better")


def test_a_strategy_that_is_better_is_called_so_and_told(tasks: Suite, tmp_path: Path) -> None:
    models = [
        replace(FOUR[0], rate=0.3),
        replace(FOUR[0], rate=0.8, strategy="fim-psm"),
        replace(FOUR[0], rate=0.1, strategy="fim-spm"),
    ]
    write_study(tmp_path, tasks, models)
    of = found(tmp_path)
    some = {(one.strategy, one.than): one for one in ways(of, "pass_at_1")}
    assert {key: one.finding for key, one in some.items()} == {
        ("fim-psm", "lr"): "better", ("fim-spm", "lr"): "worse", ("fim-spm", "fim-psm"): "worse",
    }  # fmt: skip
    chances = sorted((one.p_permutation or 0, one.p_holm or 0) for one in some.values())
    assert chances[0][1] == pytest.approx(3 * chances[0][0]), "Holm's family is all three"
    [told, _] = [line for line in of.answer if "instead of left to right" in line]
    assert told.startswith("Asked to infill (prefix first) instead of left to right, on the same")
    assert "for size-7b (95 % interval " in told
    assert told.endswith("better.")
    parts = [one for one in of.strategy_part_differences if one.metric == "pass_at_1"]
    assert {one.strategy for one in parts} == {"fim-psm", "fim-spm"}
    for by in ("length", "position", "split"):
        of_kind = [
            one.difference
            for one in parts
            if (one.by, one.kind, one.strategy) == (by, "single-line", "fim-psm")
        ]
        whole = sum((one.value or 0) * one.tasks for one in of_kind) / 240
        assert whole == pytest.approx(some["fim-psm", "lr"].difference.value)


def test_strategies_that_differ_less_than_asking_twice_are_called_so(
    tasks: Suite, tmp_path: Path
) -> None:
    one = replace(FOUR[0], rate=0.60)
    other = replace(one, name=one.name, strategy="fim-psm", rate=0.62)
    for model in (one, other):
        path = write_run(tmp_path / model.strategy, tasks, model)
        part = Suite(tasks.problems, tasks.tasks[::4], tasks.hardness)
        write_run(path / "audit", part, replace(model, noise=1))
    [between] = ways(found(tmp_path), "pass_at_1")
    assert between.noise is not None
    assert between.difference.value is not None
    assert 0 < abs(between.difference.value) < between.noise
    assert between.finding == "below the noise"


def test_ceiling_and_floor_are_those_of_the_problems_at_hand(
    study: tuple[Path, Findings],
) -> None:
    ceiling, floor = study[1].checks
    assert (ceiling.name, ceiling.passed, ceiling.tasks) == ("ceiling", 120, 120)
    assert (floor.name, floor.passed, floor.tasks) == ("floor", 0, 480)


def audited(folder: Path, tasks: Suite, model: Simulated, noise: int) -> None:
    path = write_run(folder / model.name, tasks, model)
    part = Suite(tasks.problems, tasks.tasks[::4], tasks.hardness)
    write_run(path / "audit", part, replace(model, noise=noise))


def test_what_changes_when_asked_again_stands_beside_every_difference(
    tasks: Suite, tmp_path: Path
) -> None:
    one, other = replace(FOUR[0], rate=0.60), replace(FOUR[1], rate=0.62)
    audited(tmp_path, tasks, one, noise=1)
    audited(tmp_path, tasks, other, noise=0)
    of = found(tmp_path)
    first, second = of.noise
    before, after = true_rates(tasks, one), true_rates(tasks, replace(one, noise=1))
    names = [task.task_id for task in tasks.tasks[::4]]
    flipped = sum(before[name] != after[name] for name in names)
    assert (first.model, first.tasks, first.passed_changed) == ("size-7b", 120, flipped)
    assert 0 < first.exact_match_changed < first.text_changed
    assert (second.text_changed, second.exact_match_changed, second.passed_changed) == (0, 0, 0)
    [pair] = pairs(of).values()
    assert pair.noise == flipped / 120
    assert pair.difference.value is not None
    assert abs(pair.difference.value) < pair.noise
    assert pair.finding == "below the noise"
    assert "less than what changes when the same is asked again" in of.answer[0]
    [distance] = pairs(of, "edit_distance").values()
    assert distance.noise is None
    assert len(of.runs) == 2


def test_a_pair_of_which_one_was_not_audited_has_no_noise(tasks: Suite, tmp_path: Path) -> None:
    audited(tmp_path, tasks, FOUR[0], noise=1)
    write_run(tmp_path / "other", tasks, FOUR[1])
    of = found(tmp_path)
    assert len(of.noise) == 1
    assert {pair.noise for pair in of.pairs} == {None}
    assert any("was not measured for all models" in caveat for caveat in of.caveats)


def test_what_was_not_judged_has_no_pass_rate(tasks: Suite, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", tasks, FOUR[0])
    for name in ("judging", "verdicts", "references"):
        (path / f"{name}.jsonl").unlink()
    of = found(path)
    assert not any("pass_at_1" in one.metrics for one in of.rows)
    assert not of.checks
    assert "exact match on single-line holes" in of.answer[0]
    assert any("No program was run" in caveat for caveat in of.caveats)


def test_bits_are_total_bits_by_total_characters(tasks: Suite, tmp_path: Path) -> None:
    write_study(tmp_path, tasks, [replace(FOUR[0], bits=1.25), replace(FOUR[1], bits=0.5)])
    of = found(tmp_path)
    assert row(of, "size-7b").metrics["bits_per_character"].value == pytest.approx(1.25)
    [pair] = pairs(of, "bits_per_character").values()
    assert pair.difference.value == pytest.approx(-0.75)
    assert pair.finding == "larger better", "fewer bits are better"
    assert (pair.both, pair.p_mcnemar) == (None, None)


def test_one_task_a_problem_has_wilsons_interval_too(tmp_path: Path) -> None:
    write_run(tmp_path / "run", suite(50, ("single-line",)), FOUR[0])
    one = row(found(tmp_path), "size-7b")
    share = one.metrics["pass_at_1"].value
    assert share is not None
    assert one.wilson["pass_at_1"] == pytest.approx(wilson(round(50 * share), 50))
    assert "edit_similarity" not in one.wilson


def test_tasks_that_share_problems_have_no_wilson_interval(study: tuple[Path, Findings]) -> None:
    assert not any(one.wilson for one in study[1].rows)


def test_all_right_is_no_certainty(tmp_path: Path) -> None:
    write_run(tmp_path / "run", suite(20, ("single-line",), lines=3), Simulated("m", 1.0))
    estimate = row(found(tmp_path), "m").metrics["pass_at_1"]
    assert (estimate.value, estimate.high) == (1, 1)
    assert estimate.low == pytest.approx(wilson(20, 20)[0])


def test_one_problem_has_no_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "run", suite(1, ("single-line",), lines=3), FOUR[0])
    of = found(tmp_path)
    estimate = row(of, "size-7b").metrics["pass_at_1"]
    assert (estimate.low, estimate.high) == (None, None)
    assert "no interval" in of.answer[0]
    assert any("1 problems only" in caveat for caveat in of.caveats)


def test_the_same_runs_in_any_order_give_the_same_findings(
    study: tuple[Path, Findings],
) -> None:
    folder, of = study
    runs = read_scored(find_runs([folder]))[::-1]
    again = findings(runs, seed=0, resamples=RESAMPLES)
    assert (again.rows, again.pairs, again.answer) == (of.rows, of.pairs, of.answer)
    other = findings(runs, seed=1, resamples=RESAMPLES)
    assert other.rows != of.rows


def test_several_processes_read_what_one_reads(
    study: tuple[Path, Findings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored_module, "_PARALLEL_BYTES", 0)
    paths = find_runs([study[0]])[:2]
    one, two = read_scored(paths), read_scored(paths, workers=2)
    assert [run.path for run in two] == paths
    assert all(a.scores.equals(b.scores) for a, b in zip(one, two, strict=True))


def test_report_json_reads_back_as_what_was_found(
    study: tuple[Path, Findings], tmp_path: Path
) -> None:
    folder, of = study
    runs = read_scored(find_runs([folder]))
    paths = write_findings(of, runs, tmp_path / "out")
    assert [path.name for path in paths] == [
        "report.json", "answer.md", "table.tex", "pairs.csv", "strategies.csv", "tasks.parquet",
    ]  # fmt: skip
    assert Findings.model_validate_json(paths[0].read_bytes()) == of
    assert of.answer[0].partition(":")[0] in paths[1].read_text()
    table = pl.read_csv(paths[3])
    assert len(table) == len(of.pairs)
    assert table["difference"].null_count() > 0, "an unresolved difference is no number"
    ways_told = pl.read_csv(paths[4])
    assert len(ways_told) == len(of.strategy_differences)
    assert ways_told["than"].unique().to_list() == ["lr"]
    assert pl.read_parquet(paths[5]).equals(tasks_table(runs))


def test_every_column_of_the_files_is_documented(study: tuple[Path, Findings]) -> None:
    folder, of = study
    text = (Path(__file__).parents[2] / "docs" / "files.md").read_text()
    documented = set(re.findall(r"`([a-z0-9_]+)`", text))
    columns = {
        *tasks_table(read_scored(find_runs([folder]))).columns,
        *pairs_table(of).columns,
        *strategies_table(of).columns,
    }
    assert columns - documented == set()


def test_every_metric_and_every_test_has_a_definition(study: tuple[Path, Findings]) -> None:
    named = {*get_args(Metric), "p_mcnemar", "p_permutation", "p_holm", "detectable", "noise"}
    assert named <= set(study[1].definitions)


HOSTILE = "m|7<script>alert(1)</script>\x1b[2J\u202e`*_$%&\\input{x}"


def test_a_hostile_name_is_text_in_markdown_and_latex(tasks: Suite, tmp_path: Path) -> None:
    write_run(tmp_path / "a", tasks, Simulated(HOSTILE, 0.5))
    write_run(tmp_path / "b", tasks, FOUR[0])
    of = found(tmp_path)
    markdown, latex = as_markdown(of), as_latex(of)
    for text in (markdown, latex):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script" not in markdown
    assert "m\\|7" in markdown
    assert "\\input" not in latex.replace("\\textbackslash{}input", "")
    assert "\\$\\%\\&" in latex


class TestTheCommand:
    @pytest.fixture
    def in_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> InProcess:
        return InProcess(tmp_path, monkeypatch, capfd)

    def test_writes_the_whole_report_and_says_the_answer(
        self, in_process: InProcess, tasks: Suite
    ) -> None:
        write_study(in_process.folder / "runs", tasks, [FOUR[0], FOUR[3]])
        done = in_process("report", "runs", "--out", "out", "--resamples", "200", "--seed", "3")
        assert done.returncode == 0, done.stderr
        assert "The larger model is better" in done.stderr
        assert "size-7b, lr" in done.stdout
        assert {path.name for path in (in_process.folder / "out").iterdir()} == {
            "answer.md", "figures", "index.html", "pairs.csv", "report.json", "strategies.csv",
            "summary.csv", "summary.json", "summary.parquet", "table.tex", "tasks.parquet",
        }  # fmt: skip
        report = json.loads((in_process.folder / "out" / "report.json").read_bytes())
        assert (report["seed"], report["resamples"]) == (3, 200)

    def test_does_not_write_a_report_that_nobody_asked_for(
        self, in_process: InProcess, tasks: Suite
    ) -> None:
        write_study(in_process.folder / "runs", tasks, FOUR[:1])
        assert in_process("report", "runs").returncode == 0
        assert not (in_process.folder / "runs" / "report.json").exists()

    def test_the_table_is_the_same_however_few_tasks_are_read_at_a_time(
        self, tmp_path: Path, tasks: Suite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = frozenset(task.task_id for task in tasks.tasks[:8])
        models = [FOUR[0], replace(FOUR[1], unanswered=lost)]
        paths = write_study(tmp_path / "runs", tasks, models)
        whole = summarise(pl.concat([score_run(path) for path in paths]))
        for size in (7, 100, 10_000):
            monkeypatch.setattr(counted_module, "AT_ONCE", size)
            pl.testing.assert_frame_equal(
                summary_of([read_counted(path) for path in paths]), whole, check_exact=True
            )

    def test_a_report_reads_each_journal_once(
        self, in_process: InProcess, tasks: Suite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [path.name for path in write_study(in_process.folder / "runs", tasks, FOUR[:2])]
        read: list[tuple[str, str]] = []

        def noted(path: Path) -> Iterator[bytes]:
            read.append((path.parent.name, path.name))
            return whole_lines(path)

        whole_lines = lines_module.whole_lines
        monkeypatch.setattr(lines_module, "whole_lines", noted)
        done = in_process("report", "runs", "--out", "out", "--resamples", "200")
        assert done.returncode == 0, done.stderr
        journals = [one for one in read if one[1] in {"generations.jsonl", "verdicts.jsonl"}]
        assert sorted(journals) == sorted(
            (name, file) for name in names for file in ("generations.jsonl", "verdicts.jsonl")
        )

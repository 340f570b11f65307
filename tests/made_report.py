"""Findings and tasks made up for tests of the page: plausible numbers, no model was asked."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Literal

from rapidfuzz.distance import Levenshtein

from fim_eval.postprocess import POLICIES
from fim_eval.report.browser import Answer, Answerer, Browsed, BrowsedTask, Filling
from fim_eval.report.findings import (
    Beside,
    Breakdown,
    Check,
    Estimate,
    Findings,
    Metric,
    Noise,
    Pair,
    PartDifference,
    Row,
    Run,
    StrategyDifference,
    StrategyPartDifference,
    Trend,
)
from fim_eval.words import Infills, Kind, Policy, Strategy, VerdictOutcome

CODE_LLAMA: dict[str, tuple[int | None, Infills]] = {
    "codellama/CodeLlama-7b-hf": (6_738_546_688, "yes"),
    "codellama/CodeLlama-13b-hf": (13_015_864_320, "yes"),
    "codellama/CodeLlama-34b-hf": (33_743_970_304, "no"),
    "codellama/CodeLlama-70b-hf": (68_976_648_192, "disputed"),
}
LEFT_TO_RIGHT = tuple(Answerer(name, "lr") for name in CODE_LLAMA)
ALL_KINDS: tuple[Kind, ...] = ("single-line", "multi-line", "random-span", "block")
HEADLINE: dict[Kind, Policy] = {
    "single-line": "reference-lines",
    "multi-line": "reference-lines",
    "random-span": "suffix-overlap",
    "block": "suffix-overlap",
}
_TASKS: dict[Kind, int] = {
    "single-line": 2757,
    "multi-line": 13712,
    "random-span": 5000,
    "block": 3371,
}
_LEVEL: dict[Kind, float] = {
    "single-line": 0.50,
    "multi-line": 0.30,
    "random-span": 0.42,
    "block": 0.47,
}
_LIFT: dict[Strategy, float] = {
    "lr": 0.0,
    "lr-rerank": 0.06,
    "fewshot": 0.03,
    "fim-psm": 0.24,
    "fim-spm": 0.27,
}
_CUT: dict[Policy, float] = {
    "raw": -0.25,
    "reference-lines": 0.0,
    "first-line": -0.05,
    "suffix-overlap": 0.01,
    "syntax": -0.02,
}


def estimate(
    value: float | None,
    half: float,
    tasks: int,
    *,
    missing: float = 0.0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimate:
    """An estimate with an interval of `half` to both sides, and `missing` unresolved."""
    if value is None:
        return Estimate(
            value=None, least=None, most=None, low=None, high=None, tasks=tasks, problems=500
        )
    least, most = max(bounds[0], value - missing / 2), min(bounds[1], value + missing / 2)
    return Estimate(
        value=None if missing else value,
        least=least,
        most=most,
        low=max(bounds[0], least - half),
        high=min(bounds[1], most + half),
        tasks=tasks,
        problems=500,
    )


def made_findings(
    models: dict[str, tuple[int | None, Infills]] | None = None,
    *,
    kinds: Sequence[Kind] = ALL_KINDS,
    strategies: Sequence[Strategy] = ("lr", "fewshot", "fim-psm"),
    judged: bool = True,
    unresolved: int = 12,
    said: str = "",
) -> Findings:
    """Findings of a whole study; `said` is added to every text that a server or person chose."""
    models = CODE_LLAMA if models is None else models
    draw = random.Random(7)  # noqa: S311 - no secret
    names = {name: name + said for name in models}
    rows = []
    asked = [
        (kind, strategy, name)
        for kind, strategy, name in itertools.product(kinds, strategies, models)
        if not (strategy.startswith("fim") and models[name][1] == "no")
    ]
    rate: dict[tuple[str, str, str, str], float] = {}
    for kind, strategy, name in asked:
        size = models[name][0] or 1_000_000_000
        level = _LEVEL[kind] + _LIFT[strategy] + 0.045 * math.log2(size / 6.7e9)
        for policy in POLICIES:
            rate[kind, strategy, name, policy] = min(0.97, max(0.02, level + _CUT[policy]))
    for (kind, strategy, name), policy in itertools.product(asked, POLICIES):
        parameters, infills = models[name]
        tasks, passed = _TASKS[kind], rate[kind, strategy, name, policy]
        lost = unresolved if name == list(models)[-1] else 0
        half = 1.4 / math.sqrt(tasks)
        metrics: dict[Metric, Estimate] = {
            "exact_match": estimate(passed * 0.62, half, tasks, missing=lost / tasks),
            "exact_match_rstrip": estimate(passed * 0.64, half, tasks, missing=lost / tasks),
            "edit_similarity": estimate(0.35 + 0.6 * passed, half, tasks, missing=lost / tasks),
            "edit_distance": estimate(40 - 35 * passed, 1.2, tasks, bounds=(0, math.inf)),
            "bits_per_character": estimate(1.4 - passed, 0.03, tasks, bounds=(0, math.inf)),
        }
        if judged:
            metrics["pass_at_1"] = estimate(passed, half, tasks, missing=lost / tasks)
            metrics["pass_at_1_sensitive"] = estimate(
                passed - 0.02, half, tasks - 145, missing=lost / tasks
            )
        right = round(passed * (tasks - lost))
        outcomes: dict[str, int] = {"passed": right}
        wrong = tasks - lost - right
        for word, share in (("wrong-answer", 0.55), ("error", 0.25), ("syntax-error", 0.15)):
            outcomes[word] = round(wrong * share)
        outcomes["timeout"] = tasks - lost - sum(outcomes.values())
        rows.append(
            Row(
                model=names[name],
                parameters=parameters,
                infills=infills,
                strategy=strategy,
                kind=kind,
                policy=policy,
                tasks=tasks,
                answered=tasks - lost,
                unjudged=0,
                judged=judged,
                sensitive_tasks=tasks - 145 if judged else None,
                metrics=metrics,
                wilson={},
                edit_distance_quartiles=(0.0, 4.0, 31.5),
                truncated=round(tasks * 0.04),
                no_end=round(tasks * 0.11),
                ran_past=round(tasks * 0.23),
                outcomes=outcomes if judged else {},
                failures={"timeout": lost - lost // 3, "not-asked": lost // 3} if lost else {},
                latency_s=(0.41, 1.32, 2.05 + draw.random()),
                completion_tokens=tasks * 31,
                wall_s=tasks / 90,
                tokens_per_s=2790.0 + 100 * draw.random(),
            )
        )
    return Findings(
        made_at="2026-11-25T02:00:00.000+00:00",
        fim_eval_version="0.1.0",
        seed=0,
        resamples=10_000,
        headline_policy={kind: HEADLINE[kind] for kind in kinds},
        answer=(
            "Each doubling of parameters adds 4.5 percentage points of pass@1 left to right on "
            "single lines (95 % interval 3.6 to 5.4), from 50.0 % at 7B to 65.1 % at 70B.",
            "Where models were trained to infill, both sides of the hole are worth more than a "
            "model five times as large: 7B with fim-psm passes 74.0 %.",
            "Made-up numbers: no model was asked." + said,
        ),
        caveats=(
            "70B: sources conflict on whether it was trained to infill; its probe says that it "
            "does not." + said,
            "12 tasks of 70B have no answer: its rates are told as bounds.",
        ),
        rows=tuple(rows),
        pairs=tuple(_pairs(rate, asked, models, names, judged=judged)),
        trends=tuple(
            Trend(
                strategy=strategy,
                kind=kind,
                policy=HEADLINE[kind],
                metric="pass_at_1" if judged else "exact_match",
                models=tuple(names.values()),
                parameters=tuple(size or 0 for size, _ in models.values()),
                slope=estimate(0.045, 0.009, _TASKS[kind], bounds=(-1, 1)),
                note="Four sizes: a description of these, not a law for others.",
            )
            for kind, strategy in itertools.product(kinds, strategies)
            if len(models) > 2
        ),
        breakdowns=tuple(
            Breakdown(
                model=names[name],
                strategy=strategy,
                kind=kind,
                policy=HEADLINE[kind],
                metric="pass_at_1" if judged else "exact_match",
                by=by,
                group=group,
                order=order,
                estimate=estimate(
                    min(
                        0.96,
                        max(0.03, rate[kind, strategy, name, HEADLINE[kind]] + 0.18 - 0.1 * order),
                    ),
                    0.03,
                    _TASKS[kind] // 5,
                ),
            )
            for kind, strategy, name in asked
            for by, group, order in _groups(kind)
        ),
        strategy_differences=tuple(_strategy_differences(rate, asked, names, judged=judged)),
        strategy_part_differences=tuple(_strategy_parts(asked, names)),
        part_differences=tuple(_part_differences(rate, asked, names, judged=judged)),
        noise=(
            Noise(
                model=names[next(iter(models))],
                strategy="lr",
                tasks=138,
                text_changed=5,
                exact_match_changed=1,
                passed_changed=1 if judged else None,
            ),
        ),
        beside=(
            Beside(
                model=names[next(iter(models))],
                strategy="fim-psm",
                kind="single-line",
                metric="pass_at_1",
                ours=estimate(0.738, 0.021, 1033),
                published=0.741,
                source="Code Llama paper v3 (https://arxiv.org/abs/2308.12950), table 14, greedy",
            ),
        ),
        checks=(
            Check(name="ceiling", passed=2757, tasks=2757, detail="reference answers"),
            Check(name="floor", passed=145, tasks=2757, detail="empty answers"),
        ),
        runs=tuple(
            Run(
                path=f"runs/eval/{name.rpartition('/')[2]}.{strategy}",
                model=names[name],
                strategy=strategy,
                dataset="mbpp, test split",
                created_at="2026-11-24T21:00:00.000+00:00",
                code_revision="13ed6141e415d1493898c95754b6e049c1bb72c3",
                server="http://127.0.0.1:8007/v1, vLLM 0.33.0",
                prompt_form="ids",
                isolation="namespaces" if judged else None,
                manifest={"format": 1, "identity": {"model": names[name], "strategy": strategy}},
            )
            for strategy, name in dict.fromkeys((strategy, name) for _, strategy, name in asked)
        ),
        definitions={
            "pass_at_1": "Tasks whose filled program passes all tests of its problem, of all.",
            "exact_match": "Answers equal to the reference to the last character, of all.",
            "p_holm": "Permutation test, signs drawn per problem, after Holm over the family.",
        },
    )


def _pairs(
    rate: dict[tuple[str, str, str, str], float],
    asked: Sequence[tuple[Kind, Strategy, str]],
    models: dict[str, tuple[int | None, Infills]],
    names: dict[str, str],
    *,
    judged: bool,
) -> Iterator[Pair]:
    for kind, strategy in dict.fromkeys((kind, strategy) for kind, strategy, _ in asked):
        these = [name for name in models if (kind, strategy, name) in asked]
        for smaller, larger in itertools.combinations(these, 2):
            policy = HEADLINE[kind]
            less, more = (rate[kind, strategy, name, policy] for name in (smaller, larger))
            tasks = _TASKS[kind]
            gained = round(tasks * (more - less) * 1.6)
            lost = gained - round(tasks * (more - less))
            far = more - less > 0.05
            yield Pair(
                smaller=names[smaller],
                larger=names[larger],
                strategy=strategy,
                kind=kind,
                policy=policy,
                metric="pass_at_1" if judged else "exact_match",
                difference=estimate(more - less, 1.6 / math.sqrt(tasks), tasks, bounds=(-1, 1)),
                both=round(tasks * less) - lost,
                only_smaller=lost,
                only_larger=gained,
                neither=tasks - round(tasks * less) - gained,
                p_mcnemar=0.0004 if far else 0.21,
                p_permutation=0.0001 if far else 0.19,
                p_holm=0.0006 if far else 0.38,
                noise=0.007,
                detectable=0.026,
                finding="larger better" if far else "no difference shown",
            )


def _part_differences(
    rate: dict[tuple[str, str, str, str], float],
    asked: Sequence[tuple[Kind, Strategy, str]],
    names: dict[str, str],
    *,
    judged: bool,
) -> Iterator[PartDifference]:
    """The gain grows from group to group, out of a loss."""
    for kind, strategy in dict.fromkeys((kind, strategy) for kind, strategy, _ in asked):
        these = [name for name in names if (kind, strategy, name) in asked]
        if len(these) < 2:
            continue
        policy = HEADLINE[kind]
        less, more = (rate[kind, strategy, name, policy] for name in (these[0], these[-1]))
        for by, group, order in _groups(kind):
            yield PartDifference(
                smaller=names[these[0]],
                larger=names[these[-1]],
                strategy=strategy,
                kind=kind,
                policy=policy,
                metric="pass_at_1" if judged else "exact_match",
                by=by,
                group=group,
                order=order,
                difference=estimate(
                    0.5 * order * (more - less) - 0.05, 0.035, _TASKS[kind] // 5, bounds=(-1, 1)
                ),
            )


def _strategy_differences(
    rate: dict[tuple[str, str, str, str], float],
    asked: Sequence[tuple[Kind, Strategy, str]],
    names: dict[str, str],
    *,
    judged: bool,
) -> Iterator[StrategyDifference]:
    """Of each model's strategies with the first; every third is not shown."""
    for place, (kind, strategy, name) in enumerate(asked):
        if strategy == "lr" or (kind, "lr", name) not in asked:
            continue
        policy = HEADLINE[kind]
        gain = rate[kind, strategy, name, policy] - rate[kind, "lr", name, policy]
        shown = place % 3 > 0
        yield StrategyDifference(
            model=names[name],
            strategy=strategy,
            than="lr",
            kind=kind,
            policy=policy,
            metric="pass_at_1" if judged else "exact_match",
            difference=estimate(gain, 0.02, _TASKS[kind], bounds=(-1, 1)),
            p_permutation=0.0001 if shown else 0.2,
            p_holm=0.0008 if shown else 0.6,
            noise=None,
            finding="better" if shown else "no difference shown",
        )


def _strategy_parts(
    asked: Sequence[tuple[Kind, Strategy, str]], names: dict[str, str]
) -> Iterator[StrategyPartDifference]:
    """What the suffix tells grows less from group to group."""
    for kind, strategy, name in asked:
        if strategy.startswith("fim"):
            for by, group, order in _groups(kind):
                yield StrategyPartDifference(
                    model=names[name],
                    strategy=strategy,
                    than="lr",
                    kind=kind,
                    policy=HEADLINE[kind],
                    metric="bits_per_character",
                    by=by,
                    group=group,
                    order=order,
                    difference=estimate(
                        -0.21 + 0.05 * order, 0.03, _TASKS[kind] // 5, bounds=(-9, 9)
                    ),
                )


_By = Literal["length", "position", "part", "split", "dataset"]


def _groups(kind: Kind) -> Iterator[tuple[_By, str, int]]:
    for order, group in enumerate(("1–15", "16–25", "26–40", "41–80", "81 and more")):
        yield "length", group, order
    for order, group in enumerate(("first fifth", "second", "third", "fourth", "last fifth")):
        yield "position", group, order
    if kind == "block":
        for order, group in enumerate(("body", "condition", "return-value", "call")):
            yield "part", group, order


def answered(
    middle: str, reference: str, verdict: VerdictOutcome | None, detail: str = ""
) -> Answer:
    """An answer of one filling that every policy leaves as it is."""
    near = Levenshtein.distance(middle[:5000], reference)
    filling = Filling(POLICIES, middle, middle == reference, near, verdict, detail)
    return Answer((filling,), None, met_limit=False)


def made_browsed(
    count: int,
    answerers: Sequence[Answerer] = LEFT_TO_RIGHT,
    *,
    program_lines: int = 8,
    seed: int = 7,
) -> Browsed:
    """`count` holes of one line each, answered right more often by later answerers."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    tasks = []
    for number in range(count):
        problem, line = divmod(number, program_lines)
        body = [
            f"    value_{place} = helper_{draw.randrange(90)}(items[{place}], "
            f"{draw.randrange(999)})\n"
            for place in range(program_lines)
        ]
        head = f"def solve_{problem}(items):\n"
        answers = [
            _made_answer(draw, body[line], 0.4 + 0.15 * place) for place in range(len(answerers))
        ]
        tasks.append(
            BrowsedTask(
                task_id=f"Made/{problem}/{ALL_KINDS[problem % 4]}/L{line + 1}",
                kind=ALL_KINDS[problem % 4],
                context=f"Write solve_{problem}(items): combine the items as in {problem}.",
                prefix=head + "".join(body[:line]),
                middle=body[line],
                suffix="".join(body[line + 1 :]) + f"    return value_{program_lines - 1}\n",
                sensitive=draw.random() < 0.95,
                answers=tuple(answers),
            )
        )
    return Browsed(tuple(answerers), tuple(tasks))


def _made_answer(draw: random.Random, reference: str, skill: float) -> Answer:
    luck = draw.random()
    if luck > 0.995:
        return Answer((), "timeout: no answer within 600 s, 6 attempts", met_limit=False)
    wrong = luck > skill
    line = reference
    verdict: VerdictOutcome = "passed"
    detail = ""
    if wrong:
        line = reference.replace("helper_", "help_", 1).replace(", ", ", items, ", 1)
        verdict = draw.choice(("wrong-answer", "error", "syntax-error", "timeout"))
        detail = f"test 1: {verdict} after {draw.randrange(9)} ms"
    tail = "".join(f"    extra_{draw.randrange(99)} = value\n" for _ in range(draw.randrange(6)))
    distance = Levenshtein.distance(line, reference)
    cut = Filling(
        ("reference-lines", "first-line", "suffix-overlap"), line, line == reference, distance,
        verdict, detail,
    )  # fmt: skip
    if not tail:
        whole = Filling(POLICIES, line, line == reference, distance, verdict, detail)
        return Answer((whole,), None, met_limit=False)
    # What runs on uses names that nobody defined.
    raw = Filling(
        ("raw", "syntax"), line + tail, False, distance + len(tail), "error", "NameError: value"
    )
    return Answer((raw, cut), None, met_limit=len(tail) > 100)

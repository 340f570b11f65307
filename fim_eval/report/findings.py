"""What a report finds: every number of it, as `report.json` holds them. Facts only, no behaviour.

Rates are in [0, 1]; distances in characters; probabilities of tests are two-sided. A number that is
not known is None, never 0.
"""

from __future__ import annotations

from typing import Literal

from fim_eval.records import Record
from fim_eval.words import Infills, Kind, Policy, Strategy

Metric = Literal[
    "exact_match",
    "exact_match_rstrip",
    "edit_similarity",
    "edit_distance",
    "pass_at_1",
    "pass_at_1_sensitive",
    "bits_per_character",
]


class Estimate(Record):
    """A number over tasks, with its 95 % interval from a bootstrap clustered by problem.

    Where something is unresolved the number is between `least` and `most`, and the interval goes
    from the lower end of that of `least` to the upper end of that of `most`.
    """

    value: float | None
    """None where something is unresolved, or nothing is known."""

    least: float | None
    """The least the number can be, whatever becomes of the unresolved; `value` if nothing is. None
    where that has no bound, as the difference of two distances."""

    most: float | None
    """The most it can be. None where that has no bound, as a distance."""

    low: float | None
    """Of the interval around `least`. None below two problems: nothing is known of their spread."""

    high: float | None
    """Of the interval around `most`. None as `low` is."""

    tasks: int
    """That it is over, unresolved ones included; of `pass_at_1_sensitive` the sensitive ones."""

    problems: int
    """That these were cut from: the clusters."""


class Row(Record):
    """One model, strategy, kind and policy: a row of the main table."""

    model: str
    parameters: int | None
    """None: not in our table of models."""

    infills: Infills
    strategy: Strategy
    kind: Kind
    policy: Policy
    tasks: int
    problems: int = 0
    """That these were cut from."""

    answered: int
    unjudged: int
    """Answered tasks without a verdict: unresolved in rates of passed tests."""

    judged: bool
    sensitive_tasks: int | None
    metrics: dict[Metric, Estimate]
    """Those that were measured: none of passed tests if not judged, no bits if not asked for."""

    wilson: dict[Metric, tuple[float, float]]
    """For rates, where no problem has two tasks and nothing is unresolved; else empty."""

    edit_distance_quartiles: tuple[float, float, float] | None
    """First quartile, median, third, over answered tasks."""

    truncated: int | None
    """Answers that met the token limit. None: not known of every answer, as in imported runs."""

    no_end: int | None
    """Answers that did not end by themselves. None as `truncated` is."""

    ran_past: int
    """Answers that go on to repeat the suffix."""

    outcomes: dict[str, int]
    """Answered tasks by verdict (`words.VerdictOutcome`); empty if not judged."""

    failures: dict[str, int]
    """Unanswered tasks by reason (`words.FailureReason`), `not-asked` those never asked."""

    latency_s: tuple[float, float, float] | None
    """Of whole answers: median, 95th and 99th percentile."""

    completion_tokens: int | None
    wall_s: float | None
    tokens_per_s: float | None


class Pair(Record):
    """Two models on the tasks that both were asked, alike in strategy, kind and policy."""

    smaller: str
    """The one with fewer parameters; by name where that is not known."""

    larger: str
    strategy: Strategy
    kind: Kind
    policy: Policy
    metric: Metric
    difference: Estimate
    """Larger minus smaller, paired by task."""

    both: int | None
    """Tasks that both have right; these four are None for metrics that are no rates."""

    only_smaller: int | None
    only_larger: int | None
    neither: int | None
    p_mcnemar: float | None
    """Exact, on problems: those whose tasks one model has right more often than the other. None for
    metrics that are no rates. Like the next, of the unresolved tasks' least favourable outcome."""

    p_permutation: float | None
    """Of the difference over tasks, signs drawn per problem."""

    p_holm: float | None
    """`p_permutation` after Holm, over all pairs of the same strategy, kind, policy and metric."""

    noise: float | None
    """Share of tasks whose metric flips when the same is asked again, of the two models the larger;
    None: not both audited, or no rate."""

    detectable: float | None
    """The least difference that this design finds in four of five studies, at 5 %, before Holm."""

    finding: Literal["larger better", "smaller better", "no difference shown", "below the noise"]


class StrategyDifference(Record):
    """One model asked in two ways on the same tasks, under the headline policy of their kind."""

    model: str
    strategy: Strategy
    than: Strategy
    """The other way; left to right if that is one of the two."""

    kind: Kind
    policy: Policy
    metric: Metric
    difference: Estimate
    """As `strategy` asks minus as `than` does, paired by task."""

    p_permutation: float | None
    """As of `Pair`."""

    p_holm: float | None
    """After Holm, over all models and strategies of the same kind and metric."""

    noise: float | None
    """As of `Pair`: of the two strategies the larger."""

    finding: Literal["better", "worse", "no difference shown", "below the noise"]
    """Of `strategy`."""


class Trend(Record):
    """How a metric goes up with size."""

    strategy: Strategy
    kind: Kind
    policy: Policy
    metric: Metric
    models: tuple[str, ...]
    """By size, smallest first."""

    parameters: tuple[int, ...]
    slope: Estimate
    """Per doubling of the parameters."""

    note: str
    """What a reader must know of it: how few sizes, and that it goes no further than they do."""


By = Literal["length", "position", "part", "split", "dataset"]
"""Length of the reference in characters; position of the middle of the hole in its program, in
fifths; part of the syntax tree; split; data set."""


class Breakdown(Record):
    """A metric of one model on a part of the tasks, under the headline policy of their kind."""

    model: str
    strategy: Strategy
    kind: Kind
    policy: Policy
    metric: Metric
    by: By
    group: str
    order: int
    """Of the group among those of `by`."""

    estimate: Estimate


class PartDifference(Record):
    """Between the smallest and the largest model, on a part of the tasks. Not tested by itself."""

    smaller: str
    larger: str
    strategy: Strategy
    kind: Kind
    policy: Policy
    metric: Metric
    by: By
    group: str
    order: int
    difference: Estimate
    """Larger minus smaller, paired by task."""


class StrategyPartDifference(Record):
    """Between infilling and left to right, on a part of the tasks. Not tested by itself."""

    model: str
    strategy: Strategy
    than: Strategy
    kind: Kind
    policy: Policy
    metric: Metric
    by: By
    group: str
    order: int
    difference: Estimate
    """As `strategy` asks minus as `than` does, paired by task."""


class Noise(Record):
    """What changed when a part of a run's tasks was asked again."""

    model: str
    strategy: Strategy
    tasks: int
    text_changed: int
    exact_match_changed: int
    passed_changed: int | None
    """None: not judged."""


class Beside(Record):
    """A number of ours beside a published one of the same model on the official tasks."""

    model: str
    strategy: Strategy
    kind: Kind
    metric: Metric
    ours: Estimate
    published: float
    source: str


class Run(Record):
    """Where a part of the numbers comes from."""

    path: str
    model: str
    strategy: Strategy
    dataset: str
    created_at: str
    code_revision: str | None
    server: str
    """Base URL without credentials, version and fingerprint."""

    prompt_form: Literal["ids", "text", "unknown"]
    """`unknown`: the run was imported."""

    isolation: str | None
    """None: not judged."""

    manifest: dict[str, object]
    """The whole of `manifest.json`."""


class Check(Record):
    """Ceiling or floor of the judge on the problems at hand."""

    name: Literal["ceiling", "floor"]
    passed: int
    tasks: int
    detail: str


class Findings(Record):
    """All that a report says. `report.json`."""

    format: Literal[1] = 1
    made_at: str
    """UTC, ISO 8601."""

    fim_eval_version: str
    seed: int
    resamples: int
    headline_policy: dict[Kind, Policy]
    """The policy that the answer is told under: that of the literature for the kind."""

    answer: tuple[str, ...]
    """The answer in words, the first sentence by itself enough."""

    caveats: tuple[str, ...]
    """What a reader must know before believing it: unresolved tasks, disputed models, noise."""

    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    strategy_differences: tuple[StrategyDifference, ...] = ()
    trends: tuple[Trend, ...]
    breakdowns: tuple[Breakdown, ...]
    part_differences: tuple[PartDifference, ...] = ()
    strategy_part_differences: tuple[StrategyPartDifference, ...] = ()
    noise: tuple[Noise, ...]
    beside: tuple[Beside, ...]
    checks: tuple[Check, ...]
    runs: tuple[Run, ...]
    definitions: dict[str, str]
    """Of every metric and test, in a sentence."""

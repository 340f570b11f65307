"""What the numbers of a report mean, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping

from fim_eval.report.findings import Metric
from fim_eval.words import Kind, Policy, Strategy

HEADLINE: dict[Kind, Policy] = {
    "single-line": "reference-lines",
    "multi-line": "reference-lines",
    "random-span": "raw",
    "block": "syntax",
}
"""The policy that a kind is told under. Lines as InCoder's left-to-right baseline
(https://arxiv.org/abs/2204.05999), random spans as HumanEval-Infilling
(https://arxiv.org/abs/2207.14255), blocks as SAFIM (https://arxiv.org/abs/2403.04814)."""

RATES: frozenset[Metric] = frozenset(
    {"exact_match", "exact_match_rstrip", "pass_at_1", "pass_at_1_sensitive"}
)
"""0 or 1 for each task."""

LOWER_IS_BETTER: frozenset[Metric] = frozenset({"edit_distance", "bits_per_character"})

METRIC_NAMES: dict[Metric, str] = {
    "exact_match": "exact match",
    "exact_match_rstrip": "exact match (white space at the end ignored)",
    "edit_similarity": "edit similarity",
    "edit_distance": "edit distance",
    "pass_at_1": "pass@1",
    "pass_at_1_sensitive": "pass@1 on sensitive tasks",
    "bits_per_character": "bits per character",
}

STRATEGY_NAMES: dict[Strategy, str] = {
    "lr": "asked left to right",
    "lr-rerank": "asked left to right with candidates ranked",
    "fewshot": "asked with worked examples",
    "fim-psm": "asked to infill (prefix first)",
    "fim-spm": "asked to infill (suffix first)",
}

DEFINITIONS: Mapping[str, str] = {
    "exact_match": "Share of tasks whose filling is the reference to the last character, "
    "indentation and newline included.",
    "exact_match_rstrip": "The same with white space at the very end of both ignored (InCoder's "
    "rule).",
    "edit_similarity": "Mean over tasks of 1 - Levenshtein distance / length of the longer text; "
    "an unresolved task may be anything from 0 to 1.",
    "edit_distance": "Mean over tasks of the Levenshtein distance to the reference, in characters. "
    "Of an unresolved task it has no upper bound; quartiles are over answered tasks.",
    "pass_at_1": "Share of tasks whose filled program passes its problem's tests; one answer a "
    "task.",
    "pass_at_1_sensitive": "The same over sensitive tasks: those whose tests fail if the hole "
    "stays empty. A task whose emptiness could not be judged is counted as sensitive.",
    "bits_per_character": "Information of the reference filling given the prompt, -log2 p summed "
    "over all its tokens, by its characters: a ratio of two sums, not a mean of ratios.",
    "unresolved": "A task without an answer, or, in rates of passed tests, without a verdict. "
    "It is never left out and never counted as wrong: the number is told as the least and the most "
    "it can be, and its interval reaches from that of the least to that of the most.",
    "interval": "95 %, from a bootstrap over problems (all tasks of a problem are drawn together), "
    "percentiles moved outwards for few problems. Where all tasks of a rate agree, Wilson's with "
    "problems for cases.",
    "wilson": "Wilson's score interval, where no problem has two tasks.",
    "difference": "Larger minus smaller model, over the tasks that both were asked, paired by "
    "task.",
    "strategy_difference": "One model, asked in one way minus in another, paired by task, under "
    "the headline policy; p_holm is over all models and strategies of the same kind and metric.",
    "p_permutation": "How often a difference as large comes about if each problem's sign is drawn "
    "at random; two-sided. If something is unresolved, of its least favourable outcome.",
    "p_mcnemar": "McNemar's exact test on problems: those with more right answers of the one model "
    "against those with more of the other.",
    "p_holm": "p_permutation after Holm over all pairs of models of the same strategy, kind, "
    "policy and metric. Below 0.05 a difference is called one.",
    "detectable": "The least true difference that such a study finds in four of five cases at 5 %, "
    "before Holm: 2.8 standard errors.",
    "slope": "Least-squares line of the metric over log2(parameters): its rise per doubling, all "
    "sizes on the same tasks, problems drawn together for all sizes.",
    "noise": "Share of tasks whose exact match, or passing, changes when the same is asked again; "
    "of two models the larger. A smaller difference is called below the noise.",
    "headline_policy": "Truncation policy that the answer is told under, by kind: "
    + ", ".join(f"{kind} {policy}" for kind, policy in HEADLINE.items())
    + ". All policies are in the files.",
}


def billions(parameters: int) -> str:
    """A size as people say it.

    >>> billions(6_738_546_688), billions(134_515_008), billions(1_537_440)
    ('6.7 B', '135 M', '1.5 M')
    """
    size, unit = (parameters / 1e9, "B") if parameters >= 1e9 else (parameters / 1e6, "M")
    return f"{size:.{0 if size >= 10 else 1}f} {unit}"

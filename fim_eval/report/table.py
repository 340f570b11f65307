"""Scores of each task, and their summary: one row per model, strategy, kind and policy.

N is every task of the run, n those with an answer. What has no answer is unresolved: it is in no
numerator and in every denominator, and where there is any, rates are told as bounds. So it is, in
rates of passed tests, with an answer that has no verdict.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from fim_eval.journal import Outcomes
from fim_eval.metrics import score_columns, tpot_ms
from fim_eval.postprocess import POLICIES
from fim_eval.prompt import FILL_END
from fim_eval.records import (
    Completion,
    InfillTask,
    Likelihood,
    RequestFailure,
    RunIdentity,
    Verdict,
)
from fim_eval.report.filled import FilledRun, read_filled
from fim_eval.words import NO_VERDICT, Policy, Strategy, VerdictOutcome

GROUP = ("model", "strategy", "kind", "policy")
NOT_ASKED = "not-asked"
"""Of a task that stands in no line of the journal."""


def score_run(path: Path) -> pl.DataFrame:
    """`scores_of` the run directory at `path`.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    return scores_of(read_filled(path))


def scores_of(run: FilledRun) -> pl.DataFrame:
    """One row per task and policy of a run.

    Columns: model str, parameters i64 (null: not in our table), infills str, strategy str, kind
    str, policy str, problem_id str, task_id str, task_sha256 str (of its prefix, middle and
    suffix), part str (a `words.BlockPart`; null but for blocks), prefix_characters,
    reference_characters, program_characters i64, answered bool, failure str (a
    `words.FailureReason` or `not-asked`; null where answered); the columns of
    `metrics.score_columns`, null where unanswered; truncated bool (met the token limit),
    ended bool (wrote its end token or that of the sequence), ran_past bool (repeats the suffix:
    `suffix-overlap` would cut it), completion_tokens i64, segment i64, sent_ns i64, elapsed_ns i64,
    first_token_ns and last_token_ns i64 (since sent; null unless streamed),
    null where unanswered, and in imported runs but for ran_past; judged bool (the run was, at least
    in part); verdict str (a `words.VerdictOutcome`) and passed bool, null without a verdict;
    sensitive bool: the tests fail if the hole stays empty, null if that was not judged; asked_gold
    bool (the reference answers' probability was asked), gold_bits f64 of the reference middle,
    gold_characters i64 of it, gold_end_bits f64 of what ends it, null where not known.
    """
    manifest, outcomes = run.manifest, run.outcomes
    strategy = manifest.identity.strategy
    rows: dict[Policy, list[tuple[object, ...]]] = {policy: [] for policy in POLICIES}
    answers: dict[Policy, list[str]] = {policy: [] for policy in POLICIES}
    for task, answer, middles, verdicts, floor in run.tasks:
        gold = outcomes.likelihoods.get((task.task_id, strategy, 0, "gold"))
        known = gold if isinstance(gold, Likelihood) else None
        empty = _outcome(floor)
        # Of an imported answer nothing but its text is known.
        ours = answer if isinstance(answer, Completion) else None
        of_task = (
            task.kind, task.problem_id, task.task_id, _task_sha256(task), task.part,
            len(task.prefix), len(task.middle), len(task.prefix + task.middle + task.suffix),
            answer is not None, None if answer else _failure(outcomes, task, manifest.identity),
            ours and ours.finish_reason == "length",
            ours and _ended(ours),
            # Shorter by more than the newline that a policy may add.
            answer and len(middles["suffix-overlap"]) < len(answer.text),
            ours and _tokens(outcomes, task, strategy),
            ours and ours.segment, ours and ours.sent_ns, ours and ours.elapsed_ns,
            ours and ours.first_token_ns, ours and ours.last_token_ns,
            bool(run.sessions), empty and empty != "passed",
            run.asked_gold, known and _bits(known.logprobs), known and known.characters,
            known and (_bits(known.end_logprobs) if known.end_logprobs else None),
        )  # fmt: skip
        for policy in POLICIES:
            middle = middles.get(policy, "")
            verdict = _outcome(verdicts.get(middle))
            rows[policy].append((policy, *of_task, verdict, verdict and verdict == "passed"))
            answers[policy].append(middle)
    card = manifest.card
    schema = {
        "policy": pl.String,
        "kind": pl.String,
        "problem_id": pl.String,
        "task_id": pl.String,
        "task_sha256": pl.String,
        "part": pl.String,
        "prefix_characters": pl.Int64,
        "reference_characters": pl.Int64,
        "program_characters": pl.Int64,
        "answered": pl.Boolean,
        "failure": pl.String,
        "truncated": pl.Boolean,
        "ended": pl.Boolean,
        "ran_past": pl.Boolean,
        "completion_tokens": pl.Int64,
        "segment": pl.Int64,
        "sent_ns": pl.Int64,
        "elapsed_ns": pl.Int64,
        "first_token_ns": pl.Int64,
        "last_token_ns": pl.Int64,
        "judged": pl.Boolean,
        "sensitive": pl.Boolean,
        "asked_gold": pl.Boolean,
        "gold_bits": pl.Float64,
        "gold_characters": pl.Int64,
        "gold_end_bits": pl.Float64,
        "verdict": pl.String,
        "passed": pl.Boolean,
    }
    scores = score_columns(
        [middle for policy in POLICIES for middle in answers[policy]],
        [filled.task.middle for _ in POLICIES for filled in run.tasks],
    )
    frame = pl.DataFrame(
        [row for policy in POLICIES for row in rows[policy]], schema=schema, orient="row"
    ).hstack(scores)
    return frame.with_columns(
        pl.lit(manifest.identity.model).alias("model"),
        pl.lit(card.parameters if card else None, dtype=pl.Int64).alias("parameters"),
        pl.lit(card.infills if card else "unknown").alias("infills"),
        pl.lit(strategy).alias("strategy"),
        *(pl.when("answered").then(name).alias(name) for name in scores.columns),
    )


def _task_sha256(task: InfillTask) -> str:
    content = "\0".join((task.prefix, task.middle, task.suffix))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _failure(outcomes: Outcomes, task: InfillTask, identity: RunIdentity) -> str:
    """Why a task has no answer: its first failure, or that it was never asked."""
    for index in range(identity.samples):
        key = (task.task_id, identity.strategy, index)
        for found in (outcomes.generations.get(key), outcomes.likelihoods.get((*key, "candidate"))):
            if isinstance(found, RequestFailure):
                return found.reason
    return NOT_ASKED


def _ended(answer: Completion) -> bool:
    """Whether the model said that it was done: no limit and no stop string spoke for it.

    The closing marker of `fewshot` is the model's own word.
    """
    spoken = answer.stop_reason == FILL_END or not isinstance(answer.stop_reason, str)
    return answer.finish_reason == "stop" and spoken


def _tokens(outcomes: Outcomes, task: InfillTask, strategy: Strategy) -> int | None:
    """What a task's answer cost: the generated tokens of all its candidates."""
    total = index = 0
    while found := outcomes.generations.get((task.task_id, strategy, index)):
        if not isinstance(found, Completion) or found.completion_tokens is None:
            return None
        # What was asked with another task's prompt has cost nothing more.
        total += found.completion_tokens if found.asked_as is None else 0
        index += 1
    return total


def _bits(logprobs: Sequence[float]) -> float:
    """Information of tokens in bits: the sum of -log2 p."""
    return -math.fsum(logprobs) / math.log(2)


def _outcome(verdict: Verdict | None) -> VerdictOutcome | None:
    """None if there is no verdict, by our fault or its data set's too."""
    return None if verdict is None or verdict.outcome in NO_VERDICT else verdict.outcome


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """One row per model × strategy × kind × policy, smallest model first.

    Columns:
        model, strategy, kind, policy str; parameters i64; infills str.
        tasks u32: N. answered u32: n. unresolved u32: N - n.
        exact_match, exact_match_rstrip, edit_similarity, indel_ratio f64 in [0, 1]: mean over all
            N; null if any is unresolved. `<name>_low` and `<name>_high`: its bounds, every
            unresolved task counted as 0 or as 1; all three are equal if none is.
        pass_at_1 f64 in [0, 1]: tasks whose program passes its tests, of all N (one answer each:
            Chen et al. 2021 with n = k = 1); null if any is without a verdict.
            pass_at_1_low, pass_at_1_high: its bounds. All three null if the run was not judged.
        sensitive_tasks u32: tasks whose tests fail if the hole stays empty; null if not judged.
        pass_at_1_sensitive, and _low, _high: the same of these only.
        unjudged u32: answered tasks without a verdict.
        edit_distance_mean, edit_distance_median f64, characters: over the n answered.
        gold_tasks u32: tasks whose reference middle's probability is known; null if not asked.
        bits_per_character f64: information of the reference middle given the prompt, -log2 p summed
            over its tokens, of these tasks together, by their characters together. Not a mean of
            quotients: in it a hole of one character would weigh as much as one of thirty lines,
            and an empty one would have none. Null if not asked, or of no character.
        end_bits f64: information of what ends the middle, mean over these tasks; null where the
            strategy has no end, or not asked.
        truncated u32: answers that met the token limit; null for imported runs, where that is not
            known.
        no_end u32: answers that did not write an end token: met the limit or a stop string; null
            for imported runs.
        ran_past u32: answers that go on to repeat the suffix.
        completion_tokens i64: sum over answers, of `lr-rerank` over all candidates; null if the
            server counts none.
        wall_s f64: from the first request sent to the last answer received, summed over the
            run's sessions; null if nothing was answered. What was scored is not in it.
        tokens_per_s f64: completion_tokens / wall_s.
        streamed u32: answers whose tokens were seen to come.
        ttft_s f64: time to first token, median over these, in seconds; null if there are none.
        tpot_ms f64: time per output token, see `metrics.tpot_ms`, median over these.
    """
    rates = ("exact_match", "exact_match_rstrip", "edit_similarity", "indel_ratio")
    total = pl.len()
    answered = pl.col("answered").sum()
    sums = {name: pl.col(name).cast(pl.Float64).sum() for name in rates}
    judged = pl.col("judged").any()
    # A task whose floor has no verdict may be sensitive: it stays.
    sensitive = pl.col("sensitive").fill_null(value=True)
    wall = _wall_s(scores)
    summary = scores.group_by(GROUP, maintain_order=True).agg(
        pl.col("parameters").first(),
        pl.col("infills").first(),
        total.cast(pl.UInt32).alias("tasks"),
        answered.cast(pl.UInt32).alias("answered"),
        (total - answered).cast(pl.UInt32).alias("unresolved"),
        *(pl.when(answered == total).then(sums[name] / total).alias(name) for name in rates),
        *((sums[name] / total).alias(f"{name}_low") for name in rates),
        *(((sums[name] + (total - answered)) / total).alias(f"{name}_high") for name in rates),
        *_pass_rate("pass_at_1", pl.col("passed"), judged),
        pl.when(judged).then(sensitive.sum()).cast(pl.UInt32).alias("sensitive_tasks"),
        *_pass_rate("pass_at_1_sensitive", pl.col("passed").filter(sensitive), judged),
        (answered - pl.col("passed").count()).cast(pl.UInt32).alias("unjudged"),
        pl.col("edit_distance").mean().alias("edit_distance_mean"),
        pl.col("edit_distance").median().alias("edit_distance_median"),
        pl.when(pl.col("asked_gold").any())
        .then(pl.col("gold_bits").count())
        .cast(pl.UInt32)
        .alias("gold_tasks"),
        pl.when(pl.col("gold_characters").sum() > 0)
        .then(pl.col("gold_bits").sum() / pl.col("gold_characters").sum())
        .alias("bits_per_character"),
        pl.col("gold_end_bits").mean().alias("end_bits"),
        pl.when(pl.col("truncated").count() == answered)
        .then(pl.col("truncated").sum())
        .cast(pl.UInt32)
        .alias("truncated"),
        pl.when(pl.col("ended").count() == answered)
        .then(answered - pl.col("ended").sum())
        .cast(pl.UInt32)
        .alias("no_end"),
        pl.col("ran_past").sum().cast(pl.UInt32).alias("ran_past"),
        pl.when(pl.col("completion_tokens").is_not_null().any())
        .then(pl.col("completion_tokens").sum())
        .alias("completion_tokens"),
        pl.col("first_token_ns").count().cast(pl.UInt32).alias("streamed"),
        (pl.col("first_token_ns") / 1e9).median().alias("ttft_s"),
        tpot_ms().median().alias("tpot_ms"),
    )
    return in_order(
        summary.join(wall, on=GROUP, how="left", maintain_order="left").with_columns(
            (pl.col("completion_tokens") / pl.col("wall_s")).alias("tokens_per_s")
        )
    )


def in_order(summary: pl.DataFrame) -> pl.DataFrame:
    """Rows of `summarise` in their order: smallest model first."""
    return summary.sort(
        "parameters", "model", pl.col("strategy").replace_strict(STRATEGY_ORDER, default=9),
        "kind", pl.col("policy").replace_strict({p: i for i, p in enumerate(POLICIES)}),
        nulls_last=True,
    )  # fmt: skip


def _pass_rate(name: str, passed: pl.Expr, judged: pl.Expr) -> list[pl.Expr]:
    """A rate of passed tasks and its bounds; `passed` is null where there is no verdict."""
    total, known, sum_ = passed.len(), passed.count(), passed.cast(pl.Float64).sum()
    low, high = sum_ / total, (sum_ + total - known) / total
    return [
        pl.when(judged & (known == total)).then(low).alias(name),
        pl.when(judged).then(low).alias(f"{name}_low"),
        pl.when(judged).then(high).alias(f"{name}_high"),
    ]


STRATEGY_ORDER: dict[str, int] = {"lr": 0, "lr-rerank": 1, "fewshot": 2, "fim-psm": 3, "fim-spm": 4}


def _wall_s(scores: pl.DataFrame) -> pl.DataFrame:
    """Columns: those of `GROUP`, wall_s f64 in seconds; groups without an answer are missing."""
    return (
        scores.filter(pl.col("sent_ns").is_not_null())
        .group_by(*GROUP, "segment")
        .agg(
            ((pl.col("sent_ns") + pl.col("elapsed_ns")).max() - pl.col("sent_ns").min()).alias(
                "span_ns"
            )
        )
        .group_by(GROUP)
        .agg((pl.col("span_ns").sum() / 1e9).alias("wall_s"))
    )

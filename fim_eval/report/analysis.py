"""From scored runs to findings: every number of a report, and where it comes from.

What is asked of the numbers stands in `rows`, `pairs`, `strategies`, `trends` and `parts`; all of
it is answered together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from urllib.parse import urlsplit

from fim_eval.published import Published, published
from fim_eval.report import strategies
from fim_eval.report.answer import caveats_of, in_words, is_rehearsed
from fim_eval.report.definitions import DEFINITIONS, HEADLINE
from fim_eval.report.estimates import Answer, Later, Questions
from fim_eval.report.findings import Beside, Findings, Metric, Run
from fim_eval.report.noise import noise_of
from fim_eval.report.pairs import judged, pairs
from fim_eval.report.parts import breakdowns, part_differences
from fim_eval.report.rows import rows
from fim_eval.report.scored import OFFICIAL, ScoredRun
from fim_eval.report.study import Cell, Study
from fim_eval.report.table import STRATEGY_ORDER
from fim_eval.report.trends import trends


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
    study = Study(others or official)
    calibration = study if not others else Study(official) if official else None
    questions = Questions()
    of_rows = rows(study, questions)
    of_pairs = list(pairs(study, questions))
    of_strategies = list(strategies.strategy_differences(study, questions))
    of_trends = list(trends(study, questions))
    of_parts = list(breakdowns(study, questions))
    of_differences = list(part_differences(study, questions))
    of_strategy_parts = list(strategies.strategy_part_differences(study, questions))
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
        rows=tuple(later(answers) for later in of_rows),
        pairs=judged([later(answers) for later in of_pairs], noise),
        strategy_differences=strategies.judged([later(answers) for later in of_strategies], noise),
        trends=tuple(later(answers) for later in of_trends),
        breakdowns=tuple(later(answers) for later in of_parts),
        part_differences=tuple(later(answers) for later in of_differences),
        strategy_part_differences=tuple(later(answers) for later in of_strategy_parts),
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


def _beside(study: Study, questions: Questions) -> Iterator[Later[Beside]]:
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

"""What a doubling of parameters adds: a line through the sizes at hand, and nothing beyond."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

from fim_eval.report.definitions import billions
from fim_eval.report.estimates import Answer, Later, Questions, combined
from fim_eval.report.findings import Metric, Trend
from fim_eval.report.scored import Model
from fim_eval.report.study import Cell, Study
from fim_eval.statistics import slope_weights


def trends(study: Study, questions: Questions) -> Iterator[Later[Trend]]:
    """The slope over the models that are alike, where their sizes are known and not all one."""
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

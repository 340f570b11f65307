"""The command that computes before anyone is asked: `plan`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fim_eval.cli.asking import named_strategies
from fim_eval.cli.console import say
from fim_eval.cli.options import (
    ContextChoice,
    Gold,
    KindName,
    Limit,
    MaxTokens,
    PerProblem,
    Problems,
    Samples,
    Seed,
    SplitName,
    TokenizerSource,
)
from fim_eval.errors import PlanError
from fim_eval.words import INFILLING, Strategy

if TYPE_CHECKING:
    from rich.table import Table

    from fim_eval.plan import Assumptions, Device, ServerPlan, Workload
    from fim_eval.suite import Suite


def plan(
    problems: Problems = "mbpp",
    split: SplitName = "test",
    kind: KindName = None,
    per_problem: PerProblem = None,
    seed: Seed = 0,
    limit: Limit = None,
    models: Annotated[
        str,
        typer.Option(
            "--models",
            help="Separated by commas: names of files in --servers, model ids of our table, or "
            "folders with a config.json.",
        ),
    ] = "7b,13b,34b,70b",
    servers: Annotated[
        Path, typer.Option("--servers", help="Folder of vLLM configuration files.")
    ] = Path("servers"),
    gpu: Annotated[
        str,
        typer.Option("--gpu", help="Kind of GPU, or cpu: this machine, measured for a second."),
    ] = "A100-80",
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="In one machine.")] = 8,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines.")] = 1,
    strategies: Annotated[
        str | None, typer.Option("--strategies", help="As for eval; by default as eval would ask.")
    ] = None,
    tokenizer: TokenizerSource = None,
    context: ContextChoice = "text",
    max_tokens: MaxTokens = None,
    samples: Samples = 10,
    gold: Gold = False,
    in_flight: Annotated[
        int, typer.Option("--in-flight", min=1, help="Requests kept at work in each server.")
    ] = 128,
    prefix_hits: Annotated[
        float,
        typer.Option(
            "--prefix-hits",
            min=0,
            max=1,
            help="Share of prompt tokens that the prefix cache spares where problems' prompts "
            "begin alike; fim-spm has none.",
        ),
    ] = 0.5,
    disagreement: Annotated[
        float,
        typer.Option(
            "--disagreement", min=0, max=1, help="Guess: tasks that only one of two models solves."
        ),
    ] = 0.2,
    correlation: Annotated[
        float,
        typer.Option(
            "--correlation",
            min=0,
            max=1,
            help="Guess: how alike the tasks of one problem turn out.",
        ),
    ] = 0.3,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """What a study needs: GPUs, memory, hours, tokens, and the difference that it could tell.

    Asks no model and starts nothing. How far its predictions are off stands in docs/serving.md.
    """
    from fim_eval.plan import (
        MEASURED,
        Assumptions,
        plan_server,
    )
    from fim_eval.statistics import detectable, planned_error
    from fim_eval.suite import build_suite

    suite = build_suite(problems, split, kind, say, per_problem=per_problem, seed=seed)
    device = _device(gpu)
    assumed = MEASURED if gpu == "cpu" else Assumptions()
    chosen = named_strategies(strategies)
    plans: list[ServerPlan] = []
    for name in filter(None, (each.strip() for each in models.split(","))):
        model, architecture, settings = _server(name, servers)
        if gpu == "cpu":
            settings = _on_processor(settings)
        workloads = _workloads(
            suite,
            model,
            chosen or _usual(model),
            tokenizer=tokenizer,
            context=context,
            max_tokens=max_tokens,
            samples=samples,
            gold=gold,
            limit=limit,
            prefix_hits=prefix_hits,
        )
        plans.append(
            plan_server(
                model,
                architecture,
                settings,
                device,
                workloads,
                gpus_per_node=1 if gpu == "cpu" else gpus,
                nodes=1 if gpu == "cpu" else nodes,
                in_flight=in_flight,
                assumed=assumed,
            )
        )
    if not plans:
        raise PlanError("--models names none")
    tasks = list(islice(suite.tasks, limit))
    clusters = len({task.problem_id for task in tasks})
    whole = _whole(
        plans,
        tasks=len(tasks),
        difference=detectable(
            planned_error(
                clusters,
                len(tasks) / clusters,
                discordant=disagreement,
                correlation=correlation,
            )
        ),
    )
    if as_json:
        sys.stdout.write(_as_json(plans, device, assumed, whole) + "\n")
    else:
        _tell(plans, device, whole)


def _device(gpu: str) -> Device:
    from fim_eval.plan import device_of

    if gpu != "cpu":
        return device_of(gpu)
    from fim_eval.machine import measured_processor

    device = measured_processor()
    say(
        f"this machine: {device.bandwidth / 1e9:.1f} GB/s and {device.flops / 1e9:.0f} GFLOP/s "
        f"({device.source})"
    )
    return device


def _server(name: str, folder: Path) -> tuple[str, Any, Any]:
    """The model's name, its architecture, and the settings of the file that starts it."""
    import yaml

    from fim_eval.architecture import architecture_of, read_architecture
    from fim_eval.formats import card_of
    from fim_eval.plan import ServerSettings

    path = folder / f"{name}.yaml"
    options = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    model = str(options.get("served-model-name", name))
    usual = ServerSettings()
    settings = ServerSettings(
        max_model_len=options.get("max-model-len", usual.max_model_len),
        utilization=options.get("gpu-memory-utilization", usual.utilization),
        max_num_seqs=options.get("max-num-seqs", usual.max_num_seqs),
        max_num_batched_tokens=options.get("max-num-batched-tokens", usual.max_num_batched_tokens),
    )
    card = card_of(model)
    known = architecture_of(card.model_id if card else model)
    if known is not None:
        return card.model_id if card else model, known, settings
    config = Path(name).expanduser() / "config.json"
    if config.is_file():
        try:
            content = json.loads(config.read_bytes())
        except ValueError as error:
            raise PlanError(f"{config}: is no JSON ({error})") from error
        return name, read_architecture(content, str(config)), settings
    there = ", ".join(sorted(each.stem for each in folder.glob("*.yaml"))) or "none"
    raise PlanError(
        f"{name}: is no file of {folder} (there are {there}), no model of our table and no folder "
        "with a config.json"
    )


def _on_processor(settings: Any) -> Any:
    """Weights of 4 bytes, which is what a processor without bfloat16 is fast with."""
    from dataclasses import replace

    return replace(settings, element_bytes=4, cache_element_bytes=4)


def _usual(model: str) -> tuple[Strategy, ...]:
    from fim_eval.formats import card_of
    from fim_eval.study import strategies_for

    return strategies_for(card_of(model))


def _workloads(
    suite: Suite,
    model: str,
    strategies: Sequence[Strategy],
    *,
    tokenizer: str | None,
    context: Any,
    max_tokens: int | None,
    samples: int,
    gold: bool,
    limit: int | None,
    prefix_hits: float,
) -> list[Workload]:
    """What each strategy would ask, in tokens: counted with a tokenizer, else by characters."""
    from fim_eval.plan import CHARACTERS_PER_TOKEN, Workload
    from fim_eval.prompt import MAX_TOKENS
    from fim_eval.recipe import Recipe, prepare
    from fim_eval.suite import worked_examples

    tasks = list(islice(suite.tasks, limit))
    middle = sum(len(task.middle) for task in tasks) / CHARACTERS_PER_TOKEN / len(tasks)
    found: list[Workload] = []
    for strategy in strategies:
        recipe = Recipe(
            model=model,
            # Characters of an infilling prompt: those left to right, and the suffix.
            strategy=strategy if tokenizer or strategy not in INFILLING else "lr",
            context=context,
            tokenizer=tokenizer,
            examples=worked_examples(suite, say) if strategy == "fewshot" else (),
        )
        prompts = list(map(prepare(recipe).prompt_of, tasks))
        if tokenizer:
            asked = sum(len(prompt.token_ids or ()) for prompt in prompts) / len(prompts)
        else:
            characters = sum(len(prompt.text or "") for prompt in prompts)
            if strategy in INFILLING:
                characters += sum(len(task.suffix) for task in tasks)
            asked = characters / CHARACTERS_PER_TOKEN / len(prompts)
        most = sum(max_tokens or MAX_TOKENS[task.kind] for task in tasks) / len(tasks)
        hits = 0.0 if strategy == "fim-spm" else prefix_hits
        # Trained to end where the hole ends; left to right nothing ends a model but the limit.
        new = min(most, middle + 1) if strategy in INFILLING else most
        times = samples if strategy == "lr-rerank" else 1
        found.append(
            Workload(
                name=strategy,
                requests=len(tasks) * times,
                prompt_tokens=asked,
                new_tokens=new,
                prefix_hits=hits,
            )
        )
        if strategy == "lr-rerank" or gold:
            # Scoring computes every token of the text: vLLM takes none of them from the cache.
            count = len(tasks) * ((samples if strategy == "lr-rerank" else 0) + (1 if gold else 0))
            after = sum(len(task.suffix) for task in tasks) / CHARACTERS_PER_TOKEN / len(tasks)
            found.append(
                Workload(
                    name=f"{strategy}, scored",
                    requests=count,
                    prompt_tokens=asked + middle + (after if strategy == "lr-rerank" else 0),
                    new_tokens=1,
                )
            )
    return found


def _whole(plans: Sequence[ServerPlan], *, tasks: int, difference: float) -> dict[str, float]:
    """Sums over all models, served one after the other on all GPUs."""
    from fim_eval.plan import PROGRAMS_PER_WORKER_S

    estimates = [each for one in plans for each in one.estimates]
    programs = sum(
        each.workload.requests for each in estimates if not each.workload.name.endswith("scored")
    )
    return {
        "tasks": tasks,
        "requests": sum(each.workload.requests for each in estimates),
        "tokens_in": sum(each.workload.tokens_in for each in estimates),
        "tokens_out": sum(each.workload.tokens_out for each in estimates),
        "wall_s": sum(one.wall_s for one in plans),
        "gpu_s": sum(one.gpu_s for one in plans),
        "client_requests_per_s": max(one.client_rate for one in plans),
        "programs": programs,
        "judging_worker_s": programs / PROGRAMS_PER_WORKER_S,
        "minimum_detectable_difference": difference,
    }


def _as_json(
    plans: Sequence[ServerPlan], device: Device, assumed: Assumptions, whole: dict[str, float]
) -> str:
    rows = [
        asdict(one)
        | {"wall_s": one.wall_s, "gpu_s": one.gpu_s, "client_requests_per_s": one.client_rate}
        for one in plans
    ]
    content = {
        "device": asdict(device),
        "assumed": asdict(assumed),
        "models": rows,
        "whole": whole,
    }
    return json.dumps(content, indent=2)


def _tell(plans: Sequence[ServerPlan], device: Device, whole: dict[str, float]) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(_table(plans, device, console.width if sys.stdout.isatty() else None))
    rounded = {name: f"{value:,.0f}" for name, value in whole.items()}
    console.print(
        f"In all: {rounded['tasks']} tasks, {rounded['requests']} requests, "
        f"{whole['tokens_in'] / 1e6:.1f} M tokens in, {whole['tokens_out'] / 1e6:.1f} M out; "
        f"{_time(whole['wall_s'])} with one model after the other on all GPUs, "
        f"{_time(whole['gpu_s'])} of one GPU.\n"
        f"The client has to sustain {rounded['client_requests_per_s']} requests/s. "
        f"Judging {rounded['programs']} programs: {_time(whole['judging_worker_s'])} of one worker."
        f"\nTwo models whose rates differ by {100 * whole['minimum_detectable_difference']:.1f} "
        "points would be told apart (80 % power, 5 % level; from guessed variances).",
        highlight=False,
    )


COLUMNS = (
    "model", "starts\non", "TP x\nPP", "weights\nGB/GPU", "cache\nGB/GPU", "cache\ntokens",
    "in\nflight", "prefill\nms", "token\nms", "requests\n/s", "bound by", "servers", "time",
)  # fmt: skip
SPARED = (
    "cache\nGB/GPU", "cache\ntokens", "in\nflight", "starts\non", "prefill\nms", "token\nms",
    "weights\nGB/GPU",
)  # fmt: skip
"""Left out first where a terminal is narrow."""


def _table(plans: Sequence[ServerPlan], device: Device, width: int | None = None) -> Table:
    from rich import box
    from rich.table import Table

    from fim_eval.terminal import left_out, no_room

    rows = _rows(plans)
    columns = {header: [row[place] for row in rows] for place, header in enumerate(COLUMNS)}
    # Rich puts a blank at the edges too.
    missing = left_out(columns, SPARED, width and width - 2, gap=2)
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_style="",
        title=f"{device.name}: {device.source}", caption=no_room(missing, "--json has all"),
    )  # fmt: skip
    shown = [header for header in COLUMNS if header not in missing]
    for header in shown:
        words = header in ("model", "bound by")
        table.add_column(header, justify="left" if words else "right", no_wrap=True)
    for place in range(len(rows)):
        table.add_row(*(columns[header][place] for header in shown))
    return table


def _rows(plans: Sequence[ServerPlan]) -> list[list[str]]:
    """A line per model, then one per workload of it: a cell for each of `COLUMNS`."""
    from fim_eval.plan import GB

    rows = []
    for one in plans:
        layout = one.layout
        rows.append([
            one.model.rpartition("/")[2],
            str(one.starts_on.gpus),
            f"{layout.tensor_parallel} x {layout.pipeline_parallel}",
            f"{one.memory.weights / GB:.1f}",
            f"{one.memory.cache / GB:.1f}",
            f"{one.memory.cache_tokens:,}",
            *[""] * 5,
            str(one.replicas),
            _time(one.wall_s),
        ])  # fmt: skip
        rows += [
            [
                f"  {each.workload.name}: {each.workload.prompt_tokens:.0f} in, "
                f"{each.workload.new_tokens:.0f} out",
                *[""] * 5,
                str(each.in_flight),
                f"{1000 * each.prefill_s:.1f}",
                f"{1000 * each.step_s:.1f}",
                f"{each.requests_per_s:.0f}" if each.requests_per_s >= 10
                else f"{each.requests_per_s:.2f}",
                each.limit,
                "",
                "",
            ]
            for each in one.estimates
        ]  # fmt: skip
    return rows


def _time(seconds: float) -> str:
    """A span of time as a person says it.

    >>> _time(59), _time(61), _time(7300)
    ('59 s', '2 min', '2.0 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

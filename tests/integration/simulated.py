"""Whole studies that were never asked: run directories of models whose true rates are set.

Programs, answers and verdicts are made up, in files as `run` and `verify` write them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fim_eval.formats import card_of
from fim_eval.judge import program_key
from fim_eval.lines import json_lines, sealed_lines
from fim_eval.postprocess import POLICIES, filled_middle, filled_program
from fim_eval.records import (
    Completion,
    DatasetFacts,
    InfillTask,
    JudgeRules,
    JudgeSession,
    Likelihood,
    Problem,
    ReferenceRun,
    RequestFailure,
    RunIdentity,
    RunManifest,
    Sampling,
    Segment,
    ServerIdentity,
    TaskFacts,
    Timeouts,
    Verdict,
)
from fim_eval.words import Kind, Strategy

SHA = "0" * 64


@dataclass(frozen=True)
class Simulated:
    """A model: how often it is right, and how often right in other words."""

    name: str
    rate: float
    """Share of tasks whose program passes."""

    other_words: float = 0.2
    """Of these, the share that is no exact match."""

    card: str | None = None
    strategy: Strategy = "lr"
    unanswered: frozenset[str] = frozenset()
    """Task ids."""

    unjudged: frozenset[str] = frozenset()
    bits: float | None = None
    """Per character of the reference; None: not asked."""

    dataset: str = "mbpp"
    server_version: str = "0.32.0"
    noise: int = 0
    """Another seed for the model's own luck."""


@dataclass(frozen=True)
class Suite:
    """Problems and the tasks cut from them."""

    problems: list[Problem]
    tasks: list[InfillTask]
    hardness: dict[str, float] = field(default_factory=dict)
    """By problem, uniform in [0, 1]: what the tasks of a problem, and all models, share."""


def suite(problems: int, kinds: Sequence[Kind], *, lines: int = 1, seed: int = 0) -> Suite:
    """Made-up problems, each with `lines` holes of each kind."""
    draw = random.Random(seed)  # noqa: S311  no secret
    made: list[Problem] = []
    tasks: list[InfillTask] = []
    count = lines * len(kinds)
    for number in range(problems):
        name = f"Made/{number}"
        numbers = [draw.getrandbits(draw.randrange(4, 90)) for _ in range(count)]
        body = [
            f"    value_{line} = {'abcdefgh'[line % 8]} * {factor}\n"
            for line, factor in enumerate(numbers)
        ]
        code = f"def solve_{number}(a, b, c, d, e, f, g, h):\n" + "".join(body) + "    return a\n"
        split = ("test", "train", "validation")[number % 3]
        made.append(
            Problem.model_validate(
                {
                    "problem_id": name, "split": split, "text": None, "code": code,
                    "body_offset": None, "tests": ("assert True",), "challenge_tests": (),
                    "test_setup": "",
                }
            )
        )  # fmt: skip
        for place, line in enumerate(body):
            start = code.index(line)
            kind = kinds[place % len(kinds)]
            tasks.append(
                InfillTask(
                    task_id=f"{name}/{kind}/L{place + 1}",
                    problem_id=name,
                    kind=kind,
                    part="call" if kind == "block" else None,
                    context=None,
                    prefix=code[:start],
                    middle=line,
                    suffix=code[start + len(line) :],
                )
            )
    return Suite(made, tasks, {one.problem_id: draw.random() for one in made})


def answer(task: InfillTask, model: Simulated, hardness: float) -> tuple[str, bool]:
    """What a model writes, and whether it passes.

    Half of a model's luck is the problem's, so that tasks of a problem are correlated; its mean
    over problems is the rate.
    """
    draw = random.Random(f"{task.task_id} {model.name} {model.strategy} {model.noise}")  # noqa: S311
    right = hardness < model.rate if draw.random() < 0.5 else draw.random() < model.rate
    if not right:
        return task.middle.replace("*", "+", 1) + "    other = 0\n", False
    if draw.random() < model.other_words:
        return task.middle.replace(" = ", "  =  "), True
    return task.middle, True


def write_run(folder: Path, of: Suite, model: Simulated) -> Path:
    """The run directory of one model."""
    folder.mkdir(parents=True)
    tasks, tests_sha256 = json_lines(of.tasks), SHA
    problems = json_lines(of.problems)
    (folder / "tasks.jsonl").write_bytes(tasks)
    (folder / "problems.jsonl").write_bytes(problems)
    (folder / "manifest.json").write_bytes(
        _manifest(of, model, tasks, problems).model_dump_json().encode()
    )
    segment = Segment(
        segment=0, started_at="2026-11-24T00:00:00+00:00", base_url="http://x/v1",
        asked=len(of.tasks), gold=model.bits is not None, pid=1, concurrency=1,
    )  # fmt: skip
    (folder / "segments.jsonl").write_bytes(sealed_lines([segment]))
    verdicts: dict[str, Verdict] = {}
    (folder / "generations.jsonl").write_bytes(
        sealed_lines(_outcomes(of, model, verdicts, tests_sha256))
    )
    session = JudgeSession(
        session=0, started_at="2026-11-24T00:00:00+00:00", fim_eval_version="0.1.0",
        rules=JudgeRules(
            tests="standard", python="3.11", time_floor_s=2, time_factor=10, memory_bytes=1 << 30,
            output_bytes=1 << 20,
        ),
        isolation="none", isolation_detail="", workers=1, python="3.11", platform="Linux", pid=1,
    )  # fmt: skip
    (folder / "judging.jsonl").write_bytes(sealed_lines([session]))
    references = [
        ReferenceRun(
            problem_id=one.problem_id, tests_sha256=tests_sha256, outcome="passed", detail="",
            cpu_s=0.01, time_limit_s=2,
        )
        for one in of.problems
    ]  # fmt: skip
    (folder / "references.jsonl").write_bytes(sealed_lines(references))
    (folder / "verdicts.jsonl").write_bytes(sealed_lines(verdicts.values()))
    return folder


def write_study(folder: Path, of: Suite, models: Sequence[Simulated]) -> list[Path]:
    """The run directories of several models, by name."""
    return [write_run(folder / f"{one.name}.{one.strategy}", of, one) for one in models]


def true_rates(of: Suite, model: Simulated) -> Mapping[str, bool]:
    """Whether each task passes."""
    return {task.task_id: answer(task, model, of.hardness[task.problem_id])[1] for task in of.tasks}


def _outcomes(
    of: Suite, model: Simulated, verdicts: dict[str, Verdict], tests_sha256: str
) -> Iterator[Completion | RequestFailure | Likelihood]:
    for place, task in enumerate(of.tasks):
        key = {"task_id": task.task_id, "strategy": model.strategy, "sample_index": 0}
        when = {"attempts": 1, "segment": 0, "sent_ns": place * 1_000, "elapsed_ns": 50_000_000}
        if model.bits is not None:
            bits = model.bits * len(task.middle)
            yield Likelihood.model_validate(
                key | when | {
                    "scored": "gold", "logprobs": (-bits * 0.6931471805599453,),
                    "end_logprobs": (), "tokens": 1, "characters": len(task.middle),
                    "prompt_tokens": 10, "system_fingerprint": None, "answered_as": model.name,
                }
            )  # fmt: skip
        if task.task_id in model.unanswered:
            yield RequestFailure.model_validate(key | when | {"reason": "timeout", "detail": ""})
            continue
        text, passes = answer(task, model, of.hardness[task.problem_id])
        yield Completion.model_validate(
            key | when | {
                "text": text, "server_text": None, "token_ids": None, "finish_reason": "stop",
                "stop_reason": None, "prompt_tokens": 10, "completion_tokens": 5,
                "system_fingerprint": None, "answered_as": model.name,
            }
        )  # fmt: skip
        fillings = {filled_middle(policy, text, task) for policy in POLICIES}
        for middle, passed in [*((one, passes) for one in fillings), ("", False)]:
            sha256 = program_key(filled_program(task, middle), tests_sha256)
            lost = middle and task.task_id in model.unjudged
            outcome = "sandbox-error" if lost else "passed" if passed else "wrong-answer"
            verdicts[sha256] = Verdict.model_validate(
                {
                    "program_sha256": sha256, "problem_id": task.problem_id, "outcome": outcome,
                    "detail": "", "evidence": "values", "cpu_s": 0.01, "wall_s": 0.01,
                    "peak_bytes": None, "attempts": 1, "session": 0,
                }
            )  # fmt: skip


def _manifest(of: Suite, model: Simulated, tasks: bytes, problems: bytes) -> RunManifest:
    card = card_of(model.card) if model.card else None
    facts = DatasetFacts(
        name=model.dataset, source="made up", sha256=None, content_sha256=SHA,
        problems=len(of.problems), normalisation="none", programs_changed=0, values_changed=(),
    )  # fmt: skip
    return RunManifest(
        created_at="2026-11-24T00:00:00+00:00",
        fim_eval_version="0.1.0",
        code_revision=None,
        python="3.11.7",
        platform="Linux",
        packages={},
        identity=RunIdentity(
            tasks_sha256=hashlib.sha256(tasks).hexdigest(),
            tasks=len(of.tasks),
            model=model.name,
            model_id=card.model_id if card else None,
            strategy=model.strategy,
            context="none",
            prompt_form="ids",
            prompts_sha256=SHA,
            tokenizer_sha256=None,
            max_tokens=64,
            stop=(),
            stop_token_ids=(),
            sampling=Sampling(),
            answers_as=model.name,
            server_version=model.server_version,
            system_fingerprint=None,
        ),
        server=ServerIdentity(
            base_url="http://127.0.0.1:8007/v1",
            model=model.name,
            answers_as=model.name,
            root=None,
            max_model_len=None,
            version=model.server_version,
            system_fingerprint=None,
        ),
        server_log=None,
        card=card,
        tokenizer=None,
        task_facts=TaskFacts(
            dataset=facts, split="all", kind=of.tasks[0].kind, per_problem=None, seed=0,
            tasks=len(of.tasks), excluded={}, problems_without_holes=(),
            tasks_sha256=hashlib.sha256(tasks).hexdigest(),
            problems_sha256=hashlib.sha256(problems).hexdigest(),
        ),
        problems_sha256=hashlib.sha256(problems).hexdigest(),
        limit=None,
        concurrency=1,
        timeouts=Timeouts(),
        api_key_env=None,
    )  # fmt: skip

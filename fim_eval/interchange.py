"""Others' completions in, ours out: the samples format of HumanEval-Infilling.

One JSON object a line with `task_id` and `completion`; several lines of a task are several samples.
https://github.com/openai/human-eval-infilling. Asks no model, runs no code. Of how an imported
completion came about nothing is known but what the user says, and nothing is filled in.
"""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from fim_eval.errors import DatasetError, RunDirectoryError
from fim_eval.formats import card_of
from fim_eval.journal import RunDirectory, has_manifest, read_manifest, read_outcomes, read_tasks
from fim_eval.lines import line_of, sha256_of
from fim_eval.postprocess import filled_middle
from fim_eval.problems import read_rows
from fim_eval.records import (
    Imported,
    ImportFacts,
    InfillTask,
    Problem,
    RunIdentity,
    RunManifest,
    ServerIdentity,
    TaskFacts,
)
from fim_eval.words import Policy, Strategy


@dataclass(frozen=True)
class Exported:
    """A run's answers as others read them."""

    lines: bytes
    answered: int
    tasks: int
    official: bool
    """Whether the tasks, and so their ids, are HumanEval-Infilling's own."""


@dataclass(frozen=True)
class ImportedRun:
    """What came of a file."""

    tasks: int
    answered: int
    completions: int
    samples: int
    """Most completions of one task. The first is its answer; the others are kept, not scored."""


def export_run(path: Path, policy: Policy) -> Exported:
    """The answers of a run directory, in the order of its tasks; tasks without one have no line.

    Args:
        path: run directory.
        policy: how answers are cut first; `raw`: not at all.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    manifest = read_manifest(path)
    outcomes = read_outcomes(path)
    tasks = list(read_tasks(path))
    lines: list[str] = []
    for task in tasks:
        answer = outcomes.answer(task.task_id, manifest.identity.strategy)
        if answer is not None:
            completion = filled_middle(policy, answer.text, task)
            # ASCII: a lone surrogate, which models write, has no bytes of its own.
            lines.append(json.dumps({"task_id": task.task_id, "completion": completion}) + "\n")
    facts = manifest.task_facts
    official = facts is not None and facts.dataset.name == "humaneval-infilling"
    return Exported("".join(lines).encode(), len(lines), len(tasks), official)


def import_run(
    file: Path,
    out: Path,
    *,
    tasks: Sequence[InfillTask],
    problems: Sequence[Problem],
    facts: TaskFacts | None,
    model: str,
    strategy: Strategy,
    card: str | None = None,
    code_revision: str | None = None,
) -> ImportedRun:
    """Make a run directory of somebody else's completions.

    Args:
        file: of samples, `.jsonl` or `.jsonl.gz`.
        out: the run directory to make.
        tasks: that the completions answer; those without one stay unresolved.
        problems: that the tasks were cut from; none if they came without.
        facts: of the tasks.
        model: whose completions they are, as the user says.
        strategy: how they were asked for, as the user says.
        card: the model of our table that it is, if its name does not say.
        code_revision: of this program.

    Raises:
        DatasetError: the file cannot be read, or a line is no sample or of another task.
        RunDirectoryError: `out` holds a run, or cannot be written.
    """
    if has_manifest(out):
        raise RunDirectoryError(f"{out}: holds a run already; choose another --out")
    samples, file_sha256 = _samples(file, {task.task_id for task in tasks}, strategy)
    found = card_of(card or model)
    counts = Counter(sample.task_id for sample in samples)
    most = max(counts.values())
    manifest = RunManifest(
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        fim_eval_version=version("fim-eval"),
        code_revision=code_revision,
        python=sys.version.split()[0],
        platform=platform.platform(),
        packages={},
        identity=RunIdentity(
            tasks_sha256=sha256_of(tasks),
            tasks=len(tasks),
            model=model,
            model_id=found.model_id if found else None,
            strategy=strategy,
            context=None,
            prompt_form=None,
            prompts_sha256=None,
            tokenizer_sha256=None,
            max_tokens=None,
            stop=(),
            stop_token_ids=(),
            sampling=None,
            samples=most,
            answers_as=None,
            server_version=None,
            system_fingerprint=None,
        ),
        server=ServerIdentity(
            base_url=None,
            model=model,
            answers_as=None,
            root=None,
            max_model_len=None,
            version=None,
            system_fingerprint=None,
        ),
        server_log=None,
        card=found,
        tokenizer=None,
        task_facts=facts,
        problems_sha256=sha256_of(problems) if problems else None,
        limit=None,
        concurrency=None,
        timeouts=None,
        api_key_env=None,
        imported=ImportFacts(source=str(file), sha256=file_sha256, completions=len(samples)),
    )
    with RunDirectory(out) as directory:
        directory.claim(manifest, map(line_of, tasks), problems)
        for sample in samples:
            directory.append(sample)
    return ImportedRun(len(tasks), len(counts), len(samples), most)


def _samples(file: Path, known: set[str], strategy: Strategy) -> tuple[list[Imported], str]:
    rows, file_sha256 = read_rows(file)
    counts: Counter[str] = Counter()
    samples: list[Imported] = []
    for place, row in rows:
        fields = row if isinstance(row, dict) else {}
        task_id, completion = fields.get("task_id"), fields.get("completion")
        if not isinstance(task_id, str) or not isinstance(completion, str):
            raise DatasetError(f"{place}: is no sample: it needs task_id and completion, both text")
        if task_id not in known:
            raise DatasetError(
                f"{place}: {task_id} is none of the {len(known)} tasks; name the file with the "
                "tasks that were answered with --tasks"
            )
        samples.append(
            Imported(
                task_id=task_id, strategy=strategy, sample_index=counts[task_id], text=completion
            )
        )
        counts[task_id] += 1
    if not samples:
        raise DatasetError(f"{file}: holds no completion")
    return samples, file_sha256

"""Parts of one run, asked in different places, put together into one run directory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from fim_eval.errors import RunDirectoryError
from fim_eval.journal import (
    EXAMPLES,
    RunDirectory,
    difference,
    has_manifest,
    read_limits,
    read_manifest,
    read_outcome_lines,
    read_outcomes,
    read_problems,
    read_segments,
    read_tasks,
)
from fim_eval.records import Completion, Imported, InfillTask, Likelihood, Ranking, RequestFailure
from fim_eval.verdicts import VerdictFolder, read_references, read_sessions, read_verdicts


@dataclass(frozen=True)
class Merged:
    """What was put together."""

    tasks: int
    answered: int
    verdicts: int


def merge_runs(parts: Sequence[Path], out: Path) -> Merged:
    """Write the run that the parts are of to a new directory; they stay as they are.

    Sessions are numbered anew, in the order of the parts. Verdicts come along where all parts were
    judged under the same rules.

    Args:
        parts: run directories of the same run: `--shard` 1/N to N/N, or fewer.
        out: where the whole run goes; holds none yet.

    Raises:
        RunDirectoryError: they are of different runs, answer the same prompt, or `out` is taken.
    """
    if has_manifest(out):
        raise RunDirectoryError(f"{out}: holds a run already; name a new folder with --out")
    manifests = [read_manifest(part) for part in parts]
    for part, manifest in zip(parts[1:], manifests[1:], strict=True):
        if found := difference(manifests[0].identity, manifest.identity):
            raise RunDirectoryError(f"{part}: is of another run than {parts[0]} ({found})")
    _check_answered_once(parts)
    tasks = read_tasks(parts[0])
    # Under another name until it is whole: a kill leaves no half of a run.
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with RunDirectory(unfinished) as directory:
        directory.claim(manifests[0], tasks, read_problems(parts[0]), _examples(parts[0]))
        first = 0
        for part in parts:
            segments = read_segments(part)
            for segment in segments:
                number = first + segment.segment
                directory.begin_segment(segment.model_copy(update={"segment": number}))
            for change in read_limits(part):
                number = first + change.segment
                directory.append_limit(change.model_copy(update={"segment": number}))
            directory.append(*(_moved(one, first) for one in read_outcome_lines(part)))
            first += len(segments)
    verdicts = _merge_verdicts(parts, unfinished)
    outcomes = read_outcomes(unfinished)
    strategy = manifests[0].identity.strategy
    answered = sum(outcomes.answer(task.task_id, strategy) is not None for task in tasks)
    try:
        unfinished.rename(out)
    except OSError as error:
        raise RunDirectoryError(
            f"{out}: cannot take the merged run ({error.strerror}), which is in {unfinished}; "
            "name a new folder with --out"
        ) from error
    return Merged(len(tasks), answered, verdicts)


def _check_answered_once(parts: Sequence[Path]) -> None:
    owner: dict[tuple[object, ...], Path] = {}
    for part in parts:
        for one in read_outcome_lines(part):
            if isinstance(one, RequestFailure):
                continue
            scored = one.scored if isinstance(one, Likelihood) else None
            sample = -1 if isinstance(one, Ranking) else one.sample_index
            other = owner.setdefault((one.outcome, one.task_id, sample, scored), part)
            if other != part:
                raise RunDirectoryError(
                    f"{part}: answers {one.task_id}, as {other} does; they are no parts of one run"
                )


def _moved(
    outcome: Completion | Imported | RequestFailure | Likelihood | Ranking, first: int
) -> Completion | Imported | RequestFailure | Likelihood | Ranking:
    if isinstance(outcome, Imported | Ranking):
        return outcome
    return outcome.model_copy(update={"segment": first + outcome.segment})


def _examples(part: Path) -> list[InfillTask]:
    file = part / EXAMPLES
    if not file.exists():
        return []
    adapter = TypeAdapter(InfillTask)
    return [adapter.validate_json(line) for line in file.read_bytes().splitlines()]


def _merge_verdicts(parts: Sequence[Path], out: Path) -> int:
    """How many verdicts came along; none if some part was judged under other rules, or not."""
    sessions = [read_sessions(part) for part in parts]
    if not all(sessions) or len({some[-1].rules for some in sessions}) > 1:
        return 0
    with ExitStack() as stack:
        folder = stack.enter_context(VerdictFolder(out))
        first = 0
        for part, own in zip(parts, sessions, strict=True):
            for session in own:
                folder.begin_session(
                    session.model_copy(update={"session": first + session.session})
                )
            for name, reference in read_references(part).items():
                if name not in folder.references:
                    folder.add_reference(reference)
            for key, verdict in read_verdicts(part).items():
                if key not in folder.verdicts:
                    folder.add_verdict(
                        verdict.model_copy(update={"session": first + verdict.session})
                    )
            first += len(own)
        return len(folder.verdicts)

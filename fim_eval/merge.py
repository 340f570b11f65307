"""Parts of one run, asked in different places, put together into one run directory."""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path

from pydantic import TypeAdapter

from fim_eval.errors import RunDirectoryError
from fim_eval.journal import (
    AUDIT,
    EXAMPLES,
    RunDirectory,
    difference,
    has_manifest,
    next_segment,
    read_limits,
    read_manifest,
    read_outcome_lines,
    read_places,
    read_problems,
    read_segments,
    read_standing,
    read_tasks,
)
from fim_eval.lines import line_of
from fim_eval.records import (
    Imported,
    InfillTask,
    Outcome,
    Ranking,
    RunManifest,
)
from fim_eval.verdicts import VerdictFolder, read_references, read_sessions, read_verdicts

AT_ONCE = 1_000
"""Lines of a journal."""


@dataclass(frozen=True)
class Merged:
    """What was put together."""

    tasks: int
    answered: int
    verdicts: int
    audits: tuple[Path, ...]
    """Of parts, left where they are, because not all parts have one."""


def merge_runs(parts: Sequence[Path], out: Path) -> Merged:
    """Write the run that the parts are of to a new directory; they stay as they are.

    Sessions are numbered anew, in the order of the parts. Verdicts come along where all parts were
    judged under the same rules, audits where all parts have one.

    Args:
        parts: run directories of the same run: `--shard` 1/N to N/N.
        out: where the whole run goes; holds none yet.

    Raises:
        RunDirectoryError: they are not all shards of one run, or `out` is taken.
    """
    if has_manifest(out):
        raise RunDirectoryError(f"{out}: holds a run already; name a new folder with --out")
    manifests = [read_manifest(part) for part in parts]
    for part, manifest in zip(parts[1:], manifests[1:], strict=True):
        if found := difference(manifests[0], manifest, "prompts_sha256"):
            raise RunDirectoryError(f"{part}: is of another run than {parts[0]} ({found})")
    _check_complete(parts, manifests)
    whole = _whole(manifests)
    # Under another name until it is whole: a kill leaves no half of a run.
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    problems = {one.problem_id: one for part in parts for one in read_problems(part)}
    in_order = dict.fromkeys(task.problem_id for task in _in_order(parts)) if problems else ()
    with RunDirectory(unfinished) as directory:
        directory.claim(
            whole,
            map(line_of, _in_order(parts)),
            [problems[name] for name in in_order],
            _examples(parts[0]),
        )
        first = 0
        for part in parts:
            for segment in read_segments(part):
                number = first + segment.segment
                directory.begin_segment(segment.model_copy(update={"segment": number}))
            for change in read_limits(part):
                number = first + change.segment
                directory.append_limit(change.model_copy(update={"segment": number}))
            outcomes = read_outcome_lines(part)
            while some := [_moved(one, first) for one in islice(outcomes, AT_ONCE)]:
                directory.append(*some)
            first += next_segment(part)
    # What was written is what the manifest promises.
    tasks = sum(1 for _ in read_tasks(unfinished))
    read_problems(unfinished)
    answered = read_standing(unfinished).answered(whole.identity.strategy)
    verdicts = _merge_verdicts(parts, unfinished)
    audits = [part / AUDIT for part in parts if has_manifest(part / AUDIT)]
    if len(audits) == len(parts):
        # Shards of one run, too: of the whole run's audit.
        merge_runs(audits, unfinished / AUDIT)
        audits = []
    try:
        unfinished.rename(out)
    except OSError as error:
        raise RunDirectoryError(
            f"{out}: cannot take the merged run ({error.strerror}), which is in {unfinished}; "
            "name a new folder with --out"
        ) from error
    return Merged(tasks, answered, verdicts, tuple(audits))


def _check_complete(parts: Sequence[Path], manifests: Sequence[RunManifest]) -> None:
    """See that the parts are all shards of one run, each once.

    Raises:
        RunDirectoryError: they are not.
    """
    found: dict[str, Path] = {}
    for part, manifest in zip(parts, manifests, strict=True):
        if manifest.shard is None:
            raise RunDirectoryError(f"{part}: holds a whole run; only shards are merged")
        name = manifest.shard.shard
        if name in found:
            raise RunDirectoryError(f"{part}: is shard {name}, as {found[name]} is")
        found[name] = part
    total = next(iter(found)).partition("/")[2]
    wanted = [f"{number}/{total}" for number in range(1, int(total) + 1)]
    if strange := [name for name in found if name not in wanted]:
        raise RunDirectoryError(
            f"{found[strange[0]]}: is shard {strange[0]}, others are of {total}; shards of one "
            "number are merged"
        )
    if missing := [name for name in wanted if name not in found]:
        raise RunDirectoryError(
            f"shard {', '.join(missing)} is missing; name its run directory, too, or ask it"
        )


def _whole(manifests: Sequence[RunManifest]) -> RunManifest:
    """The manifest of the run whose shards these are of."""
    prompts = sum(int(one.identity.prompts_sha256 or "0", 16) for one in manifests) % 2**256
    identity = manifests[0].identity.model_copy(update={"prompts_sha256": f"{prompts:064x}"})
    return manifests[0].model_copy(update={"identity": identity, "shard": None})


def _in_order(parts: Sequence[Path]) -> Iterator[InfillTask]:
    """The tasks of all parts, in the order of the run."""
    placed = (zip(read_places(part), read_tasks(part), strict=True) for part in parts)
    return (task for _, task in heapq.merge(*placed, key=itemgetter(0)))


def _moved(outcome: Outcome, first: int) -> Outcome:
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

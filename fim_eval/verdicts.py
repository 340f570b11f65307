"""What was judged: one verdict per distinct program, beside what it was reached under.

    judging.jsonl       one line per session of judging: rules, isolation, versions
    references.jsonl    one line per problem: its own reference, and the time limit that follows
    verdicts.jsonl      one line per distinct program and tests, appended as it comes

They stand in a run directory, or wherever programs from elsewhere are judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

from fim_eval.errors import RunDirectoryError
from fim_eval.lines import AppendFile, OwnedFolder, read_lines
from fim_eval.records import JudgeRules, JudgeSession, ReferenceRun, Verdict
from fim_eval.words import NO_VERDICT

SESSIONS = "judging.jsonl"
REFERENCES = "references.jsonl"
VERDICTS = "verdicts.jsonl"

_AGAIN = "remove that line to judge it again"


class VerdictFolder(OwnedFolder):
    """A folder opened for judging by this process alone. A context manager."""

    def __init__(self, path: Path) -> None:
        """Nothing is touched before the context is entered."""
        self._references = AppendFile(path / REFERENCES)
        self._verdicts = AppendFile(path / VERDICTS)
        super().__init__(path, self._verdicts, self._references)

    def __enter__(self) -> Self:
        """Create the folder if need be, lock it, and read what it holds.

        Raises:
            RunDirectoryError: it cannot be written, is in use, or is damaged.
        """
        super().__enter__()
        try:
            self.references = read_references(self.path)
            self.verdicts = read_verdicts(self.path)
        except RunDirectoryError:
            self.__exit__(None, None, None)
            raise
        return self

    def begin_session(self, session: JudgeSession) -> None:
        """Note that a session of judging begins.

        Raises:
            RunDirectoryError: earlier sessions judged under other rules, which are named.
        """
        check_rules(self.path, session.rules)
        with AppendFile(self.path / SESSIONS) as sessions:
            sessions.append(session)

    def add_reference(self, reference: ReferenceRun) -> None:
        """Write what a problem's own reference came to."""
        self._references.append(reference)
        self.references[reference.problem_id] = reference

    def add_verdict(self, verdict: Verdict) -> None:
        """Write one verdict. When this returns, a kill of the process cannot lose it."""
        self._verdicts.append(verdict)
        self.verdicts[verdict.program_sha256] = verdict


def check_rules(path: Path, rules: JudgeRules) -> None:
    """See that what the folder holds was judged under the same rules.

    Raises:
        RunDirectoryError: it was not; names each difference.
    """
    sessions = read_sessions(path)
    if not sessions:
        return
    before, now = sessions[-1].rules.model_dump(), rules.model_dump()
    differences = "; ".join(
        f"{name}: {before[name]} there, {now[name]} now"
        for name in before
        if before[name] != now[name]
    )
    if differences:
        raise RunDirectoryError(
            f"{path}: was judged under other rules ({differences}); give the same, or remove "
            f"{SESSIONS}, {REFERENCES} and {VERDICTS} there to judge all of it again"
        )


def read_sessions(path: Path) -> list[JudgeSession]:
    """The sessions of judging in the folder at `path`, in order; none if nothing was judged."""
    adapter = TypeAdapter(JudgeSession)
    return [session for _, session in read_lines(path / SESSIONS, adapter, "remove that line")]


def read_references(path: Path) -> dict[str, ReferenceRun]:
    """What each problem's own reference came to, by problem id."""
    adapter = TypeAdapter(ReferenceRun)
    return {run.problem_id: run for _, run in read_lines(path / REFERENCES, adapter, _AGAIN)}


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """The last verdict on each program in the folder at `path`, by `program_sha256`.

    A failure of ours may stand before the verdict that a later session reached.

    Raises:
        RunDirectoryError: a whole line is damaged, or a program was judged twice.
    """
    verdicts: dict[str, Verdict] = {}
    for number, verdict in read_lines(path / VERDICTS, TypeAdapter(Verdict), _AGAIN):
        earlier = verdicts.get(verdict.program_sha256)
        if earlier is not None and earlier.outcome not in NO_VERDICT:
            raise RunDirectoryError(
                f"{path / VERDICTS}:{number}: judges a program of {verdict.problem_id} a second "
                "time; remove that line"
            )
        verdicts[verdict.program_sha256] = verdict
    return verdicts

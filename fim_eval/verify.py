"""Stage 2: programs in, verdicts out. Only runs code; asks no model, computes no rate.

Every distinct program is executed once, over all folders that want it. First the references of the
problems run, on this machine: their time sets the limit for everyone else's program, and a problem
whose own reference fails can judge nobody.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from fim_eval.errors import DatasetError
from fim_eval.journal import read_manifest, read_outcomes, read_problems, read_tasks
from fim_eval.judge import Examination, examination, program_key
from fim_eval.postprocess import POLICIES, filled_middle, filled_program
from fim_eval.records import (
    Execution,
    JudgeRules,
    JudgeSession,
    Problem,
    ReferenceRun,
    Verdict,
)
from fim_eval.sandbox import Examined, Jail, Job, Limits, run_jobs
from fim_eval.syntax import same_program
from fim_eval.verdicts import VerdictFolder, check_rules, read_sessions
from fim_eval.words import NO_VERDICT, TestStyle

Execute = Callable[[Iterable[Job[str]], Jail, int], Generator[Examined[str]]]
"""How programs are executed: as `sandbox.run_jobs` does, here or elsewhere."""

REFERENCE_TIME_S = 60.0
"""Processor seconds that a reference may take."""


class Candidate(NamedTuple):
    """A program that claims to solve a problem."""

    problem_id: str
    program: str


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """How programs are judged."""

    workers: int
    tests: TestStyle = "standard"
    time_floor_s: float = 2.0
    time_factor: float = 10.0
    memory_bytes: int = 1 << 30
    output_bytes: int = 1 << 20

    def rules(self) -> JudgeRules:
        """What of it decides verdicts."""
        return JudgeRules(
            tests=self.tests,
            python=".".join(map(str, sys.version_info[:2])),
            time_floor_s=self.time_floor_s,
            time_factor=self.time_factor,
            memory_bytes=self.memory_bytes,
            output_bytes=self.output_bytes,
        )

    def limits(self, time_s: float) -> Limits:
        """What one program may use."""
        return Limits(time_s, self.memory_bytes, self.output_bytes)


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """Whoever is told how far judging is."""

    on_start: Callable[[int, int], None]
    """How many distinct programs there are, and how many are left to judge."""

    on_verdict: Callable[[Verdict], None]
    """Each verdict, once it is on disk."""

    notice: Callable[[str], None]
    """A sentence that a person should read."""


def verify(
    paths: Sequence[Path],
    problems: Sequence[Problem],
    jail: Jail,
    settings: JudgeSettings,
    watcher: Watcher,
    *,
    execute: Execute = run_jobs,
) -> None:
    """Judge what every completion of the run directories makes of its hole, under every policy.

    And, for each task, the program whose hole stays empty: a task that passes so cannot be seen by
    its tests.

    Args:
        paths: run directories; a program that several hold is executed once.
        problems: for runs that came without; may be empty.
        jail: where programs run.
        settings: how they are judged.
        watcher: is told.
        execute: how programs are; references are always executed on this machine.

    Raises:
        FimEvalError: a run has no problems, or others, or cannot be written.
    """
    known: dict[str, Problem] = {}
    wanted: dict[Path, list[Candidate]] = {}
    for path in paths:
        own = {problem.problem_id: problem for problem in read_problems(path) or problems}
        wanted[path] = list(_run_candidates(path, own))
        for name, problem in own.items():
            if known.setdefault(name, problem) != problem:
                raise DatasetError(
                    f"{path}: its {name} is another problem than that of the other runs; verify "
                    "them one by one"
                )
    judge_candidates(wanted, known, jail, settings, watcher, execute=execute)


def _run_candidates(path: Path, problems: Mapping[str, Problem]) -> Iterator[Candidate]:
    tasks = read_tasks(path)
    strategy = read_manifest(path).identity.strategy
    outcomes = read_outcomes(path)
    for task in tasks:
        problem = problems.get(task.problem_id)
        if problem is None:
            raise DatasetError(
                f"{path}: holds no tests for {task.problem_id}; name the data set its tasks were "
                "cut from with --problems"
            )
        if not same_program(filled_program(task, task.middle), problem.code):
            raise DatasetError(
                f"{path}: {task.task_id} was cut from another program than {problem.problem_id} "
                "of these problems; name the data set its tasks were cut from with --problems"
            )
        yield Candidate(task.problem_id, filled_program(task, ""))
        answer = outcomes.answer(task.task_id, strategy)
        if answer is not None:
            for policy in POLICIES:
                middle = filled_middle(policy, answer.text, task)
                yield Candidate(task.problem_id, filled_program(task, middle))


def judge_candidates(
    wanted: Mapping[Path, Iterable[Candidate]],
    problems: Mapping[str, Problem],
    jail: Jail,
    settings: JudgeSettings,
    watcher: Watcher,
    *,
    execute: Execute = run_jobs,
) -> None:
    """Judge every candidate that its folder holds no verdict on, and write each as it is reached.

    Args:
        wanted: candidates by the folder their verdicts go to.
        problems: by id.
        jail: where programs run.
        settings: how they are judged.
        watcher: is told.
        execute: how programs are; references are always executed on this machine.

    Raises:
        FimEvalError: a problem is unknown or has no tests, or a folder cannot be written, is in
            use, or was judged under other rules.
    """
    examinations = {
        name: examination(_known(problems, name), settings.tests)
        for name in {candidate.problem_id for some in wanted.values() for candidate in some}
    }
    for path in wanted:
        check_rules(path, settings.rules())
    with ExitStack() as stack:
        folders = {path: stack.enter_context(VerdictFolder(path)) for path in wanted}
        judging = _Judging(
            folders,
            examinations=examinations,
            problems=problems,
            jail=jail,
            settings=settings,
            watcher=watcher,
            execute=execute,
        )
        judging.run({folders[path]: candidates for path, candidates in wanted.items()})


def _known(problems: Mapping[str, Problem], name: str) -> Problem:
    problem = problems.get(name)
    if problem is None:
        raise DatasetError(
            f"{name}: is not among the {len(problems)} problems; name the data set that has it "
            "with --problems"
        )
    return problem


class _Judging:
    """One session over several folders."""

    def __init__(
        self,
        folders: Mapping[Path, VerdictFolder],
        *,
        examinations: Mapping[str, Examination],
        problems: Mapping[str, Problem],
        jail: Jail,
        settings: JudgeSettings,
        watcher: Watcher,
        execute: Execute,
    ) -> None:
        self._folders = folders
        self._sessions = {folder: len(read_sessions(path)) for path, folder in folders.items()}
        self._examinations = examinations
        self._problems = problems
        self._jail = jail
        self._settings = settings
        self._watcher = watcher
        self._execute = execute
        self._waiting: dict[str, list[VerdictFolder]] = {}
        """For each program to judge, the folders that want its verdict."""

        self._names: set[str] = set()
        """Problems with programs to judge or to share: two may be the same but for their name."""

        self._sharing: list[tuple[VerdictFolder, Verdict]] = []
        """Verdicts that another folder holds already."""

    def run(self, wanted: Mapping[VerdictFolder, Iterable[Candidate]]) -> None:
        todo = self._collect(wanted)
        total = len({key for folder in wanted for key in folder.verdicts} | set(todo))
        self._watcher.on_start(total, len(todo))
        sharing = {folder for folder, _ in self._sharing}
        for folder in self._folders.values():
            if folder in sharing or any(folder in some for some in self._waiting.values()):
                folder.begin_session(self._session(self._sessions[folder]))
        for folder, verdict in self._sharing:
            session = self._sessions[folder]
            folder.add_verdict(verdict.model_copy(update={"session": session}))
        references = self._references()
        jobs: list[Job[str]] = []
        for key, candidate in todo.items():
            if key not in self._waiting:
                continue  # it was a reference
            reference = references.get(candidate.problem_id)
            if reference is None or reference.outcome != "passed":
                self._give_up(key, candidate, reference)
                continue
            limits = self._settings.limits(reference.time_limit_s)
            examined = self._examinations[candidate.problem_id]
            jobs.append(Job(key, candidate.program, examined, limits))
        for result in self._execute(jobs, self._jail, self._settings.workers):
            self._conclude(result.job.key, result)

    def _collect(self, wanted: Mapping[VerdictFolder, Iterable[Candidate]]) -> dict[str, Candidate]:
        """Programs without a verdict, by key; verdicts that another folder holds are shared."""
        settled = {
            key: verdict
            for folder in wanted
            for key, verdict in folder.verdicts.items()
            if verdict.outcome not in NO_VERDICT
        }
        todo: dict[str, Candidate] = {}
        shared: set[tuple[VerdictFolder, str]] = set()
        for folder, candidates in wanted.items():
            for candidate in candidates:
                key = program_key(
                    candidate.program, self._examinations[candidate.problem_id].tests_sha256
                )
                held = folder.verdicts.get(key)
                if held is not None and held.outcome not in NO_VERDICT:
                    continue
                self._names.add(candidate.problem_id)
                if key in settled:
                    if (folder, key) not in shared:
                        shared.add((folder, key))
                        self._sharing.append((folder, settled[key]))
                    continue
                todo[key] = candidate
                waiting = self._waiting.setdefault(key, [])
                if folder not in waiting:
                    waiting.append(folder)
        return todo

    def _references(self) -> dict[str, ReferenceRun]:
        """What each problem's own reference comes to: stored by an earlier session, or run now."""
        known: dict[str, ReferenceRun] = {}
        names = self._names
        for folder in self._folders.values():
            known.update({n: run for n, run in folder.references.items() if n in names})
        limits = self._settings.limits(REFERENCE_TIME_S)
        # In the order of the problems, so that two runs do the same.
        jobs = [
            Job(name, self._problems[name].code, self._examinations[name], limits)
            for name in self._problems
            if name in names and name not in known
        ]
        for result in run_jobs(jobs, self._jail, self._settings.workers):
            name, outcome = result.job.key, result.ruling.outcome
            if outcome == "sandbox-error":
                continue
            known[name] = self._reference(name, result)
            key = program_key(result.job.program, result.job.examination.tests_sha256)
            # Of two problems that are the same (MBPP/199 and 388) the first has concluded for both.
            if outcome == "passed" and key in self._waiting:
                self._conclude(key, result)
        for name, reference in known.items():
            if reference.outcome != "passed":
                self._watcher.notice(
                    f"{name}: its own reference does not pass its tests here "
                    f"({reference.outcome}: {reference.detail}); what was asked of it stays "
                    "without a verdict"
                )
            for folder in self._folders.values():
                if name not in folder.references:
                    folder.add_reference(reference)
        return known

    def _reference(self, name: str, result: Examined[str]) -> ReferenceRun:
        settings, cpu_s = self._settings, result.execution.cpu_s
        return ReferenceRun(
            problem_id=name,
            tests_sha256=self._examinations[name].tests_sha256,
            outcome=result.ruling.outcome,
            detail=result.ruling.detail,
            cpu_s=cpu_s,
            time_limit_s=max(settings.time_floor_s, settings.time_factor * cpu_s),
        )

    def _give_up(self, key: str, candidate: Candidate, reference: ReferenceRun | None) -> None:
        examined = self._examinations[candidate.problem_id]
        detail = (
            "its problem's reference could not be executed"
            if reference is None
            else f"its problem's own reference: {reference.outcome}: {reference.detail}"
        )
        self._write(
            key,
            Verdict(
                program_sha256=key,
                problem_id=candidate.problem_id,
                outcome="sandbox-error" if reference is None else "reference-fails",
                detail=detail,
                evidence=examined.evidence,
                cpu_s=0.0,
                wall_s=0.0,
                peak_bytes=None,
                attempts=0,
                session=0,
            ),
        )

    def _conclude(self, key: str, result: Examined[str]) -> None:
        execution: Execution = result.execution
        self._write(
            key,
            Verdict(
                program_sha256=key,
                problem_id=result.job.examination.problem_id,
                outcome=result.ruling.outcome,
                detail=result.ruling.detail,
                evidence=result.job.examination.evidence,
                cpu_s=round(execution.cpu_s, 6),
                wall_s=round(execution.wall_s, 6),
                peak_bytes=execution.peak_bytes,
                attempts=execution.attempts,
                session=0,
            ),
        )

    def _write(self, key: str, verdict: Verdict) -> None:
        for folder in self._waiting.pop(key):
            session = self._sessions[folder]
            folder.add_verdict(verdict.model_copy(update={"session": session}))
        self._watcher.on_verdict(verdict)

    def _session(self, number: int) -> JudgeSession:
        return JudgeSession(
            session=number,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            fim_eval_version=version("fim-eval"),
            rules=self._settings.rules(),
            isolation=self._jail.isolation,
            isolation_detail=self._jail.detail,
            workers=self._settings.workers,
            python=sys.version.split()[0],
            platform=platform.platform(),
            pid=os.getpid(),
        )

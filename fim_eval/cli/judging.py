"""Commands that run programs: `verify`, `judge`, `selfcheck`, `doctor`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fim_eval.cli.console import cores, interruptible, run_async, say, write
from fim_eval.cli.options import (
    FAILED,
    STANDARD,
    UNRESOLVED,
    EngineName,
    IsolationName,
    KindName,
    Memory,
    PerProblem,
    Problems,
    RayAddress,
    Seed,
    SplitName,
    TestsName,
    TimeFloor,
    Workers,
)
from fim_eval.cli.progress import steps
from fim_eval.cli.reporting import tell
from fim_eval.errors import DatasetError
from fim_eval.words import NO_VERDICT

if TYPE_CHECKING:
    from fim_eval.cluster import RayCluster
    from fim_eval.records import Verdict
    from fim_eval.sandbox import Jail
    from fim_eval.selfcheck import SelfCheck
    from fim_eval.verify import Execute, JudgeSettings, Watcher
    from fim_eval.words import Engine

MOST_LISTED = 20
"""Tasks that are named on the terminal; files hold all of them."""


def verify(
    paths: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders that hold them.")
    ],
    problems: Annotated[
        str | None,
        typer.Option("--problems", help="The data set of a run whose tasks came without one."),
    ] = None,
    tests: TestsName = "standard",
    workers: Workers = None,
    isolation: IsolationName = "auto",
    time_floor: TimeFloor = 2.0,
    memory_mb: Memory = 1024,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
) -> None:
    """Run the program that each completion makes, judge it, and print the table again."""
    from fim_eval.problems import load_problems
    from fim_eval.report import find_runs
    from fim_eval.verify import JudgeSettings

    runs = find_runs(paths)
    named = load_problems(problems, "all", say)[0] if problems else []
    settings = JudgeSettings(
        workers=workers or cores(),
        tests=tests,
        time_floor_s=time_floor,
        memory_bytes=memory_mb << 20,
    )
    jail = jail_for(isolation)
    with cluster_of(engine, ray_address) as cluster:
        unresolved = judge_runs(runs, jail, settings, named, executing(cluster))
    tell(paths, paths[0] if len(runs) > 1 and len(paths) == 1 else None, as_json=False)
    raise typer.Exit(UNRESOLVED if unresolved else 0)


def judge(
    problems: Problems,
    candidates: Annotated[
        Path,
        typer.Option(
            "--candidates",
            help='Lines of {"problem_id": "MBPP/11", "program": "..."}; - is standard input.',
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write; - is standard output.")],
    split: SplitName = "all",
    tests: TestsName = "standard",
    workers: Workers = None,
    isolation: IsolationName = "auto",
    time_floor: TimeFloor = 2.0,
    memory_mb: Memory = 1024,
) -> None:
    """Judge programs from anywhere: each line comes back with its outcome, in the same order."""
    import json

    from fim_eval.judge import examination, program_key
    from fim_eval.problems import load_problems
    from fim_eval.verdicts import read_sessions, read_verdicts
    from fim_eval.verify import Candidate, JudgeSettings, judge_candidates

    if out != STANDARD and out.is_dir():
        raise DatasetError(f"{out}: is a folder; name a file with --out")
    rows = read_candidates(candidates)
    known = {problem.problem_id: problem for problem in load_problems(problems, split, say)[0]}
    settings = JudgeSettings(
        workers=workers or cores(),
        tests=tests,
        time_floor_s=time_floor,
        memory_bytes=memory_mb << 20,
    )
    jail = jail_for(isolation)
    wanted = [Candidate(row["problem_id"], row["program"]) for row in rows]
    with judging_folder(out) as folder:
        with judged_progress() as watcher, interruptible():
            judge_candidates({folder: wanted}, known, jail, settings, watcher)
        verdicts = read_verdicts(folder)
        sha256 = {
            name: examination(known[name], tests).tests_sha256
            for name in {candidate.problem_id for candidate in wanted}
        }
        reached = [
            verdicts[program_key(candidate.program, sha256[candidate.problem_id])]
            for candidate in wanted
        ]
        lines = (
            # Not orjson: a program may hold a lone surrogate, and comes back as it was.
            json.dumps(
                {
                    **row,
                    "outcome": verdict.outcome,
                    "detail": verdict.detail,
                    "evidence": verdict.evidence,
                    "cpu_s": verdict.cpu_s,
                    "wall_s": verdict.wall_s,
                }
            )
            for row, verdict in zip(rows, reached, strict=True)
        )
        write(out, "".join(line + "\n" for line in lines).encode())
        if out != STANDARD:
            session = read_sessions(folder)[-1]
            write(facts_beside(out), session.model_dump_json(indent=2).encode() + b"\n")
    outcomes: Counter[str] = Counter(verdict.outcome for verdict in reached)
    say(f"{len(reached)} programs: " + counted(outcomes))
    weaker = sum(verdict.evidence == "completion" for verdict in reached)
    if weaker:
        say(
            f"{weaker} are known by completion only: their tests cannot be split into values, so "
            "they ran whole inside the jail"
        )
    raise typer.Exit(UNRESOLVED if any(outcomes[bad] for bad in NO_VERDICT) else 0)


def selfcheck(
    problems: Problems = "mbpp",
    split: SplitName = "test",
    kind: KindName = None,
    per_problem: PerProblem = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="JSON file for every task that is not as it should be."),
    ] = None,
    tests: TestsName = "standard",
    workers: Workers = None,
    isolation: IsolationName = "auto",
    time_floor: TimeFloor = 2.0,
    memory_mb: Memory = 1024,
) -> None:
    """Ceiling and floor: reference answers through the whole pipeline, then empty ones and `pass`.

    Exit code 1 if a reference answer does not pass.
    """
    import dataclasses

    import orjson

    from fim_eval.selfcheck import self_check
    from fim_eval.suite import build_suite
    from fim_eval.verify import JudgeSettings

    settings = JudgeSettings(
        workers=workers or cores(),
        tests=tests,
        time_floor_s=time_floor,
        memory_bytes=memory_mb << 20,
    )
    suite = build_suite(problems, split, kind, say, per_problem=per_problem, seed=seed)
    jail = jail_for(isolation)
    with (
        tempfile.TemporaryDirectory(prefix="fim-eval-selfcheck-") as folder,
        judged_progress() as watcher,
        interruptible(),
    ):
        found = self_check(
            suite, folder=Path(folder), jail=jail, settings=settings, watcher=watcher
        )
    show_self_check(found)
    if out is not None:
        write(out, orjson.dumps(dataclasses.asdict(found), option=orjson.OPT_INDENT_2) + b"\n")
        say(f"every task of it is in {out}")
    if found.ceiling.failed:
        raise typer.Exit(FAILED)
    unresolved = found.ceiling.unresolved or found.empty.unresolved or found.filler.unresolved
    raise typer.Exit(UNRESOLVED if unresolved else 0)


def doctor(
    servers: Annotated[
        Path, typer.Option("--servers", help="Folder of vLLM configuration files.")
    ] = Path("servers"),
) -> None:
    """What this machine offers: isolation, cores, memory, event loop, servers that answer.

    Exit code 1 if programs cannot be isolated.
    """
    import importlib.util
    import platform

    from fim_eval.sandbox import tiers
    from fim_eval.study import server_states

    rows = [
        ("fim-eval", fim_eval_version()),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("cores", f"{cores()} for this process, {os.cpu_count()} in the machine"),
        ("memory", f"{free_memory()}"),
        (
            "event loop",
            "uvloop"
            if importlib.util.find_spec("uvloop")
            else "asyncio: pip install uvloop makes requests cheaper",
        ),
    ]
    offered = tiers()
    best = next((tier.isolation for tier in offered if tier.jail is not None), None)
    for tier in offered:
        state = "in use" if tier.isolation == best else "offered" if tier.jail else "not offered"
        rows.append((f"isolation {tier.isolation}", f"{state}: {tier.reason}"))
    if servers.is_dir():
        for server, fault in run_async(server_states(servers)):
            state = "answers" if fault is None else "does not answer"
            rows.append((f"server {server.config}", f"{state} at {server.base_url}"))
    else:
        rows.append(("servers", f"no folder {servers}; --servers names one"))
    width = max(len(name) for name, _ in rows)
    sys.stdout.write("".join(f"{name:<{width}}  {state}\n" for name, state in rows))
    if best is None:
        raise typer.Exit(FAILED)


def judge_runs(
    runs: Sequence[Path],
    jail: Jail,
    settings: JudgeSettings,
    problems: Sequence[Any] = (),
    execute: Execute | None = None,
) -> int:
    """Judge run directories with progress on standard error; how many programs have no verdict.

    Their audits come along.
    """
    from fim_eval.journal import AUDIT, has_manifest
    from fim_eval.sandbox import run_jobs
    from fim_eval.verdicts import read_verdicts
    from fim_eval.verify import verify as verify_runs

    runs = [*runs, *(run / AUDIT for run in runs if has_manifest(run / AUDIT))]
    with judged_progress() as watcher, interruptible():
        verify_runs(runs, problems, jail, settings, watcher, execute=execute or run_jobs)
    outcomes: Counter[str] = Counter()
    distinct = {key: verdict for run in runs for key, verdict in read_verdicts(run).items()}
    outcomes.update(verdict.outcome for verdict in distinct.values())
    say(f"{len(distinct)} distinct programs judged: {counted(outcomes)}")
    return sum(outcomes[bad] for bad in NO_VERDICT)


def executing(cluster: RayCluster | None) -> Execute | None:
    """How a cluster executes programs, and says on how much; None, this machine, for None."""
    if cluster is None:
        return None
    say(f"Ray: {cluster.nodes()} nodes, {cluster.processors()} processors judge")
    return cluster.run_jobs


@contextmanager
def cluster_of(engine: Engine, ray_address: str | None) -> Iterator[RayCluster | None]:
    """The cluster that an engine works on; None for this machine alone."""
    if engine == "local":
        if ray_address is not None:
            raise typer.BadParameter("needs --engine ray", param_hint="--ray-address")
        yield None
        return
    from fim_eval.cluster import joined

    with joined(ray_address) as cluster:
        yield cluster


@contextmanager
def judged_progress() -> Iterator[Watcher]:
    """Progress of judging on standard error."""
    from fim_eval.verify import Watcher

    with steps("judged", "without verdict") as begin:
        step = begin("")

        def on_verdict(verdict: Verdict) -> None:
            step.advance(verdict.outcome in NO_VERDICT)

        yield Watcher(on_start=step.start, on_verdict=on_verdict, notice=say)


def jail_for(isolation: IsolationName) -> Jail:
    """The jail that was asked for, and a line that says which it is."""
    from fim_eval.sandbox import find_jail

    jail = find_jail(isolation, say)
    say(f"isolation {jail.isolation}: {jail.detail}")
    return jail


def counted(outcomes: Mapping[str, int]) -> str:
    """Outcomes with their numbers, most frequent first."""
    return ", ".join(f"{count} {outcome}" for outcome, count in Counter(outcomes).most_common())


def facts_beside(out: Path) -> Path:
    """Where the facts of a file of verdicts stand."""
    return out.with_name(out.name + ".facts.json")


@contextmanager
def judging_folder(out: Path) -> Iterator[Path]:
    """Where verdicts are kept until all are reached: beside the output, so that a kill costs none.

    Removed once the output is written; kept after an error, for the same command to go on.
    """
    if out == STANDARD:
        with tempfile.TemporaryDirectory(prefix="fim-eval-judge-") as folder:
            yield Path(folder)
        return
    folder_beside = out.with_name(out.name + ".judging")
    yield folder_beside
    shutil.rmtree(folder_beside, ignore_errors=True)


def read_candidates(path: Path) -> list[dict[str, Any]]:
    """Rows with at least a problem id and a program; what else they hold is kept.

    Raises:
        DatasetError: a line is none, with its number.
    """
    import json

    try:
        content = sys.stdin.buffer.read() if path == STANDARD else path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    place = "standard input" if path == STANDARD else str(path)
    rows = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{place}:{number}: is not valid JSON ({error})") from error
        for name in ("problem_id", "program"):
            if not isinstance(row, dict) or not isinstance(row.get(name), str):
                raise DatasetError(
                    f'{place}:{number}: has no text {name!r}; a candidate is {{"problem_id": '
                    '"MBPP/11", "program": "..."}'
                )
        rows.append(row)
    if not rows:
        raise DatasetError(f"{place}: holds no candidate")
    return rows


def show_self_check(found: SelfCheck) -> None:
    """Print ceiling and floor, and the first of the tasks that are not as they should be."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{found.kind}, {found.tasks} tasks")
    for header in ("passed", "%", "failed", "no verdict"):
        table.add_column(header, justify="right")
    for name, answered in (
        ("ceiling: the reference", found.ceiling),
        *((f"  under {policy}", answered) for policy, answered in found.under_policy.items()),
        ("floor: nothing", found.empty),
        ("floor: pass", found.filler),
    ):
        table.add_row(
            name,
            f"{len(answered.passed)}/{found.tasks}",
            f"{100 * len(answered.passed) / found.tasks:.1f}",
            str(len(answered.failed)),
            str(len(answered.unresolved)),
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    listed("reference answers that do not pass", found.ceiling.failed)
    listed("reference answers without a verdict", found.ceiling.unresolved)
    listed(
        "insensitive tasks, which pass with nothing in their hole",
        [(name, "") for name in found.empty.passed],
    )


def listed(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """A title and the first of the rows, on standard output; nothing if there are none."""
    from fim_eval.terminal import printable

    if not rows:
        return
    lines = [f"{len(rows)} {title}:"]
    lines += ["  " + printable(f"{name}  {detail}".rstrip()) for name, detail in rows[:MOST_LISTED]]
    if len(rows) > MOST_LISTED:
        lines.append(f"  and {len(rows) - MOST_LISTED} more; --out FILE names all")
    sys.stdout.write("\n".join(lines) + "\n")


def free_memory() -> str:
    """Memory of the machine and what of it is free, in GiB."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (page * os.sysconf(name) / 2**30 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return f"{total:.1f} GiB, {free:.1f} GiB free"


def fim_eval_version() -> str:
    """The installed version."""
    from importlib.metadata import version

    return version("fim-eval")

"""Does cost grow as the work does? `fim-eval run` in 1, 2 and 4 shards, at sizes ten times apart.

    python benchmarks/scale.py                                10,000 and 100,000 prompts
    python benchmarks/scale.py --prompts 1000000 --shards 4   needs 8 GB of disk

A local server answers at once (`fim_eval.mock`, a process of its own, not counted). Every shard is
the command itself: it starts, reads the whole task file, asks its part, scores it and prints the
table. What is measured: benchmarks/README.md.
"""

# ruff: noqa: S603  it starts the command that it measures
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from client import ANSWER_TOKENS, MODEL, made_tasks, serving

from fim_eval.lines import json_lines

COMMAND = str(Path(sys.executable).with_name("fim-eval"))
BLOCK = 10_000
"""Tasks that are made and written at once."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of all shards of a run together."""

    wall_s: float
    cpu_s: float
    peaks_mb: tuple[float, ...]
    """Of each shard's process."""

    journal_bytes: int
    """Of what grows by an answer: generations.jsonl."""

    disk_bytes: int
    """Of the run directories: each shard's holds its own tasks."""


def main() -> None:
    """Measure every size in every number of shards, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repetitions", type=int, default=1)
    given = parser.parse_args()
    print(
        "| prompts | shards | s | prompts/s | CPU ms a prompt | peak MB, one process | all "
        "| bytes a prompt, journal | all |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name, serving() as url:
        folder = Path(name)
        for prompts in given.prompts:
            tasks = write_tasks(folder / f"tasks_{prompts}.jsonl", prompts)
            for _ in range(given.repetitions):
                for shards in given.shards:
                    cost = measured(tasks, shards, url, folder / "runs")
                    print(row(prompts, shards, cost), flush=True)
            tasks.unlink()


def measured(tasks: Path, shards: int, url: str, folder: Path) -> Cost:
    """Ask all of a task file in so many shards at the same time.

    Raises:
        SystemExit: one did not answer all of its part.
    """
    started = time.monotonic()
    processes = [start(tasks, f"{part}/{shards}", url, folder) for part in range(1, shards + 1)]
    cpu_s, peaks_mb = 0.0, []
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"a shard ended with {process.returncode}: {(folder / 'log').read_text()}")
        cpu_s += usage.ru_utime + usage.ru_stime
        peaks_mb.append(usage.ru_maxrss / 1024)
    wall_s = time.monotonic() - started
    cost = Cost(
        wall_s,
        cpu_s,
        tuple(peaks_mb),
        sum(path.stat().st_size for path in folder.rglob("generations.jsonl")),
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )
    shutil.rmtree(folder)
    return cost


def start(tasks: Path, shard: str, url: str, folder: Path) -> subprocess.Popen[bytes]:
    """One shard's command."""
    out = folder / shard.partition("/")[0]
    folder.mkdir(exist_ok=True)
    words = [
        "run", "--tasks", tasks, "--endpoint", url, "--model", MODEL, "--strategy", "lr",
        "--shard", shard, "--out", out, "--max-tokens", ANSWER_TOKENS,
    ]  # fmt: skip
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [COMMAND, *map(str, words)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def write_tasks(path: Path, prompts: int) -> Path:
    """Tasks with prompts of about 300 tokens, five a problem, no two alike."""
    with path.open("wb") as file:
        for first in range(0, prompts, BLOCK):
            numbers = range(first, min(first + BLOCK, prompts))
            file.write(json_lines(made_tasks(numbers)))
    return path


def row(prompts: int, shards: int, cost: Cost) -> str:
    """A line of the table."""
    return (
        f"| {prompts:,} | {shards} | {cost.wall_s:.1f} | {prompts / cost.wall_s:,.0f} "
        f"| {1000 * cost.cpu_s / prompts:.3f} | {max(cost.peaks_mb):,.0f} "
        f"| {sum(cost.peaks_mb):,.0f} | {cost.journal_bytes / prompts:,.0f} "
        f"| {cost.disk_bytes / prompts:,.0f} |"
    )


if __name__ == "__main__":
    main()

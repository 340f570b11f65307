"""How long a report takes, and how much memory: a made-up study of MBPP's size.

974 problems with six holes each (two single lines, one multi-line, one random span, two blocks),
four models, five policies: 116,880 scored answers, each with a verdict. The study is made first, in
a folder of its own, and is not timed; `fim-eval report` then runs in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fim_eval.words import Kind  # noqa: E402
from tests.integration.simulated import Simulated, suite, write_study  # noqa: E402

KINDS: tuple[Kind, ...] = (
    "single-line", "single-line", "multi-line", "random-span", "block", "block",
)  # fmt: skip
MODELS = [
    Simulated(f"CodeLlama-{size}", rate, card=f"CodeLlama-{size}-hf", bits=1.5 - rate)
    for size, rate in (("7b", 0.45), ("13b", 0.5), ("34b", 0.55), ("70b", 0.6))
]


def main() -> None:
    """Make the study, report on it, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=974)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for the study, kept and used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        runs = folder / "runs"
        if not runs.exists():
            write_study(runs, suite(arguments.problems, KINDS), MODELS)
        scored = len(MODELS) * arguments.problems * len(KINDS) * 5
        print(f"{scored:,} scored answers, {arguments.resamples:,} resamples")
        for _ in range(arguments.repetitions):
            wall_s, cpu_s, peak_mb = measure(runs, folder / "out", arguments.resamples)
            print(
                f"{wall_s:.1f} s, {cpu_s:.1f} s of processor time, {peak_mb:,.0f} MB at most in one"
                " process"
            )


def measure(runs: Path, out: Path, resamples: int) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak MB of one `fim-eval report`, its children included.

    Raises:
        SystemExit: it failed.
    """
    command = [
        sys.executable, "-m", "fim_eval", "report", str(runs), "--out", str(out),
        "--resamples", str(resamples),
    ]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    log = os.open(out.parent / "report.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    pid = os.posix_spawn(sys.executable, command, os.environ | {"PYTHONPATH": str(ROOT)},
                         file_actions=actions)  # fmt: skip
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - start
    if status:
        raise SystemExit((out.parent / "report.log").read_text())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return wall_s, cpu_s, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()

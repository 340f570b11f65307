"""The whole study rehearsed without a model, with the delays that `fim-eval plan` predicts.

    python benchmarks/rehearsal.py                    four sizes of Code Llama, all of MBPP
    python benchmarks/rehearsal.py --faster 4 --judge all --keep FOLDER

Four `fim-eval mock-server`, one for each size; `fim-eval eval --shard 1/4` to `4/4`, each asking
all four; `merge`; `verify --engine ray`; `report`. Each server gives a known share of wrong
answers, so that it is known what must come out. What is compared: benchmarks/README.md.
"""

# ruff: noqa: S603  it starts the command and its servers
from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fim_eval.journal import read_generations, read_segments
from fim_eval.records import Completion
from fim_eval.study import run_path

COMMAND = str(Path(sys.executable).with_name("fim-eval"))
SHARDS = 4
STRATEGY = "lr"
IN_FLIGHT = 128
"""That `plan` reckons with, and that a server works on at once."""

WRONG = {"7b": 0.62, "13b": 0.57, "34b": 0.51, "70b": 0.45}
"""Share of wrong answers by size: near what is published for single lines, and made up."""


@dataclass(frozen=True, slots=True)
class Size:
    """One model of the study, as it is rehearsed."""

    name: str
    model: str
    wrong: float
    plan_s: float
    """That one server of it takes for all prompts, by the plan, before it is made faster."""

    prefill_s: float
    latency_s: float


def main() -> None:
    """Rehearse, and print what came out beside what must."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", default=_from_environment("FIM_EVAL_MBPP", "mbpp.jsonl"))
    parser.add_argument(
        "--tokenizer", default=_from_environment("FIM_EVAL_CODELLAMA_TOKENIZER", "tokenizer.model")
    )
    parser.add_argument("--split", default="all")
    parser.add_argument("--gpu", default="A100-80", help="as for fim-eval plan")
    parser.add_argument("--faster", type=float, default=2.0, help="every delay divided by this")
    parser.add_argument("--judge", choices=("sample", "all", "none"), default="sample")
    parser.add_argument("--ray-address", default="local")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--max-concurrency", type=int, default=256, help="of each shard")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--limit", type=int, help="tasks, to try it out")
    parser.add_argument("--keep", type=Path, help="a new folder for all of it, kept")
    given = parser.parse_args()
    if given.problems is None or given.tokenizer is None:
        parser.error(
            "--problems and --tokenizer (or FIM_EVAL_MBPP and FIM_EVAL_CODELLAMA_TOKENIZER, the "
            "folders of mbpp.jsonl and of Code Llama's tokenizer.model) are needed"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rehearse(folder, given)


def rehearse(folder: Path, given: argparse.Namespace) -> None:
    """All of it, in `folder`."""
    suite = ["--problems", given.problems, "--split", given.split]
    limit = ["--limit", given.limit] if given.limit else []
    tasks, prompts = folder / "tasks.jsonl", folder / "prompts.jsonl"
    fim_eval("tasks", *suite, "--out", tasks)
    fim_eval(
        "prompts", "--tasks", tasks, "--model", "mock", "--strategy", STRATEGY, "--out", prompts
    )
    sizes = planned(suite, limit, given)
    answer_tokens = mean_tokens(tasks, given.tokenizer)
    spent: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        servers = folder / "servers"
        servers.mkdir()
        for size in sizes:
            url = stack.enter_context(served(size, prompts, given, answer_tokens))
            config = {"served-model-name": size.model, "port": int(url.rpartition(":")[2][:-3])}
            (servers / f"{size.name}.yaml").write_text(json.dumps(config))
        with timed("asked, in four shards", spent), ThreadPoolExecutor(SHARDS) as pool:
            list(
                pool.map(
                    lambda part: fim_eval(
                        "eval", *suite, *limit, "--servers", servers, "--strategies", STRATEGY,
                        "--max-concurrency", given.max_concurrency, "--batch", given.batch,
                        "--no-verify", "--shard", f"{part}/{SHARDS}",
                        "--out", folder / "shards" / str(part),
                    ),
                    range(1, SHARDS + 1),
                )
            )  # fmt: skip
    for size in sizes:
        for part in range(1, SHARDS + 1):
            if not run_path(folder / "shards" / str(part), size.model, STRATEGY).exists():
                sys.exit(f"shard {part}: the server for {size.model} did not answer within 5 s")
    if given.judge == "sample":
        with timed("judged on Ray, the first shard", spent):
            judged = judge(folder / "shards" / "1", given.ray_address)
    runs = folder / "runs"
    with timed("merged", spent):
        for size in sizes:
            out = run_path(runs, size.model, STRATEGY)
            parts = [
                run_path(folder / "shards" / str(part), size.model, STRATEGY)
                for part in range(1, SHARDS + 1)
            ]
            fim_eval("merge", *parts, "--out", out)
    if given.judge == "all":
        with timed("judged on Ray", spent):
            judged = judge(runs, given.ray_address)
    with timed("reported", spent):
        fim_eval("report", runs, "--out", folder / "report", "--resamples", given.resamples)
    for what, seconds in spent.items():
        print(f"{what}: {seconds:.1f} s")
    if given.judge != "none":
        print(f"judged: {judged}")
    tell(sizes, runs, folder / "report", given.faster)


def planned(suite: Sequence[str], limit: Sequence[object], given: argparse.Namespace) -> list[Size]:
    """What the plan says of one server of each size."""
    told = json.loads(
        fim_eval(
            "plan", *suite, *limit, "--models", ",".join(WRONG), "--gpu", given.gpu,
            "--strategies", STRATEGY, "--tokenizer", given.tokenizer,
            "--in-flight", IN_FLIGHT, "--json",
        ).stdout
    )  # fmt: skip
    return [
        Size(
            name,
            each["model"],
            WRONG[name],
            plan_s=each["estimates"][0]["wall_s"],
            prefill_s=each["estimates"][0]["prefill_s"],
            latency_s=each["estimates"][0]["latency_s"],
        )
        for name, each in zip(WRONG, told["models"], strict=True)
    ]


def mean_tokens(tasks: Path, tokenizer: str) -> float:
    """Of the references: what the servers answer."""
    from fim_eval.tokenizer import open_tokenizer, tokenizer_path  # noqa: PLC0415  on use

    encoder = open_tokenizer(tokenizer_path(tokenizer, None))
    middles = [json.loads(line)["middle"] for line in tasks.read_bytes().splitlines()]
    return statistics.mean(len(encoder.encode_infill(middle)) for middle in middles)


@contextlib.contextmanager
def served(
    size: Size, prompts: Path, given: argparse.Namespace, answer_tokens: float
) -> Iterator[str]:
    """A mock server of a size; its base URL.

    The plan's answers are as long as they may be. Ours are as long as the references: one of
    mean length takes as long as the plan's.
    """
    per_token_s = (size.latency_s - size.prefill_s) / answer_tokens
    command = [
        "mock-server", "--prompts", prompts, "--model", size.model, "--tokenizer", given.tokenizer,
        "--first-token-ms", 1000 * size.prefill_s / given.faster,
        "--per-token-ms", 1000 * per_token_s / given.faster,
        "--most-running", IN_FLIGHT, "--corrupted", size.wrong,
    ]  # fmt: skip
    with subprocess.Popen(
        [COMMAND, *map(str, command)], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None  # noqa: S101  it is a pipe
            ready = re.search(r"http://\S+/v1", server.stderr.readline())
            if ready is None:
                sys.exit(f"the server for {size.model} does not start")
            yield ready[0]
        finally:
            server.terminate()


def judge(folder: Path, address: str) -> str:
    """Judge on Ray; what it says of the outcomes."""
    done = fim_eval("verify", folder, "--engine", "ray", "--ray-address", address, codes=(0, 3))
    (line,) = re.findall(r"^\d+ distinct programs judged: .*$", done.stderr, re.MULTILINE)
    return str(line)


def tell(sizes: Sequence[Size], runs: Path, report: Path, faster: float) -> None:
    """The table: time beside the plan's, and rates beside the truth."""
    found = json.loads((report / "report.json").read_bytes())
    policy = found["headline_policy"]["single-line"]
    rows = {row["model"]: row for row in found["rows"] if row["policy"] == policy}
    print(
        f"\nEvery delay divided by {faster:g}.\n\n"
        "| size | plan, s | measured, s | over the plan | answered | exact match, 95 % | truth "
        "| |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for size in sizes:
        path = run_path(runs, size.model, STRATEGY)
        row, wall_s = rows[size.model], asking_s(path)
        rate: dict[str, Any] = row["metrics"]["exact_match"]
        truth, plan_s = 1 - size.wrong, size.plan_s / faster
        inside = rate["low"] <= truth <= rate["high"]
        print(
            f"| {size.name} | {plan_s:.1f} | {wall_s:.1f} | {wall_s / plan_s - 1:+.0%} "
            f"| {row['answered']:,}/{row['tasks']:,} "
            f"| {rate['value']:.3f} ({rate['low']:.3f}–{rate['high']:.3f}) "
            f"| {truth:.3f} | {'inside' if inside else 'OUTSIDE'} |"
        )
    first = (report / "answer.md").read_text().strip().splitlines()
    print("\nanswer.md:", next(line for line in first if "rehearsal" in line))
    pairs = [
        pair
        for pair in found["pairs"]
        if pair["policy"] == policy and pair["metric"] == "exact_match"
    ]
    print("pairs:", ", ".join(f"{pair['finding']}" for pair in pairs))


def asking_s(run: Path) -> float:
    """From the first session's start to the last answer."""
    starts = {
        one.segment: datetime.fromisoformat(one.started_at).timestamp()
        for one in read_segments(run)
    }
    ends = [
        starts[one.segment] + (one.sent_ns + one.elapsed_ns) / 1e9
        for one in read_generations(run).values()
        if isinstance(one, Completion)
    ]
    return max(ends) - min(starts.values())


@contextlib.contextmanager
def timed(what: str, spent: dict[str, float]) -> Iterator[None]:
    """Note how long it takes."""
    start = time.perf_counter()
    yield
    spent[what] = time.perf_counter() - start


def fim_eval(*words: object, codes: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run the command to its end.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        sys.exit(f"fim-eval {' '.join(map(str, words))}: {done.stderr}")
    return done


def _from_environment(folder: str, name: str) -> str | None:
    return str(Path(os.environ[folder]) / name) if folder in os.environ else None


if __name__ == "__main__":
    main()

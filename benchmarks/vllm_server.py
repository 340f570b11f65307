"""The client against real vLLM on the CPU: beside vLLM's own ways to ask, and in two orders.

Every way gets the same prompts as text with the same settings, and a prefix cache that is empty;
its engine has answered all of them once before. Timed is, of ours, all of stage 1 (prompts built,
server identified, asked, journalled); of `vllm bench serve`, what it reports as its duration; of
`LLM.generate`, the call alone. The ways take turns. `--servers 2` asks the model on two servers,
too, each on its share of the processors.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import get_args

import httpx

from fim_eval.cli.console import run_async
from fim_eval.generate import Request, run
from fim_eval.order import distinct, in_cache_order
from fim_eval.recipe import Recipe, prepare
from fim_eval.records import InfillTask
from fim_eval.suite import build_suite
from fim_eval.words import Kind

ROOT = Path(__file__).resolve().parents[1]
SERVER_PYTHON = ROOT / ".venv-server" / "bin" / "python"
IN_FLIGHT = 64

OFFLINE = """
import json, os, sys, time
from vllm import LLM, SamplingParams

def main():
    given = json.load(open(sys.argv[1]))
    llm = LLM(**given["engine"])
    how = SamplingParams(temperature=0, max_tokens=given["max_tokens"], stop=given["stop"])
    llm.generate(given["prompts"], how, use_tqdm=False)
    llm.reset_prefix_cache()
    start = time.perf_counter()
    answers = llm.generate(given["prompts"], how, use_tqdm=False)
    seconds = time.perf_counter() - start
    tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
    json.dump({"seconds": seconds, "tokens": tokens}, open(sys.argv[2], "w"))

if __name__ == "__main__":
    main()
"""

BENCH_SERVE = (
    "import argparse; from vllm.benchmarks import serve; parser = argparse.ArgumentParser(); "
    "serve.add_cli_args(parser); serve.main(parser.parse_args())"
)
"""`vllm bench serve`: the command itself wants a distribution of that very name."""


@dataclass(frozen=True, slots=True)
class Job:
    """A model, and what it is asked."""

    model: Path
    tasks: Sequence[InfillTask]
    recipe: Recipe
    prompts: Sequence[str]
    stop: Sequence[str]
    max_tokens: int


def main() -> None:
    """Ask in every way, in turn; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("smollm2", "tiny"))
    parser.add_argument("--problems", default=os.environ.get("FIM_EVAL_MBPP", "mbpp"))
    parser.add_argument(
        "--tokenizer", default=os.environ.get("FIM_EVAL_CODELLAMA_TOKENIZER"), help="for tiny"
    )
    parser.add_argument(
        "--kind", default="single-line", choices=get_args(Kind), help="of hole; asked as lr"
    )
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--servers", type=int, default=1, help="of ours, in one more way")
    parser.add_argument("--orders", action="store_true", help="the prefix cache, and nothing else")
    arguments = parser.parse_args()
    problems = Path(arguments.problems)
    source = str(problems / "mbpp.jsonl" if problems.is_dir() else problems)
    suite = build_suite(source, "test", arguments.kind, print)
    tasks = list(islice(suite.tasks, arguments.tasks))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = ROOT / ".cache" / "smollm2-135m"
        if arguments.model == "tiny":
            model = tiny_llama(folder / "tiny", Path(arguments.tokenizer))
        recipe = Recipe(model=model.name, strategy="lr", max_tokens=arguments.max_tokens)
        prompts = list(map(prepare(recipe).prompt_of, tasks))
        print(f"{len(prompts)} {arguments.kind} tasks, {len(distinct(prompts))} different prompts")
        job = Job(
            model,
            tasks,
            recipe,
            [prompt.text or "" for prompt in prompts],
            prompts[0].stop,
            arguments.max_tokens,
        )
        if arguments.orders:
            orders(job, folder, arguments.repetitions)
        else:
            compare(job, folder, arguments.repetitions, arguments.servers)


def tiny_llama(folder: Path, tokenizer: Path) -> Path:
    """A Llama with random weights and Code Llama's vocabulary, as in the tests."""
    script = ROOT / "tests" / "integration" / "tiny_llama.py"
    command = [str(SERVER_PYTHON), str(script), str(tokenizer / "tokenizer.model"), str(folder)]
    run_quietly(command, folder.parent)
    return folder


def compare(job: Job, folder: Path, repetitions: int, servers: int) -> None:
    """Ours, `vllm bench serve` and `LLM.generate`, in turn."""
    several = f"ours, {servers} servers"
    ways = ["ours", *([several] if servers > 1 else []), "vllm bench serve", "LLM.generate"]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repetition in range(repetitions):
        with serving(job.model, folder) as (root,):
            seconds["ours"].append(ask_ours(job, [root], folder / f"run-{repetition}"))
            reset([root])
            seconds["vllm bench serve"].append(ask_bench_serve(job, root, folder))
        seconds["LLM.generate"].append(ask_offline(job, folder))
        if servers > 1:
            with serving(job.model, folder, servers) as roots:
                seconds[several].append(ask_ours(job, roots, folder / f"several-{repetition}"))
        for way, measured in seconds.items():
            print(f"{repetition + 1}/{repetitions} {way:18}{measured[-1]:8.1f} s", flush=True)
    for way, measured in seconds.items():
        median = statistics.median(measured)
        ratios = [other / own for other, own in zip(measured, seconds["ours"], strict=True)]
        print(
            f"{way:18}{median:8.1f} s {len(job.prompts) / median:8.1f} prompts/s, "
            f"{statistics.median(ratios):.2f} times ours "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def ask_ours(job: Job, roots: Sequence[str], out: Path) -> float:
    """Seconds of `fim_eval.generate.run`, the second time."""
    seconds = 0.0
    for turn in ("first", "second"):
        request = Request(
            tasks=job.tasks,
            task_facts=None,
            recipe=job.recipe,
            endpoint=",".join(f"{root}/v1" for root in roots),
            out=out / turn,
        )
        reset(roots)
        start = time.perf_counter()
        result = run_async(run(request, lambda _total, _left: None, lambda _outcome: None))
        seconds = time.perf_counter() - start
        assert result.answered == len(job.tasks), result  # noqa: S101
    return seconds


def ask_bench_serve(job: Job, root: str, folder: Path) -> float:
    """Seconds that `vllm bench serve` reports."""
    data, result = folder / "bench.jsonl", folder / "bench-result.json"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in job.prompts))
    command = [
        str(SERVER_PYTHON), "-c", BENCH_SERVE, "--backend", "openai", "--base-url", root,
        "--endpoint", "/v1/completions", "--model", job.model.name, "--tokenizer", str(job.model),
        "--dataset-name", "custom", "--dataset-path", str(data), "--custom-output-len",
        str(job.max_tokens), "--skip-chat-template", "--disable-shuffle", "--num-prompts",
        str(len(job.prompts)), "--max-concurrency", str(IN_FLIGHT), "--temperature", "0",
        "--extra-body", json.dumps({"stop": list(job.stop)}), "--disable-tqdm", "--save-result",
        "--result-dir", str(folder), "--result-filename", result.name,
    ]  # fmt: skip
    run_quietly(command, folder)
    told = json.loads(result.read_text())
    assert told["completed"] == len(job.prompts), told  # noqa: S101
    return float(told["duration"])


def ask_offline(job: Job, folder: Path) -> float:
    """Seconds of `LLM.generate`, its engine configured as in servers/smollm2.yaml."""
    given = folder / "offline.json"
    engine = {
        "model": str(job.model), "dtype": "float32", "max_model_len": 2048, "enforce_eager": True,
        "enable_prefix_caching": True, "generation_config": "vllm", "max_num_seqs": 256,
        "max_num_batched_tokens": 4096,
    }  # fmt: skip
    given.write_text(
        json.dumps(
            {
                "engine": engine,
                "prompts": list(job.prompts),
                "stop": list(job.stop),
                "max_tokens": job.max_tokens,
            }
        )
    )
    script = folder / "offline.py"
    script.write_text(OFFLINE)
    result = folder / "offline-result.json"
    run_quietly([str(SERVER_PYTHON), str(script), str(given), str(result)], folder)
    return float(json.loads(result.read_text())["seconds"])


def orders(job: Job, folder: Path, repetitions: int) -> None:
    """What the server's own counters say of its prefix cache, in our order and at random."""
    asked = map(prepare(job.recipe).prompt_of, job.tasks)
    problem_of = {task.task_id: task.problem_id for task in job.tasks}
    ours = [one.prompt.text for one in in_cache_order(distinct(asked), problem_of)]
    with serving(job.model, folder) as (root,):
        for repetition in range(repetitions):
            shuffled = list(ours)
            random.Random(repetition).shuffle(shuffled)  # noqa: S311  an order, no secret
            for name, prompts in (("ours", ours), ("random", shuffled)):
                reset([root])
                before = cache_counters(root)
                start = time.perf_counter()
                asyncio.run(ask_in_order(job, root, [prompt or "" for prompt in prompts]))
                seconds = time.perf_counter() - start
                queries, hits = (
                    after - earlier
                    for after, earlier in zip(cache_counters(root), before, strict=True)
                )
                print(
                    f"{name:8}{seconds:8.1f} s, {hits / queries:6.1%} of {queries:,.0f} prompt "
                    f"tokens from the cache, {queries - hits:,.0f} computed",
                    flush=True,
                )


async def ask_in_order(job: Job, root: str, prompts: Sequence[str]) -> None:
    """One prompt a request, so many in flight."""
    left = iter(prompts)
    limits = httpx.Limits(max_connections=IN_FLIGHT)
    async with httpx.AsyncClient(timeout=3_600, limits=limits) as http:

        async def work() -> None:
            for prompt in left:
                body = {
                    "model": job.model.name, "prompt": prompt, "max_tokens": job.max_tokens,
                    "temperature": 0, "stop": list(job.stop),
                }  # fmt: skip
                (await http.post(f"{root}/v1/completions", json=body)).raise_for_status()

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


def cache_counters(root: str) -> tuple[float, float]:
    """Prompt tokens that were looked for in the prefix cache, and found."""
    lines = httpx.get(f"{root}/metrics").text.splitlines()

    def total(counter: str) -> float:
        found = [line for line in lines if line.startswith(f"vllm:{counter}_total{{")]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    return total("prefix_cache_queries"), total("prefix_cache_hits")


def reset(roots: Sequence[str]) -> None:
    """Empty the servers' prefix caches."""
    for root in roots:
        httpx.post(f"{root}/reset_prefix_cache", timeout=60).raise_for_status()


@contextlib.contextmanager
def serving(model: Path, folder: Path, count: int = 1) -> Iterator[list[str]]:
    """Servers of the model, in float32, each on its share of the processors; gives root URLs."""
    with_server = module(ROOT / "servers" / "with_server.py")
    shares: list[dict[str, str]] = [{}]
    if count > 1:
        shares = module(ROOT / "servers" / "replicas.py").gpu_shares(
            "smollm2", count, [], os.environ
        )
    with contextlib.ExitStack() as stack:
        servers = []
        for number, share in enumerate(shares, 1):
            port = with_server.free_port()
            command = [
                str(ROOT / "servers" / "serve.sh"), "smollm2", "--model", str(model),
                "--served-model-name", model.name, "--port", str(port),
            ]  # fmt: skip
            log = folder / f"server-{number}.log"
            environment = {"VLLM_SERVER_DEV_MODE": "1", **share}
            server = stack.enter_context(with_server.started(command, log, environment))
            servers.append((server, port, log))
        for server, port, log in servers:
            with_server.wait_until_ready(server, port, log)
        yield [f"http://127.0.0.1:{port}" for _, port, _ in servers]


def module(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def run_quietly(command: Sequence[str], folder: Path) -> None:
    """Run a command.

    Raises:
        SystemExit: it failed; with what it said.
    """
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_HOST_IP": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(  # noqa: S603  fixed words and our own files
        command, capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{(done.stdout + done.stderr)[-3_000:]}")


if __name__ == "__main__":
    main()

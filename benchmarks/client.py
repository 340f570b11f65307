"""What one more prompt costs a client: ours against other tools and bare HTTP clients.

    python benchmarks/client.py --setup     once: the peers, in .cache/benchmarks/clients
    python benchmarks/client.py             all tools in turn, three times
    python benchmarks/client.py --memory    memory of ours at 10,000 and 100,000 prompts

A local server answers at once (`fim_eval.mock`, a process of its own). Each tool asks two sizes of
prompts; its marginal cost is the slope of its processor time between them, so that what it
imports and loads does not count. What is measured, and how each tool is called:
benchmarks/README.md. Run it with the client's Python (.venv/bin/python).
"""

# ruff: noqa: S603  it starts the tools that it compares
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fim_eval.records import InfillTask

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".cache" / "benchmarks" / "clients"
SERVER = ROOT / ".venv-server"
TOKENIZER = ROOT / ".cache" / "smollm2-135m"
MODEL = "mock"
ANSWER_TOKENS = 24
BLOCK = "    value = value + other * 17  # more\n" * 30
"""About 300 tokens."""

IN_FLIGHT = 64
BENCH_SERVE = (
    "import argparse; from vllm.benchmarks import serve; parser = argparse.ArgumentParser(); "
    "serve.add_cli_args(parser); serve.main(parser.parse_args())"
)
"""`vllm bench serve`: the command itself wants a distribution of that very name."""

GOALS_MS = {"ours, 16 a request": 0.1, "ours, 1 a request": 0.5}
GOAL_TIMES = 8


@dataclass(frozen=True, slots=True)
class Tool:
    """How a tool is started: `{n}` prompts, at `{url}`, from `{folder}`."""

    name: str
    command: tuple[str, ...]
    sizes: tuple[int, int]
    """Prompts of the two runs. What they cost has to stand out from what starting costs, which
    varies by seconds where it is ten."""

    is_peer_tool: bool = False
    """A tool that people evaluate or measure with, not a bare client."""


def tools() -> list[Tool]:
    """All that can be compared here."""
    this, peers = str(Path(__file__).resolve()), str(PEERS / "bin" / "python")

    def own(python: str, way: str) -> tuple[str, ...]:
        return (
            python,
            this,
            "--as",
            way,
            "--url",
            "{url}",
            "--prompts",
            "{n}",
            "--folder",
            "{folder}",
        )

    return [
        Tool("ours, 16 a request", own(sys.executable, "ours-16"), (5_000, 25_000)),
        Tool("ours, 1 a request", own(sys.executable, "ours-1"), (1_000, 4_000)),
        Tool("bare aiohttp", own(peers, "aiohttp"), (1_000, 4_000)),
        Tool("bare httpx", own(peers, "httpx"), (400, 1_600)),
        Tool("openai SDK", own(peers, "openai"), (400, 1_600)),
        Tool(
            "lm-eval local-completions",
            (
                peers, "-m", "lm_eval", "--model", "local-completions", "--model_args",
                f"model={MODEL},base_url={{url}}/completions,num_concurrent={IN_FLIGHT},"
                "tokenizer_backend=None,tokenized_requests=False,max_retries=1",
                "--tasks", "bench_{n}", "--include_path", "{folder}",
            ),
            (1_000, 16_000),
            is_peer_tool=True,
        ),
        Tool(
            "vllm bench serve",
            (
                str(SERVER / "bin" / "python"), "-c", BENCH_SERVE,
                "--backend", "openai", "--base-url", "{root}", "--endpoint", "/v1/completions",
                "--model", MODEL, "--tokenizer", str(TOKENIZER), "--dataset-name", "custom",
                "--dataset-path", "{folder}/bench.jsonl", "--custom-output-len",
                str(ANSWER_TOKENS), "--skip-chat-template", "--num-prompts", "{n}",
                "--max-concurrency", str(IN_FLIGHT), "--disable-tqdm",
            ),
            (1_000, 16_000),
            is_peer_tool=True,
        ),
        Tool(
            "evalscope perf",
            (
                peers, "-m", "evalscope.cli.cli", "perf", "--url", "{url}/completions", "--api",
                "openai", "--model", MODEL, "--dataset", "line_by_line", "--dataset-path",
                "{folder}/bench.txt", "--parallel", str(IN_FLIGHT), "--number", "{n}",
                "--max-tokens", str(ANSWER_TOKENS), "--no-stream", "--no-test-connection",
                "--outputs-dir", "{folder}/evalscope",
            ),
            (1_000, 4_000),
            is_peer_tool=True,
        ),
    ]  # fmt: skip


def prompt_of(number: int) -> str:
    """A prompt like no other, of about 300 tokens."""
    return f"def f{number}():\n{BLOCK}"


def made_tasks(numbers: Iterable[int]) -> Iterator[InfillTask]:
    """Tasks whose prompts are those of the numbers, five of a problem."""
    from fim_eval.records import InfillTask  # noqa: PLC0415  not in the peers' environment

    for number in numbers:
        yield InfillTask(
            task_id=f"Made/{number}/single-line/L1",
            problem_id=f"Made/{number // 5}",
            kind="single-line",
            context=None,
            prefix=prompt_of(number),
            middle="    return value\n",
            suffix="",
        )


def write_inputs(folder: Path, sizes: Sequence[int]) -> None:
    """The same prompts in the form of every tool."""
    most = max(sizes)
    rows = [prompt_of(number) for number in range(most)]
    (folder / "bench.jsonl").write_text(
        "".join(json.dumps({"prompt": row}) + "\n" for row in rows), encoding="utf-8"
    )
    (folder / "bench.txt").write_text(
        "".join(row.replace("\n", " ") + "\n" for row in rows), encoding="utf-8"
    )
    for size in sorted(set(sizes)):
        data = folder / f"bench_{size}.json"
        data.write_text(
            "".join(json.dumps({"text": row, "target": " x"}) + "\n" for row in rows[:size])
        )
        (folder / f"bench_{size}.yaml").write_text(
            f"task: bench_{size}\ndataset_path: json\n"
            f"dataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
            'output_type: generate_until\ndoc_to_text: "{{text}}"\ndoc_to_target: "{{target}}"\n'
            f'generation_kwargs:\n  until: ["@@"]\n  max_gen_toks: {ANSWER_TOKENS}\n'
            "metric_list:\n  - metric: exact_match\n"
        )


# --- the server -----------------------------------------------------------------------------------


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """A server that answers at once, in a process of its own; gives its base URL."""
    command = [sys.executable, __file__, "--as", "server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None  # noqa: S101
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


async def serve() -> None:
    """Answer every prompt with the same tokens until terminated."""
    from aiohttp import web  # noqa: PLC0415  only the server's process

    from fim_eval.mock import Behaviour, Known, MockServer  # noqa: PLC0415

    text = "    return value\n" + "#" * (ANSWER_TOKENS - 17)
    known = Known(text, tuple(map(ord, text)))
    server = MockServer(Behaviour(model=MODEL, most_running=100_000), lambda _: known)
    runner = web.AppRunner(server.app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}/v1", flush=True)
    await asyncio.Event().wait()


# --- the ways to ask ------------------------------------------------------------------------------


def ask_ours(url: str, prompts: int, folder: Path, batch: int) -> None:
    """The whole of stage 1: tasks read, prompts built, sent, classified, journalled."""
    from fim_eval.cli.console import run_async  # noqa: PLC0415  not in the peers' environment
    from fim_eval.generate import Request, run  # noqa: PLC0415
    from fim_eval.lines import json_lines  # noqa: PLC0415
    from fim_eval.recipe import Recipe  # noqa: PLC0415
    from fim_eval.suite import TaskFile  # noqa: PLC0415

    file = folder / f"tasks_{prompts}.jsonl"
    if not file.exists():
        file.write_bytes(json_lines(made_tasks(range(prompts))))
    with tempfile.TemporaryDirectory(dir=folder) as out:
        request = Request(
            tasks=TaskFile(file),
            task_facts=None,
            recipe=Recipe(model=MODEL, strategy="lr", max_tokens=ANSWER_TOKENS),
            endpoint=url,
            out=Path(out) / "run",
            batch=batch,
            concurrency=max(IN_FLIGHT, 16 * batch),
        )
        result = run_async(run(request, lambda _total, _left: None, lambda _outcome: None))
    assert result.answered == prompts, result  # noqa: S101


async def ask_bare(way: str, url: str, prompts: int) -> None:
    """One prompt a request, so many in flight; answers are parsed and counted, nothing more."""
    numbers = iter(range(prompts))
    answered = 0

    def body(number: int) -> dict[str, object]:
        return {"model": MODEL, "prompt": prompt_of(number), "max_tokens": ANSWER_TOKENS}

    async with contextlib.AsyncExitStack() as stack:
        if way == "aiohttp":
            import aiohttp  # noqa: PLC0415  each way loads what it needs

            connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))

            async def ask(number: int) -> str:
                async with session.post(f"{url}/completions", json=body(number)) as response:
                    return str((await response.json())["choices"][0]["text"])

        elif way == "httpx":
            import httpx  # noqa: PLC0415

            http = await stack.enter_async_context(httpx.AsyncClient(timeout=600))

            async def ask(number: int) -> str:
                response = await http.post(f"{url}/completions", json=body(number))
                return str(response.json()["choices"][0]["text"])

        else:
            import openai  # noqa: PLC0415

            sdk = openai.AsyncOpenAI(base_url=url, api_key="none")

            async def ask(number: int) -> str:
                answer = await sdk.completions.create(
                    model=MODEL, prompt=prompt_of(number), max_tokens=ANSWER_TOKENS
                )
                return str(answer.choices[0].text)

        async def work() -> None:
            nonlocal answered
            for number in numbers:
                text = await ask(number)
                answered += bool(text)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    assert answered == prompts  # noqa: S101


# --- comparing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """One tool, once."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def run_tool(tool: Tool, prompts: int, url: str, folder: Path) -> Run:
    """Start a tool and wait for its end.

    Raises:
        SystemExit: it failed.
    """
    words = {"url": url, "root": url.removesuffix("/v1"), "n": str(prompts), "folder": str(folder)}
    command = [
        re.sub(r"\{(url|root|n|folder)\}", lambda found: words[found[1]], word)
        for word in tool.command
    ]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "HF_HOME": str(folder / "hf"), "OPENAI_API_KEY": "none", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=folder
    )
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = output.decode(errors="replace")[-1_500:]
        raise SystemExit(f"{tool.name} failed with {process.returncode}:\n{tail}")
    return Run(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def compare(chosen: Sequence[Tool], repetitions: int) -> dict[str, list[tuple[Run, Run]]]:
    """Every tool at both of its sizes, in turn, so many times."""
    runs: dict[str, list[tuple[Run, Run]]] = {tool.name: [] for tool in chosen}
    with tempfile.TemporaryDirectory() as name, serving() as url:
        folder = Path(name)
        write_inputs(folder, [size for tool in chosen for size in tool.sizes])
        for repetition in range(repetitions):
            for tool in chosen:
                small, large = (run_tool(tool, size, url, folder) for size in tool.sizes)
                runs[tool.name].append((small, large))
                told = f"{1000 * slope(tool, small, large):.3f} ms a prompt"
                print(f"{repetition + 1}/{repetitions} {tool.name:26}{told}", file=sys.stderr)
    return runs


def slope(tool: Tool, small: Run, large: Run) -> float:
    """Processor seconds of one more prompt."""
    return (large.cpu_s - small.cpu_s) / (tool.sizes[1] - tool.sizes[0])


def table(chosen: Sequence[Tool], runs: dict[str, list[tuple[Run, Run]]]) -> list[str]:
    """Medians, and ours against the cheapest tool, repetition by repetition."""
    lines = [f"{'':27}{'CPU ms a prompt':>24}{'prompts/s':>11}{'fixed CPU s':>13}{'peak MB':>9}"]
    for tool in chosen:
        slopes = [1000 * slope(tool, *pair) for pair in runs[tool.name]]
        extra = tool.sizes[1] - tool.sizes[0]
        rates = [extra / (large.wall_s - small.wall_s) for small, large in runs[tool.name]]
        fixed = [
            small.cpu_s - slope(tool, small, large) * tool.sizes[0]
            for small, large in runs[tool.name]
        ]
        peak = max(large.peak_mb for _, large in runs[tool.name])
        middle, low, high = statistics.median(slopes), min(slopes), max(slopes)
        cost = f"{middle:.3f} ({low:.3f}-{high:.3f})"
        lines.append(
            f"{tool.name:27}{cost:>24}{statistics.median(rates):>11.0f}"
            f"{statistics.median(fixed):>13.1f}{peak:>9.0f}"
        )
    for name, goal in GOALS_MS.items():
        if name in runs:
            found = statistics.median(
                1000 * slope(tool, *pair)
                for tool in chosen
                if tool.name == name
                for pair in runs[name]
            )
            lines.append(f"{name}: {found:.3f} ms (goal {goal}: {_met(found <= goal)})")
    peers = [tool for tool in chosen if tool.is_peer_tool]
    ours = next((tool for tool in chosen if tool.name == "ours, 16 a request"), None)
    if peers and ours:
        times = [
            min(slope(tool, *runs[tool.name][turn]) for tool in peers)
            / slope(ours, *runs[ours.name][turn])
            for turn in range(len(runs[ours.name]))
        ]
        met = _met(statistics.median(times) >= GOAL_TIMES)
        told = ", ".join(f"{each:.1f}" for each in times)
        lines.append(
            f"the cheapest tool costs so many times as much as ours: {told} "
            f"(goal {GOAL_TIMES}: {met})"
        )
    return lines


def _met(is_met: bool) -> str:
    return "met" if is_met else "not met"


def setup() -> None:
    """An environment with the peers, beside the server's, whose packages lm-eval needs."""
    subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = PEERS / "lib" / version / "site-packages"
    (packages / "server.pth").write_text(f"{SERVER / 'lib' / version / 'site-packages'}\n")
    pip = [str(PEERS / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    requirements = str(Path(__file__).with_name("client-requirements.txt"))
    subprocess.run([*pip, "--no-deps", "--requirement", requirements], check=True)


def memory() -> None:
    """Peak memory of ours at two sizes."""
    tool = Tool("ours, 16 a request", tools()[0].command, (10_000, 100_000))
    with tempfile.TemporaryDirectory() as name, serving() as url:
        for size in tool.sizes:
            run_tool(tool, size, url, Path(name))  # writes the tasks
            run = run_tool(tool, size, url, Path(name))
            cost = f"{run.cpu_s:.1f} CPU s, {run.wall_s:.1f} s"
            print(f"{size} prompts: peak {run.peak_mb:.0f} MB, {cost}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setup", action="store_true", help="install the peers, and end")
    parser.add_argument("--memory", action="store_true", help="only memory of ours")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tools", nargs="+", metavar="TOOL", help="only those whose name holds it")
    parser.add_argument("--as", dest="way", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--prompts", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    way = arguments.way
    if way == "server":
        asyncio.run(serve())
    elif way and way.startswith("ours-"):
        ask_ours(arguments.url, arguments.prompts, arguments.folder, int(way[len("ours-") :]))
    elif way:
        asyncio.run(ask_bare(way, arguments.url, arguments.prompts))
    elif arguments.setup:
        setup()
    elif arguments.memory:
        memory()
    else:
        wanted = arguments.tools or [""]
        chosen = [tool for tool in tools() if any(each in tool.name for each in wanted)]
        print(*table(chosen, compare(chosen, arguments.repetitions)), sep="\n")


if __name__ == "__main__":
    main()

"""A long run with everything going wrong, beside one with nothing: the table is the same.

`FIM_EVAL_SOAK=100000 pytest tests/integration/test_soak.py` asks that many prompts.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import polars as pl
import polars.testing

from fim_eval.journal import GENERATIONS, read_generations
from fim_eval.records import Completion, InfillTask
from fim_eval.report import score_run, summarise
from tests.integration import fim_eval, start_fim_eval, write_tasks

PROMPTS = int(os.environ.get("FIM_EVAL_SOAK", "3000"))
KILLS = 10
LIMIT_S = 60 + PROMPTS / 50
FAULTS = (
    "429", "503", "500", "reset", "reset-in-body", "cut-json", "not-json", "error-in-body",
    "no-choice", "abort",
)  # fmt: skip
"""Half a per cent of requests each."""

IN_FLIGHT = 64
"""At most: what a kill may leave to be asked again."""

STRUCK = PROMPTS // 5
"""What faults may: a twentieth of the requests, and a sign of life for each; twice that, as they
are drawn."""

TIMES = ("wall_s", "tokens_per_s")


def many_tasks(count: int) -> list[InfillTask]:
    return [
        InfillTask(
            task_id=f"Made/{number // 5}/single-line/L{number % 5}",
            problem_id=f"Made/{number // 5}",
            kind="single-line",
            context=None,
            prefix=f"def f{number // 5}():\n" + f"    step({number})\n" * (1 + number % 5),
            middle=f"    return {number}\n",
            suffix="",
        )
        for number in range(count)
    ]


@contextlib.contextmanager
def serving(folder: Path, *faults: str) -> Iterator[str]:
    words = ("mock-server", "--prompts", "prompts.jsonl", "--corrupted", "0.3", *faults)
    with start_fim_eval(*words, cwd=folder) as server:
        try:
            assert server.stderr is not None
            found = re.search(r"http://\S+/v1", server.stderr.readline())
            assert found
            yield found[0]
        finally:
            server.send_signal(signal.SIGINT)
            _, told = server.communicate(timeout=20)
            # Its standard error is a pipe that nobody empties: much of it would stop the server.
            assert len(told) < 1_000


def test_faults_and_kills_change_nothing_but_the_time(tmp_path: Path) -> None:
    draw = random.Random(5)  # noqa: S311  moments, not secrets
    tasks = write_tasks(tmp_path / "tasks.jsonl", many_tasks(PROMPTS))
    made = fim_eval(
        "prompts", "--tasks", tasks, "--model", "mock", "--strategy", "lr",
        "--out", "prompts.jsonl", cwd=tmp_path, limit_s=LIMIT_S,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr

    def words(endpoint: str, out: str) -> tuple[str, ...]:
        return (
            "run", "--tasks", str(tasks), "--endpoint", endpoint, "--model", "mock",
            "--strategy", "lr", "--out", out, "--no-probe", "--max-concurrency",
            str(IN_FLIGHT),
        )  # fmt: skip

    with serving(tmp_path) as endpoint:
        calm = fim_eval(*words(endpoint, "calm"), cwd=tmp_path, limit_s=LIMIT_S)
    assert calm.returncode == 0, calm.stderr

    struck = [word for name in FAULTS for word in ("--fault", f"{name}:0.005")]
    slow = ("--per-token-ms", "1", "--fault", "dead@40", "--fault", "429-retry-after@60")
    journal = tmp_path / "rough" / GENERATIONS
    with serving(tmp_path, *struck, *slow) as endpoint:
        for number in range(KILLS):
            with start_fim_eval(*words(endpoint, "rough"), cwd=tmp_path) as process:
                wanted = draw.uniform(number, number + 1) / (KILLS + 1) * calm_size(tmp_path)
                ends_s = time.monotonic() + LIMIT_S
                while (
                    size_of(journal) < wanted
                    and process.poll() is None
                    and time.monotonic() < ends_s
                ):
                    time.sleep(0.005)
                reached = size_of(journal)
                time.sleep(draw.random() / 20)
                process.kill()
                _, told = process.communicate()
            # What it told is the only trace of why it went no further.
            assert reached >= wanted, f"kill {number}: {reached} of {wanted:.0f} bytes. {told}"
            assert process.returncode == -signal.SIGKILL, told
        rough = fim_eval(*words(endpoint, "rough"), cwd=tmp_path, limit_s=LIMIT_S)
        answered = answered_by(endpoint)
    assert rough.returncode == 0, rough.stderr[-2_000:]
    assert f"{PROMPTS}/{PROMPTS} answered" in rough.stderr
    assert PROMPTS <= answered <= PROMPTS + KILLS * IN_FLIGHT + STRUCK

    texts = []
    for name in ("calm", "rough"):
        found = read_generations(tmp_path / name).values()
        texts.append({one.task_id: one.text for one in found if isinstance(one, Completion)})
    assert texts[0] == texts[1]
    tables = [summarise(score_run(tmp_path / name)).drop(*TIMES) for name in ("calm", "rough")]
    pl.testing.assert_frame_equal(*tables, check_exact=True)
    assert 0.6 < tables[0]["exact_match"][0] < 0.8


def answered_by(endpoint: str) -> int:
    """Prompts that a server has worked on to their end, whoever got the answer."""
    told = httpx.get(endpoint.replace("/v1", "/metrics")).text
    (line,) = (line for line in told.splitlines() if "request_success_total" in line)
    return int(line.split()[-1])


def calm_size(folder: Path) -> int:
    return size_of(folder / "calm" / GENERATIONS)


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0

"""The server for rehearsals: what it does, and how each of its faults is classified."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from fim_eval.errors import ServerChangedError
from fim_eval.generate import Request, RunResult, run
from fim_eval.journal import read_generations, read_limits
from fim_eval.limiter import LEAST
from fim_eval.mock import FAULTS, SLOW_BYTES_S, Behaviour, Fault, Known, MockServer
from fim_eval.order import is_streamed
from fim_eval.recipe import Recipe
from fim_eval.records import Completion, Timeouts
from fim_eval.report import score_run, summarise
from tests.integration import fim_eval, made_tasks, start_fim_eval, write_tasks
from tests.tokenizer_files import byte_level_file

TASKS = made_tasks(12)
ANSWERS = {task.prefix: Known(task.middle, tuple(map(ord, task.middle))) for task in TASKS}


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[tuple[MockServer, str]]:
    server = MockServer(
        behaviour, lambda prompt: ANSWERS.get(prompt) if isinstance(prompt, str) else None
    )
    runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield server, "http://{}:{}/v1".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


def request(endpoint: str, out: Path, **changes: Any) -> Request:
    asked: dict[str, Any] = {
        "tasks": TASKS,
        "task_facts": None,
        "recipe": Recipe(model="mock", strategy="lr"),
        "endpoint": endpoint,
        "out": out,
        "batch": 4,
        "concurrency": 4,
        "timeouts": Timeouts(attempts=1, recovery_s=0.0, request_s=0.5),
    }
    return Request(**(asked | changes))


async def ask(wanted: Request) -> RunResult:
    return await run(wanted, lambda _total, _left: None, lambda _outcome: None)


CLASSIFIED: dict[Fault, dict[str, int]] = {
    "429": {"overloaded": 4},
    "429-retry-after": {"overloaded": 4},
    "503": {"overloaded": 4},
    "500": {"server-error": 4},
    "dead": {"server-error": 8},
    "hang": {"timeout": 4},
    "reset": {"connection": 4},
    "reset-in-body": {"connection": 4},
    "cut-json": {"malformed-response": 4},
    "not-json": {"malformed-response": 4},
    "error-in-body": {"error-in-body": 4},
    "abort": {"aborted": 1},
    "no-choice": {"malformed-response": 4},
    "wrong-model": {"wrong-model": 4},
    "slow": {},
    "400": {},
}
"""What the second of three requests of four prompts comes to, asked once."""


def test_every_fault_has_its_test() -> None:
    others = {"other-fingerprint", "altered-prompt", "null-logprobs"}
    assert CLASSIFIED.keys() | others == set(FAULTS)


@pytest.mark.parametrize("fault", CLASSIFIED)
async def test_a_fault_is_classified(fault: Fault, tmp_path: Path) -> None:
    async with serving(Behaviour(script={2: fault})) as (server, endpoint):
        result = await ask(request(endpoint, tmp_path))
        assert server.faults[fault] == 1
    assert result.failures == Counter(CLASSIFIED[fault])
    assert result.answered == 12 - result.failures.total()


@pytest.mark.parametrize(
    "fault", [each for each in CLASSIFIED if each not in ("429-retry-after", "dead")]
)
async def test_a_fault_that_passes_costs_nothing_but_time(fault: Fault, tmp_path: Path) -> None:
    patient = Timeouts(attempts=3, first_wait_s=0.01, request_s=0.5)
    async with serving(Behaviour(script={2: fault})) as (_, endpoint):
        result = await ask(request(endpoint, tmp_path, timeouts=patient))
    assert (result.answered, result.failures) == (12, Counter())
    texts = {one.task_id: one.text for one in read_generations(tmp_path).values()
             if isinstance(one, Completion)}  # fmt: skip
    assert texts == {task.task_id: task.middle for task in TASKS}


async def test_a_retry_after_is_waited_for(tmp_path: Path) -> None:
    patient = Timeouts(attempts=2, first_wait_s=0.0)
    async with serving(Behaviour(script={2: "429-retry-after"})) as (_, endpoint):
        started = time.monotonic()
        result = await ask(request(endpoint, tmp_path, timeouts=patient))
    assert result.answered == 12
    assert time.monotonic() - started >= 1.0
    assert "overloaded" in {change.reason for change in read_limits(tmp_path)}


async def test_two_runs_that_share_a_server_do_not_take_each_others_queue_for_their_own(
    tmp_path: Path,
) -> None:
    shared = {"tasks": made_tasks(500), "batch": 8, "concurrency": 256, "timeouts": Timeouts()}
    async with serving(Behaviour(most_running=32, first_token_s=0.2)) as (_, endpoint):
        results = await asyncio.gather(
            *(ask(request(endpoint, tmp_path / name, **shared)) for name in ("a", "b"))
        )
    assert [one.answered for one in results] == [500, 500]
    for name in ("a", "b"):
        changes = read_limits(tmp_path / name)
        assert "queueing" in {change.reason for change in changes}
        assert min(change.limit for change in changes) >= LEAST


async def test_a_dead_engine_is_waited_for_until_it_is_back(tmp_path: Path) -> None:
    patient = Timeouts(attempts=2, first_wait_s=0.0)
    notices: list[str] = []
    async with serving(Behaviour(script={2: "dead"})) as (_, endpoint):
        result = await run(
            request(endpoint, tmp_path, timeouts=patient),
            lambda _total, _left: None,
            lambda _outcome: None,
            notice=notices.append,
        )
    assert (result.answered, result.failures) == (12, Counter())
    assert ["is lost" in notices[0], "is back" in notices[-1]] == [True, True]


async def test_one_request_that_is_lost_among_others_is_asked_again(tmp_path: Path) -> None:
    timeouts = Timeouts(attempts=2, first_wait_s=0.0, overdue_s=0.4)
    notices: list[str] = []
    started = time.monotonic()
    async with serving(Behaviour(script={20: "hang"})) as (server, endpoint):
        result = await run(
            request(endpoint, tmp_path, tasks=made_tasks(40), batch=1, timeouts=timeouts),
            lambda _total, _left: None,
            lambda _outcome: None,
            notice=notices.append,
        )
        assert server.faults["hang"] == 1
    assert (result.answered, result.failures) == (40, Counter())
    assert time.monotonic() - started < timeouts.request_s / 10
    assert ["while others have theirs" in notice for notice in notices] == [True]


async def test_another_fingerprint_ends_the_run(tmp_path: Path) -> None:
    async with serving(Behaviour(script={2: "other-fingerprint"})) as (_, endpoint):
        with pytest.raises(ServerChangedError, match=r"vllm-0\.33\.0-other in the answer"):
            await ask(request(endpoint, tmp_path))
    assert len(read_generations(tmp_path)) == 4, "nothing of the other server's is kept"


def of_ids(endpoint: str, folder: Path, **changes: Any) -> Request:
    """Prompts of ids, as only they can be seen to be altered, and references of ids."""
    pieces = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>"]
    tokenizer = byte_level_file(folder, pieces)
    recipe = Recipe(
        model="mock", strategy="lr", format="starcoder", tokenizer=str(tokenizer.parent)
    )
    return request(endpoint, folder / "run", recipe=recipe, **changes)


@pytest.mark.parametrize(
    ("fault", "number", "failures", "unscored"),
    [
        pytest.param("altered-prompt", 2, {"prompt-altered": 1}, 0, id="one prompt of four"),
        pytest.param("altered-prompt", 10, {"prompt-altered": 1}, 1, id="a reference"),
        pytest.param("null-logprobs", 10, {"corrupted": 1}, 1, id="its probability"),
    ],
)
async def test_a_fault_of_ids_or_probabilities_is_classified(
    fault: Fault, number: int, failures: dict[str, int], unscored: int, tmp_path: Path
) -> None:
    """The first request sees that there are probabilities; three lists; twelve references."""
    async with serving(Behaviour(script={number: fault})) as (server, endpoint):
        result = await ask(of_ids(endpoint, tmp_path, gold=True))
        assert server.faults[fault] == 1
    assert (result.failures, result.unscored) == (Counter(failures), unscored)
    assert result.answered == 12 - (unscored == 0)


@pytest.mark.parametrize(
    ("fault", "failures"), [("altered-prompt", {"prompt-altered": 1}), ("null-logprobs", {})]
)
async def test_an_altered_prompt_is_refused_for_good_and_a_null_is_not(
    fault: Fault, failures: dict[str, int], tmp_path: Path
) -> None:
    patient = Timeouts(attempts=3, first_wait_s=0.01)
    async with serving(Behaviour(script={10: fault})) as (_, endpoint):
        result = await ask(of_ids(endpoint, tmp_path, gold=True, timeouts=patient))
    assert (result.failures, result.unscored) == (Counter(failures), len(failures))


@pytest.mark.parametrize("stream", [0.0, 1.0])
async def test_a_fault_that_cannot_be_shown_is_not_counted(stream: float, tmp_path: Path) -> None:
    async with serving(Behaviour(faults={"null-logprobs": 1.0})) as (server, endpoint):
        result = await ask(request(endpoint, tmp_path, stream=stream))
        assert server.faults["null-logprobs"] == 0
    assert result.answered == 12


async def test_delays_are_kept_and_places_are_limited(tmp_path: Path) -> None:
    slow = Behaviour(first_token_s=0.05, per_token_s=0.005, most_running=4)
    async with serving(slow) as (_, endpoint):
        started = time.monotonic()
        await ask(request(endpoint, tmp_path, batch=12, concurrency=12))
        took = time.monotonic() - started
    # Three rounds of four prompts, of 13 or 14 tokens each, and the sign of life before.
    assert took >= 3 * (0.05 + 0.005 * 13)


async def test_a_full_queue_refuses(tmp_path: Path) -> None:
    """Twelve prompts at once: as many as have a place or may wait, or one too many."""
    full = Behaviour(most_running=4, most_waiting=7)
    async with serving(full) as (_, endpoint):
        result = await ask(request(endpoint, tmp_path / "full", batch=12, concurrency=12))
    assert result.failures == Counter({"overloaded": 12})
    async with serving(replace(full, most_waiting=8)) as (_, endpoint):
        result = await ask(request(endpoint, tmp_path / "room", batch=12, concurrency=12))
    assert (result.answered, result.failures) == (12, Counter())


async def test_where_none_may_wait_there_are_still_the_places(tmp_path: Path) -> None:
    async with serving(Behaviour(most_running=4, most_waiting=0)) as (_, endpoint):
        result = await ask(request(endpoint, tmp_path, concurrency=1))
    assert (result.answered, result.failures) == (12, Counter())


async def test_a_share_of_answers_is_wrong_and_always_the_same_ones(tmp_path: Path) -> None:
    wrong = []
    for name, batch, stream in (("one", 1, 0.0), ("other", 6, 0.0), ("streamed", 1, 1.0)):
        async with serving(Behaviour(corrupted=0.5, seed=3)) as (_, endpoint):
            await ask(request(endpoint, tmp_path / name, batch=batch, stream=stream))
        answers = read_generations(tmp_path / name).values()
        wrong.append(
            {
                one.task_id
                for one, task in zip(sorted(answers, key=lambda a: a.task_id),
                                     sorted(TASKS, key=lambda t: t.task_id), strict=True)
                if isinstance(one, Completion) and one.text != task.middle
            }
        )  # fmt: skip
    assert wrong[0] == wrong[1] == wrong[2]
    assert 2 <= len(wrong[0]) <= 10


def test_a_study_is_rehearsed_from_the_command_line(tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks.jsonl", made_tasks(30))
    made = fim_eval(
        "prompts", "--tasks", tasks, "--model", "mock", "--strategy", "lr",
        "--out", "prompts.jsonl", cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    words = (
        "mock-server", "--prompts", "prompts.jsonl", "--fault", "503:0.2", "--fault", "reset@2",
        "--per-token-ms", "0.1",
    )  # fmt: skip
    with start_fim_eval(*words, cwd=tmp_path) as server:
        try:
            assert server.stderr is not None
            ready = server.stderr.readline()
            found = re.search(r"http://\S+/v1", ready)
            assert found, ready
            done = fim_eval(
                "run", "--tasks", tasks, "--endpoint", found[0], "--model", "mock", "--strategy",
                "lr", "--out", "run", "--batch", "2", cwd=tmp_path,
            )  # fmt: skip
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=10)
    assert done.returncode == 0, done.stderr
    assert "30/30 answered" in done.stderr
    journal = (tmp_path / "run" / "generations.jsonl").read_text()
    answers = [json.loads(line) for line in journal.splitlines()]
    assert max(answer["attempts"] for answer in answers) > 1
    told = fim_eval("report", "run", "--out", "report", "--resamples", "100", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    page = (tmp_path / "report" / "index.html").read_text()
    for place in (told.stderr, (tmp_path / "report" / "answer.md").read_text(), page):
        assert "A rehearsal, no model was asked." in place


def test_a_fault_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("")
    done = fim_eval(
        "mock-server", "--prompts", "prompts.jsonl", "--fault", "meteor:0.1", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "meteor:0.1" in done.stderr


class TestStreaming:
    async def test_gives_the_same_answers_and_when_their_tokens_came(self, tmp_path: Path) -> None:
        slow = Behaviour(first_token_s=0.05, per_token_s=0.004)
        async with serving(slow) as (_, endpoint):
            result = await ask(request(endpoint, tmp_path, stream=1.0))
        assert (result.answered, result.failures) == (12, Counter())
        answers = completions(tmp_path)
        assert {one.task_id: one.text for one in answers} == {
            task.task_id: task.middle for task in TASKS
        }
        for one in answers:
            assert one.first_token_ns is not None
            assert one.last_token_ns is not None
            assert one.completion_tokens == len(one.text)
            assert 50e6 < one.first_token_ns < one.last_token_ns <= one.elapsed_ns
            assert one.last_token_ns - one.first_token_ns >= 4e6 * (len(one.text) - 1)
        (row, *_) = summarise(score_run(tmp_path)).to_dicts()
        assert row["streamed"] == 12
        assert row["ttft_s"] >= 0.05
        assert row["tpot_ms"] >= 4.0

    async def test_of_a_part_leaves_the_rest_as_it_is(self, tmp_path: Path) -> None:
        async with serving(Behaviour()) as (_, endpoint):
            result = await ask(request(endpoint, tmp_path, stream=0.4))
        assert result.answered == 12
        streamed = {one.task_id for one in completions(tmp_path) if one.first_token_ns is not None}
        assert streamed == {task.task_id for task in TASKS if is_streamed(task.task_id, 0.4)}
        assert 0 < len(streamed) < 12

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("error-in-body", "error-in-body"),
            ("reset-in-body", "connection"),
            ("cut-json", "malformed-response"),
            ("not-json", "malformed-response"),
            ("no-choice", "connection"),
            ("abort", "aborted"),
            ("wrong-model", "wrong-model"),
            ("503", "overloaded"),
            ("400", "bad-request"),
        ],
    )
    async def test_a_fault_inside_of_a_stream_is_no_answer(
        self, fault: Fault, reason: str, tmp_path: Path
    ) -> None:
        async with serving(Behaviour(script={2: fault})) as (server, endpoint):
            result = await ask(request(endpoint, tmp_path, stream=1.0))
            assert server.faults[fault] == 1
        assert (result.answered, result.failures) == (11, Counter({reason: 1}))

    async def test_that_is_slow_is_an_answer(self, tmp_path: Path) -> None:
        async with serving(Behaviour(faults={"slow": 1.0})) as (_, endpoint):
            result = await ask(request(endpoint, tmp_path, tasks=TASKS[:1], stream=1.0))
        assert (result.answered, result.failures) == (1, Counter())
        (answer,) = completions(tmp_path)
        assert answer.text == TASKS[0].middle
        # Each event is in two pieces.
        assert answer.elapsed_ns >= len(answer.text) * SLOW_BYTES_S * 1e9

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("error-in-body", "error-in-body"),
            ("reset-in-body", "connection"),
            ("cut-json", "malformed-response"),
        ],
    )
    async def test_a_fault_after_the_first_token_is_shown_where_there_is_no_second(
        self, fault: Fault, reason: str, tmp_path: Path
    ) -> None:
        task = TASKS[0].model_copy(update={"prefix": "one token"})
        ANSWERS["one token"] = Known("x", (120,))
        async with serving(Behaviour(script={1: fault})) as (_, endpoint):
            result = await ask(request(endpoint, tmp_path, tasks=[task], stream=1.0))
        assert result.failures == Counter({reason: 1})

    async def test_of_another_configuration_ends_the_run(self, tmp_path: Path) -> None:
        async with serving(Behaviour(script={2: "other-fingerprint"})) as (_, endpoint):
            with pytest.raises(ServerChangedError, match=r"vllm-0\.33\.0-other in the answer"):
                await ask(request(endpoint, tmp_path, stream=1.0))

    async def test_of_an_altered_prompt_is_refused(self, tmp_path: Path) -> None:
        async with serving(Behaviour(script={2: "altered-prompt"})) as (_, endpoint):
            result = await ask(of_ids(endpoint, tmp_path, stream=1.0))
        assert (result.answered, result.failures) == (11, Counter({"prompt-altered": 1}))

    async def test_is_counted_while_it_waits_and_works_and_when_it_is_done(self) -> None:
        body = {"model": "mock", "prompt": TASKS[0].prefix, "max_tokens": 64, "stream": True}
        slow = Behaviour(first_token_s=0.4, most_running=1)
        async with serving(slow) as (_, endpoint), httpx.AsyncClient() as http:
            url, metrics = f"{endpoint}/completions", endpoint.replace("/v1", "/metrics")
            async with (
                http.stream("POST", url, json=body) as first,
                http.stream("POST", url, json=body) as second,
            ):
                during = counted((await http.get(metrics)).text)
                for each in (first, second):
                    assert (await each.aread()).endswith(b"data: [DONE]\n\n")
            after = counted((await http.get(metrics)).text)
        assert (during, after) == ([1, 1, 0], [0, 0, 2])

    async def test_a_line_separator_inside_of_a_token_splits_no_event(self, tmp_path: Path) -> None:
        task = TASKS[0].model_copy(update={"prefix": "separators"})
        text = "a\u2028b\u2029c\x85d"
        ANSWERS["separators"] = Known(text, tuple(map(ord, text)))
        async with serving(Behaviour()) as (_, endpoint):
            await ask(request(endpoint, tmp_path, tasks=[task], stream=1.0))
        assert [one.text for one in completions(tmp_path)] == [text]


def counted(metrics: str) -> list[int]:
    """Running, waiting, finished."""
    return [int(line.split()[-1]) for line in metrics.splitlines()]


def completions(run_directory: Path) -> list[Completion]:
    found = read_generations(run_directory).values()
    return [one for one in found if isinstance(one, Completion)]

"""Whole runs against a server with known delays: what is asked, how fast, and what a kill costs."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer

from fim_eval.errors import EndpointError, FimEvalError, RunDirectoryError, ServerChangedError
from fim_eval.generate import Outcome, Recipe, Request, RunResult, ask_all, prepare, run
from fim_eval.journal import read_generations, read_manifest, read_segments, read_tasks
from fim_eval.records import Completion, InfillTask, Prompt, RequestFailure, Timeouts
from tests.integration import (
    files_in,
    fim_eval,
    made_tasks,
    start_fim_eval,
    wait_until,
    write_tasks,
)
from tests.integration.fake_server import FakeServer, Reply, refusal, right_answer

IMPATIENT = Timeouts(attempts=1)
RECIPE = {field.name for field in fields(Recipe)}


def request(server: FakeServer, out: Path, tasks: Sequence[InfillTask], **changes: Any) -> Request:
    """What a user asks of this server."""
    recipe: dict[str, Any] = {"model": "fake-model", "strategy": "lr"}
    recipe |= {name: changes.pop(name) for name in RECIPE & changes.keys()}
    asked: dict[str, Any] = {
        "tasks": tasks,
        "task_facts": None,
        "recipe": Recipe(**recipe),
        "endpoint": server.endpoint,
        "out": out,
        "concurrency": 8,
    }
    return Request(**(asked | changes))


async def ask(wanted: Request) -> RunResult:
    return await run(wanted, lambda _total, _left: None, lambda _outcome: None)


def completions(out: Path) -> list[Completion]:
    return [one for one in read_generations(out).values() if isinstance(one, Completion)]


async def test_every_task_is_asked_once_and_its_answer_stored(tmp_path: Path) -> None:
    tasks = made_tasks(30)
    told: list[tuple[int, int]] = []
    outcomes: list[Outcome] = []
    with FakeServer() as server:
        result = await run(
            request(server, tmp_path, tasks),
            lambda total, left: told.append((total, left)),
            outcomes.append,
        )
    assert sorted(server.prompts) == sorted(task.prefix for task in tasks)
    assert (result.tasks, result.asked, result.answered, result.unresolved) == (30, 30, 30, 0)
    assert result.failures == Counter()
    assert told == [(30, 30)]
    stored = read_generations(tmp_path)
    assert {key[0]: one.text for key, one in stored.items() if isinstance(one, Completion)} == {
        task.task_id: task.middle for task in tasks
    }
    assert sorted(stored) == sorted((task.task_id, "lr", 0) for task in tasks)
    assert list(stored.values()) == outcomes
    assert read_tasks(tmp_path) == tasks


async def test_the_manifest_says_who_was_asked_what(tmp_path: Path) -> None:
    with FakeServer() as server:
        await ask(request(server, tmp_path, made_tasks(3), limit=2, concurrency=5))
    manifest = read_manifest(tmp_path)
    assert manifest.server.base_url == server.endpoint
    assert manifest.server.model == "fake-model"
    assert manifest.server.root == "/models/fake"
    assert manifest.server.max_model_len == 2048
    assert manifest.server.version == "0.32.0"
    assert manifest.server.system_fingerprint == "vllm-0.32.0-5b2ef2de"
    assert manifest.identity.tasks == 2
    assert (manifest.limit, manifest.concurrency) == (2, 5)
    assert [segment.asked for segment in read_segments(tmp_path)] == [2]


async def test_the_manifest_is_written_before_the_first_task_is_asked(tmp_path: Path) -> None:
    seen: list[bool] = []

    def look(body: dict[str, Any]) -> str:
        seen.append((tmp_path / "manifest.json").exists())
        return right_answer(body)

    with FakeServer(answer=look) as server:
        await ask(request(server, tmp_path, made_tasks(3)))
    assert seen == [True, True, True]


async def test_concurrency_is_reached_and_never_exceeded(tmp_path: Path) -> None:
    with FakeServer(delay_s=0.02) as server:
        await ask(request(server, tmp_path, made_tasks(60), concurrency=12))
    assert server.max_in_flight == 12


async def test_no_more_than_the_concurrency_wait_for_an_answer() -> None:
    """Without a server: one that keeps a queue would hide that too many were asked."""
    waiting: list[int] = []
    now = 0

    async def complete(prompt: Prompt) -> RequestFailure:
        nonlocal now
        now += 1
        waiting.append(now)
        await asyncio.sleep(0.001)
        now -= 1
        return RequestFailure(
            task_id=prompt.task_id,
            strategy=prompt.strategy,
            sample_index=0,
            reason="timeout",
            detail="",
            attempts=1,
            segment=0,
            sent_ns=0,
            elapsed_ns=0,
        )

    prompts = prepare(made_tasks(50), Recipe(model="fake-model", strategy="lr")).prompts
    outcomes: list[Outcome] = []
    await ask_all(
        prompts, complete, outcomes.append, tokenizer=None, fingerprint=None, concurrency=7
    )
    assert max(waiting) == 7
    assert len(outcomes) == 50


async def test_a_session_is_timed_from_its_first_task(tmp_path: Path) -> None:
    """Not from the requests before it that ask who the server is."""
    with FakeServer(delay_s=0.1) as server:
        await ask(request(server, tmp_path, made_tasks(2)))
    assert min(answer.sent_ns for answer in completions(tmp_path)) < 0.08e9


@pytest.mark.parametrize(("tasks", "delay_s", "concurrency"), [(64, 0.1, 8), (96, 0.2, 32)])
async def test_the_time_is_that_of_the_server(
    tmp_path: Path, tasks: int, delay_s: float, concurrency: int
) -> None:
    with FakeServer(delay_s=delay_s) as server:
        await ask(request(server, tmp_path, made_tasks(tasks), concurrency=concurrency))
    answers = completions(tmp_path)
    first = min(answer.sent_ns for answer in answers)
    last = max(answer.sent_ns + answer.elapsed_ns for answer in answers)
    ideal_s = tasks * delay_s / concurrency
    assert ideal_s <= (last - first) / 1e9 <= 1.5 * ideal_s
    assert all(answer.elapsed_ns / 1e9 >= delay_s for answer in answers)
    assert median(answer.elapsed_ns / 1e9 for answer in answers) <= 1.5 * delay_s


async def test_a_finished_run_asks_nothing_again(tmp_path: Path) -> None:
    with FakeServer() as server:
        wanted = request(server, tmp_path, made_tasks(20))
        await ask(wanted)
        calls = server.calls
        before = files_in(tmp_path)
        result = await ask(wanted)
        assert server.calls == calls
    assert (result.tasks, result.asked, result.answered) == (20, 0, 20)
    # The server has stopped: what is finished needs none.
    assert (await ask(wanted)).answered == 20
    after = files_in(tmp_path)
    assert {**after, "lock": b""} == {**before, "lock": b""}


async def test_a_finished_run_is_still_refused_to_another_model(tmp_path: Path) -> None:
    tasks = made_tasks(3)
    with FakeServer() as server:
        await ask(request(server, tmp_path, tasks))
    with pytest.raises(RunDirectoryError, match="model: fake-model there, other-model now"):
        await ask(request(server, tmp_path, tasks, model="other-model"))


async def test_resuming_asks_again_only_what_may_yet_be_answered(tmp_path: Path) -> None:
    faults: dict[str, Reply] = {
        "def f1()": refusal(500, "CUDA error"),
        "def f2()": refusal(400, "This model's maximum context length is 2048 tokens."),
        "def f3()": refusal(503, "busy"),
        "def f4()": refusal(400, "logit_bias is out of range"),
    }

    def answer(body: dict[str, Any]) -> str | Reply:
        return faults.get(body["prompt"].partition(":")[0]) or right_answer(body)

    tasks = made_tasks(6)
    with FakeServer(answer=answer) as server:
        wanted = request(server, tmp_path, tasks, timeouts=IMPATIENT)
        first = await ask(wanted)
        assert first.answered == 2
        assert first.failures == Counter(
            {"server-error": 1, "prompt-too-long": 1, "overloaded": 1, "bad-request": 1}
        )
        server.answer = right_answer
        before = len(server.prompts)
        second = await ask(wanted)
        assert sorted(server.prompts[before:]) == ["def f1():\n", "def f3():\n"]
    assert (second.asked, second.answered, second.unresolved) == (2, 4, 2)
    assert second.failures == Counter({"prompt-too-long": 1, "bad-request": 1})
    assert [(segment.segment, segment.asked) for segment in read_segments(tmp_path)] == [
        (0, 6),
        (1, 2),
    ]
    assert sorted(answer.segment for answer in completions(tmp_path)) == [0, 0, 1, 1]


async def test_a_failure_keeps_the_others_going(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str | Reply:
        return refusal(500, "CUDA error") if "f0()" in body["prompt"] else right_answer(body)

    with FakeServer(answer=answer) as server:
        wanted = request(server, tmp_path, made_tasks(20), concurrency=1, timeouts=IMPATIENT)
        result = await ask(wanted)
    assert (result.answered, result.unresolved) == (19, 1)


class TestAServerThatChanges:
    async def test_ends_the_run_and_leaves_none_of_its_answers(self, tmp_path: Path) -> None:
        def change_after_ten(body: dict[str, Any]) -> str:
            if len(server.prompts) > 10:
                server.fingerprint = "vllm-0.33.0-tp2-0a1b2c3d"
            return right_answer(body)

        with FakeServer(answer=change_after_ten, delay_s=0.005) as server:
            wanted = request(server, tmp_path, made_tasks(40), concurrency=4)
            with pytest.raises(ServerChangedError, match=r"vllm-0\.33\.0-tp2-0a1b2c3d") as caught:
                await ask(wanted)
            assert "vllm-0.32.0-5b2ef2de" in str(caught.value)
            fingerprints = {answer.system_fingerprint for answer in completions(tmp_path)}
            assert fingerprints == {"vllm-0.32.0-5b2ef2de"}
            assert 6 <= len(completions(tmp_path)) <= 10
            assert len(server.prompts) < 20, "goes on asking"
            # Still changed: refused before any task. Restored: goes on.
            with pytest.raises(RunDirectoryError, match="system_fingerprint"):
                await ask(wanted)
            server.answer, server.fingerprint = right_answer, "vllm-0.32.0-5b2ef2de"
            result = await ask(wanted)
        assert (result.answered, result.unresolved) == (40, 0)

    async def test_of_another_model_name_leaves_failures_only(self, tmp_path: Path) -> None:
        def rename(body: dict[str, Any]) -> str:
            server.answers_as = "other-model"
            return right_answer(body)

        with FakeServer(answer=rename) as server:
            wanted = request(server, tmp_path, made_tasks(3), timeouts=IMPATIENT)
            result = await ask(wanted)
        assert (result.answered, result.failures) == (0, Counter({"wrong-model": 3}))

    async def test_that_dies_midway_leaves_failures_that_are_asked_again(
        self, tmp_path: Path
    ) -> None:
        tasks = made_tasks(30)
        with FakeServer(delay_s=0.02) as server:
            wanted = request(server, tmp_path, tasks, concurrency=5, timeouts=IMPATIENT)

            def stop_after_ten(_: Outcome) -> None:
                if len(server.prompts) >= 10:
                    server.stop()

            first = await run(wanted, lambda _total, _left: None, stop_after_ten)
        assert 0 < first.answered < 30
        assert first.failures == Counter({"connection": 30 - first.answered})
        with FakeServer() as server:
            second = await ask(request(server, tmp_path, tasks, concurrency=5))
            assert len(server.prompts) == 30 - first.answered
        assert (second.answered, second.unresolved) == (30, 0)


class TestAnEndpoint:
    async def test_without_the_model_names_those_it_serves(self, tmp_path: Path) -> None:
        with (
            FakeServer(model="smollm2-135m") as server,
            pytest.raises(EndpointError, match="serves no model 'fake-model', but smollm2-135m"),
        ):
            await ask(request(server, tmp_path, made_tasks(3)))
        assert server.requests == []
        assert not (tmp_path / "manifest.json").exists()

    async def test_that_lists_the_model_but_cannot_answer_is_refused(self, tmp_path: Path) -> None:
        with FakeServer() as server:
            server.probe = lambda _: Reply(200, {"error": {"message": "EngineCore died"}})
            with pytest.raises(EndpointError, match="EngineCore died"):
                await ask(request(server, tmp_path, made_tasks(3), timeouts=IMPATIENT))
        assert not (tmp_path / "manifest.json").exists()

    async def test_that_wants_a_key_says_so(self, tmp_path: Path) -> None:
        with FakeServer(api_key="sk-right") as server:
            for key in (None, "sk-wrong"):
                with pytest.raises(EndpointError, match=r"refuses the API key \(HTTP 401\)"):
                    await ask(request(server, tmp_path, made_tasks(3), api_key=key))
            result = await ask(
                request(
                    server, tmp_path, made_tasks(3), api_key="sk-right", api_key_env="SOME_NAME"
                )
            )
        assert result.answered == 3
        assert read_manifest(tmp_path).api_key_env == "SOME_NAME"

    async def test_without_fingerprint_or_version_can_be_asked(self, tmp_path: Path) -> None:
        with FakeServer(fingerprint=None) as server:
            assert (await ask(request(server, tmp_path, made_tasks(3)))).answered == 3
        assert read_manifest(tmp_path).server.system_fingerprint is None

    async def test_that_renames_the_model_is_taken_at_its_word(self, tmp_path: Path) -> None:
        with FakeServer() as server:
            server.answers_as = "org/fake-model@main"
            assert (await ask(request(server, tmp_path, made_tasks(3)))).answered == 3
        assert read_manifest(tmp_path).identity.answers_as == "org/fake-model@main"


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a SentencePiece model of single letters, trained here."""
    folder = tmp_path_factory.mktemp("letters")
    text = folder / "text"
    text.write_text("def f0123456789 ( ) : return ☺\n" * 10, encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        model_type="char",
        vocab_size=27,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["\n"],
        minloglevel=2,
    )
    return folder


class TestPromptsOfIds:
    """Asked of the 34B card: its ids end at 32,000, and no sentinels are needed."""

    CARD = "codellama/CodeLlama-34b-hf"

    @staticmethod
    def ids(server: FakeServer, folder: Path, text: str) -> Callable[[dict[str, Any]], Reply]:
        """Answers in the ids of that tokenizer, with a server text that lost its first space."""
        from fim_eval.tokenizer import SentencePieceTokenizer

        tokens = SentencePieceTokenizer(folder / "tokenizer.model").encode_infill(text)

        def answer(body: dict[str, Any]) -> Reply:
            reply = server.completion(body, text.removeprefix(" "))
            reply["choices"][0]["token_ids"] = tokens
            return Reply(200, reply)

        return answer

    async def test_are_sent_as_they_are_and_answers_decoded_by_us(
        self, tmp_path: Path, letters: Path
    ) -> None:
        with FakeServer() as server:
            server.answer = self.ids(server, letters, "    return 1\n")
            result = await ask(
                request(
                    server,
                    tmp_path,
                    made_tasks(3),
                    card=self.CARD,
                    tokenizer=str(letters),
                )
            )
        assert result.text_differences == 3
        assert all(prompt[0] == 1 and len(prompt) > 5 for prompt in server.prompts)
        answers = completions(tmp_path)
        assert {(one.text, one.server_text) for one in answers} == {
            ("    return 1\n", "   return 1\n")
        }
        identity = read_manifest(tmp_path).identity
        assert (identity.prompt_form, identity.model_id) == ("ids", self.CARD)
        assert identity.tokenizer_sha256 is not None

    async def test_that_the_server_alters_are_failures(self, tmp_path: Path, letters: Path) -> None:
        def with_second_bos(body: dict[str, Any]) -> Reply:
            reply = server.completion(body, "x")
            reply["choices"][0]["prompt_token_ids"] = [1, *body["prompt"]]
            return Reply(200, reply)

        with FakeServer(answer=with_second_bos) as server:
            result = await ask(
                request(server, tmp_path, made_tasks(3), card=self.CARD, tokenizer=str(letters))
            )
            assert len(server.prompts) == 3
        assert result.failures == Counter({"prompt-altered": 3})

    async def test_answered_in_ids_the_tokenizer_lacks_end_the_run(
        self, tmp_path: Path, letters: Path
    ) -> None:
        """As when --card names another model than the one behind the endpoint."""

        def foreign(body: dict[str, Any]) -> Reply:
            reply = server.completion(body, "x")
            reply["choices"][0]["token_ids"] = [128_000]
            return Reply(200, reply)

        with FakeServer(answer=foreign) as server:
            wanted = request(
                server, tmp_path, made_tasks(3), card=self.CARD, tokenizer=str(letters)
            )
            with pytest.raises(FimEvalError):
                await ask(wanted)


class TestAProcess:
    """The real command, ended from outside."""

    def test_killed_midway_is_resumed_without_asking_twice(self, tmp_path: Path) -> None:
        tasks = made_tasks(200)
        file = write_tasks(tmp_path / "tasks.jsonl", tasks)
        out = tmp_path / "run"
        with FakeServer(delay_s=0.02) as server:
            words = (
                "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
                "--strategy", "lr", "--out", out, "--concurrency", "8",
            )  # fmt: skip
            with start_fim_eval(*words, cwd=tmp_path) as process:
                wait_until(lambda: len(server.prompts) >= 60, "60 prompts asked")
                process.send_signal(signal.SIGKILL)
                process.communicate()
            assert process.returncode == -signal.SIGKILL
            wait_until(lambda: server.in_flight == 0, "the server has noticed")
            asked_before = Counter(server.prompts)
            answered_before = {key[0] for key in read_generations(out)}
            assert 40 <= len(answered_before) < 200
            # At most what was in flight is lost.
            assert len(asked_before) - len(answered_before) <= 8

            done = fim_eval(*words, cwd=tmp_path)
            asked = Counter(server.prompts)
        assert done.returncode == 0, done.stderr
        assert f"200/200 answered, {len(answered_before)} of them already there" in done.stderr
        # Reading refuses a key answered twice; here each is there, and rightly answered.
        stored = {answer.task_id: answer.text for answer in completions(out)}
        assert stored == {task.task_id: task.middle for task in tasks}
        assert len((out / "generations.jsonl").read_bytes().splitlines()) == 200
        again = {prompt for prompt, times in asked.items() if times > 1}
        answered_prompts = {task.prefix for task in tasks if task.task_id in answered_before}
        assert again.isdisjoint(answered_prompts)
        assert again == set(asked_before) - answered_prompts
        assert [segment.asked for segment in read_segments(out)] == [
            200,
            200 - len(answered_before),
        ]

    def test_interrupted_exits_with_130_and_says_how_to_go_on(self, tmp_path: Path) -> None:
        file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(200))
        out = tmp_path / "run"
        with FakeServer(delay_s=0.02) as server:
            words = (
                "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
                "--strategy", "lr", "--out", out, "--concurrency", "8",
            )  # fmt: skip
            with start_fim_eval(*words, cwd=tmp_path) as process:
                wait_until(lambda: len(server.prompts) >= 30, "30 prompts asked")
                pressed = time.monotonic()
                process.send_signal(signal.SIGINT)
                output, told = process.communicate(timeout=10)
            assert time.monotonic() - pressed < 2
            assert process.returncode == 130
            assert told == (
                "fim-eval: interrupted; what was answered is on disk, the same command resumes\n"
            )
            assert output == ""
            before = len(completions(out))
            assert before >= 20
            done = fim_eval(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"200/200 answered, {before} of them already there" in done.stderr

    def test_with_unresolved_tasks_exits_with_3_and_says_why(self, tmp_path: Path) -> None:
        def answer(body: dict[str, Any]) -> str | Reply:
            too_long = refusal(400, "This model's maximum context length is 2048 tokens.")
            return too_long if "f1()" in body["prompt"] else right_answer(body)

        file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(4))
        with FakeServer(answer=answer) as server:
            done = fim_eval(
                "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
                "--strategy", "lr", "--out", tmp_path / "run", cwd=tmp_path,
            )  # fmt: skip
        assert done.returncode == 3
        assert "3/4 answered" in done.stderr
        assert "1 unresolved (1 prompt-too-long)" in done.stderr
        assert "3/4" in done.stdout
        failures = [
            one
            for one in read_generations(tmp_path / "run").values()
            if isinstance(one, RequestFailure)
        ]
        assert [one.reason for one in failures] == ["prompt-too-long"]

"""Whole runs against a server with known delays: what is asked, how fast, and what a kill costs."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import polars.testing
import pytest
from sentencepiece import SentencePieceTrainer

from fim_eval.errand import Outcome
from fim_eval.errors import EndpointError, FimEvalError, RunDirectoryError, ServerChangedError
from fim_eval.generate import Request, RunResult, run
from fim_eval.journal import (
    RunDirectory,
    read_generations,
    read_manifest,
    read_segments,
    read_tasks,
)
from fim_eval.merge import merge_runs
from fim_eval.order import is_audited
from fim_eval.recipe import Recipe
from fim_eval.records import Completion, InfillTask, RequestFailure, Timeouts
from fim_eval.report import score_run, summarise
from tests.integration import (
    files_in,
    fim_eval,
    made_tasks,
    start_fim_eval,
    wait_until,
    write_tasks,
)
from tests.integration.fake_server import FakeServer, Reply, refusal, right_answer

IMPATIENT = Timeouts(attempts=1, recovery_s=0.0)
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
    assert list(read_tasks(tmp_path)) == tasks


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


async def test_an_answer_to_a_task_of_another_run_is_told_and_not_passed_over(
    tmp_path: Path,
) -> None:
    with FakeServer() as server:
        wanted = request(server, tmp_path / "run", made_tasks(3))
        await ask(wanted)
        await ask(request(server, tmp_path / "other", made_tasks(5)))
        foreign = next(one for one in completions(tmp_path / "other") if "/4/" in one.task_id)
        with RunDirectory(tmp_path / "run") as directory:
            directory.append(foreign)
        calls = server.calls
        with pytest.raises(RunDirectoryError) as caught:
            await ask(wanted)
        assert server.calls == calls
    assert str(caught.value).startswith(f"{tmp_path}/run/generations.jsonl:4: holds what came of")
    assert f"{foreign.task_id}, asked as this run does not ask it; remove that" in str(caught.value)


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
        wanted = request(server, tmp_path, tasks, timeouts=IMPATIENT, batch=1)
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


@pytest.mark.parametrize("stream", [0.0, 1.0])
async def test_a_priority_goes_with_everything_that_is_asked(tmp_path: Path, stream: float) -> None:
    with FakeServer() as server:
        wanted = request(
            server, tmp_path / "low", made_tasks(3), priority=7, stream=stream, gold=True
        )
        await ask(wanted)
        assert len(server.requests) >= 3 + 3
        assert {body["priority"] for body in server.requests} == {7}
        assert read_segments(tmp_path / "low")[0].priority == 7
        del server.requests[:]
        await ask(request(server, tmp_path / "usual", made_tasks(3)))
        assert server.requests
        # Not every server knows the field.
        assert all("priority" not in body for body in server.requests)


async def test_whether_a_server_is_well_is_asked_before_all_else(tmp_path: Path) -> None:
    def fail_once(_: dict[str, Any]) -> str | Reply:
        server.answer = right_answer
        return refusal(500, "CUDA error")

    with FakeServer(answer=fail_once) as server:
        timeouts = Timeouts(first_wait_s=0.0)
        wanted = request(server, tmp_path, made_tasks(1), priority=7, timeouts=timeouts)
        assert (await ask(wanted)).answered == 1
        sent = [(body["max_tokens"] == 1, body.get("priority")) for body in server.requests]
    assert sent == [(True, 7), (False, 7), (True, None), (False, 7)]


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

    async def test_its_name_in_answers_ends_the_run(self, tmp_path: Path) -> None:
        def change_after_ten(body: dict[str, Any]) -> str:
            if len(server.prompts) > 10:
                server.answers_as = "other-model"
            return right_answer(body)

        with FakeServer(answer=change_after_ten) as server:
            wanted = request(server, tmp_path, made_tasks(40), concurrency=4)
            with pytest.raises(
                ServerChangedError, match="answers_as: fake-model there, other-model here"
            ):
                await ask(wanted)
            assert len(server.prompts) < 20, "goes on asking"
        assert {answer.answered_as for answer in completions(tmp_path)} == {"fake-model"}

    async def test_its_name_leaves_failures_only_where_nobody_looks(self, tmp_path: Path) -> None:
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


class TestAServerThatHangsAtTheStart:
    """It lists its model, and generates nothing: or is only busy."""

    @pytest.mark.parametrize("when", ["token", "scoring"])
    async def test_is_left_at_once_when_told_to_stop(self, tmp_path: Path, when: str) -> None:
        stop = asyncio.Event()
        with FakeServer(delay_s=600.0 if when == "token" else 0.0) as server:

            def then_hang(_: dict[str, Any]) -> str:
                server.delay_s = 600.0
                return " "

            server.probe = then_hang
            wanted = request(server, tmp_path, made_tasks(3), gold=True)
            asking = asyncio.create_task(run(wanted, lambda *_: None, lambda _: None, stop=stop))
            while server.in_flight == 0 or (when == "scoring" and not server.batches[1:]):  # noqa: ASYNC110  in another thread
                await asyncio.sleep(0.01)
            stop.set()
            result = await asyncio.wait_for(asking, 5)
            assert (result.was_stopped, result.asked, result.unresolved) == (True, 0, 3)
            assert not (tmp_path / "manifest.json").exists()
            server.delay_s, server.probe = 0.0, lambda _: " "
            assert (await ask(wanted)).answered == 3

    async def test_is_waited_for_and_that_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fim_eval.muster.PATIENCE_S", 0.1)
        notices: list[str] = []
        with FakeServer(delay_s=0.3) as server:
            wanted = request(server, tmp_path, made_tasks(3))
            result = await run(wanted, lambda *_: None, lambda _: None, notice=notices.append)
        assert result.answered == 3
        (told,) = notices
        assert told.startswith(f"{server.endpoint}: no token within 0 s; it may be busy or hang")
        assert "is waited for up to 63 min. " in told

    async def test_is_left_out_after_a_while_if_others_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fim_eval.muster.PATIENCE_S", 0.1)
        notices: list[str] = []
        with FakeServer(delay_s=600.0) as hung, FakeServer(delay_s=0.01) as well:
            wanted = request(
                well,
                tmp_path,
                made_tasks(20),
                endpoint=f"{hung.endpoint},{well.endpoint}",
                timeouts=Timeouts(stall_s=0.4),
            )
            running = run(wanted, lambda *_: None, lambda _: None, notice=notices.append)
            result = await asyncio.wait_for(running, 5)
            assert (result.answered, len(well.prompts)) == (20, 20)
        waited, left_out = notices
        assert "is waited for up to 63 min, or 0 s once another answers. Ctrl-C" in waited
        assert left_out.startswith(f"{hung.endpoint}: is left out, what it was to be asked goes")
        assert left_out.endswith("no token within 0 s after others gave one)")

    async def test_is_waited_for_if_it_only_answers_later_than_others(self, tmp_path: Path) -> None:
        with FakeServer(delay_s=0.3) as late, FakeServer() as quick:
            both = f"{late.endpoint},{quick.endpoint}"
            wanted = request(
                quick, tmp_path, made_tasks(20), endpoint=both, timeouts=Timeouts(stall_s=5.0)
            )
            await asyncio.wait_for(ask(wanted), 10)
            assert late.prompts

    async def test_that_answers_soon_is_not_spoken_of(self, tmp_path: Path) -> None:
        notices: list[str] = []
        with FakeServer() as server:
            wanted = request(server, tmp_path, made_tasks(3))
            await run(wanted, lambda *_: None, lambda _: None, notice=notices.append)
        assert notices == []


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
                "--strategy", "lr", "--out", out, "--max-concurrency", "8",
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

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_told_to_stop_it_waits_for_what_is_in_flight_and_says_how_to_go_on(
        self, tmp_path: Path, how: signal.Signals
    ) -> None:
        file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(200))
        out = tmp_path / "run"
        with FakeServer(delay_s=0.3) as server:
            words = (
                "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
                "--strategy", "lr", "--out", out, "--max-concurrency", "8",
            )  # fmt: skip
            with start_fim_eval(*words, cwd=tmp_path) as process:
                wait_until(lambda: len(server.prompts) >= 20, "20 prompts asked")
                process.send_signal(how)
                output, told = process.communicate(timeout=10)
            assert process.returncode == 130
            asked = len(server.prompts)
            assert len(completions(out)) == asked < 200
            assert "\nfim-eval: stopping; waiting up to 30 s for what is in flight" in told
            assert f"{out}: {asked}/200 answered\n" in told
            assert told.endswith(f"stopped; the same command goes on with {out}\n")
            assert output == ""
            server.delay_s = 0.0
            done = fim_eval(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"200/200 answered, {asked} of them already there" in done.stderr
        assert len(server.prompts) == 200

    def test_a_second_signal_ends_it_at_once(self, tmp_path: Path) -> None:
        file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(20))
        out = tmp_path / "run"
        with FakeServer() as server:
            words = (
                "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
                "--strategy", "lr", "--out", out, "--max-concurrency", "8",
            )  # fmt: skip
            with start_fim_eval(*words, cwd=tmp_path) as process:
                wait_until(lambda: bool(server.requests), "somebody asks")
                server.delay_s = 20.0
                wait_until(lambda: server.in_flight > 0, "prompts are in flight", 30)
                process.send_signal(signal.SIGINT)
                time.sleep(0.5)
                assert process.poll() is None
                pressed = time.monotonic()
                process.send_signal(signal.SIGINT)
                _, told = process.communicate(timeout=10)
            assert time.monotonic() - pressed < 2
        assert process.returncode == 130
        assert told.endswith(
            "fim-eval: interrupted; what was answered is on disk, the same command resumes\n"
        )

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


class TestOneRequest:
    """Several prompts together."""

    async def test_holds_as_many_prompts_as_the_batch(self, tmp_path: Path) -> None:
        with FakeServer() as server:
            result = await ask(request(server, tmp_path, made_tasks(30), batch=8, concurrency=16))
        assert (result.answered, result.unresolved) == (30, 0)
        assert server.batches == [1, 8, 8, 8, 6]
        assert server.max_in_flight <= 16
        assert {one.task_id: one.text for one in completions(tmp_path)} == {
            task.task_id: task.middle for task in made_tasks(30)
        }

    async def test_that_is_refused_for_one_prompt_answers_the_others(self, tmp_path: Path) -> None:
        def answer(body: dict[str, Any]) -> str | Reply:
            if "f5()" in body["prompt"]:
                return refusal(400, "This model's maximum context length is 2048 tokens.")
            return right_answer(body)

        with FakeServer(answer=answer) as server:
            result = await ask(request(server, tmp_path, made_tasks(16), batch=16, concurrency=16))
        assert result.answered == 15
        assert result.failures == Counter({"prompt-too-long": 1})
        # By halves: 16, then 8 + 8, 4 + 4, 2 + 2, 1 + 1; no answer is asked for again.
        assert server.batches == [1, 16, 8, 4, 4, 2, 1, 1, 2, 8]

    async def test_of_which_the_server_gives_one_up_asks_only_that_again(
        self, tmp_path: Path
    ) -> None:
        given_up: list[str] = []

        def answer(body: dict[str, Any]) -> str | Reply:
            if "f3()" in body["prompt"] and not given_up:
                given_up.append(body["prompt"])
                whole = server.completion(body, "")
                whole["choices"][0]["finish_reason"] = "abort"
                return Reply(200, whole)
            return right_answer(body)

        with FakeServer(answer=answer) as server:
            wanted = request(
                server, tmp_path, made_tasks(8), batch=8, timeouts=Timeouts(first_wait_s=0.0)
            )
            result = await ask(wanted)
        assert result.answered == 8
        assert server.batches == [1, 8, 1]
        assert {one.attempts for one in completions(tmp_path)} == {1, 2}

    async def test_that_fails_for_one_prompt_is_asked_in_smaller_ones(self, tmp_path: Path) -> None:
        def answer(body: dict[str, Any]) -> str | Reply:
            return refusal(500, "CUDA error") if "f5()" in body["prompt"] else right_answer(body)

        with FakeServer(answer=answer) as server:
            timeouts = Timeouts(first_wait_s=0.0, recovery_s=0.0)
            wanted = request(
                server, tmp_path, made_tasks(16), batch=16, concurrency=16, timeouts=timeouts
            )
            result = await ask(wanted)
            assert server.batches == [1, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]
        assert (result.answered, result.failures) == (15, Counter({"server-error": 1}))
        attempts = Counter(one.attempts for one in completions(tmp_path))
        assert attempts == {3: 8, 4: 4, 5: 2, 6: 1}

    @pytest.mark.parametrize(
        "broken",
        [
            pytest.param({"text": None}, id="text is null"),
            pytest.param({"finish_reason": 7}, id="finish reason is a number"),
        ],
    )
    async def test_of_which_one_choice_is_malformed_answers_the_others(
        self, broken: dict[str, Any], tmp_path: Path
    ) -> None:
        def answer(body: dict[str, Any]) -> str | Reply:
            if "f3()" not in body["prompt"]:
                return right_answer(body)
            whole = server.completion(body, "")
            whole["choices"][0] |= broken
            return Reply(200, whole)

        with FakeServer(answer=answer) as server:
            timeouts = Timeouts(attempts=2, first_wait_s=0.0)
            result = await ask(request(server, tmp_path, made_tasks(8), batch=8, timeouts=timeouts))
            assert server.batches == [1, 8, 1]
        assert (result.answered, result.failures) == (7, Counter({"malformed-response": 1}))
        assert {one.task_id: one.text for one in completions(tmp_path)} == {
            task.task_id: task.middle for task in made_tasks(8) if "/3/" not in task.task_id
        }

    async def test_counts_each_prompts_own_tokens(self, tmp_path: Path) -> None:
        with FakeServer() as server:
            await ask(request(server, tmp_path, made_tasks(12), batch=12, concurrency=12))
        for one in completions(tmp_path):
            assert one.completion_tokens == len(one.text)


def same_questions() -> list[InfillTask]:
    """Left to right, both holes of a problem get the same prompt."""
    return [
        task.model_copy(update={"task_id": f"{task.problem_id}/multi-line/L1-L{end}", "suffix": ""})
        for task in made_tasks(10)
        for end in (1, 2)
    ]


async def test_what_is_the_same_question_is_asked_once_and_answers_every_task(
    tmp_path: Path,
) -> None:
    with FakeServer() as server:
        result = await ask(request(server, tmp_path, same_questions()))
        assert len(server.prompts) == 10
        assert (result.answered, result.asked) == (20, 20)
        again = await ask(request(server, tmp_path, same_questions()))
        assert (again.asked, len(server.prompts)) == (0, 10)
    answers = completions(tmp_path)
    assert len({one.task_id for one in answers}) == 20
    assert Counter(one.asked_as is None for one in answers) == {True: 10, False: 10}
    by_task = {one.task_id: one for one in answers}
    for one in answers:
        if one.asked_as is not None:
            assert one.text == by_task[one.asked_as].text


async def test_prompts_of_a_problem_come_together_and_those_that_begin_alike_side_by_side(
    tmp_path: Path,
) -> None:
    tasks = [
        task.model_copy(update={"task_id": f"{task.task_id}{end}", "prefix": task.prefix + end})
        for end in ("    b = 1\n", "", "    a = 1\n")
        for task in made_tasks(5)
    ]
    with FakeServer() as server:
        await ask(request(server, tmp_path, tasks, batch=1, concurrency=1))
    assert server.prompts == [
        f"def f{number}():\n{end}"
        for number in range(5)
        for end in ("", "    a = 1\n", "    b = 1\n")
    ]


def audited_words(file: Path, server: FakeServer, share: str) -> tuple[str | Path, ...]:
    """Of a command that asks a share again; where to is left to be named."""
    return (
        "run", "--tasks", file, "--model", "fake-model", "--strategy", "lr",
        "--endpoint", server.endpoint, "--audit", share, "--out",
    )  # fmt: skip


class TestShards:
    async def test_of_a_run_make_the_run(self, tmp_path: Path) -> None:
        tasks = made_tasks(40)
        parts = [tmp_path / f"part{number}" for number in (1, 2, 3)]
        with FakeServer() as server:
            results = [
                await ask(request(server, part, tasks, shard=(number, 3)))
                for number, part in enumerate(parts, 1)
            ]
            await ask(request(server, tmp_path / "alone", tasks))
        assert sum(result.tasks for result in results) == 40
        assert all(0 < result.answered == result.tasks < 40 for result in results)
        merged = merge_runs(parts, tmp_path / "whole")
        assert (merged.tasks, merged.answered) == (40, 40)
        whole = read_generations(tmp_path / "whole")
        alone = read_generations(tmp_path / "alone")
        assert whole.keys() == alone.keys()
        assert [segment.segment for segment in read_segments(tmp_path / "whole")] == [0, 1, 2]
        assert {one.segment for one in completions(tmp_path / "whole")} == {0, 1, 2}
        pl.testing.assert_frame_equal(
            summarise(score_run(tmp_path / "whole")).drop("wall_s", "tokens_per_s"),
            summarise(score_run(tmp_path / "alone")).drop("wall_s", "tokens_per_s"),
        )

    async def test_keep_their_own_tasks_and_merged_are_the_run_that_was_asked_whole(
        self, tmp_path: Path
    ) -> None:
        # Of one problem here and there: its tasks keep their places.
        tasks = [*made_tasks(20), *made_tasks(20)]
        tasks = [
            task.model_copy(update={"task_id": f"{task.task_id}-{number}"})
            for number, task in enumerate(tasks)
        ]
        parts = [tmp_path / f"part{number}" for number in (1, 2)]
        with FakeServer() as server:
            for number, part in enumerate(parts, 1):
                await ask(request(server, part, tasks, shard=(number, 2)))
            await ask(request(server, tmp_path / "alone", tasks))
            held = [list(read_tasks(part)) for part in parts]
            assert all(0 < len(own) < 40 for own in held)
            merge_runs(parts, tmp_path / "whole")
            asked = len(server.prompts)
            result = await ask(request(server, tmp_path / "whole", tasks))
            assert len(server.prompts) == asked
        assert (result.answered, result.asked) == (40, 0)
        assert list(read_tasks(tmp_path / "whole")) == tasks
        assert not {one.problem_id for one in held[0]} & {one.problem_id for one in held[1]}
        whole, alone = (read_manifest(tmp_path / name) for name in ("whole", "alone"))
        assert whole.identity == alone.identity
        assert (whole.shard, alone.shard) == (None, None)
        assert sorted(entry.name for entry in (tmp_path / "whole").iterdir()) == sorted(
            entry.name for entry in (tmp_path / "alone").iterdir()
        )

    async def test_of_which_one_lost_the_line_of_a_session_share_no_number(
        self, tmp_path: Path
    ) -> None:
        tasks, parts = made_tasks(20), [tmp_path / "part1", tmp_path / "part2"]
        with FakeServer() as server:
            for number, part in enumerate(parts, 1):
                for gold in (False, True):
                    await ask(request(server, part, tasks, shard=(number, 2), gold=gold))
        lost = parts[0] / "segments.jsonl"
        lost.write_bytes(lost.read_bytes().splitlines(keepends=True)[1])
        merge_runs(parts, tmp_path / "whole")
        assert [one.segment for one in read_segments(tmp_path / "whole")] == [1, 2, 3]
        assert {one.segment for one in completions(tmp_path / "whole")} == {0, 2}

    async def test_leave_their_audits_where_they_are_and_say_so(self, tmp_path: Path) -> None:
        tasks, parts = made_tasks(20), [tmp_path / "part1", tmp_path / "part2"]
        with FakeServer() as server:
            for number, part in enumerate(parts, 1):
                await ask(request(server, part, tasks, shard=(number, 2)))
            own = list(read_tasks(parts[1]))[:2]
            await ask(request(server, parts[1] / "audit", own, shard=(2, 2)))
        done = fim_eval("merge", *parts, "--out", "whole", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"left where they are: {parts[1] / 'audit'}; " in done.stderr
        assert str(parts[0] / "audit") not in done.stderr
        assert not (tmp_path / "whole" / "audit").exists()
        assert (parts[1] / "audit").exists()

    def test_with_an_audit_each_have_the_whole_run_s_when_merged(self, tmp_path: Path) -> None:
        file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(40))
        with FakeServer() as server:
            words = audited_words(file, server, "40%")
            alone = fim_eval(*words, "alone", cwd=tmp_path)
            parts = [fim_eval(*words, n, "--shard", f"{n}/2", cwd=tmp_path) for n in ("1", "2")]
            done = fim_eval("merge", "1", "2", "--out", "whole", cwd=tmp_path)
            asked = len(server.prompts)
            again = fim_eval(*words, "whole", cwd=tmp_path)
            assert len(server.prompts) == asked
        for one in (alone, *parts, done, again):
            assert one.returncode == 0, one.stderr
        assert "left where they are" not in done.stderr
        merged, whole = (tmp_path / name / "audit" for name in ("whole", "alone"))
        assert read_manifest(merged).identity == read_manifest(whole).identity
        assert list(read_tasks(merged)) == list(read_tasks(whole)) != []
        assert {one.task_id for one in completions(merged)} == {
            one.task_id for one in completions(whole)
        }
        told = [one.stderr.partition(" tasks once more")[0].split()[-1] for one in (alone, *parts)]
        total, first, second = map(int, told)
        assert first + second == total == len(list(read_tasks(whole)))

    def test_of_an_audit_that_has_none_of_a_part_s_tasks_are_merged(self, tmp_path: Path) -> None:
        file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(20))
        with FakeServer() as server:
            words = audited_words(file, server, "5%")
            parts = [fim_eval(*words, n, "--shard", f"{n}/4", cwd=tmp_path) for n in "1234"]
        assert any(" 0 tasks once more" in one.stderr for one in parts)
        done = fim_eval("merge", *"1234", "--out", "whole", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        held = list(read_tasks(tmp_path / "whole" / "audit"))
        assert held == [task for task in made_tasks(20) if is_audited(task.task_id, 0.05)] != []

    async def test_have_a_folder_each(self, tmp_path: Path) -> None:
        with FakeServer() as server:
            await ask(request(server, tmp_path, made_tasks(20), shard=(1, 2)))
            for shard, told in (((2, 2), "1/2 there, 2/2 now"), (None, "1/2 there, None now")):
                with pytest.raises(RunDirectoryError, match=f"another run .shard: {told}.;"):
                    await ask(request(server, tmp_path, made_tasks(20), shard=shard))

    async def test_without_a_task_are_shards_too(self, tmp_path: Path) -> None:
        tasks = made_tasks(1)
        parts = [tmp_path / f"part{number}" for number in (1, 2, 3)]
        with FakeServer() as server:
            results = [
                await ask(request(server, part, tasks, shard=(number, 3), gold=True))
                for number, part in enumerate(parts, 1)
            ]
        assert sorted(result.tasks for result in results) == [0, 0, 1]
        assert merge_runs(parts, tmp_path / "whole").answered == 1

    async def test_of_different_runs_or_not_all_are_not_merged(self, tmp_path: Path) -> None:
        with FakeServer() as server:
            for name, count, shard in (
                ("a1", 9, (1, 2)), ("a2", 9, (2, 2)), ("b2", 8, (2, 2)), ("c3", 9, (3, 3)),
                ("again", 9, (1, 2)), ("whole", 9, None),
            ):  # fmt: skip
                await ask(request(server, tmp_path / name, made_tasks(count), shard=shard))
        for names, told in (
            (["a1", "b2"], r"is of another run .*tasks: 9 there, 8 now"),
            (["a1"], "shard 2/2 is missing"),
            (["a1", "again", "a2"], "is shard 1/2, as .*a1 is"),
            (["a1", "whole"], "holds a whole run; only shards are merged"),
            (["a1", "a2", "c3"], "c3: is shard 3/3, others are of 2"),
        ):
            with pytest.raises(RunDirectoryError, match=told):
                merge_runs([tmp_path / name for name in names], tmp_path / "merged")
        with pytest.raises(RunDirectoryError, match="holds a run already"):
            merge_runs([tmp_path / "a1", tmp_path / "a2"], tmp_path / "whole")
        assert not (tmp_path / "merged").exists()


class TestSeveralServers:
    async def test_share_the_problems_and_each_problem_stays_with_one(self, tmp_path: Path) -> None:
        tasks = [
            task.model_copy(update={"task_id": task.task_id + end, "prefix": task.prefix + end})
            for task in made_tasks(40)
            for end in ("", "    a = 1\n")
        ]
        with FakeServer() as one, FakeServer() as other:
            both = f"{one.endpoint},{other.endpoint}"
            result = await ask(request(one, tmp_path, tasks, endpoint=both))
            assert result.answered == 80
            of_one = {prompt.partition(":")[0] for prompt in one.prompts}
            of_other = {prompt.partition(":")[0] for prompt in other.prompts}
        assert of_one.isdisjoint(of_other)
        assert len(of_one) + len(of_other) == 40
        assert min(len(of_one), len(of_other)) >= 10
        assert read_manifest(tmp_path).server.replicas == (other.endpoint,)

    async def test_that_differ_are_refused(self, tmp_path: Path) -> None:
        with FakeServer() as one, FakeServer(fingerprint="vllm-0.33.0-1") as other:
            both = f"{one.endpoint},{other.endpoint}"
            with pytest.raises(ServerChangedError, match="is not the same server as"):
                await ask(request(one, tmp_path, made_tasks(4), endpoint=both))
            assert one.prompts == []

    async def test_that_are_one_are_refused(self, tmp_path: Path) -> None:
        with FakeServer() as one:
            twice = f"{one.endpoint},{one.endpoint}/"
            with pytest.raises(EndpointError, match="is named twice; name every server once"):
                await ask(request(one, tmp_path, made_tasks(4), endpoint=twice))
            assert one.calls == 0
        assert files_in(tmp_path) == {}

    @pytest.mark.parametrize("dead", [0, 1])
    async def test_of_which_one_is_dead_at_the_start_are_asked_without_it(
        self, tmp_path: Path, dead: int
    ) -> None:
        notices: list[str] = []
        with FakeServer() as one, FakeServer() as other:
            servers = [one, other]
            wanted = request(
                one, tmp_path, made_tasks(20), endpoint=f"{one.endpoint},{other.endpoint}"
            )
            servers.pop(dead).stop()
            lost = wanted.endpoint.split(",")[dead]
            (well,) = servers
            result = await run(wanted, lambda *_: None, lambda _: None, notice=notices.append)
            assert len(well.prompts) == 20
        assert (result.answered, result.failures) == (20, Counter())
        (told,) = notices
        assert told.startswith(f"{lost}: is left out, what it was to be asked goes to the others (")
        assert "nothing answers" in told
        server = read_manifest(tmp_path).server
        assert (server.base_url, server.replicas) == (well.endpoint, ())

    async def test_that_are_all_dead_are_all_named(self, tmp_path: Path) -> None:
        with FakeServer() as one, FakeServer() as other:
            one.stop()
            other.probe = lambda _: refusal(500, "EngineCore is dead")
            both = f"{one.endpoint},{other.endpoint}"
            wanted = request(one, tmp_path, made_tasks(4), endpoint=both, timeouts=IMPATIENT)
            with pytest.raises(EndpointError, match="none of 2 servers answers: ") as caught:
                await ask(wanted)
        assert f"{one.endpoint}/: nothing answers" in str(caught.value)
        assert f"{other.endpoint}: lists 'fake-model' but does not answer" in str(caught.value)
        assert not (tmp_path / "manifest.json").exists()

    async def test_of_which_one_serves_another_model_are_refused(self, tmp_path: Path) -> None:
        with FakeServer() as dead, FakeServer() as one, FakeServer(model="another") as other:
            dead.stop()
            every = ",".join(server.endpoint for server in (dead, one, other))
            with pytest.raises(EndpointError, match="serves no model 'fake-model', but another"):
                await ask(request(one, tmp_path, made_tasks(4), endpoint=every))
            assert one.prompts == []

    async def test_that_are_done_help_a_slow_one_and_nothing_is_asked_twice(
        self, tmp_path: Path
    ) -> None:
        with FakeServer(delay_s=0.3) as slow, FakeServer(delay_s=0.01) as quick:
            both = f"{slow.endpoint},{quick.endpoint}"
            wanted = request(slow, tmp_path, made_tasks(60), endpoint=both, batch=2, concurrency=4)
            result = await ask(wanted)
            assert (result.answered, result.failures) == (60, Counter())
            assert sorted(slow.prompts + quick.prompts) == sorted(
                task.prefix for task in made_tasks(60)
            )
            assert len(slow.prompts) < 20, "half of the problems are its own"
            assert (await ask(wanted)).answered_before == 60

    async def test_take_over_what_a_lost_one_was_to_be_asked(self, tmp_path: Path) -> None:
        quick = Timeouts(recovery_s=0.2, first_wait_s=0.0, attempts=2)
        with FakeServer(delay_s=0.02) as one, FakeServer(delay_s=0.02) as other:
            both = f"{one.endpoint},{other.endpoint}"
            wanted = request(
                one, tmp_path, made_tasks(60), endpoint=both, batch=2, concurrency=4, timeouts=quick
            )

            def kill(_: Outcome) -> None:
                if len(other.prompts) >= 8:
                    other.answer = lambda _: refusal(500, "EngineCore is dead")
                    other.probe = lambda _: refusal(500, "EngineCore is dead")

            result = await run(wanted, lambda _total, _left: None, kill)
        assert (result.answered, result.unresolved) == (60, 0)


class TestALostServer:
    async def test_is_waited_for_and_its_death_costs_no_prompt_its_attempts(
        self, tmp_path: Path
    ) -> None:
        """Dead for a while, then back: as with a restart by whoever looks after it."""
        notices: list[str] = []
        quick = Timeouts(attempts=2, first_wait_s=0.0, recovery_s=30.0)
        with FakeServer(delay_s=0.01) as server:
            looks = 0

            def dead(_: dict[str, Any]) -> str | Reply:
                return refusal(500, "EngineCore is dead")

            def revive(_: dict[str, Any]) -> str | Reply:
                nonlocal looks
                looks += 1
                if looks < 3:
                    return dead({})
                server.answer, server.probe = right_answer, lambda _: " "
                return " "

            def kill(_: Outcome) -> None:
                if len(server.prompts) >= 20 and not looks:
                    server.answer, server.probe = dead, revive

            wanted = request(server, tmp_path, made_tasks(60), batch=2, timeouts=quick)
            result = await run(wanted, lambda _total, _left: None, kill, notice=notices.append)
        assert (result.answered, result.failures) == (60, Counter())
        assert [notice.partition(": ")[2].split(" (")[0] for notice in notices] == [
            "is lost",
            notices[-1].partition(": ")[2],
        ]
        assert "is back after" in notices[-1]
        assert max(one.attempts for one in completions(tmp_path)) == 2

    async def test_that_does_not_come_back_ends_the_run_with_what_is_left(
        self, tmp_path: Path
    ) -> None:
        quick = Timeouts(attempts=2, first_wait_s=0.0, recovery_s=0.1)
        with FakeServer() as server:

            def kill(_: Outcome) -> None:
                server.answer = server.probe = lambda _: refusal(500, "EngineCore is dead")

            wanted = request(server, tmp_path, made_tasks(60), batch=2, timeouts=quick)
            with pytest.raises(EndpointError, match=r"does not answer any more .*it resumes"):
                await run(wanted, lambda _total, _left: None, kill)
            server.answer, server.probe = right_answer, lambda _: " "
            result = await ask(wanted)
        assert result.answered == 60
        assert result.answered_before > 0

    async def test_that_hangs_while_it_says_it_is_well_is_noticed(self, tmp_path: Path) -> None:
        notices: list[str] = []
        quick = Timeouts(first_wait_s=0.0, stall_s=0.4, look_s=0.4)
        with FakeServer() as server:

            def hang(_: Outcome) -> None:
                if not notices:
                    server.delay_s = 600.0

            wanted = request(server, tmp_path, made_tasks(20), batch=2, timeouts=quick)
            running = asyncio.create_task(
                run(wanted, lambda _total, _left: None, hang, notice=notices.append)
            )
            while not any("is lost" in notice for notice in notices):  # noqa: ASYNC110  told, not set
                await asyncio.sleep(0.1)
            server.delay_s = 0.0
            result = await asyncio.wait_for(running, 45)
        assert result.answered == 20
        assert any("requests without an answer" in notice for notice in notices)

    async def test_that_comes_back_as_another_ends_the_run(self, tmp_path: Path) -> None:
        quick = Timeouts(attempts=2, first_wait_s=0.0, recovery_s=5.0)
        with FakeServer() as server:

            def change(_: Outcome) -> None:
                server.answer = lambda _: refusal(500, "EngineCore is dead")
                server.fingerprint = "vllm-0.33.0-1"

            wanted = request(server, tmp_path, made_tasks(60), batch=2, timeouts=quick)
            with pytest.raises(ServerChangedError, match="is not the server any more"):
                await run(wanted, lambda _total, _left: None, change)


VLLM_S = "vllm-0.32.0-5b2ef2de"
HIDDEN = Reply(404, {"detail": "Not Found"})
BUSY = Reply(502, "Bad Gateway")


def cut() -> Reply:
    raise ConnectionResetError


class TestAVersion:
    """That of a server which fails a request in the middle of a run, and so is looked at."""

    @pytest.fixture(autouse=True)
    def quickly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fim_eval.server.VERSION_PAUSE_S", 0.01)

    @pytest.mark.parametrize(
        ("other", "value"), [("version", "0.33.0"), ("root", "/models/b"), ("max_model_len", 7)]
    )
    async def test_that_changes_while_nothing_is_lost_ends_the_run(
        self, tmp_path: Path, other: str, value: str | int
    ) -> None:
        """As behind a gateway that turns to another server; answers without a fingerprint."""
        with FakeServer(fingerprint=None, delay_s=0.02) as server:

            def change(_: Outcome) -> None:
                if len(server.prompts) < 10:
                    return
                if other == "version":
                    server.version = str(value)
                else:
                    row = server.right_models().body["data"][0]
                    server.tell_models = lambda: Reply(200, {"data": [row | {other: value}]})

            timeouts = Timeouts(identity_s=0.1)
            wanted = request(
                server, tmp_path, made_tasks(2_000), batch=1, concurrency=4, timeouts=timeouts
            )
            with pytest.raises(
                ServerChangedError,
                match=rf"not the server any more.*\({other}: .* those that came after second "
                r"\d+ of segment 0 may be the other's: remove their lines .*\)",
            ):
                await asyncio.wait_for(run(wanted, lambda *_: None, change), 10)
            assert 10 <= len(read_generations(tmp_path)) < 2_000

    async def test_that_changes_while_every_request_waits_ends_the_run(
        self, tmp_path: Path
    ) -> None:
        with FakeServer(fingerprint=None) as server:

            def turn_to_another(_: Outcome) -> None:
                server.version, server.delay_s = "0.33.0", 600.0

            timeouts = Timeouts(identity_s=0.1)
            wanted = request(
                server, tmp_path, made_tasks(20), batch=1, concurrency=1, timeouts=timeouts
            )
            with pytest.raises(ServerChangedError, match=r"version: 0\.32\.0 there, 0\.33\.0 here"):
                await asyncio.wait_for(run(wanted, lambda *_: None, turn_to_another), 10)

    async def test_that_cannot_be_read_while_nothing_is_lost_costs_nothing(
        self, tmp_path: Path
    ) -> None:
        with FakeServer(fingerprint=None, delay_s=0.02) as server:

            def fail(_: Outcome) -> None:
                server.tell_models = lambda: refusal(502, "bad gateway")

            timeouts = Timeouts(identity_s=0.05)
            wanted = request(
                server, tmp_path, made_tasks(60), batch=1, concurrency=4, timeouts=timeouts
            )
            result = await run(wanted, lambda *_: None, fail)
        assert (result.answered, result.failures) == (60, Counter())

    @staticmethod
    async def looked_at(
        folder: Path, fingerprint: str | None, *tells: Callable[[], Reply], later: str = "0.32.0"
    ) -> list[str]:
        """What is noticed of a run that is answered whole.

        Args:
            folder: of the run.
            fingerprint: of the server.
            tells: what `/version` does from the loss on, one after the other, before it tells it.
            later: the version that is told then.
        """
        notices: list[str] = []
        left = [*tells]
        with FakeServer(fingerprint=fingerprint) as server:

            def tell() -> Reply:
                return left.pop(0)() if left else server.right_version()

            def fail_once(body: dict[str, Any]) -> str | Reply:
                if server.tell_version == tell or len(server.prompts) < 10:
                    return right_answer(body)
                server.tell_version, server.version = tell, later
                return refusal(500, "EngineCore stumbled")

            server.answer = fail_once
            quick = Timeouts(attempts=2, first_wait_s=0.0, recovery_s=20.0)
            wanted = request(server, folder, made_tasks(30), batch=1, timeouts=quick)
            result = await run(wanted, lambda *_: None, lambda _: None, notice=notices.append)
            assert not left
        assert (result.answered, result.failures) == (30, Counter())
        return notices

    @pytest.mark.parametrize("fingerprint", [VLLM_S, None])
    @pytest.mark.parametrize(
        "tells",
        [
            pytest.param([lambda: BUSY], id="502"),
            pytest.param([lambda: HIDDEN], id="404"),
            # The first is asked again by the HTTP client.
            pytest.param([cut, cut], id="reset"),
        ],
    )
    async def test_that_cannot_be_read_once_is_read_again(
        self, tmp_path: Path, tells: list[Callable[[], Reply]], fingerprint: str | None
    ) -> None:
        assert await self.looked_at(tmp_path, fingerprint, *tells) == []

    @pytest.mark.parametrize("reply", [BUSY, HIDDEN])
    async def test_that_is_not_told_any_more_is_known_by_the_fingerprint(
        self, tmp_path: Path, reply: Reply
    ) -> None:
        assert await self.looked_at(tmp_path, VLLM_S, *[lambda: reply] * 3) == []

    @pytest.mark.parametrize("fingerprint", [None, "a-team-s-own"])
    async def test_that_nothing_else_tells_is_waited_for(
        self, tmp_path: Path, fingerprint: str | None
    ) -> None:
        lost, back = await self.looked_at(tmp_path, fingerprint, *[lambda: BUSY] * 3)
        assert "is lost (its version cannot be read any more: HTTP 502; it was 0.32.0)" in lost
        assert "is back after" in back

    @pytest.mark.parametrize("faults", [0, 1, 3])
    async def test_that_is_another_ends_the_run_however_late_it_is_read(
        self, tmp_path: Path, faults: int
    ) -> None:
        with pytest.raises(ServerChangedError, match=r"version: 0\.32\.0 there, 0\.33\.0 here"):
            await self.looked_at(tmp_path, None, *[cut] * faults, later="0.33.0")

    async def test_that_a_server_without_fingerprint_stops_telling_ends_the_run(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(ServerChangedError, match=r"version: 0\.32\.0 there, None here"):
            await self.looked_at(tmp_path, None, *[lambda: HIDDEN] * 3)

    @pytest.mark.parametrize(
        ("replies", "version", "noticed"),
        [
            pytest.param([BUSY, BUSY], "0.32.0", 0, id="fails twice"),
            pytest.param([BUSY] * 3, None, 1, id="fails always"),
            pytest.param([HIDDEN], None, 0, id="hidden"),
        ],
    )
    async def test_stands_in_the_manifest_if_it_could_be_read_at_the_beginning(
        self, tmp_path: Path, replies: list[Reply], version: str | None, noticed: int
    ) -> None:
        notices: list[str] = []
        left = [*replies]
        with FakeServer() as server:
            server.tell_version = lambda: left.pop(0) if left else server.right_version()
            wanted = request(server, tmp_path, made_tasks(3))
            result = await run(wanted, lambda *_: None, lambda _: None, notice=notices.append)
        assert result.answered == 3
        assert not left
        assert read_manifest(tmp_path).identity.server_version == version
        assert ["version could not be read (HTTP 502)" in one for one in notices] == [
            True
        ] * noticed


def test_an_audit_asks_a_part_again_and_the_report_tells_what_changed(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def moody(body: dict[str, Any]) -> str:
        asked[body["prompt"]] += 1
        return right_answer(body) if asked[body["prompt"]] == 1 else "    return None\n"

    tasks = made_tasks(60)
    file = write_tasks(tmp_path / "tasks.jsonl", tasks)
    out = tmp_path / "run"
    words = (
        "run", "--tasks", file, "--model", "fake-model", "--strategy", "lr", "--out", out,
        "--audit", "50%",
    )  # fmt: skip
    with FakeServer(answer=moody) as server:
        done = fim_eval(*words, "--endpoint", server.endpoint, cwd=tmp_path)
        again = fim_eval(*words, "--endpoint", server.endpoint, cwd=tmp_path)
    assert done.returncode == again.returncode == 0, done.stderr
    audited = {one.task_id for one in completions(out / "audit")}
    assert audited == {task.task_id for task in tasks if is_audited(task.task_id, 0.5)}
    assert 20 <= len(audited) <= 40
    assert f"{len(audited)} tasks once more, 16 in flight" in done.stderr
    assert len(server.prompts) == 60 + len(audited), "asked once more, and only once"
    told = fim_eval("report", out, "--out", tmp_path / "report", "--resamples", "100", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    (noise,) = json.loads((tmp_path / "report" / "report.json").read_bytes())["noise"]
    assert noise["tasks"] == noise["text_changed"] == noise["exact_match_changed"] == len(audited)


@pytest.mark.parametrize("share", ["0%", "101", "some"])
def test_an_audit_that_is_no_percentage_is_refused(tmp_path: Path, share: str) -> None:
    file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(1))
    done = fim_eval(
        "run", "--tasks", file, "--endpoint", "http://127.0.0.1:1/v1", "--model", "m",
        "--strategy", "lr", "--out", tmp_path / "run", "--audit", share, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is no percentage" in done.stderr

"""The probe against a server: what it prints, what a run does with it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from fim_eval.probe import TASKS
from fim_eval.records import Timeouts
from fim_eval.tokenizer import SentencePieceTokenizer
from tests.data_paths import needs_tokenizer
from tests.integration import InProcess, made_tasks, wait_until, write_tasks
from tests.integration.fake_server import FakeServer, Reply, refusal
from tests.tokenizer_files import byte_level_file

END = 32010
FOLDER = os.environ.get("FIM_EVAL_CODELLAMA_TOKENIZER", "")
"""Read here: the command runs without what a shell may set for us."""


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, monkeypatch, capfd)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(model="m") as server:
        yield server


@cache
def code_llama_tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(Path(FOLDER) / "tokenizer.model")


def ids_of(text: str) -> list[int]:
    return code_llama_tokenizer().encode_infill(text)


def answering(server: FakeServer, ids: Callable[[str], list[int]]) -> None:
    """Answer id prompts of the probe with ids of our choice, ended or cut as they are."""
    decode = code_llama_tokenizer().decode_infill

    def answer(body: dict[str, Any]) -> str | Reply:
        prompt = body["prompt"]
        shown = decode([each for each in prompt if each < 32000])
        task = next((t for t in TASKS if t.prefix.strip() in shown), TASKS[0])
        out = ids(task.middle)
        whole = server.completion({**body, "max_tokens": 99}, "?")
        choice = whole["choices"][0]
        choice |= {
            "text": decode([each for each in out if each != END]),
            "token_ids": out,
            "prompt_token_ids": prompt,
            "finish_reason": "stop" if out[-1] == END else "length",
            "stop_reason": END if out[-1] == END else None,
        }
        return Reply(200, whole)

    server.answer = answer


def words(server: FakeServer, card: str) -> list[str | Path]:
    return [
        "--endpoint", server.endpoint, "--model", "m", "--card", card, "--tokenizer",
        FOLDER,
    ]  # fmt: skip


@needs_tokenizer
def test_a_model_that_fills_and_ends_infills(in_process: InProcess, server: FakeServer) -> None:
    answering(server, lambda middle: [*ids_of(middle), END])
    done = in_process("probe", *words(server, "codellama/CodeLlama-7b-hf"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("m, fim-psm: infills\n  16 of 16 holes answered\n")


@needs_tokenizer
def test_a_model_that_goes_on_does_not(in_process: InProcess, server: FakeServer) -> None:
    answering(server, lambda middle: [*ids_of(middle), 13, 13])
    done = in_process("probe", *words(server, "codellama/CodeLlama-70b-hf"))
    assert done.returncode == 3
    assert "m, fim-psm: does not infill" in done.stdout
    assert "0 of 16 answers end with the end token" in done.stdout


def test_a_model_without_sentinels_is_not_even_asked(
    in_process: InProcess, server: FakeServer
) -> None:
    done = in_process(
        "probe", "--endpoint", server.endpoint, "--model", "m", "--card",
        "codellama/CodeLlama-34b-hf",
    )  # fmt: skip
    assert done.returncode == 3
    assert "does not infill" in done.stdout
    assert "it was not trained to infill" in done.stdout
    assert server.prompts == []


@needs_tokenizer
def test_a_disputed_model_that_does_not_infill_is_not_asked_further(
    in_process: InProcess, server: FakeServer
) -> None:
    answering(server, lambda _: [13, 13])
    tasks = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
    run = [
        "run", "--tasks", tasks, "--strategy", "fim-psm", "--out", "out",
        *words(server, "codellama/CodeLlama-70b-hf"),
    ]  # fmt: skip
    done = in_process(*run)
    assert done.returncode == 1
    assert "--no-probe asks it all the same" in done.stderr
    assert len(server.prompts) == len(TASKS)
    assert not (in_process.folder / "out" / "generations.jsonl").exists()
    assert in_process(*run, "--no-probe").returncode == 0


@needs_tokenizer
def test_a_model_of_which_that_is_unclear_is_asked_and_told_to_be(
    in_process: InProcess, server: FakeServer
) -> None:
    answering(server, lambda _: [13, END])
    tasks = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
    done = in_process(
        "run", "--tasks", tasks, "--strategy", "fim-psm", "--out", "out",
        *words(server, "codellama/CodeLlama-70b-hf"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "probe: m, fim-psm: unclear (16 of 16 holes answered; 16 of 16" in done.stderr
    assert "0 of 16 fill the hole as expected); it is asked all the same\n" in done.stderr
    assert len(server.prompts) > len(TASKS)


@needs_tokenizer
def test_a_trained_model_that_does_not_answer_so_is_asked_with_a_warning_on_record(
    in_process: InProcess, server: FakeServer
) -> None:
    answering(server, lambda _: [13, 13])
    tasks = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
    done = in_process(
        "run", "--tasks", tasks, "--strategy", "fim-psm", "--out", "out",
        *words(server, "codellama/CodeLlama-7b-hf"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "was trained to infill" in done.stderr
    manifest = json.loads((in_process.folder / "out" / "manifest.json").read_bytes())
    assert manifest["probe"]["verdict"] == "does not infill"


@needs_tokenizer
def test_a_run_that_goes_on_is_not_probed_again(in_process: InProcess, server: FakeServer) -> None:
    answering(server, lambda middle: [*ids_of(middle), END])
    tasks = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
    run = [
        "run", "--tasks", tasks, "--strategy", "fim-psm", "--out", "out",
        *words(server, "codellama/CodeLlama-7b-hf"),
    ]  # fmt: skip
    assert in_process(*run).returncode == 0
    before = len(server.prompts)
    assert in_process(*run).returncode == 0
    assert len(server.prompts) == before


class TestSeveralServers:
    """Of a model that infills, in StarCoder's format, with a tokenizer made here."""

    @pytest.fixture
    def tokenizer(self, tmp_path: Path) -> Tokenizer:
        pieces = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>"]
        return Tokenizer.from_file(str(byte_level_file(tmp_path, pieces)))

    @pytest.fixture
    def servers(self, tokenizer: Tokenizer) -> Iterator[tuple[FakeServer, FakeServer]]:
        with FakeServer(model="m") as one, FakeServer(model="m") as other:
            for server in (one, other):
                self.infill(server, tokenizer)
            yield one, other

    @staticmethod
    def infill(server: FakeServer, tokenizer: Tokenizer) -> None:
        def answer(body: dict[str, Any]) -> Reply:
            shown = tokenizer.decode(body["prompt"])
            middle = next((task.middle for task in TASKS if task.prefix in shown), " 1\n")
            whole = server.completion(body, middle)
            ids = tokenizer.encode(f"{middle}<|endoftext|>").ids
            whole["choices"][0] |= {"token_ids": ids, "finish_reason": "stop"}
            return Reply(200, whole)

        server.answer = answer

    @staticmethod
    def words(folder: Path, *endpoints: str) -> list[str | Path]:
        file = write_tasks(folder / "tasks.jsonl", made_tasks(20))
        return [
            "run", "--tasks", file, "--strategy", "fim-psm", "--out", "out", "--model", "m",
            "--tokenizer", folder, "--endpoint", ",".join(endpoints),
        ]  # fmt: skip

    def test_are_probed_at_the_first_and_asked_all(
        self, in_process: InProcess, servers: tuple[FakeServer, FakeServer]
    ) -> None:
        one, other = servers
        words = self.words(in_process.folder, one.endpoint, other.endpoint)
        done = in_process(*words)
        assert done.returncode == 0, done.stderr
        assert "probe: m, fim-psm: infills (16 of 16 holes answered" in done.stderr
        assert len(one.prompts) + len(other.prompts) == len(TASKS) + 20
        assert len(one.prompts) > len(TASKS)
        assert len(other.prompts) > 0

    def test_of_which_the_first_hangs_are_probed_at_the_next(
        self,
        in_process: InProcess,
        servers: tuple[FakeServer, FakeServer],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        one, other = servers
        one.delay_s = 600.0
        monkeypatch.setattr("fim_eval.study.PATIENCE_S", 0.2)
        done = in_process(*probe_words(in_process.folder, one.endpoint, other.endpoint))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("m, fim-psm: infills\n")
        assert len(other.prompts) == len(TASKS)

    @pytest.mark.parametrize("dead", ["stopped", "loading", "engine"])
    def test_are_probed_at_the_first_that_answers(
        self,
        in_process: InProcess,
        servers: tuple[FakeServer, FakeServer],
        dead: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        one, other = servers
        monkeypatch.setattr("fim_eval.study.Timeouts", lambda: Timeouts(attempts=1))
        match dead:
            case "stopped":
                one.stop()
            case "loading":
                one.tell_models = lambda: refusal(503, "model is loading")
            case "engine":
                one.probe = lambda _: refusal(500, "EngineCore is dead")
        done = in_process(*probe_words(in_process.folder, one.endpoint, other.endpoint))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("m, fim-psm: infills\n")
        assert (len(one.prompts), len(other.prompts)) == (0, len(TASKS))
        other.stop()
        done = in_process(*probe_words(in_process.folder, one.endpoint, other.endpoint))
        assert done.returncode == 1
        assert done.stderr.startswith("fim-eval: none of 2 servers answers: ")
        assert all(f"{server.endpoint}" in done.stderr for server in servers)

    def test_of_which_the_first_serves_another_model_are_refused(
        self, in_process: InProcess, servers: tuple[FakeServer, FakeServer]
    ) -> None:
        with FakeServer(model="another") as first:
            done = in_process(*probe_words(in_process.folder, first.endpoint, servers[1].endpoint))
        assert done.returncode == 1
        assert "serves no model 'm', but another" in done.stderr

    @pytest.mark.parametrize("asked", [1, 1 + len(TASKS)])
    def test_a_stop_while_they_hang_ends_the_probe_and_the_run(
        self, in_process: InProcess, servers: tuple[FakeServer, FakeServer], asked: int
    ) -> None:
        """With the sign of life, or with what the probe asks."""
        one, _ = servers

        def then_hang(_: dict[str, Any]) -> str:
            one.delay_s = 600.0
            return " "

        def interrupt() -> None:
            wait_until(lambda: len(one.requests) == asked and one.in_flight > 0, "it hangs", 60)
            os.kill(os.getpid(), signal.SIGINT)

        one.probe, one.delay_s = then_hang, 600.0 if asked == 1 else 0.0
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        done = in_process(*self.words(in_process.folder, one.endpoint))
        interrupting.join()
        assert done.returncode == 130, done.stderr
        assert done.stderr.endswith("stopped; the same command goes on with out\n")
        one.delay_s, one.probe = 0.0, lambda _: " "
        assert in_process(*self.words(in_process.folder, one.endpoint)).returncode == 0


def probe_words(folder: Path, *endpoints: str) -> list[str | Path]:
    """Probe servers whose model is in none of our tables, with the tokenizer in a folder."""
    return [
        "probe", "--model", "m", "--tokenizer", folder, "--endpoint", ",".join(endpoints),
    ]  # fmt: skip

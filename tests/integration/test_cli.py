"""The command as a person meets it: one sentence for each mistake, and no secret in any file."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from fim_eval.records import InfillTask, TaskFacts
from tests.integration import (
    COMMAND,
    InProcess,
    environment,
    files_in,
    fim_eval,
    made_tasks,
    start_fim_eval,
    wait_until,
    write_tasks,
)
from tests.integration.fake_server import FakeServer, Reply, refusal, right_answer
from tests.tokenizer_files import byte_level_file

KEY = "sk-not-a-real-key-0123456789"

MADE_UP = [
    {
        "task_id": number,
        "text": f"Write a function that adds {number} to its argument.",
        "code": f"def add_{number}(x):\r\n    total = x + {number}\r\n    return total",
        "test_list": [f"assert add_{number}(1) == {number + 1}"],
        "test_setup_code": "",
        "challenge_test_list": [],
    }
    for number in (11, 12, 601)
]


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The only line on standard error of a command that failed as expected."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("fim-eval: ")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def children_s() -> float:
    """Seconds of processor time that ended child processes have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, monkeypatch, capfd)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer() as listening:
        yield listening


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which nothing listens, and nothing will while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


class TestABadEndpoint:
    @staticmethod
    def ask(in_process: InProcess, endpoint: str) -> str:
        """The sentence told; nothing but an empty run directory may be left behind."""
        file = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
        done = in_process(
            "run", "--tasks", file, "--endpoint", endpoint, "--model", "fake-model",
            "--strategy", "lr", "--out", "run",
        )  # fmt: skip
        assert set(files_in(in_process.folder)) <= {"tasks.jsonl", "run/lock"}
        return one_sentence(done)

    def test_nothing_listens(self, tmp_path: Path, port: int) -> None:
        file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(2))
        done = fim_eval(
            "run", "--tasks", file, "--endpoint", f"http://127.0.0.1:{port}/v1",
            "--model", "fake-model", "--strategy", "lr", "--out", "run", cwd=tmp_path,
        )  # fmt: skip
        told = one_sentence(done)
        assert f"http://127.0.0.1:{port}/v1" in told
        assert "nothing answers" in told
        assert "is the server running" in told

    @pytest.mark.parametrize(
        "endpoint",
        [
            "127.0.0.1:8007/v1",
            "localhost",
            "file:///v1",
            "http:",
            "http://127.0.0.1:PORT/v1",
            "http://[::1/v1",
        ],
    )
    def test_is_no_url(self, in_process: InProcess, endpoint: str) -> None:
        told = self.ask(in_process, endpoint)
        assert told.startswith(f"fim-eval: --endpoint {endpoint}: is no base URL; it looks like ")
        assert "http://127.0.0.1:8007/v1" in told

    @pytest.mark.parametrize(
        "endpoint",
        [
            "http://ann:s3cret-word@127.0.0.1:8007/v1",
            "https://s3cret-word@cluster.example/v1",
            "https://cluster.example/v1?api_key=s3cret-word",
        ],
    )
    def test_holds_a_secret(self, in_process: InProcess, endpoint: str) -> None:
        told = self.ask(in_process, endpoint)
        assert "s3cret-word" not in told
        assert "--api-key-env" in told

    def test_lacks_v1(self, in_process: InProcess, server: FakeServer) -> None:
        told = self.ask(in_process, server.endpoint.removesuffix("/v1"))
        assert "HTTP 404" in told
        assert "with /v1 at its end?" in told

    def test_is_no_http_server(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
            file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(2))
            with start_fim_eval(
                "run", "--tasks", file, "--endpoint", endpoint, "--model", "fake-model",
                "--strategy", "lr", "--out", "run", cwd=tmp_path,
            ) as process:  # fmt: skip
                connection, _ = listening.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
                    output, told = process.communicate(timeout=10)
        done = subprocess.CompletedProcess(process.args, process.returncode, output, told)
        assert endpoint in one_sentence(done)

    def test_does_not_serve_the_model(self, in_process: InProcess) -> None:
        with FakeServer(model="smollm2-135m") as other:
            told = self.ask(in_process, other.endpoint)
        assert "serves no model 'fake-model', but smollm2-135m" in told
        assert "--model" in told

    def test_hostile_words_of_a_server_are_inert(self, in_process: InProcess) -> None:
        with FakeServer(model="\x1b[2J\x1b]0;owned\x07[bold]\r\nfim-eval: all is well") as other:
            told = self.ask(in_process, other.endpoint)
        assert "\\x1b[2J" in told
        assert told[:-1].isprintable()


class TestABadRequest:
    """Nobody is asked: the server in these commands must hear nothing."""

    @pytest.mark.parametrize("strategy", ["fim-psm", "fim-spm"])
    def test_the_34b_model_cannot_infill(
        self, in_process: InProcess, server: FakeServer, strategy: str
    ) -> None:
        file = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
        calls = server.calls
        done = in_process(
            "run", "--tasks", file, "--endpoint", server.endpoint,
            "--model", "codellama/CodeLlama-34b-hf", "--strategy", strategy, "--out", "run",
        )  # fmt: skip
        told = one_sentence(done)
        assert f"{strategy} for codellama/CodeLlama-34b-hf: it was not trained to infill" in told
        assert "use --strategy lr" in told
        assert server.calls == calls
        assert set(files_in(in_process.folder)) == {"tasks.jsonl"}

    def test_an_unknown_model_cannot_be_asked_to_infill(
        self, in_process: InProcess, server: FakeServer
    ) -> None:
        file = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
        done = in_process(
            "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
            "--strategy", "fim-psm", "--out", "run",
        )  # fmt: skip
        told = one_sentence(done)
        assert "--card" in told
        assert "--strategy lr" in told

    def test_missing_tasks(self, in_process: InProcess, server: FakeServer) -> None:
        done = in_process(
            "run", "--tasks", "absent.jsonl", "--endpoint", server.endpoint, "--model",
            "fake-model", "--strategy", "lr", "--out", "run",
        )  # fmt: skip
        assert one_sentence(done) == (
            "fim-eval: absent.jsonl: cannot be read (No such file or directory); "
            "`fim-eval tasks` writes such files\n"
        )
        assert files_in(in_process.folder) == {}

    def test_tasks_changed_since_their_facts(
        self, in_process: InProcess, server: FakeServer
    ) -> None:
        made = in_process(
            "tasks", "--problems", "starter", "--split", "all", "--out", "tasks.jsonl"
        )
        assert made.returncode == 0, made.stderr
        tasks = in_process.folder / "tasks.jsonl"
        tasks.write_bytes(tasks.read_bytes().replace(b"return", b"retrun", 1))
        before = files_in(in_process.folder)
        done = in_process(
            "run", "--tasks", "tasks.jsonl", "--endpoint", server.endpoint, "--model",
            "fake-model", "--strategy", "lr", "--out", "run",
        )  # fmt: skip
        told = one_sentence(done)
        assert "tasks.jsonl: was changed since tasks.jsonl.facts.json was written" in told
        assert "write the tasks again" in told
        assert files_in(in_process.folder) == before

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            pytest.param(b"", "holds no task", id="empty"),
            pytest.param(b"{}\n", "tasks.jsonl:1: is no task", id="no task"),
            pytest.param(
                2 * (orjson.dumps(made_tasks(1)[0].model_dump()) + b"\n"),
                "tasks.jsonl:2: Made/0/single-line/L1 stands already in line 1",
                id="twice",
            ),
            pytest.param(
                orjson.dumps(made_tasks(1)[0].model_dump()) + b'\n{"task_id": "Ma',
                "tasks.jsonl:2: is no task",
                id="cut",
            ),
        ],
    )
    def test_tasks_that_are_none(
        self, in_process: InProcess, server: FakeServer, content: bytes, says: str
    ) -> None:
        (in_process.folder / "tasks.jsonl").write_bytes(content)
        done = in_process(
            "run", "--tasks", "tasks.jsonl", "--endpoint", server.endpoint, "--model",
            "fake-model", "--strategy", "lr", "--out", "run",
        )  # fmt: skip
        assert says in one_sentence(done)
        assert set(files_in(in_process.folder)) == {"tasks.jsonl"}


class TestABadRunDirectory:
    @staticmethod
    def ask(in_process: InProcess, server: FakeServer, out: str, model: str = "fake-model") -> str:
        file = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
        done = in_process(
            "run", "--tasks", file, "--endpoint", server.endpoint, "--model", model,
            "--strategy", "lr", "--out", out,
        )  # fmt: skip
        return one_sentence(done)

    def test_below_a_file(self, in_process: InProcess, server: FakeServer) -> None:
        (in_process.folder / "file").write_bytes(b"mine")
        assert self.ask(in_process, server, "file/run") == (
            "fim-eval: file/run: cannot be written (Not a directory); "
            "name a folder of your own with --out\n"
        )
        assert files_in(in_process.folder)["file"] == b"mine"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_without_permission(self, in_process: InProcess, server: FakeServer) -> None:
        (in_process.folder / "locked").mkdir(mode=0o555)
        told = self.ask(in_process, server, "locked/run")
        assert "locked/run: cannot be written (Permission denied)" in told

    def test_of_another_model(self, in_process: InProcess, server: FakeServer) -> None:
        file = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
        first = in_process(
            "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
            "--strategy", "lr", "--out", "run",
        )  # fmt: skip
        assert first.returncode == 0, first.stderr
        before = files_in(in_process.folder / "run")
        told = self.ask(in_process, server, "run", model="other-model")
        assert "run: belongs to another run (model: fake-model there, other-model now" in told
        assert "choose another --out" in told
        after = files_in(in_process.folder / "run")
        assert {**after, "lock": b""} == {**before, "lock": b""}


class TestBadProblems:
    def test_a_truncated_file_is_named_with_its_line_and_nothing_is_written(
        self, tmp_path: Path
    ) -> None:
        whole = b"".join(orjson.dumps(row) + b"\n" for row in MADE_UP)
        (tmp_path / "mbpp.jsonl").write_bytes(whole[:-60])
        (tmp_path / "tasks.jsonl").write_bytes(b"from before")
        before = files_in(tmp_path)
        done = fim_eval("tasks", "--problems", "mbpp.jsonl", "--out", "tasks.jsonl", cwd=tmp_path)
        told = one_sentence(done)
        assert told.startswith("fim-eval: mbpp.jsonl:3: is not valid JSON")
        assert "fetch it again" in told
        assert files_in(tmp_path) == before

    def test_a_truncated_array_is_named(self, in_process: InProcess) -> None:
        (in_process.folder / "mbpp.json").write_bytes(orjson.dumps(MADE_UP)[:-60])
        done = in_process("tasks", "--problems", "mbpp.json", "--out", "tasks.jsonl")
        assert one_sentence(done).startswith("fim-eval: mbpp.json: is not valid JSON")

    def test_a_truncated_parquet_file_is_named(self, in_process: InProcess) -> None:
        import polars as pl

        pl.DataFrame(MADE_UP).write_parquet(in_process.folder / "mbpp.parquet")
        whole = (in_process.folder / "mbpp.parquet").read_bytes()
        (in_process.folder / "mbpp.parquet").write_bytes(whole[:-10])
        done = in_process("tasks", "--problems", "mbpp.parquet", "--out", "t.jsonl")
        assert one_sentence(done).startswith("fim-eval: mbpp.parquet: is no readable parquet file")

    def test_a_truncated_gzip_file_is_named(self, in_process: InProcess) -> None:
        import gzip

        lines = b"".join(orjson.dumps(row) + b"\n" for row in MADE_UP)
        (in_process.folder / "mbpp.jsonl.gz").write_bytes(gzip.compress(lines)[:-10])
        done = in_process("tasks", "--problems", "mbpp.jsonl.gz", "--out", "t.jsonl")
        assert one_sentence(done).startswith("fim-eval: mbpp.jsonl.gz: ")

    def test_an_unknown_name_is_told_what_there_is(self, in_process: InProcess) -> None:
        done = in_process("tasks", "--problems", "mbbp", "--out", "tasks.jsonl")
        told = one_sentence(done)
        assert "mbbp: cannot be read" in told
        assert "mbpp, mbpp-sanitized, humaneval, starter" in told

    def test_an_unknown_split_is_told_what_there_is(self, in_process: InProcess) -> None:
        done = in_process("tasks", "--problems", "starter", "--split", "tset", "--out", "t")
        assert "--split tset: is none of prompt, test, validation" in one_sentence(done)

    @pytest.mark.parametrize("out", ["file/t.jsonl", "folder", "."])
    def test_an_output_that_cannot_be_written_is_named(
        self, in_process: InProcess, out: str
    ) -> None:
        (in_process.folder / "file").write_bytes(b"mine")
        (in_process.folder / "folder").mkdir()
        done = in_process("tasks", "--problems", "starter", "--split", "all", "--out", out)
        told = one_sentence(done)
        assert told.startswith(f"fim-eval: {out}: ")
        assert "--out" in told
        assert files_in(in_process.folder) == {"file": b"mine"}

    def test_a_full_disk_leaves_the_file_from_before(self, tmp_path: Path) -> None:
        """No file may grow beyond a block: writing then fails as on a full disk."""
        (tmp_path / "tasks.jsonl").write_bytes(b"from before")
        words = ["tasks", "--problems", "starter", "--split", "all", "--out", "tasks.jsonl"]
        done = subprocess.run(
            ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", COMMAND, *words],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert one_sentence(done).startswith("fim-eval: tasks.jsonl: cannot be written")
        assert (tmp_path / "tasks.jsonl").read_bytes() == b"from before"


class TestEval:
    @staticmethod
    def configure(folder: Path, **ports: int) -> Path:
        """A folder with a server's configuration file for each name and port."""
        servers = folder / "servers"
        servers.mkdir()
        for name, port in ports.items():
            (servers / f"{name}.yaml").write_text(
                f"model: /models/{name}\nserved-model-name: {name}\nport: {port}\n"
            )
        return servers

    def test_says_what_it_tried_and_what_to_run_when_nothing_answers(
        self, tmp_path: Path, port: int
    ) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            second = other.getsockname()[1]
            servers = self.configure(tmp_path, tiny=port, large=second)
            began = time.monotonic()
            done = fim_eval(
                "eval", "--problems", "starter", "--split", "all", "--servers", servers,
                "--out", "runs", cwd=tmp_path,
            )  # fmt: skip
            seconds = time.monotonic() - began
        told = one_sentence(done)
        assert "no server answers" in told
        assert f"tiny at http://127.0.0.1:{port}/v1" in told
        assert f"large at http://127.0.0.1:{second}/v1" in told
        assert "`make serve-large`" in told
        assert "make eval ENDPOINT=" in told
        assert seconds < 5
        assert not (tmp_path / "runs").exists()

    def test_asks_the_server_that_answers(self, tmp_path: Path, port: int) -> None:
        with FakeServer(model="tiny") as server:
            servers = self.configure(tmp_path, tiny=server.port, large=port)
            words = (
                "eval", "--problems", "starter", "--split", "all", "--limit", "5",
                "--servers", servers, "--out", "runs",
            )  # fmt: skip
            done = fim_eval(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"answering: tiny at {server.endpoint}\n" in done.stderr
        assert "5/5" in done.stdout
        assert (tmp_path / "runs" / "tiny.lr" / "generations.jsonl").exists()
        assert (tmp_path / "runs" / "summary.parquet").exists()

    def test_one_model_s_end_does_not_end_the_others(self, tmp_path: Path) -> None:
        with FakeServer(model="one") as ends, FakeServer(model="two") as stays:
            ends.answer = lambda _: refusal(404, "gone")
            servers = self.configure(tmp_path, one=ends.port, two=stays.port)
            done = fim_eval(
                "eval", "--problems", "starter", "--split", "all", "--limit", "5",
                "--servers", servers, "--out", "runs", cwd=tmp_path,
            )  # fmt: skip
        assert done.returncode == 1
        assert (
            f"fim-eval: {ends.endpoint}/completions: HTTP 404 for model 'one' (gone)" in done.stderr
        )
        assert "two, lr, single-line" in done.stdout
        assert "5/5" in done.stdout

    def test_models_on_different_servers_are_asked_at_the_same_time(self, tmp_path: Path) -> None:
        """Each server answers only once the other has been asked."""
        asked = {"one": threading.Event(), "two": threading.Event()}

        def answer(body: dict[str, Any]) -> str | Reply:
            model = body["model"]
            asked[model].set()
            other = asked["two" if model == "one" else "one"]
            return right_answer(body) if other.wait(20) else refusal(404, "left alone")

        with FakeServer(model="one", answer=answer) as one, FakeServer(model="two") as two:
            two.answer = answer
            servers = self.configure(tmp_path, one=one.port, two=two.port)
            done = fim_eval(
                "eval", "--problems", "starter", "--split", "all", "--limit", "5", "--servers",
                servers, "--no-verify", "--out", "runs", cwd=tmp_path,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("5/5 answered") == 2

    def test_strategies_of_one_model_are_asked_in_turn(self, tmp_path: Path) -> None:
        with FakeServer(model="one", delay_s=0.05) as server:
            done = fim_eval(
                "eval", "--problems", "starter", "--split", "all", "--limit", "5", "--strategies",
                "lr,lr-rerank", "--endpoint", server.endpoint, "--model", "one", "--no-verify",
                "--max-concurrency", "1", "--out", "runs", cwd=tmp_path,
            )  # fmt: skip
            assert server.max_in_flight == 1
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("5/5 answered") == 2

    def test_one_table_over_the_models_of_two_sessions(self, tmp_path: Path) -> None:
        """On a machine with one GPU, models are served one after the other."""
        for model, problems in (("one", "starter"), ("two", "starter")):
            with FakeServer(model=model) as server:
                done = fim_eval(
                    "eval", "--problems", problems, "--split", "all", "--limit", "5", "--out",
                    "runs", "--endpoint", server.endpoint, "--model", model, cwd=tmp_path,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
        assert "one, lr, single-line" in done.stdout
        assert "two, lr, single-line" in done.stdout
        assert "different tasks" not in done.stderr
        with FakeServer(model="three") as server:
            done = fim_eval(
                "eval", "--problems", "starter", "--split", "all", "--limit", "4", "--out", "runs",
                "--endpoint", server.endpoint, "--model", "three", cwd=tmp_path,
            )  # fmt: skip
        assert "these runs hold different tasks" in done.stderr

    def test_refuses_before_it_asks_the_first_model(
        self, in_process: InProcess, server: FakeServer
    ) -> None:
        before = server.calls
        done = in_process(
            "eval", "--problems", "starter", "--split", "all", "--endpoint", server.endpoint,
            "--model", "fake-model", "--strategies", "lr,fim-psm", "--card",
            "codellama/CodeLlama-34b-hf", "--out", "runs",
        )  # fmt: skip
        assert "it was not trained to infill" in one_sentence(done)
        assert server.calls == before
        assert files_in(in_process.folder) == {}

    def test_a_tokenizer_that_would_not_be_used_is_refused(
        self, in_process: InProcess, server: FakeServer
    ) -> None:
        before = server.calls
        byte_level_file(in_process.folder, ["<|endoftext|>"])
        done = in_process(
            "eval", "--problems", "starter", "--split", "all", "--endpoint", server.endpoint,
            "--model", "fake-model", "--tokenizer", in_process.folder, "--out", "runs",
        )  # fmt: skip
        told = one_sentence(done)
        assert "has the sentinels of no format that is known" in told
        assert "name its format with --format, or the model it is with --card" in told
        assert "leave --tokenizer out" in told
        assert server.calls == before

    def test_says_in_which_format_a_model_is_asked_and_how_that_is_known(
        self, in_process: InProcess, server: FakeServer
    ) -> None:
        pieces = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>"]
        byte_level_file(in_process.folder, pieces)
        done = in_process(
            "eval", "--problems", "starter", "--split", "all", "--limit", "2", "--no-probe",
            "--endpoint",
            server.endpoint, "--model", "fake-model", "--tokenizer", in_process.folder,
            "--strategies", "lr,fim-psm,fim-spm", "--no-verify", "--out", "runs",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = "fake-model: format starcoder, from the tokenizer; it is not in the table of models"
        assert done.stderr.count(told) == 1
        identities = {}
        for strategy in ("lr", "fim-psm", "fim-spm"):
            path = in_process.folder / "runs" / f"fake-model.{strategy}" / "manifest.json"
            manifest = json.loads(path.read_text())
            assert manifest["infill_format"]["name"] == "starcoder"
            assert manifest["infill_format_from"] == "from the tokenizer"
            assert manifest["tokenizer"] == str(in_process.folder / "tokenizer.json")
            identities[strategy] = manifest["identity"]
        assert {one["infill_format"] for one in identities.values()} == {"starcoder"}
        assert len(identities["fim-psm"]["stop_token_ids"]) == 1

    def test_wants_endpoint_and_model_together(self, in_process: InProcess) -> None:
        done = in_process("eval", "--endpoint", "http://127.0.0.1:8007/v1", "--out", "runs")
        assert "--endpoint and --model belong together" in one_sentence(done)

    def test_names_a_folder_without_servers(self, in_process: InProcess) -> None:
        done = in_process("eval", "--servers", "absent", "--out", "runs")
        assert "absent: holds no server configuration" in one_sentence(done)

    def test_refuses_an_unknown_strategy(self, in_process: InProcess, server: FakeServer) -> None:
        done = in_process(
            "eval", "--problems", "starter", "--split", "all", "--endpoint", server.endpoint,
            "--model", "fake-model", "--strategies", "lr,psm", "--out", "runs",
        )  # fmt: skip
        assert done.returncode == 2
        assert "psm is none of fim-psm, fim-spm, lr" in done.stderr
        assert files_in(in_process.folder) == {}


class TestToldToStop:
    """By a signal to this process, which the server sends while it answers."""

    @staticmethod
    def words(folder: Path, server: FakeServer, *more: str) -> list[str | Path]:
        file = write_tasks(folder / "tasks.jsonl", made_tasks(40))
        return [
            "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
            "--strategy", "lr", "--out", "run", "--max-concurrency", "2", "--batch", "1", *more,
        ]  # fmt: skip

    def test_while_reference_answers_are_scored_it_says_how_to_go_on(
        self, in_process: InProcess
    ) -> None:
        with FakeServer() as server:
            server.logprob = interrupting(lambda: len(server.prompts) == 40)
            words = self.words(in_process.folder, server, "--gold")
            done = in_process(*words)
            assert done.returncode == 130, done.stderr
            assert done.stdout == ""
            assert "run: 40/40 answered\n" in done.stderr
            assert done.stderr.endswith("stopped; the same command goes on with run\n")
            assert in_process(*words).returncode == 0
            assert len(server.prompts) == 40

    @pytest.mark.parametrize("at", [40, 50])
    def test_before_all_was_asked_once_more_it_says_how_to_go_on(
        self, in_process: InProcess, at: int
    ) -> None:
        """With the last answer of the run itself, and in the middle of its audit."""
        with FakeServer() as server:
            interrupted = interrupting(lambda: len(server.prompts) == at)

            def answer(body: dict[str, Any]) -> str:
                interrupted((), 0)
                return right_answer(body)

            server.answer = answer
            words = self.words(in_process.folder, server, "--audit", "100%")
            done = in_process(*words)
            assert done.returncode == 130, done.stderr
            assert done.stderr.endswith("stopped; the same command goes on with run\n")
            assert in_process(*words).returncode == 0
            assert len(server.prompts) == 80

    def test_while_reference_answers_are_scored_nothing_is_judged(
        self, in_process: InProcess
    ) -> None:
        with FakeServer() as server:
            server.logprob = interrupting(lambda: len(server.prompts) >= 6)
            words = [
                "eval", "--problems", "starter", "--split", "all", "--limit", "6", "--strategies",
                "lr", "--endpoint", server.endpoint, "--model", "fake-model", "--out", "runs",
                "--max-concurrency", "1", "--batch", "1", "--isolation", "none", "--gold",
            ]  # fmt: skip
            done = in_process(*words)
        assert done.returncode == 130, done.stderr
        assert done.stdout == ""
        assert done.stderr.endswith("the same command goes on with runs/fake-model.lr\n")
        assert not (in_process.folder / "runs" / "fake-model.lr" / "verdicts.jsonl").exists()


def interrupting(is_time: Callable[[], bool]) -> Callable[[Sequence[int], int], float]:
    """A `logprob` that interrupts this process once it is time, and never again."""
    done: list[bool] = []

    def logprob(_: Sequence[int], __: int) -> float:
        if is_time() and not done:
            done.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return -1.0

    return logprob


class TestStartingUp:
    def test_help_comes_at_once(self, tmp_path: Path) -> None:
        """In time of the processor, the least of a few: a busy neighbour only ever adds to it."""
        seconds: list[float] = []
        while len(seconds) < 15 and (len(seconds) < 5 or min(seconds) >= 0.4):
            before = children_s()
            done = fim_eval("--help", cwd=tmp_path)
            seconds.append(children_s() - before)
            assert done.returncode == 0
            assert {"tasks", "prompts", "run", "eval", "report"} <= set(done.stdout.split())
        assert min(seconds) < 0.4, seconds

    def test_help_imports_nothing_heavy(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import fim_eval.cli"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "fim_eval.words" in imported
        heavy = {"polars", "datasets", "httpx", "torch", "sentencepiece", "aiohttp", "asyncio"}
        assert imported.isdisjoint(heavy)

    def test_a_reader_that_leaves_is_no_error(self, tmp_path: Path) -> None:
        with start_fim_eval(
            "tasks", "--problems", "starter", "--split", "all", "--out", "-", cwd=tmp_path
        ) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            told = process.stderr.read()
        assert "Traceback" not in told
        assert "Exception" not in told


class TestTheKey:
    def test_is_sent_and_found_nowhere_else(self, tmp_path: Path) -> None:
        """Not even where the server repeats it: in a refusal that goes into the journal."""

        def repeat_the_key(body: dict[str, object]) -> str | Reply:
            if "f1()" in str(body["prompt"]):
                return refusal(400, f"quota of {KEY} is used up")
            return right_answer(body)

        file = write_tasks(tmp_path / "tasks.jsonl", made_tasks(20))
        with (
            FakeServer(api_key=KEY, answer=repeat_the_key, delay_s=0.05) as server,
            start_fim_eval(
                "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
                "--strategy", "lr", "--out", "run", "--max-concurrency", "2", cwd=tmp_path,
                env=environment(FIM_EVAL_API_KEY=KEY),
            ) as process,
        ):  # fmt: skip
            wait_until(lambda: len(server.prompts) >= 4, "4 prompts asked")
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            output, told = process.communicate(timeout=20)
        assert process.returncode == 3, told
        assert "19/20 answered" in told
        assert b"fim-eval" in words
        assert KEY.encode() not in words
        assert KEY not in output + told
        stored = files_in(tmp_path)
        assert "quota of [API key] is used up" in stored["run/generations.jsonl"].decode()
        assert json.loads(stored["run/manifest.json"])["api_key_env"] == "FIM_EVAL_API_KEY"
        assert [name for name, content in stored.items() if KEY.encode() in content] == []

    def test_can_stand_in_a_variable_of_any_name(self, in_process: InProcess) -> None:
        file = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
        with FakeServer(api_key=KEY) as server:
            words = (
                "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
                "--strategy", "lr", "--out", "run", "--api-key-env", "MY_OWN",
            )  # fmt: skip
            without = in_process(*words)
            with_key = in_process(*words, MY_OWN=KEY)
        assert "refuses the API key (HTTP 401)" in one_sentence(without)
        assert "--api-key-env" in without.stderr
        assert with_key.returncode == 0, with_key.stderr

    @pytest.mark.parametrize(
        "key", [pytest.param(KEY + "\n", id="newline"), pytest.param(KEY + "…", id="not ASCII")]
    )
    def test_that_no_header_can_hold_is_one_sentence_without_it(
        self, in_process: InProcess, server: FakeServer, key: str
    ) -> None:
        file = write_tasks(in_process.folder / "tasks.jsonl", made_tasks(2))
        done = in_process(
            "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
            "--strategy", "lr", "--out", "run", FIM_EVAL_API_KEY=key,
        )  # fmt: skip
        assert KEY not in done.stdout + done.stderr
        if done.returncode:
            one_sentence(done)


class TestStandardStreams:
    def test_tasks_and_prompts_can_be_piped(self, tmp_path: Path) -> None:
        (tmp_path / "mine.jsonl").write_bytes(
            b"".join(orjson.dumps(row) + b"\n" for row in MADE_UP)
        )
        tasks = fim_eval("tasks", "--problems", "mine.jsonl", "--out", "-", cwd=tmp_path)
        assert tasks.returncode == 0, tasks.stderr
        found = [InfillTask.model_validate_json(line) for line in tasks.stdout.splitlines()]
        assert [task.task_id for task in found] == [
            "MBPP/11/single-line/L1",
            "MBPP/11/single-line/L2",
            "MBPP/12/single-line/L1",
            "MBPP/12/single-line/L2",
        ]
        assert (found[0].prefix, found[0].middle, found[0].suffix) == (
            "def add_11(x):\n",
            "    total = x + 11\n",
            "    return total\n",
        )
        assert "4 single-line tasks from split test" in tasks.stderr
        prompts = fim_eval(
            "prompts", "--tasks", "-", "--model", "any", "--strategy", "lr", "--out", "-",
            cwd=tmp_path, given=tasks.stdout.encode(),
        )  # fmt: skip
        assert prompts.returncode == 0, prompts.stderr
        rows = [json.loads(line) for line in prompts.stdout.splitlines()]
        assert [row["task_id"] for row in rows] == [task.task_id for task in found]
        assert rows[0]["text"] == (
            '"""Write a function that adds 11 to its argument."""\ndef add_11(x):\n'
        )
        assert rows[0]["model"] == "any"
        assert "4 lr prompts as text" in prompts.stderr
        assert set(files_in(tmp_path)) == {"mine.jsonl"}

    def test_a_run_takes_piped_tasks(self, tmp_path: Path, server: FakeServer) -> None:
        lines = b"".join(orjson.dumps(task.model_dump()) + b"\n" for task in made_tasks(3))
        done = fim_eval(
            "run", "--tasks", "-", "--endpoint", server.endpoint, "--model", "fake-model",
            "--strategy", "lr", "--out", "run", cwd=tmp_path, given=lines,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "3/3" in done.stdout

    def test_piped_tasks_that_are_none_are_told_by_line(self, tmp_path: Path) -> None:
        done = fim_eval(
            "prompts", "--tasks", "-", "--model", "any", "--strategy", "lr", "--out", "-",
            cwd=tmp_path, given=b"not JSON\n",
        )  # fmt: skip
        assert "standard input:1: is no task" in one_sentence(done)


def test_tasks_written_to_a_file_have_their_facts_beside_them(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in MADE_UP))
    done = fim_eval("tasks", "--problems", "mine.jsonl", "--out", "new/t.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = TaskFacts.model_validate_json((tmp_path / "new" / "t.jsonl.facts.json").read_bytes())
    assert (facts.tasks, facts.split, facts.dataset.problems) == (4, "test", 3)
    assert facts.dataset.programs_changed == 3
    assert set(files_in(tmp_path)) == {
        "mine.jsonl",
        "new/t.jsonl",
        "new/t.jsonl.facts.json",
        "new/t.jsonl.problems.jsonl",
    }


def test_the_module_is_the_command(tmp_path: Path) -> None:
    def output(*words: str) -> str:
        done = subprocess.run(
            [*words, "tasks", "--problems", "starter", "--split", "all", "--out", "-"],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    assert output(sys.executable, "-m", "fim_eval") == output(COMMAND)

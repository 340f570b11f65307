"""Asking from a real Ray cluster of several nodes on this machine, which come and are killed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fim_eval.journal import GENERATIONS, read_outcomes
from fim_eval.verdicts import read_verdicts
from tests.integration import (
    environment,
    fim_eval,
    made_tasks,
    start_fim_eval,
    wait_until,
    write_tasks,
)
from tests.integration.fake_server import FakeServer

pytest.importorskip("ray", reason="an extra: pip install -e '.[ray]'")

KEY_ENV, KEY = "FIM_EVAL_TEST_KEY", "a-secret-key"
TASKS = 160

CLUSTER = """\
import sys
from ray.cluster_utils import Cluster
memory = 80 << 20
head = {"num_cpus": 0, "object_store_memory": memory, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = []
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "lose\\n":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    else:
        changed = dict(word.split("=") for word in line.split()[1:])
        node = cluster.add_node(num_cpus=1, object_store_memory=memory, env_vars=changed)
        nodes.append(node)
        cluster.wait_for_nodes()
    print("done", flush=True)
cluster.shutdown()
"""
"""A head that does not ask, and nodes that do, brought and killed as it is told.

A process of its own, so that its environment is not that of the command."""


class Nodes:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._living = 0
        self.address = self._line()

    def keep(self, count: int) -> None:
        """Bring nodes, or lose some, until there are so many."""
        while self._living < count:
            self.bring_one()
        while self._living > count:
            self.lose_one()

    def bring_one(self, *changed: str) -> None:
        """One more, with changes to its environment, as in `NAME=value`."""
        self._tell(" ".join(("bring", *changed)))
        self._living += 1

    def lose_one(self) -> None:
        """Kill every process of a node."""
        self._tell("lose")
        self._living -= 1

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        assert self._line() == "done"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    log = tmp_path_factory.mktemp("ray") / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env=environment(**{KEY_ENV: KEY, "RAY_USAGE_STATS_ENABLED": "0"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        try:
            made = Nodes(process)
            assert ":" in made.address, log.read_text()
            yield made
        finally:
            process.stdin.close()
            process.wait(60)


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """Two that ask."""
    cluster.keep(2)
    return cluster


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[str]:
    """The package's own server, which takes 0.2 s for an answer; its base URL."""
    write_tasks(tmp_path / "tasks.jsonl", made_tasks(TASKS))
    made = fim_eval(
        "prompts", "--tasks", "tasks.jsonl", "--model", "mock", "--strategy", "lr",
        "--out", "prompts.jsonl", cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with mock_server(tmp_path) as endpoint:
        yield endpoint


@contextmanager
def mock_server(folder: Path) -> Iterator[str]:
    """The base URL of one that knows the answers to `prompts.jsonl`."""
    server = start_fim_eval(
        "mock-server", "--prompts", "prompts.jsonl", "--first-token-ms", "200", cwd=folder
    )
    try:
        assert server.stderr is not None
        ready = re.search(r"http://\S+/v1", server.stderr.readline())
        assert ready is not None
        yield ready[0]
    finally:
        server.terminate()
        server.communicate()


def answered_by(endpoint: str) -> int:
    """Prompts that a mock server has answered."""
    with urllib.request.urlopen(endpoint.removesuffix("/v1") + "/metrics") as response:  # noqa: S310
        told = response.read().decode()
    (count,) = re.findall(r"vllm:request_success_total\{[^}]*\} (\d+)", told)
    return int(count)


def run(endpoint: str, out: str, *more: str, model: str = "mock") -> list[str]:
    return [
        "run", "--tasks", "tasks.jsonl", "--endpoint", endpoint, "--model", model,
        "--strategy", "lr", "--out", out, "--batch", "4", "--max-concurrency", "16", *more,
    ]  # fmt: skip


def on_ray(nodes: Nodes) -> tuple[str, ...]:
    return ("--engine", "ray", "--ray-address", nodes.address)


def answers(path: Path) -> dict[Any, dict[str, Any]]:
    """All of each answer but how often and when it was asked."""
    when = {"attempts", "segment", "sent_ns", "elapsed_ns"}
    return {
        key: found.model_dump(exclude=when)
        for key, found in read_outcomes(path).generations.items()
    }


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_node_lost_on_the_way_costs_no_answer_and_doubles_none(
    tmp_path: Path, mock: str, nodes: Nodes
) -> None:
    done = fim_eval(*run(mock, "plain"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = answered_by(mock)
    running = start_fim_eval(*run(mock, "spread", *on_ray(nodes)), cwd=tmp_path)
    journal = tmp_path / "spread" / GENERATIONS
    wait_until(lambda: lines(journal) > 20 or running.poll() is not None, "answers", 90)
    assert running.poll() is None, running.communicate()[1]
    nodes.lose_one()
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert "Ray: 2 nodes ask" in errors
    assert errors.count("is lost; what it was asking is asked from others") == 1
    assert answers(tmp_path / "spread") == answers(tmp_path / "plain")
    assert lines(journal) == TASKS
    # What the lost node was asking, at most all that was in flight; and one sign of life.
    assert TASKS + 1 < answered_by(mock) - before <= TASKS + 1 + 16
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert {path.name for path in (tmp_path / "spread").iterdir()} == names
    manifests = [
        json.loads((tmp_path / name / "manifest.json").read_bytes()) for name in ("plain", "spread")
    ]
    for manifest in manifests:
        del manifest["created_at"]
    assert manifests[0] == manifests[1]


def test_a_killed_driver_has_only_what_was_in_flight_asked_again(
    tmp_path: Path, mock: str, nodes: Nodes
) -> None:
    command = run(mock, "out", *on_ray(nodes))
    running = start_fim_eval(*command, cwd=tmp_path)
    journal = tmp_path / "out" / GENERATIONS
    try:
        wait_until(lambda: lines(journal) > 20 or running.poll() is not None, "answers", 180)
    finally:
        running.kill()
        running.communicate()
    assert lines(journal) < TASKS
    done = fim_eval(*command, cwd=tmp_path, limit_s=180)
    assert done.returncode == 0, done.stderr
    assert lines(journal) == len(answers(tmp_path / "out")) == TASKS
    # A sign of life of each session beside them.
    assert TASKS + 2 <= answered_by(mock) <= TASKS + 2 + 16


def test_when_the_last_node_is_lost_the_run_ends_in_a_sentence(
    tmp_path: Path, mock: str, nodes: Nodes
) -> None:
    running = start_fim_eval(*run(mock, "out", *on_ray(nodes)), cwd=tmp_path)
    journal = tmp_path / "out" / GENERATIONS
    try:
        wait_until(lambda: lines(journal) > 8 or running.poll() is not None, "answers", 180)
        assert running.poll() is None, running.communicate()[1]
        nodes.lose_one()
        nodes.lose_one()
        _, errors = running.communicate(timeout=180)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 1
    assert "no node with a processor left; what was done is on disk" in errors
    assert "Traceback" not in errors


def test_nodes_send_the_key_of_their_own_environment_and_nobody_tells_it(
    tmp_path: Path, nodes: Nodes
) -> None:
    write_tasks(tmp_path / "tasks.jsonl", made_tasks(12))
    with FakeServer(api_key=KEY) as server:
        command = run(server.endpoint, "out", *on_ray(nodes), model="fake-model")
        there = fim_eval(
            *command,
            "--api-key-env",
            KEY_ENV,
            cwd=tmp_path,
            env=environment(**{KEY_ENV: KEY}),
            limit_s=120,
        )
        command[command.index("out")] = "other"
        not_there = fim_eval(
            *command, "--api-key-env", "FIM_EVAL_OTHER",
            cwd=tmp_path, env=environment(FIM_EVAL_OTHER=KEY), limit_s=120,
        )  # fmt: skip
    assert there.returncode == 0, there.stderr
    assert lines(tmp_path / "out" / GENERATIONS) == 12
    assert not_there.returncode == 1
    assert "has no API key in FIM_EVAL_OTHER; set it there before `ray start`" in not_there.stderr
    for told in (there, not_there):
        assert KEY not in told.stdout + told.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("key", "told"),
    [
        pytest.param("another-key", ": asks too", id="asks"),
        pytest.param(
            "", f"has no API key in {KEY_ENV}; set it there", id="has no key and is left out"
        ),
    ],
)
def test_a_node_that_joins_on_the_way(tmp_path: Path, cluster: Nodes, key: str, told: str) -> None:
    cluster.keep(1)
    write_tasks(tmp_path / "tasks.jsonl", made_tasks(4000))
    with FakeServer(delay_s=0.4) as server:
        running = start_fim_eval(
            *run(server.endpoint, "out", *on_ray(cluster), model="fake-model"),
            "--api-key-env", KEY_ENV, cwd=tmp_path, env=environment(**{KEY_ENV: KEY}),
        )  # fmt: skip
        try:
            journal = tmp_path / "out" / GENERATIONS
            wait_until(lambda: lines(journal) > 8 or running.poll() is not None, "answers", 180)
            assert server.keys == {KEY}
            cluster.bring_one(f"{KEY_ENV}={key}")
            assert running.stderr is not None
            assert any(told in line for line in running.stderr)
            wait_until(lambda: server.keys == {KEY, key} - {""}, "who asks", 60)
            assert lines(journal) < 4000
            server.delay_s = 0
            _, errors = running.communicate(timeout=600)
        finally:
            running.kill()
            running.communicate()
    assert running.returncode == 0, errors
    assert lines(journal) == 4000
    # Lost again before the next test, whose keys are others.
    cluster.lose_one()


def put_before(folder: Path, *, version: str | None = None, hangs: bool = False) -> str:
    """The change of a node's environment that gives it another fim-eval, or no process of Ray."""
    folder.mkdir()
    if version is not None:
        about = folder / f"fim_eval-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: fim-eval\nVersion: {version}\n"
        )
    if hangs:
        (folder / "sitecustomize.py").write_text(
            "import os, sys, time\n"
            "if any('default_worker' in word for word in sys.orig_argv):\n"
            "    parent = os.getppid()\n"
            "    while os.getppid() == parent:\n"
            "        time.sleep(0.5)\n"
            "    os._exit(1)\n"
        )
    return f"PYTHONPATH={folder}"


@pytest.fixture
def bring_odd_one(cluster: Nodes, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Brings a node that `put_before` has changed; lost again after the test."""
    brought = []

    def bring(**changes: Any) -> None:
        cluster.bring_one(put_before(tmp_path / "other", **changes))
        brought.append(changes)

    yield bring
    for _ in brought:
        cluster.lose_one()


ANOTHER = "has fim-eval 9.9.9, and "
READY_S = 45
SOON = f"import fim_eval.cluster; fim_eval.cluster.READY_S = {READY_S}.0"
SOON_LATER = f"""
import fim_eval.cluster as cluster
start = cluster.RayAsker.start
def patient_at_first(self):
    start(self)
    cluster.READY_S = {READY_S}.0
cluster.RayAsker.start = patient_at_first
"""
COMMAND = "\nfrom fim_eval.cli import main; main()"
"""After one of these: the command, with less patience for nodes whose process does not start."""


@pytest.mark.parametrize("engine", ["run", "verify"])
def test_a_node_of_another_version_neither_asks_nor_judges(
    tmp_path: Path,
    cluster: Nodes,
    bring_odd_one: Callable[..., None],
    mock: str,
    engine: str,
) -> None:
    cluster.keep(0)
    bring_odd_one(version="9.9.9")
    command = run(mock, "out", *on_ray(cluster))
    if engine == "verify":
        tasks = ("tasks", "--problems", "starter", "--out", "tasks.jsonl")
        assert fim_eval(*tasks, cwd=tmp_path).returncode == 0
        asked = run(mock, "out", "--limit", "8")
        assert fim_eval(*asked, cwd=tmp_path).returncode == 0
        command = ["verify", "out", *on_ray(cluster)]
    done = fim_eval(*command, cwd=tmp_path, limit_s=240)
    assert done.returncode == 1
    assert ANOTHER in done.stderr
    assert "install the same on every node" in done.stderr
    assert lines(tmp_path / "out" / GENERATIONS) == (8 if engine == "verify" else 0)
    assert not (tmp_path / "out" / "verdicts.jsonl").exists() or not read_verdicts(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "patience", "told"),
    [
        pytest.param({"version": "9.9.9"}, "", ANOTHER, id="another version"),
        pytest.param(
            {"hangs": True}, SOON_LATER, f"a process that asks within {READY_S} s", id="hangs"
        ),
    ],
)
def test_a_node_that_joins_and_cannot_ask_is_left_out(  # noqa: PLR0917  pytest names them
    tmp_path: Path,
    cluster: Nodes,
    bring_odd_one: Callable[..., None],
    changes: dict[str, Any],
    patience: str,
    told: str,
) -> None:
    cluster.keep(1)
    write_tasks(tmp_path / "tasks.jsonl", made_tasks(4000))
    with FakeServer(delay_s=0.4) as server:
        command = run(server.endpoint, "out", *on_ray(cluster), model="fake-model")
        running = subprocess.Popen(
            [sys.executable, "-c", patience + COMMAND, *command],
            cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            journal = tmp_path / "out" / GENERATIONS
            wait_until(lambda: lines(journal) > 8 or running.poll() is not None, "answers", 180)
            bring_odd_one(**changes)
            assert running.stderr is not None
            notice = next(line for line in running.stderr if told in line)
            told_at = lines(journal)
            # Not to its end: thousands of answers take minutes on a machine with much to do.
            wait_until(lambda: lines(journal) > told_at + 48, "answers of the other", 180)
        finally:
            running.kill()
            running.communicate()
    assert "the others go on without it" in notice


def test_a_node_whose_process_does_not_start_ends_the_run_before_it_begins(
    tmp_path: Path, cluster: Nodes, bring_odd_one: Callable[..., None], mock: str
) -> None:
    cluster.keep(1)
    bring_odd_one(hangs=True)
    done = subprocess.run(
        [sys.executable, "-c", SOON + COMMAND, *run(mock, "out", *on_ray(cluster))],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"has not started a process that asks within {READY_S} s" in done.stderr
    assert lines(tmp_path / "out" / GENERATIONS) == 0


def test_eval_asks_and_judges_on_the_nodes_and_prints_the_same_table(
    tmp_path: Path, nodes: Nodes
) -> None:
    def evaluate(out: str, *more: str) -> list[str]:
        return [
            "eval", "--problems", "starter", "--endpoint", endpoint, "--model", "mock",
            "--limit", "60", "--batch", "4", "--max-concurrency", "8", "--out", out, *more,
        ]  # fmt: skip

    for command in (
        ("tasks", "--problems", "starter", "--out", "tasks.jsonl"),
        (
            "prompts", "--tasks", "tasks.jsonl", "--model", "mock", "--strategy", "lr",
            "--out", "prompts.jsonl",
        ),
    ):  # fmt: skip
        made = fim_eval(*command, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
    with mock_server(tmp_path) as endpoint:
        plain = fim_eval(*evaluate("plain"), cwd=tmp_path, limit_s=120)
        spread = fim_eval(*evaluate("spread", *on_ray(nodes)), cwd=tmp_path, limit_s=300)
    assert plain.returncode == 0, plain.stderr
    assert spread.returncode == 0, spread.stderr
    assert "Ray: 2 nodes ask" in spread.stderr
    assert "Ray: 2 nodes, 2 processors judge" in spread.stderr
    here, there = (tmp_path / name for name in ("plain", "spread"))
    assert rows(there) == rows(here)
    assert answers(there / "mock.lr") == answers(here / "mock.lr")
    outcomes = [
        {key: verdict.outcome for key, verdict in read_verdicts(folder / "mock.lr").items()}
        for folder in (here, there)
    ]
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) > 50


def rows(folder: Path) -> list[dict[str, Any]]:
    """The table, but for what took its time."""
    found: list[dict[str, Any]] = json.loads((folder / "summary.json").read_bytes())
    return [
        {name: value for name, value in row.items() if name not in ("wall_s", "tokens_per_s")}
        for row in found
    ]

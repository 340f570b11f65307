"""Judging on a real Ray cluster of several nodes on this machine, one of which is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fim_eval.errors import ClusterError, IsolationError
from fim_eval.records import Problem, Verdict
from fim_eval.sandbox import Jail, find_jail
from fim_eval.verdicts import read_sessions, read_verdicts
from fim_eval.verify import Candidate, JudgeSettings, Watcher, judge_candidates
from tests.data_paths import quiet

pytest.importorskip("ray", reason="an extra: pip install -e '.[ray]'")
pytestmark = [
    # Ray's own: sockets and processes of its nodes, which it closes later.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SETTINGS = JudgeSettings(workers=2)

PROBLEM = Problem(
    problem_id="Made/1",
    split="test",
    text=None,
    code="def double(x):\n    return 2 * x\n",
    body_offset=None,
    tests=("assert double(4) == 8",),
    challenge_tests=(),
    test_setup="",
)


def candidates(count: int) -> list[Candidate]:
    """Right, wrong, crashing and slow ones in turn, all distinct."""
    bodies = (
        "    return x + x + {n} - {n}\n",
        "    return x + x + {n} + 1\n",
        "    return unknown_{n}\n",
        "    import time\n    time.sleep(0.05)\n    return 2 * x + 0 * {n}\n",
    )
    return [
        Candidate("Made/1", "def double(x):\n" + bodies[n % 4].format(n=n)) for n in range(count)
    ]


def facts(verdicts: dict[str, Verdict]) -> dict[str, dict[str, Any]]:
    """All of each verdict but what it took."""
    took = {"cpu_s", "wall_s", "peak_bytes"}
    return {key: verdict.model_dump(exclude=took) for key, verdict in verdicts.items()}


@pytest.fixture(scope="module")
def jail() -> Jail:
    return find_jail("auto", quiet)


@pytest.fixture
def cluster() -> Iterator[tuple[Any, list[Any]]]:
    """A head that judges nothing, and two nodes with a processor each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    memory = 80 << 20
    made: Any = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": memory,
            "include_dashboard": False,
        },
    )
    try:
        nodes = [made.add_node(num_cpus=1, object_store_memory=memory) for _ in range(2)]
        made.wait_for_nodes()
        yield made, nodes
    finally:
        made.shutdown()


def test_a_node_lost_on_the_way_costs_no_verdict(
    cluster: tuple[Any, list[Any]], jail: Jail, tmp_path: Path
) -> None:
    from fim_eval.cluster import joined

    made, ray_nodes = cluster
    wanted = candidates(240)
    here, there = tmp_path / "here", tmp_path / "there"
    told: list[Verdict] = []
    nodes: list[int] = []

    with joined(made.address) as ray_cluster:

        def on_verdict(verdict: Verdict) -> None:
            told.append(verdict)
            if len(told) == 40:
                made.remove_node(ray_nodes.pop(), allow_graceful=False)

        nodes.append(ray_cluster.nodes())
        judge_candidates(
            {there: wanted},
            {"Made/1": PROBLEM},
            jail,
            SETTINGS,
            Watcher(on_start=lambda *_: None, on_verdict=on_verdict, notice=quiet),
            execute=ray_cluster.run_jobs,
        )
        # Ray may find a dead node out later than the last verdict is there.
        deadline_s = time.monotonic() + 60
        while ray_cluster.nodes() > 1 and time.monotonic() < deadline_s:
            time.sleep(0.2)
        nodes.append(ray_cluster.nodes())
    alone = Watcher(on_start=lambda *_: None, on_verdict=lambda _: None, notice=quiet)
    judge_candidates({here: wanted}, {"Made/1": PROBLEM}, jail, SETTINGS, alone)

    assert nodes == [2, 1]
    assert len(told) == len({verdict.program_sha256 for verdict in told}) == 240
    assert facts(read_verdicts(there)) == facts(read_verdicts(here))


def test_a_node_without_bubblewrap_is_refused_by_name_and_what_came_before_stays(
    cluster: tuple[Any, list[Any]], tmp_path: Path, jail: Jail
) -> None:
    from fim_eval.cluster import joined

    if jail.isolation != "namespaces":
        pytest.skip("this machine offers no namespaces, of which a node could have less")
    made, _ = cluster
    # A real node, whose processes find neither bubblewrap nor setpriv.
    made.add_node(num_cpus=1, object_store_memory=80 << 20, env_vars={"PATH": "/nonexistent"})
    made.wait_for_nodes()
    watcher = Watcher(on_start=lambda *_: None, on_verdict=lambda _: None, notice=quiet)
    there = tmp_path / "run"
    refusal = rf"node {os.uname().nodename}: does not offer .*bubblewrap is not installed"
    with joined(made.address) as ray_cluster, pytest.raises(IsolationError, match=refusal):
        judge_candidates(
            {there: candidates(400)},
            {"Made/1": PROBLEM},
            jail,
            SETTINGS,
            watcher,
            execute=ray_cluster.run_jobs,
        )
    # Whatever was judged was judged in the tier that the session names.
    verdicts = read_verdicts(there)
    (session,) = read_sessions(there)
    assert session.isolation == "namespaces"
    assert {verdict.outcome for verdict in verdicts.values()} <= {"passed", "wrong-answer", "error"}
    assert len(verdicts) < 400


def test_without_an_address_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    from fim_eval.cluster import joined

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match="no cluster is named"), joined(None):
        pass


def test_where_ray_is_not_installed_it_is_said_how_to() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from fim_eval.cluster import joined\n"
        "from fim_eval.errors import ClusterError\n"
        "try:\n    joined('10.0.0.1:6379').__enter__()\n"
        "except ClusterError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'fim-eval[ray]'" in done.stdout

"""The Slurm scripts, run whole.

Slurm's own commands and vLLM are stand-ins that write down how they were called; `with_server.py`,
`serve.sh` and everything between are real.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "servers" / "slurm"

VLLM = """
import http.server, json, sys
words = sys.argv[1:]
port = int(words[words.index("--port") + 1])
class Answer(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"data": [{"id": "served"}], "choices": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


class Cluster:
    """A folder of stand-ins on PATH, and what they wrote down."""

    def __init__(self, folder: Path, *, nodes: tuple[str, ...] = ("n01", "n02")) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.calls.touch()
        self.environment = {
            "PATH": f"{folder}:/usr/bin:/bin",
            "CALLS": str(self.calls),
            "PYTHON": sys.executable,
            "SERVER_PYTHON": str(folder / "python"),
            "FIM_EVAL": str(folder / "fim-eval"),
            "OUT": str(folder / "runs"),
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": "7",
        }
        write_down = 'printf "%s\\n" "$(basename "$0") $*" >> "$CALLS"\n'
        self.tool("sbatch", write_down + 'echo "1${SHARDS:-00}"')
        self.tool("scontrol", write_down + "printf '%s\\n' " + " ".join(nodes))
        self.tool("fim-eval", write_down + 'echo "asks $FIM_EVAL_MODEL" >> "$CALLS"; eval "$THEN"')
        self.tool("srun", write_down + 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
        self.tool("ray", '[[ $1 == start ]] && exec sleep 60; printf " 1 node_a\\n 1 node_b\\n"')
        (folder / "vllm.py").write_text(VLLM)
        # An environment with vLLM: its check and its server are written down, not run.
        self.tool("python", f'''
            case "$1 $2" in
                "-c import"*) exit 0 ;;
                "servers/check.py"*) exit 0 ;;
            esac
            printf "%s\\n" "vllm ${{*:2}}" >> "$CALLS"
            [[ "$*" == *--headless* ]] && exec sleep 60
            exec {sys.executable} {folder}/vllm.py "$@"
        ''')  # fmt: skip

    def tool(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", SLURM / script, *arguments], capture_output=True, text=True, check=False,
            env={**self.environment, **more}, cwd=ROOT, timeout=60,
        )  # fmt: skip

    def called(self, name: str) -> list[str]:
        """How a command was called, each time; free ports written as PORT."""
        lines = self.calls.read_text().splitlines()
        found = [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]
        return [re.sub(r"--port \d+", "--port PORT", line) for line in found]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


SERVE = "-m vllm.entrypoints.cli.main serve"


def test_one_job_serves_and_evaluates_and_stops_the_server(cluster: Cluster) -> None:
    done = cluster.run("eval.sbatch", "70b", "--limit", "5")
    assert done.returncode == 0, done.stderr
    assert cluster.called("vllm") == [
        "vllm.entrypoints.cli.main serve --config servers/70b.yaml --port PORT"
    ]
    assert cluster.called("fim-eval") == [f"eval --out {cluster.folder}/runs --limit 5"]
    assert cluster.called("asks") == ["served"]
    assert "server-7.log" in {path.name for path in (cluster.folder / "runs").iterdir()}


def test_the_exit_code_of_a_job_is_the_evaluation_s(cluster: Cluster) -> None:
    assert cluster.run("eval.sbatch", "7b", THEN="exit 3").returncode == 3


def test_the_signal_before_the_end_of_the_time_stops_server_and_evaluation(
    cluster: Cluster,
) -> None:
    cluster.environment["THEN"] = "exec sleep 60"
    for script in ("eval.sbatch", "nodes.sbatch"):
        cluster.calls.write_text("")
        job = subprocess.Popen(
            ["bash", SLURM / script, "7b"], cwd=ROOT, stderr=subprocess.DEVNULL,
            env={**cluster.environment, **TWO_NODES},
        )  # fmt: skip
        try:
            limit = time.monotonic() + 30
            while not cluster.called("asks") and time.monotonic() < limit:
                time.sleep(0.05)
            job.send_signal(signal.SIGTERM)
            assert job.wait(30) == 128 + signal.SIGTERM
        finally:
            job.kill()
        assert not running(str(cluster.folder)), "nothing is left behind"


def running(word: str) -> list[str]:
    """Command lines of processes that name `word`, those of tests aside."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if word in line and "pytest" not in line:
            lines.append(line)
    return lines


@pytest.mark.parametrize(("name", "gpus"), [("13b", 1), ("70b", 4)])
def test_a_study_in_shards_is_one_array_and_what_puts_it_together(
    cluster: Cluster, name: str, gpus: int
) -> None:
    done = cluster.run("shards.sh", name, "4", "--per-problem", "5")
    assert done.returncode == 0, done.stderr
    assert cluster.called("sbatch") == [
        f"--parsable --array=1-4 --gpus-per-node={gpus} servers/slurm/shards.sbatch {name} "
        "--per-problem 5",
        f"--parsable --dependency=afterany:14 servers/slurm/merge.sbatch {name} 4",
    ]


def test_each_task_of_the_array_asks_its_shard_of_a_server_of_its_own(cluster: Cluster) -> None:
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}
    done = cluster.run("shards.sbatch", "13b", "--gold", **array)
    assert done.returncode == 0, done.stderr
    assert cluster.called("fim-eval") == [
        f"eval --out {cluster.folder}/runs/shards/3 --shard 3/4 --gold"
    ]


def test_a_shard_run_again_alone_is_still_one_of_as_many(cluster: Cluster) -> None:
    alone = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1"}
    done = cluster.run("shards.sbatch", "13b", **alone)
    assert done.returncode == 1
    assert "task 3 of 1" in done.stderr
    assert cluster.run("shards.sbatch", "13b", SHARDS="4", **alone).returncode == 0
    assert "--shard 3/4" in cluster.called("fim-eval")[0]


def test_all_shards_of_every_run_are_put_together_and_told_in_one_table(cluster: Cluster) -> None:
    runs = cluster.folder / "runs"
    for shard in (1, 2):
        for run in ("m.fim-psm", "m.lr"):
            folder = runs / "shards" / str(shard) / run
            folder.mkdir(parents=True)
            (folder / "manifest.json").touch()
    done = cluster.run("merge.sbatch", "7b", "2")
    assert done.returncode == 0, done.stderr
    assert cluster.called("fim-eval") == [
        f"merge {runs}/shards/1/m.fim-psm {runs}/shards/2/m.fim-psm --out {runs}/m.fim-psm",
        f"merge {runs}/shards/1/m.lr {runs}/shards/2/m.lr --out {runs}/m.lr",
        f"report {runs}/m.fim-psm {runs}/m.lr --out {runs}",
    ]
    # Tasks without an answer (code 3) are told at the end, when all is merged; a failure at once.
    cluster.calls.write_text("")
    assert (
        cluster.run("merge.sbatch", "7b", "2", THEN="[[ $1 == report ]] || exit 3").returncode == 3
    )
    assert [line.split()[0] for line in cluster.called("fim-eval")] == ["merge", "merge", "report"]
    cluster.calls.write_text("")
    assert cluster.run("merge.sbatch", "7b", "2", THEN="exit 1").returncode == 1
    assert [line.split()[0] for line in cluster.called("fim-eval")] == ["merge"]
    done = cluster.run("merge.sbatch", "7b", "3")
    assert done.returncode == 1
    assert "shard 3 of 3 has no run m.fim-psm" in done.stderr


def test_an_array_of_real_clients_answers_every_task_once(cluster: Cluster) -> None:
    folder = cluster.folder
    real = [sys.executable, "-m", "fim_eval"]
    tasks, prompts = folder / "tasks.jsonl", folder / "prompts.jsonl"
    cut = ["tasks", "--problems", "starter", "--out", str(tasks)]
    build = ["prompts", "--tasks", str(tasks), "--model", "served", "--strategy", "lr"]
    for words in (cut, [*build, "--out", str(prompts)]):
        subprocess.run([*real, *words], check=True, capture_output=True, timeout=60)
    cluster.tool("fim-eval", f'exec {" ".join(real)} "$@"')
    cluster.tool(
        "python",
        f"""
        case "$1 $2" in "-c import"*|"servers/check.py"*) exit 0 ;; esac
        while [[ $1 != --port ]]; do shift; done
        exec {" ".join(real)} mock-server --prompts {prompts} --model served --port "$2"
    """,
    )
    for shard in ("1", "2"):
        array = {"SLURM_ARRAY_TASK_ID": shard, "SLURM_ARRAY_TASK_COUNT": "2"}
        starter = ("--problems", "starter", "--strategies", "lr", "--no-verify")
        done = cluster.run("shards.sbatch", "7b", *starter, **array)
        assert done.returncode == 0, done.stderr
    done = cluster.run("merge.sbatch", "7b", "2")
    assert done.returncode == 0, done.stderr
    assert "449/449" in done.stdout
    summary = json.loads((folder / "runs" / "summary.json").read_text())
    (raw,) = (row for row in summary if row["policy"] == "raw")
    assert raw["tasks"] == 449
    # Not all: a prompt left to right may be that of two holes, and gets one answer.
    assert raw["exact_match"] > 0.9


TWO_NODES = {"SLURM_JOB_NODELIST": "n[01-02]", "SLURM_GPUS_ON_NODE": "2"}
SRUN = "--nodes=1 --ntasks=1 --overlap --kill-on-bad-exit=1"
CONFIG = "--config servers/70b.yaml"
PARALLEL = "--tensor-parallel-size 2 --pipeline-parallel-size 2"


def test_a_server_on_two_nodes_is_vllm_s_own_multi_node_mode(cluster: Cluster) -> None:
    done = cluster.run("nodes.sbatch", "70b", "--limit", "5", **TWO_NODES)
    assert done.returncode == 0, done.stderr
    assert cluster.called("scontrol") == ["show hostnames n[01-02]"]
    address = "--nnodes 2 --master-addr n01 --master-port 29501"
    assert cluster.called("srun") == [
        f"{SRUN} --nodelist=n02 servers/serve.sh 70b {PARALLEL} {address} --node-rank 1 --headless",
    ]
    serve = f"vllm.entrypoints.cli.main serve {CONFIG}"
    assert sorted(cluster.called("vllm")) == [
        f"{serve} --port PORT {PARALLEL} {address} --node-rank 0",
        f"{serve} {PARALLEL} {address} --node-rank 1 --headless",
    ]
    assert cluster.called("fim-eval") == [f"eval --out {cluster.folder}/runs --limit 5"]
    assert not running(str(cluster.folder)), "the other node's server ends with the job"


def test_a_server_on_two_nodes_by_ray_waits_until_both_have_joined(cluster: Cluster) -> None:
    done = cluster.run("nodes.sbatch", "70b", EXECUTOR="ray", **TWO_NODES)
    assert done.returncode == 0, done.stderr
    ray = f"{cluster.folder}/ray start --block"
    assert sorted(cluster.called("srun")) == [
        f"{SRUN} --nodelist=n01 {ray} --head --port=6379",
        f"{SRUN} --nodelist=n02 {ray} --address=n01:6379",
    ]
    assert cluster.called("vllm") == [
        f"vllm.entrypoints.cli.main serve {CONFIG} --port PORT {PARALLEL} "
        "--distributed-executor-backend ray"
    ]
    cluster.tool("ray", '[[ $1 == start ]] && exec sleep 60; echo " 1 node_a"')
    done = cluster.run("nodes.sbatch", "70b", EXECUTOR="ray", JOIN_TRIES="1", **TWO_NODES)
    assert done.returncode == 1
    assert "not all 2 nodes joined Ray" in done.stderr


@pytest.mark.parametrize("script", ["eval.sbatch", "shards.sbatch", "nodes.sbatch", "shards.sh"])
def test_a_model_without_a_file_is_told_before_anything_starts(
    cluster: Cluster, script: str
) -> None:
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    done = cluster.run(script, "7c", "2", **array, **TWO_NODES)
    assert done.returncode == 1
    assert "no servers/7c.yaml" in done.stderr
    assert cluster.calls.read_text() == ""

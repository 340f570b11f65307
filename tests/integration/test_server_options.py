"""Every option that `servers/` writes down is one that vLLM's own parser takes, and means it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVER_PYTHON = ROOT / ".venv-server" / "bin" / "python"

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not SERVER_PYTHON.exists(), reason="no vLLM here: `make env-server` sets it up"
    ),
]

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
for words in json.load(sys.stdin):
    parsed = vars(make_arg_parser(FlexibleArgumentParser()).parse_args(words))
    print(json.dumps({name: value for name, value in parsed.items()
                      if isinstance(value, str | int | float | list | None)}))
"""


def parsed(*commands: list[str]) -> list[dict[str, Any]]:
    """What vLLM understands of each command line."""
    done = subprocess.run(
        [SERVER_PYTHON, "-c", PARSE], input=json.dumps(commands), cwd=ROOT, text=True,
        capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_vllm_takes_every_option_of_every_file_as_it_is_written() -> None:
    paths = sorted((ROOT / "servers").glob("*.yaml"))
    for path, understood in zip(
        paths, parsed(*[["--config", str(path)] for path in paths]), strict=True
    ):
        for key, value in yaml.safe_load(path.read_text()).items():
            name = key.replace("-", "_")
            wanted = [value] if name == "served_model_name" else value
            assert understood[name] == wanted, f"{path.name}: {key}"


def test_vllm_takes_the_options_of_servers_on_several_nodes() -> None:
    path = ROOT / "servers" / "k8s" / "70b-two-nodes.yaml"
    template = next(yaml.safe_load_all(path.read_text()))["spec"]["leaderWorkerTemplate"]
    given = {"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1", "LWS_LEADER_ADDRESS": "server-70b-0"}
    commands = []
    for part in ("leaderTemplate", "workerTemplate"):
        words = template[part]["spec"]["containers"][0]["args"]
        for name, value in given.items():
            words = [word.replace(f"$({name})", value) for word in words]
        commands.append([word.replace("/servers/", "servers/") for word in words])
    # As servers/slurm/nodes.sbatch writes them; test_slurm.py checks that it does.
    by_ray = ["-tp", "2", "-pp", "2", "--distributed-executor-backend", "ray"]
    leader, worker, ray = parsed(*commands, ["--config", "servers/70b.yaml", *by_ray])
    assert (leader["headless"], worker["headless"]) == (False, True)
    for each in (leader, worker):
        assert (each["nnodes"], each["node_rank"]) == (2, 1)
        assert (each["tensor_parallel_size"], each["pipeline_parallel_size"]) == (2, 2)
        assert (each["master_addr"], each["host"]) == ("server-70b-0", "0.0.0.0")  # noqa: S104
        assert each["model"] == "codellama/CodeLlama-70b-hf"
    assert ray["distributed_executor_backend"] == "ray"

"""vLLM's own multi-node mode, for real: two nodes of one server, both on this machine's CPU.

Tensor parallel over the two, by the options that servers/slurm and servers/k8s give. Pipeline
parallel starts, too, but vLLM 0.32 fails there with the first request on a CPU (the second stage
has no buffer for what the first hands on), so that it is not asked here.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.integration.serving import ROOT, SERVER_PYTHON, with_server

TOKENIZER = os.environ.get("FIM_EVAL_CODELLAMA_TOKENIZER")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not SERVER_PYTHON.exists(), reason="no vLLM here: `make env-server` sets it up"
    ),
    pytest.mark.skipif(
        TOKENIZER is None,
        reason="FIM_EVAL_CODELLAMA_TOKENIZER is unset: a folder with Code Llama's tokenizer.model",
    ),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="each node needs a core of its own"),
]


def test_two_nodes_serve_one_model(tmp_path: Path) -> None:
    script = ROOT / "tests" / "integration" / "tiny_llama.py"
    make = [SERVER_PYTHON, script, Path(str(TOKENIZER)) / "tokenizer.model", tmp_path / "model"]
    subprocess.run(make, check=True, capture_output=True, timeout=300)
    # `vllm serve` asks for the version of a distribution named vllm; the CPU's is named otherwise.
    named = tmp_path / "named" / "vllm-0.32.0.dist-info" / "METADATA"
    named.parent.mkdir(parents=True)
    named.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    config = tmp_path / "tiny.yaml"
    port = with_server.free_port()
    config.write_text(
        f"model: {tmp_path / 'model'}\nserved-model-name: tiny\nhost: 127.0.0.1\nport: {port}\n"
        "dtype: float32\nmax-model-len: 1024\ngeneration-config: vllm\nenforce-eager: true\n"
        "distributed-executor-backend: mp\n"
    )
    serve = [
        str(SERVER_PYTHON), "-m", "vllm.entrypoints.cli.main", "serve", "--config", str(config),
        "--tensor-parallel-size", "2", "--nnodes", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(with_server.free_port()),
    ]  # fmt: skip
    environment = {
        "PYTHONPATH": str(named.parents[1]),
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    with ExitStack() as stack:
        stack.enter_context(
            with_server.started(
                [*serve, "--node-rank", "1", "--headless"], second,
                environment | {"VLLM_CPU_OMP_THREADS_BIND": "1"},
            )
        )  # fmt: skip
        stack.enter_context(
            with_server.running(
                [*serve, "--node-rank", "0"], port, first,
                environment | {"VLLM_CPU_OMP_THREADS_BIND": "0"},
            )
        )  # fmt: skip
        body = {"model": "tiny", "prompt": [1, 32007, 822], "max_tokens": 5, "temperature": 0}
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=120, trust_env=False
        ).json()
        assert answer["usage"]["completion_tokens"] == 5
        assert "-tp2-" in answer["system_fingerprint"]
    assert "rank=1 local_rank=0" in second.read_text(), "half of the work is the second node's"

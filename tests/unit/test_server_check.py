"""What `servers/serve.sh` looks at before it starts vLLM, with GPUs that a stand-in lists."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def _check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("server_check", ROOT / "servers" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


check = _check()


class Machine:
    """Made-up GPUs, an empty hub cache, and a hub that answers one status for everything."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.cache = folder / "hub"
        self.cache.mkdir()
        for name in ("HF_HOME", "CUDA_VISIBLE_DEVICES", "HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HUB_CACHE", str(self.cache))
        monkeypatch.setenv("HF_TOKEN_PATH", str(folder / "token"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def gpus(self, *free_and_total_mib: tuple[int, int], name: str = "NVIDIA A100") -> None:
        """Put an nvidia-smi on PATH that lists these."""
        lines = [
            f"{index}, GPU-{index}f00, {name}, {total}, {free}"
            for index, (free, total) in enumerate(free_and_total_mib)
        ]
        tool = self.folder / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
        tool.chmod(0o755)
        self.monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")

    def weights(self, name: str) -> None:
        """Put a snapshot of the configured revision into the cache."""
        options = check.read_options(ROOT / "servers" / f"{name}.yaml", [])
        folder = self.cache / f"models--{options.model.replace('/', '--')}" / "snapshots"
        snapshot = folder / options.revision
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").touch()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def verdict(capsys: pytest.CaptureFixture[str], name: str, *options: str) -> str:
    """What check.py says; empty if the server may start."""
    capsys.readouterr()
    code = check.main(
        [str(ROOT / "servers" / f"{name}.yaml"), "--port", str(free_port()), *options]
    )
    said = capsys.readouterr().err
    assert (code == 0) == (said == ""), said
    assert said.count("\n") <= 1
    return said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


EMPTY_80 = (81_000, 81_559)


@pytest.mark.parametrize(
    ("name", "gpus"), [("7b", 1), ("13b", 1), ("34b", 2), ("70b", 4), ("starcoder2-7b", 1)]
)
def test_the_default_of_every_size_starts_on_empty_gpus_of_80_gb(
    machine: Machine, capsys: pytest.CaptureFixture[str], name: str, gpus: int
) -> None:
    machine.weights(name)
    machine.gpus(*[EMPTY_80] * gpus)
    assert verdict(capsys, name) == ""


def test_too_few_gpus_are_told(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.weights("70b")
    machine.gpus(EMPTY_80, EMPTY_80)
    assert "4 GPUs are wanted on this machine and 2 visible" in verdict(capsys, "70b")


def test_gpus_that_are_hidden_do_not_count(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.weights("34b")
    machine.gpus(EMPTY_80, EMPTY_80)
    machine.monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "2 GPUs are wanted on this machine and 1 visible" in verdict(capsys, "34b")
    machine.monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,7")
    assert "there is no GPU 7" in verdict(capsys, "34b")


def test_a_model_that_does_not_fit_is_told_with_how_many_gpus_would_do(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.weights("70b")
    machine.gpus(*[EMPTY_80] * 4)
    said = verdict(capsys, "70b", "--tensor-parallel-size", "1")
    assert "each of 1 GPUs would hold 138.0 GB of weights" in said
    assert "TP=2 would do" in said


def test_a_gpu_that_something_else_fills_is_told(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.weights("7b")
    machine.gpus((20_000, 81_559))
    assert "GPU 0 has 19.5 of 79.6 GiB free and the server takes 71.7" in verdict(capsys, "7b")
    assert verdict(capsys, "7b", "--gpu-memory-utilization", "0.24") == ""


def test_only_numbers_of_gpus_that_divide_the_heads_are_taken(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.weights("13b")
    machine.gpus(*[EMPTY_80] * 8)
    said = verdict(capsys, "13b", "-tp", "3")
    assert "cannot be split over 3 GPUs: it has 40 attention heads" in said
    assert "TP= one of 1, 2, 4, 8" in said


def test_a_node_of_several_needs_only_its_share_of_the_gpus(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.weights("70b")
    machine.gpus(EMPTY_80, EMPTY_80)
    two_nodes = ("-tp", "2", "-pp", "2", "--nnodes", "2", "--node-rank", "1", "--headless")
    assert verdict(capsys, "70b", *two_nodes) == ""
    assert "cannot be shared out over 3 nodes" in verdict(capsys, "70b", "--nnodes", "3")


def test_a_port_in_use_is_told(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.weights("7b")
    machine.gpus(EMPTY_80)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is not free" in verdict(capsys, "7b", f"--port={port}")


def test_weights_that_are_not_here_and_may_not_be_downloaded_are_told(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.gpus(EMPTY_80)
    assert "HF_HUB_OFFLINE forbids" in verdict(capsys, "7b")


def test_another_revision_in_the_cache_is_not_the_pinned_one(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.gpus(EMPTY_80)
    machine.weights("7b")
    assert "is not in the cache" in verdict(capsys, "7b", f"--revision={'0' * 40}")


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str], list[int]]]:
    """Endpoint, authorisations that came, and the status to answer with (last one counts)."""
    came: list[str] = []
    status = [200]

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            came.append(self.headers.get("Authorization", ""))
            self.send_response(status[-1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", came, status
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_hub_is_asked_whether_it_would_give_the_weights(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    hub: tuple[str, list[str], list[int]],
) -> None:
    endpoint, came, status = hub
    machine.gpus(EMPTY_80)
    machine.monkeypatch.delenv("HF_HUB_OFFLINE")
    machine.monkeypatch.setenv("HF_ENDPOINT", endpoint)
    status.append(401)
    assert "set HF_TOKEN to a token that has access" in verdict(capsys, "7b")
    machine.monkeypatch.setenv("HF_TOKEN", "hf_secret")
    said = verdict(capsys, "7b")
    assert "the token has no access to it" in said
    assert "hf_secret" not in said
    assert came == ["", "Bearer hf_secret"]
    status.append(404)
    assert "the hub has no codellama/CodeLlama-7b-hf at revision 6c28" in verdict(capsys, "7b")
    machine.monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert "cannot be reached" in verdict(capsys, "7b")


def test_a_hub_that_fails_is_told_with_what_it_answers(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    hub: tuple[str, list[str], list[int]],
) -> None:
    endpoint, _, status = hub
    machine.gpus(EMPTY_80)
    machine.monkeypatch.delenv("HF_HUB_OFFLINE")
    machine.monkeypatch.setenv("HF_ENDPOINT", endpoint)
    status.append(503)
    assert f"and {endpoint} answers HTTP Error 503" in verdict(capsys, "7b")


def test_weights_that_are_to_be_downloaded_need_room_and_are_announced(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    hub: tuple[str, list[str], list[int]],
) -> None:
    machine.gpus(EMPTY_80)
    machine.monkeypatch.delenv("HF_HUB_OFFLINE")
    machine.monkeypatch.setenv("HF_ENDPOINT", hub[0])
    usage = type(shutil.disk_usage("/"))
    machine.monkeypatch.setattr(check.shutil, "disk_usage", lambda _: usage(10**12, 0, 9 * 10**9))
    said = verdict(capsys, "7b")
    assert "has to be downloaded (13 GB)" in said
    assert "has 9 GB free; point HF_HOME to a larger disk" in said
    machine.monkeypatch.setattr(check.shutil, "disk_usage", lambda _: usage(10**12, 0, 10**11))
    assert check.main([str(ROOT / "servers" / "7b.yaml")]) == 0
    assert "13.5 GB are downloaded first" in capsys.readouterr().err


def test_more_groups_of_layers_than_layers_are_refused(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.weights("7b")
    machine.gpus(EMPTY_80)
    said = verdict(capsys, "7b", "--pipeline-parallel-size", "33")
    assert "has 32 layers, which cannot be split into 33 groups; lower PP=" in said


def test_a_driver_that_is_not_loaded_is_told(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.weights("7b")
    machine.gpus(EMPTY_80)
    tool = machine.folder / "bin" / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho no devices were found >&2\nexit 6\n")
    said = verdict(capsys, "7b")
    assert "nvidia-smi ends with code 6 (no devices were found); is the driver loaded?" in said


def test_a_model_that_no_number_of_such_gpus_holds_is_told(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.weights("70b")
    machine.gpus(*[(7_900, 8_192)] * 4)
    said = verdict(capsys, "70b")
    assert "no number of them will do" in said


def test_a_type_of_numbers_that_nobody_knows_is_told(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.weights("7b")
    machine.gpus(EMPTY_80)
    assert "dtype float12 is none of " in verdict(capsys, "7b", "--dtype", "float12")


def test_a_folder_s_own_config_says_how_large_the_model_is(
    machine: Machine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    assert "holds no config.json" in verdict(capsys, "7b", f"--model={folder}/")
    (folder / "model.safetensors").touch()
    config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64,
              "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 32_016}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    machine.gpus(EMPTY_80)
    assert verdict(capsys, "7b", f"--model={folder}/") == ""
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    assert "its memory cannot be computed" in verdict(capsys, "7b", f"--model={folder}/")


def test_without_a_gpu_the_machine_s_memory_has_to_hold_the_model() -> None:
    options = check.read_options(ROOT / "servers" / "70b.yaml", [])
    architecture = check.find_architecture(options)
    with pytest.raises(check.Refusal, match=r"needs 155\.1 GB of this machine's memory"):
        check.check_processor(options, architecture, 155 * 10**9, {})
    check.check_processor(options, architecture, 156 * 10**9, {})


def serve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "servers" / "serve.sh", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "SERVER_PYTHON": sys.executable, **environment}, timeout=60,
    )  # fmt: skip


def test_serve_runs_vllm_with_the_file_and_what_overrides_it() -> None:
    done = serve("70b", "--tensor-parallel-size", "8", DRY_RUN="1")
    module = "-m vllm.entrypoints.openai.api_server"
    assert done.stdout == (
        f"{sys.executable} {module} --config servers/70b.yaml --tensor-parallel-size 8\n"
    )


def test_serve_does_not_start_what_the_check_refuses(machine: Machine) -> None:
    machine.gpus(EMPTY_80)
    done = serve("7b")
    assert done.returncode == 1
    assert done.stderr.startswith("[server] codellama/CodeLlama-7b-hf is not in the cache")
    assert "No module named 'vllm'" in serve("7b", CHECK="0").stderr


def test_serve_names_what_there_is_if_the_name_is_wrong() -> None:
    done = serve("7c")
    assert done.returncode == 1
    assert "7b.yaml" in done.stderr


def test_serve_without_a_name_or_without_its_environment_says_what_to_do() -> None:
    nameless = serve()
    assert nameless.returncode != 0
    assert "usage: servers/serve.sh NAME" in nameless.stderr
    done = serve("7b", SERVER_PYTHON="/nowhere/python")
    assert done.returncode == 1
    assert done.stderr == "servers/serve.sh: /nowhere/python does not exist; run make env-server\n"

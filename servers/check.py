"""Can this machine serve that model? Asked before vLLM starts.

    python servers/check.py servers/NAME.yaml [vLLM options]

Looks at what would otherwise end a start after minutes, in a page of traces: how the model splits
over GPUs, their number and free memory, the port, and whether the weights are there or can be had.
One sentence on standard error and exit code 1 says what is wrong; silence and 0 that nothing was
found. `serve.sh` calls it; `CHECK=0` leaves it out.

Runs in the server's environment: standard library, PyYAML, and this checkout's `fim_eval.plan` and
`fim_eval.architecture`, which are arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fim_eval.architecture import (  # noqa: E402  the path above comes first
    Architecture,
    architecture_of,
    read_architecture,
)
from fim_eval.errors import ArchitectureError  # noqa: E402
from fim_eval.plan import GB, GIB, ServerSettings, memory, starts  # noqa: E402

MIB = 1 << 20
ELEMENT_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "auto": 2}
UNCOUNTED = ("quantization", "kv_cache_dtype", "cpu_offload_gb", "load_format")
"""Options that change how much memory a model takes in ways that are not computed here."""

HUB_LIMIT_S = 10


class Refusal(Exception):  # noqa: N818  it is no fault of the program
    """Why the server would not start: one sentence, what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as nvidia-smi sees it; bytes."""

    index: str
    uuid: str
    name: str
    total: int
    free: int


def main(arguments: Sequence[str]) -> int:
    """Check all, cheapest first; return the exit code."""
    if not arguments:
        sys.exit("usage: servers/check.py servers/NAME.yaml [vLLM options]")
    try:
        options = read_options(Path(arguments[0]), arguments[1:])
        check_port(options)
        check_weights(options, os.environ)
        architecture = find_architecture(options)
        check_split(options, architecture)
        if shutil.which("nvidia-smi"):
            check_gpus(options, architecture, visible(list_gpus(), os.environ))
        else:
            check_processor(options, architecture, available_memory(), os.environ)
    except Refusal as refusal:
        _say(str(refusal))
        return 1
    return 0


def read_options(path: Path, overrides: Sequence[str]) -> argparse.Namespace:
    """The options that matter here: those of the command line, else of the file, else vLLM's."""
    usual = ServerSettings()
    parser = argparse.ArgumentParser(prog="check.py", allow_abbrev=False)
    parser.add_argument("--model", default="")
    parser.add_argument("--revision", default=None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--max-model-len", type=int, default=usual.max_model_len)
    parser.add_argument("--max-num-seqs", type=int, default=usual.max_num_seqs)
    parser.add_argument("--max-num-batched-tokens", type=int, default=usual.max_num_batched_tokens)
    parser.add_argument("--gpu-memory-utilization", type=float, default=usual.utilization)
    parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    parser.add_argument("--pipeline-parallel-size", "-pp", type=int, default=1)
    parser.add_argument("--data-parallel-size", "-dp", type=int, default=1)
    parser.add_argument("--nnodes", "-n", type=int, default=1)
    parser.add_argument("--node-rank", "-r", type=int, default=0)
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--distributed-executor-backend", default=None)
    for name in UNCOUNTED:
        parser.add_argument(f"--{name.replace('_', '-')}", default=None)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    written = [f"--{key}={value}" for key, value in content.items() if not isinstance(value, bool)]
    return parser.parse_known_args([*written, *overrides])[0]


def check_port(options: argparse.Namespace) -> None:
    """Nothing else listens where the server will."""
    if options.headless or options.node_rank > 0:
        return
    with socket.socket() as probe:
        # As the server does: a port that was left a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise Refusal(
                f"port {options.port} of {options.host} is not free ({error.strerror}): is a "
                "server running already? PORT= takes another"
            ) from error


def check_weights(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """The weights are in a folder or the hub's cache, or the hub would give them."""
    folder = Path(options.model)
    if is_path(options.model):
        if not (folder / "config.json").is_file() or not has_weights(folder):
            makes = {"smollm2": "make serve-smollm2", "ladder": "make ladder"}
            how = next((f"; {makes[one]} makes it" for one in makes if one in options.model), "")
            raise Refusal(f"{folder}: holds no config.json with weights beside it{how}")
        return
    cache = hub_cache(environment)
    repository = cache / f"models--{options.model.replace('/', '--')}" / "snapshots"
    snapshots = [repository / options.revision] if options.revision else [*repository.glob("*")]
    if any(has_weights(each) for each in snapshots):
        return
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise Refusal(
            f"{options.model} is not in the cache {cache} and HF_HUB_OFFLINE forbids to download "
            "it; unset that, or point HF_HOME to a cache that has it"
        )
    ask_hub(options.model, options.revision or "main", environment)
    if architecture := architecture_of(options.model):
        needed = architecture.parameters() * 2
        place = next(each for each in (cache, *cache.parents) if each.exists())
        free = shutil.disk_usage(place).free
        if free < needed:
            raise Refusal(
                f"{options.model} has to be downloaded ({needed / GB:.0f} GB), and {place} has "
                f"{free / GB:.0f} GB free; point HF_HOME to a larger disk"
            )
        _say(f"{options.model} is not in {cache} yet: {needed / GB:.1f} GB are downloaded first")


def ask_hub(model: str, revision: str, environment: Mapping[str, str]) -> None:
    """Whether the hub would give the model to whoever asks with this environment's token."""
    endpoint = environment.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    address = f"{endpoint}/{model}/resolve/{revision}/config.json"
    token = hub_token(environment)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(address, headers=headers, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_LIMIT_S).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            what = (
                "the token has no access to it: ask for it on the model's page"
                if token
                else "set HF_TOKEN to a token that has access to it"
            )
            raise Refusal(
                f"{model} is not in the cache, and the hub refuses it (HTTP {error.code}); {what}"
            ) from error
        if error.code == 404:
            raise Refusal(
                f"the hub has no {model} at revision {revision} (HTTP 404); a private one needs "
                "HF_TOKEN"
            ) from error
        raise Refusal(f"{model} is not in the cache, and {endpoint} answers {error}") from error
    except OSError as error:
        raise Refusal(
            f"{model} is not in the cache, and {endpoint} cannot be reached ({error}); copy the "
            "weights to the cache, or name a mirror with HF_ENDPOINT"
        ) from error


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps what it downloads."""
    if cache := environment.get("HF_HUB_CACHE"):
        return Path(cache)
    return hub_home(environment) / "hub"


def hub_home(environment: Mapping[str, str]) -> Path:
    """The folder of huggingface_hub: `HF_HOME`, else in the user's cache."""
    above = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(environment.get("HF_HOME") or f"{above}/huggingface")


def hub_token(environment: Mapping[str, str]) -> str | None:
    """The token that huggingface_hub would send; None if there is none."""
    if token := environment.get("HF_TOKEN", "").strip():
        return token
    path = Path(environment.get("HF_TOKEN_PATH") or hub_home(environment) / "token")
    return (path.read_text().strip() or None) if path.is_file() else None


def is_path(model: str) -> bool:
    """Whether the model is a folder and no repository."""
    return model.startswith((".", "/", "~")) or Path(model).is_dir()


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights that vLLM reads; a link to nothing is none."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return bool(files) and all(file.exists() for file in files)


def find_architecture(options: argparse.Namespace) -> Architecture:
    """From the table, or from the folder's own config.json."""
    if known := architecture_of(options.model):
        return known
    path = Path(options.model) / "config.json"
    try:
        return read_architecture(json.loads(path.read_bytes()), str(path))
    except (OSError, ValueError, ArchitectureError) as error:
        raise Refusal(
            f"{options.model}: its memory cannot be computed ({error}); CHECK=0 starts without"
        ) from error


def check_split(options: argparse.Namespace, architecture: Architecture) -> None:
    """The model splits over as many GPUs, and these over as many nodes."""
    tensor = options.tensor_parallel_size
    if tensor < 1 or not architecture.splits_into(tensor):
        offered = [size for size in (1, 2, 4, 8, 16) if architecture.splits_into(size)]
        raise Refusal(
            f"{options.model} cannot be split over {tensor} GPUs: it has {architecture.heads} "
            f"attention heads, {architecture.kv_heads} of keys and values; TP= one of "
            f"{', '.join(map(str, offered))}"
        )
    if not 1 <= options.pipeline_parallel_size <= architecture.layers:
        raise Refusal(
            f"{options.model} has {architecture.layers} layers, which cannot be split into "
            f"{options.pipeline_parallel_size} groups; lower PP="
        )
    if gpus_wanted(options) % options.nnodes:
        raise Refusal(
            f"{gpus_wanted(options)} GPUs cannot be shared out over {options.nnodes} nodes; "
            "choose TP and PP so that their product divides"
        )


def gpus_wanted(options: argparse.Namespace) -> int:
    """Over all nodes."""
    wanted: int = (
        options.tensor_parallel_size * options.pipeline_parallel_size * options.data_parallel_size
    )
    return wanted


def list_gpus() -> list[Gpu]:
    """All GPUs of this machine."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free"]
    done = subprocess.run(
        [*query, "--format=csv,noheader,nounits"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode:
        raise Refusal(
            f"nvidia-smi ends with code {done.returncode} ({(done.stdout + done.stderr).strip()}); "
            "is the driver loaded?"
        )
    gpus = []
    for line in done.stdout.splitlines():
        index, uuid, name, total, free = (field.strip() for field in line.split(","))
        gpus.append(Gpu(index, uuid, name, int(total) * MIB, int(free) * MIB))
    return gpus


def visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(gpus)
    chosen = []
    for wanted in filter(None, (name.strip() for name in named.split(","))):
        found = [gpu for gpu in gpus if wanted == gpu.index or gpu.uuid.startswith(wanted)]
        if len(found) != 1:
            raise Refusal(
                f"there is no GPU {wanted} (CUDA_VISIBLE_DEVICES={named}); there are "
                f"{', '.join(gpu.index for gpu in gpus) or 'none'}"
            )
        chosen += found
    return chosen


def check_gpus(
    options: argparse.Namespace, architecture: Architecture, gpus: Sequence[Gpu]
) -> None:
    """There are enough GPUs, nobody else fills them, and the model fits."""
    by_ray = options.distributed_executor_backend == "ray"
    wanted = gpus_wanted(options) // options.nnodes
    if by_ray:
        # The cluster's GPUs, not this machine's: Ray finds places for them.
        wanted = min(wanted, len(gpus))
    if len(gpus) < wanted or not gpus:
        raise Refusal(
            f"{wanted} GPUs are wanted on this machine and {len(gpus)} visible; TP= takes fewer, "
            "GPUS= names others"
        )
    settings = server_settings(options)
    for gpu in gpus[:wanted]:
        needed = gpu.total * settings.utilization
        if gpu.free < needed:
            raise Refusal(
                f"GPU {gpu.index} has {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free and "
                f"the server takes {needed / GIB:.1f}: something else uses it (nvidia-smi); GPUS= "
                'names others, EXTRA="--gpu-memory-utilization 0.5" takes less'
            )
    smallest = min(gpus[:wanted], key=lambda gpu: gpu.total)
    if any(getattr(options, name) for name in UNCOUNTED):
        return
    room = memory(
        architecture,
        settings,
        smallest.total,
        tensor_parallel=options.tensor_parallel_size,
        pipeline_parallel=options.pipeline_parallel_size,
    )
    if not starts(room, settings):
        enough = next(
            (
                size
                for size in (1, 2, 4, 8, 16)
                if architecture.splits_into(size)
                and starts(
                    memory(architecture, settings, smallest.total, tensor_parallel=size), settings
                )
            ),
            None,
        )
        how = f"TP={enough} would do" if enough else "no number of them will do"
        raise Refusal(
            f"{options.model} does not fit: each of {gpus_wanted(options)} GPUs would hold "
            f"{room.weights / GB:.1f} GB of weights, and {smallest.name} with "
            f"{smallest.total / GB:.0f} GB leaves {max(room.cache, 0) / GB:.1f} GB for a cache of "
            f"{settings.max_model_len} tokens; {how}"
        )


def check_processor(
    options: argparse.Namespace,
    architecture: Architecture,
    available: int,
    environment: Mapping[str, str],
) -> None:
    """Without a GPU: the model and its cache fit into this machine's memory."""
    settings = server_settings(options)
    weights = architecture.parameters() * settings.element_bytes
    cache = float(environment.get("VLLM_CPU_KVCACHE_SPACE") or 4) * GIB * gpus_wanted(options)
    if weights + cache > available:
        raise Refusal(
            f"there is no NVIDIA GPU (no nvidia-smi), and {options.model} needs "
            f"{(weights + cache) / GB:.1f} GB of this machine's memory, which has "
            f"{available / GB:.1f} GB available; make serve-smollm2 is a model for it"
        )


def server_settings(options: argparse.Namespace) -> ServerSettings:
    """What the memory depends on.

    Raises:
        Refusal: the type of the weights is not known.
    """
    if options.dtype not in ELEMENT_BYTES:
        raise Refusal(f"dtype {options.dtype} is none of {', '.join(ELEMENT_BYTES)}")
    return ServerSettings(
        element_bytes=ELEMENT_BYTES[options.dtype],
        max_model_len=options.max_model_len,
        utilization=options.gpu_memory_utilization,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
    )


def available_memory() -> int:
    """Bytes that this machine could give to a new program without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    facts: dict[str, Any] = dict(line.split(":", 1) for line in lines)
    return int(facts["MemAvailable"].split()[0]) * 1024


def _say(message: str) -> None:
    sys.stderr.write(f"[server] {message}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What a study needs before anyone is asked: GPU memory, time, tokens, and what it can tell.

Arithmetic only: a roofline (bytes moved and operations done, against what the device moves and
does), with every assumption a number in this file or a parameter. No clock, no file, no network;
standard library only, so that `servers/check.py` can read it beside any vLLM.

How far these predictions are off is measured in docs/serving.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from fim_eval.architecture import Architecture
from fim_eval.errors import PlanError

GB = 1_000_000_000
GIB = 1 << 30

FIXED_BYTES = 2 * GB
"""Held on each GPU beside weights, activations and cache: CUDA's context, graphs, communication
buffers. Assumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What one GPU (or this machine's processor) holds, moves and does."""

    name: str
    memory_bytes: int
    bandwidth: float
    """Bytes per second from its memory."""

    flops: float
    """Operations per second, dense, in the type that the weights have."""

    link: float
    """Bytes per second to its neighbours, in one direction."""

    source: str


NVLINK_A100, NVLINK_H100, PCIE_4 = 300e9, 450e9, 32e9

DEVICES: tuple[Device, ...] = (
    Device(
        name="A100-40",
        memory_bytes=40 * GIB,
        bandwidth=1_555e9,
        flops=312e12,
        link=NVLINK_A100,
        source="NVIDIA A100 data sheet, SXM4 40 GB",
    ),
    Device(
        name="A100-80",
        memory_bytes=80 * GIB,
        bandwidth=2_039e9,
        flops=312e12,
        link=NVLINK_A100,
        source="NVIDIA A100 data sheet, SXM4 80 GB",
    ),
    Device(
        name="H100",
        memory_bytes=80 * GIB,
        bandwidth=3_350e9,
        flops=989e12,
        link=NVLINK_H100,
        source="NVIDIA H100 data sheet, SXM5 80 GB, without sparsity",
    ),
    Device(
        name="H200",
        memory_bytes=141 * GB,
        bandwidth=4_800e9,
        flops=989e12,
        link=NVLINK_H100,
        source="NVIDIA H200 data sheet, SXM 141 GB, without sparsity",
    ),
    Device(
        name="L40S",
        memory_bytes=48 * GB,
        bandwidth=864e9,
        flops=362e12,
        link=PCIE_4,
        source="NVIDIA L40S data sheet, without sparsity; PCIe 4.0 x16, no NVLink",
    ),
    Device(
        name="A10G",
        memory_bytes=24 * GB,
        bandwidth=600e9,
        flops=70e12,
        link=PCIE_4,
        source="NVIDIA A10G data sheet (as in AWS g5), without sparsity; PCIe 4.0 x16",
    ),
    Device(
        name="RTX-4090",
        memory_bytes=24 * GB,
        bandwidth=1_008e9,
        flops=165e12,
        link=PCIE_4,
        source="NVIDIA Ada architecture whitepaper, appendix A, sums in FP32, without sparsity",
    ),
)


def device_of(name: str) -> Device:
    """The device of that name, in any case.

    Raises:
        PlanError: the table has none.
    """
    for device in DEVICES:
        if device.name.lower() == name.lower():
            return device
    raise PlanError(
        f"{name}: is no GPU of the table; there are "
        f"{', '.join(device.name for device in DEVICES)}, and cpu for this machine"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Those options of a vLLM server that its memory depends on."""

    element_bytes: int = 2
    """Of a weight and of a number in the cache."""

    max_model_len: int = 4096
    utilization: float = 0.9
    """Share of the memory that the server may take (`gpu-memory-utilization`)."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on each GPU of one server."""

    weights: float
    activations: float
    fixed: float
    """As `FIXED_BYTES`."""

    cache: float
    """What is left for keys and values; below zero if nothing is."""

    cache_tokens: int
    """Tokens that the cache holds; 0 if there is none."""


def memory(
    architecture: Architecture,
    settings: ServerSettings,
    memory_bytes: float,
    *,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    fixed_bytes: float = FIXED_BYTES,
) -> Memory:
    """How one GPU's memory is shared out when a server starts.

    Activations are the largest that a step needs at once: for each of `max_num_batched_tokens`,
    four vectors of the hidden size and three of this GPU's part of the feed-forward; for each of
    `max_num_seqs`, three rows of logits in 4 bytes.

    Args:
        architecture: of the model.
        settings: of the server.
        memory_bytes: of one GPU, all of it.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: groups that share the layers.
        fixed_bytes: beside weights, activations and cache.
    """
    gpus = tensor_parallel * pipeline_parallel
    weights = architecture.parameters() * settings.element_bytes / gpus
    activations = (
        settings.max_num_batched_tokens
        * (4 * architecture.hidden + 3 * architecture.intermediate / tensor_parallel)
        * settings.element_bytes
        + settings.max_num_seqs * architecture.vocabulary * 3 * 4
    )
    cache = memory_bytes * settings.utilization - weights - activations - fixed_bytes
    token = architecture.kv_elements(tensor_parallel) * settings.element_bytes / pipeline_parallel
    return Memory(
        weights=weights,
        activations=activations,
        fixed=fixed_bytes,
        cache=cache,
        cache_tokens=max(0, int(cache / token)),
    )


def starts(room: Memory, settings: ServerSettings) -> bool:
    """Whether vLLM would start: it refuses if one request of the greatest length does not fit."""
    return room.cache_tokens >= settings.max_model_len

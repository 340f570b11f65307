"""What a study needs before anyone is asked: GPU memory, time, tokens, and what it can tell.

Arithmetic only: a roofline (bytes moved and operations done, against what the device moves and
does), with every assumption a number in this file or a parameter. No clock, no file, no network;
standard library only, so that `servers/check.py` can read it beside any vLLM.

How far these predictions are off is measured in docs/serving.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fim_eval.architecture import Architecture
from fim_eval.errors import PlanError

GB = 1_000_000_000
GIB = 1 << 30

FIXED_BYTES = 2 * GB
"""Held on each GPU beside weights, activations and cache: CUDA's context, graphs, communication
buffers. Assumed."""

CHARACTERS_PER_TOKEN = 2.8
"""Of MBPP's prompts with Code Llama's tokenizer, where no tokenizer is at hand to count: 2.7 to 3.1
by strategy and kind of hole. Middles have 2.4."""

PROGRAMS_PER_WORKER_S = 340
"""Judged by one worker where programs end: 678 by two, benchmarks/README.md."""


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
    """Of a weight."""

    cache_element_bytes: int = 2
    """Of a number in the cache."""

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
    token = (
        architecture.kv_elements(tensor_parallel) * settings.cache_element_bytes / pipeline_parallel
    )
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How one server is laid over GPUs."""

    tensor_parallel: int
    pipeline_parallel: int

    @property
    def gpus(self) -> int:
        """Of one server."""
        return self.tensor_parallel * self.pipeline_parallel


def smallest_layout(
    architecture: Architecture,
    settings: ServerSettings,
    device: Device,
    *,
    gpus_per_node: int,
    nodes: int = 1,
    cache_tokens: int = 0,
) -> Layout | None:
    """The fewest GPUs on which vLLM starts with a cache of at least so many tokens.

    Tensor parallel inside a node first, doubling; then whole nodes as a pipeline, because tensor
    parallelism between nodes waits for the network twice a layer. None if nothing will do.
    """
    tensor = 1
    offered = []
    while tensor <= gpus_per_node:
        if architecture.splits_into(tensor):
            offered.append(Layout(tensor_parallel=tensor, pipeline_parallel=1))
        tensor *= 2
    if offered:
        widest = offered[-1].tensor_parallel
        offered += [
            Layout(tensor_parallel=widest, pipeline_parallel=count)
            for count in range(2, min(nodes, architecture.layers) + 1)
        ]
    for layout in offered:
        room = memory(
            architecture,
            settings,
            device.memory_bytes,
            tensor_parallel=layout.tensor_parallel,
            pipeline_parallel=layout.pipeline_parallel,
        )
        if starts(room, settings) and room.cache_tokens >= cache_tokens:
            return layout
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumptions:
    """What the roofline takes for granted; none of it is known of a given machine."""

    prefill_efficiency: float = 0.5
    """Share of the peak operations that a long matrix product reaches."""

    bandwidth_efficiency: float = 0.7
    """Share of the peak bandwidth that decoding reaches."""

    step_s: float = 0.002
    """Of each decoding step, beside the arithmetic: scheduling, sampling, launching."""

    all_reduce_s: float = 15e-6
    """Before the first byte of each of a layer's two reductions over tensor-parallel GPUs."""

    front_end_s: float = 0.0015
    """Of the server's HTTP process for each request: it is one process, so an upper limit."""


MEASURED = Assumptions(prefill_efficiency=1, bandwidth_efficiency=1)
"""For a device that was measured: its numbers are what was reached, not a data sheet's peak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Requests of one kind."""

    name: str
    requests: int
    prompt_tokens: float
    """Of each, on average."""

    new_tokens: float
    """Of each, on average."""

    prefix_hits: float = 0.0
    """Share of a prompt's tokens that the prefix cache spares."""

    @property
    def tokens_in(self) -> float:
        """Of all prompts."""
        return self.requests * self.prompt_tokens

    @property
    def tokens_out(self) -> float:
        """Of all answers."""
        return self.requests * self.new_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What one server does with one workload."""

    workload: Workload
    in_flight: int
    """Requests at work at once: what client, server and cache allow."""

    prefill_s: float
    """Of one request, as its share of the server's time."""

    step_s: float
    """Between two tokens of one request."""

    requests_per_s: float
    latency_s: float
    """From sending to the last token."""

    wall_s: float
    limit: str
    """What the rate is bound by: arithmetic, bandwidth, communication, steps, front end, or
    requests in flight."""


def estimate(
    architecture: Architecture,
    settings: ServerSettings,
    device: Device,
    layout: Layout,
    workload: Workload,
    *,
    in_flight: int,
    assumed: Assumptions | None = None,
) -> Estimate:
    """The roofline of one server that always has `in_flight` requests to work on.

    A prompt's tokens are multiplied with all weights once (2 operations a weight, 4 for each
    element of each earlier token in attention) at `prefill_efficiency` of the peak. A decoding
    step takes the longer of its arithmetic and of reading all weights and the cache of every
    request; it makes one token for each request. Reductions between GPUs move
    2 x (GPUs - 1) / GPUs of the hidden vectors, twice a layer. The stages of a pipeline work on
    different requests at once.

    Raises:
        PlanError: not even one request fits into the cache.
    """
    assumed = assumed or Assumptions()
    tensor, stages = layout.tensor_parallel, layout.pipeline_parallel
    room = memory(
        architecture,
        settings,
        device.memory_bytes,
        tensor_parallel=tensor,
        pipeline_parallel=stages,
    )
    fitting = int(room.cache_tokens / (workload.prompt_tokens + workload.new_tokens))
    together = min(in_flight, settings.max_num_seqs, fitting)
    if together < 1:
        raise PlanError(f"{device.name} x {layout.gpus}: the cache holds no request")
    peak = device.flops * assumed.prefill_efficiency * layout.gpus
    per_reduction = 2 * (tensor - 1) / tensor * architecture.hidden * settings.element_bytes
    reductions = 2 * architecture.layers / stages if tensor > 1 else 0

    def communication(tokens: float) -> float:
        return reductions * (assumed.all_reduce_s + tokens * per_reduction / device.link)

    attention = 4 * architecture.layers * architecture.heads * architecture.head_size
    asked = workload.prompt_tokens * (1 - workload.prefix_hits)
    multiplied = 2 * architecture.multiplied_parameters()
    predicted = 2 * architecture.head_parameters()
    arithmetic_s = (
        asked * (multiplied + attention * workload.prompt_tokens / 2) + predicted
    ) / peak
    batch = settings.max_num_batched_tokens
    communication_s = communication(batch) * asked / batch
    prefill_s = arithmetic_s + communication_s

    # One stage's step: its share of the layers, for its share of the requests.
    sequences = together / stages
    seen = workload.prompt_tokens + workload.new_tokens / 2
    cache = architecture.kv_elements(tensor) * settings.cache_element_bytes / stages
    bandwidth = device.bandwidth * assumed.bandwidth_efficiency
    read_s = (room.weights + sequences * seen * cache) / bandwidth
    count_s = sequences * (multiplied + predicted + attention * seen) / peak
    stage_s = max(read_s, count_s) + communication(sequences) + assumed.step_s / stages
    steps = max(workload.new_tokens - 1, 0)
    shares = {
        "arithmetic": arithmetic_s + (steps * count_s / sequences if count_s > read_s else 0),
        "bandwidth": steps * read_s / sequences if read_s >= count_s else 0,
        "communication": communication_s + steps * communication(sequences) / sequences,
        "steps": steps * assumed.step_s / stages / sequences,
    }
    request_s = prefill_s + steps * stage_s / sequences
    limit = max(shares, key=lambda share: shares[share])
    if request_s < assumed.front_end_s:
        request_s, limit = assumed.front_end_s, "front end"
    rate = 1 / request_s
    return Estimate(
        workload=workload,
        in_flight=together,
        prefill_s=prefill_s,
        step_s=stage_s * stages,
        requests_per_s=rate,
        latency_s=together / rate,
        wall_s=workload.requests / rate,
        limit=limit,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerPlan:
    """One model on one kind of GPU."""

    model: str
    starts_on: Layout
    """The fewest GPUs on which vLLM starts at all."""

    layout: Layout
    """The fewest of so many nodes that also hold the wanted requests in flight; else all."""

    memory: Memory
    replicas: int
    """Servers of it that all GPUs hold side by side."""

    estimates: tuple[Estimate, ...]

    @property
    def wall_s(self) -> float:
        """Of all its requests, shared out over all replicas."""
        return sum(each.wall_s for each in self.estimates) / self.replicas

    @property
    def gpu_s(self) -> float:
        """Seconds times GPUs at work."""
        return sum(each.wall_s for each in self.estimates) * self.layout.gpus

    @property
    def client_rate(self) -> float:
        """Requests per second that a client has to sustain to keep all replicas busy."""
        return self.replicas * max((each.requests_per_s for each in self.estimates), default=0.0)


def plan_server(
    model: str,
    architecture: Architecture,
    settings: ServerSettings,
    device: Device,
    workloads: Sequence[Workload],
    *,
    gpus_per_node: int,
    nodes: int = 1,
    in_flight: int = 128,
    layout: Layout | None = None,
    assumed: Assumptions | None = None,
) -> ServerPlan:
    """Layout, memory and time of one model.

    Args:
        model: its name.
        architecture: of the model.
        settings: of the server.
        device: each GPU.
        workloads: what is asked, one after the other.
        gpus_per_node: in one machine.
        nodes: machines.
        in_flight: requests that a client keeps at work in each server.
        layout: not the smallest that does, but this one.
        assumed: by the roofline.

    Raises:
        PlanError: no layout of these GPUs starts the model.
    """
    least = smallest_layout(
        architecture, settings, device, gpus_per_node=gpus_per_node, nodes=nodes
    )
    if least is None:
        room = memory(architecture, settings, device.memory_bytes, tensor_parallel=gpus_per_node)
        raise PlanError(
            f"{model} does not fit on {nodes} x {gpus_per_node} {device.name}: of each one's "
            f"{device.memory_bytes / GB:.0f} GB, weights take {room.weights / GB:.1f} with "
            f"{gpus_per_node} GPUs; more --gpus or --nodes, or a larger --gpu"
        )
    longest = max((each.prompt_tokens + each.new_tokens for each in workloads), default=0)
    if layout is None:
        layout = smallest_layout(
            architecture,
            settings,
            device,
            gpus_per_node=gpus_per_node,
            nodes=least.pipeline_parallel,
            cache_tokens=math.ceil(in_flight * longest),
        )
    if layout is None:
        layout = _widest(architecture, gpus_per_node, least)
    room = memory(
        architecture,
        settings,
        device.memory_bytes,
        tensor_parallel=layout.tensor_parallel,
        pipeline_parallel=layout.pipeline_parallel,
    )
    return ServerPlan(
        model=model,
        starts_on=least,
        layout=layout,
        memory=room,
        replicas=_replicas(layout, gpus_per_node, nodes),
        estimates=tuple(
            estimate(
                architecture, settings, device, layout, each, in_flight=in_flight, assumed=assumed
            )
            for each in workloads
        ),
    )


def _widest(architecture: Architecture, gpus_per_node: int, least: Layout) -> Layout:
    """The most GPUs of each node that the model splits over, on the nodes that it needs."""
    tensor = least.tensor_parallel
    while tensor * 2 <= gpus_per_node and architecture.splits_into(tensor * 2):
        tensor *= 2
    return Layout(tensor_parallel=tensor, pipeline_parallel=least.pipeline_parallel)


def _replicas(layout: Layout, gpus_per_node: int, nodes: int) -> int:
    if layout.pipeline_parallel > 1:
        return max(1, nodes // layout.pipeline_parallel)
    return max(1, gpus_per_node // layout.tensor_parallel * nodes)

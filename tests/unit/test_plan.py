from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fim_eval.architecture import ARCHITECTURES, Architecture, architecture_of, read_architecture
from fim_eval.errors import ArchitectureError, PlanError
from fim_eval.plan import (
    DEVICES,
    GB,
    Assumptions,
    Device,
    Estimate,
    Layout,
    ServerSettings,
    Workload,
    device_of,
    estimate,
    memory,
    plan_server,
    smallest_layout,
    starts,
)


def code_llama(size: str) -> Architecture:
    return ARCHITECTURES[f"codellama/CodeLlama-{size}-hf"]


LLAMA_3_8B = Architecture(
    layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocabulary=128_256
)
ONE = Layout(tensor_parallel=1, pipeline_parallel=1)
SETTINGS = ServerSettings()
LINE = Workload(name="lr", requests=1000, prompt_tokens=100, new_tokens=32)


def test_a_token_of_code_llama_7b_leaves_half_a_megabyte_in_the_cache() -> None:
    # 2 (keys, values) x 32 layers x 32 heads x 128 elements x 2 bytes
    assert code_llama("7b").kv_elements() * 2 == 524_288


def test_grouped_heads_of_keys_and_values_shrink_the_cache() -> None:
    # 2 x 80 x 8 x 128, an eighth of what 64 heads would leave
    assert code_llama("70b").kv_elements() == 163_840


def test_beyond_its_heads_of_keys_and_values_a_model_s_cache_is_copied() -> None:
    seventy = code_llama("70b")
    assert seventy.kv_elements(8) == seventy.kv_elements() / 8
    assert seventy.kv_elements(16) == seventy.kv_elements(8)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("codellama/CodeLlama-13b-hf", [1, 2, 4, 8]),
        ("codellama/CodeLlama-70b-hf", [1, 2, 4, 8, 16]),
        ("Qwen/Qwen2.5-Coder-7B", [1, 2, 4]),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", [1, 3]),
    ],
)
def test_a_model_splits_over_what_divides_its_heads(model: str, sizes: list[int]) -> None:
    architecture = ARCHITECTURES[model]
    assert [size for size in (1, 2, 3, 4, 8, 16) if architecture.splits_into(size)] == sizes


def test_the_parts_of_a_gpu_s_memory_are_what_the_server_may_take() -> None:
    room = memory(code_llama("7b"), SETTINGS, 80 * GB)
    assert room.weights + room.activations + room.fixed + room.cache == pytest.approx(72 * GB)
    assert room.weights == code_llama("7b").parameters() * 2
    assert room.cache_tokens == int(room.cache / 524_288)


@given(st.sampled_from(sorted(ARCHITECTURES)), st.sampled_from([1, 2, 4]))
def test_more_gpus_never_leave_less_cache(model: str, gpus: int) -> None:
    architecture = ARCHITECTURES[model]
    few, many = (
        memory(architecture, SETTINGS, 80 * GB, tensor_parallel=count) for count in (gpus, 2 * gpus)
    )
    assert few.cache < many.cache


def test_a_server_starts_if_its_longest_request_fits() -> None:
    room = memory(code_llama("34b"), SETTINGS, device_of("A100-80").memory_bytes)
    assert 4096 <= room.cache_tokens < 65_536
    assert starts(room, SETTINGS)
    assert not starts(room, replace(SETTINGS, max_model_len=65_536))


@pytest.mark.parametrize(
    ("size", "device", "gpus"),
    [
        ("7b", "RTX-4090", 1),
        ("7b", "A10G", 1),
        ("13b", "A10G", 2),
        ("13b", "A100-40", 1),
        ("34b", "H100", 1),
        ("34b", "L40S", 2),
        ("70b", "H100", 2),
        ("70b", "A100-40", 4),
        ("70b", "H200", 2),
    ],
)
def test_the_smallest_number_of_gpus_that_starts_each_size(
    size: str, device: str, gpus: int
) -> None:
    found = smallest_layout(code_llama(size), SETTINGS, device_of(device), gpus_per_node=8)
    assert found == Layout(tensor_parallel=gpus, pipeline_parallel=1)


def test_what_no_machine_holds_is_a_pipeline_over_several() -> None:
    a10g = device_of("A10G")
    seventy = code_llama("70b")
    assert smallest_layout(seventy, SETTINGS, a10g, gpus_per_node=4) is None
    found = smallest_layout(seventy, SETTINGS, a10g, gpus_per_node=4, nodes=4)
    assert found == Layout(tensor_parallel=4, pipeline_parallel=2)


def test_requests_in_flight_ask_for_more_gpus_but_never_for_more_machines() -> None:
    def layout(in_flight: int) -> Layout:
        return plan_server(
            "7b", code_llama("7b"), SETTINGS, device_of("RTX-4090"), [LINE],
            gpus_per_node=4, nodes=2, in_flight=in_flight,
        ).layout  # fmt: skip

    assert [layout(count).tensor_parallel for count in (16, 128, 256, 10_000)] == [1, 2, 2, 4]
    assert layout(10_000).pipeline_parallel == 1


def test_a_model_too_large_for_all_gpus_is_told_with_what_it_takes() -> None:
    with pytest.raises(PlanError, match=r"weights take 138\.0 with 1 GPUs"):
        plan_server("70b", code_llama("70b"), SETTINGS, device_of("A10G"), [LINE], gpus_per_node=1)


def test_servers_side_by_side_share_the_time_but_not_the_work() -> None:
    def planned(gpus: int) -> tuple[int, float, float]:
        one = plan_server(
            "7b", code_llama("7b"), SETTINGS, device_of("H100"), [LINE], gpus_per_node=gpus
        )
        return one.replicas, one.wall_s, one.gpu_s

    replicas, wall_s, gpu_s = planned(8)
    assert replicas == 8
    assert wall_s == pytest.approx(planned(1)[1] / 8)
    assert gpu_s == pytest.approx(planned(1)[2])


PLAIN = Device(
    name="plain", memory_bytes=100 * GB, bandwidth=1e12, flops=100e12, link=1e11, source="made up"
)
EXACT = Assumptions(
    prefill_efficiency=1, bandwidth_efficiency=1, step_s=0, all_reduce_s=0, front_end_s=0
)


def plain(workload: Workload, *, in_flight: int = 1, layout: Layout = ONE) -> Estimate:
    return estimate(
        code_llama("7b"), SETTINGS, PLAIN, layout, workload, in_flight=in_flight, assumed=EXACT
    )


def test_one_request_decodes_at_the_speed_of_reading_all_weights() -> None:
    found = plain(Workload(name="", requests=1, prompt_tokens=1, new_tokens=1001))
    # 13.477 GB, and 501 tokens of half a megabyte, in each step
    assert found.step_s == pytest.approx((13.477e9 + 501.5 * 524_288) / 1e12, rel=0.001)
    assert found.limit == "bandwidth"
    assert found.wall_s == pytest.approx(1000 * found.step_s, rel=0.001)


def test_a_long_prompt_takes_two_operations_for_each_of_its_tokens_and_weights() -> None:
    found = plain(Workload(name="", requests=1, prompt_tokens=1000, new_tokens=1))
    weights = 2 * 1000 * (6.738e9 - 2 * 32_016 * 4096)
    attention = 1000 * 500 * 4 * 32 * 4096
    assert found.prefill_s == pytest.approx((weights + attention) / 100e12, rel=0.001)
    assert found.limit == "arithmetic"


def test_what_the_prefix_cache_has_is_not_computed_again() -> None:
    cold = plain(replace(LINE, prefix_hits=0.0)).prefill_s
    warm = plain(replace(LINE, prefix_hits=0.5)).prefill_s
    assert warm == pytest.approx(cold / 2, rel=0.05)


def test_requests_in_flight_end_where_the_cache_is_full() -> None:
    tight = replace(PLAIN, memory_bytes=20 * GB)
    found = estimate(code_llama("7b"), SETTINGS, tight, ONE, LINE, in_flight=128)
    room = memory(code_llama("7b"), SETTINGS, 20 * GB)
    assert found.in_flight == room.cache_tokens // 132 < 128
    assert plain(LINE, in_flight=10_000).in_flight == SETTINGS.max_num_seqs


def test_a_server_s_one_front_end_bounds_its_rate() -> None:
    tiny = ARCHITECTURES["HuggingFaceTB/SmolLM2-135M-Instruct"]
    found = estimate(
        tiny, SETTINGS, device_of("H100"), ONE, replace(LINE, new_tokens=1), in_flight=256
    )
    assert found.limit == "front end"
    assert found.requests_per_s == pytest.approx(1 / 0.0015)


def test_gpus_without_fast_links_gain_less_from_each_other() -> None:
    def gain(device: Device) -> float:
        rates = [
            estimate(
                code_llama("13b"), SETTINGS, device, replace(ONE, tensor_parallel=count), LINE,
                in_flight=64,
            ).requests_per_s
            for count in (2, 4)
        ]  # fmt: skip
        return rates[1] / rates[0]

    fast = device_of("L40S")
    assert gain(fast) < gain(replace(fast, link=450e9)) < 2


@given(
    st.sampled_from(["7b", "13b", "34b", "70b"]),
    st.sampled_from([d.name for d in DEVICES if d.memory_bytes > 70 * GB]),
    st.integers(1, 1000),
    st.integers(1, 600),
)
def test_a_request_takes_longer_than_its_prompt_and_its_tokens_alone(
    size: str, device: str, asked: int, new: int
) -> None:
    work = Workload(name="", requests=10, prompt_tokens=asked, new_tokens=new)
    found = estimate(
        code_llama(size), SETTINGS, device_of(device), replace(ONE, tensor_parallel=4), work,
        in_flight=64,
    )  # fmt: skip
    assert found.latency_s >= found.prefill_s + (new - 1) * found.step_s
    assert found.wall_s * found.requests_per_s == pytest.approx(10)


SHAREGPT = Workload(name="ShareGPT", requests=1000, prompt_tokens=220, new_tokens=200)
A40 = Device(
    name="A40", memory_bytes=48 * GB, bandwidth=696e9, flops=149.7e12, link=32e9,
    source="NVIDIA A40 data sheet",
)  # fmt: skip


def tokens_alone(seconds_per_token: float) -> tuple[Workload, float]:
    """One request of 128 tokens after another, and its rate."""
    work = Workload(name="", requests=1, prompt_tokens=1, new_tokens=128)
    return work, 1 / (127 * seconds_per_token)


PUBLISHED = {
    # Llama-2, saturated, as ShareGPT's conversations are long; requests/s
    "Llama-2 7B, A100": (code_llama("7b"), device_of("A100-80"), 1, 256, (SHAREGPT, 14.6)),
    "Llama-2 13B, A100": (code_llama("13b"), device_of("A100-80"), 1, 256, (SHAREGPT, 8.0)),
    "Llama-2 70B, 4 A100": (code_llama("70b"), device_of("A100-80"), 4, 256, (SHAREGPT, 7.2)),
    # https://johnmusgrave.com/p/vllm-throughput-latency-sweep-on: vLLM 0.23, 75 tokens/s
    "8B, A100, alone": (LLAMA_3_8B, device_of("A100-40"), 1, 1, tokens_alone(1 / 75)),
    # https://yobitelcomm.github.io/bench/recipes/concurrency-sweep/: vLLM 0.21, 6.48 ms a token
    "8B, H100, alone": (LLAMA_3_8B, device_of("H100"), 1, 1, tokens_alone(0.00648)),
    # https://databasemart.com/blog/vllm-gpu-benchmark-a40: 50 requests of 443 tokens, 2.29/s
    "8B, A40, 50": (LLAMA_3_8B, A40, 1, 50, (
        Workload(name="", requests=50, prompt_tokens=100, new_tokens=443), 2.29)),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rates_of_vllm_are_met_within_forty_per_cent(name: str) -> None:
    architecture, device, tensor, in_flight, (workload, published) = PUBLISHED[name]
    layout = Layout(tensor_parallel=tensor, pipeline_parallel=1)
    found = estimate(architecture, SETTINGS, device, layout, workload, in_flight=in_flight)
    assert found.requests_per_s == pytest.approx(published, rel=0.4)


def test_a_gpu_is_found_in_any_case_and_an_unknown_one_told_with_those_there_are() -> None:
    assert device_of("h100").name == "H100"
    with pytest.raises(PlanError, match=r"H200.*and cpu for this machine"):
        device_of("V100")


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_a_device_s_numbers_have_their_source(device: Device) -> None:
    assert len(device.source) > 20
    assert 20 * GB < device.memory_bytes < 150 * GB
    assert 0.5e12 < device.bandwidth < 5e12
    assert 5e13 < device.flops < 1e15


def test_a_config_file_gives_the_architecture_of_the_table() -> None:
    config = {
        "model_type": "llama", "num_hidden_layers": 80, "hidden_size": 8192,
        "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8,
        "vocab_size": 32_016, "tie_word_embeddings": False,
    }  # fmt: skip
    assert read_architecture(config, "config.json") == code_llama("70b")
    with pytest.raises(ArchitectureError, match=r"config\.json: model_type 'bloom' is none of"):
        read_architecture(config | {"model_type": "bloom"}, "config.json")
    del config["hidden_size"]
    with pytest.raises(ArchitectureError, match="hidden_size"):
        read_architecture(config, "config.json")


def test_an_architecture_is_found_by_id_in_any_case_and_by_nothing_less() -> None:
    assert architecture_of("CODELLAMA/codellama-7b-HF") is code_llama("7b")
    assert architecture_of("CodeLlama-7b-hf") is None

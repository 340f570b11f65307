"""What this machine's processor and memory do, measured: a `plan.Device` for where no GPU is.

Half a second of work with numpy, with as many threads as this process may use. A machine that does
other things at the same time measures slower, and would serve slower.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fim_eval.plan import Device

SIDE = 1024
REPETITIONS = 5
PART_BYTES = 128 << 20
"""Larger than any cache."""


def measured_processor(cores: int | None = None) -> Device:
    """This machine as a device for weights of 4 bytes: the best of a few repetitions.

    Args:
        cores: threads to measure with; None: all that this process may use.
    """
    threads = cores or len(os.sched_getaffinity(0))
    matrix = np.ones((SIDE, SIDE), np.float32)
    product_s = _best(lambda: matrix @ matrix)
    parts = [np.ones(PART_BYTES // 4, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        read_s = _best(lambda: list(pool.map(np.sum, parts)))
    return Device(
        name="cpu",
        memory_bytes=_total_memory(),
        bandwidth=threads * PART_BYTES / read_s,
        flops=2 * SIDE**3 / product_s,
        link=threads * PART_BYTES / read_s,
        source=f"measured: a matrix product and sums in 4-byte numbers, {threads} threads",
    )


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few repetitions, one to warm up before them."""
    work()
    fastest = float("inf")
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def _total_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

"""Programs judged on the nodes of a Ray cluster. Knows no file: what a node found is handed back.

Whoever asks for it holds the run directory; nodes get programs and tests, and return what came of
them. What a lost node had in hand is judged again on another; what it had returned is not. No key
and no environment of this process is sent.

Ray: https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from fim_eval.errors import ClusterError, IsolationError
from fim_eval.judge import Ruling
from fim_eval.records import Execution
from fim_eval.sandbox import Examined, Jail, Job, find_jail, run_jobs
from fim_eval.words import Isolation

KeyT = TypeVar("KeyT")

CHUNK = 32
"""Programs that one task judges: what the loss of a node costs, for each of its processors."""

CHUNKS_PER_PROCESSOR = 2
"""In flight at most: one at work, one that waits."""

RETRIES = 3
"""How often a chunk is judged again whose node or process was lost."""

LOOK_S = 5.0
"""After so long without a result it is seen whether the cluster still has processors."""


class RayCluster:
    """A cluster that this process has joined."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def processors(self) -> int:
        """That its living nodes offer."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def nodes(self) -> int:
        """Living ones with processors to offer."""
        return sum(
            node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in self._ray.nodes()
        )

    def run_jobs(
        self,
        jobs: Iterable[Job[KeyT]],
        jail: Jail,
        workers: int,  # noqa: ARG002  the cluster's processors say how many are at work
    ) -> Generator[Examined[KeyT]]:
        """What `sandbox.run_jobs` does, spread over the nodes, one program at a processor.

        Raises:
            IsolationError: a node does not offer the tier of `jail`.
            ClusterError: a chunk was lost with its node too often, or no node is left.
        """
        ray = self._ray
        judge = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(_judge)
        chunks = _chunks(jobs, CHUNK)
        in_flight: dict[Any, list[Job[KeyT]]] = {}
        try:
            while True:
                room = max(1, CHUNKS_PER_PROCESSOR * self.processors()) - len(in_flight)
                for chunk in islice(chunks, max(0, room)):
                    # Without their keys: they are the caller's, and may mean nothing there.
                    sent = [
                        Job(place, job.program, job.examination, job.limits)
                        for place, job in enumerate(chunk)
                    ]
                    in_flight[judge.remote(sent, jail.isolation)] = chunk
                if not in_flight:
                    return
                done, _ = ray.wait(list(in_flight), num_returns=1, timeout=LOOK_S)
                if not done and not self.processors():
                    raise ClusterError(
                        "the Ray cluster has no node with a processor left; what was judged is on "
                        "disk. Start nodes with `ray start` and run the same command: it resumes"
                    )
                for task in done:
                    yield from _returned(ray, task, in_flight.pop(task))
        finally:
            for task in in_flight:
                ray.cancel(task, force=True)


@contextmanager
def joined(address: str | None) -> Iterator[RayCluster]:
    """A Ray cluster, left again at the end.

    Args:
        address: as `ray.init` takes it; None: that of RAY_ADDRESS. `local` starts a cluster of
            this machine alone, and ends it with the command.

    Raises:
        ClusterError: Ray is not installed, no address is known, or nobody answers there.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise ClusterError(
            "--engine ray: no cluster is named; give its address with --ray-address or "
            "RAY_ADDRESS (`ray start --head` starts one and prints it), or say --ray-address "
            "local for one of this machine alone"
        )
    # Nothing about a benchmark is told to others: Ray reports usage unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Of Ray's two behaviours where no accelerator is asked for, the one that warns of nothing.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # noqa: PLC0415  an extra, and a second to import
    except ImportError as error:
        raise ClusterError(
            "--engine ray: Ray is not installed; pip install 'fim-eval[ray]', here and on every "
            "node"
        ) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"{address}: no Ray cluster can be joined there ({str(error).splitlines()[0]})"
        ) from error
    try:
        yield RayCluster(ray)
    finally:
        ray.shutdown()


def _chunks(jobs: Iterable[Job[KeyT]], size: int) -> Iterator[list[Job[KeyT]]]:
    left = iter(jobs)
    while chunk := list(islice(left, size)):
        yield chunk


def _returned(ray: Any, task: Any, chunk: list[Job[KeyT]]) -> Iterator[Examined[KeyT]]:
    """What came of a chunk."""
    try:
        found = ray.get(task)
    except ray.exceptions.RayError as error:
        first = chunk[0].examination.problem_id
        raise ClusterError(
            f"a chunk of {len(chunk)} programs, the first for {first}, could not be judged on the "
            f"Ray cluster ({type(error).__name__}: {str(error).strip().splitlines()[-1]}); what "
            "was judged is on disk. fim-eval has to be installed on every node, in the same version"
        ) from error
    if isinstance(found, str):
        raise IsolationError(found)
    for place, execution, ruling in found:
        yield Examined(chunk[place], execution, ruling)


def _judge(jobs: list[Job[int]], isolation: Isolation) -> list[tuple[int, Execution, Ruling]] | str:
    """On a node: each job's place, execution and ruling; or why the node cannot isolate them."""
    try:
        jail = _jail(isolation)
    except IsolationError as error:
        return f"node {os.uname().nodename}: does not offer isolation {isolation}: {error}"
    return [(one.job.key, one.execution, one.ruling) for one in run_jobs(jobs, jail, 1)]


@functools.cache
def _jail(isolation: Isolation) -> Jail:
    """Tried out once in each of Ray's processes."""
    return find_jail(isolation, lambda _: None)

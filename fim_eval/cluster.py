"""Programs judged, and models asked, from the nodes of a Ray cluster. Knows no file.

Whoever asks for it holds the run directory; nodes get programs and tests, or prompts, and return
what came of them. What a lost node had in hand is done again on another; what it had returned is
not. No key and no environment of this process is sent.

Ray: https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html, and actors.html there.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from typing import Any, TypeVar

from fim_eval.errand import Asked, Delivery, Envoy, Errand
from fim_eval.errors import ClusterError, FimEvalError, IsolationError
from fim_eval.judge import Ruling
from fim_eval.records import Execution
from fim_eval.sandbox import Examined, Jail, Job, find_jail, run_jobs
from fim_eval.words import Isolation

KeyT = TypeVar("KeyT")

HERE = version("fim-eval")
"""In this process's environment."""

CHUNK = 32
"""Programs that one task judges: what the loss of a node costs, for each of its processors."""

CHUNKS_PER_PROCESSOR = 2
"""In flight at most: one at work, one that waits."""

RETRIES = 3
"""How often a chunk is judged, or a request asked, again whose node or process was lost."""

LOOK_S = 5.0
"""After so long without a result it is seen whether the cluster still has processors."""

NO_NODE = (
    "the Ray cluster has no node with a processor left; what was done is on disk. Start nodes with "
    "`ray start` and run the same command: it resumes"
)

READY_S = 120.0
"""How long nodes may take to start a process that asks."""


class RayCluster:
    """A cluster that this process has joined."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def processors(self) -> int:
        """That its living nodes offer."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def nodes(self) -> int:
        """Living ones with processors to offer."""
        return len(self.node_ids())

    def node_ids(self) -> list[str]:
        """Those that `nodes` counts."""
        return [
            node["NodeID"]
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        ]

    @contextmanager
    def asking(self) -> Iterator[RayAsker]:
        """A process that asks on every node with a processor, until the context ends.

        Raises:
            ClusterError: one does not start, or has another version of fim_eval.
        """
        asker = RayAsker(self._ray, self)
        try:
            asker.check()
            yield asker
        finally:
            asker.end()

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
                    raise ClusterError(NO_NODE)
                for task in done:
                    yield from _returned(ray, task, in_flight.pop(task))
        finally:
            for task in in_flight:
                ray.cancel(task, force=True)


class RayAsker:
    """Asks from the nodes: `errand.Elsewhere`. One process on each, with connections of its own."""

    def __init__(self, ray: Any, cluster: RayCluster) -> None:
        """See `RayCluster.asking`."""
        self._ray = ray
        self._cluster = cluster
        self._envoys: dict[str, Any] = {}
        """By node."""
        self._in_flight: Counter[str] = Counter()
        self._send_out()

    def check(self) -> None:
        """Wait until every process has started.

        Raises:
            ClusterError: one does not, or has another version of fim_eval; names its node.
        """
        ray = self._ray
        starting = {envoy.check.remote(HERE): node for node, envoy in self._envoys.items()}
        done, late = [], []
        if starting:
            done, late = ray.wait(list(starting), num_returns=len(starting), timeout=READY_S)
        if late:
            raise ClusterError(
                f"Ray node {starting[late[0]]}: has not started a process that asks within "
                f"{READY_S:.0f} s; are its processors taken? `ray status` tells"
            )
        for one in done:
            node = starting[one]
            try:
                fault = ray.get(one)
            except ray.exceptions.RayError as error:
                if node not in self._cluster.node_ids():
                    # Lost while it started.
                    del self._envoys[node]
                    continue
                raise ClusterError(
                    f"Ray node {node}: cannot ask ({_last_line(error)}); fim-eval has to "
                    "be installed on every node, in the same version"
                ) from error
            if fault is not None:
                raise fault
        if not self._envoys:
            raise ClusterError("the Ray cluster has no node with a processor; see `ray status`")

    def end(self) -> None:
        """End every process."""
        for envoy in self._envoys.values():
            self._ray.kill(envoy)

    async def __call__(self, errand: Errand, asked: Sequence[Asked], *, streamed: bool) -> Delivery:
        """Have it asked where the fewest prompts are in flight; elsewhere if that one is lost.

        Raises:
            ClusterError: it was lost too often, or no node is left.
            FimEvalError: as `errand.Envoy`.
        """
        errors = self._ray.exceptions
        for tried in range(RETRIES + 1):
            if not self._envoys:
                raise ClusterError(NO_NODE)
            node = min(self._envoys, key=self._in_flight.__getitem__)
            envoy = self._envoys[node]
            self._in_flight[node] += len(asked)
            try:
                found = await self._value(envoy.ask.remote(HERE, errand, asked, streamed))
            except errors.RayTaskError:
                # A fault of our own: elsewhere it would be the same.
                raise
            except errors.RayError as error:
                if tried == RETRIES:
                    raise ClusterError(
                        f"a request was lost {tried + 1} times on the Ray cluster "
                        f"({type(error).__name__}: {_last_line(error)}); what was answered is on "
                        "disk, and the same command resumes"
                    ) from error
                self._replace(node, envoy)
            else:
                break
            finally:
                self._in_flight[node] -= len(asked)
        if isinstance(found, FimEvalError):
            raise found
        return found

    async def _value(self, task: Any) -> Delivery | FimEvalError:
        waiting = asyncio.wrap_future(task.future())
        try:
            while not (await asyncio.wait({waiting}, timeout=LOOK_S))[0]:
                if not self._cluster.processors():
                    raise ClusterError(NO_NODE)
            found: Delivery | FimEvalError = await waiting
        finally:
            if not waiting.done():
                self._ray.cancel(task)
                waiting.cancel()
        return found

    def _replace(self, node: str, envoy: Any) -> None:
        """Do without a process that is lost; every node that is there has one again."""
        if self._envoys.get(node) is envoy:
            del self._envoys[node]
            # It may only be out of reach.
            self._ray.kill(envoy)
            self._send_out()

    def _send_out(self) -> None:
        envoy = self._ray.remote(_RayEnvoy)
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        for node in self._cluster.node_ids():
            if node not in self._envoys:
                # Soft: a node may be lost that is still listed.
                strategy = affinity(node, soft=True)
                self._envoys[node] = envoy.options(scheduling_strategy=strategy).remote()


class _RayEnvoy:
    """On a node: asks. What ends the run is returned, not raised: Ray would wrap it."""

    def __init__(self) -> None:
        self._name = os.uname().nodename
        self._envoy = Envoy(self._name, os.environ)

    async def check(self, wanted: str) -> ClusterError | None:
        if wanted == HERE:
            return None
        return ClusterError(
            f"node {self._name}: has fim-eval {HERE}, and {wanted} asks it; install the same on "
            "every node"
        )

    async def ask(
        self, wanted: str, errand: Errand, asked: Sequence[Asked], streamed: bool
    ) -> Delivery | FimEvalError:
        try:
            return await self.check(wanted) or await self._envoy(errand, asked, streamed=streamed)
        except FimEvalError as error:
            return error


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


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


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
            f"Ray cluster ({type(error).__name__}: {_last_line(error)}); what "
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

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
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from typing import Any, TypeVar

from fim_eval.errand import Asked, Delivery, Envoy, Errand
from fim_eval.errors import ClusterError, EndpointError, FimEvalError, IsolationError
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

NODES_S = 1.0
"""After so long, while answers are waited for, it is seen which nodes there are."""


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
    def asking(self, notice: Callable[[str], None]) -> Iterator[RayAsker]:
        """A process that asks on every node with a processor, until the context ends.

        Args:
            notice: told, for a person, of nodes that come and go meanwhile.

        Raises:
            ClusterError: one does not start, or has another version of fim_eval.
        """
        asker = RayAsker(self._ray, self, notice)
        try:
            asker.start()
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
            ClusterError: a node has another version of fim_eval, a chunk was lost with its node too
                often, or no node is left.
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
                    in_flight[judge.remote(HERE, sent, jail.isolation)] = chunk
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
    """Asks from the nodes: `errand.Elsewhere`. One process on each, with connections of its own.

    Nodes are looked for as long as answers are waited for: one that has joined asks as soon as its
    process has started.
    """

    def __init__(self, ray: Any, cluster: RayCluster, notice: Callable[[str], None]) -> None:
        """See `RayCluster.asking`."""
        self._ray = ray
        self._cluster = cluster
        self._notice = notice
        self._ready: dict[str, Any] = {}
        """Processes that ask, by node."""
        self._starting: dict[str, _Starting] = {}
        self._refused: set[str] = set()
        """Nodes that cannot ask; a node that is started anew has another name."""
        self._keys: set[str] = set()
        """Variables that a key was needed from."""
        self._living: list[str] = []
        self._looked_s = -NODES_S
        self._in_flight: Counter[str] = Counter()

    def start(self) -> None:
        """Start a process on every node, and wait until each asks.

        Raises:
            ClusterError: one does not, or has another version of fim_eval; names its node.
        """
        self._living = self._cluster.node_ids()
        self._send_out()
        if self._starting:
            tasks = [starting.fault for starting in self._starting.values()]
            self._ray.wait(tasks, num_returns=len(tasks), timeout=READY_S)
        self._living = self._cluster.node_ids()
        for _, fault in self._settled():
            if fault is not None:
                raise fault
        for node in self._starting:
            raise _late(node)
        if not self._ready:
            raise ClusterError("the Ray cluster has no node with a processor; see `ray status`")

    def end(self) -> None:
        """End every process."""
        for envoy in (*self._ready.values(), *(each.envoy for each in self._starting.values())):
            self._ray.kill(envoy)

    async def __call__(self, errand: Errand, asked: Sequence[Asked], *, streamed: bool) -> Delivery:
        """Have it asked where the fewest prompts are in flight; elsewhere if that one is lost.

        Raises:
            ClusterError: it was lost too often, or no node is left.
            FimEvalError: as `errand.Envoy`.
        """
        errors = self._ray.exceptions
        if errand.api_key_env is not None:
            self._keys.add(errand.api_key_env)
        for tried in range(RETRIES + 1):
            node = await self._least_busy()
            envoy = self._ready[node]
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
                self._lost(node, envoy)
            else:
                break
            finally:
                self._in_flight[node] -= len(asked)
        if isinstance(found, FimEvalError):
            raise found
        return found

    async def _least_busy(self) -> str:
        """The node with the fewest prompts in flight; waits for one that is starting if none asks.

        Raises:
            ClusterError: no node is left.
        """
        self._look()
        while not self._ready:
            if not self._starting:
                raise ClusterError(NO_NODE)
            await asyncio.sleep(NODES_S)
            self._look()
        return min(self._ready, key=self._in_flight.__getitem__)

    async def _value(self, task: Any) -> Delivery | FimEvalError:
        waiting = asyncio.wrap_future(task.future())
        try:
            while not (await asyncio.wait({waiting}, timeout=NODES_S))[0]:
                self._look()
                if not self._living:
                    raise ClusterError(NO_NODE)
            found: Delivery | FimEvalError = await waiting
        finally:
            if not waiting.done():
                self._ray.cancel(task)
                waiting.cancel()
        return found

    def _lost(self, node: str, envoy: Any) -> None:
        """Do without a process that is lost; if only it is, its node has another one started."""
        if self._ready.get(node) is envoy:
            del self._ready[node]
            # It may only be out of reach.
            self._ray.kill(envoy)
            self._notice(f"Ray node {node}: is lost; what it was asking is asked from others")
            self._looked_s = -NODES_S
            self._look()

    def _look(self) -> None:
        """See who has joined, and whose process has started, unless that was done just now."""
        now_s = time.monotonic()
        if now_s - self._looked_s < NODES_S:
            return
        self._looked_s = now_s
        self._living = self._cluster.node_ids()
        for node, fault in self._settled():
            self._notice(
                f"Ray node {node}: asks too"
                if fault is None
                else f"{fault}; the others go on without it"
            )
        self._send_out()

    def _send_out(self) -> None:
        """Start a process on every node that has none."""
        envoy = self._ray.remote(_RayEnvoy)
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        for node in self._living:
            if node not in {*self._ready, *self._starting, *self._refused}:
                # Not soft: a node that is lost by now must not ask twice from another.
                made = envoy.options(scheduling_strategy=affinity(node, soft=False)).remote()
                fault = made.check.remote(HERE, sorted(self._keys))
                self._starting[node] = _Starting(made, fault, time.monotonic())

    def _settled(self) -> Iterator[tuple[str, FimEvalError | None]]:
        """Nodes that ask from now on, and those that cannot, with the reason."""
        nodes = {starting.fault: node for node, starting in self._starting.items()}
        done = self._ray.wait([*nodes], num_returns=len(nodes), timeout=0)[0] if nodes else ()
        for task, node in nodes.items():
            starting = self._starting[node]
            if task in done:
                fault = self._fault(node, task)
            elif time.monotonic() - starting.since_s < READY_S:
                continue
            else:
                fault = _late(node)
            del self._starting[node]
            if fault is None:
                self._ready[node] = starting.envoy
            else:
                self._ray.kill(starting.envoy)
                if node not in self._living:
                    # Lost while it started.
                    continue
                self._refused.add(node)
            yield node, fault

    def _fault(self, node: str, task: Any) -> FimEvalError | None:
        try:
            fault: FimEvalError | None = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return ClusterError(
                f"Ray node {node}: cannot ask ({_last_line(error)}); fim-eval has to "
                "be installed on every node, in the same version"
            )
        return fault


@dataclass(frozen=True, slots=True)
class _Starting:
    """A process that does not ask yet."""

    envoy: Any

    fault: Any
    """What will tell whether it can."""

    since_s: float
    """Monotonic."""


def _late(node: str) -> ClusterError:
    return ClusterError(
        f"Ray node {node}: has not started a process that asks within {READY_S:.0f} s; are its "
        "processors taken? `ray status` tells"
    )


def _other_version(wanted: str) -> ClusterError | None:
    """On a node: why it must not take part, if it is of another version than whoever asks it."""
    if wanted == HERE:
        return None
    return ClusterError(
        f"node {os.uname().nodename}: has fim-eval {HERE}, and {wanted} asks it; install the same "
        "on every node"
    )


class _RayEnvoy:
    """On a node: asks. What ends the run is returned, not raised: Ray would wrap it."""

    def __init__(self) -> None:
        self._name = os.uname().nodename
        self._envoy = Envoy(self._name, os.environ)

    async def check(self, wanted: str, keys: Sequence[str] = ()) -> FimEvalError | None:
        if (fault := _other_version(wanted)) is not None:
            return fault
        try:
            for each in keys:
                self._envoy.key(each)
        except EndpointError as error:
            return error
        return None

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
    if isinstance(found, FimEvalError):
        raise found
    for place, execution, ruling in found:
        yield Examined(chunk[place], execution, ruling)


def _judge(
    wanted: str, jobs: list[Job[int]], isolation: Isolation
) -> list[tuple[int, Execution, Ruling]] | FimEvalError:
    """On a node: each job's place, execution and ruling; or why the node cannot judge them."""
    if (fault := _other_version(wanted)) is not None:
        return fault
    try:
        jail = _jail(isolation)
    except IsolationError as error:
        return IsolationError(
            f"node {os.uname().nodename}: does not offer isolation {isolation}: {error}"
        )
    return [(one.job.key, one.execution, one.ruling) for one in run_jobs(jobs, jail, 1)]


@functools.cache
def _jail(isolation: Isolation) -> Jail:
    """Tried out once in each of Ray's processes."""
    return find_jail(isolation, lambda _: None)

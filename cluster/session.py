"""The only place that starts or joins Ray, and that takes hold of a part of it."""

import gc
import logging
import os
import signal
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray._private.state import available_resources_per_node  # no public call tells it by node
from ray._private.utils import read_ray_address
from ray.exceptions import AuthenticationError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster import head, own_ray
from cluster.job import in_job
from cluster.nursery import worker_command
from cluster.placement import Node, Plan, Role, make_plan
from rlhf.problems import InputError, Stopped

HERE = "here"
"""How the driver's own node is called."""

COLLECTION_S = 10.0
"""Longest wait for another thread's garbage collection; then Ray ends all the same."""

NODE_LABEL = "ray.io/node-id"
"""Ray gives every node this label."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the session holds of the cluster, and nobody else can have until it ends."""

    plan: Plan
    seats: Mapping[str, Sequence[Any]]
    """By role, a Ray scheduling strategy for each worker."""


@contextmanager
def session(
    address: str | None,
    roles: Sequence[Role],
    timeout_s: float,
    tell: Callable[[str], None] = print,
) -> Iterator[Reservation]:
    """Within it, Ray is there and holds room for the roles; raises InputError if it has not.

    Without an address Ray starts on this machine and ends with the session, but in a submitted job
    the job's cluster is joined. If Ray is already there, as under a sweep's launcher, it is used
    and left as it is. What others use is waited for, `timeout_s` at most, which `tell` is told.
    Loops of events that ask workers must have ended before it does: what still waits for an answer
    once Ray has ended ends this process at once, with exit code 1.
    """
    with _ray(address, roles):
        plan, group = _reserve(roles, timeout_s, tell)
        try:
            yield Reservation(plan, _strategies(plan, group))
        finally:
            if head.draining() is not None:  # else it would be waited for
                remove_placement_group(group)


def find_nodes(address: str | None, roles: Sequence[Role]) -> list[Node]:
    """The nodes that a session would find, and all that they have."""
    if address is None and not in_job() and not ray.is_initialized():
        return [local_node(roles)]
    with _ray(address, roles):
        return _nodes(_totals())


def local_node(roles: Sequence[Role]) -> Node:
    """What a Ray started on this machine offers: its GPUs, and as many CPU slots as asked for.

    A slot is permission to start a worker, not a core: on a laptop, workers that take turns may
    share the two cores there are.
    """
    import torch

    needed = sum(role.count * role.num_cpus for role in roles)
    free = {
        "CPU": max(needed, float(os.cpu_count() or 1)),
        "GPU": float(torch.cuda.device_count()),
        "memory": float(psutil.virtual_memory().available),
    }
    return Node("local", HERE, free)


# --- starting and joining ------------------------------------------------------------------------


@contextmanager
def _ray(address: str | None, roles: Sequence[Role]) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    if address is None and in_job():
        address = "auto"
    before = signal.getsignal(signal.SIGTERM)
    head.outlast()
    try:
        _start(roles) if address is None else _join(address)
        with _stoppable(before):
            yield
    finally:
        _end()


def _end() -> None:
    """Ends Ray, and nothing of Ray's is collected meanwhile: a stream of answers that another
    thread's garbage collection found just then would end this process at once, with its exit
    code."""
    collects = gc.isenabled()
    gc.disable()
    try:
        _collect()
        ray.shutdown()
    finally:
        if collects:
            gc.enable()


def _collect() -> None:
    """Leaves no garbage. While another thread is collecting, Python's own call does nothing."""
    circle: list[object] = [mark := threading.Event()]
    circle.append(circle)
    is_there = weakref.ref(mark)
    del circle, mark
    deadline = time.monotonic() + COLLECTION_S
    gc.collect()
    while is_there() and time.monotonic() < deadline:
        time.sleep(0.001)
        gc.collect()


@contextmanager
def _stoppable(before: Any) -> Iterator[None]:
    """Within it, SIGTERM raises Stopped, where Ray's own handler would leave with another code,
    and so does SIGHUP, which would end the process without a word.

    Only the main thread can set handlers; `before` is what to put back for SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise Stopped("outside its rounds: what it had saved before is kept")

    earlier = {signal.SIGTERM: before, signal.SIGHUP: signal.getsignal(signal.SIGHUP)}
    for one in earlier:
        signal.signal(one, stop)
    try:
        yield
    finally:
        for one, handler in earlier.items():
            signal.signal(one, handler or signal.SIG_DFL)


def _start(roles: Sequence[Role]) -> None:
    here = local_node(roles)
    make_plan(roles, [here])  # refused before anything has started
    with own_ray.by_loopback(), own_ray.small():
        ray.init(
            "local",  # even where another Ray is running
            num_cpus=int(here.free["CPU"]),
            num_gpus=int(here.free["GPU"]),
            _memory=here.free["memory"],
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"py_executable": command} if (command := worker_command()) else None,
        )


def _join(address: str) -> None:
    where = f"cluster.address={address}"
    if address.startswith("ray://"):
        raise InputError(
            [f"{where}: Ray's client protocol lacks what is needed here; use `ray job submit`, or "
             "run on a node of the cluster with cluster=auto"]
        )  # fmt: skip
    _require_listening(where, address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except ValueError as error:
        raise InputError(
            [f"{where}: is no address ({error}); `cluster=auto` joins that of this node, and "
             "cluster.address=HOST:6379 another"]
        ) from error  # fmt: skip
    except ConnectionError as error:
        raise InputError(
            [f"{where}: no Ray cluster answers there ({error}); `cluster=local` starts one here, "
             "and one with token authentication answers with RAY_AUTH_MODE=token only"]
        ) from error  # fmt: skip
    except AuthenticationError as error:
        cause = str(error).splitlines()[0]
        raise InputError(
            [f"{where}: the cluster wants a token ({cause}); set RAY_AUTH_MODE=token and give its "
             "token by RAY_AUTH_TOKEN_PATH"]
        ) from error  # fmt: skip


def _require_listening(where: str, address: str) -> None:
    """Refuses an address at which nobody listens, since Ray would go on trying for minutes."""
    named = address
    if address == "auto":
        named = os.environ.get("RAY_ADDRESS") or read_ray_address() or ""
        if not named:  # Ray would join whatever it finds, were it another run's own
            raise InputError(
                [f"{where}: no Ray cluster answers: neither RAY_ADDRESS nor `ray start` on this "
                 "node names one; `cluster=local` starts one here"]
            )  # fmt: skip
    host, _, port = named.rpartition(":")
    if not host or not port.isdigit():
        return  # Ray knows where, or will say what is wrong with it
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise InputError(
            [f"{where}: no Ray cluster answers at {named} ({error}); `cluster=local` starts one "
             "here"]
        ) from error  # fmt: skip


# --- taking hold ---------------------------------------------------------------------------------


def _reserve(
    roles: Sequence[Role], timeout_s: float, tell: Callable[[str], None]
) -> tuple[Plan, PlacementGroup]:
    """Refuses at once what the cluster could never hold, and waits for what others use."""
    make_plan(roles, _nodes(_totals()))
    deadline, told = time.monotonic() + timeout_s, False
    while True:
        try:
            plan = make_plan(roles, _nodes(available_resources_per_node()))
        except InputError as error:
            lacking = error.problems
        else:
            if group := _take(plan, deadline - time.monotonic()):
                return plan, group
            lacking = ["placement: what was free has been taken, or is free in parts only"]
        if time.monotonic() >= deadline:
            over = f"others use the rest, and cluster.start_timeout_s={timeout_s:g} are over"
            raise InputError([f"{problem} ({over})" for problem in lacking])
        if not told:
            tell("waiting for what others use of the cluster: " + "; ".join(lacking))
            told = True
        time.sleep(1)


def _take(plan: Plan, left_s: float) -> PlacementGroup | None:
    """The plan's seats, or None if Ray does not give them soon."""
    group = placement_group(
        [{name: need for name, need in seat.needs.items() if need} for seat in plan.seats],
        bundle_label_selector=[{NODE_LABEL: seat.node.id} for seat in plan.seats],
    )
    if group.wait(max(1.0, min(10.0, left_s))):
        return group
    remove_placement_group(group)
    return None


def _strategies(plan: Plan, group: PlacementGroup) -> dict[str, list[Any]]:
    return {
        role: [PlacementGroupSchedulingStrategy(group, index) for index in indices]
        for role, indices in plan.seat_indices.items()
    }


def _totals() -> dict[str, dict[str, float]]:
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def _nodes(resources: Mapping[str, Mapping[str, float]]) -> list[Node]:
    """Nodes that live, with what they have of everything; always in the same order."""
    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    alive[ray.get_runtime_context().get_node_id()] = HERE
    several = {address for address, count in Counter(alive.values()).items() if count > 1}
    return [
        Node(id, f"{address} ({id[:6]})" if address in several else address, resources[id])
        for id, address in sorted(alive.items(), key=lambda item: (item[1], item[0]))
        if id in resources
    ]

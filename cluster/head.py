"""The process that knows what a Ray cluster consists of (its GCS): without it calls between workers
still arrive, but nothing can be started, and Ray ends this process in the end."""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import ray
from ray._raylet import GcsClient  # no public call tells which nodes are drained
from ray.exceptions import AuthenticationError, RayError

from rlhf.problems import RunFailed

ENDS = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""After how long without it Ray ends a process that asks it something; 60 s is Ray's own."""
ENDS_S = 180
LOOK_S = 5.0


class ClusterLost(RunFailed):
    """The cluster's head does not answer, or is another's."""


def outlast() -> None:
    """Before Ray is started or joined: leaves time to keep what there is."""
    os.environ.setdefault(ENDS, str(ENDS_S))


def patience_s(silence_s: float) -> float:
    """How long it may be away: so long, and longer where Ray has been told to do without it for
    longer than `outlast` says, as for one that keeps its state and comes back."""
    return max(silence_s, float(os.environ.get(ENDS, ENDS_S)) - ENDS_S)


def listens() -> bool:
    """Whether anybody does at the address of the cluster that this process is in."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_S).close()
    except OSError:
        return False
    return True


def draining() -> set[str] | None:
    """The nodes that are about to go, as a scheduler or a cloud has told Ray; nothing new starts
    there. None if nobody answers who knows."""
    try:
        return _ask()
    except AuthenticationError:
        return None


def _ask() -> set[str] | None:
    """As `draining`; raises AuthenticationError if there is another cluster at its address, such as
    that of a head which was started again and has kept nothing."""
    if not listens():
        return None
    client = _client(ray.get_runtime_context().gcs_address)
    try:
        return set(client.get_draining_nodes(timeout=LOOK_S))
    except AuthenticationError:
        raise
    except RayError:  # too slow, or gone meanwhile
        return None


@cache
def _client(address: str) -> GcsClient:
    return GcsClient(address=address)


async def back(silence_s: float, tell: Callable[[str], None] = lambda _: None) -> None:
    """Once it answers, and tells if that takes long; raises ClusterLost after `watch` does, which
    sees to it that what there is is saved."""
    heard, is_told = time.monotonic() + 2 * LOOK_S, False
    while await _look(heard, silence_s) is None:
        if not is_told:
            tell("waiting for the head of the Ray cluster: nothing starts without it")
            is_told = True
        await asyncio.sleep(min(silence_s / 4, LOOK_S))


async def watch(
    done: asyncio.Event,
    silence_s: float,
    lost: Callable[[ClusterLost], None],
    drained: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    """Until it is done: calls `lost` once nobody has listened there for too long (`patience_s`),
    `drained` with each node that is about to go, and tells when it goes and comes."""
    heard, told, unheard = time.monotonic(), set(), 0
    while not done.is_set():
        try:
            going = await _look(heard, silence_s)
        except ClusterLost as error:
            return lost(error)
        if going is None:
            unheard += 1
            if unheard == 2:  # one that was only slow is not worth a line
                tell(
                    f"{_named()} does not answer: the run goes on without it for "
                    f"{patience_s(silence_s):g} s, in which nothing can be started anew"
                )
        else:
            if unheard >= 2:
                tell(f"{_named()} answers again, after {time.monotonic() - heard:.0f} s")
            heard, unheard = time.monotonic(), 0
            for node in sorted(going - told):
                told.add(node)
                drained(node)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(silence_s / 4, LOOK_S)):
                await done.wait()


async def _look(heard: float, silence_s: float) -> set[str] | None:
    """As `draining`; raises ClusterLost if it has been silent since `heard`, and for too long, or
    is another's."""
    try:
        going = await asyncio.to_thread(_ask)
    except AuthenticationError as error:
        raise ClusterLost(
            f"{_named()} was started again, and knows nothing of this run; begun again, the run "
            "goes on from its newest checkpoint"
        ) from error
    silent_s = time.monotonic() - heard
    if going is None and silent_s > (longest_s := patience_s(silence_s)):
        why = "cluster.silence_s" if longest_s == silence_s else ENDS
        raise ClusterLost(
            f"{_named()} has not answered for {silent_s:.0f} s ({why}): its machine or its process "
            "is gone; begun again on a cluster that lives, the run goes on from its newest "
            "checkpoint"
        )
    return going


def _named() -> str:
    return f"the head of the Ray cluster at {ray.get_runtime_context().gcs_address}"

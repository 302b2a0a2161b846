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

ENDS_S = "180"
"""After how long without it Ray ends a process that asks it something; 60 is Ray's own."""
LOOK_S = 5.0


class ClusterLost(RunFailed):
    """The cluster's head does not answer, or is another's."""


def outlast() -> None:
    """Before Ray is started or joined: leaves time to keep what there is."""
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", ENDS_S)


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


async def watch(
    done: asyncio.Event,
    silence_s: float,
    lost: Callable[[ClusterLost], None],
    drained: Callable[[str], None],
) -> None:
    """Until it is done: calls `lost` once nobody has listened there for so long, and `drained` with
    each node that is about to go."""
    heard, told = time.monotonic(), set()
    while not done.is_set():
        try:
            going = await asyncio.to_thread(_ask)
        except AuthenticationError:
            return lost(
                ClusterLost(
                    f"the head of the Ray cluster at {ray.get_runtime_context().gcs_address} was "
                    "started again, and knows nothing of this run; begun again, the run goes on "
                    "from its newest checkpoint"
                )
            )
        if going is not None:
            heard = time.monotonic()
            for node in sorted(going - told):
                told.add(node)
                drained(node)
        elif (silent_s := time.monotonic() - heard) > silence_s:
            address = ray.get_runtime_context().gcs_address
            lost(
                ClusterLost(
                    f"the head of the Ray cluster at {address} has not answered for {silent_s:.0f} "
                    "s (cluster.silence_s): its machine or its process is gone; begun again on a "
                    "cluster that lives, the run goes on from its newest checkpoint"
                )
            )
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(min(silence_s / 4, LOOK_S)):
                await done.wait()

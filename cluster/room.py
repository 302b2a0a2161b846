"""Where a running cluster has room just now, and which of its nodes are there at all."""

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # no public call tells it by node

from cluster import head

ANSWERS_S = 1.0
"""How soon a node's own process takes a connection, if it lives."""
LOOKS = 32
"""At nodes, at once."""


def is_there(node_id: str) -> bool:
    """Whether the node lives, and is not about to go; Ray itself may learn of its end later. True
    while the cluster's head does not answer, of which alone one could know."""
    going = head.draining()
    if going is None:
        return True
    nodes = [one for one in ray.nodes() if one["NodeID"] == node_id and one["Alive"]]
    return bool(nodes) and node_id not in going and _answers(nodes[0])


def ended() -> list[str]:
    """Nodes that have ended of which Ray has yet to learn, so that it starts actors there, who die
    once it does; no node while the cluster's head does not answer."""
    if head.draining() is None:
        return []
    alive = [one for one in ray.nodes() if one["Alive"]]
    with ThreadPoolExecutor(LOOKS) as looking:
        found = zip(alive, looking.map(_answers, alive), strict=True)
        return [one["NodeID"] for one, answers in found if not answers]


def _answers(node: Mapping[str, Any]) -> bool:
    address = node["NodeManagerAddress"], node["NodeManagerPort"]
    try:
        socket.create_connection(address, timeout=ANSWERS_S).close()
    except OSError:
        return False
    return True


def with_room(needs: Mapping[str, float], most: int) -> list[str]:
    """Nodes for so many workers of these needs, one after another on the one with most CPUs left;
    fewer where there is no more room."""
    going = head.draining()
    if going is None:
        return []
    alive = {one["NodeID"] for one in ray.nodes() if one["Alive"]} - going
    found = available_resources_per_node()
    free = {node: dict(found[node]) for node in sorted(alive & found.keys())}
    chosen = []
    for _ in range(most):
        fitting = [node for node, left in free.items() if _fits(needs, left)]
        if not fitting:
            break
        node = max(fitting, key=lambda one: free[one].get("CPU", 0.0))
        for name, need in needs.items():
            free[node][name] = free[node].get(name, 0.0) - need
        chosen.append(node)
    return chosen


def for_copies() -> float:
    """Bytes of one thing that every node can hold a new and an old copy of, beside as much of
    others, in Ray's object store."""
    stores = [
        one["Resources"].get("object_store_memory", 0.0) for one in ray.nodes() if one["Alive"]
    ]
    return min(stores) / 4


def _fits(needs: Mapping[str, float], left: Mapping[str, float]) -> bool:
    return all(need <= left.get(name, 0.0) + 1e-6 for name, need in needs.items())

"""Whether workers on other nodes see the same files as the driver, tried out before they start."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.placement import Plan
from rlhf.problems import InputError

TIMEOUT_S = 60.0
THROWAWAY = "_ray_pkg_"
"""How Ray names the folder that it unpacks a job's working directory into, and later deletes."""


def refuse_throwaway(key: str, path: Path) -> None:
    """Raises InputError if the path is inside a job's working directory."""
    if any(part.startswith(THROWAWAY) for part in path.parts):
        raise InputError(
            [
                f"{key}={path}: is inside the job's working directory, which Ray deletes; "
                f"set {key} to an absolute path on storage that all nodes share"
            ]
        )


def require_shared(plan: Plan, paths: Mapping[str, Sequence[Path]]) -> None:
    """Raises InputError for every path that a role's node does not see as this process does.

    Of a folder it is not enough to be there: each gets a mark for a moment where it can be written,
    so that a folder of the same name on a node's own disk is told from the shared one.
    """
    wanted: dict[str, set[Path]] = {}
    addresses = {}
    here = ray.get_runtime_context().get_node_id()
    for role, own in paths.items():
        for node in plan.nodes(role) if role in plan.seat_indices else ():
            if node.id != here:
                addresses[node.id] = node.address
                wanted.setdefault(node.id, set()).update(own)
    if not wanted:
        return
    marks = {path: _mark(path) for path in set().union(*wanted.values())}
    try:
        seen = _look({id: [marks[path] for path in paths] for id, paths in wanted.items()})
    finally:
        for path, mark in marks.items():
            if mark != path:
                mark.unlink()
    problems = [
        f"{path}: node {addresses[id]} does not see it; put it on storage that all nodes share"
        for id, own in wanted.items()
        for path in sorted(own)
        if marks[path] not in seen[id]
    ]
    if problems:
        raise InputError(problems)


def _mark(folder: Path) -> Path:
    """A new file in the folder, or the folder itself where nothing can be written."""
    mark = folder / f".seen_{uuid4().hex}"
    try:
        mark.touch()
    except OSError:
        return folder
    return mark


def _look(wanted: Mapping[str, Sequence[Path]]) -> dict[str, set[Path]]:
    """By node, which of the paths are there."""

    @ray.remote(num_cpus=0, max_retries=0)
    def visible(paths: Sequence[Path]) -> set[Path]:
        return {path for path in paths if path.exists()}

    asked = {
        id: visible.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)
        ).remote(list(paths))
        for id, paths in wanted.items()
    }
    try:
        answers = ray.get(list(asked.values()), timeout=TIMEOUT_S)
    except RayError as error:  # a node that is too slow, or has gone
        raise InputError(
            [
                f"placement: not every node has answered within {TIMEOUT_S:g} s "
                f"({type(error).__name__}); look at `ray status`"
            ]
        ) from error
    return dict(zip(asked, answers, strict=True))

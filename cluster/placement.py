"""How many CPUs and GPUs each role needs, and whether the cluster has them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of worker: how many, and what each of them holds on to."""

    name: str
    count: int
    num_cpus: float
    num_gpus: float


def shortages(roles: Sequence[Role], available: Mapping[str, float]) -> list[str]:
    """What the cluster lacks, with needed and available by role; empty if everything fits.

    Checked before anything is placed, because Ray would wait for ever instead of refusing.
    """
    lacking = []
    for resource, need in (
        ("GPU", {role.name: role.count * role.num_gpus for role in roles}),
        ("CPU", {role.name: role.count * role.num_cpus for role in roles}),
    ):
        total, there = sum(need.values()), available.get(resource, 0.0)
        if total > there:
            by_role = ", ".join(f"{name} {number:g}" for name, number in need.items() if number)
            lacking.append(
                f"placement: {total:g} {resource}s are needed ({by_role}) and {there:g} are "
                f"available; start fewer workers or add nodes"
            )
    return lacking


def local_resources(roles: Sequence[Role]) -> dict[str, float]:
    """What a Ray started on this machine offers: its GPUs, and as many CPU slots as asked for.

    A slot is permission to start a worker, not a core: on a laptop, workers that take turns may
    share the two cores there are.
    """
    import torch

    needed = sum(role.count * role.num_cpus for role in roles)
    return {"CPU": max(needed, float(os.cpu_count() or 1)), "GPU": float(torch.cuda.device_count())}

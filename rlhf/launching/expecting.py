"""What a command does as soon as it knows that it will start workers."""

from cluster import nursery
from cluster.job import in_job
from rlhf import imports
from rlhf.config.run import ClusterConfig, PlacementConfig

MODULES = ("rlhf.models.loading", "rlhf.models.saving", "actors.deepspeed_engine")
"""What workers take longest to import, of which nothing imports Ray."""


def expect_workers(cluster: ClusterConfig, placement: PlacementConfig) -> None:
    """Has what they need imported while the command reads its data and Ray starts, if they will
    be on this machine's CPUs; returns at once."""
    if cluster.address is None and not placement.gpus and not in_job():
        nursery.begin(MODULES, {"DS_ACCELERATOR": "cpu", **imports.WORKER_ENV})

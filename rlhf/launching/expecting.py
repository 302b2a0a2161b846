"""What a command does as soon as it knows that it will start workers."""

from cluster import nursery
from cluster.job import in_job
from rlhf import imports
from rlhf.config.run import ClusterConfig, PlacementConfig

MODULES = (
    "rlhf.models.loading",
    "rlhf.models.saving",
    "rlhf.collecting.dispatch",
    "rlhf.diagnostics",
    "rlhf.learning.logprobs",
    "rlhf.objectives",
    "actors.deepspeed_engine",
    # What most models are made of.
    "transformers.models.llama.modeling_llama",
    # What Ray imports of others.
    "google.protobuf.json_format",
    "google.protobuf.text_format",
    "jsonschema",
    "pydantic.v1.fields",
    "requests",
)
"""What workers import, and take longest for, of which nothing imports Ray."""


def expect_workers(cluster: ClusterConfig, placement: PlacementConfig) -> None:
    """Has what they need imported while the command reads its data and Ray starts, if they will
    be on this machine's CPUs; returns at once."""
    if cluster.address is None and not placement.gpus and not in_job():
        nursery.begin(MODULES, {"DS_ACCELERATOR": "cpu", **imports.WORKER_ENV})

"""How a configuration's rollout workers get the policy's weights."""

from rlhf.config.models import Lora, PublishedLora, Transport
from rlhf.launching.configuration import Config


def served_lora(config: Config) -> Lora | None:
    """Of the adapter that rollout workers add to the model themselves."""
    return config.policy.lora if config.weights.lora is PublishedLora.adapter else None


def transport(config: Config) -> Transport:
    """By which weights, or an adapter alone, go to rollout workers."""
    if served_lora(config) is not None:
        return Transport.object_store
    if config.weights.transport is not Transport.auto:
        return config.weights.transport
    if not config.placement.gpus or not config.rollout.shares_gpus:
        return Transport.object_store
    return Transport.ipc if config.placement.colocated else Transport.nccl


def sleeps(config: Config) -> bool:
    """Whether rollout workers give their GPU's memory back while the policy trains."""
    return config.placement.colocated and config.rollout.shares_gpus

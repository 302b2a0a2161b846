"""What counts as the death of a worker, whatever Ray or an engine calls it.

A worker that is dead is started anew, if its role may be. So is one that raised an error which
nobody foresaw (`actors.group.WorkerRaised`); one of our own, which says what to change, would be
raised again.
"""

from collections.abc import Iterator

import torch
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from actors.vllm_faults import EngineFailed

DEATHS = (
    RayActorError,  # its process has ended, or cannot be reached
    WorkerCrashedError,
    OutOfMemoryError,  # Ray's monitor ended it, before the kernel would have
    NodeDiedError,
    LocalRayletDiedError,
    ObjectLostError,  # with the node, or the process, that held its answer: OwnerDiedError too
    OutOfDiskError,  # its answer could not be spilled
)
"""What a call raises whose worker is gone, or its answer with it."""
RAISED = (
    EngineFailed,
    OutOfDiskError,
    MemoryError,
    torch.OutOfMemoryError,
    torch.AcceleratorError,  # after which a GPU's context answers nothing any more
)
"""What a worker itself raises that is of no more use: its engine's own process has ended, nothing
can be kept on its node, or it has no memory, which a new process has."""
NO_MEMORY = "DefaultCPUAllocator: "
"""How torch begins to say that a CPU has no memory, in a RuntimeError like any other."""


def is_death(error: RayError) -> bool:
    """Whether the worker whose call raised this can be asked no more."""
    if isinstance(error, RayTaskError):
        return any(
            isinstance(cause, RAISED) or NO_MEMORY in str(cause) for cause in _each(error.cause)
        )
    return isinstance(error, DEATHS)


def _each(error: BaseException | None) -> Iterator[BaseException | None]:
    """Itself, or what tasks under way at once have raised."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _each(one)
    else:
        yield error

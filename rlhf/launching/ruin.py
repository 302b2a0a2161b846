"""What people are told of a run whose policy is of no more use: from where it can be gone on."""

from pathlib import Path

from rlhf.problems import Collapsed, PolicyBroken
from rlhf.storage.checkpoint import complete_names, last_sound


def with_last_good(broken: BaseException, checkpoints: Path) -> PolicyBroken:
    """The same, in words that name the last checkpoint from before it; of a group, the first."""
    while isinstance(broken, BaseExceptionGroup):
        broken = broken.exceptions[0]
    since = broken.since if isinstance(broken, Collapsed) else None
    good = last_sound(checkpoints, before=since)
    if good is None:
        return PolicyBroken(f"{broken}; no checkpoint is from before that: begin anew")
    later = [name for name in complete_names(checkpoints) if name > good.name]
    first = f"delete {', '.join(later)} there, and " if later else ""
    return PolicyBroken(
        f"{broken}; the last good checkpoint is {good}: {first}the same command goes on from it"
    )

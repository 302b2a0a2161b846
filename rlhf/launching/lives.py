"""How often a run may begin again at its newest checkpoint because its policy is lost."""

from rlhf.collecting.dispatch import MAX_ATTEMPTS
from rlhf.problems import PolicyLost, PolicyRaised
from rlhf.storage.checkpoint import Checkpoint


class Lives:
    """So often without a new checkpoint, or a round that had never been reached, in between; and
    with the same error of a rank's own no more often than any request is asked, since it is raised
    every time."""

    def __init__(self, max_restarts: int, checkpoint: Checkpoint | None) -> None:
        self._max_restarts = max_restarts
        self._from = checkpoint and checkpoint.directory
        self._furthest = 0
        self._causes: list[PolicyLost] = []

    def begin(self, checkpoint: Checkpoint | None, rounds: int, cause: PolicyLost) -> None:
        """`rounds`: done when it was lost. Raises the cause if it has been lost too often."""
        begins_at = checkpoint and checkpoint.directory
        if begins_at != self._from or rounds > self._furthest:
            self._causes.clear()
        self._from, self._furthest = begins_at, max(rounds, self._furthest)
        self._causes.append(cause)
        alike = [one for one in self._causes if _is_alike(one, cause)]
        if len(self._causes) > self._max_restarts or len(alike) >= MAX_ATTEMPTS:
            raise cause


def _is_alike(one: PolicyLost, other: PolicyLost) -> bool:
    """Whether both tell of the same error, whichever rank was the first to raise it."""
    if not (isinstance(one, PolicyRaised) and isinstance(other, PolicyRaised)):
        return False
    return str(one).partition(": ")[2] == str(other).partition(": ")[2]


def first_of(group: BaseExceptionGroup[PolicyLost]) -> PolicyLost:
    """Of what tasks under way at once have raised."""
    one = group.exceptions[0]
    return first_of(one) if isinstance(one, BaseExceptionGroup) else one

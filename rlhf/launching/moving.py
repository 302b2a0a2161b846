"""Workers whose node is about to go, as a cloud or a scheduler says before it takes it away."""

from collections.abc import Mapping, Sequence

from actors.group import Worker
from rlhf.launching.stopping import StopRequest
from rlhf.problems import PolicyLost


class Mover:
    """Takes the workers of such a node elsewhere, while it is still there."""

    def __init__(self, workers: Mapping[str, Sequence[Worker]], stop: StopRequest) -> None:
        """By role."""
        self._workers = workers
        self._stop = stop

    def from_node(self, node_id: str) -> None:
        """The policy is saved at the next boundary, and goes on elsewhere from there; others start
        elsewhere at once, and what they were asked is asked again."""
        for role, workers in self._workers.items():
            for worker in workers:
                if worker.node_id != node_id or worker.cause is not None:
                    continue
                where = f"{worker.name} on node {node_id[:8]}"
                cause = f"{where}: the node is drained, and will be gone"
                if role == "policy":
                    self._stop.interrupt(PolicyLost(cause))
                elif worker.keeper is not None:
                    worker.lose(worker.handle, cause)

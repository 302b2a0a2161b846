"""Which workers were lost and started anew: told at once, and counted."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.stages import Metrics, Publisher
from rlhf.watching.alerts import Alert
from rlhf.watching.metrics import RESTARTS


class Restarts:
    """Of a whole run, by role."""

    def __init__(
        self,
        roles: Sequence[str],
        records: Sequence[Mapping[str, Any]],
        tell: Callable[[Alert], None],
    ) -> None:
        """`records`: lines of `metrics.jsonl` that a run which goes on has already."""
        known = {name: value for record in records for name, value in record.items()}
        self._counts = Counter({role: int(known.get(f"{RESTARTS}{role}", 0)) for role in roles})
        self._tell = tell

    def begin(self, role: str, worker: str, cause: str, details: str = "") -> None:
        """A worker, whose loss has that cause, is about to be started anew; `details`: of the
        cause, in lines."""
        whole, _, _ = role.partition(".")  # of a panel's members, the panel
        self._counts[whole] += 1
        text = f"{cause}; {worker} is started anew ({self._counts[whole]} so far)"
        self._tell(Alert(f"{worker} was lost", text, details=details))

    def give_up(self, worker: str, cause: str, details: str = "") -> None:
        """A worker is not started anew any more, and the others of its role go on without it."""
        self._tell(Alert(f"{worker} is gone", f"{cause}; nobody takes its place", details=details))

    def metrics(self) -> Metrics:
        """Restarts so far, by role."""
        return {f"{RESTARTS}{role}": float(count) for role, count in self._counts.items()}


@dataclass(frozen=True, slots=True)
class Counted:
    """`rlhf.stages.Publisher` that also says how many restarts there were."""

    publisher: Publisher
    restarts: Restarts

    async def publish(self, version: int) -> Metrics:
        return await self.publisher.publish(version) | self.restarts.metrics()

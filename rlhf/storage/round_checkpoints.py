"""The checkpoints of a run: some on disk, and between them the newest round in memory."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rlhf.storage.checkpoint import (
    BEST,
    LATEST,
    STATE,
    being_written,
    complete_names,
    name_of,
    remove,
)
from rlhf.storage.disk import gib, write_atomically, writing
from rlhf.storage.ledger import LEDGER, Ledger
from rlhf.storage.threads import in_thread

Files = Mapping[str, Any]
"""What they hold, in bytes, by their path in a checkpoint."""


class KeptPolicy(Protocol):
    """What the policy does for a checkpoint."""

    async def save(self, directory: Path) -> None: ...

    async def snapshot(self, most_bytes: float) -> Files | None:
        """What `save` would write; None if that is more."""
        ...


class Remembered:
    """The newest checkpoint that is in the memory of this process and on no disk."""

    def __init__(
        self, share: float, most_bytes: float = math.inf, tell: Callable[[str], None] = print
    ) -> None:
        """`share`: the largest part of the time that taking them may last, 0 for none; `tell` hears
        if one is larger than `most_bytes`, and that there will be none."""
        self._share, self._most_bytes, self._tell = share, most_bytes, tell
        self._due_s = 0.0 if share else math.inf
        self._newest: tuple[int, Files] | None = None

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._due_s

    async def take(self, num_rounds: int, policy: KeptPolicy, rest: Files) -> None:
        """After so many rounds, of the policy and of the `rest`, in place of the one before."""
        begin_s, self._due_s = time.monotonic(), math.inf
        try:
            files = await policy.snapshot(self._most_bytes)
        finally:
            self._due_s = begin_s + (time.monotonic() - begin_s) / self._share
        if files is not None:
            self._newest = num_rounds, {**files, **rest}
            return
        self._due_s = math.inf
        self._tell(
            f"no checkpoints in memory: one takes more than {gib(self._most_bytes)}, a quarter of "
            "the smallest object store of the cluster; a lost policy rank goes back to the newest "
            "on disk (run.checkpoint_every)"
        )

    def forget(self) -> None:
        self._newest = None

    async def write(self, directory: Path) -> None:
        """As a checkpoint like others, unless there is one as new. Raises DiskFailed."""
        if self._newest is None:
            return
        num_rounds, files = self._newest
        names = complete_names(directory)
        if not names or names[-1] < name_of(num_rounds):
            async with being_written(directory, num_rounds) as folder:
                await in_thread(_write, folder, files)
            write_atomically(directory / LATEST, name_of(num_rounds))
        self.forget()


class RoundCheckpoints:
    """Writes `checkpoints/round_NNNNNN`, keeping the newest few."""

    def __init__(
        self,
        directory: Path,
        policy: KeptPolicy,
        ledger: Ledger,
        *,
        keep: int,
        state: dict[str, Any],
        best: Callable[[Sequence[int]], int | None] | None = None,
        remembered: Remembered | None = None,
    ) -> None:
        """`state`: what every checkpoint of the run notes besides its round, as JSON; `best`: of
        checkpoints after so many rounds, the one that is kept besides the newest."""
        self._directory = directory
        self._policy = policy
        self._ledger = ledger
        self._keep = keep
        self._state = state
        self._best = best
        self._remembered = remembered or Remembered(0)

    async def save(self, num_rounds: int) -> Path:
        """Raises DiskFailed where there is no room, which leaves all that is there as it is."""
        final = self._directory / name_of(num_rounds)
        if not final.exists():  # else it was renamed, when it was complete
            async with being_written(self._directory, num_rounds) as folder:
                await self._policy.save(folder)
                _write(folder, self._rest(num_rounds))
        with writing(final):
            write_atomically(self._directory / LATEST, final.name)
            await in_thread(self._remove_old)
        self._remembered.forget()
        return final

    async def remember(self, num_rounds: int) -> None:
        """Keeps in memory what `save` would write, if that is to be done again by now."""
        if self._remembered.is_due:
            await self._remembered.take(num_rounds, self._policy, self._rest(num_rounds))

    def _rest(self, num_rounds: int) -> Files:
        """All that is not the policy's."""
        state = {"num_rounds": num_rounds, "policy_version": num_rounds, **self._state}
        texts = {LEDGER: self._ledger.text(num_rounds), STATE: json.dumps(state, indent=1)}
        return {name: text.encode() for name, text in texts.items()}

    def _remove_old(self) -> None:
        names = complete_names(self._directory)
        kept = set(names[-self._keep :])
        rounds = [int(name.removeprefix("round_")) for name in names]
        if self._best and (best := self._best(rounds)) is not None:
            kept.add(name_of(best))
            write_atomically(self._directory / BEST, name_of(best))
        for old in names:
            if old not in kept:
                remove(self._directory / old)


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

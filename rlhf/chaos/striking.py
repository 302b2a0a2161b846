"""A run in processes of its own, what happens to them, and how long it takes to get over it."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from rlhf.chaos.settings import ROLES, RUN, Moment, Settings
from rlhf.seeds import derive_seed
from rlhf.storage.checkpoint import UNFINISHED
from rlhf.storage.store import round_files

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
LOOK_S = 0.05
LIST_S = 1.0
"""How often all processes are listed, which takes time."""
QUICK_LOOK_S = 0.001
"""While a moment that is short is waited for."""
END_S = 30.0
"""How long what a run started may outlive it."""


class Failure(NamedTuple):
    """What is to happen."""

    wait_s: float
    """After the one before, or after the first line of `metrics.jsonl`."""
    how: str
    role: str
    pick: float = 0.0
    """Which of the role's processes: from 0, below 1."""
    at: Moment = Moment.any
    rounds: int = 0
    """Not before so many are done."""


@dataclass(slots=True)
class Struck:
    """What has happened."""

    how: str
    role: str
    at_s: float
    """Since the run began."""
    rounds: int
    """Done by then."""
    lowest: int
    """To how many rounds it went back."""
    back_s: float | None = None
    """Until one more round was done than by then; None if the run ended before."""

    @property
    def repeated(self) -> int:
        """Rounds that were done twice."""
        return self.rounds - self.lowest


@dataclass(slots=True)
class Ended:
    """How a run ended."""

    code: int | None
    """None: it had to be killed, since it did not end."""
    seconds: float
    struck: list[Struck] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Processes of its own that outlived it, by their commands, and what they did then."""
    planned: int = 0
    """Failures that it was to have, of which some may not have come before it ended."""


def failures(settings: Settings, seed: int) -> Iterator[Failure]:
    """The same for the same seed."""
    rng = random.Random(derive_seed(seed, "chaos"))
    ways = [("kill", role) for role in settings.kill] + [("stop", role) for role in settings.stop]
    for _ in range(rng.randint(*settings.failures)):
        how, role = rng.choice(ways)
        wait_s = settings.every * rng.uniform(0.5, 1.5)
        yield Failure(wait_s, how, role, rng.random(), settings.at)


class Broken:
    """A run of `python -m rlhf`, under these failures."""

    def __init__(
        self,
        overrides: Sequence[str],
        directory: Path,
        planned: Iterable[Failure] = (),
        limit_s: float = 3600.0,
        module: str = "rlhf",
    ) -> None:
        """What it says goes to a file beside `directory`; `module`: what Python runs."""
        self._command = [sys.executable, "-m", module, *overrides, f"run.dir={directory}"]
        self._directory, self._limit_s = directory, limit_s
        self._log = directory.with_name(f"{directory.name}.log")
        self._all = list(planned)
        self._planned = iter(self._all)
        self._seen: dict[int, psutil.Process] = {}
        self._listed_at = 0.0
        self._rounds, self._known = 0, (0, 0, 0)
        self._struck: list[Struck] = []

    def through(self) -> Ended:
        """To its end, however often it has to be begun."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._begun = time.monotonic()
        with self._log.open("wb") as log:
            self._process = self._start(log)
            try:
                code = self._run(log)
            finally:
                self._process.kill()
                self._process.wait()
                left = self._end_all()
        return Ended(code, time.monotonic() - self._begun, self._struck, left, len(self._all))

    def _run(self, log) -> int | None:
        planned, due = next(self._planned, None), None
        while True:
            self._look()
            if self._now() > self._limit_s:
                return None
            if (code := self._process.poll()) is not None:
                was_killed = self._struck and self._struck[-1].role == RUN
                if code != -signal.SIGKILL or not was_killed:
                    return code
                self._process = self._start(log)
            if planned is not None and due is None and self._has_begun():
                due = self._now() + planned.wait_s
            is_near = False
            if planned is not None and due is not None and self._now() >= due:
                is_near = planned.at is not Moment.any
                if self._is_now(planned) and self._strike(planned):
                    planned, due = next(self._planned, None), None
            time.sleep(QUICK_LOOK_S if is_near else LOOK_S)

    def _start(self, log) -> subprocess.Popen:
        return subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )

    def _now(self) -> float:
        return time.monotonic() - self._begun

    def _has_begun(self) -> bool:
        """What cannot start is wrong, and told at once: failures come after that."""
        return self._known[1] > 0

    def _is_now(self, planned: Failure) -> bool:
        if self._rounds < planned.rounds:
            return False
        match planned.at:
            case Moment.saving:
                return any((self._directory / "checkpoints").glob(UNFINISHED))
            case Moment.publishing:
                self._count()
                return len(round_files(self._directory)) > self._rounds
            case Moment.any:
                return True

    def _strike(self, planned: Failure) -> bool:
        """Whether there is such a process just now."""
        found = self._processes(planned.role)
        if not found:
            return False
        with suppress(psutil.NoSuchProcess):
            found[int(planned.pick * len(found))].send_signal(SIGNALS[planned.how])
            self._note(planned)
            return True
        return False

    def _note(self, planned: Failure) -> None:
        """It has just happened."""
        self._count()
        self._struck.append(
            Struck(planned.how, planned.role, self._now(), self._rounds, self._rounds)
        )

    def _processes(self, role: str) -> list[psutil.Process]:
        """Of the role, those that live and are not stopped, in the order of their start."""
        if role == RUN:
            return [psutil.Process(self._process.pid)] if self._process.poll() is None else []
        return [one for one in self._below() if _is_at_work(one, ROLES[role])]

    def _below(self) -> list[psutil.Process]:
        try:
            found = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._seen |= {one.pid: one for one in found}
        return sorted(found, key=lambda one: one.pid)

    def _look(self) -> None:
        """What has become of the run since the last failure."""
        if self._now() > self._listed_at + LIST_S:
            self._below()
            self._listed_at = self._now()
        self._count()
        for one in self._struck:
            if one.back_s is None:
                one.lowest = min(one.lowest, self._rounds)
                if self._rounds > one.rounds:
                    one.back_s = self._now() - one.at_s

    def _count(self) -> None:
        """Rounds that are done, by the lines of `metrics.jsonl`."""
        file = self._directory / "metrics.jsonl"
        with suppress(FileNotFoundError):
            status = file.stat()
            known = (status.st_ino, status.st_size, status.st_mtime_ns)
            if known != self._known:
                content = file.read_bytes()
                self._known = known
                # The line of round -1 comes first, where there is an evaluation before training.
                self._rounds = content.count(b"\n") - content.startswith(b'{"round": -1,')

    def _end_all(self) -> list[str]:
        """What outlives the run, and is ended."""
        _, processes = psutil.wait_procs(list(self._seen.values()), timeout=END_S)
        left = []
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                left.append(f"{' '.join(one.cmdline()) or one.name()} ({one.status()})")
                one.kill()
        return left


def _is_at_work(process: psutil.Process, name: str) -> bool:
    try:
        words = process.cmdline()
        is_one = bool(words) and words[0].startswith(f"ray::{name}")
        return is_one and process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False

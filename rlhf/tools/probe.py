"""Finds out, by trying, how well model-written code is locked in on this machine."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.problems import InputError
from rlhf.tools import hostile, sandbox
from rlhf.tools.jail import LAYERS, landlock_abi
from rlhf.tools.sandbox import Exit, Limits, SandboxFailed, run_python

VICTIM_END_S = 10.0


@dataclass(frozen=True)
class SandboxLevel:
    """Which layers of the sandbox hold here."""

    landlock_abi: int
    """The kernel's version of Landlock; 0 without it."""
    missing: Mapping[str, str]
    """Why a layer of `LAYERS` does not hold: it cannot be set up, or some attack got through."""

    @property
    def full(self) -> bool:
        return not self.missing

    @property
    def lack(self) -> str:
        """What is missing, in a sentence."""
        what = ", ".join(f"{layer} ({why})" for layer, why in self.missing.items())
        return f"model-written code is not locked in on this machine: {what}"

    def lines(self) -> list[str]:
        """One for each layer."""
        about = {"landlock": f"ABI {self.landlock_abi}, "}
        return [
            f"{layer}: MISSING: {self.missing[layer]}"
            if layer in self.missing
            else f"{layer}: {about.get(layer, '')}stopped {len(hostile.ATTACKS[layer])} attacks"
            for layer in LAYERS
        ]


def probe() -> SandboxLevel:
    """Attacks this machine from inside the sandbox, harmlessly; takes less than a second.

    Not for a thread that runs an event loop: there, await `measure`.
    """
    return asyncio.run(measure())


async def measure() -> SandboxLevel:
    """See `probe`. First it deletes what killed runs have left."""
    sandbox.sweep()
    try:
        abi = landlock_abi()
    except (OSError, AttributeError):  # No Landlock; no Linux.
        abi = 0
    missing: dict[str, str] = {}
    try:
        await run_python("")
    except SandboxFailed as error:
        for reason in str(error.args[0]).split("; "):
            layer, _, why = reason.partition(": ")
            missing[layer] = why
        if not missing.keys() <= LAYERS.keys():
            return _nothing(abi, str(error.args[0]))
    limits = Limits()
    try:
        with _targets() as targets:
            code = f"{Path(hostile.__file__).read_text()}\nattack({targets | asdict(limits)!r})"
            outcome = await run_python(code, limits, allow_unsafe=True)
    except SandboxFailed as error:
        return _nothing(abi, str(error.args[0]))
    *breaches, last = outcome.stdout.splitlines() or [""]
    if outcome.exit is not Exit.finished or last != "done":
        return _nothing(abi, f"the probe {outcome.exit}: {outcome.stderr[-200:]!r}")
    for breach in breaches:
        layer, _, name = breach.partition(": ")
        before = f"{missing[layer]}; " if layer in missing else ""
        missing[layer] = f"{before}code could {name}"
    return SandboxLevel(abi, {layer: missing[layer] for layer in LAYERS if layer in missing})


def _nothing(abi: int, why: str) -> SandboxLevel:
    return SandboxLevel(abi, dict.fromkeys(LAYERS, why))


@contextlib.contextmanager
def _targets() -> Iterator[dict[str, Any]]:
    """What to attack, open to every user as far as file modes go; all of it ours."""
    # Not this process itself: to be traced would stop it.
    victim = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    try:
        with (
            tempfile.TemporaryDirectory(prefix="agon-probe-") as folder,
            socket.socket(socket.AF_UNIX) as listening,
        ):
            os.chmod(folder, 0o777)
            token, path = Path(folder, "token"), Path(folder, "socket")
            token.write_text("a token")
            token.chmod(0o644)
            listening.bind(str(path))
            listening.listen()
            path.chmod(0o777)
            yield {
                "folder": folder,
                "token": str(token),
                "socket": str(path),
                "victim": victim.pid,
            }
    finally:
        victim.kill()
        victim.communicate(timeout=VICTIM_END_S)


def require(level: SandboxLevel, group: str = "tools") -> None:
    """Raises InputError if a layer is missing; with `GROUP.allow_unsafe=true` that is only told."""
    if level.full:
        return
    raise InputError(
        [
            f"{group}: {level.lack}; use x86_64 Linux with Landlock (5.13 or newer), or set"
            f" {group}.allow_unsafe=true to run such code all the same, able to do what your user "
            "can"
        ]
    )

"""Runs model-written Python in a process that can compute, print, and write into one empty folder.

Each run is a fresh process, locked in by `jail.py` with resource limits, no privilege, Landlock and
seccomp, and killed at its deadline. It cannot start a process, open a socket, or read what is
neither Python nor a system library; it can still ask which paths exist (`stat`) and where links
lead (`readlink`). How many run at once on a node is for the caller to limit: each may take
`memory_bytes` of memory, `cpu_s` of a processor, and on disk `file_bytes`, beside a file of at most
that size behind each of its `num_open_files`, which no folder shows once it is deleted.
"""

import asyncio
import fcntl
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from rlhf.problems import RunFailed
from rlhf.tools import folders, processes, seccomp
from rlhf.tools.jail import NOBODY, READY, SPARE_UID

JAIL = str(Path(__file__).with_name("jail.py"))
FLAGS = ["-s", "-P", "-S", "-B", "-X", "utf8"]
"""Isolated as by `-I -S -B`, which however would ignore PYTHONHASHSEED, and so make the order of a
set differ from run to run. The environment is ours, so that there is nothing else to ignore."""
STDERR_CHARS = 4000
START_S = 60.0
"""For the interpreter to start and lock itself in, which takes 0.1 s on an idle machine."""
END_S = 10.0
"""For a killed process to be gone."""
HEED_S = 0.5
"""Of a processor, in which code has to end that was told that its time is over."""
MOST_WAITING = 10
WATCH_S = 0.05
"""How often the folder is looked at; in between, each file is limited, and so is their writer."""


@dataclass(frozen=True)
class Limits:
    """What one run may use. Raises ValueError for limits under which Python cannot start."""

    wall_s: float = 10.0
    """From when the code begins; for how long it waits for a processor that others have does not
    count, up to `MOST_WAITING` times as long."""
    cpu_s: int = 5
    """Processor time, of all threads."""
    memory_bytes: int = 512 << 20
    """Address space."""
    output_bytes: int = 64 << 10
    """Of standard output, and of standard error; more ends the run."""
    file_bytes: int = 8 << 20
    """All files together, and so each; more ends the run."""
    num_files: int = 64
    """Files and folders; more ends the run."""
    num_open_files: int = 32
    num_threads: int = 64
    """More ends the run, or, for a worker that runs as root, fails."""
    code_bytes: int = 64 << 10
    """Of source; longer source is not run."""

    def __post_init__(self) -> None:
        least = {"memory_bytes": 64 << 20, "num_open_files": 16, "file_bytes": 0, "num_files": 0}
        for name, value in asdict(self).items():
            if not value >= least.get(name, 1 if isinstance(value, int) else 0.001):
                raise ValueError(f"{name} is {value}; at least {least.get(name, 1)} is needed")


class Exit(StrEnum):
    """How a run ended."""

    finished = "finished"
    """With exit status 0."""
    failed = "failed"
    """With another one, as after an exception; or the code could not be run at all."""
    timed_out = "timed_out"
    """Its wall clock or processor time was up."""
    killed = "killed"
    """By a signal of its own making: a crash, or too much of something."""
    output_limit = "output_limit"
    """It printed too much, or wrote too much to files."""


@dataclass(frozen=True)
class Outcome:
    """What a run printed, and how it ended. Bytes that are no UTF-8 show as U+FFFD."""

    stdout: str
    """Cut after `output_bytes`."""
    stderr: str
    """Its last 4,000 characters."""
    exit: Exit


class SandboxFailed(RunFailed):
    """The sandbox could not be built here, and no code ran; its argument says why."""

    def __str__(self) -> str:
        return f"model-written code cannot be locked in here: {self.args[0]}"


async def run_python(
    code: str,
    limits: Limits | None = None,
    *,
    allow_unsafe: bool = False,
    handles: Sequence[int] = (),
    packages: Mapping[str, str] = MappingProxyType({}),
) -> Outcome:
    """Runs Python source; whatever it does shows in the outcome, not as an exception.

    `handles` are open files, such as ends of pipes, that it has under the same numbers; `packages`
    are what it may import beside the standard library, by name, if it names any of them.
    Raises SandboxFailed where a layer of the sandbox is missing, unless `allow_unsafe` lets the
    code run without it. Cancelling kills the run. The event loop must keep turning: it is what ends
    a run that prints or writes too much.
    """
    limits = limits or Limits()
    source = code.encode(errors="surrogatepass")
    if len(source) > limits.code_bytes:
        return Outcome("", f"the code is longer than {limits.code_bytes} bytes", Exit.failed)
    folder = tempfile.mkdtemp(prefix=f"{_marks()}{os.getpid()}-")
    try:
        settings = {
            **asdict(limits),
            "parent": os.getpid(),
            "seccomp": seccomp.program().hex(),
            "allow_unsafe": allow_unsafe,
            "packages": dict(packages),
            # What they have in C is loaded beforehand, or never; numpy takes 12 ms.
            "imports": any(name in code for name in packages),
        }
        return await _run(source, settings, limits, folder, handles)
    finally:
        with suppress(OSError):
            folders.delete(folder)


def _marks() -> str:
    """Begins the name of a run's folder, before its owner's pid, which this namespace knows."""
    try:
        return f"agon-sandbox-{os.stat('/proc/self/ns/pid').st_ino}-"
    except OSError:  # No Linux.
        return "agon-sandbox-0-"


def sweep() -> None:
    """Deletes the folders of runs whose owner, a process of this user, was killed."""
    prefix, own = _marks(), {os.geteuid()}
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        pid = folder.name.removeprefix(prefix).partition("-")[0]
        with suppress(OSError):
            uid = folder.lstat().st_uid
            is_ours = uid in own or (0 in own and (uid >= SPARE_UID or uid == NOBODY))
            if is_ours and not os.path.exists(f"/proc/{pid}"):
                folders.delete(str(folder))


async def _run(
    source: bytes,
    settings: Mapping[str, Any],
    limits: Limits,
    folder: str,
    handles: Sequence[int],
) -> Outcome:
    if sys.platform != "linux":
        raise SandboxFailed(f"it takes Linux, and this is {sys.platform}")
    stdin = _sealed(source)
    try:
        transport, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Process(limits.output_bytes),
            *(sys.executable, *FLAGS, JAIL, json.dumps(settings)),
            stdin=stdin,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
            pass_fds=handles,
        )
    finally:
        os.close(stdin)
    try:
        end = await process.supervise(limits, folder)
    finally:
        process.kill()
        try:
            await asyncio.wait([process.ended], timeout=END_S)
        finally:
            transport.close()
    return Outcome(process.text(1), process.text(2)[-STDERR_CHARS:], end)


def _environment(folder: str) -> dict[str, str]:
    """All that the code sees of the environment, which holds keys and tokens."""
    environment = {
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "OMP_NUM_THREADS": "1",
        # An arena reserves 64 MiB of address space for each thread.
        "MALLOC_ARENA_MAX": "1",
        "PYTHONHASHSEED": "0",
    }
    # Some clusters' Python does not start without it.
    if path := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = path
    return environment


def _sealed(source: bytes) -> int:
    """A file in memory that nobody can change: a pipe could block us, a file be written to."""
    handle = os.memfd_create("code", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(handle, "wb", closefd=False) as file:
        file.write(source)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


class _Process(asyncio.SubprocessProtocol):
    """Gathers what a jailed process prints, and kills it the moment that is too much."""

    def __init__(self, output_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        """When it is reaped and its output is closed."""
        self._room = {1: output_bytes + len(READY), 2: output_bytes}
        self._output = {1: bytearray(), 2: bytearray()}
        self._too_much = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not so by class on uvloop, which Ray runs its actors on.
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        output, room = self._output[fd], self._room[fd]
        self._too_much |= len(output) + len(data) > room
        output += data[: room - len(output)]
        if not self.ready.done() and self._output[1].startswith(READY):
            self.ready.set_result(None)
        if self._too_much:
            self.kill()

    def process_exited(self) -> None:
        self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def text(self, fd: int) -> str:
        output = bytes(self._output[fd])
        return (output.removeprefix(READY) if fd == 1 else output).decode(errors="replace")

    def kill(self) -> None:
        # It leads its own session; not fully locked in, it may have children that outlive it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._transport.get_pid(), signal.SIGKILL)

    async def supervise(self, limits: Limits, folder: str) -> Exit:
        """Waits for its end, or for the reason to end it."""
        loop = asyncio.get_running_loop()
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait([self.ready, self.ended], timeout=START_S, return_when=first)
        if not self.ready.done():
            why = self.text(2).strip() or f"it did not start within {START_S:g} s"
            raise SandboxFailed(why)
        pid = self._transport.get_pid()
        deadline, before_s = loop.time() + limits.wall_s, processes.waited_s(pid)
        while not self.ended.done():
            left = deadline - loop.time()
            if left <= 0:
                # A busy machine is no fault of the code's.
                waited_s = processes.waited_s(pid) - before_s
                left += min(waited_s, MOST_WAITING * limits.wall_s)
                if left <= 0:
                    return Exit.timed_out
            if folders.exceeds(folder, limits.file_bytes, limits.num_files):
                return Exit.output_limit
            use = processes.use(pid)
            if use.num_threads > limits.num_threads:
                return Exit.killed
            if use.cpu_s > limits.cpu_s + HEED_S:
                return Exit.timed_out
            await asyncio.wait([self.ended], timeout=min(WATCH_S, left))
        if self._too_much:
            return Exit.output_limit
        code = self._transport.get_returncode() or 0
        if code == -signal.SIGXCPU:
            return Exit.timed_out
        return Exit.killed if code < 0 else Exit.failed if code else Exit.finished

"""Commands as forks of a process that has imported what they need.

`python -m rlhf` spends four seconds of computing on imports. A fork is the same entry point with
arguments, environment, folder, streams, signals and exit code of its own, and without them.
"""

import atexit
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
MODULES = (
    "rlhf.launching.launch",
    "rlhf.toys.tiny",
    "rlhf.watching.curves",
    "rlhf.sweep.members",
    "actors.deepspeed_engine",  # accelerate imports DeepSpeed when a model is saved
    "pandas",  # pyarrow imports it with the first array
    "pydantic.v1.fields",  # as does Ray when it connects
    "ray.dag.compiled_dag_node",  # and when it ends
    "hydra_reads_once",
)


class Forked:
    """As much of `subprocess.Popen` as tests use, for `python -m MODULE WORD...`."""

    def __init__(self, *words: str, cwd: Path, env: Mapping[str, str], apart: bool = False) -> None:
        """`apart`: with stderr in a pipe of its own, not in that of stdout."""
        self.args, self._code = words, b""
        pipes = [os.pipe() for _ in range(1 + apart)]
        self.stdout, *others = [os.fdopen(read, errors="replace") for read, _ in pipes]
        self._said: dict[IO[str], bytes] = dict.fromkeys((self.stdout, *others), b"")
        told = json.dumps(
            {
                "words": words,
                "environment": dict(env),
                "folder": str(cwd),
                "group": os.getpgrp(),
                "blocked": [],
                "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
            }
        ).encode()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(server())
        with open(os.devnull, "rb") as nothing:
            streams = [nothing.fileno(), pipes[0][1], pipes[-1][1]]
            socket.send_fds(self._server, [len(told).to_bytes(8, "big")], streams)
            self._server.sendall(told)
            self.pid = int.from_bytes(self._server.recv(8), "big")
        for _, write in pipes:
            os.close(write)

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self, wait_s: float = 0.0) -> int | None:
        if not self._code and select.select([self._server], [], [], wait_s)[0]:
            self._code = self._server.recv(8)
            assert self._code, "the server of forked commands has ended"
        return int.from_bytes(self._code, "big", signed=True) if self._code else None

    def wait(self, timeout: float) -> int:
        code = self.poll(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, ...]:
        """Everything that it says until it has ended; what came before a timeout is kept."""
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            for stream in self._said:
                if not stream.closed:
                    selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                if (left := deadline - time.monotonic()) < 0:
                    raise subprocess.TimeoutExpired(self.args, timeout)
                for key, _ in selector.select(left):
                    more = os.read(key.fd, 65536)
                    self._said[key.fileobj] += more
                    if not more:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
        self.wait(max(0.0, deadline - time.monotonic()))
        said = tuple(one.decode(errors="replace") for one in self._said.values())
        return said if len(said) > 1 else (*said, "")


def run(*words: str, cwd: Path, env: Mapping[str, str], timeout: float = 120):
    """As `subprocess.run` with both streams captured, as text."""
    process = Forked(*words, cwd=cwd, env=env, apart=True)
    try:
        stdout, stderr = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


@cache
def server() -> str:
    """The socket of this process's server, which is started if it is not there."""
    folder = tempfile.TemporaryDirectory(prefix="agon-forked-")
    path = os.path.join(folder.name, "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(128)
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(os.getpid()), str(listener.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ
            # DeepSpeed would look for a GPU, which must not have been touched before a fork.
            | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            pass_fds=[listener.fileno()],
        )
    atexit.register(folder.cleanup)
    atexit.register(process.wait)
    atexit.register(process.kill)
    return path


def serve(parent: int, listener: socket.socket) -> Sequence[str] | None:
    """Returns in each child, its words, and in the server, None, when its parent has ended."""
    from cluster.nursery import received, take_on

    with selectors.DefaultSelector() as events:
        events.register(listener, selectors.EVENT_READ)
        while os.getppid() == parent:
            for key, _ in events.select(1.0):
                if key.fileobj is listener:
                    asking, _ = listener.accept()
                    pid = os.fork()
                    if not pid:
                        told, streams = received(asking)
                        asking.close()
                        listener.close()
                        take_on(told, streams)
                        return told["words"]
                    asking.sendall(pid.to_bytes(8, "big"))
                    events.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, asking))
                else:
                    pid, asking = key.data
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    events.unregister(key.fileobj)
                    os.close(key.fileobj)
                    with asking:
                        asking.sendall(code.to_bytes(8, "big", signed=True))
    return None


def _do_once() -> None:
    """What every command would do anew, and find the same."""
    import hydra
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from rlhf.launching.configuration import CONF, register_schemas

    register_schemas()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        hydra.compose("train", ["experiment=demo"])
    get_checkpoint_conversion_mapping("llama")


def main() -> None:
    from rlhf import imports

    imports.begin()
    for module in MODULES:
        import_module(module)
    _do_once()
    imports.end()
    with socket.socket(fileno=int(sys.argv[2])) as listener:
        words = serve(int(sys.argv[1]), listener)
    if words is not None:
        if "RAY_AUTH_MODE" in os.environ:  # as a Ray in the process that asks has set it
            from ray._raylet import Config

            Config.initialize("")  # which Ray read as it was imported
        sys.argv = list(words)
        sys.path.insert(0, os.getcwd())  # as with -m
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""A process that has imported what workers need, and forks each of them: a run imports it once.

Importing PyTorch, transformers and DeepSpeed takes seconds of computing, which every worker on two
cores would spend one after another. Of the nursery's children each is a worker as Ray starts it,
with its own arguments, environment, folder, streams and group of processes; Ray itself is imported
by the child. For workers on CPUs of this machine only: a GPU must not have been touched before a
fork, and libraries do touch it while they are imported.
"""

import atexit
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from runpy import run_path
from typing import Any

from rlhf import imports

SOCKET = "AGON_NURSERY"
"""Names the nursery's socket to the process that began it and to those that this one starts."""
LOOK_S = 1.0
"""How often it looks whether who began it is still there."""


def begin(modules: Sequence[str], env: Mapping[str, str]) -> None:
    """Starts a nursery with these modules, for as long as this process lives; returns at once.

    If there is one already, it is used. `env`: what the modules read while they are imported.
    """
    if SOCKET in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="agon-nursery-")  # nobody else may enter
    path = os.path.join(folder, "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(128)  # who asks before everything is imported waits
        words = [str(os.getpid()), str(listener.fileno()), *modules]
        root = str(Path(__file__).parents[1])
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.nursery", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=root,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | dict(env),
            pass_fds=[listener.fileno()],
        )
    os.environ[SOCKET] = path
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(process.kill)  # or it would import to its end


def worker_command() -> str | None:
    """What Ray is to start workers with instead of Python; None without a nursery."""
    if SOCKET not in os.environ:
        return None
    launcher = Path(__file__).with_name("nursery_launcher.py")
    return shlex.join([sys.executable, "-I", "-S", str(launcher), os.environ[SOCKET]])


def serve(parent: int, listener: socket.socket) -> Sequence[str] | None:
    """Returns in each child, the words that it was asked for with, and in the nursery, None, when
    the process that began it has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    # What a terminal sends is meant for who began this one.
    before = {one: signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGHUP)}
    while os.getppid() == parent:
        if not select.select([listener], [], [], LOOK_S)[0]:
            continue
        asking, _ = listener.accept()
        with asking:
            if not os.fork():
                listener.close()
                for one, handler in {**before, signal.SIGCHLD: signal.SIG_DFL}.items():
                    signal.signal(one, handler)
                return _become(asking)
    return None


def _become(asking: socket.socket) -> Sequence[str]:
    """Takes on everything of the process that asks, once that one leaves it to this one."""
    told, streams = received(asking)
    os.setpgid(0, told["group"])
    asking.sendall(b"\0")
    if not asking.recv(1):  # it has not waited
        sys.exit(1)
    take_on(told, streams)
    return told["words"]


def received(asking: socket.socket) -> tuple[dict[str, Any], Sequence[int]]:
    """What a process has told of itself, and its three streams."""
    head, streams, _, _ = socket.recv_fds(asking, 8, 3)
    with asking.makefile("rb") as sent:
        return json.loads(sent.read(int.from_bytes(head, "big"))), streams


def take_on(told: Mapping[str, Any], streams: Sequence[int]) -> None:
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["folder"])
    Path("/proc/self/oom_score_adj").write_text(told["oom_score_adj"])
    signal.pthread_sigmask(signal.SIG_SETMASK, told["blocked"])
    _as_if_imported_now()


def _as_if_imported_now() -> None:
    """Lets what has been imported know of the environment that the child has."""
    torch, threads = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS")
    if torch and threads:
        torch.set_num_threads(int(threads))
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [folder for folder in folders if folder and folder not in sys.path]
    if os.environ.pop(imports.STARTING, None):
        imports.begin()


def main() -> None:
    parent, listener, *modules = sys.argv[1:]
    imports.begin()
    for module in modules:
        import_module(module)
    imports.end()
    if "ray" in sys.modules:
        sys.exit(f"{', '.join(modules)}: one of them imports Ray, which must not be forked")
    with socket.socket(fileno=int(listener)) as asked:
        folder = Path(asked.getsockname()).parent
        words = serve(int(parent), asked)
    if words is None:  # who began it may have been killed
        shutil.rmtree(folder, ignore_errors=True)
        return
    sys.argv = list(words)
    run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()

"""Starting runs as people do, from the command line, and reading what they leave."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path

import psutil
from forked import Forked
from safetensors.torch import load_file

from cluster import nursery
from rlhf.storage.store import read_metrics
from rlhf.watching.metric_names import is_repeatable

OF_ANY_DATA = [
    "experiment=demo",
    "num_rounds=4",
    "round.prompts=16",
    "warmup.steps=40",
    "eval.num_prompts=32",
    "eval.every=0",
    "tracking=disabled",
    "model.num_layers=1",
    "model.width=64",
    "model.num_heads=2",
]
SMALL = [*OF_ANY_DATA, "data.num_prompts=512", "data.num_heldout=64"]
"""The demo's 7,000 sums take a second to read."""


def start(directory: Path, *overrides: str, module: str = "rlhf") -> Forked:
    return _start(directory, module, *overrides, f"run.dir={directory}")


def _as_a_shell_does() -> None:
    """The terminal's keys and its end are heard, though whoever started the tests has them ignore
    those, as `nohup` does."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for one in (signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_DFL)


class Terminal:
    """A terminal of its own, on which a run is started, and whose output is read as it comes; the
    nursery of the run's workers is its own too, and hears the same keys."""

    def __init__(self, directory: Path, *overrides: str) -> None:
        self._screen, keyboard = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlhf", *overrides, f"run.dir={directory}"],
            stdin=keyboard,
            stdout=keyboard,
            stderr=keyboard,
            start_new_session=True,
            preexec_fn=_as_a_shell_does,
            cwd=directory.parent,
            env={name: value for name, value in _environment().items() if name != nursery.SOCKET},
        )
        os.close(keyboard)
        self._is_open = True
        self._output = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press_ctrl_c(self) -> None:
        os.write(self._screen, b"\x03")

    def close(self) -> None:
        """As when its window is closed, or a connection is lost."""
        self._is_open = False
        self._reader.join(30)
        os.close(self._screen)

    def finish(self, code: int, timeout_s: float = 60) -> str:
        try:
            found = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            found = f"not within {timeout_s} s"
        finally:
            self.process.kill()
            if self._is_open:
                self.close()
        output = self._output.decode(errors="replace")
        assert found == code, f"{found}:\n{output}"
        return output

    def _read(self) -> None:
        while self._is_open:
            if select.select([self._screen], [], [], 0.1)[0]:
                try:
                    self._output += os.read(self._screen, 65536)
                except OSError:  # nobody holds its other side any more
                    return


def start_sweep(directory: Path, *overrides: str) -> Forked:
    return _start(directory, "rlhf", "-m", *overrides, f"hydra.sweep.dir={directory}")


def _start(directory: Path, module: str, *words: str) -> Forked:
    return Forked(module, *words, cwd=directory.parent, env=_environment())


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}


def finish(process: Forked, code: int = 0, timeout_s: float = 400) -> str:
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()  # with it go its Ray and its workers
        output, _ = process.communicate(timeout=30)
        raise AssertionError(f"not within {timeout_s} s:\n{output}") from None
    assert process.returncode == code, f"exit code {process.returncode}:\n{output}"
    return output


def workers(name: str) -> list[psutil.Process]:
    """Those that Ray calls so, of the runs that these tests have under way: they are below the
    nursery of all."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            if one.cmdline() and one.cmdline()[0].startswith(f"ray::{name}"):
                found.append(one)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def kill_worker(name: str) -> None:
    """The only one."""
    (worker,) = workers(name)
    worker.kill()


def run(directory: Path, *overrides: str, code: int = 0) -> str:
    return finish(start(directory, *overrides), code)


def untimed(directory: Path) -> list[dict]:
    """The metrics, but for what the clock and the machine say."""
    return [
        {key: value for key, value in record.items() if is_repeatable(key)}
        for record in read_metrics(directory / "metrics.jsonl")
    ]


def weights(directory: Path) -> dict:
    return load_file(directory / "policy" / "model.safetensors")

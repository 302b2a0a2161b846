"""Workers that are forks of a process which has imported what they need."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster import nursery

BEGIN = """
import os, sys, time
from cluster import nursery
nursery.begin(sys.argv[1:], {"OMP_WAIT_POLICY": "passive"})
print(nursery.worker_command(), flush=True)
time.sleep(60)
"""

TELL = """
import json, os, signal, sys
print(json.dumps({
    "words": sys.argv, "name": __name__, "mine": os.environ.get("MINE"), "folder": os.getcwd(),
    "imported": sorted({"colorsys", "this"} & set(sys.modules)), "group": os.getpgrp(),
    "interrupts": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "path": sys.path[:1], "parent": os.getppid(),
}))
print("to stderr", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def began(signals_are_heard):
    """A process that has begun a nursery, and what starts workers in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN, "colorsys"],
        stdout=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != nursery.SOCKET}
        | {"PYTHONPATH": str(Path(nursery.__file__).parents[1])},
    )
    assert process.stdout is not None
    with process:
        yield process, shlex.split(process.stdout.readline())
        process.kill()


def told(command: list[str], tmp_path: Path, **env: str) -> tuple[dict, str]:
    """What a worker says of itself, and what else was said meanwhile."""
    (tmp_path / "tell.py").write_text(TELL)
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        subprocess.run(
            [*command, "tell.py", "--a=b c"],
            stdout=out,
            stderr=err,
            cwd=tmp_path,
            env=os.environ | env,
            timeout=30,
        )
    deadline = time.monotonic() + 30  # Ray's process ends as soon as the worker has begun
    while "to stderr" not in (tmp_path / "err").read_text():
        assert time.monotonic() < deadline, (tmp_path / "err").read_text()
        time.sleep(0.02)
    return json.loads((tmp_path / "out").read_text()), (tmp_path / "err").read_text()


def test_a_worker_has_all_that_it_was_started_with(began, tmp_path):
    process, command = began
    found, said = told(command, tmp_path, MINE="ü", PYTHONPATH=str(tmp_path))
    (server,) = psutil.Process(process.pid).children()
    assert found.pop("parent") == server.pid
    assert found == {
        "words": ["tell.py", "--a=b c"],
        "name": "__main__",
        "mine": "ü",
        "folder": str(tmp_path),
        "imported": ["colorsys"],
        "group": os.getpgrp(),
        "interrupts": True,
        "path": [str(tmp_path)],
    }
    assert said == "to stderr\n"


def test_it_ends_with_who_began_it_and_leaves_nothing(began):
    process, command = began
    (server,) = psutil.Process(process.pid).children()
    folder = Path(command[-1]).parent
    assert folder.is_dir() and folder.stat().st_mode & 0o077 == 0
    process.send_signal(signal.SIGKILL)
    server.wait(30)
    assert not folder.exists()


def test_without_it_a_worker_starts_by_itself_and_says_so(tmp_path):
    nobody = str(tmp_path / "nobody")
    launcher = str(Path(nursery.__file__).with_name("nursery_launcher.py"))
    found, said = told([sys.executable, launcher, nobody], tmp_path, MINE="1")
    assert (found["words"], found["mine"], found["imported"]) == (["tell.py", "--a=b c"], "1", [])
    assert said.startswith(f"{nobody}: ") and "this worker imports everything by itself" in said


def test_what_must_not_be_forked_is_refused():
    words = [sys.executable, "-m", "cluster.nursery", "1", "0", "ray"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "must not be forked" in done.stderr

"""Runs on disks that fill up, or become read-only, on the way; they need root, to mount them."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import SMALL, finish, run, start
from test_interrupted_run import until_round

from rlhf.storage.checkpoint import newest_checkpoint
from rlhf.storage.store import read, read_metrics

pytestmark = [
    pytest.mark.faults,
    pytest.mark.thorough,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk"),
]
SETTINGS = [*SMALL, "num_rounds=400", "run.checkpoint_every=2", "run.keep_checkpoints=2"]


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """One of 16 MiB, in memory."""
    mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", tmp_path)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def told(output: str) -> str:
    """The one line that a run has failed with."""
    assert "Traceback" not in output
    (line,) = [one for one in output.splitlines() if one.startswith("failed: ")]
    return line


def goes_on(directory: Path) -> None:
    """What was complete is so still."""
    done = read_metrics(directory / "metrics.jsonl")[-1]["round"] + 3
    output = run(directory, *SETTINGS, f"num_rounds={done}", "run.resume=must")
    assert "resuming from" in output
    assert [one["round"] for one in read_metrics(directory / "metrics.jsonl")] == [*range(-1, done)]
    assert len(set(read(directory)["round"].to_pylist())) <= done


def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_damages_nothing(disk):
    directory = disk / "run"
    begun = start(directory, *SETTINGS)
    until_round(directory, 4)
    with (disk / "something_else").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(1 << 12))
            except OSError:
                break
    line = told(finish(begun, code=1, timeout_s=120))
    assert str(directory) in line and "cannot be written" in line and "are free)" in line
    assert json.loads((directory / "summary.json").read_text())["status"] == "failed"
    assert newest_checkpoint(directory / "checkpoints") is not None
    (disk / "something_else").unlink()
    goes_on(directory)


def test_a_disk_that_becomes_read_only_likewise(disk):
    directory = disk / "run"
    begun = start(directory, *SETTINGS)
    until_round(directory, 4)
    mount("--bind", disk, disk)
    mount("-o", "remount,bind,ro", disk)
    output = finish(begun, code=1, timeout_s=120)
    subprocess.run(["umount", "-l", str(disk)], check=True)
    line = told(output)
    assert str(directory) in line and "Read-only file system" in line
    assert 'it would say "failed"' in output and not (directory / "summary.json").exists()
    assert newest_checkpoint(directory / "checkpoints") is not None
    goes_on(directory)

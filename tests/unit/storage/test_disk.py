"""Disks that are full: what is complete stays so, and one line says where, why and how much room.

A limit on the size of files stands for a full disk: the system refuses the write half done, too.
"""

import asyncio
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from rlhf.storage import disk
from rlhf.storage.checkpoint import complete_names, newest_checkpoint
from rlhf.storage.disk import (
    DiskFailed,
    append,
    replaced_folder,
    require_room,
    write_atomically,
)
from rlhf.storage.ledger import Journal, Ledger
from rlhf.storage.round_checkpoints import RoundCheckpoints
from rlhf.storage.store import MetricsLog, PreferenceStore, read_metrics, round_files
from rlhf.storage.tensor_files import DiskFolder, TensorWriter

pytestmark = pytest.mark.faults


@contextmanager
def full(num_bytes: int) -> Iterator[None]:
    """Within it, no file can grow beyond that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_line_is_there_whole_or_not_at_all(tmp_path):
    file = tmp_path / "lines"
    append(file, "one\n")
    with full(10), pytest.raises(DiskFailed, match=f"{file}: cannot be written .File too large; "):
        append(file, "a line that is too long\n")
    append(file, "two\n")
    assert file.read_text() == "one\ntwo\n"


def test_a_file_is_the_old_one_where_there_is_no_room_for_the_new(tmp_path):
    file = tmp_path / "made" / "summary.json"
    write_atomically(file, "old")
    with full(10), pytest.raises(DiskFailed, match=f"{file}: cannot be written .File too large; "):
        write_atomically(file, "new, and too long")
    assert file.read_text() == "old"
    write_atomically(file, "new")
    assert [path.name for path in file.parent.iterdir()] == ["summary.json"]
    assert file.read_text() == "new"


def test_a_metrics_log_can_be_read_after_its_disk_was_full(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(0, {"policy/loss": 1.0})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    with full(size + 20), pytest.raises(DiskFailed):
        log.write(1, {"policy/loss": 1.0})
    log.write(1, {"policy/loss": 2.0})
    assert [one["policy/loss"] for one in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 2.0]


def test_a_journal_likewise(tmp_path):
    journal = Journal(tmp_path / "feed.jsonl", "ids")
    journal.note(0, ["a"])
    with full((tmp_path / "feed.jsonl").stat().st_size + 5), pytest.raises(DiskFailed):
        journal.note(1, ["b"])
    assert Journal(tmp_path / "feed.jsonl", "ids").notes == {0: ["a"]}


def test_preferences_are_complete_or_absent(tmp_path):
    store = PreferenceStore(tmp_path)
    store.prepare(0, [])()
    with full(100), pytest.raises(DiskFailed, match=r"round_000001.parquet: cannot be written"):
        store.prepare(1, [])()
    assert [path.name for path in (tmp_path / "preferences").iterdir()] == ["round_000000.parquet"]
    assert len(round_files(tmp_path)) == 1


class Policy:
    """Writes as many bytes as it is told to, as a rank does."""

    num_bytes = 100

    async def save(self, directory: Path) -> None:
        with TensorWriter(DiskFolder(directory / "policy")) as writer:
            writer.write("w", torch.zeros(self.num_bytes, dtype=torch.uint8))

    async def snapshot(self, most_bytes: float) -> None:
        """None."""


def checkpoints(directory: Path, policy: Policy) -> RoundCheckpoints:
    return RoundCheckpoints(directory / "c", policy, Ledger(directory), keep=1, state={})


def test_a_checkpoint_for_which_there_is_no_room_leaves_the_one_before(tmp_path):
    policy = Policy()
    kept = checkpoints(tmp_path, policy)
    asyncio.run(kept.save(1))
    policy.num_bytes = 100_000
    with full(50_000), pytest.raises(DiskFailed, match=r"os error 27"):
        asyncio.run(kept.save(2))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["LATEST", "round_000001"]
    assert (newest := newest_checkpoint(tmp_path / "c")) and newest.state["num_rounds"] == 1
    asyncio.run(kept.save(2))
    assert complete_names(tmp_path / "c") == ["round_000002"]


def test_room_is_looked_for_before_a_checkpoint_is_begun(tmp_path, monkeypatch):
    policy = Policy()
    kept = checkpoints(tmp_path, policy)
    asyncio.run(kept.save(1))
    needed = disk.size_of(tmp_path / "c" / "round_000001")
    assert needed > 100
    usage = disk.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    policy.save = None  # type: ignore[assignment]  # it is not asked
    told = r"as large as the one before, it takes .*; .* are free"
    with pytest.raises(DiskFailed, match=told):
        asyncio.run(kept.save(2))
    require_room(tmp_path, needed - 1)


def test_a_folder_takes_the_place_of_the_one_before_at_the_end(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "old").touch()
    with pytest.raises(DiskFailed), replaced_folder(tmp_path / "policy") as unfinished:
        unfinished.mkdir()
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.rglob("*")] == ["policy", "old"]
    with replaced_folder(tmp_path / "policy") as unfinished:
        unfinished.mkdir()
        (unfinished / "new").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "policy"]


def test_room_is_told_of_what_is_not_there_yet(tmp_path):
    assert json.dumps(disk.room(tmp_path / "a" / "b")) == json.dumps(disk.room(tmp_path))
    assert disk.room(tmp_path).endswith("GiB are free")

"""Checkpoints are complete or absent, whenever the process is killed, and verified when used."""

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.storage import checkpoint, tensor_files
from rlhf.storage.checkpoint import (
    LATEST,
    MANIFEST,
    STATE,
    CheckpointDamaged,
    _write_manifest,
    complete_names,
    newest_checkpoint,
    verify,
)
from rlhf.storage.disk import DiskFailed
from rlhf.storage.ledger import Ledger
from rlhf.storage.round_checkpoints import Files, Remembered, RoundCheckpoints
from rlhf.storage.tensor_files import DiskFolder, MemoryFolder, TensorReader, TensorWriter

# --- tensors ------------------------------------------------------------------------------------

TENSORS = {
    "master/w": torch.tensor([[0.1, -0.0, 3e-45], [float("inf"), float("nan"), 1e38]]),
    "half": torch.tensor([0.1, -2.5, 3e38], dtype=torch.bfloat16),
    "scalar": torch.tensor(7.0, dtype=torch.float64),
    "rng": torch.arange(256, dtype=torch.uint8),
    "transposed": torch.arange(6.0).view(2, 3).T,
    "empty": torch.zeros(0, 3),
}


def bits(tensor: torch.Tensor) -> tuple:
    flat = tensor.contiguous().flatten()
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).tolist() if len(flat) else []


@pytest.mark.parametrize("part_bytes, num_parts", [(1 << 30, 1), (64, 3), (1, 6)])
def test_tensors_come_back_bit_for_bit(tmp_path, monkeypatch, part_bytes, num_parts):
    # 24, 6, 8, 256, 24 and 0 bytes.
    monkeypatch.setattr(tensor_files, "_PART_BYTES", part_bytes)
    with TensorWriter(DiskFolder(tmp_path / "all")) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
        writer.note("num_steps", 12)
    reader = TensorReader(tmp_path / "all")
    assert {name: bits(reader.read(name)) for name in TENSORS} == {
        name: bits(tensor) for name, tensor in TENSORS.items()
    }
    assert reader.notes == {"num_steps": 12}
    assert len(list((tmp_path / "all").glob("*.safetensors"))) == num_parts


def test_in_memory_they_are_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "_PART_BYTES", 64)
    files = {}
    for folder in (DiskFolder(tmp_path / "all"), MemoryFolder(files, "all")):
        with TensorWriter(folder) as writer:
            for name, tensor in TENSORS.items():
                writer.write(name, tensor)
            writer.note("num_steps", 12)
    on_disk = {f"all/{path.name}": path.read_bytes() for path in (tmp_path / "all").iterdir()}
    assert len(on_disk) == 4
    assert {name: bytes(content) for name, content in files.items()} == on_disk


def test_a_tensor_is_kept_as_it_was_when_written(tmp_path):
    changing = torch.ones(2)
    with TensorWriter(DiskFolder(tmp_path / "all")) as writer:
        writer.write("before", changing)
        changing += 1
        writer.write("after", changing)
    reader = TensorReader(tmp_path / "all")
    assert [reader.read(name).tolist() for name in ("before", "after")] == [[1, 1], [2, 2]]


def test_a_writer_that_fails_leaves_no_index(tmp_path):
    with pytest.raises(RuntimeError), TensorWriter(DiskFolder(tmp_path / "all")) as writer:
        writer.write("w", torch.ones(2))
        raise RuntimeError
    assert not (tmp_path / "all" / "index.json").exists()
    with pytest.raises(FileNotFoundError):
        TensorReader(tmp_path / "all")


def test_a_writer_that_is_off_writes_nothing(tmp_path):
    with TensorWriter(None) as writer:
        writer.write("w", torch.ones(2))
        writer.note("num_steps", 1)
    assert list(tmp_path.iterdir()) == []


def test_another_model_s_tensor_is_asked_for_by_name(tmp_path):
    with TensorWriter(DiskFolder(tmp_path / "all")) as writer:
        writer.write("w", torch.ones(2))
    with pytest.raises(KeyError, match="has no tensor 'v'"):
        TensorReader(tmp_path / "all").read("v")


# --- rounds -------------------------------------------------------------------------------------


class FakePolicy:
    """Saves its number of rounds in several files, as ranks do, or fails half-way."""

    def __init__(self) -> None:
        self.num_rounds = 0
        self.fails = False
        self.num_snapshots = 0

    async def save(self, directory: Path) -> None:
        for rank in range(3):
            (directory / f"rank_{rank}").mkdir()
            (directory / f"rank_{rank}" / "weights").write_bytes(bytes([self.num_rounds]) * 100)
            if self.fails and rank == 1:
                raise OSError("no space left on device")

    async def snapshot(self, most_bytes: float) -> Files | None:
        self.num_snapshots += 1
        if most_bytes < 300:
            return None
        return {f"rank_{rank}/weights": bytes([self.num_rounds]) * 100 for rank in range(3)}


def save(directory: Path, *rounds: int, keep: int = 2, fails: bool = False) -> None:
    policy = FakePolicy()
    checkpoints = RoundCheckpoints(
        directory, policy, Ledger(directory), keep=keep, state={"wandb_id": "x1"}
    )
    for policy.num_rounds in rounds:
        policy.fails = fails
        path = asyncio.run(checkpoints.save(policy.num_rounds))
        assert path == directory / f"round_{policy.num_rounds:06d}"


def found(directory: Path) -> int | None:
    """The number of rounds in the newest checkpoint, of which every file agrees."""
    checkpoint = newest_checkpoint(directory)
    if checkpoint is None:
        return None
    (content,) = {file.read_bytes() for file in checkpoint.directory.glob("rank_*/weights")}
    assert set(content) == {checkpoint.state["num_rounds"]}
    return checkpoint.state["num_rounds"]


def test_the_newest_is_found_with_what_the_run_noted(tmp_path):
    assert newest_checkpoint(tmp_path / "none yet") is None
    save(tmp_path, 5, 10)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint.directory == tmp_path / "round_000010"
    assert checkpoint.state == {"num_rounds": 10, "policy_version": 10, "wandb_id": "x1"}


@pytest.mark.parametrize("keep, kept", [(1, [9]), (2, [7, 9]), (9, [1, 4, 7, 9])])
def test_the_newest_few_are_kept(tmp_path, keep, kept):
    save(tmp_path, 1, 4, 7, 9, keep=keep)
    assert complete_names(tmp_path) == [f"round_{number:06d}" for number in kept]
    assert (tmp_path / LATEST).read_text() == "round_000009"
    assert {path.name for path in tmp_path.iterdir()} == {LATEST, *complete_names(tmp_path)}


def test_a_round_that_is_saved_already_is_not_saved_again(tmp_path):
    save(tmp_path, 3)
    before = (tmp_path / "round_000003").stat().st_ino
    save(tmp_path, 3, fails=True)
    assert (tmp_path / "round_000003").stat().st_ino == before
    assert found(tmp_path) == 3


def test_a_save_that_fails_leaves_the_older_one(tmp_path):
    save(tmp_path, 3)
    with pytest.raises(DiskFailed, match="no space"):
        save(tmp_path, 6, fails=True)
    assert found(tmp_path) == 3
    assert (tmp_path / LATEST).read_text() == "round_000003"


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_the_run_goes_on_while_the_files_are_read_again(tmp_path, monkeypatch, is_cancelled):
    begun, goes_on = threading.Event(), threading.Event()

    def write_manifest(folder: Path) -> None:
        begun.set()
        assert goes_on.wait(30), "nothing else was done meanwhile"
        _write_manifest(folder)

    monkeypatch.setattr(checkpoint, "_write_manifest", write_manifest)
    _, kept = remembering(tmp_path, Remembered(0))
    saving = asyncio.create_task(kept.save(3))
    while not begun.is_set():
        await asyncio.sleep(0.01)
    if is_cancelled:
        saving.cancel()
        await asyncio.sleep(0)
        assert not saving.done()
    goes_on.set()
    await asyncio.wait([saving])
    assert saving.cancelled() == is_cancelled
    verify(tmp_path / "round_000003")


def test_a_copy_that_somebody_keeps_is_left_alone(tmp_path):
    save(tmp_path, 3)
    copy = shutil.copytree(tmp_path / "round_000003", tmp_path / "round_000003_keep")
    save(tmp_path, 6, 9, keep=1)
    assert complete_names(tmp_path) == ["round_000009"] and found(tmp_path) == 9
    verify(copy)


def test_what_a_killed_save_left_is_passed_over_and_cleared_away(tmp_path):
    save(tmp_path, 3)
    for name in (".round_000006.partial", ".round_000001.removed"):
        (tmp_path / name / "rank_0").mkdir(parents=True)
        (tmp_path / name / "rank_0" / "weights").write_bytes(b"half")
    assert found(tmp_path) == 3
    save(tmp_path, 7)
    assert {path.name for path in tmp_path.iterdir()} == {LATEST, "round_000003", "round_000007"}


# --- in memory ----------------------------------------------------------------------------------


def remembering(directory: Path, remembered: Remembered) -> tuple[FakePolicy, RoundCheckpoints]:
    policy, ledger = FakePolicy(), Ledger(directory)
    for round in range(9):
        ledger.page("curator").note(round, [round / 3])
    state = {"wandb_id": "x1"}
    kept = RoundCheckpoints(directory, policy, ledger, keep=2, state=state, remembered=remembered)
    return policy, kept


def test_one_in_memory_becomes_the_one_that_would_have_been_saved(tmp_path):
    for name, remembered in (("saved", Remembered(0)), ("remembered", Remembered(1))):
        policy, kept = remembering(tmp_path / name, remembered)
        policy.num_rounds = 3
        asyncio.run(kept.save(3))
        policy.num_rounds = 5
        if name == "saved":
            asyncio.run(kept.save(5))
        asyncio.run(kept.remember(5))
        policy.num_rounds = 6  # which is lost
        asyncio.run(remembered.write(tmp_path / name))
        assert found(tmp_path / name) == 5
    saved, remembered = (
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("saved", "remembered")
    )
    assert saved == remembered and "round_000005/ledger.json" in saved


@pytest.mark.parametrize("order", ["remember save", "save remember"])
def test_one_in_memory_gives_way_to_one_on_disk_that_is_as_new(tmp_path, order):
    remembered = Remembered(1)
    _, kept = remembering(tmp_path, remembered)
    for what in order.split():  # a slow one may be complete only after the next is saved
        asyncio.run(kept.remember(4) if what == "remember" else kept.save(5))
    before = sorted(tmp_path.rglob("*"))
    asyncio.run(remembered.write(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before and complete_names(tmp_path) == ["round_000005"]


def test_nothing_in_memory_writes_nothing(tmp_path):
    asyncio.run(Remembered(1).write(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_they_take_no_more_than_their_share_of_the_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    policy, kept = remembering(tmp_path, Remembered(0.25))

    async def snapshot(most_bytes: float) -> Files:
        now[0] += 2  # seconds
        policy.num_snapshots += 1
        return {}

    policy.snapshot = snapshot
    taken = []
    for number in range(1, 30):  # rounds of a second, and of three in which one is taken
        before = policy.num_snapshots
        asyncio.run(kept.remember(number))
        now[0] += 1
        if policy.num_snapshots > before:
            taken.append(number)
    assert taken == [1, 7, 13, 19, 25]


def test_one_that_failed_is_tried_again(tmp_path):
    policy, kept = remembering(tmp_path, remembered := Remembered(1))
    good, policy.snapshot = policy.snapshot, None
    with pytest.raises(TypeError):
        asyncio.run(kept.remember(1))
    policy.snapshot, policy.num_rounds = good, 2
    asyncio.run(kept.remember(2))
    asyncio.run(remembered.write(tmp_path))
    assert found(tmp_path) == 2


def test_one_that_is_too_large_is_told_of_once_and_not_tried_again(tmp_path):
    told = []
    policy, kept = remembering(tmp_path, remembered := Remembered(1, 1 << 7, told.append))
    for number in (1, 2):
        asyncio.run(kept.remember(number))
    asyncio.run(remembered.write(tmp_path))
    assert policy.num_snapshots == 1 and complete_names(tmp_path) == []
    (line,) = told
    assert line.startswith("no checkpoints in memory: one takes more than 1.19e-07 GiB, a quarter")


def test_none_are_taken_where_they_may_take_no_time(tmp_path):
    policy, kept = remembering(tmp_path, Remembered(0))
    asyncio.run(kept.remember(1))
    assert policy.num_snapshots == 0


# --- damage -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Rounds 3 and 6; whoever damages one puts it right again."""
    directory = tmp_path_factory.mktemp("checkpoints")
    save(directory, 3, 6)
    return directory


FILES = ["rank_0/weights", "rank_2/weights", STATE, MANIFEST]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "emptied", "longer", "missing"])
def test_damage_is_refused_by_name_rather_than_passed_over(tmp_path, name, damage):
    save(tmp_path, 3, 6)
    file = tmp_path / "round_000006" / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        changed = {"truncated": content[:-1], "emptied": b"", "longer": content + b"\1"}
        file.write_bytes(changed[damage])
    with pytest.raises(CheckpointDamaged) as caught:
        newest_checkpoint(tmp_path)
    assert str(file) in str(caught.value)
    assert f"delete {tmp_path / 'round_000006'}" in str(caught.value)
    verify(tmp_path / "round_000003")


@given(name=st.sampled_from(FILES), data=st.data())
def test_every_single_bit_counts(two, name, data):
    file = two / "round_000006" / name
    content = file.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(flipped)
    try:
        with pytest.raises(CheckpointDamaged) as caught:
            newest_checkpoint(two)
        assert str(two / "round_000006") in str(caught.value)
    finally:
        file.write_bytes(content)
    assert found(two) == 6


@pytest.mark.parametrize("content", ["{}", "[]", "null", "7", '"x"', "[" * 100_000, '{"a": 1}'])
def test_a_manifest_that_is_none_verifies_nothing(tmp_path, content):
    save(tmp_path, 3, 6)
    (tmp_path / "round_000006" / MANIFEST).write_text(content)
    with pytest.raises(CheckpointDamaged) as caught:
        newest_checkpoint(tmp_path)
    assert "round_000006" in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith("to go on from round_000003, which is complete")


@pytest.mark.parametrize("content", ["{}", "[]", "7", '{"num_rounds": 5}', '{"num_rounds": "6"}'])
def test_a_state_that_is_none_is_damage_though_its_manifest_is_right(tmp_path, content):
    save(tmp_path, 6)
    (tmp_path / "round_000006" / STATE).write_text(content)
    (tmp_path / "round_000006" / MANIFEST).unlink()
    _write_manifest(tmp_path / "round_000006")
    with pytest.raises(CheckpointDamaged) as caught:
        newest_checkpoint(tmp_path)
    assert str(tmp_path / "round_000006" / STATE) in str(caught.value)
    assert str(caught.value).endswith("to begin anew: none is complete")


OUTSIDE = ("../LATEST", "/etc/passwd", "a\0b", "x" * 5000, "a//b", "d/" * 90)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_names_no_file_outside(tmp_path, name):
    save(tmp_path, 6)
    file = tmp_path / "round_000006" / MANIFEST
    manifest = json.loads(file.read_text()) | {name: {"bytes": 1, "blake2b": ""}}
    file.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointDamaged, match="no file of it"):
        newest_checkpoint(tmp_path)


def test_what_is_offered_is_sound_itself(tmp_path):
    save(tmp_path, 2, 3, 6, keep=3)
    (tmp_path / "round_000006" / MANIFEST).unlink()
    (tmp_path / "round_000003" / STATE).unlink()
    with pytest.raises(CheckpointDamaged, match="round_000002, which is complete"):
        newest_checkpoint(tmp_path)


def test_a_damaged_older_one_does_not_matter(tmp_path):
    save(tmp_path, 3, 6)
    (tmp_path / "round_000003" / STATE).unlink()
    assert found(tmp_path) == 6


# --- kills --------------------------------------------------------------------------------------

SAVER = """
import asyncio, os, signal, sys
from pathlib import Path
from rlhf.storage.checkpoint import newest_checkpoint
from rlhf.storage.ledger import Ledger
from rlhf.storage.round_checkpoints import RoundCheckpoints

directory = Path(sys.argv[1])

class Policy:
    async def save(self, path):
        for rank in range(3):
            (path / f"rank_{rank}").mkdir()
            (path / f"rank_{rank}" / "weights").write_bytes(bytes([self.num_rounds]) * size)

policy = Policy()

def save(directory, num_rounds):
    policy.num_rounds = num_rounds
    checkpoints = RoundCheckpoints(directory, policy, Ledger(directory), keep=2, state={})
    asyncio.run(checkpoints.save(num_rounds))
"""

FOREVER = """
size = 100_000
found = newest_checkpoint(directory)
num_rounds = found.state["num_rounds"] if found else 0
while num_rounds < 255:
    print(num_rounds, flush=True)
    num_rounds += 1
    save(directory, num_rounds)
"""

AT_EVERY_STEP = """
import shutil
size = 100
STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")

def save_and_die(directory, step):
    def count(event, arguments):
        nonlocal step
        if event in STEPS:
            step -= 1
            if step < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    save(directory, 3)
    os._exit(0)

save(directory, 1)
save(directory, 2)
for step in range(1000):
    killed = directory.with_name(f"killed_{step:03d}")
    shutil.copytree(directory, killed)
    child = os.fork()
    if not child:
        save_and_die(killed, step)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        break
"""


def saver(script: str, directory: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", SAVER + script, str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def sound(directory: Path) -> int | None:
    """Like `found`, when also everything that bears a checkpoint's name is one."""
    for name in complete_names(directory):
        verify(directory / name)
    return found(directory)


def test_killed_at_six_random_moments(tmp_path):
    rng, reached = random.Random(6), [0]
    for _ in range(6):
        with saver(FOREVER, tmp_path / "checkpoints") as process:
            started_from = int(process.stdout.readline())
            for _ in range(rng.randint(0, 3)):
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=10)
        assert started_from == reached[-1]
        reached.append(sound(tmp_path / "checkpoints") or 0)
    assert reached == sorted(reached) and reached[-1] > 0


def test_killed_before_every_file_operation_of_a_save(tmp_path):
    """The third save, killed; the new checkpoint is there from one step on, and never half."""
    with saver(AT_EVERY_STEP, tmp_path / "checkpoints") as process:
        assert process.wait(timeout=60) == 0
    killed = sorted(tmp_path.glob("killed_*"))
    newest = [sound(directory) for directory in killed]
    assert len(killed) > 20
    assert set(newest) == {2, 3} and newest == sorted(newest)
    for directory, number in zip(killed, newest, strict=True):
        kept = [int(name[-6:]) for name in complete_names(directory)]
        assert kept in ([1, 2], [1, 2, 3], [2, 3]) and kept[-1] == number
        named = (directory / LATEST).read_text()
        assert named in complete_names(directory)
    assert (killed[-1] / LATEST).read_text() == "round_000003"
    assert complete_names(killed[-1]) == ["round_000002", "round_000003"]

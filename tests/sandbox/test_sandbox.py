"""Honest code runs as it would outside; a layer that is missing is found, and nothing runs."""

import asyncio
import ctypes
import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sandbox_attacks import CONTROLLED, TOKEN, Targets, every_attack

from rlhf.problems import InputError
from rlhf.tools import folders, sandbox, seccomp
from rlhf.tools.calculator import Calculator
from rlhf.tools.hostile import ATTACKS
from rlhf.tools.jail import LAYERS, READY, SPARE_UID, landlock_abi
from rlhf.tools.packages import installed
from rlhf.tools.probe import SandboxLevel, measure, probe, require
from rlhf.tools.python import PythonInterpreter
from rlhf.tools.sandbox import Exit, Limits, Outcome, SandboxFailed, run_python
from rlhf.tools.tool import Tool, cut

ROOM = Limits(wall_s=60, cpu_s=30)
"""For honest code, on a busy machine."""


# --- honest code ---------------------------------------------------------------------------------


async def test_what_is_printed_comes_back():
    assert await run_python("print('one')\nprint('zwei é')", ROOM) == Outcome(
        "one\nzwei é\n", "", Exit.finished
    )


async def test_what_it_is_handed_it_has_under_the_same_number_and_the_other_end_not():
    reading, writing = os.pipe()
    try:
        code = f"import os\nos.write({writing}, b'through')\nos.fstat({reading})"
        outcome = await run_python(code, ROOM, handles=[writing])
        assert outcome.stderr.endswith("OSError: [Errno 9] Bad file descriptor\n")
        assert os.read(reading, 100) == b"through"
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_traceback_begins_with_the_code():
    outcome = await run_python("def f():\n    return 1 / 0\n\nf()", ROOM)
    assert outcome.exit is Exit.failed
    assert [line for line in outcome.stderr.splitlines() if line.startswith("  File")] == [
        '  File "<string>", line 4, in <module>',
        '  File "<string>", line 2, in f',
    ]
    assert outcome.stderr.endswith("\nZeroDivisionError: division by zero\n")


async def test_a_syntax_error_is_the_codes():
    outcome = await run_python("print(1)\ndef", ROOM)
    assert (outcome.stdout, outcome.exit) == ("", Exit.failed)
    assert outcome.stderr.startswith('  File "<string>", line 2')


@pytest.mark.parametrize(
    "code, end", [("", Exit.finished), ("raise SystemExit", Exit.finished), ("exit", Exit.failed)]
)
async def test_how_it_ended(code, end):
    assert (await run_python(code, ROOM)).exit is end


async def test_much_of_the_standard_library_works():
    code = """
import asyncio, bisect, collections, csv, dataclasses, datetime, decimal, fractions, functools
import hashlib, heapq, importlib.metadata, itertools, json, math, os, pathlib, pickle, random, re
import shutil, sqlite3, statistics, string, tempfile, textwrap, threading, unicodedata, zlib
import zoneinfo
from concurrent.futures import ThreadPoolExecutor

@dataclasses.dataclass
class Point:
    x: int

async def main():
    await asyncio.sleep(0.01)
    return await asyncio.to_thread(lambda: 3)

if __name__ == "__main__":
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(abs, range(-10, 0))) == 55
    assert pickle.loads(pickle.dumps(Point(1))) == Point(1)
    assert asyncio.run(main()) == 3
    assert "é".encode("idna") and hashlib.sha256(b"").hexdigest().startswith("e3b0")
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("x")
        os.posix_fallocate(file.fileno(), 0, 5000)
        assert os.fstat(file.fileno()).st_size == 5000 and not file.isatty()
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    pathlib.Path("one").write_text("x")
    assert shutil.copyfile("one", "two") and pathlib.Path("two").read_text() == "x"
    os.set_inheritable(os.dup(1), True)
    base = sqlite3.connect(":memory:")
    assert base.execute("select 1 + 1").fetchone() == (2,)
    print("well")
"""
    assert await run_python(code, ROOM) == Outcome("well\n", "", Exit.finished)


PACKAGES = installed(["mpmath", "numpy", "sympy"])


@pytest.mark.parametrize(
    "code, text",
    [
        ("import numpy as np; print(np.linalg.solve([[2, 0], [0, 4]], [2, 4]).tolist())", "[1.0"),
        ("import sympy as s; x = s.Symbol('x'); print(s.solve(x**2 - 2))", "[-sqrt(2), sqrt(2)]"),
        ("import os, numpy; print(os.path.dirname(numpy.__file__).endswith('/numpy'))", "True"),
    ],
)
async def test_packages_may_be_imported_beside_the_standard_library(code, text):
    outcome = await run_python(code, ROOM, packages=PACKAGES)
    assert outcome.stdout.startswith(text), outcome
    without = await run_python(code, ROOM)
    assert "ModuleNotFoundError" in without.stderr


async def test_nothing_beside_the_packages_is_opened_by_them():
    code = f"""
import os
numpy = {PACKAGES["numpy"]!r}
for folder in (numpy + "/..", numpy + "/../torch", "/proc/self/fd/3/"):
    try:
        print(os.listdir(folder))
    except OSError:
        pass
import numpy
try:
    open(os.path.join(os.path.dirname(numpy.__file__), "new"), "w")
except PermissionError:
    print("closed")
import torch
"""
    outcome = await run_python(code, ROOM, packages=PACKAGES)
    assert outcome.stdout == "closed\n" and "No module named 'torch'" in outcome.stderr


async def test_hashes_are_the_same_each_time():
    code = "print({str(n) for n in range(20)}, hash('a'), list({b'x', b'y', b'z'}))"
    first, second = await asyncio.gather(run_python(code, ROOM), run_python(code, ROOM))
    assert first == second and first.exit is Exit.finished


async def test_the_environment_is_ours_alone():
    outcome = await run_python("import os, json; print(json.dumps(dict(os.environ)))", ROOM)
    assert set(json.loads(outcome.stdout)) <= {
        "HOME",
        "TMPDIR",
        "LANG",
        "TZ",
        "OMP_NUM_THREADS",
        "MALLOC_ARENA_MAX",
        "PYTHONHASHSEED",
        "LD_LIBRARY_PATH",
        "LC_CTYPE",  # Python's own.
    }


async def test_the_code_sees_an_empty_folder_and_no_arguments():
    outcome = await run_python("import os, sys; print(os.listdir(), sys.argv)", ROOM)
    assert outcome.stdout == "[] ['']\n"


async def test_what_was_printed_before_the_deadline_is_kept():
    outcome = await run_python("import time\nprint('early')\ntime.sleep(60)", Limits(wall_s=2))
    assert outcome == Outcome("early\n", "", Exit.timed_out)


@pytest.fixture
def shared_processor() -> Iterator[None]:
    """One, which others have most of the time."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    yield
    for one in busy:
        one.kill()
        one.wait(10)
    os.sched_setaffinity(0, before)


async def test_waiting_for_a_processor_does_not_count(shared_processor):
    code = "import time\nwhile time.process_time() < 0.7: pass\nprint('done')"
    assert (await run_python(code, Limits(wall_s=0.9, cpu_s=5))).stdout == "done\n"
    late = await run_python("import time\ntime.sleep(60)", Limits(wall_s=0.1))
    assert late.exit is Exit.timed_out


async def test_output_is_cut_at_its_limit_and_not_before():
    exact = await run_python("print('x' * 99)", Limits(wall_s=60, output_bytes=100))
    more = await run_python("print('x' * 100)", Limits(wall_s=60, output_bytes=100))
    assert exact == Outcome("x" * 99 + "\n", "", Exit.finished)
    assert more == Outcome("x" * 100, "", Exit.output_limit)


async def test_the_mark_of_the_jail_cannot_be_forged():
    outcome = await run_python(f"print({READY.decode()!r} * 2, end='')", ROOM)
    assert outcome.stdout == READY.decode() * 2


async def test_many_run_at_once():
    outcomes = await asyncio.gather(*(run_python(f"print({n} ** 2)", ROOM) for n in range(24)))
    assert [outcome.stdout for outcome in outcomes] == [f"{n * n}\n" for n in range(24)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give each run a user of its own")
async def test_as_root_each_run_is_a_user_of_its_own():
    code = "import os, time; time.sleep(0.2); print(os.getresuid(), os.getresgid(), os.getgroups())"
    outcomes = await asyncio.gather(run_python(code, ROOM), run_python(code, ROOM))
    numbers = [{int(n) for n in re.findall("[0-9]+", each.stdout)} for each in outcomes]
    assert all(len(each) == 1 and min(each) >= SPARE_UID for each in numbers), outcomes
    assert numbers[0] != numbers[1]


# --- ends that are not the code's own ------------------------------------------------------------


def locked_in_by(parent: int) -> list[int]:
    mark, found = f'"parent": {parent},'.encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # It ended meanwhile.
            continue
    return found


async def until(condition: Callable[[], object], wait_s: float = 30) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_cancelling_kills_the_run():
    run = asyncio.create_task(run_python("import time\ntime.sleep(100)", Limits(wall_s=200)))
    await until(lambda: locked_in_by(os.getpid()))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert locked_in_by(os.getpid()) == []


async def test_children_end_with_the_code(changed_jail):
    """Which has some only where it may run though it is not locked in."""
    changed_jail(ENTERED["seccomp"], '"seccomp": lambda _: None,')
    code = """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        os.close(1), os.close(2)
    time.sleep(100)
print("begun")
"""
    start = time.monotonic()
    outcome = await run_python(code, ROOM, allow_unsafe=True)
    assert outcome == Outcome("begun\n", "", Exit.finished)
    assert time.monotonic() - start < 10
    await until(lambda: not locked_in_by(os.getpid()))


async def test_a_run_dies_with_its_parent(tmp_path, monkeypatch):
    code = "import asyncio; from rlhf.tools.sandbox import *; "
    code += "asyncio.run(run_python('import time; time.sleep(100)', Limits(wall_s=200)))"
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        await until(lambda: locked_in_by(parent.pid))
        await asyncio.sleep(0.2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    await until(lambda: not locked_in_by(parent.pid))
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    await measure()
    assert list(tmp_path.iterdir()) == []


async def test_only_what_killed_runs_have_left_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(30)
    run = asyncio.create_task(run_python("import time\ntime.sleep(100)", Limits(wall_s=200)))
    await until(lambda: list(tmp_path.iterdir()))
    (kept,) = tmp_path.iterdir()
    name = kept.name.replace(str(os.getpid()), str(dead.pid))
    (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / f"agon-sandbox-0-{dead.pid}-elsewhere").mkdir()
    sandbox.sweep()
    assert {path.name for path in tmp_path.iterdir()} == {
        kept.name,
        f"agon-sandbox-0-{dead.pid}-elsewhere",
    }
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


# --- what is missing, and what that lets through -------------------------------------------------


@pytest.fixture
def changed_jail(monkeypatch, tmp_path) -> Callable[[str, str], None]:
    """Runs go through a jail with one passage of its source replaced."""

    def change(old: str, new: str) -> None:
        source = Path(sandbox.JAIL).read_text()
        assert source.count(old) == 1
        jail = tmp_path / "jail.py"
        jail.write_text(source.replace(old, new))
        monkeypatch.setattr(sandbox, "JAIL", str(jail))

    return change


ENTERED = {
    "user": '"user": leave_root,',
    "limits": '"limits": limit_resources,',
    "landlock": '"landlock": restrict_files,',
    "seccomp": '"seccomp": filter_calls,',
}


@pytest.mark.parametrize("layer", LAYERS)
async def test_nothing_runs_without_a_layer(layer, changed_jail, tmp_path):
    changed_jail(ENTERED[layer], f'"{layer}": lambda _: os.stat("/missing"),')
    with pytest.raises(SandboxFailed, match=f"cannot be locked in here: {layer}: .*No such file"):
        await run_python("print(1)")
    unsafe = await run_python("print(1)", allow_unsafe=True)
    assert unsafe == Outcome("1\n", "", Exit.finished)
    level = await measure()
    assert "No such file" in level.missing[layer]
    with pytest.raises(InputError, match=rf"{layer} \(.*tools\.allow_unsafe=true"):
        require(level)
    assert level.lack.startswith("model-written code is not locked in on this machine: ")


LET_THROUGH = {
    "user": {"be root", "change its root folder"} if os.geteuid() == 0 else set(),
    "limits": set(ATTACKS["limits"]),
    "landlock": set(ATTACKS["landlock"]),
    "seccomp": set(ATTACKS["seccomp"]),
}


@pytest.mark.parametrize("layer", LAYERS)
async def test_the_probe_finds_what_a_layer_no_longer_stops(layer, changed_jail):
    # Nothing fails to be set up; it is merely not there. Of "user" a normal one needs the rest.
    if layer == "user":
        changed_jail("        _become_spare_user()\n", "        pass\n")
    else:
        changed_jail(ENTERED[layer], f'"{layer}": lambda _: None,')
    level = await measure()
    found = set(re.findall("code could ([^;]+)", level.missing.get(layer, "")))
    # As a user of its own, the code is kept from some processes and files in any case.
    alone = {"trace a process", "signal a process", "read another process's environment"}
    # Seccomp stops a change of root, too.
    assert LET_THROUGH[layer] - alone - {"change its root folder"} <= found <= LET_THROUGH[layer]
    assert set(level.missing) <= {layer}


async def test_another_processor_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(seccomp.os, "uname", lambda: os.uname_result(["Linux", "", "", "", "arm"]))
    assert seccomp.program() == b""
    with pytest.raises(SandboxFailed, match="seccomp: no filter of system calls is written for"):
        await run_python("print(1)")


async def test_a_python_that_does_not_start_is_no_outcome_of_the_code(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "JAIL", str(tmp_path / "none.py"))
    with pytest.raises(SandboxFailed, match=r"can't open file .*none\.py"):
        await run_python("print(1)", allow_unsafe=True)
    assert set((await measure()).missing) == set(LAYERS)


@pytest.mark.parametrize("abi", [1, 2, 3, 4, 5])
async def test_older_kernels_landlock_keeps_what_lies_outside(abi, changed_jail, monkeypatch):
    """The rules of an older version, under this kernel's; seccomp covers what they lack."""
    assert landlock_abi() >= abi
    changed_jail("    abi = landlock_abi()\n", f"    abi = {abi}\n")
    monkeypatch.setenv("AGON_TEST_TOKEN", TOKEN)
    assert (await measure()).full
    honest = "open('a', 'w').write('x'); import os; os.rename('a', 'b'); print(open('b').read())"
    assert await run_python(honest, ROOM) == Outcome("x\n", "", Exit.finished)
    if abi > 1:
        return
    with Targets() as targets:
        outcome, through = await every_attack(targets)
        assert (through.keys() & CONTROLLED.keys(), targets.harm()) == (set(), []), outcome


def test_the_calls_numbers_are_the_kernels():
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip(f"{header} is not there")
    numbers = dict(re.findall(r"__NR_(\w+) (\d+)", header.read_text()))
    words = (seccomp.ALLOWED + seccomp.DONE + seccomp.UNSUPPORTED).split()
    ours = dict(zip(words[::2], words[1::2], strict=True))
    assert ours == {name: numbers[name] for name in ours}


def test_this_machine_locks_in_fully():
    level = probe()
    assert level.full, level.lines()
    require(level)


def test_the_command_prints_a_line_for_each_layer():
    done = subprocess.run(
        [sys.executable, "-m", "rlhf.tools"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(LAYERS)
    assert "MISSING" not in done.stdout


def test_a_missing_layer_is_one_line_of_the_level():
    level = SandboxLevel(0, {"landlock": "Function not implemented"})
    assert level.lines()[list(LAYERS).index("landlock")] == (
        "landlock: MISSING: Function not implemented"
    )
    assert not level.full


# --- limits, folders, tools ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit",
    [
        {"wall_s": 0.0},
        {"wall_s": float("nan")},
        {"cpu_s": 0},
        {"memory_bytes": 1 << 20},
        {"num_open_files": 3},
        {"output_bytes": 0},
        {"num_files": -1},
    ],
)
def test_limits_under_which_nothing_runs_are_refused(limit):
    with pytest.raises(ValueError, match=f"{next(iter(limit))} is"):
        Limits(**limit)


async def test_without_files_it_still_runs():
    outcome = await run_python("print(1)", Limits(wall_s=60, file_bytes=0, num_files=0))
    assert outcome.stdout == "1\n"


def test_a_folder_is_measured_to_its_limits(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.truncate(10_000_000)
    (tmp_path / "b").mkdir()
    with open(tmp_path / "b" / "c", "wb") as file:
        file.truncate(5_000_000)
    (tmp_path / "away").symlink_to("/")
    length = (tmp_path / "away").lstat().st_size
    assert not folders.exceeds(str(tmp_path), 15_000_000 + length, 4)
    assert folders.exceeds(str(tmp_path), 14_999_999 + length, 4)
    assert folders.exceeds(str(tmp_path), 15_000_000 + length, 3)
    assert not folders.exceeds(str(tmp_path / "gone"), 0, 0)


def test_room_that_is_reserved_for_a_file_counts(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        keep_size, length = 1, ctypes.c_long(1 << 20)
        if ctypes.CDLL(None).fallocate(file.fileno(), keep_size, ctypes.c_long(0), length):
            pytest.skip("no room can be reserved here")
        assert file.tell() == 0
    assert folders.exceeds(str(tmp_path), (1 << 20) - 1, 1)


def test_a_folder_that_becomes_a_file_while_it_is_measured_is_gone(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    real = os.scandir

    def swapped(path):
        if path.endswith("a"):
            os.rmdir(path)
            Path(path).write_text("x")
        return real(path)

    monkeypatch.setattr(os, "scandir", swapped)
    assert not folders.exceeds(str(tmp_path), 10, 10)


def test_a_folder_that_cannot_be_looked_through_is_too_much(tmp_path, monkeypatch):
    def fails(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "scandir", fails)
    assert folders.exceeds(str(tmp_path), 1 << 40, 1 << 40)


@pytest.mark.parametrize("mode", [0, 0o300, 0o400, 0o600])
def test_a_closed_folder_is_opened_to_be_measured(tmp_path, mode):
    (tmp_path / "a").mkdir()
    for name in "xyz":
        (tmp_path / "a" / name).write_text("x")
    (tmp_path / "a").chmod(mode)
    assert not folders.exceeds(str(tmp_path), 1 << 20, 4)
    assert (tmp_path / "a").stat().st_mode & 0o700 == 0o700
    assert folders.exceeds(str(tmp_path), 1 << 20, 3)


def test_what_changes_while_it_is_deleted_is_deleted(tmp_path, monkeypatch):
    top = tmp_path / "top"
    (top / "a").mkdir(parents=True)
    (top / "b").write_text("x")
    real = os.unlink

    def swapped(name, **where):
        if name == "b":
            real(top / "b")
            (top / "b").mkdir()
        real(name, **where)

    monkeypatch.setattr(os, "unlink", swapped)
    folders.delete(str(top))
    assert not top.exists()


async def test_a_folder_that_cannot_be_deleted_ends_nothing(monkeypatch):
    def fails(folder):
        os.rmdir(folder)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folders, "delete", fails)
    assert (await run_python("print(1)", ROOM)).stdout == "1\n"


def test_a_folder_too_deep_for_a_path_is_deleted(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "kept").write_text("kept")
    handle = os.open(top, os.O_RDONLY)
    for number in range(2000):
        name = f"{number % 7}{'x' * 100}"
        os.mkdir(name, dir_fd=handle)
        os.symlink(tmp_path / "kept", "link", dir_fd=handle)
        inner = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    assert folders.exceeds(str(top), 1 << 40, 1 << 40)
    folders.delete(str(top))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "kept"


def test_a_text_is_cut_with_a_mark():
    assert cut("x" * 100, 100) == "x" * 100
    short = cut("x" * 1000, 100)
    kept = short.split("...")[0]
    assert len(short) <= 100
    assert short == f"{kept}... [{1000 - len(kept)} characters left out]"
    assert len(cut("x" * 1000, 5)) == 5


async def test_the_calculator_as_a_tool():
    tool: Tool = Calculator(max_chars=60)
    assert (tool.name, await tool.use("6 * 7")) == ("calculator", "42")
    assert await tool.use("1 / 0") == "error: division by zero"
    assert (await tool.use("10 ** 100")).endswith("characters left out]")


@pytest.mark.parametrize(
    "code, text",
    [
        ("print(6 * 7)", "42\n"),
        ("x = 1", ""),
        ("print(1)\n1 / 0", "error: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "error: the program ended with a failure"),
        ("import sys; sys.exit('no')", "error: no"),
        ("while True: pass", "error: stopped after 60 s, or 1 s of computing"),
        ("import os; os.abort()", "error: the program crashed"),
        (
            "while True: print(1)",
            "error: the program printed too much, or wrote too much to files",
        ),
    ],
)
async def test_the_interpreter_as_a_tool(code, text):
    tool: Tool = PythonInterpreter(Limits(wall_s=60, cpu_s=1))
    assert (tool.name, await tool.use(code)) == ("python", text)


async def test_a_long_output_is_cut_for_the_model():
    text = await PythonInterpreter(ROOM, max_chars=200).use("print('x' * 5000)")
    assert len(text) <= 200 and text.endswith("characters left out]")

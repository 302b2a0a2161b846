"""What model-written code tries against its machine, and what then is as it was before.

Attacks on what lies outside are in `sandbox_attacks`; here all of them are made from inside, in one
run, and each once without the sandbox, to see that it would succeed. After every bomb: the right
outcome, an honest run beside it unaffected, and no process and no file left over.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sandbox_attacks import ATTACKS, CONTROLLED, SUCCEEDED, TOKEN, Targets, every_attack

from rlhf.tools import sandbox, seccomp
from rlhf.tools.sandbox import JAIL, Exit, Limits, Outcome, run_python

HONEST = """
import threading
numbers = []
thread = threading.Thread(target=lambda: numbers.extend(range(1000)))
thread.start()
thread.join()
with open("sum", "w") as file:
    file.write(str(sum(numbers)))
print(open("sum").read())
"""
EXPECTED = ("499500\n", "", Exit.finished)


def jailed() -> list[str]:
    """The processes that this one has locked in, whatever they forked into."""
    mark = f'"parent": {os.getpid()},'.encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:  # It ended meanwhile.
            continue
        if JAIL.encode() in command and mark in command:
            found.append(entry.name)
    return found


@pytest.fixture(scope="module", autouse=True)
def temporary() -> Iterator[Path]:
    """A folder for temporary ones, which any user may enter."""
    with (
        tempfile.TemporaryDirectory(prefix="agon-test-") as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        os.chmod(name, 0o755)
        patch.setattr(tempfile, "tempdir", name)
        yield Path(name)


@pytest.fixture
async def neighbour(temporary: Path) -> AsyncIterator[None]:
    """An honest run during a test, and a look at what the test left over."""

    async def honest() -> tuple[str, str, Exit]:
        outcome = await run_python(HONEST, Limits(wall_s=60))
        return outcome.stdout, outcome.stderr, outcome.exit

    beside = asyncio.create_task(honest())
    yield
    assert await beside == EXPECTED
    assert jailed() == []
    assert list(temporary.glob("agon-sandbox-*")) == []


@pytest.fixture(scope="module")
def befallen(temporary: Path) -> Iterator[tuple[Outcome, dict[str, str], list[str]]]:
    """What a run printed that made all attacks, which of them got through, and the harm done."""
    with Targets() as targets, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGON_TEST_TOKEN", TOKEN)
        outcome, through = asyncio.run(every_attack(targets))
        time.sleep(0.5)  # in which a daemon would begin its work
        yield outcome, through, targets.harm()


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_lies_outside_is_out_of_reach(attack, befallen):
    outcome, through, _ = befallen
    assert attack not in through, outcome


def test_after_all_attacks_everything_is_as_it_was(befallen):
    outcome, _, harm = befallen
    assert harm == []
    assert TOKEN not in outcome.stdout and f"\n{SUCCEEDED}\n" not in outcome.stdout
    assert outcome.exit is Exit.finished and jailed() == []


@pytest.mark.parametrize("attack", CONTROLLED)
def test_without_the_sandbox_the_attack_succeeds(attack, monkeypatch):
    monkeypatch.setenv("AGON_TEST_TOKEN", TOKEN)
    with Targets() as targets, tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-c", targets.code(attack)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=30,
            close_fds=False,
        )
    assert SUCCEEDED in done.stdout, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="every test here runs as a normal user already")
def test_as_a_normal_user_what_lies_outside_is_out_of_reach(temporary):
    python, root = "/usr/bin/python3", Path(__file__).parents[2]
    version = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if not os.path.exists(python) or subprocess.run(version, timeout=30).returncode:
        pytest.skip("no Python of 3.11 or newer that a normal user may run in /usr/bin")
    sources = [*root.glob("rlhf/tools/*.py"), root / "rlhf/problems.py", root / "rlhf/__init__.py"]
    for source in [*sources, root / "tests/sandbox_attacks.py"]:
        copy = temporary / source.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    done = subprocess.run(
        [python, "-B", str(temporary / "tests/sandbox_attacks.py")],
        user=4242,
        group=4242,
        extra_groups=[],
        env={"PYTHONPATH": str(temporary)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, f"{len(ATTACKS)} attacks, 0 got through\n"), done


QUICK = Limits(wall_s=30, cpu_s=20)
SMALL = Limits(wall_s=30, cpu_s=20, file_bytes=1 << 20, num_files=10)
BOMBS = {
    "takes memory by and by": (
        "kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))",
        QUICK,
        Exit.failed,
        "MemoryError",
    ),
    "takes memory at once": ("'x' * (1 << 40)", QUICK, Exit.failed, "MemoryError"),
    "maps memory": ("import mmap\nmmap.mmap(-1, 1 << 40)", QUICK, Exit.failed, "allocate memory"),
    "writes a large file": (
        "with open('large', 'wb') as file:\n    while True:\n        file.write(bytes(1 << 16))",
        SMALL,
        Exit.failed,
        "File too large",
    ),
    "makes a sparse file": (
        "open('sparse', 'wb').truncate(1 << 40)",
        SMALL,
        Exit.failed,
        "File too large",
    ),
    "writes many small files": (
        "import itertools\nfor n in itertools.count():\n    open(str(n), 'w').close()",
        SMALL,
        Exit.output_limit,
        "",
    ),
    "writes large files enough": (
        """
import time
for n in range(3):
    open(str(n), "wb").write(bytes(900_000))
time.sleep(60)
""",
        SMALL,
        Exit.output_limit,
        "",
    ),
    "reserves room that no length shows": (
        """
import ctypes
file, none = open("reserved", "wb"), ctypes.c_long(0)
libc = ctypes.CDLL(None, use_errno=True)
if libc.fallocate(file.fileno(), 1, none, ctypes.c_long(1 << 30)):
    raise OSError(ctypes.get_errno(), "not reserved")
""",
        SMALL,
        Exit.failed,
        "[Errno 95] not reserved",
    ),
    "reserves room by ioctl": (
        """
import fcntl, struct
with open("reserved", "wb") as file:
    fcntl.ioctl(file, 0x40305828, struct.pack("hhxxxxqqiI16x", 0, 0, 0, 1 << 30, 0, 0))
""",
        SMALL,
        Exit.failed,
        "Operation not supported",
    ),
    "asks a pair of sockets for interfaces": (
        """
import fcntl, socket
fcntl.ioctl(socket.socketpair()[0], 0x8912, bytes(64))
""",
        SMALL,
        Exit.failed,
        "Operation not supported",
    ),
    "makes a file without a name": (
        "import os\nos.open('.', os.O_TMPFILE | os.O_WRONLY)",
        SMALL,
        Exit.failed,
        "Operation not supported",
    ),
    "makes a file without a name by openat2": (
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
how = (ctypes.c_uint64 * 3)(os.O_TMPFILE | os.O_WRONLY, 0o600, 0)
if libc.syscall(437, -100, b".", how, 24) < 0:
    raise OSError(ctypes.get_errno(), "not made")
""",
        SMALL,
        Exit.failed,
        "[Errno 38] not made",
    ),
    "swaps a folder and a file": (
        """
import os
os.mkdir("a")
open("b", "w").close()
while True:
    for old, new in ("ac", "ba", "ab", "ca"):
        os.rename(old, new)
""",
        Limits(wall_s=30, cpu_s=2),
        Exit.timed_out,
        "",
    ),
    "hides files in a folder that may not be listed": (
        """
import itertools, os
os.mkdir("d", mode=0o300)
for n in itertools.count():
    open(f"d/{n}", "w").close()
""",
        SMALL,
        Exit.output_limit,
        "",
    ),
    "makes folders in folders": (
        "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
        SMALL,
        Exit.output_limit,
        "",
    ),
    "deletes its folder": (
        "import os\nos.rmdir(os.getcwd())",
        QUICK,
        Exit.failed,
        "Permission denied",
    ),
    "opens many files": (
        "import os\nwhile True:\n    os.dup(0)",
        QUICK,
        Exit.failed,
        "Too many open files",
    ),
    "loops": ("while True: pass", Limits(cpu_s=1, wall_s=30), Exit.timed_out, ""),
    "loops in a thread": (
        "import threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
        Limits(cpu_s=1, wall_s=30),
        Exit.timed_out,
        "",
    ),
    "loops at its end": (
        "import atexit\n@atexit.register\ndef loop():\n    while True: pass",
        Limits(wall_s=0.5),
        Exit.timed_out,
        "",
    ),
    "ignores every signal": (
        """
import signal
for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True: pass
""",
        Limits(cpu_s=1, wall_s=30),
        Exit.timed_out,
        "",
    ),
    "sleeps": ("import time\ntime.sleep(60)", Limits(wall_s=0.3), Exit.timed_out, ""),
    "waits for a lock": (
        "import threading\nthreading.Lock().acquire() and threading.Event().wait()",
        Limits(wall_s=0.3),
        Exit.timed_out,
        "",
    ),
    "closes its output and goes on": (
        "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)",
        Limits(wall_s=0.3),
        Exit.timed_out,
        "",
    ),
    "waits for input": ("input()", QUICK, Exit.failed, "EOFError"),
    "prints for ever": ("while True: print('x' * 100)", QUICK, Exit.output_limit, ""),
    "complains for ever": (
        "import sys\nwhile True: print('x' * 100, file=sys.stderr)",
        QUICK,
        Exit.output_limit,
        "x" * 100,
    ),
    "prints a line of 10 MB": ("print('x' * 10_000_000)", QUICK, Exit.output_limit, ""),
    "fails with 10 MB": ("raise ValueError('x' * 10_000_000)", QUICK, Exit.output_limit, "xxx"),
    "leaves without a word": ("import os\nos._exit(0)", QUICK, Exit.finished, ""),
    "leaves with a failure": ("import os\nos._exit(3)", QUICK, Exit.failed, ""),
    "recurs": ("def f(): f()\nf()", QUICK, Exit.failed, "RecursionError"),
    "reads from nowhere": ("import ctypes\nctypes.string_at(0)", QUICK, Exit.killed, ""),
    "aborts": ("import os\nos.abort()", QUICK, Exit.killed, ""),
    "calls the system as a 32-bit program": (
        """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b802000000 cd80 c3"))  # fork() there; return
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
""",
        QUICK,
        Exit.killed,
        "",
    ),
    "contains a null byte": ("print(1)\0", QUICK, Exit.failed, "null bytes"),
    "is too long": ("#" * (QUICK.code_bytes + 1), QUICK, Exit.failed, "longer than 65536 bytes"),
    "is no text": ("print('\ud800')", QUICK, Exit.failed, "utf-8"),
    "is nested too deep": ("(" * 5000 + ")" * 5000, QUICK, Exit.failed, ""),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_bombs_end_by_themselves(name, neighbour):
    code, limits, end, message = BOMBS[name]
    start = time.monotonic()
    outcome = await run_python(code, limits)
    assert (outcome.exit, message in outcome.stderr) == (end, True), outcome
    assert len(outcome.stdout) <= limits.output_bytes
    assert len(outcome.stderr) <= 4000
    assert time.monotonic() - start < 20


async def test_a_fork_bomb_has_no_fork(neighbour):
    code = """
import os
forks = 0
for _ in range(100):
    try:
        forks += os.fork() > 0 or os._exit(0)
    except PermissionError:
        pass
print(forks)
"""
    outcome = await run_python(code)
    assert (outcome.stdout, outcome.exit) == ("0\n", Exit.finished)


async def test_a_thread_bomb_has_few_threads(neighbour):
    code = """
import threading, time
threading.stack_size(32768)
started = 0
try:
    for _ in range(5000):
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
        started += 1
except RuntimeError:
    print(started, flush=True)
time.sleep(1)
"""
    limits = Limits(num_threads=40, wall_s=60, cpu_s=30)
    outcome = await run_python(code, limits)
    if os.geteuid() == 0:  # Each run is a user of its own, whose threads the kernel counts.
        assert 10 < int(outcome.stdout) < limits.num_threads
    else:
        assert outcome.exit is Exit.killed


async def test_too_many_threads_end_the_run_where_users_share_their_count(neighbour, changed_nproc):
    code = """
import threading, time
for _ in range(60):
    threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
time.sleep(10)
"""
    start = time.monotonic()
    assert (await run_python(code, Limits(num_threads=40, wall_s=60))).exit is Exit.killed
    assert (await run_python(code, Limits(num_threads=99, wall_s=1))).exit is Exit.timed_out
    assert time.monotonic() - start < 20


@pytest.fixture
def changed_nproc(temporary, monkeypatch) -> None:
    """The kernel counts nothing, as for a user whose other processes count too."""
    source = Path(JAIL).read_text()
    line = '    _limit(resource.RLIMIT_NPROC, settings["num_threads"] + _tasks_of(os.getuid()))\n'
    assert source.count(line) == 1
    (jail := temporary / "jail.py").write_text(source.replace(line, ""))
    monkeypatch.setattr(sandbox, "JAIL", str(jail))


async def test_no_call_that_the_filter_does_not_name_gets_through():
    """Of every number that kernels know and some more, x32's among them, with arguments of 0."""
    words = seccomp.ALLOWED + seccomp.DONE + seccomp.UNSUPPORTED
    # The kernel's own two for probes, which no filter sees, end whoever else makes them.
    named = {*map(int, words.split()[1::2]), *seccomp.CONDITIONAL, 335, 336}
    code = f"""
import ctypes, errno
libc, zero = ctypes.CDLL(None, use_errno=True), ctypes.c_long(0)
stopped = (errno.EPERM, errno.ENOSYS)
for number in (*range(700), *range(1 << 30, (1 << 30) + 600)):
    if number in {named}:
        continue
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[zero] * 6)
    if result != -1 or ctypes.get_errno() not in stopped:
        print(number, result, ctypes.get_errno())
print("done")
"""
    outcome = await run_python(code, Limits(wall_s=60))
    assert (outcome.stdout, outcome.exit) == ("done\n", Exit.finished)


async def test_a_deleted_file_is_not_kept_by_a_map_of_it(neighbour):
    """4.1 GiB in 10 s once: a file that is mapped lives on without a name and a handle."""
    code = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.mmap.restype, nothing = ctypes.c_void_p, ctypes.c_void_p(-1).value
held = 0
for _ in range(100):
    with open("large", "wb+") as file:
        os.unlink("large")
        file.write(bytes(4096))
        file.flush()
        size, start = ctypes.c_size_t(4096), ctypes.c_long(0)
        held += libc.mmap(None, size, 1, 2, file.fileno(), start) != nothing
print(held)
"""
    outcome = await run_python(code, SMALL)
    assert (outcome.stdout, outcome.exit) == ("0\n", Exit.finished)


async def test_recursion_in_c_ends_in_an_error_or_a_crash(neighbour):
    code = """
import sys
sys.setrecursionlimit(10**8)
def f(_): return list(map(f, [0]))
f(0)
"""
    outcome = await run_python(code, Limits(wall_s=30, cpu_s=20))
    assert outcome.exit in (Exit.killed, Exit.failed) and outcome.stdout == ""


async def test_bytes_that_are_no_text_are_shown_as_such(neighbour):
    outcome = await run_python(r"import os; os.write(1, b'a\xff\xfeb'); os.write(2, b'\xc3')")
    assert (outcome.stdout, outcome.stderr) == ("a��b", "�")


async def test_untidy_folders_are_deleted(neighbour):
    code = r"""
import os
os.mkdir(b"\xff\n-rf *")
os.mkdir("closed")
os.mkdir("closed/inner", mode=0)
os.mkdir("no list", mode=0o300)
open("no list/file", "w").close()
os.mkdir("closed later", mode=0)
print(len(os.listdir()))
"""
    outcome = await run_python(code)
    assert (outcome.stdout, outcome.exit) == ("4\n", Exit.finished), outcome


async def test_nothing_but_its_three_files_is_open(neighbour):
    code = """
import os, stat
for number in range(3, 1000):
    try:
        mode = os.fstat(number).st_mode
    except OSError:
        continue
    print(stat.S_ISDIR(mode))
    try:
        os.listdir(number)
    except OSError:
        continue
    print("open")
"""
    outcome = await run_python(code)
    # Of Python's own folder there is a handle where a user without rights cannot reach it.
    assert outcome.stdout in ("", "True\n")

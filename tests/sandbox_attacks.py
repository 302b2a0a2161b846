"""Attacks on what lies outside a sandbox, and the targets that show whether one succeeded.

Standard library and `rlhf.tools` only, so that any Python can run this file: it then makes every
attack from inside the sandbox, as whichever user runs it, and prints what succeeded.
"""

import asyncio
import contextlib
import ctypes
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from rlhf.tools.sandbox import Limits, Outcome, run_python

TOKEN = "token-of-this-test"
ROOM = Limits(wall_s=60, cpu_s=30, num_files=1000)
BEGAN = "the attack began"
SUCCEEDED = "the attack succeeded"
VICTIM = """
import ctypes, time
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_long(-1), 0, 0, 0)  # Any may trace it, says Yama.
word = ctypes.create_string_buffer(b"a secret")
print(ctypes.addressof(word), flush=True)
time.sleep(100)
"""
START = """
import ctypes, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "the call failed")
    return result
"""

ONE_BY_ONE = f"""
def is_open(number):
    try:
        return os.fstat(number)
    except OSError:
        return None

top, before = os.getcwd(), [number for number in range(64) if is_open(number)]
for place, (name, code) in enumerate(ATTACKS.items()):
    print("{BEGAN}:", name, flush=True)
    os.chdir(top)
    os.mkdir(str(place))
    os.chdir(str(place))
    try:
        exec(code, dict(globals()))
    except BaseException:
        pass
    else:
        print("{SUCCEEDED}:", name, flush=True)
    for number in set(range(64)).difference(before):
        try:
            os.close(number)
        except OSError:
            pass
"""

FILES = {
    "read a token": "assert 'token' in open(T['token']).read()",
    "read a file of the system": "open('/etc/passwd').read()",
    "list a folder": "assert os.listdir(T['folder'])",
    "write a file": "open(T['folder'] + '/new', 'w').write('x')",
    "append to a file": "open(T['token'], 'a').write('x')",
    "truncate a file by its path": "os.truncate(T['token'], 1)",
    "delete a file": "os.unlink(T['token'])",
    "make a folder": "os.mkdir(T['folder'] + '/new')",
    "make a FIFO": "os.mkfifo(T['folder'] + '/new')",
    "move a file in": "os.rename(T['token'], 'mine')",
    "move a file out": "open('mine', 'w').close(); os.rename('mine', T['folder'] + '/new')",
    "link a file in": "os.link(T['token'], 'mine'); assert open('mine').read()",
    "link a file out": "open('mine', 'w').close(); os.link('mine', T['folder'] + '/new')",
    "point at a file": "os.symlink(T['token'], 'mine'); assert open('mine').read()",
    "write through a link": "os.symlink(T['token'], 'mine'); open('mine', 'w').write('x')",
    "make a link outside": "os.symlink('/', T['folder'] + '/new')",
    "change a mode": "os.chmod(T['token'], 0o600)",
    "change times": "os.utime(T['token'], (1, 1))",
    "watch a folder": """
watch = libc.inotify_init1(0)
assert watch >= 0 and libc.inotify_add_watch(watch, T['folder'].encode(), 0xFFF) >= 0
""",
    "use a file that was open": "assert b'token' in os.pread(T['open'], 100, 0)",
    "hide memory in a file": "os.memfd_create('new')",
    "read a login": "assert 'token' in open(T['home'] + '/.netrc').read()",
    "read a cluster's token": "assert 'token' in open(T['home'] + '/.ray/auth_token').read()",
    "read shared memory by its name": "assert 'token' in open(T['shared']).read()",
    "make shared memory with a name": """
import mmap
os.ftruncate(handle := os.open(T['shared'] + '-new', os.O_CREAT | os.O_RDWR, 0o600), 4096)
mmap.mmap(handle, 4096)
os.unlink(T['shared'] + '-new')
""",
    "lock a file of others": """
import fcntl
fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
""",
    "keep a deleted file by a map": """
import mmap
with open('large', 'wb+') as file:
    file.write(bytes(4096))
    file.flush()
    os.unlink('large')
    mmap.mmap(file.fileno(), 4096)
""",
    "move pages of a file into a pipe": """
ours, theirs = os.pipe()
assert os.splice(os.open(os.__file__, os.O_RDONLY), theirs, 4096)
""",
    "lend memory to a pipe": """
ours, theirs = os.pipe()
lent = ctypes.create_string_buffer(4096)
span = (ctypes.c_void_p * 2)(ctypes.addressof(lent), 4096)
call(278, theirs, span, ctypes.c_long(1), 0)
""",
}
PROCESSES = {
    "read the environment": "assert 'AGON_TEST_TOKEN' in os.environ",
    "read another's environment": "assert 'AGON' in open(f'/proc/{T[\"victim\"]}/environ').read()",
    "read another's arguments": "open(f'/proc/{T[\"victim\"]}/cmdline').read()",
    "read another's memory map": "open(f'/proc/{T[\"victim\"]}/maps').read()",
    "read another's memory": """
place = int(open(f"/proc/{T['victim']}/maps").readline().split("-")[0], 16)
with open(f"/proc/{T['victim']}/mem", "rb", 0) as memory:
    memory.seek(place)
    assert memory.read(4) == b"\\x7fELF"
""",
    "see another's open files": "os.readlink(f'/proc/{T[\"victim\"]}/fd/0')",
    "read the parent's environment": "open(f'/proc/{os.getppid()}/environ').read()",
    "end another": "os.kill(T['victim'], signal.SIGTERM)",
    "signal by the owner of a file": """
import fcntl
ours, theirs = os.pipe()
fcntl.fcntl(ours, fcntl.F_SETOWN, T["victim"])
fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
os.write(theirs, b"x")
""",
    "signal by a handle": """
signal.pidfd_send_signal(os.pidfd_open(T["victim"]), signal.SIGTERM)
""",
    "signal with a value": """
information = ctypes.create_string_buffer(128)
information[8] = b"\\xff"  # SI_QUEUE is -1.
information[9] = information[10] = information[11] = b"\\xff"
call(129, T["victim"], signal.SIGTERM, information)
""",
    "trace another": "assert libc.ptrace(16, T['victim'], None, None) == 0",
    "limit another": """
import resource
resource.prlimit(T["victim"], resource.RLIMIT_NOFILE, (5, 5))
""",
    "slow another": "os.setpriority(os.PRIO_PROCESS, T['victim'], 19)",
    "bind another to a processor": "os.sched_setaffinity(T['victim'], {T['processor']})",
    "fork": "assert os.fork() or time.sleep(0.2) or True",
    "run a program": "import subprocess; subprocess.run(['/bin/true'], check=True)",
    "run a shell": "assert os.system('true') == 0",
    "become a program": f"os.execv('/bin/echo', ['echo', '{SUCCEEDED}'])",
    "fork by hand": "assert call(57) or time.sleep(0.2) or True",
    "leave a daemon": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.3)
        open(T["folder"] + "/new", "w").write("x")
        time.sleep(1)
    os._exit(0)
time.sleep(0.6)
""",
    "read a sibling's environment": "open(f'/proc/{T[\"sibling\"]}/environ').read()",
    "read a sibling's folder": "open(f'/proc/{T[\"sibling\"]}/cwd/secret').read()",
    "look into another's memory": """
into, size = ctypes.create_string_buffer(8), ctypes.c_long(8)
place = T['word']
here, there = (ctypes.c_void_p * 2)(ctypes.addressof(into), 8), (ctypes.c_void_p * 2)(place, 8)
call(310, T['victim'], here, ctypes.c_long(1), there, ctypes.c_long(1), ctypes.c_long(0))
""",
    "run a program out of memory": f"""
handle = os.memfd_create('program')
os.write(handle, open('/bin/echo', 'rb').read())
os.execve(handle, ['echo', '{SUCCEEDED}'], {{}})
""",
    "start a timer": """
for _ in range(100):
    call(222, 1, None, ctypes.create_string_buffer(8))
""",
    "leave memory behind": "assert libc.shmget(T['key'], 4096, 0o1666) >= 0",
    "leave a message queue behind": "assert libc.msgget(T['key'], 0o1666) >= 0",
}
NETWORK = {
    name: f"import socket\n{code}"
    for name, code in {
        "connect by TCP": "socket.create_connection(('127.0.0.1', T['tcp']), 5).send(b'x')",
        "send by UDP": """
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", T["udp"]))
""",
        "resolve a name": "socket.getaddrinfo('localhost', 80)",
        "listen": "socket.create_server(('127.0.0.1', 0))",
        "connect by a path": """
one = socket.socket(socket.AF_UNIX); one.connect(T["path"]); one.send(b"x")
""",
        "connect by an abstract name": """
one = socket.socket(socket.AF_UNIX); one.connect("\\0" + T["abstract"]); one.send(b"x")
""",
        "send to a path by a pair": """
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.sendto(b"x", T["datagrams"])
""",
        "raise a socket by hand": "call(41, 1, 1, 0)",
        "send beside a pair": """
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
one.sendmsg([b'x'])
""",
        "hand a file over": """
one, other = socket.socketpair()
socket.send_fds(one, [b'x'], [0])
""",
        "talk to the kernel": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    }.items()
}
UNCONTROLLED = {
    # Not possible everywhere even without a sandbox, so that nothing shows that they could be.
    "read attributes": "os.listxattr(T['token'])",
    "read an attribute": "os.getxattr(T['token'], 'user.new')",
    "set an attribute": "os.setxattr(T['token'], 'user.new', b'x')",
    "keep a key": "call(248, b'user', b'agon', b'x', ctypes.c_long(1), ctypes.c_long(-2))",
    "become root": "os.setuid(0)",
    "raise a limit": """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
""",
    "leave the root folder": "os.chroot('.')",
    "make a namespace": "call(272, 0x10000000)",
    "make a namespace of mounts": "call(272, 0x00020000)",
    "mount": "assert libc.mount(b'none', b'.', b'tmpfs', 0, None) == 0",
    "take a context of asynchronous reading": "call(206, 1, ctypes.create_string_buffer(8))",
    "serve faults of memory": "call(323, 0)",
    "measure the machine": """
call(298, ctypes.create_string_buffer(b"\\1\\0\\0\\0\\x70", 128), 0, ctypes.c_long(-1), -1, 0)
""",
    "list keys": "call(250, 0, ctypes.c_long(-3), 1)",
    "take a file of another": "call(438, call(434, T['victim'], 0), 0, 0)",
    "seize another": "assert libc.ptrace(0x4206, T['victim'], None, None) == 0",
    "compare with another": "call(312, os.getpid(), T['victim'], 0, 0, 0)",
    "open a pair of another family": """
import socket
socket.socketpair(30, socket.SOCK_STREAM)
""",
    "open a file by a handle": "call(304, -100, ctypes.create_string_buffer(64), 0)",
    "take huge pages": """
import mmap
mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
""",
    "wait for the whole disk": "call(162)",
    "leave the session": "os.setsid() if os.getpid() != os.getsid(0) else os.setpgid(0, 1)",
    "read the kernel's log": "call(103, 3, ctypes.create_string_buffer(64), 64)",
    "set the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "become another architecture": "call(135, 0x0400000)",
    "open a ring": "call(425, 1, ctypes.create_string_buffer(120))",
    "load a program": "call(321, 0, ctypes.create_string_buffer(72), 72)",
    "fork by clone3": "assert call(435, (ctypes.c_uint64 * 8)(), 64) or os._exit(0)",
    "fork by clone": "assert call(56, 17, 0, 0, 0, 0) or os._exit(0)",
    "fork by the x32 interface": "assert call(0x40000000 | 57) or os._exit(0)",
    "outlive the parent": "assert libc.prctl(1, 0, 0, 0, 0) == 0",
    "be dumped": "assert libc.prctl(4, 1, 0, 0, 0) == 0",
    "leave by the handle on Python": """
here = os.open(".", os.O_RDONLY, dir_fd=3)
os.listdir(os.open("../../../..", os.O_RDONLY, dir_fd=here))
""",
    "leave by the links of one's own process": "assert os.listdir('/proc/self/root/etc')",
    "read one's own memory map": "open('/proc/self/maps').read()",
}
CONTROLLED = FILES | PROCESSES | NETWORK
ATTACKS = CONTROLLED | UNCONTROLLED


class Targets:
    """A token, a folder, a process and listeners, all open to attack; `harm` says what befell them.

    File modes keep nobody out, so that they are not what stops an attack.
    """

    def __enter__(self) -> "Targets":
        self._exit = contextlib.ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="agon-targets-"))
        self._exit.callback(shutil.rmtree, self.folder)
        self.folder.chmod(0o777)
        self.token = self.folder / "token"
        self.token.write_text(TOKEN)
        self.token.chmod(0o666)
        for name in (".netrc", ".ray/auth_token"):
            (file := self.folder / name).parent.mkdir(exist_ok=True)
            file.write_text(TOKEN)
        self.shared = Path("/dev/shm", self.folder.name)
        self.shared.write_text(TOKEN)
        self.shared.chmod(0o666)
        self._exit.callback(self.shared.unlink)
        self._open = os.open(self.token, os.O_RDONLY)
        self._exit.callback(os.close, self._open)
        os.set_inheritable(self._open, True)
        self.victim = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", VICTIM],
            stdout=subprocess.PIPE,
            env={"AGON_TEST_TOKEN": TOKEN},
        )
        self._exit.callback(self._end_victim)
        assert self.victim.stdout
        self.word = int(self.victim.stdout.readline())
        (self.folder / "work").mkdir()
        (self.folder / "work/secret").write_text(TOKEN)
        self.sibling = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", VICTIM],
            stdout=subprocess.DEVNULL,
            cwd=self.folder / "work",
            env={"AGON_TEST_TOKEN": TOKEN},
        )
        self._exit.callback(self.sibling.wait, 10)
        self._exit.callback(self.sibling.kill)
        self.key = 0x41670000 + os.getpid() % 0xFFFF
        self._exit.callback(self._end_memory)
        self._listen()
        self._before = self._state()
        return self

    def _listen(self) -> None:
        self._listeners = {
            "tcp": socket.create_server(("127.0.0.1", 0)),
            "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "path": socket.socket(socket.AF_UNIX),
            "abstract": socket.socket(socket.AF_UNIX),
            "datagrams": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        }
        for one in self._listeners.values():
            self._exit.callback(one.close)
            one.setblocking(False)
        self._listeners["udp"].bind(("127.0.0.1", 0))
        self.abstract = f"agon-test-{self.folder.name}"
        self._listeners["abstract"].bind(f"\0{self.abstract}")
        for name in ("path", "datagrams"):
            self._listeners[name].bind(str(self.folder / name))
            (self.folder / name).chmod(0o777)
        for name in ("path", "abstract"):
            self._listeners[name].listen()

    def __exit__(self, *error: object) -> None:
        self._exit.close()

    def _end_victim(self) -> None:
        self.victim.kill()
        self.victim.wait(10)
        assert self.victim.stdout
        self.victim.stdout.close()

    def _end_memory(self) -> None:
        libc, remove = ctypes.CDLL(None), 0
        libc.shmctl(libc.shmget(self.key, 0, 0), remove, None)
        libc.msgctl(libc.msgget(self.key, 0), remove, None)

    @property
    def arguments(self) -> dict[str, object]:
        """What an attack knows as `T`."""
        return {
            "folder": str(self.folder),
            "token": str(self.token),
            "open": self._open,
            "victim": self.victim.pid,
            "processor": min(os.sched_getaffinity(0)),
            "key": self.key,
            "home": str(self.folder),
            "shared": str(self.shared),
            "sibling": self.sibling.pid,
            "word": self.word,
            "tcp": self._listeners["tcp"].getsockname()[1],
            "udp": self._listeners["udp"].getsockname()[1],
            "path": str(self.folder / "path"),
            "datagrams": str(self.folder / "datagrams"),
            "abstract": self.abstract,
        }

    def code(self, attack: str) -> str:
        """Source that makes one attack and, if nothing stops it, says so."""
        return f"{START}\nT = {self.arguments!r}\n{ATTACKS[attack]}\nprint({SUCCEEDED!r})"

    def all_code(self) -> str:
        """Source that makes one attack after the other, in a folder of its own each, and says of
        each that it began and, if nothing stops it, that it succeeded."""
        return f"{START}\nT = {self.arguments!r}\nATTACKS = {ATTACKS!r}\n{ONE_BY_ONE}"

    def harm(self) -> list[str]:
        """What is not as it was, or was reached."""
        changed = [
            f"{name}: {self._before[name]} became {now}"
            for name, now in self._state().items()
            if now != self._before[name]
        ]
        return changed + [f"{name} was reached" for name in self._listeners if self._reached(name)]

    def _state(self) -> dict[str, object]:
        pid = self.victim.pid
        state: dict[str, object] = {
            "folder": sorted(os.listdir(self.folder)),
            "victim": self.victim.poll(),
            "memory": self._left("shm"),
            "queues": self._left("msg"),
        }
        if self.token.exists():
            about = self.token.stat()
            state["token"] = (self.token.read_text(), about.st_mode, about.st_mtime, about.st_nlink)
            state["attributes"] = os.listxattr(self.token)
        if self.victim.poll() is None:
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if ":\t" in line
            )
            state["traced"] = status["TracerPid"]
            state["limit"] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            state["priority"] = os.getpriority(os.PRIO_PROCESS, pid)
            state["processors"] = os.sched_getaffinity(pid)
        return state

    def _left(self, kind: str) -> int:
        lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
        return sum(int(line.split()[0]) == self.key for line in lines)

    def _reached(self, name: str) -> bool:
        one = self._listeners[name]
        try:
            if name in ("udp", "datagrams"):
                one.recv(100)
            else:
                one.accept()[0].close()
        except BlockingIOError:
            return False
        return True


async def every_attack(targets: Targets) -> tuple[Outcome, dict[str, str]]:
    """Makes all from inside one sandbox, for a start takes longer than most of them.

    Returns what it printed, and of each that got through, or that was not made, which of the two.
    """
    outcome = await run_python(targets.all_code(), ROOM)
    told = outcome.stdout.splitlines()
    missing = {one: "not made" for one in ATTACKS if f"{BEGAN}: {one}" not in told}
    through = {one: "got through" for one in ATTACKS if f"{SUCCEEDED}: {one}" in told}
    return outcome, missing | through


async def what_befell(targets: Targets) -> list[str]:
    """What got through the sandbox for the user that runs this, and what harm was done."""
    outcome, through = await every_attack(targets)
    await asyncio.sleep(0.5)  # in which a daemon would begin its work
    leaked = [text for text in (f"\n{SUCCEEDED}\n", TOKEN) if text in outcome.stdout]
    return [f"{how}: {attack}" for attack, how in through.items()] + targets.harm() + leaked


if __name__ == "__main__":
    os.environ["AGON_TEST_TOKEN"] = TOKEN
    with Targets() as targets:
        found = asyncio.run(what_befell(targets))
    print(len(ATTACKS), "attacks,", len(found), "got through", *found)
    sys.exit(bool(found))

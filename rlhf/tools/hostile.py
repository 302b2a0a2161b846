"""What model-written code must not be able to do. `probe` runs this file inside the sandbox.

Each attack returns if it succeeded and raises if it was stopped. `attack` prints those that did.
"""

import ctypes
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

Attack = Callable[[dict[str, Any]], object]


def write_outside(target: dict[str, Any]) -> None:
    with open(os.path.join(target["folder"], "written"), "w") as file:
        file.write("written")


def read_environment(target: dict[str, Any]) -> None:
    with open(f"/proc/{target['victim']}/environ") as file:
        file.read()


def trace(target: dict[str, Any]) -> None:
    attach = 16
    if ctypes.CDLL(None).ptrace(attach, target["victim"], None, None):
        raise OSError("not traced")


def fork(target: dict[str, Any]) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def execute(target: dict[str, Any]) -> None:
    try:
        os.execv("/no such program", ["-"])
    except FileNotFoundError:  # It was looked for.
        return


def fill_file(target: dict[str, Any]) -> None:
    with open("large", "wb") as file:
        file.truncate(2 * target["file_bytes"])
    os.unlink("large")


def open_many(target: dict[str, Any]) -> None:
    handles = []
    try:
        for _ in range(target["num_open_files"]):
            handles.append(os.dup(0))
    finally:
        # The attacks that follow need some.
        for handle in handles:
            os.close(handle)


def reserve(target: dict[str, Any]) -> None:
    keep_size, length = 1, ctypes.c_long(1 << 16)
    with open("reserved", "wb") as file:
        os.unlink("reserved")
        if ctypes.CDLL(None).fallocate(file.fileno(), keep_size, ctypes.c_long(0), length):
            raise OSError("not reserved")


def reserve_by_control(target: dict[str, Any]) -> None:
    reserve_space, wanted = 0x4030582A, struct.pack("hhxxxxqqiI16x", 0, 0, 0, 1 << 16, 0, 0)
    with open("reserved", "wb") as file:
        os.unlink("reserved")
        fcntl.ioctl(file, reserve_space, wanted)


def map_file(target: dict[str, Any]) -> None:
    with open("mapped", "wb+") as file:
        os.unlink("mapped")
        file.write(b"x")
        file.flush()
        mmap.mmap(file.fileno(), 1).close()


def by_number(number: int, *arguments: object) -> Attack:
    """A system call for which Python has no function."""

    def attack(target: dict[str, Any]) -> None:
        words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
        if ctypes.CDLL(None).syscall(ctypes.c_long(number), *words) < 0:
            raise OSError("it failed")

    return attack


def be_root(target: dict[str, Any]) -> None:
    if os.geteuid():
        raise PermissionError


def connect_by_path(target: dict[str, Any]) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(target["socket"])


ATTACKS: dict[str, dict[str, Attack]] = {
    "limits": {
        "take too much memory": lambda target: bytearray(2 * target["memory_bytes"]),
        "write too large a file": fill_file,
        "open too many files": open_many,
    },
    "user": {
        "be root": be_root,
        "change its root folder": lambda target: os.chroot("."),
    },
    "landlock": {
        "read a token": lambda target: os.open(target["token"], os.O_RDONLY),
        "write outside": write_outside,
        "list a folder outside": lambda target: os.listdir(target["folder"]),
        "read another process's environment": read_environment,
    },
    "seccomp": {
        "open a socket": lambda target: socket.socket().close(),
        "reach a socket by its path": connect_by_path,
        "start a process": fork,
        "execute a program": execute,
        "signal a process": lambda target: os.kill(target["victim"], 0),
        "trace a process": trace,
        "change a file's mode": lambda target: os.chmod(".", 0o700),
        "read a file's attributes": lambda target: os.listxattr("."),
        "reserve room on the disk": reserve,
        "reserve room on the disk by ioctl": reserve_by_control,
        "make a file without a name": lambda target: os.close(
            os.open(".", os.O_TMPFILE | os.O_RDWR)
        ),
        "map a file": map_file,
        "open a pair of datagrams": lambda target: [
            one.close() for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ],
        "start a timer": by_number(222, 1, None, ctypes.create_string_buffer(8)),
        "make a context of asynchronous reading": by_number(206, 1, ctypes.create_string_buffer(8)),
        "share memory": by_number(29, 0, 4096, 0o600),
        "hide memory in a file": lambda target: os.close(os.memfd_create("hidden")),
    },
}


def attack(target: dict[str, Any]) -> None:
    """Prints `layer: attack` for each that succeeded, and `done`."""
    for layer, attacks in ATTACKS.items():
        for name, one in attacks.items():
            try:
                one(target)
            except (OSError, MemoryError):
                continue
            print(f"{layer}: {name}")
    print("done")

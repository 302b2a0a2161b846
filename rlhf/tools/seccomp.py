"""The filter of system calls for model-written code, as the kernel's own little programs (BPF).

It lists what Python, threads, asyncio, sqlite3, numpy and sympy need; whatever it does not name
fails, calls that kernels to come will have among it.
"""

import os
import struct
from collections.abc import Iterator

ALLOWED = """
    read 0 write 1 close 3 stat 4 fstat 5 lstat 6 poll 7 lseek 8 mprotect 10 munmap 11 brk 12
    rt_sigaction 13 rt_sigprocmask 14 rt_sigreturn 15 pread64 17 pwrite64 18 readv 19 writev 20
    access 21 pipe 22 select 23 sched_yield 24 mremap 25 msync 26 madvise 28 dup 32 dup2 33 pause 34
    nanosleep 35 getitimer 36 alarm 37 setitimer 38 getpid 39 sendfile 40 recvfrom 45 shutdown 48
    getsockname 51 exit 60 wait4 61 uname 63 ftruncate 77 getdents 78 getcwd 79 chdir 80 fchdir 81
    rename 82 mkdir 83 rmdir 84 creat 85 unlink 87 readlink 89 umask 95 gettimeofday 96 getrlimit 97
    getrusage 98 sysinfo 99 times 100 getuid 102 getgid 104 geteuid 107 getegid 108 getppid 110
    getpgrp 111 getgroups 115 getresuid 118 getresgid 120 rt_sigpending 127 rt_sigtimedwait 128
    rt_sigsuspend 130 sigaltstack 131 statfs 137 fstatfs 138 sched_get_priority_max 146
    sched_get_priority_min 147 arch_prctl 158 setrlimit 160 gettid 186 time 201 futex 202
    epoll_create 213 getdents64 217 set_tid_address 218 restart_syscall 219 fadvise64 221
    clock_gettime 228 clock_getres 229 clock_nanosleep 230 exit_group 231 epoll_wait 232
    epoll_ctl 233 waitid 247 mkdirat 258 newfstatat 262 unlinkat 263 renameat 264 readlinkat 267
    faccessat 269 pselect6 270 ppoll 271 set_robust_list 273 epoll_pwait 281 eventfd 284
    eventfd2 290 epoll_create1 291 dup3 292 pipe2 293 preadv 295 pwritev 296 getcpu 309
    renameat2 316 getrandom 318 copy_file_range 326 statx 332 rseq 334 close_range 436
    faccessat2 439 epoll_pwait2 441
"""
"""Whatever their arguments; `_steps` allows a few others for some of theirs.

Left out, beside network, processes, mounts and keys: what Landlock leaves open, such as owner, mode
and times of files anywhere and locks on them; and what no limit of a process counts or bounds well,
such as timers, contexts of asynchronous reading, shared memory, and files in memory.
"""
DONE = """
    fsync 74 fdatasync 75
"""
"""Succeed, and do nothing: the folder is thrown away, and the disk is everybody's."""
UNSUPPORTED = """
    fallocate 285
    getxattr 191 lgetxattr 192 fgetxattr 193 listxattr 194 llistxattr 195 flistxattr 196
"""
"""Fail as on a file system that lacks them, so that honest code does without: room on the disk that
no file's length shows, and attributes of files anywhere."""
LAST_KNOWN = 450
"""Newer calls fail as on a kernel without them, so that a library takes an older one. Numbers of
the x32 interface are larger, too."""

_CLONE, _CLONE3, _FCNTL, _IOCTL, _MMAP, _PRCTL, _PRLIMIT = 56, 435, 72, 16, 9, 157, 302
_SENDTO, _SOCKETPAIR, _AFFINITY = 44, 53, 204
_OPEN, _OPENAT, _OPENAT2 = 2, 257, 437
CONDITIONAL = (_CLONE, _CLONE3, _FCNTL, _IOCTL, _MMAP, _PRCTL, _PRLIMIT, _SENDTO, _SOCKETPAIR,
               _AFFINITY, _OPEN, _OPENAT, _OPENAT2)  # fmt: skip
"""Calls whose verdict depends on their arguments, or is one of their own."""
_AUDIT_ARCH_X86_64, _CLONE_THREAD, _CLONE_NEW_ANY = 0xC000003E, 0x10000, 0x7E020000
_MAP_ANONYMOUS, _MAP_HUGETLB = 0x20, 0x40000
_OPEN_DENIED = 0x400000 | 0x4000 | 0x1000
"""TMPFILE, a file without a name, which no folder shows; DIRECT and DSYNC, which wait for the disk
and keep others waiting."""
_FCNTL_ALLOWED = [0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032]
"""Duplicates, flags, locks on ranges, the size of a pipe. Others make processes outside receive
signals, and concern their use of a file."""
_IOCTL_ALLOWED = [0x5421, 0x541B, 0x5451, 0x5450, 0x5401, 0x802C542A, 0x5413]
"""FIONBIO, FIONREAD, FIOCLEX, FIONCLEX; TCGETS, TCGETS2 and TIOCGWINSZ: whether it is a terminal.
Others set the owner and the attributes of files, reserve room on the disk, tell the network."""
_PRCTL_ALLOWED = [2, 3, 15, 16, 21, 23, 39, 0x53564D41]
"""Asks about itself; names threads and memory."""
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE = 1, 1, 0xF
_WORD = 0xFFFFFFFF
_ALLOW, _KILL, _DONE = 0x7FFF0000, 0x80000000, 0x50000
_EPERM, _ENOSYS, _EOPNOTSUPP = 0x50001, 0x50026, 0x5005F
_LOAD, _AND, _EQUAL, _GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06


def program() -> bytes:
    """Lets the calls of `ALLOWED` through, starts threads but no process, maps memory but no file.

    Empty on a machine other than x86_64, whose calls have other numbers.
    """
    return b"".join(_steps()) if os.uname().machine == "x86_64" else b""


def _steps() -> Iterator[bytes]:
    yield _step(_LOAD, 4) + _step(_EQUAL, _AUDIT_ARCH_X86_64, 1) + _step(_RETURN, _KILL)
    yield _step(_LOAD, 0) + _step(_GREATER, LAST_KNOWN, 0, 1) + _step(_RETURN, _ENOSYS)
    for calls, verdict in ((ALLOWED, _ALLOW), (DONE, _DONE), (UNSUPPORTED, _EOPNOTSUPP)):
        for number in calls.split()[1::2]:
            yield _step(_EQUAL, int(number), 0, 1) + _step(_RETURN, verdict)
    # glibc then takes clone and openat, whose flags can be seen here.
    for number in (_CLONE3, _OPENAT2):
        yield _step(_EQUAL, number, 0, 1) + _step(_RETURN, _ENOSYS)
    thread = _CLONE_THREAD | _CLONE_NEW_ANY
    yield _if(_CLONE, [(0, thread, [_CLONE_THREAD])], _EPERM)
    # A file that is mapped lives on without a name or a handle, and so does its room on the disk.
    memory = _MAP_ANONYMOUS | _MAP_HUGETLB
    yield _if(_MMAP, [(3, memory, [_MAP_ANONYMOUS])], _EPERM)
    # asyncio needs a pair, and one of streams, without an address, reaches nobody else.
    pair = [(0, _WORD, [_AF_UNIX]), (1, _SOCK_TYPE, [_SOCK_STREAM])]
    yield _if(_SOCKETPAIR, pair, _EPERM)
    yield _if(_SENDTO, [(4, _WORD, [0]), (5, _WORD, [0])], _EPERM)
    # Of this process alone.
    for number in (_PRLIMIT, _AFFINITY):
        yield _if(number, [(0, _WORD, [0])], _EPERM)
    yield _if(_FCNTL, [(1, _WORD, _FCNTL_ALLOWED)], _EPERM)
    yield _if(_IOCTL, [(1, _WORD, _IOCTL_ALLOWED)], _EOPNOTSUPP)
    yield _if(_OPEN, [(1, _OPEN_DENIED, [0])], _EOPNOTSUPP)
    yield _if(_OPENAT, [(2, _OPEN_DENIED, [0])], _EOPNOTSUPP)
    yield _if(_PRCTL, [(0, _WORD, _PRCTL_ALLOWED)], _EPERM)
    yield _step(_RETURN, _EPERM)


def _step(operation: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; of a comparison, how many to leap over in either case."""
    return struct.pack("=HBBI", operation, then, otherwise, value)


def _if(number: int, conditions: list[tuple[int, int, list[int]]], otherwise: int) -> bytes:
    """Allows a call where the low word of each argument named, masked, is one of the values."""
    body = b""
    for argument, mask, values in conditions:
        body += _step(_LOAD, 16 + 8 * argument) + _step(_AND, mask)
        for place, value in enumerate(values):
            body += _step(_EQUAL, value, len(values) - place)
        body += _step(_RETURN, otherwise)
    body += _step(_RETURN, _ALLOW)
    return _step(_EQUAL, number, 0, len(body) // 8) + body

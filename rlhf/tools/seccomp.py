"""The filter of system calls for model-written code, as the kernel's own little programs (BPF)."""

import os
import struct
from collections.abc import Iterator

DENIED = """
    socket 41 connect 42 accept 43 accept4 288 bind 49 listen 50
    sendmsg 46 recvmsg 47 sendmmsg 307 recvmmsg 299
    fork 57 vfork 58 execve 59 execveat 322 kill 62 tkill 200 tgkill 234
    rt_sigqueueinfo 129 rt_tgsigqueueinfo 297 pidfd_open 434 pidfd_getfd 438 pidfd_send_signal 424
    ptrace 101 process_vm_readv 310 process_vm_writev 311 process_madvise 440 process_mrelease 448
    kcmp 312 perf_event_open 298 migrate_pages 256 move_pages 279 setpriority 141 ioprio_set 251
    sched_setparam 142 sched_setscheduler 144 sched_setaffinity 203 sched_setattr 314
    mount 165 umount2 166 pivot_root 155 chroot 161 unshare 272 setns 308 open_tree 428
    move_mount 429 fsopen 430 fsconfig 431 fsmount 432 fspick 433 mount_setattr 442
    name_to_handle_at 303 open_by_handle_at 304 quotactl 179 quotactl_fd 443
    bpf 321 keyctl 250 add_key 248 request_key 249 userfaultfd 323
    io_uring_setup 425 io_uring_enter 426 io_uring_register 427
    shmget 29 shmat 30 shmctl 31 semget 64 semop 65 semctl 66 semtimedop 220
    msgget 68 msgsnd 69 msgrcv 70 msgctl 71 mq_open 240 mq_unlink 241
    chmod 90 fchmod 91 fchmodat 268 chown 92 fchown 93 lchown 94 fchownat 260 truncate 76
    utime 132 utimes 235 futimesat 261 utimensat 280 mknod 133 mknodat 259
    setxattr 188 lsetxattr 189 fsetxattr 190 removexattr 197 lremovexattr 198 fremovexattr 199
    inotify_init 253 inotify_init1 294 inotify_add_watch 254 fanotify_init 300 fanotify_mark 301
    memfd_create 319 memfd_secret 447 personality 135 modify_ldt 154 syslog 103 acct 163
    settimeofday 164 clock_settime 227 adjtimex 159 clock_adjtime 305 swapon 167 swapoff 168
    sync 162 syncfs 306 reboot 169 sethostname 170 setdomainname 171 iopl 172 ioperm 173 vhangup 153
    init_module 175 finit_module 313 delete_module 176 kexec_load 246 kexec_file_load 320
"""
"""Network, other processes, mounts, keys; and what Landlock leaves open: owner, mode and times of
files anywhere, System V memory, which outlives its maker, and watching folders."""
UNSUPPORTED = """
    fallocate 285
    getxattr 191 lgetxattr 192 fgetxattr 193 listxattr 194 llistxattr 195 flistxattr 196
"""
"""Fail as on a file system that lacks them, so that honest code does without: room on the disk that
no file's length shows, and attributes of files anywhere."""
LAST_KNOWN = 450
"""Of newer calls we do not know what they do. Numbers of the x32 interface are larger, too."""

_CLONE, _CLONE3, _FCNTL, _IOCTL, _PRCTL, _PRLIMIT, _SOCKETPAIR = 56, 435, 72, 16, 157, 302, 53
_OPEN, _OPENAT, _OPENAT2, _TMPFILE = 2, 257, 437, 0x400000
_AUDIT_ARCH_X86_64, _CLONE_THREAD, _CLONE_NEW_ANY = 0xC000003E, 0x10000, 0x7E020000
_FCNTL_DENIED = [8, 10, 15, 1024, 1026]
"""SETOWN, SETSIG and SETOWN_EX; SETLEASE and NOTIFY, which concern others' use of a file."""
_IOCTL_ALLOWED = [0x5421, 0x541B, 0x5451, 0x5450, 0x5401, 0x802C542A, 0x5413]
"""FIONBIO, FIONREAD, FIOCLEX, FIONCLEX; TCGETS, TCGETS2 and TIOCGWINSZ: whether it is a terminal.
Others set the owner and the attributes of files, reserve room on the disk, tell the network."""
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _SOCK_STREAM, _SOCK_TYPE = 1, 4, 1, 0xF
_WORD = 0xFFFFFFFF
_ALLOW, _KILL, _EPERM, _ENOSYS, _EOPNOTSUPP = 0x7FFF0000, 0x80000000, 0x50001, 0x50026, 0x5005F
_LOAD, _AND, _EQUAL, _GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06


def program() -> bytes:
    """Fails the calls of `DENIED` and `UNSUPPORTED`, starts threads but no process, changes limits
    of itself only.

    Empty on a machine other than x86_64, whose calls have other numbers.
    """
    return b"".join(_steps()) if os.uname().machine == "x86_64" else b""


def _steps() -> Iterator[bytes]:
    yield _step(_LOAD, 4) + _step(_EQUAL, _AUDIT_ARCH_X86_64, 1) + _step(_RETURN, _KILL)
    yield _step(_LOAD, 0) + _step(_GREATER, LAST_KNOWN, 0, 1) + _step(_RETURN, _ENOSYS)
    # glibc then takes clone and openat, whose flags can be seen here.
    for number in (_CLONE3, _OPENAT2):
        yield _step(_EQUAL, number, 0, 1) + _step(_RETURN, _ENOSYS)
    for calls, verdict in ((DENIED, _EPERM), (UNSUPPORTED, _EOPNOTSUPP)):
        for number in calls.split()[1::2]:
            yield _step(_EQUAL, int(number), 0, 1) + _step(_RETURN, verdict)
    yield _if(_CLONE, 0, _CLONE_THREAD | _CLONE_NEW_ANY, [_CLONE_THREAD], _ALLOW, _EPERM)
    # asyncio needs a pair, and one of streams reaches nobody else.
    yield _if(_SOCKETPAIR, 1, _SOCK_TYPE, [_SOCK_STREAM], _ALLOW, _EPERM)
    yield _if(_PRLIMIT, 0, _WORD, [0], _ALLOW, _EPERM)
    # The owner of a file is sent signals, and may be any process.
    yield _if(_FCNTL, 1, _WORD, _FCNTL_DENIED, _EPERM, _ALLOW)
    yield _if(_IOCTL, 1, _WORD, _IOCTL_ALLOWED, _ALLOW, _EOPNOTSUPP)
    # A file without a name, which no folder shows.
    yield _if(_OPEN, 1, _TMPFILE, [_TMPFILE], _EOPNOTSUPP, _ALLOW)
    yield _if(_OPENAT, 2, _TMPFILE, [_TMPFILE], _EOPNOTSUPP, _ALLOW)
    yield _if(_PRCTL, 0, _WORD, [_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE], _EPERM, _ALLOW)
    yield _step(_RETURN, _ALLOW)


def _step(operation: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; of a comparison, how many to leap over in either case."""
    return struct.pack("=HBBI", operation, then, otherwise, value)


def _if(
    number: int, argument: int, mask: int, values: list[int], verdict: int, otherwise: int
) -> bytes:
    """The verdict on a call where the low word of an argument, masked, is one of the values."""
    body = _step(_LOAD, 16 + 8 * argument) + _step(_AND, mask)
    for place, value in enumerate(values):
        body += _step(_EQUAL, value, len(values) - place)
    body += _step(_RETURN, otherwise) + _step(_RETURN, verdict)
    return _step(_EQUAL, number, 0, len(body) // 8) + body

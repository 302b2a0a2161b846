"""Locks its own process in for good, then runs the Python source that stands on standard input.

`rlhf.tools.sandbox` starts this file by its path, in a fresh interpreter and session, in an empty
folder, with an environment of our making. Its argument is a JSON object: the fields of `Limits`,
`parent` (a pid), `seccomp` (a program, in hexadecimal digits), `packages` (the folder of each that
may be imported beside the standard library, by name) and `allow_unsafe`. On standard output `READY`
comes first, before any of the code runs; without it the jail could not be built, and
standard error says why. Standard library only.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

READY = b"locked in\n"
SPARE_UID = 1_900_000_000
"""Plus the process's pid: in a range that no distribution hands out."""
NOBODY = 65534
SHARED_UID_TASKS = 1000
"""Room for what a shared user's other processes start: the kernel counts threads by user."""
STACK_BYTES = 8 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: Any, *arguments: Any) -> int:
    words = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    result = function(*words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# --- limits --------------------------------------------------------------------------------------


def limit_resources(settings: dict[str, Any]) -> None:
    """Memory, processor time, file size, open files, threads; no core file."""
    cpu_s = settings["cpu_s"]
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_STACK, STACK_BYTES)
    _limit(resource.RLIMIT_NOFILE, settings["num_open_files"])
    _limit(resource.RLIMIT_FSIZE, settings["file_bytes"])
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_NPROC, settings["num_threads"] + _tasks_of(os.getuid()))
    # SIGXCPU, which the parent tells apart; it ends code that does not heed it, or the kernel does.
    _limit(resource.RLIMIT_CPU, cpu_s, cpu_s + 5)
    _limit(resource.RLIMIT_AS, settings["memory_bytes"])


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    most = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def _tasks_of(uid: int) -> int:
    """What the user runs already, with room for more; nothing for a user of this process alone."""
    if uid >= SPARE_UID:
        return 0
    tasks = SHARED_UID_TASKS
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                tasks += len(os.listdir(f"/proc/{name}/task"))
        except OSError:  # It ended meanwhile, or is hidden.
            continue
    return tasks


# --- user and process ----------------------------------------------------------------------------

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_CAPABILITY_VERSION_3 = 0x20080522


def leave_root(settings: dict[str, Any]) -> None:
    """Becomes a user without any privilege, whom nobody can trace, and who dies with the parent."""
    settings["packages"] = _reachable(settings["packages"])
    if 0 in (*os.getresuid(), *os.getresgid()):
        _become_spare_user()
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0))
    _call(_libc.capset, header, ctypes.create_string_buffer(24))
    _call(_libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(_libc.prctl, _PR_SET_DUMPABLE, 0, 0, 0, 0)
    # A change of user clears it, so it comes last; the parent may be gone already.
    _call(_libc.prctl, _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != settings["parent"]:
        sys.exit("the parent is gone")


def _become_spare_user() -> None:
    """A user for this run alone, so that runs neither share a count of threads nor see each other's
    files; or `nobody` where a container maps few users."""
    prefix = os.open(sys.base_prefix, os.O_PATH | os.O_DIRECTORY)
    failure = OSError("no spare user")
    for uid in (SPARE_UID + os.getpid(), NOBODY):
        try:
            os.setgroups([])
            os.chown(".", uid, uid)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            break
        except OSError as error:
            failure = error
    else:
        os.close(prefix)
        raise failure
    if os.access(os.path.dirname(os.__file__), os.R_OK | os.X_OK):
        os.close(prefix)
    else:
        # Python lies in a home that only root may enter: the open folder is the way in.
        _move_python(sys.base_prefix, f"/proc/self/fd/{prefix}")


def _reachable(packages: dict[str, str]) -> dict[str, str]:
    """The same, by an open folder, which users without rights may go in by, as of Python itself."""
    handles = {os.path.dirname(folder): -1 for folder in packages.values()}
    for folder in handles:
        handles[folder] = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    return {
        name: f"/proc/self/fd/{handles[os.path.dirname(folder)]}/{os.path.basename(folder)}"
        for name, folder in packages.items()
    }


def _move_python(old: str, new: str) -> None:
    def moved(path: str) -> str:
        return new + path[len(old) :] if path.startswith(old + os.sep) else path

    sys.path[:] = [moved(path) for path in sys.path]
    for module in list(sys.modules.values()):
        if hasattr(module, "__path__"):
            module.__path__ = [moved(path) for path in module.__path__]
    sys.path_importer_cache.clear()
    sys.prefix = sys.base_prefix = sys.exec_prefix = sys.base_exec_prefix = new


# --- files: Landlock -----------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_FILE, _REFER = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 13
_READ = _READ_FILE | _READ_DIR
_FOLDER = _READ | _WRITE_FILE | _TRUNCATE | _REFER | _REMOVE_DIR | _REMOVE_FILE
_FOLDER |= _MAKE_DIR | _MAKE_FILE  # No links, sockets, FIFOs or devices.


def landlock_abi() -> int:
    """The kernel's version of Landlock; OSError where it has none or it is not switched on."""
    return _call(_libc.syscall, _CREATE_RULESET, None, 0, _VERSION)


def restrict_files(settings: dict[str, Any]) -> None:
    """Reads Python and the system's libraries, writes the folder, and nothing else; no TCP, and
    from ABI 6 on no signal and no abstract socket of a process outside."""
    abi = landlock_abi()
    handled = (1 << (13, 14, 15, 15, 16)[min(abi, 5) - 1]) - 1
    network, scopes = 3 if abi >= 4 else 0, 3 if abi >= 6 else 0
    attributes = ctypes.create_string_buffer(struct.pack("QQQ", handled, network, scopes))
    rules = _call(_libc.syscall, _CREATE_RULESET, attributes, 24, 0)
    for path, access in _rules(settings["packages"].values()):
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access & handled, handle))
        _call(_libc.syscall, _ADD_RULE, rules, _PATH_BENEATH, rule, 0)
        os.close(handle)
    _call(_libc.syscall, _RESTRICT_SELF, rules, 0)
    os.close(rules)


def _rules(packages: Iterable[str]) -> Iterator[tuple[str, int]]:
    yield ".", _FOLDER
    yield "/dev/null", _READ_FILE | _WRITE_FILE | _TRUNCATE
    yield "/dev/urandom", _READ_FILE
    yield "/etc/ld.so.cache", _READ_FILE
    for folder in ("/usr/lib", "/usr/lib64", "/lib", "/lib64"):
        yield folder, _READ
    for folder in (os.path.join(sys.base_prefix, "lib"), *sys.path):
        if os.path.isdir(folder):  # One of `sys.path` is an archive, which need not be there.
            yield folder, _READ
    for folder in packages:
        yield folder, _READ
        yield f"{folder}.libs", _READ  # What a wheel brings along for its modules.


# --- system calls: seccomp -----------------------------------------------------------------------


def filter_calls(settings: dict[str, Any]) -> None:
    """Installs the filter that `rlhf.tools.seccomp` wrote, and first loads what it would keep from
    being loaded, as no file can be mapped any more."""
    program = bytes.fromhex(settings["seccomp"])
    if not program:
        raise OSError(f"no filter of system calls is written for {os.uname().machine}")
    for folder in sys.path:
        if folder.endswith("lib-dynload"):
            _load(folder, os.listdir(folder))
    for folder in settings["packages"].values() if settings["imports"] else ():
        for path, _, names in os.walk(folder):
            if not path.endswith("tests"):
                _load(path, names)
    code = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    _call(_libc.prctl, _PR_SET_SECCOMP, 2, ctypes.create_string_buffer(header), 0, 0)


_RARE = ("_test", "_ctypes_test", "xx", "_xx", "_tkinter", "_curses", "_dbm", "_gdbm", "readline",
         "nis", "ossaudiodev", "audioop", "spwd", "_lsprof", "_codecs_", "_multibytecodec",
         "syslog", "termios", "_posixshmem", "_multiprocessing")  # fmt: skip
"""Modules in C that honest code here has no use for; each takes 0.2 ms to load."""


def _load(folder: str, names: Iterable[str]) -> None:
    """Loads modules in C without making them modules; `import` then finds them loaded."""
    for name in names:
        if not name.endswith(".so") or name.startswith(_RARE):
            continue
        try:
            ctypes.CDLL(os.path.join(folder, name))
        except OSError:  # It lacks a library of its own, and could not be imported outside either.
            continue


class _Packages:
    """Finds packages by their names, where no folder that holds them may be read."""

    def __init__(self, folders: dict[str, str]) -> None:
        self._folders = folders

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if (folder := self._folders.get(name)) is None:
            return None
        from importlib.util import spec_from_file_location  # not at every start: it takes 1 ms

        file = os.path.join(folder, "__init__.py")
        return spec_from_file_location(name, file, submodule_search_locations=[folder])


# --- the program ---------------------------------------------------------------------------------

LAYERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "user": leave_root,
    "limits": limit_resources,  # As that user, whose threads count.
    "landlock": restrict_files,
    "seccomp": filter_calls,
}


def _lock_in() -> tuple[bytes, dict[str, Any]]:
    """The source, and the namespace to run it in, once every layer stands."""
    settings = json.loads(sys.argv[1])
    if os.listdir("."):
        sys.exit("the folder to be given away is not empty")
    source = sys.stdin.buffer.read()
    missing = []
    for name, enter in LAYERS.items():
        try:
            enter(settings)
        except OSError as error:
            missing.append(f"{name}: {error}")
    if missing and not settings["allow_unsafe"]:
        sys.exit("; ".join(missing))
    sys.meta_path.append(_Packages(settings["packages"]))
    os.write(1, READY)
    main = types.ModuleType("__main__")
    sys.modules["__main__"], sys.argv = main, [""]
    # What was printed before a deadline is to be seen, too.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.excepthook = _without_this_file
    return source, vars(main)


def _without_this_file(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Prints a traceback that begins below this file's own frame."""
    sys.__excepthook__(kind, error.with_traceback(trace and trace.tb_next), None)


if __name__ == "__main__":
    exec(*_lock_in())

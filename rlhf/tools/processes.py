"""What Linux tells of a process that anybody may ask after."""

from pathlib import Path


def num_threads(pid: int) -> int:
    """Of a process of ours; 0 of one that has ended."""
    try:
        told = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(told.rpartition(b")")[2].split()[17])


def waited_s(pid: int) -> float:
    """For how long its first thread, able to go on, has waited for a processor."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[1]) / 1e9
    except OSError:  # It has ended, or the kernel does not count.
        return 0.0

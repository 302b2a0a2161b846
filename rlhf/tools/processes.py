"""What Linux tells of a process that anybody may ask after."""

import os
from pathlib import Path
from typing import NamedTuple


class Use(NamedTuple):
    """Of a process that goes on."""

    num_threads: int
    cpu_s: float
    """Processor time, of all its threads."""


def use(pid: int) -> Use:
    """Of a process of ours; nothing of one that has ended."""
    try:
        told = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return Use(0, 0.0)
    fields = told.rpartition(b")")[2].split()
    return Use(int(fields[17]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


def waited_s(pid: int) -> float:
    """For how long its first thread, able to go on, has waited for a processor."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[1]) / 1e9
    except OSError:  # It has ended, or the kernel does not count.
        return 0.0

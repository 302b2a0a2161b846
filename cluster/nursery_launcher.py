"""What Ray starts in place of Python, so that a fork of the nursery becomes the worker.

`nursery_launcher.py SOCKET SCRIPT ARGUMENT...`. It needs nothing but the standard library, as it
takes its time for every worker. Ray knows a worker by the process that reports to it, not by the
one that it has started.
"""

import json
import os
import signal
import socket
import sys

WAIT_S = 60.0
"""Longest wait for a nursery that is still importing."""


def main() -> None:
    path, *words = sys.argv[1:]
    with open("/proc/self/oom_score_adj") as file:
        oom_score_adj = file.read()
    told = {
        "words": words,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "group": os.getpgrp(),
        "blocked": [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "oom_score_adj": oom_score_adj,
    }
    try:
        ask(path, json.dumps(told).encode())
    except OSError as error:
        print(f"{path}: {error}; this worker imports everything by itself", file=sys.stderr)
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *words])


def ask(path: str, told: bytes) -> None:
    """Returns once there is a child that goes on; raises OSError if there will be none."""
    with socket.socket(socket.AF_UNIX) as nursery:
        nursery.settimeout(WAIT_S)
        nursery.connect(path)
        socket.send_fds(nursery, [len(told).to_bytes(8, "big")], [0, 1, 2])
        nursery.sendall(told)
        if not nursery.recv(1):
            raise OSError("the nursery's child has ended")
        nursery.sendall(b"\0")  # only now may the child begin, so that there are never two


if __name__ == "__main__":
    main()

"""Stands where Ray has an agent beside each node, in a Ray without a dashboard to tell of it.

Ray's own takes three times what it takes to import Ray, and 130 MiB, to serve pages, metrics and
jobs that nobody asks a run's own Ray for. A node waits for its agent's ports, and ends with it.
"""

import os
import sys
import time
from pathlib import Path

PORTS = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port")
NONE = "-1"
"""As Ray's own writes where it does not serve."""
LOOK_S = 1.0


def main() -> None:
    told = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    session, node = Path(told["--session-dir"]), told["--node-id"]
    for name in PORTS:
        unfinished = session / f"{name}_{node}.unfinished"
        unfinished.write_text(NONE)
        unfinished.replace(session / f"{name}_{node}")
    raylet = int(os.environ["RAY_RAYLET_PID"])
    while os.getppid() == raylet:
        time.sleep(LOOK_S)


if __name__ == "__main__":
    main()

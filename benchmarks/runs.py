"""What the benchmarks of whole runs share."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Student's t for a 95 % interval, by number of seeds."""


def run_once(name: str, directory: Path, *overrides: str) -> float:
    """A run of `python -m rlhf`, unless it is finished already; the minutes that it took."""
    minutes = directory / "minutes.json"
    if not minutes.exists():
        print(f"{name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "rlhf", *overrides]
        command += [f"run.dir={directory}", "tracking=disabled"]
        begin = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        minutes.write_text(json.dumps((time.monotonic() - begin) / 60))
    return json.loads(minutes.read_text())


def listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def interval(values: Sequence[float]) -> str:
    """The mean over seeds, with Student's interval if there are several."""
    if len(values) < 2:
        return f"{values[0]:+.3f}"
    half = T_95[len(values)] * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.3f} ± {half:.3f}"

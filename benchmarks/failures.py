"""What failures cost, and what it costs to be ready for them.

`python benchmarks/failures.py [--rounds 80] [--prompts 512] [--json FILE]`

1. The demo, unbroken, and the same with a worker killed every 20 rounds, roles in turn: what each
   failure took until the next new round, beyond a round's own time, and the share of the time that
   was of use by that. The two runs' whole times differ by how busy the machine was, too.
2. The computing that heartbeats, and looks at the head of the cluster, take while nothing fails, as
   a share of one core.
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil
import ray

from actors.group import Allotment, start_workers, stop_workers, wait_ready
from actors.judge import JudgeWorker
from actors.supervision import LONGEST_PAUSE_S
from cluster import head
from rlhf.chaos.comparing import differences
from rlhf.chaos.striking import Broken, Failure
from rlhf.judges.text import TextJudgeConfig
from rlhf.storage.run_directory import read_summary

EVERY = 20
ROLES = ("rollout", "judge", "policy", "reference")
BEATS = 2000
LOOKS = 200


def overrides(rounds: int, prompts: int) -> list[str]:
    """As people have it: a lost policy goes back to a checkpoint in memory."""
    return [
        "experiment=demo",
        "tracking=disabled",
        f"num_rounds={rounds}",
        f"round.prompts={prompts}",
        "warmup.steps=100",
        "eval.every=0",
        "eval.num_prompts=32",
    ]


def runs(directory: Path, rounds: int, prompts: int) -> dict:
    settings = overrides(rounds, prompts)
    unbroken = Broken(settings, directory / "unbroken").through()
    planned = [
        Failure(0.0, "kill", role, rounds=number)
        for number, role in zip(
            range(EVERY // 2, rounds, EVERY), itertools.cycle(ROLES), strict=False
        )
    ]
    broken = Broken(settings, directory / "broken", planned).through()
    assert unbroken.code == broken.code == 0
    online_s = read_summary(directory / "unbroken")["time_s"]["round"]
    failures = [told(one, online_s / rounds) for one in broken.struck]
    assert all(one["cost_s"] is not None for one in failures), failures
    lost_s = sum(one["cost_s"] for one in failures)
    differs = differences(directory / "unbroken", directory / "broken")
    return {
        "rounds": rounds,
        "round_s": online_s / rounds,
        "failures": failures,
        "lost_s": lost_s,
        "whole_runs_differ_by_s": broken.seconds - unbroken.seconds,
        "useful_share": online_s / (online_s + lost_s),
        "differences": {what: text for what, text in differs.items() if text},
    }


def told(one, round_s: float) -> dict:
    back_s = one.back_s
    return {
        "role": one.role,
        "back_s": back_s,
        "repeated": one.repeated,
        "cost_s": None if back_s is None else back_s - round_s,
    }


async def beats() -> dict:
    """CPU seconds of a beat, of both ends and of Ray between them."""
    workers = start_workers(JudgeWorker, Allotment("judge", 1, 1, 0, 1), TextJudgeConfig().build)
    await wait_ready(workers, 300)
    for _ in range(100):
        await workers[0].beat()
    before, begin = computed(), time.monotonic()
    for _ in range(BEATS):
        await workers[0].beat()
    beat_s = (computed() - before) / BEATS
    seconds = time.monotonic() - begin
    idle = computed()
    await asyncio.sleep(seconds)
    idle_s = (computed() - idle) / BEATS  # what Ray does anyway in that time
    begin_s = computed()
    for _ in range(LOOKS):
        head.listens()
        head.draining()
    look_s = (computed() - begin_s) / LOOKS
    stop_workers(workers)
    return {
        "beat_cpu_s": beat_s - idle_s,
        "share_of_a_core_per_worker": (beat_s - idle_s) / LONGEST_PAUSE_S,
        "look_at_the_head_cpu_s": look_s,
        "share_of_a_core_per_run": look_s / head.LOOK_S,
    }


def computed() -> float:
    """CPU seconds of this process and all below it."""
    total = 0.0
    for one in (me := psutil.Process(), *me.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = {"ready": ready()}
    with tempfile.TemporaryDirectory() as scratch:
        found |= {"runs": runs(Path(scratch), asked.rounds, asked.prompts)}
    text = json.dumps(found, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n")
    sys.exit(1 if found["runs"]["differences"] else 0)


def ready() -> dict:
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        return asyncio.run(beats())
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()

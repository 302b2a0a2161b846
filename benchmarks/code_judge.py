"""How fast programs are judged by one worker and by two: `python benchmarks/code_judge.py`.

[--programs N] [--json FILE]. Each worker is a Ray actor that runs one program at a time, as
`judge=code judge.num_parallel=1` has it; all programs differ, so that no verdict is known before.
One worker and two take turns, a fifth of the programs at a time, so that whatever else the machine
does meets both. Prints a table in Markdown, and the seconds of one as a multiple of those of two.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

from actors.group import Allotment, start_workers, stop_workers, wait_ready
from actors.judge import JudgeService, JudgeWorker
from cluster.placement import Role
from cluster.session import session
from rlhf.judges.code import CodeJudgeConfig
from rlhf.records import Completion, Message, Prompt

TIMEOUT_S = 600.0
PER_PROMPT, TURNS = 4, 5
TESTS = ["assert f(3, 5) == 8", "assert f(-2, 2) == 0", "assert f(10, 0) == 10"]


def prompts(num_programs: int, name: str) -> list[tuple[Prompt, tuple[Completion, ...]]]:
    """Groups of right programs that differ in a comment."""
    groups = []
    for first in range(0, num_programs, PER_PROMPT):
        id = f"{name}-{first}"
        prompt = Prompt(id, (Message("user", "Add."),), (1,), row={"test_list": TESTS})
        numbers = range(first, min(first + PER_PROMPT, num_programs))
        texts = [f"def f(a, b):\n    return a + b  # {name} {number}" for number in numbers]
        group = tuple(
            Completion(id, i, (first, i), (0.0, 0.0), text, False, 0)
            for i, text in enumerate(texts)
        )
        groups.append((prompt, group))
    return groups


async def measure(num_programs: int, seats: list) -> dict[int, float]:
    """By number of workers the seconds for all programs, without the workers' start."""
    allotment = Allotment("judge", 2, 1, 0, 1, seats)
    workers = start_workers(JudgeWorker, allotment, CodeJudgeConfig(num_parallel=1).build)
    seconds = {1: 0.0, 2: 0.0}
    try:
        await wait_ready(workers, TIMEOUT_S)
        services = {n: JudgeService(workers[:n], TIMEOUT_S) for n in seconds}
        for turn in range(TURNS):
            for n, service in services.items():
                asked = prompts(num_programs // TURNS, f"turn {turn} of {n}")
                began = time.perf_counter()
                verdicts = await asyncio.gather(*(service.judge(*one) for one in asked))
                seconds[n] += time.perf_counter() - began
                assert all(score == 1 for verdict in verdicts for score in verdict.scores)
    finally:
        stop_workers(workers)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=500)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    with session(None, [Role("judge", 2, 1, 0.0)], TIMEOUT_S) as reservation:
        seconds = asyncio.run(measure(told.programs, list(reservation.seats["judge"])))
    print("| workers | seconds | programs per second |\n| --- | --- | --- |")
    for number, taken in seconds.items():
        print(f"| {number} | {taken:.1f} | {told.programs / taken:.1f} |")
    ratio = seconds[1] / seconds[2]
    print(f"\ntwo workers are {ratio:.2f} times as fast as one")
    if told.json:
        found = {"programs": told.programs, "seconds": seconds, "ratio": ratio}
        told.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

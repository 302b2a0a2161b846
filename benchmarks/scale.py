"""What the driver itself costs: real queues, collector, loop, metrics and store, and simulated
workers.

    python benchmarks/scale.py [--json FILE] [--parts round at_once large long ...]

The simulated workers stand where Ray's would, in the driver's own process: their answers come one
after another from when they are first asked, each with a delay of its own, and are unpickled there
as Ray's are. CPU seconds are those of this process; `simulation_cpu_s` is what the same workers
take when nothing stands in front of them. A stall is the event loop's own CPU time between two
ticks that are 5 ms apart, so others on the machine do not count; `longest_wait_s` is the same by
the clock.

- round: 20,000 prompts and 256 workers, all asked at once: answers within 25 s, an update of 5 s;
- at_once: the same with 1,024 workers, and answers within 2 s;
- large: 2,048, 4,096 and 16,384 prompts of 8 answers with scores and all pairs, stage by stage;
- long: 32 prompts of 16 answers of up to 4,096 tokens, all pairs: stages, and their memory;
- tokens: 1,024 prompts of 8 answers of 4,096 tokens: memory, and seconds of unpickling them;
- memory: 300 rounds.
"""

import argparse
import asyncio
import gc
import json
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from actors.judge import Asked as AskedJudge
from actors.judge import JudgeService
from actors.rollout import RolloutService
from rlhf.algorithms.base import Services
from rlhf.algorithms.online import OnlineDPOConfig
from rlhf.collecting.collector import RoundCollector
from rlhf.collecting.pairing import PairRule
from rlhf.config.run import RoundConfig, TrackingConfig, WandbMode
from rlhf.launching.garbage import look_between_rounds
from rlhf.launching.stopping import StopRequest
from rlhf.learning.anchors import Anchors
from rlhf.learning.portions import Portions
from rlhf.loop import Run, train
from rlhf.records import Completion, Judgement, Message, Prompt, Sampling
from rlhf.storage.store import PreferenceStore
from rlhf.watching.metrics import collection_metrics
from rlhf.watching.tracking import RunTracker

TICK_S = 0.005
PORTION_TOKENS = 1 << 17
"""Of all ranks' forward passes."""
CHUNK = 16
"""Answers that a worker gives at once at most."""
CONSOLE = Console(quiet=True)


@dataclass(frozen=True)
class World:
    """How much there is of everything."""

    prompts: int
    workers: int
    completions: int = 8
    tokens: int = 32
    prompt_tokens: int = 128
    longest_s: float = 2.0
    """After which the last of a round's answers comes; the first come at a fifteenth of it."""
    update_s: float = 0.0
    rule: PairRule = PairRule.correct_wrong
    rounds: int = 1


def prompts(world: World) -> list[Prompt]:
    ids = tuple(range(1000, 1000 + world.prompt_tokens))
    messages = (Message("user", "how much is it? " * 8),)
    return [Prompt(f"p{i:06d}", messages, (*ids, i + 10_000)) for i in range(world.prompts)]


def group(world: World, prompt: Prompt) -> tuple[Completion, ...]:
    draw = random.Random(prompt.id)
    found = []
    for i in range(world.completions):
        length = draw.randint(world.tokens // 2, world.tokens)
        ids = tuple(draw.choices(range(300, 30_000), k=length))
        nats = tuple(-draw.randrange(1, 2**16) / 2**13 for _ in ids)
        found.append(Completion(prompt.id, i, ids, nats, " ".join(map(str, ids)), False, 0))
    return tuple(found)


@dataclass
class Marks:
    """Of a round, when its parts were over for the last time, in the event loop's CPU seconds."""

    at: dict[str, float] = field(default_factory=dict)

    def __call__(self, name: str) -> None:
        self.at[name] = time.thread_time()

    @property
    def critical_s(self) -> float:
        """What the driver did until every worker had something to do, and from the last answer to
        what is learnt, and afterwards."""
        at = self.at
        before, between = at["asked"] - at["begun"], at["learning"] - at["answered"]
        return before + between + at["ended"] - at["learnt"]


@dataclass(eq=False)
class Worker:
    """A rollout worker, as `actors.group.Worker` is one for the dispatcher."""

    name: str
    replies: Mapping[str, bytes]
    longest_s: float
    mark: Marks = field(default_factory=Marks)
    num_calls: int = 0
    """Under way."""
    began: float = 0.0
    comes_back: bool = False
    cause: str | None = None
    handle: object = None

    async def is_back(self) -> None:
        raise AssertionError("it is never lost")

    async def call(self, requests: Sequence[Any]) -> AsyncIterator[list[tuple[int, Any]]]:
        if not self.num_calls:  # with more to come before it is done with these
            self.mark("asked")
            self.began = time.monotonic()
        self.num_calls += 1
        least = self.longest_s / 15
        spread = (self.longest_s - least) / 9999
        due = sorted((least + spread * (one.seed % 10_000), i) for i, one in enumerate(requests))
        while due:
            await asyncio.sleep(max(0.0, self.began + due[0][0] - time.monotonic()))
            passed = time.monotonic() - self.began
            num_done = next((k for k, (at, _) in enumerate(due) if at > passed), len(due))
            num_done = min(max(num_done, 1), CHUNK)
            ready, due = due[:num_done], due[num_done:]
            self.mark("answered")
            yield [(i, pickle.loads(self.replies[requests[i].prompt_id])) for _, i in ready]
        self.num_calls -= 1


class JudgeWorker(Worker):
    """Scores whole calls."""

    async def call(
        self, requests: Sequence[AskedJudge]
    ) -> AsyncIterator[list[tuple[int, Judgement]]]:
        await asyncio.sleep(0.02)
        yield [(i, self._verdict(one)) for i, one in enumerate(requests)]

    @staticmethod
    def _verdict(asked: AskedJudge) -> Judgement:
        scores = tuple(one.token_ids[0] / 30_000 for one in asked.group.completions)
        return Judgement(scores, "simulated@1")


@dataclass
class Others:
    """Policy, anchor, publisher, evaluation and checkpoints, of which only updates take time."""

    update_s: float = 0.0
    mark: Marks = field(default_factory=Marks)

    async def logprobs(self, sequences: Sequence[Any]) -> list[float]:
        return [-1.0] * len(sequences)

    async def accumulate(self, batch: Any) -> None:
        """Costs nothing."""

    async def update(self, batch: Any) -> dict[str, float]:
        self.mark("learning")
        await asyncio.sleep(self.update_s)
        self.mark("learnt")
        return {"policy/loss": 0.5}

    async def publish(self, version: int) -> dict[str, float]:
        return {"weights/version": version}

    async def evaluate(self) -> dict[str, float]:
        return {"score_mean": 1.0}

    async def save(self, num_rounds: int) -> Path:
        return Path()

    async def remember(self, num_rounds: int) -> None:
        """Costs nothing here."""


@dataclass
class Asks:
    """A `Schedule` of the same prompts."""

    asked: list[Prompt]

    async def round(self, index: int) -> list[Prompt]:
        return list(self.asked)


@dataclass
class Stalls:
    """The longest times in which the event loop did nothing else."""

    cpu_s: float = 0.0
    clock_s: float = 0.0
    resident: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            cpu, clock = time.thread_time(), time.monotonic()
            await asyncio.sleep(TICK_S)
            self.cpu_s = max(self.cpu_s, time.thread_time() - cpu)
            self.clock_s = max(self.clock_s, time.monotonic() - clock - TICK_S)


def simulated(
    world: World, asked: list[Prompt], mark: Marks | None = None
) -> tuple[RolloutService, JudgeService]:
    mark = mark or Marks()
    replies = {one.id: pickle.dumps(group(world, one), 5) for one in asked}
    rollout = [Worker(f"rollout-{i}", replies, world.longest_s, mark) for i in range(world.workers)]
    judges = [JudgeWorker(f"judge-{i}", {}, 0) for i in range(4)]
    service = RolloutService(rollout, calls_per_worker=16, timeout_s=600)  # type: ignore[arg-type]
    return service, JudgeService(judges, 600, calls_per_worker=4)  # type: ignore[arg-type]


def collector(
    world: World, asked: list[Prompt], rollout: RolloutService, judge: JudgeService
) -> RoundCollector:
    sampling = Sampling(world.completions, world.tokens)
    services = Services(rollout, judge, sampling, {}, False, None, lambda see: None)  # type: ignore
    algorithm = OnlineDPOConfig(rule=world.rule).make(services)
    config = RoundConfig(prompts=world.prompts, concurrency=world.prompts)
    return RoundCollector(algorithm, Asks(asked), config, {}, 1, world.rounds)


async def trained(world: World, directory: Path) -> dict[str, Any]:
    """Whole rounds by the real loop."""
    asked = prompts(world)
    mark = Marks()
    rollout, judge = simulated(world, asked, mark)
    others, stalls = Others(world.update_s, mark), Stalls()
    tracking = TrackingConfig(wandb=WandbMode.disabled)
    tracker = RunTracker(directory, tracking, {}, "scale", world.rounds, console=CONSOLE)
    run = Run(
        collector=collector(world, asked, rollout, judge),
        portions=Portions(Anchors({"initial": others}), others, PORTION_TOKENS),  # type: ignore
        policy=others,  # type: ignore[arg-type]
        publisher=others,
        evaluation=others,
        checkpoints=others,
        store=PreferenceStore(directory),
        tracker=tracker,
        stop=StopRequest(tracker.note),
        first_round=0,
        num_rounds=world.rounds,
        max_staleness=0,
        evaluate_every=0,
        checkpoint_every=0,
    )
    look_between_rounds()
    began, cpu = time.monotonic(), time.process_time()
    mark("begun")
    async with stalls.watched():
        await train(run)
    mark("ended")
    took, used = time.monotonic() - began, time.process_time() - cpu
    timed = [line for line in tracker.records() if line["round"] >= 0]
    stages = ("collect", "anchor", "update", "publish")
    inside = sum(line[f"time/{name}_s"] for line in timed for name in stages)
    requests = world.prompts * world.rounds
    return {
        "prompts": world.prompts,
        "workers": world.workers,
        "round_s": took / world.rounds,
        "driver_cpu_s": used / world.rounds,
        "driver_cpu_per_request_us": used / requests * 1e6,
        "critical_cpu_s": mark.critical_s if world.rounds == 1 else None,
        "longest_stall_s": stalls.cpu_s,
        "longest_wait_s": stalls.clock_s,
        "outside_stages_s": (took - inside) / world.rounds,
        "simulation_cpu_s": await simulation_cpu_s(world, asked),
    }


async def simulation_cpu_s(world: World, asked: list[Prompt]) -> float:
    """The same answers, with nobody in front of the workers."""

    @dataclass
    class Request:
        prompt_id: str
        seed: int

    rollout, _ = simulated(world, asked)
    cpu = time.process_time()

    async def one(worker: Any, share: list[Request]) -> None:
        async for _ in worker.call(share):
            pass

    all_requests = [Request(prompt.id, i) for i, prompt in enumerate(asked)]
    shares = [all_requests[i :: world.workers] for i in range(world.workers)]
    await asyncio.gather(*(one(w, s) for w, s in zip(rollout.workers, shares, strict=True)))
    return time.process_time() - cpu


# --- parts ---------------------------------------------------------------------------------------


def round_of_30_s(directory: Path) -> dict[str, Any]:
    """The driver's share is what everybody waits for it."""
    world = World(20_000, 256, longest_s=25.0, update_s=5.0)
    found = asyncio.run(trained(world, directory))
    whole_s = world.longest_s + world.update_s
    return found | {
        "driver_share": found["critical_cpu_s"] / whole_s,
        "cpu_share": (found["driver_cpu_s"] - found["simulation_cpu_s"]) / whole_s,
    }


def at_once(directory: Path) -> dict[str, Any]:
    found = {}
    for workers in (256, 1024):
        world = World(20_000, workers)
        found[str(workers)] = asyncio.run(trained(world, directory / str(workers)))
    return found


def large(directory: Path) -> dict[str, Any]:
    """CPU seconds of each stage of a round, and of whole rounds by the loop."""
    found = {}
    for count in (2048, 4096, 16_384):
        world = World(count, 256, rule=PairRule.all_pairs)
        found[str(count)] = asyncio.run(trained(world, directory / str(count)))
        found[str(count)] |= asyncio.run(stages(world, directory / f"{count}-stages"))
        print(count, found[str(count)], flush=True)
    return found


async def stages(world: World, directory: Path) -> dict[str, float]:
    asked = prompts(world)
    rollout, judge = simulated(world, asked)
    collected = await collector(world, asked, rollout, judge).collect(0)
    anchors = Anchors({"initial": Others()})
    batch = await anchors.attach(0, [anchors.read(one) for one in collected])
    directory.mkdir(parents=True, exist_ok=True)
    pieces: dict[str, Callable[[], object]] = {
        "metrics": lambda: collection_metrics(collected, 0),
        "store": lambda: PreferenceStore(directory).prepare(0, collected)(),
        "pickle_batch": lambda: len(pickle.dumps(batch, 5)),
    }
    found = {}
    for name, piece in pieces.items():
        gc.collect()
        cpu, peak = time.process_time(), peak_bytes()
        piece()
        found[f"{name}_cpu_s"] = time.process_time() - cpu
        found[f"{name}_more_mib"] = (peak_bytes() - peak) / 2**20
    cpu = time.process_time()
    await anchors.attach(0, [anchors.read(one) for one in collected])
    return found | {"anchors_cpu_s": time.process_time() - cpu}


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def long(directory: Path) -> dict[str, Any]:
    """The same of few prompts with long answers, and by how much the most memory grows with it."""
    world = World(32, 4, completions=16, tokens=4096, rule=PairRule.all_pairs)
    return asyncio.run(stages(world, directory))


def tokens(directory: Path) -> dict[str, Any]:
    """What answers weigh in the driver, and how long their unpickling holds it up."""
    world = World(16, 1, tokens=4096)
    replies = [pickle.dumps(group(world, one), 5) for one in prompts(world)]
    copies = 1024 // len(replies)
    gc.collect()
    resident, cpu = psutil.Process().memory_info().rss, time.process_time()
    held = [pickle.loads(reply) for _ in range(copies) for reply in replies]
    used = time.process_time() - cpu
    count = sum(len(one.token_ids) for answers in held for one in answers)
    weight = psutil.Process().memory_info().rss - resident
    return {
        "tokens": count,
        "unpickling_s": used,
        "bytes_a_token": weight / count,
        "bytes_a_token_pickled": copies * sum(map(len, replies)) / count,
    }


def memory(directory: Path) -> dict[str, Any]:
    """Resident MiB after each 50 of 300 rounds."""
    world = World(128, 64, longest_s=0.03, rounds=300)
    resident: list[int] = []
    update = Others.update

    async def noted(self: Others, batch: Any) -> dict[str, float]:
        if batch.round % 50 == 49:
            gc.collect()
            resident.append(psutil.Process().memory_info().rss >> 20)
        return await update(self, batch)

    Others.update = noted  # type: ignore[method-assign]
    return asyncio.run(trained(world, directory)) | {"resident_mib": resident}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "round": round_of_30_s,
    "at_once": at_once,
    "large": large,
    "long": long,
    "tokens": tokens,
    "memory": memory,
}


def each(parts: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each in a process of its own, so that one's memory is not the next one's."""
    for part in parts:
        command = [sys.executable, __file__, "--here", part]
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            subprocess.run([*command, "--json", file.name], check=True, timeout=1800)
            yield part, json.load(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        with tempfile.TemporaryDirectory() as directory:
            found = PARTS[options.here](Path(directory))
    else:
        found = dict(each(options.parts))
        print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

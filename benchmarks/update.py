"""One round's update, packed and padded, through a real policy rank, beside a bare torch loop.

    python benchmarks/update.py --json update.json

Every variant trains on the same preferences in the same run, one round of each in turn; figures
are medians of seconds a round, and ratios to the padded update. `--shapes prompt/answer/samples`
chooses others; `tree` is a search tree of steps, `demo` the demo's short sums. On a GPU,
`--width 1024 --layers 24 --dtype bfloat16`.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

from actors.group import Allotment, start_workers, stop_workers
from actors.policy import PolicyService
from actors.policy_rank import PolicyPlan, PolicyRank
from rlhf.config.models import DType, PolicyConfig, TinyModelConfig, Vocabulary
from rlhf.learning.reading import RowReader
from rlhf.models.batching import Shape, micro_batches, unique
from rlhf.objectives.dpo import DPOConfig
from rlhf.records import Completion, Preference, PreferenceBatch, Prompt, SidePair
from rlhf.toys.tiny import build_tiny_model

SHAPES = ["512/64/8", "256/64/8", "512/64/2", "tree", "demo"]


def drawn(seed: str, count: int, kinds: int = 250) -> tuple[int, ...]:
    generator = random.Random(seed)
    return tuple(generator.randrange(kinds) + 3 for _ in range(count))


def pair(prompt: Prompt, sides: list[tuple[int, ...]], a: int, b: int) -> Preference:
    def side(i: int) -> Completion:
        ids = sides[i]
        return Completion(prompt.id, i, ids, (0.0,) * len(ids), str(i), False, 0)

    return Preference.over(prompt, side(a), side(b), 1.0, 0.0, "benchmark@1")


def groups(prompts: int, prompt: int, answer: int, samples: int, kinds: int = 250):
    """Every completion of a prompt in one preference."""
    pairs = []
    for i in range(prompts):
        asked = Prompt(str(i), (), drawn(f"prompt {i}", prompt))
        sides = [drawn(f"{i} {j}", answer, kinds) for j in range(samples)]
        pairs += [pair(asked, sides, j, j + 1) for j in range(0, samples, 2)]
    return pairs


def trees(prompts: int, prompt: int = 96, step: int = 24, depth: int = 4, children: int = 4):
    """Of every node on a path its best child against each other one, as tree search stores them."""
    pairs = []
    for i in range(prompts):
        begun = drawn(f"prompt {i}", prompt)
        for level in range(depth):
            asked = Prompt(str(i), (), begun)
            sides = [drawn(f"{i} {level} {j}", step) for j in range(children)]
            pairs += [pair(asked, sides, 0, j) for j in range(1, children)]
            begun += sides[0]
    return pairs


def preferences(shape: str, tokens: int) -> list[Preference]:
    if shape == "tree":
        return trees(max(2, tokens // 2400))
    if shape == "demo":
        return groups(64, 12, 4, 8, kinds=10)
    prompt, answer, samples = map(int, shape.split("/"))
    return groups(max(2, tokens // (samples * (prompt + answer))), prompt, answer, samples)


class Bare:
    """The same in plain torch: padded rows, DPO, AdamW, in one process."""

    def __init__(self, path: Path, config: PolicyConfig, dtype: DType) -> None:
        from transformers import AutoModelForCausalLM

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype.value))
        self._model, self._budget = model.to(self._device), config.micro_batch_tokens
        self._reader = RowReader(self._model, self._device)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)

    def update(self, batch: PreferenceBatch) -> None:
        pairs = batch.preferences
        shapes = [
            Shape(len(one.prompt.token_ids), len(one.chosen.completion.token_ids), 2)
            for one in pairs
        ]
        for part in micro_batches(shapes, self._budget):
            mine = [pairs[i] for i in part]
            sides = [one.chosen.tokens for one in mine] + [one.rejected.tokens for one in mine]
            rows, places = unique(sides)
            chosen, rejected = self._reader.logprobs_RC(rows).sum(1)[places].chunk(2)
            loss = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).sum()
            (loss / len(pairs)).backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


def start(path: Path, config: PolicyConfig, dtype: DType, gpus: float) -> PolicyService:
    plan = PolicyPlan(dtype, config, DPOConfig(), 1, 1, num_rounds=10_000, seed=1)
    workers = start_workers(PolicyRank, Allotment("policy", 1, 1, gpus, 1), plan)
    return PolicyService(workers, 600)


async def measured(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    dtype = DType[options.dtype]
    gpus = 0.3 if torch.cuda.is_available() else 0.0

    def config(packing: bool, stage: int) -> PolicyConfig:
        return PolicyConfig(
            packing=packing, zero_stage=stage, learning_rate=1e-6, batch_size=100_000,
            micro_batch_tokens=options.budget,
        )  # fmt: skip

    services = {
        "padded": start(path, config(False, options.stage), dtype, gpus),
        "packed": start(path, config(True, options.stage), dtype, gpus),
    }
    for service in services.values():
        await service.connect()
        await service.start(str(path))
    bare = Bare(path, config(False, 0), dtype)
    found: dict[str, Any] = {}
    for shape in options.shapes:
        pairs = preferences(shape, options.tokens)
        anchors = {"initial": [SidePair(-200.0, -200.0)] * len(pairs)}
        calls: dict[str, Callable[[PreferenceBatch], Any]] = {
            name: service.update for name, service in services.items()
        } | {"bare": bare.update}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for round in range(options.rounds + 1):
            for name, call in calls.items():
                batch = PreferenceBatch(round, pairs, anchors)
                began = time.perf_counter()
                if (result := call(batch)) is not None:
                    await result
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(some[1:]) for name, some in times.items()}
        found[shape] = {
            **{f"{name}_s": value for name, value in medians.items()},
            "packed_times_as_fast": medians["padded"] / medians["packed"],
            "bare_over_packed": medians["bare"] / medians["packed"],
        }
        print(json.dumps({shape: found[shape]}), flush=True)
    stop_workers([rank for service in services.values() for rank in service.ranks])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=[one.name for one in DType])
    parser.add_argument("--tokens", type=int, default=20_000, help="of a round, padded")
    parser.add_argument("--budget", type=int, default=16_384, help="policy.micro_batch_tokens")
    parser.add_argument("--stage", type=int, default=0, help="policy.zero_stage")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    gpus = torch.cuda.device_count()
    ray.init("local", num_gpus=gpus, include_dashboard=False, log_to_driver=True)
    with tempfile.TemporaryDirectory() as folder:
        config = TinyModelConfig(
            num_layers=options.layers, width=options.width, num_heads=max(4, options.width // 64),
            vocabulary=Vocabulary.bytes, dtype=DType[options.dtype],
        )  # fmt: skip
        build_tiny_model(config, Path(folder), seed=1)
        found = asyncio.run(measured(Path(folder), options))
    if options.json:
        card = torch.cuda.get_device_name() if gpus else "CPU"
        options.json.write_text(json.dumps({"device": card} | found, indent=1))


if __name__ == "__main__":
    main()

"""How much many trees gain from sharing one engine: simulations per second of trees that are
searched together, over those of the same trees one after another; and what its prefix cache saves.

    python benchmarks/tree_search.py [--trees 64] [--engine vllm]

A tiny random model and problems behind a long common beginning: it is the plumbing that is
measured. Prints one JSON object.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from actors.group import Allotment, start_workers, wait_ready
from actors.judge import JudgeService, JudgeWorker
from actors.rollout import RolloutService, RolloutWorker
from cluster.placement import Role
from cluster.session import session
from rlhf.algorithms.tree import TreeConfig, TreeSearch
from rlhf.config.models import (
    DType,
    TinyModelConfig,
    TransformersRolloutConfig,
    Transport,
    VllmRolloutConfig,
    Vocabulary,
)
from rlhf.judges.verifier import Check, VerifierConfig
from rlhf.records import Asked, Message, Prompt, Sampling
from rlhf.toys.tiny import build_tiny_model
from rlhf.tree.expansion import Grower
from rlhf.tree.nodes import Tree

ENGINES = {"vllm": VllmRolloutConfig, "transformers": TransformersRolloutConfig}
SEARCH = TreeConfig(
    num_completions=2, num_root_completions=2, step_tokens=8, max_depth=4, num_simulations=4,
    num_root_simulations=8,
)  # fmt: skip
MAX_TOKENS = 48
COMMON_TOKENS = 640
TIMEOUT_S = 600.0


class Trees:
    """`rlhf.algorithms.tree.Kept` that searches every tree anew."""

    def find(self, prompt: Prompt, seed: int) -> Tree | None:
        return None

    def add(self, tree: Tree) -> None:
        pass


def prompts(count: int) -> list[Prompt]:
    """Problems behind the same COMMON_TOKENS tokens, such as instructions and examples."""
    common = tuple(3 + (7 * i + i * i) % 250 for i in range(COMMON_TOKENS))
    made = []
    for i in range(count):
        text = f"{i}+{i}="
        made.append(Prompt(str(i), (Message("user", text),), (*common, *text.encode()), str(2 * i)))
    return made


def totals(trees: Sequence[Tree], seconds: float) -> dict[str, float]:
    num_prompt_tokens = sum(tree.num_prompt_tokens for tree in trees)
    num_simulations = sum(tree.num_simulations for tree in trees)
    return {
        "trees": len(trees),
        "seconds": round(seconds, 2),
        "simulations": num_simulations,
        "simulations_per_s": round(num_simulations / seconds, 2),
        "tokens": sum(tree.num_tokens for tree in trees),
        "prefix_cache_rate": round(sum(t.num_cached_tokens for t in trees) / num_prompt_tokens, 4),
    }


async def measure(engine: str, model: Path, num_trees: int) -> dict[str, dict | float]:
    config = ENGINES[engine](max_prompt_tokens=1024, max_completion_tokens=64)
    arguments = (str(model), DType.float32, config, Transport.object_store, 1)
    workers = start_workers(RolloutWorker, Allotment("rollout", 1, 1, 0, 1), *arguments)
    verifier = VerifierConfig(check=Check.last_line)
    judges = start_workers(JudgeWorker, Allotment("judge", 1, 1, 0, 1), verifier)
    await wait_ready([*workers, *judges], TIMEOUT_S)
    calls = 1024 if engine == "vllm" else 1
    rollout = RolloutService(workers, calls_per_worker=calls, timeout_s=TIMEOUT_S)
    judge = JudgeService(judges, TIMEOUT_S)
    search = TreeSearch(
        Grower(rollout, judge, None, Sampling(2, MAX_TOKENS), SEARCH), SEARCH, Trees()
    )

    async def one(prompt: Prompt) -> Tree:
        tree = (await search.collect(Asked(prompt, 1000 + int(prompt.id)))).tree
        assert tree is not None
        return tree

    await one(prompts(num_trees + 1)[-1])  # the first request of an engine is slow
    asked = prompts(num_trees)
    start_s = time.monotonic()
    together = await asyncio.gather(*map(one, asked))
    middle_s = time.monotonic()
    in_turn = [await one(prompt) for prompt in asked]
    end_s = time.monotonic()
    results = {
        "together": totals(together, middle_s - start_s),
        "one_after_another": totals(in_turn, end_s - middle_s),
    }
    ratio = (
        results["together"]["simulations_per_s"] / results["one_after_another"]["simulations_per_s"]
    )
    return {**results, "ratio": round(ratio, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--trees", type=int, default=64)
    parser.add_argument("--engine", choices=ENGINES, default="vllm")
    chosen = parser.parse_args()
    roles = [Role("rollout", 1, 1, 0.0), Role("judge", 1, 1, 0.0)]
    with tempfile.TemporaryDirectory() as folder, session(None, roles, 60):
        model = Path(folder) / "model"
        build_tiny_model(TinyModelConfig(vocabulary=Vocabulary.bytes), model, 1)
        print(json.dumps(asyncio.run(measure(chosen.engine, model, chosen.trees)), indent=1))


if __name__ == "__main__":
    main()

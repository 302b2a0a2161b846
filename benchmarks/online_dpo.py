"""Agon's online phase beside a bare single-process loop and TRL's OnlineDPOTrainer.

`make bench`, or `python benchmarks/online_dpo.py [--size demo|large] [--rounds N] [--passes N]
[--json FILE] [--without TRL ...]`. All start from the same weights and ask the same task on the
same machine, one after another, with the same number of completions a step, one step a round; the
ratios of their medians are what to look at, of several passes where a machine's speed drifts. Every
round is told on stderr. Both sizes take some minutes on two idle cores.

- Agon: plain DPO, eight completions of a prompt, all pairs, through Ray actors.
- bare: the same round in one process without Ray or DeepSpeed: sampling by Agon's own batched
  engine, scoring, the DPO loss on all pairs, torch's AdamW.
- TRL: two completions of four times as many prompts.

`demo`: the demo's model and sums, 64 prompts of about 12 tokens, answers of up to 8. `large`: a
Llama of 10 million weights from nothing, 4 prompts of 512 tokens, answers of up to 64. There, every
answer has a score of its own, none is left out for its length, and the learning rate is so small
that answers stay as they are: all contenders learn from as many tokens in every round. Agon's
workers have a thread each, two that sample and, of ten million weights, two ranks that learn; TRL
has two, and the bare loop as many as are quicker: one for the demo's small matrices, else two.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.engine import GenerationRequest
from actors.transformers_engine import TransformersEngine
from rlhf.asking.prompts import PromptSchedule, load_data
from rlhf.asking.sources.arithmetic import ArithmeticConfig
from rlhf.asking.sources.base import Wanted
from rlhf.config.models import (
    DType,
    Rendering,
    TinyModelConfig,
    TransformersRolloutConfig,
    Vocabulary,
)
from rlhf.data.rendering import Renderer
from rlhf.judges.verifier import integer_score
from rlhf.learning.logprobs import completion_logprobs, pad
from rlhf.models.batching import unique
from rlhf.models.turns import end_token_ids
from rlhf.objectives import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.dpo import DPOConfig
from rlhf.records import Message, Prompt, Sampling, Tokens
from rlhf.seeds import derive_seed
from rlhf.tools.syntax import ToolsConfig
from rlhf.toys.tiny import build_tiny_model

COMPLETIONS = 8
JUDGE = """\
def score(prompt, completions, row):
    return [float(sum(map(ord, text))) for text in completions]
"""


@dataclass(frozen=True)
class Task:
    """One size: what is asked, and how Agon is told so."""

    path: Path
    """Of the weights that all begin from; Agon's run may be what leaves them there."""
    prompts: Callable[[Renderer], list[Prompt]]
    score: Callable[[Prompt, str], float]
    overrides: list[str]
    per_round: int
    prompt_tokens: int
    answer_tokens: int
    micro_batch_prompts: int
    """What the bare loop computes at once."""
    threads: int
    """Of the bare loop."""
    warm_rounds: int
    """That are not counted."""
    learning_rate: float


def demo(scratch: Path) -> Task:
    def prompts(renderer: Renderer) -> list[Prompt]:
        data = load_data(
            ArithmeticConfig(num_prompts=7000),
            renderer,
            max_prompt_tokens=16,
            max_completion_tokens=8,
            wanted=Wanted(answers=True),
            tools=ToolsConfig(),
            seed=1,
        )
        return list(data.train)

    def score(prompt: Prompt, text: str) -> float:
        return integer_score(str(prompt.answer), text) or 0.0

    path = scratch / "run" / "initial_policy"
    overrides = ["experiment=demo", "policy.batch_size=100000", "rollout.num_workers=2"]
    return Task(path, prompts, score, overrides, 64, 16, 8, 64, 1, 3, learning_rate=3e-4)


def large(scratch: Path) -> Task:
    config = TinyModelConfig(num_layers=10, width=256, vocabulary=Vocabulary.bytes)
    build_tiny_model(config, scratch / "model", seed=1)
    rng = random.Random(1)
    texts = ["".join(rng.choices("abcdefghij klmnop", k=512)) for _ in range(200)]
    rows = [{"id": str(i), "prompt": text} for i, text in enumerate(texts)]
    (scratch / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (scratch / "judge.py").write_text(JUDGE)

    def prompts(renderer: Renderer) -> list[Prompt]:
        asked = ((Message("user", text),) for text in texts)
        return [Prompt(str(i), one, renderer.render(one)) for i, one in enumerate(asked)]

    def score(prompt: Prompt, text: str) -> float:
        return float(sum(map(ord, text)))

    overrides = [
        f"model.path={scratch}/model", "model.dtype=float32", "model.rendering=plain",
        f"data.path={scratch}/prompts.jsonl", "judge=function",
        f"judge.function={scratch}/judge.py:score", "rollout=transformers", "round.prompts=4",
        "algorithm.num_completions=8", "algorithm.rule=all_pairs", "algorithm.truncated=keep",
        "rollout.max_prompt_tokens=512",
        "rollout.max_completion_tokens=64", "rollout.max_batch_tokens=4608",
        "policy.batch_size=100000", "policy.micro_batch_tokens=1100", "eval.num_prompts=4",
        "rollout.num_workers=2", "policy.num_ranks=2",
    ]  # fmt: skip
    path = scratch / "model"
    return Task(path, prompts, score, overrides, 4, 512, 64, 1, 2, 1, learning_rate=1e-7)


def agon(task: Task, scratch: Path, rounds: int) -> list[float]:
    """Seconds of each round of its online phase but the last, which ends the run, from its own
    metrics: from line to line, so that what is between rounds counts."""
    directory = scratch / "run"  # where other contenders look for the weights
    if (directory / "metrics.jsonl").exists():
        directory = scratch / f"run_{len(list(scratch.glob('run*')))}"
    command = [sys.executable, "-m", "rlhf", *task.overrides, f"run.dir={directory}"]
    command += ["algorithm=online_dpo", f"num_rounds={rounds}", "eval.every=0", "tracking=disabled"]
    command += [f"policy.learning_rate={task.learning_rate}"]
    ran = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr[-2000:])
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    elapsed = [json.loads(line)["time/elapsed_s"] for line in lines]
    return [after - before for before, after in pairwise(elapsed)][:-1]


class Bare:
    """One process, no services."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.threads)
        self.task, path = task, str(task.path)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        prompts = task.prompts(Renderer(self.tokenizer, Rendering.plain))
        self.schedule = PromptSchedule(prompts, task.per_round, 1)
        config = TransformersRolloutConfig()
        self.engine = TransformersEngine(
            path, DType.float32, config, end_token_ids(self.tokenizer, None), self.tokenizer
        )
        self.policy = self.engine._model
        self.reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=task.learning_rate)

    async def sample(self, requests: list[GenerationRequest]) -> list:
        drafts = {}
        async for chunk in self.engine.generate(requests):
            drafts |= dict(chunk)
        return [drafts[i] for i in range(len(requests))]

    def round(self, index: int) -> None:
        prompts = asyncio.run(self.schedule.round(index))
        sampling = Sampling(COMPLETIONS, self.task.answer_tokens)
        requests = [
            GenerationRequest(p.id, p.token_ids, sampling, derive_seed(1, index, p.id))
            for p in prompts
        ]
        pairs: list[list[tuple[Tokens, Tokens, float]]] = []
        for prompt, group in zip(prompts, asyncio.run(self.sample(requests)), strict=True):
            texts = self.tokenizer.batch_decode(
                [draft.token_ids for draft in group], skip_special_tokens=True
            )
            rows = [Tokens(prompt.token_ids, draft.token_ids) for draft in group]
            scores = [self.task.score(prompt, text) for text in texts]
            better = [
                (rows[i], rows[j])
                for i in range(len(rows))
                for j in range(len(rows))
                if scores[i] > scores[j]
            ]
            pairs.append([(*pair, 1 / len(better)) for pair in better])
        self.step(pairs)

    def step(self, pairs: list[list[tuple[Tokens, Tokens, float]]]) -> None:
        size = self.task.micro_batch_prompts
        whole = sum(bool(one) for one in pairs)
        for start in range(0, len(pairs), size):
            if some := [pair for one in pairs[start : start + size] for pair in one]:
                (self.loss(some) / whole).backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self, pairs: list[tuple[Tokens, Tokens, float]]) -> torch.Tensor:
        chosen, rejected, weights = zip(*pairs, strict=True)
        rows, places = unique([*chosen, *rejected])
        padded = pad(rows)
        policy = completion_logprobs(self.policy, padded).sum(1)[places].chunk(2)
        with torch.no_grad():
            reference = completion_logprobs(self.reference, padded).sum(1)[places].chunk(2)
        lengths = torch.ones(len(chosen)), torch.ones(len(chosen))
        loss_B = DPOConfig().loss(
            Pairs(
                PairLogprobs(*policy, *lengths),
                {"initial": SideLogprobs(*reference)},
                Judged(*[torch.ones(len(chosen))] * 5),
            )
        )
        return (loss_B * torch.tensor(weights)).sum()


def bare(task: Task, scratch: Path, rounds: int) -> list[float]:
    """Seconds of each round."""
    loop, clock = Bare(task), Clock("bare", rounds)
    for index in range(rounds):
        loop.round(index)
        clock.tick()
    return clock.seconds


class Clock:
    """Seconds of each round since it was made; tells them as they end."""

    def __init__(self, name: str, rounds: int) -> None:
        self._name, self._rounds = name, rounds
        self._last = time.perf_counter()
        self.seconds: list[float] = []

    def tick(self) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now
        told = f"{self._name}: round {len(self.seconds)}/{self._rounds} | {self.seconds[-1]:.2f} s"
        print(told, file=sys.stderr, flush=True)


def trl(task: Task, scratch: Path, steps: int) -> list[float]:
    """Seconds of each step."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    torch.set_num_threads(2)  # its process has the machine to itself
    path = str(task.path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompts = task.prompts(Renderer(tokenizer, Rendering.plain))
    by_text = {prompt.text: prompt for prompt in prompts}
    rows = task.per_round * COMPLETIONS // 2
    at_once = min(rows, task.micro_batch_prompts * COMPLETIONS // 2)

    def scored(prompts: list[str], completions: list[str], **_: object) -> list[float]:
        asked = zip(prompts, completions, strict=True)
        return [task.score(by_text[prompt], text) for prompt, text in asked]

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            self.clock = Clock("TRL", steps)

        def on_step_end(self, *_: object, **__: object) -> None:
            self.clock.tick()

    watch = Watch()
    with tempfile.TemporaryDirectory() as directory:
        trainer = OnlineDPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
            ref_model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
            reward_funcs=scored,
            args=OnlineDPOConfig(
                output_dir=directory,
                per_device_train_batch_size=at_once,
                gradient_accumulation_steps=rows // at_once,
                max_steps=steps,
                max_new_tokens=task.answer_tokens,
                max_length=task.prompt_tokens + task.answer_tokens + 8,
                temperature=1.0,
                learning_rate=task.learning_rate,
                beta=0.1,
                bf16=False,
                gradient_checkpointing=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": [prompt.text for prompt in prompts]}),
            processing_class=tokenizer,
            callbacks=[watch],
        )
        trainer.train()
    return watch.clock.seconds


CONTENDERS = {"Agon": agon, "bare": bare, "TRL": trl}
SIZES = {"demo": demo, "large": large}
ROUNDS = {"demo": {"Agon": 60, "bare": 60, "TRL": 20}, "large": {"Agon": 6, "bare": 3, "TRL": 3}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--rounds", type=int, help="for each; fewer for who is slower by default")
    parser.add_argument("--passes", type=int, default=1, help="over all of them")
    parser.add_argument("--without", nargs="*", choices=["bare", "TRL"], default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    numbers = {name: given.rounds or own for name, own in ROUNDS[given.size].items()}
    with tempfile.TemporaryDirectory() as directory:
        task = SIZES[given.size](Path(directory))
        if min(numbers.values()) < task.warm_rounds + 2:
            parser.error(f"--rounds: must be at least {task.warm_rounds + 2}")
        asked = {name: number for name, number in numbers.items() if name not in given.without}
        found = compared(task, Path(directory), asked, given.passes)
    if given.json:
        given.json.write_text(json.dumps({"size": given.size} | found, indent=2))


def compared(task: Task, scratch: Path, numbers: dict[str, int], passes: int) -> dict[str, Any]:
    """Of each contender, so many rounds in every pass; then a line for each."""
    seconds: dict[str, list[float]] = {name: [] for name in numbers}
    for _ in range(passes):
        for name, number in numbers.items():
            seconds[name] += CONTENDERS[name](task, scratch, number)[task.warm_rounds :]
    print(f"{'':8}{'rounds/s':>10}{'completions/s':>15}{'Agon is x times as fast':>26}  rounds")
    speeds = {name: 1 / statistics.median(took) for name, took in seconds.items()}
    ratios = {name: speeds["Agon"] / speed for name, speed in speeds.items()}
    for name, took in seconds.items():
        columns = f"{speeds[name]:10.3f}{speeds[name] * task.per_round * COMPLETIONS:15.1f}"
        spread = f"{len(took)} of {min(took):.2f} to {max(took):.2f} s"
        print(f"{name:8}{columns}{ratios[name]:26.2f}  {spread}")
    return {"seconds": seconds, "rounds_per_s": speeds, "agon_is_times_as_fast": ratios}


if __name__ == "__main__":
    main()

"""The demo's online phase beside a bare single-process loop and TRL's OnlineDPOTrainer.

`make bench`, or `python benchmarks/online_dpo.py [rounds]`. All three start from the same weights
and ask the same task on the same machine, one after another; the ratios are what to look at.

- Agon: the demo with plain DPO, 64 prompts x 8 completions, all pairs, through Ray actors.
- bare: the same round in one process without Ray or DeepSpeed: sampling by Agon's own batched
  engine, scoring, the DPO loss on all pairs, torch's AdamW.
- TRL: 256 prompts x 2 completions per step, so the same number of completions.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.engine import GenerationRequest
from actors.transformers_engine import TransformersEngine
from rlhf.asking.prompts import PromptSchedule, load_data
from rlhf.asking.sources.arithmetic import ArithmeticConfig
from rlhf.asking.sources.base import Wanted
from rlhf.config.models import DType, Rendering, TransformersRolloutConfig
from rlhf.data.rendering import Renderer
from rlhf.judges.verifier import integer_score
from rlhf.learning.logprobs import completion_logprobs, pad
from rlhf.models.batching import unique
from rlhf.models.turns import end_token_ids
from rlhf.objectives import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.dpo import DPOConfig
from rlhf.records import Sampling, Tokens
from rlhf.seeds import derive_seed
from rlhf.tools.syntax import ToolsConfig

PROMPTS, COMPLETIONS, MAX_TOKENS, LEARNING_RATE = 64, 8, 8, 3e-4
WARM_ROUNDS = 3


def agon(directory: Path, rounds: int) -> float:
    """Rounds per second of the demo's online phase, from its own metrics."""
    command = [sys.executable, "-m", "rlhf", "experiment=demo", f"run.dir={directory}"]
    command += ["algorithm=online_dpo", f"num_rounds={rounds}", "eval.every=0", "tracking=disabled"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    online = [line for line in lines if WARM_ROUNDS <= line["round"] < rounds - 1]
    return len(online) / sum(line["time/round_s"] for line in online)


class Bare:
    """One process, no services."""

    def __init__(self, path: str) -> None:
        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        renderer = Renderer(self.tokenizer, Rendering.plain)
        self.data = load_data(
            ArithmeticConfig(num_prompts=7000),
            renderer,
            max_prompt_tokens=16,
            max_completion_tokens=8,
            wanted=Wanted(answers=True),
            tools=ToolsConfig(),
            seed=1,
        )
        self.schedule = PromptSchedule(self.data.train, PROMPTS, 1)
        config = TransformersRolloutConfig()
        self.engine = TransformersEngine(
            path, DType.float32, config, end_token_ids(self.tokenizer, None), self.tokenizer
        )
        self.policy = self.engine._model
        self.reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATE)

    async def sample(self, requests: list[GenerationRequest]) -> list:
        drafts = {}
        async for chunk in self.engine.generate(requests):
            drafts |= dict(chunk)
        return [drafts[i] for i in range(len(requests))]

    def round(self, index: int) -> None:
        prompts = asyncio.run(self.schedule.round(index))
        sampling = Sampling(COMPLETIONS, MAX_TOKENS)
        requests = [
            GenerationRequest(p.id, p.token_ids, sampling, derive_seed(1, index, p.id))
            for p in prompts
        ]
        chosen, rejected, weights = [], [], []
        for prompt, group in zip(prompts, asyncio.run(self.sample(requests)), strict=True):
            texts = self.tokenizer.batch_decode(
                [draft.token_ids for draft in group], skip_special_tokens=True
            )
            rows = [Tokens(prompt.token_ids, draft.token_ids) for draft in group]
            right = [integer_score(str(prompt.answer), text) == 1.0 for text in texts]
            good = [row for row, ok in zip(rows, right, strict=True) if ok]
            bad = [row for row, ok in zip(rows, right, strict=True) if not ok]
            for a in good:
                for b in bad:
                    chosen.append(a)
                    rejected.append(b)
                    weights.append(1 / (len(good) * len(bad)))
        self.step(chosen, rejected, torch.tensor(weights))

    def step(self, chosen: list[Tokens], rejected: list[Tokens], weight_B: torch.Tensor) -> None:
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
        ((loss_B * weight_B).sum() / weight_B.sum()).backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def bare(path: str, rounds: int) -> float:
    loop = Bare(path)
    for index in range(WARM_ROUNDS):
        loop.round(index)
    start = time.perf_counter()
    for index in range(WARM_ROUNDS, rounds):
        loop.round(index)
    return (rounds - WARM_ROUNDS) / (time.perf_counter() - start)


def trl(path: str, steps: int) -> float:
    """Steps per second, warm-up steps left out."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    torch.set_num_threads(2)  # its process has the machine to itself
    tokenizer = AutoTokenizer.from_pretrained(path)
    data = load_data(
        ArithmeticConfig(num_prompts=7000),
        Renderer(tokenizer, Rendering.plain),
        max_prompt_tokens=16,
        max_completion_tokens=8,
        wanted=Wanted(answers=True),
        tools=ToolsConfig(),
        seed=1,
    )

    answers = {prompt.text: str(prompt.answer) for prompt in data.train}

    def correct(prompts: list[str], completions: list[str], **_: object) -> list[float]:
        asked = zip(prompts, completions, strict=True)
        return [integer_score(answers[prompt], text) or 0.0 for prompt, text in asked]

    class Clock(TrainerCallback):
        times: list[float] = []  # noqa: RUF012

        def on_step_end(self, *_: object, **__: object) -> None:
            self.times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as scratch:
        trainer = OnlineDPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
            ref_model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
            reward_funcs=correct,
            args=OnlineDPOConfig(
                output_dir=scratch,
                per_device_train_batch_size=256,
                max_steps=steps,
                max_new_tokens=MAX_TOKENS,
                max_length=32,
                temperature=1.0,
                learning_rate=LEARNING_RATE,
                beta=0.1,
                bf16=False,
                gradient_checkpointing=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": [p.text for p in data.train]}),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    times = Clock.times[WARM_ROUNDS:]
    return (len(times) - 1) / (times[-1] - times[0])


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run"
        speeds = {"Agon (64 x 8, Ray actors)": agon(directory, rounds)}
        path = str(directory / "initial_policy")
        speeds["bare loop (64 x 8)"] = bare(path, rounds)
        speeds["TRL OnlineDPOTrainer (256 x 2)"] = trl(path, max(20, rounds // 3))
    first = next(iter(speeds.values()))
    print(f"{'':32}{'rounds/s':>10}{'completions/s':>15}{'Agon is x times as fast':>26}")
    for name, speed in speeds.items():
        print(f"{name:32}{speed:10.2f}{speed * 512:15.0f}{first / speed:26.2f}")


if __name__ == "__main__":
    main()

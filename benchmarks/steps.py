"""Pairs of steps from tree search against pairs of whole answers, at equal generated tokens.

`python benchmarks/steps.py [--seeds 1 2 3] [--methods best_worst ...] [--out DIR]`. Prints a table
in Markdown and draws `steps.png`. Right are held-out sums of `experiment=steps`, one sampled answer
each; per seed every method begins with the same warm-started policy. Methods of whole answers stop
once they have generated as many tokens as the search; TPO, which searches too and learns from each
tree's answers as a ranked list, has as many rounds. A run that is finished already is not repeated.
"""

import argparse
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from runs import T_95, interval, listed, run_once

from rlhf.storage.store import read_metrics

STEPS = "tree search, steps"
PROMPTS, SAMPLES = 64, 8
WHOLE = ("experiment=steps_whole", f"algorithm.num_completions={SAMPLES}")
METHODS = {
    "best_worst": ("whole answers, best and worst", (*WHOLE, "algorithm.rule=best_worst")),
    "all_pairs": ("whole answers, all pairs", (*WHOLE, "algorithm.rule=all_pairs")),
    "tpo": ("tree search, ranked answers (TPO)", ("experiment=steps", "algorithm=tpo")),
}
COLORS = ("#0072b2", "#e07b00", "#009e73", "#8a5fbf")


class Trained(NamedTuple):
    """One run."""

    lines: list[dict[str, Any]]
    """Of `metrics.jsonl`."""
    minutes: float

    @property
    def before(self) -> float:
        return self.lines[0]["eval/sampled_accuracy"]

    @property
    def after(self) -> float:
        return self.lines[-1]["eval/sampled_accuracy"]

    @property
    def num_tokens(self) -> int:
        return int(sum(line.get("rollout/num_tokens", 0) for line in self.lines))


def search(seed: int, out: Path) -> Trained:
    directory = out / f"tree_{seed}"
    how = ("experiment=steps", f"seed={seed}")
    minutes = run_once(f"{STEPS}, seed {seed}", directory, *how)
    return Trained(read_metrics(directory / "metrics.jsonl"), minutes)


def other(method: str, seed: int, out: Path, first: Trained) -> Trained:
    """From the initial policy of the search."""
    title, how = METHODS[method]
    directory = out / f"{method}_{seed}"
    start = ("model=hf", f"model.path={out / f'tree_{seed}' / 'initial_policy'}")
    start += ("model.dtype=float32", "model.rendering=plain", "warmup.steps=0")
    how = (*how, *start, f"seed={seed}")
    if how[0] == WHOLE[0]:
        tokens_a_round = PROMPTS * SAMPLES * first.lines[0]["eval/length_mean"]
        how += (f"num_rounds={max(1, round(first.num_tokens / tokens_a_round))}",)
    minutes = run_once(f"{title}, seed {seed}", directory, *how)
    return Trained(read_metrics(directory / "metrics.jsonl"), minutes)


def table(results: dict[str, list[Trained]]) -> str:
    lines = [
        "| pairs | before | after | gain, mean ± 95 % | tree search's lead | tokens | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, trained in results.items():
        pairs = zip(results[STEPS], trained, strict=True)
        lead = interval([tree.after - run.after for tree, run in pairs])
        lines.append(
            f"| {title} | {listed(run.before for run in trained)} "
            f"| {listed(run.after for run in trained)} "
            f"| {interval([run.after - run.before for run in trained])} "
            f"| {'-' if title == STEPS else lead} "
            f"| {', '.join(f'{run.num_tokens / 1000:.0f}k' for run in trained)} "
            f"| {', '.join(f'{run.minutes:.1f}' for run in trained)} |"
        )
    return "\n".join(lines)


def draw(results: dict[str, list[Trained]], path: Path) -> None:
    figure, panel = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for color, (title, trained) in zip(COLORS, results.items(), strict=False):
        for i, run in enumerate(trained):
            spent = accumulate(line.get("rollout/num_tokens", 0) / 1000 for line in run.lines)
            key = "eval/sampled_accuracy"
            found = [
                (tokens, line[key]) for tokens, line in zip(spent, run.lines, strict=True)
                if key in line
            ]  # fmt: skip
            label = title if i == 0 else None
            panel.plot(*zip(*found, strict=True), color=color, alpha=0.8, lw=1.6, label=label)
    panel.set(xlabel="generated tokens, thousands", ylabel="right held-out sums, sampled")
    panel.set_ylim(0, 1)
    panel.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("outputs/steps"))
    asked = parser.parse_args()
    if len(asked.seeds) > max(T_95):
        parser.error(f"--seeds: give at most {max(T_95)}")
    out = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    results = {STEPS: [search(seed, out) for seed in asked.seeds]}
    for method in asked.methods:
        results[METHODS[method][0]] = [
            other(method, seed, out, first)
            for seed, first in zip(asked.seeds, results[STEPS], strict=True)
        ]
    draw(results, out / "steps.png")
    print(table(results))
    print(f"\n{out / 'steps.png'}", file=sys.stderr)


if __name__ == "__main__":
    main()

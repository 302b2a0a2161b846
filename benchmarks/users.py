"""Learning from dissatisfied users: DRIFT, iterative DPO and SPIN at equal numbers of samples.

`python benchmarks/users.py [--seeds 1 2 3] [--methods drift ...] [--out DIR]`. Prints a table in
Markdown and draws `users.png`. Satisfied are held-out users of `experiment=users`, four sampled
replies each; a run that is finished already is not repeated.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from runs import T_95, interval, listed, run_once

from rlhf.storage.store import read_metrics

METHODS = {
    "drift": ("DRIFT", ()),
    "drift_plain": ("DRIFT, unguided", ("algorithm=drift", "algorithm.chosen=plain")),
    "iterative_dpo": ("iterative DPO", ("algorithm=iterative_dpo", "round.prompts=256")),
    "spin": ("SPIN", ("algorithm=spin",)),
}
"""Iterative DPO samples both sides, so it is asked half as many prompts."""
COLORS = ("#0072b2", "#56b4e9", "#e07b00", "#009e73")
PANELS = {
    "eval/satisfied_rate": "satisfied held-out users",
    "eval/best_of_n": "users that one of four replies satisfies",
    "eval/unique_rate": "different replies of four",
    "policy/rejected_logprob": "rejected side, nats per token",
    "policy/dpo_weight": "σ(-β·margin)",
    "policy/grad_norm": "gradient norm",
}


class Trained(NamedTuple):
    """One run."""

    lines: list[dict[str, Any]]
    """Of `metrics.jsonl`."""
    num_samples: int
    num_tokens: int
    minutes: float

    @property
    def before(self) -> float:
        return self.lines[0]["eval/satisfied_rate"]

    @property
    def after(self) -> float:
        return self.lines[-1]["eval/satisfied_rate"]


def train(method: str, seed: int, out: Path) -> Trained:
    name, overrides = METHODS[method]
    directory = out / f"{method}_{seed}"
    how = ("experiment=users", *overrides, f"seed={seed}")
    minutes = run_once(f"{name}, seed {seed}", directory, *how)
    lines = read_metrics(directory / "metrics.jsonl")
    return Trained(
        lines,
        int(sum(line.get("rollout/num_completions", 0) for line in lines)),
        int(sum(line.get("rollout/num_tokens", 0) for line in lines)),
        minutes,
    )


def table(results: dict[str, list[Trained]]) -> str:
    lines = [
        "| method | before | after | gain, mean ± 95 % | DRIFT's lead | samples | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method, trained in results.items():
        gains = [run.after - run.before for run in trained]
        lead = "-"
        if "drift" in results and method != "drift":
            lead = interval(
                [a.after - b.after for a, b in zip(results["drift"], trained, strict=True)]
            )
        lines.append(
            f"| {METHODS[method][0]} | {listed(run.before for run in trained)} "
            f"| {listed(run.after for run in trained)} | {interval(gains)} | {lead} "
            f"| {trained[0].num_samples:,} | {', '.join(f'{run.minutes:.1f}' for run in trained)} |"
        )
    return "\n".join(lines)


def draw(results: dict[str, list[Trained]], path: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
    for panel, (key, title) in zip(axes.flat, PANELS.items(), strict=True):
        for color, method in zip(COLORS, METHODS, strict=True):
            for i, run in enumerate(results.get(method, [])):
                found = [(x["policy_version"], x[key]) for x in run.lines if key in x]
                label = METHODS[method][0] if i == 0 else None
                panel.plot(*zip(*found, strict=True), color=color, alpha=0.8, lw=1.4, label=label)
        panel.set(title=title, xlabel="round")
    axes[0, 0].set_ylim(0, 1)
    axes[0, 0].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("outputs/users"))
    asked = parser.parse_args()
    if len(asked.seeds) > max(T_95):
        parser.error(f"--seeds: give at most {max(T_95)}")
    out = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    results = {
        method: [train(method, seed, out) for seed in asked.seeds] for method in asked.methods
    }
    draw(results, out / "users.png")
    print(table(results))
    print(f"\n{out / 'users.png'}", file=sys.stderr)


if __name__ == "__main__":
    main()

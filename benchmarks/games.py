"""Every method in one known game: how far its last and its average policy are from equilibrium.

`python benchmarks/games.py [--game FILE] [--seeds 1 2 3] [--recipes game ...] [--out DIR]`.
Prints a table in Markdown, with what an evaluation shows at equilibrium itself, and draws
`games.png`. A figure is the mean of a run's last five evaluations; a run that is finished already
is not repeated.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from runs import run_once
from scipy.optimize import linprog

from rlhf.storage.store import read_metrics
from rlhf.toys.games import KnownGame, exploitability_bias, read_game

RECIPES = {
    "game": "INPO",
    "game_online_ipo": "online IPO",
    "game_nash_md": "Nash-MD",
    "game_sppo": "SPPO",
    "game_gpo": "GPO",
    "game_online_dpo": "online DPO",
}
LAST = 5
EVALUATED = 2048
"""Answers per evaluation: conf/experiment/base/game.yaml."""


class Played(NamedTuple):
    """One run: a row for every evaluation."""

    rounds: list[int]
    last: list[float]
    """Exploitability of the policy of that moment."""
    average: list[float]
    """That of the average over all evaluations until then."""
    shares: np.ndarray
    """Of the answers."""
    minutes: float


def play(recipe: str, seed: int, game: Path, out: Path) -> Played:
    directory = out / f"{recipe}_{game.stem}_{seed}"
    how = (f"experiment={recipe}", f"judge.game={game}", f"seed={seed}")
    minutes = run_once(f"{RECIPES[recipe]}, seed {seed}", directory, *how)
    lines = read_metrics(directory / "metrics.jsonl")
    found = [line for line in lines if "eval/exploitability" in line]
    keys = [f"eval/share_{answer}" for answer in read_game(str(game)).answers]
    return Played(
        [line["policy_version"] for line in found],
        [line["eval/exploitability"] for line in found],
        [line["eval/exploitability_average"] for line in found],
        np.array([[line[key] for key in keys] for line in found]),
        minutes,
    )


def table(results: dict[str, list[Played]]) -> str:
    lines = [
        "| method | last policy, per seed | average policy, per seed | minutes |",
        "| --- | --- | --- | --- |",
    ]
    for recipe, runs in results.items():
        last = ", ".join(f"{np.mean(run.last[-LAST:]):.3f}" for run in runs)
        average = ", ".join(f"{np.mean(run.average[-LAST:]):.3f}" for run in runs)
        minutes = ", ".join(f"{run.minutes:.1f}" for run in runs)
        lines.append(f"| {RECIPES[recipe]} | {last} | {average} | {minutes} |")
    return "\n".join(lines)


def floor(game: KnownGame) -> float:
    """The least that a mean of estimates comes to: what they show of a policy at equilibrium."""
    size = len(game.answers)
    # Maximise v where every opponent's answer is beaten with probability v at least.
    found = linprog(
        [*[0] * size, -1],
        A_ub=np.hstack([-game.win_prob.T, np.ones((size, 1))]),
        b_ub=np.zeros(size),
        A_eq=[[*[1] * size, 0]],
        b_eq=[1],
    )
    shares = np.append(found.x[:size].clip(0), 0)
    return exploitability_bias(game, shares / shares.sum(), EVALUATED, seed=1)


def draw(results: dict[str, list[Played]], answers: Sequence[str], path: Path) -> None:
    """Above exploitability over rounds; below, for three answers, the way through the simplex."""
    three = len(answers) == 3
    size = (3.2 * len(results), 6.0 if three else 3.2)
    figure, axes = plt.subplots(
        1 + three, len(results), figsize=size, squeeze=False, layout="constrained"
    )
    for place, (recipe, runs) in enumerate(results.items()):
        above = axes[0, place]
        for run in runs:
            above.plot(run.rounds, run.last, color="tab:blue", alpha=0.6, lw=1)
            above.plot(run.rounds, run.average, color="tab:orange", alpha=0.8, lw=1.5)
        above.axhline(0.05, color="0.6", lw=0.8, ls="--")
        above.set(title=RECIPES[recipe], xlabel="round", ylim=(0, 0.4))
        if three:
            _simplex(axes[1, place], runs[0].shares, answers)
    axes[0, 0].set_ylabel("exploitability")
    axes[0, 0].plot([], [], color="tab:blue", label="policy")
    axes[0, 0].plot([], [], color="tab:orange", label="average policy")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def _simplex(axes: plt.Axes, shares: np.ndarray, answers: Sequence[str]) -> None:
    corners = np.array([[0, 0], [1, 0], [0.5, 0.866]])
    way = shares @ corners
    axes.plot(*np.vstack([corners, corners[:1]]).T, color="0.5", lw=0.8)
    axes.plot(*way.T, color="tab:blue", lw=0.8, alpha=0.7)
    axes.plot(*way[0], "o", color="0.4")
    axes.plot(*way[-1], "o", color="tab:red")
    for answer, (x, y) in zip(answers, corners, strict=True):
        axes.text(x, y + (0.04 if y else -0.1), answer, ha="center", fontsize=8)
    axes.set_aspect("equal")
    axes.axis("off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--game", type=Path, default=Path("conf/games/cycle.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("outputs/games"))
    asked = parser.parse_args()
    game, out = asked.game.absolute(), asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    results = {
        recipe: [play(recipe, seed, game, out) for seed in asked.seeds] for recipe in asked.recipes
    }
    draw(results, read_game(str(game)).answers, out / "games.png")
    print(table(results))
    print(f"\nAt equilibrium itself {EVALUATED} answers show {floor(read_game(str(game))):.4f}.")
    print(f"\n{out / 'games.png'}", file=sys.stderr)


if __name__ == "__main__":
    main()

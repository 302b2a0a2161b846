"""`python -m rlhf.workspace ENTITY/PROJECT`: panels for Agon's runs, as a saved view in wandb.

Every metric of `rlhf.watching.metric_names` that runs of the project may have is in one of its
panels. The view is new each time, and changes nothing in views that people have made.
"""

import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rlhf.diagnostics import DIAGNOSTICS
from rlhf.launching.command_line import told
from rlhf.problems import InputError
from rlhf.watching.metric_names import METRICS, ROLES
from rlhf.watching.panels import STAGES
from rlhf.watching.tracking_wandb import wandb_failures

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

VIEW = "Agon"
USAGE = "usage: python -m rlhf.workspace ENTITY/PROJECT"


class Panel(NamedTuple):
    """Metrics that share a pair of axes."""

    title: str
    metrics: Sequence[str]
    """Names, or patterns of names as of files."""
    style: Literal["line", "stacked-area"] = "line"
    log: bool = False


SECTIONS: dict[str, list[Panel]] = {
    "Evaluation": [
        Panel("Held-out accuracy", ["eval/sampled_accuracy", "eval/greedy_accuracy"]),
        Panel("Wins against the initial policy", ["eval/win_rate"]),
        Panel("Satisfied users", ["eval/satisfied_rate", "eval/greedy_satisfied_rate"]),
        Panel("Best of n", ["eval/best_of_n"]),
        Panel("Right among so many samples", ["eval/pass_at_*"]),
        Panel("Score", ["eval/score_mean"]),
        Panel("Parts of the score", ["eval/part_*"]),
        Panel("By the gold judge", ["eval/gold_*"]),
        Panel("Exploitability", ["eval/exploitability*"]),
        Panel("Nash gap", ["eval/nash_gap*"]),
        Panel("Answers in a known game", ["eval/share_*"]),
        Panel("Length", ["eval/length_mean"]),
        Panel("Variety", ["eval/unique_rate", "eval/distinct_1", "eval/distinct_2"]),
        Panel("Cut off, or not judged", ["eval/truncated_rate", "eval/invalid_rate"]),
        Panel("Failures of members", ["eval/failed_*"]),
    ],
    "Preferences": [
        Panel("Pairs, kept and dropped", ["preference/count", "preference/dropped_*"],
              style="stacked-area"),
        Panel("Margin", ["preference/margin_mean"]),
        Panel("Length gap", ["preference/length_gap"]),
        Panel("Likeness of the sides", ["preference/similarity"]),
    ],
    "Judge": [
        Panel("Score", ["judge/score_mean"]),
        Panel("Parts of the score", ["judge/part_*"]),
        Panel("Failures and ties", ["judge/invalid_rate", "judge/tie_rate"]),
        Panel("Failures of members", ["judge/failed_*"]),
        Panel("Agreement of members", ["judge/kappa"]),
        Panel("Tokens of written tests", ["judge/written_tokens"]),
        Panel("Win probability of the chosen side", ["judge/win_prob_mean"]),
        Panel("Consistency", ["judge/order_disagreement", "judge/cycle_rate"]),
    ],
    "Policy": [
        *(Panel(one.title, [f"policy/{metric.name}" for metric in one.metrics])
          for one in DIAGNOSTICS.values()),
        Panel("Gradient", ["policy/grad_norm"], log=True),
        Panel("Learning rate", ["policy/lr"]),
        Panel("Steps", ["policy/num_steps", "policy/skipped_steps"]),
        Panel("Distance from the previous policy", ["policy/anchor_gap"]),
    ],
    "Rollout": [
        Panel("Length", ["rollout/length_mean"]),
        Panel("Cut off, and different", ["rollout/truncated_rate", "rollout/unique_rate"]),
        Panel("Failed", ["rollout/failed_rate"]),
        Panel("Entropy", ["rollout/entropy"]),
        Panel("Staleness", ["staleness/mean"]),
    ],
    "Search trees": [
        Panel("Size", ["tree/size", "tree/num_simulations"]),
        Panel("Depth", ["tree/depth"]),
        Panel("Right answers", ["tree/terminal_accuracy", "tree/path_accuracy"]),
        Panel("Evaluator", ["tree/confidence_mean", "tree/brier_score",
                            "tree/evaluation_failed_rate"]),
        Panel("Steps and pairs", ["tree/unique_step_rate", "tree/filtered_rate",
                                  "tree/prefix_cache_rate"]),
        Panel("Tokens per pair", ["tree/tokens_per_pair"]),
        Panel("Judgements per pair", ["tree/judged_per_pair"]),
        Panel("Difference in value", ["tree/q_gap_*"]),
        Panel("Doubt of the labels", ["tree/smoothing_*"]),
    ],
    "Time": [
        Panel("Seconds by stage", list(STAGES), style="stacked-area"),
        Panel("Round", ["time/round_s"]),
        Panel("Run so far", ["time/elapsed_s"]),
    ],
    "Throughput": [
        Panel("Tokens per second", ["rollout/tokens_per_s"]),
        Panel("Tokens in a round", ["rollout/num_tokens"]),
        Panel("Prompts and completions in a round",
              ["rollout/num_prompts", "rollout/num_completions"]),
    ],
    "System": [
        Panel("Resident memory", [f"system/{role}_memory_bytes" for role in ROLES]),
        Panel("GPU memory", ["system/*_gpu_memory_bytes"]),
        Panel("GPUs at work", ["system/*_gpu_utilization"]),
        Panel("Workers that were lost and started anew", ["cluster/restarts_*"]),
        Panel("Rollout workers", ["cluster/rollout_workers"]),
    ],
    "Weights": [
        Panel("Gap between policy and rollout workers", ["weights/logprob_gap"], log=True),
        Panel("Of an adapter's change, lost in rounding", ["weights/merge_lost"]),
        Panel("Size", ["weights/bytes"]),
        Panel("Version", ["weights/version"]),
    ],
}  # fmt: skip
"""What people look at, the first on top."""


def build(entity: str, project: str) -> "Workspace":
    """The view, not saved, and without asking the network for anything.

    Raises InputError without the optional package that it needs.
    """
    try:
        from wandb_workspaces import workspaces
    except ImportError as error:
        raise InputError(
            ["wandb-workspaces: is not installed; `pip install 'agon[monitoring]'`"]
        ) from error

    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=VIEW,
        sections=[
            workspaces.Section(
                name=name, panels=[_plot(panel) for panel in panels], is_open=name != "Search trees"
            )
            for name, panels in SECTIONS.items()
        ],
        settings=workspaces.WorkspaceSettings(x_axis="round"),
    )


def save(workspace: "Workspace") -> str:
    """Saves it as a new view, and returns its address; raises InputError if wandb refuses."""
    try:
        return workspace.save().url
    except wandb_failures() as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            [f"{workspace.entity}/{workspace.project}: wandb does not save the view ({reason}); "
             "see that it can be reached, that you are logged in (`wandb login`), and that the "
             "project is there and yours to change"]
        ) from error  # fmt: skip


def metrics_of(panel: Panel) -> list[str]:
    """The names in `rlhf.watching.metric_names.METRICS` that the panel shows."""
    return [name for one in panel.metrics for name in METRICS if fnmatchcase(name, one)]


def _plot(panel: Panel) -> Any:
    from wandb_workspaces.reports import v2 as reports

    names: list[Any] = metrics_of(panel)
    unit = METRICS[names[0]].unit
    is_area = panel.style == "stacked-area"
    has_family = any(name.endswith("*") for name in names)
    patterns = [f"{name[:-1]}.*" if name.endswith("*") else name for name in names]
    pattern = patterns[0] if len(patterns) == 1 else f"({'|'.join(patterns)})"
    return reports.LinePlot(
        title=panel.title,
        x="round",
        y=[] if has_family else names,
        metric_regex=f"^{pattern}$" if has_family else None,
        title_x="round",
        title_y=unit,
        range_y=(0 if is_area or unit == "share" else None, None),
        log_y=panel.log or None,
        plot_type=panel.style,
        # Areas of several runs would be stacked on each other.
        max_runs_to_show=1 if is_area else None,
    )


def main() -> None:
    with told():
        match [part for argument in sys.argv[1:] for part in argument.split("/")]:
            case [entity, project] if entity and project and len(sys.argv) == 2:
                print(save(build(entity, project)))
            case _:
                raise InputError([USAGE])


if __name__ == "__main__":
    main()

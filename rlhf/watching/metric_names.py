"""Every metric of a run: what `metrics.jsonl`, wandb and the pictures call it, and its meaning.

`python -m rlhf.watching.metric_names` prints the tables of `docs/metrics.md`.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import groupby

from rlhf.diagnostics import PAIR_METRICS
from rlhf.diagnostics.base import Metric
from rlhf.records import DropReason
from rlhf.watching.metrics import GOLD_PREFIX, NUM_ROLLOUT_WORKERS, RESTARTS

ROLES = ("policy", "rollout", "judge", "reference", "gold")

_TIME = {
    "collect": Metric(
        "waiting for completions, judgements and preferences",
        "s",
        "usually the largest; with `max_staleness=1` only what training did not hide",
    ),
    "anchor": Metric(
        "log-probabilities of the anchors, and what else was begun while the round was collected",
        "s",
        "only what collecting did not hide",
    ),
    "update": Metric(
        "training the policy",
        "s",
        "flat; grows with `preference/count`; only what collecting did not hide",
    ),
    "publish": Metric(
        "carrying weights to the rollout workers, and checking them",
        "s",
        "flat, and small against the round",
    ),
    "evaluate": Metric("evaluating the policy", "s"),
    "checkpoint": Metric("saving the checkpoint of the round before", "s"),
    "round": Metric("the whole round", "s", "flat; it rises when answers grow longer"),
    "elapsed": Metric("the whole run so far, resumed parts included", "s"),
}

_ROLLOUT = {
    "num_prompts": Metric("prompts that were answered", "count"),
    "num_completions": Metric("completions that were sampled", "count"),
    "num_tokens": Metric("tokens that were sampled, end tokens included", "tokens"),
    "tokens_per_s": Metric(
        "sampled tokens per second of the whole round",
        "tokens/s",
        "flat or rising; low with few prompts per round",
    ),
    "length_mean": Metric(
        "mean length of a completion",
        "tokens",
        "may settle elsewhere than it began; rising without end means that the judge likes length",
    ),
    "truncated_rate": Metric(
        "completions that met the token limit", "share", "near 0; above 0.3 you are alerted"
    ),
    "failed_rate": Metric(
        "completions whose tool or environment failed, by no fault of theirs",
        "share",
        "0; they are judged by nobody, and count in `judge/invalid_rate`",
    ),
    "unique_rate": Metric(
        "different texts among the completions of a prompt",
        "share",
        "falls as the policy gets sure; at 1/n all answers to a prompt are one, and nothing can "
        "be learnt",
    ),
    "entropy": Metric(
        "mean of minus the sampled tokens' log-probabilities",
        "nats/token",
        "falls slowly; a sudden fall to 0 is a collapse: raise β or lower the learning rate",
    ),
}

_JUDGE = {
    "score_mean": Metric(
        "mean score of completions",
        good="rises; if held-out scores do not, the judge is being gamed",
    ),
    "invalid_rate": Metric(
        "judgements that the judge failed to give",
        "share",
        "0; above 0.05 you are alerted, above `judge.max_failure_rate` the run stops",
    ),
    "tie_rate": Metric(
        "ties among the would-be pairs",
        "share",
        "may rise as answers become equally good; those that SPPO, GPO, Nash-MD, XPO and VPO "
        "train on count too",
    ),
    "win_prob_mean": Metric(
        "mean probability that the chosen side wins",
        "share",
        "above 0.5 for the chosen side; near 0.5 the judge cannot tell",
    ),
    "order_disagreement": Metric(
        "how far verdicts depend on which text is read first",
        "share",
        "as low as the judge allows; high, its verdicts are noise",
    ),
    "cycle_rate": Metric(
        "cycles among completions, taken three at a time",
        "share",
        "0 for scores; above 0, use a method of self-play",
    ),
    "part_*": Metric(
        "mean of that part of the score, without completions where it is missing",
        good="all rise; one that falls is being traded for the others",
    ),
    "failed_*": Metric(
        "judgements that this member of a panel failed to give, of one that compares by pairs",
        "share",
        "0; above `judge.members.NAME.max_failure_rate` the run stops",
    ),
    "kappa": Metric(
        "how far members of a panel agree on which of two completions is better: Cohen's κ, mean "
        "over every two members",
        good="0 is chance and 1 the same; near 1 members err together, at 0 and below one is noise",
    ),
    "written_tokens": Metric(
        "tokens of the tests that the policy wrote (`judge.tests=written`)",
        "tokens",
        "beside `rollout/num_tokens`, which lacks them: what judging by them costs",
    ),
}

_PREFERENCE = {
    "count": Metric(
        "pairs that are trained on",
        "count",
        "falls when the policy solves its prompts; near 0, nothing is learnt",
    ),
    "margin_mean": Metric(
        "mean score of the chosen side minus that of the rejected", good="falls slowly"
    ),
    "length_gap": Metric(
        "mean length of the chosen side minus that of the rejected",
        "tokens",
        "near 0; a steady sign says what the judge likes about length",
    ),
    "similarity": Metric("mean likeness of the two sides' tokens", "share"),
} | {
    f"dropped_{reason}": Metric(f"pairs dropped: {reason.meaning}", "count", reason.good)
    for reason in DropReason
}

_POLICY = {name: one.metric for name, one in PAIR_METRICS.items()} | {
    "grad_norm": Metric(
        "mean norm of the gradient before clipping",
        good="steady; spikes say that the learning rate is high",
    ),
    "lr": Metric("learning rate of the last step", good="the schedule"),
    "anchor_gap": Metric(
        "largest distance from the `previous` anchor before a step",
        "nats",
        "0 up to rounding: else masks or templates differ",
    ),
    "num_steps": Metric("optimizer steps", "count"),
    "skipped_steps": Metric(
        "optimizer steps skipped, their gradient not being finite", "count", "0"
    ),
}

_WEIGHTS = {
    "version": Metric("policy version that was published", good="a line with slope 1"),
    "bytes": Metric("size of what was published: weights, or an adapter", "bytes", "flat"),
    "logprob_gap": Metric(
        "how far the worst rollout worker is from the policy",
        "nats/token",
        "flat: about 1e-7 in float32, 1e-3 to 1e-2 in bfloat16; the run stops above "
        "`weights.max_logprob_gap`",
    ),
    "merge_lost": Metric(
        "with `weights.lora=merged`: of the adapter's change, what rounding takes of it",
        "share",
        "well below 0.5, at which people are alerted: above, sampling hardly sees what is learnt; "
        "`weights.lora=adapter` and `model.dtype=float32` lose nothing",
    ),
}

_EVAL = {
    "sampled_accuracy": Metric(
        "held-out answers that are right, sampled", "share", "rises; this is what the run is for"
    ),
    "greedy_accuracy": Metric(
        "held-out answers that are right, greedy", "share", "rises, above the sampled one"
    ),
    "best_of_n": Metric("held-out prompts with a right answer among the samples", "share"),
    "satisfied_rate": Metric("held-out users who are satisfied, sampled", "share", "rises"),
    "greedy_satisfied_rate": Metric("held-out users who are satisfied, greedy", "share"),
    "score_mean": Metric(
        "mean score of sampled completions", good="rises together with `judge/score_mean`"
    ),
    "pass_at_*": Metric(
        "held-out prompts with a right answer among so many samples, estimated from all of them",
        "share",
        "rises; where it falls for many samples while `pass_at_1` rises, variety is lost",
    ),
    "win_rate": Metric(
        "held-out prompts where the policy beats its initial self", "share", "from 0.5 up"
    ),
    "invalid_rate": Metric("held-out judgements that the judge failed to give", "share"),
    "exploitability": Metric(
        "what the best answer to the policy gains over a draw",
        "share",
        "falls towards 0 where the method converges itself (INPO, online IPO, Nash-MD); swings "
        "with SPPO and GPO. It has a floor, see below",
    ),
    "exploitability_low": Metric(
        "lower end of its 95 % interval, 0 at equilibrium",
        "share",
        "above 0, the policy is not at equilibrium",
    ),
    "exploitability_high": Metric(
        "upper end of its 95 % interval",
        "share",
        "the policy is no further from equilibrium than that",
    ),
    "exploitability_average": Metric(
        "exploitability of the mean of all policies so far",
        "share",
        "falls towards 0 with all methods of self-play",
    ),
    "nash_gap": Metric(
        "what both players together could gain",
        "share",
        "twice the exploitability, with twice its floor",
    ),
    "nash_gap_average": Metric("nash_gap of the mean of all policies so far", "share"),
    "share_*": Metric(
        "how often the policy gives this answer of a known game",
        "share",
        "towards the equilibrium's shares",
    ),
    "part_*": Metric("mean of that part of the judge's score of held-out completions"),
    "failed_*": Metric("held-out judgements that this member of a panel failed to give", "share"),
    "length_mean": Metric("mean length of a held-out completion", "tokens"),
    "truncated_rate": Metric("held-out completions that met the token limit", "share"),
    "unique_rate": Metric("different texts among the samples of a held-out prompt", "share"),
    "distinct_1": Metric("different tokens among all held-out tokens", "share"),
    "distinct_2": Metric("different pairs of neighbouring tokens, likewise", "share"),
}

_GOLD = {
    f"{GOLD_PREFIX}{name}": _EVAL[name]._replace(
        meaning=f"by the judge of `eval.gold`: {_EVAL[name].meaning}", good=good
    )
    for name, good in {
        "sampled_accuracy": "rises with what the judge says; falls where that is gamed",
        "greedy_accuracy": "",
        "best_of_n": "",
        "pass_at_*": "",
        "satisfied_rate": "",
        "greedy_satisfied_rate": "",
        "score_mean": "rises with `eval/score_mean`; falls where the judge is gamed: stop there",
        "win_rate": "rises with `eval/win_rate`; falls where the judge is gamed",
        "invalid_rate": "0",
        "part_*": "",
        "failed_*": "0",
        "exploitability": "",
        "exploitability_low": "",
        "exploitability_high": "",
        "exploitability_average": "",
        "nash_gap": "",
        "nash_gap_average": "",
        "share_*": "",
    }.items()
}

_TREE = {
    "size": Metric("mean nodes of a tree", "count"),
    "depth": Metric("mean depth of a tree", "steps"),
    "num_simulations": Metric("mean simulations in a tree", "count"),
    "terminal_accuracy": Metric("mean score of whole answers", good="rises"),
    "confidence_mean": Metric("mean value that the evaluator gives to partial answers", "share"),
    "brier_score": Metric(
        "mean squared error of that value; 0.25 is what a guess has",
        good="below 0.25, or the evaluator's values are worse than guessing",
    ),
    "path_accuracy": Metric(
        "mean score at the end of the best path",
        good="above `tree/terminal_accuracy`: search helps",
    ),
    "unique_step_rate": Metric("sampled steps that no sibling had said", "share"),
    "filtered_rate": Metric("would-be pairs that were dropped", "share"),
    "evaluation_failed_rate": Metric("partial answers that the evaluator failed on", "share"),
    "prefix_cache_rate": Metric("prompt tokens that the engine knew already", "share"),
    "tokens_per_pair": Metric("tokens generated per pair", "tokens"),
    "judged_per_pair": Metric("judgements per pair", "count"),
} | {
    f"{name}_p{quantile}": Metric(f"{quantile} % of the pairs have at most this {meaning}")
    for quantile in (10, 50, 90)
    for name, meaning in (("q_gap", "difference in value"), ("smoothing", "doubt of the label"))
}

_SYSTEM = {
    "memory_bytes": Metric("resident memory of the {}'s processes, shared pages included", "bytes"),
    "gpu_memory_bytes": Metric("memory in use on the {}'s GPUs, whoever uses it", "bytes"),
    "gpu_utilization": Metric("time in which the {}'s GPUs were at work", "share"),
}


_RESTARTS = Metric(
    "times so far that a worker of the {} was lost and started anew",
    "count",
    "0; rises when one is lost",
)


def _of_role(role: str, called: str) -> dict[str, Metric]:
    return {
        f"system/{role}_{name}": metric._replace(meaning=metric.meaning.format(called))
        for name, metric in _SYSTEM.items()
    } | {f"{RESTARTS}{role}": _RESTARTS._replace(meaning=_RESTARTS.meaning.format(called))}


_NUM_ROLLOUT_WORKERS = {
    NUM_ROLLOUT_WORKERS: Metric(
        "rollout workers that live, where `rollout.max_workers` lets them come and go",
        "count",
        "rises and falls with the cluster's nodes",
    )
}

METRICS: Mapping[str, Metric] = {
    **{
        f"time/{name}_s": metric._replace(meaning=f"seconds: {metric.meaning}")
        for name, metric in _TIME.items()
    },
    **{f"rollout/{name}": metric for name, metric in _ROLLOUT.items()},
    **{f"judge/{name}": metric for name, metric in _JUDGE.items()},
    **{f"preference/{name}": metric for name, metric in _PREFERENCE.items()},
    **{f"policy/{name}": metric for name, metric in _POLICY.items()},
    **{f"weights/{name}": metric for name, metric in _WEIGHTS.items()},
    "staleness/mean": Metric(
        "mean age of the policy that sampled the completions", "rounds", "0, or `max_staleness`"
    ),
    **{f"eval/{name}": metric for name, metric in (_EVAL | _GOLD).items()},
    **{f"tree/{name}": metric for name, metric in _TREE.items()},
    **{name: metric for role in ROLES for name, metric in _of_role(role, role).items()},
    **_NUM_ROLLOUT_WORKERS,
}
"""By name; a name that ends with `*` stands for all that begin like it."""


def describe(name: str) -> Metric | None:
    """What a metric means; None for one that is not documented."""
    return next((one for known, one in METRICS.items() if fnmatchcase(name, known)), None)


def is_repeatable(name: str) -> bool:
    """Whether equal runs have equal values; what depends on the machine's clock has not."""
    return not name.startswith(("time/", "system/", "cluster/")) and name != "rollout/tokens_per_s"


def rows() -> list[str]:
    """The tables of `docs/metrics.md`, a line per metric."""
    by_role = ("system/", "cluster/")
    written = {name: one for name, one in METRICS.items() if not name.startswith(by_role)}
    written |= _of_role("<role>", "role") | _NUM_ROLLOUT_WORKERS
    return [f"| `{name}` | {' | '.join(metric)} |" for name, metric in written.items()]


if __name__ == "__main__":
    for _, table in groupby(rows(), key=lambda row: row.partition("/")[0]):
        print(*table, sep="\n", end="\n\n")

"""Every metric of a run: what `metrics.jsonl`, wandb and the pictures call it, and its meaning."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from rlhf.records import DropReason

ROLES = ("policy", "rollout", "judge", "reference")


class Metric(NamedTuple):
    """What a number means, in one line."""

    meaning: str
    unit: str = ""
    """`share` is from 0 to 1; a name may end with its unit too."""


_TIME = {
    "collect": "waiting for completions, judgements and preferences",
    "anchor": "log-probabilities of the anchors",
    "update": "training the policy",
    "publish": "carrying weights to the rollout workers, and checking them",
    "evaluate": "evaluating the policy",
    "checkpoint": "saving a checkpoint",
    "round": "the whole round",
    "elapsed": "the whole run so far, resumed parts included",
}

_ROLLOUT = {
    "num_prompts": Metric("prompts that were answered", "count"),
    "num_completions": Metric("completions that were sampled", "count"),
    "num_tokens": Metric("tokens that were sampled, end tokens included", "tokens"),
    "tokens_per_s": Metric("sampled tokens per second of the whole round", "tokens/s"),
    "length_mean": Metric("mean length of a completion", "tokens"),
    "truncated_rate": Metric("completions that met the token limit", "share"),
    "unique_rate": Metric("different texts among the completions of a prompt", "share"),
    "entropy": Metric("mean of minus the sampled tokens' log-probabilities", "nats/token"),
}

_JUDGE = {
    "score_mean": Metric("mean score of completions"),
    "invalid_rate": Metric("judgements that the judge failed to give", "share"),
    "tie_rate": Metric("ties among the would-be pairs", "share"),
    "win_prob_mean": Metric("mean probability that the chosen side wins", "share"),
    "order_disagreement": Metric("how far verdicts depend on which text is read first", "share"),
    "cycle_rate": Metric("cycles among completions, taken three at a time", "share"),
}

_DROPPED = {
    DropReason.TIE: "the judge prefers neither",
    DropReason.IDENTICAL: "both sides have the same text",
    DropReason.TRUNCATED: "a side met the token limit",
    DropReason.SHORT_GROUP: "too few completions to make a pair",
    DropReason.JUDGE_FAILED: "the judge failed",
    DropReason.EMPTY: "the reply is empty",
    DropReason.NEAR_COPY: "the reply is nearly the one that displeased",
    DropReason.ROLE_MARKER: "the reply begins a turn of its own",
    DropReason.REFERS_BACK: "the reply apologises or speaks of an earlier one",
    DropReason.REFUSAL: "what displeased was a refusal, perhaps rightly",
    DropReason.UNVISITED: "a side was never tried in the search tree",
    DropReason.ALL_WRONG: "none of the answers is right",
}

_PREFERENCE = {
    "count": Metric("pairs that are trained on", "count"),
    "margin_mean": Metric("mean score of the chosen side minus that of the rejected"),
    "length_gap": Metric("mean length of the chosen side minus that of the rejected", "tokens"),
    "similarity": Metric("mean likeness of the two sides' tokens", "share"),
} | {
    f"dropped_{reason}": Metric(f"pairs dropped: {why}", "count")
    for reason, why in _DROPPED.items()
}

_POLICY = {
    "loss": Metric("mean loss over pairs"),
    "grad_norm": Metric("mean norm of the gradient before clipping"),
    "lr": Metric("learning rate of the last step"),
    "margin": Metric("mean implicit reward of the chosen side minus the rejected", "nats"),
    "accuracy": Metric("pairs whose implicit margin is positive", "share"),
    "chosen_logratio": Metric("mean log-ratio of the chosen side to the anchor", "nats"),
    "rejected_logratio": Metric("mean log-ratio of the rejected side to the anchor", "nats"),
    "kl": Metric("mean log-ratio of both sides to the anchor", "nats"),
    "chosen_logprob": Metric("mean log-probability of the chosen side", "nats/token"),
    "rejected_logprob": Metric("mean log-probability of the rejected side", "nats/token"),
    "dpo_weight": Metric("mean factor of a pair's gradient in DPO", "share"),
    "anchor_gap": Metric("largest distance from the `previous` anchor before a step", "nats"),
    "num_steps": Metric("optimizer steps", "count"),
    "skipped_steps": Metric("optimizer steps skipped, their gradient not being finite", "count"),
}

_WEIGHTS = {
    "version": Metric("policy version that was published"),
    "bytes": Metric("size of the weights", "bytes"),
    "logprob_gap": Metric("how far the worst rollout worker is from the policy", "nats/token"),
    "merge_lost": Metric("of a LoRA adapter's change, what rounding takes of it", "share"),
}

_EVAL = {
    "sampled_accuracy": Metric("held-out answers that are right, sampled", "share"),
    "greedy_accuracy": Metric("held-out answers that are right, greedy", "share"),
    "best_of_n": Metric("held-out prompts with a right answer among the samples", "share"),
    "satisfied_rate": Metric("held-out users who are satisfied, sampled", "share"),
    "greedy_satisfied_rate": Metric("held-out users who are satisfied, greedy", "share"),
    "score_mean": Metric("mean score of sampled completions"),
    "win_rate": Metric("held-out prompts where the policy beats its initial self", "share"),
    "invalid_rate": Metric("held-out judgements that the judge failed to give", "share"),
    "exploitability": Metric("what the best answer to the policy gains over a draw", "share"),
    "exploitability_low": Metric("lower end of its 95 % interval, 0 at equilibrium", "share"),
    "exploitability_high": Metric("upper end of its 95 % interval", "share"),
    "exploitability_average": Metric("exploitability of the mean of all policies so far", "share"),
    "nash_gap": Metric("what both players together could gain", "share"),
    "nash_gap_average": Metric("nash_gap of the mean of all policies so far", "share"),
    "share_*": Metric("how often the policy gives this answer of a known game", "share"),
    "length_mean": Metric("mean length of a held-out completion", "tokens"),
    "truncated_rate": Metric("held-out completions that met the token limit", "share"),
    "unique_rate": Metric("different texts among the samples of a held-out prompt", "share"),
    "distinct_1": Metric("different tokens among all held-out tokens", "share"),
    "distinct_2": Metric("different pairs of neighbouring tokens, likewise", "share"),
}

_TREE = {
    "size": Metric("mean nodes of a tree", "count"),
    "depth": Metric("mean depth of a tree", "steps"),
    "num_simulations": Metric("mean simulations in a tree", "count"),
    "terminal_accuracy": Metric("mean score of whole answers"),
    "confidence_mean": Metric("mean value that the evaluator gives to partial answers", "share"),
    "brier_score": Metric("mean squared error of that value; 0.25 is what a guess has"),
    "path_accuracy": Metric("mean score at the end of the best path"),
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

METRICS: Mapping[str, Metric] = {
    **{f"time/{name}_s": Metric(f"seconds: {what}", "s") for name, what in _TIME.items()},
    **{f"rollout/{name}": metric for name, metric in _ROLLOUT.items()},
    **{f"judge/{name}": metric for name, metric in _JUDGE.items()},
    **{f"preference/{name}": metric for name, metric in _PREFERENCE.items()},
    **{f"policy/{name}": metric for name, metric in _POLICY.items()},
    **{f"weights/{name}": metric for name, metric in _WEIGHTS.items()},
    "staleness/mean": Metric("mean age of the policy that sampled the completions", "rounds"),
    **{f"eval/{name}": metric for name, metric in _EVAL.items()},
    **{f"tree/{name}": metric for name, metric in _TREE.items()},
    **{
        f"system/{role}_{name}": metric._replace(meaning=metric.meaning.format(role))
        for role in ROLES
        for name, metric in _SYSTEM.items()
    },
}
"""By name; a name that ends with `*` stands for all that begin like it."""


def describe(name: str) -> Metric | None:
    """What a metric means; None for one that is not documented."""
    return next((one for known, one in METRICS.items() if fnmatchcase(name, known)), None)


def is_repeatable(name: str) -> bool:
    """Whether equal runs have equal values; what depends on the machine's clock has not."""
    return not name.startswith(("time/", "system/")) and name != "rollout/tokens_per_s"

"""Turns what was collected, evaluated and timed into numbers by name."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeGuard

from rlhf.records import Collected, Completion, DropReason, Judgement, Prompt

Group = tuple[Prompt, tuple[Completion, ...], Judgement]
"""A prompt, the completions it drew, and what the judge thinks of them."""

CORRECT_SCORE = 1.0
"""A verifier's score from which a completion counts as correct."""

STAGES = {"collect", "anchor", "update", "publish", "evaluate", "checkpoint"}
"""Stages whose seconds every summary has, 0 where they never ran."""

COUNTS = {
    "prompts": "rollout/num_prompts",
    "completions": "rollout/num_completions",
    "tokens": "rollout/num_tokens",
    "preferences": "preference/count",
} | {f"dropped_{reason}": f"preference/dropped_{reason}" for reason in DropReason}
"""What a summary counts, and the metric whose sum it is."""


def collection_metrics(collected: Sequence[Collected], policy_version: int) -> dict[str, float]:
    """Numbers by `stage/name` for one round, which trains the policy of `policy_version`.

    A mean over nothing is left out; counts are always there. Tokens are counted as emitted, the
    end token included. `rollout/entropy` estimates nats per token by minus the mean log-probability
    of the sampled tokens; it is the entropy only when sampling at temperature 1 without top-p.
    `judge/tie_rate` is the share of ties among the would-be pairs: preferences, ties, and pairs of
    identical texts. A score that is not finite is one that the judge failed to give.
    """
    completions = [completion for one in collected for completion in one.completions]
    scores = [score for one in collected for score in one.judgement.scores]
    groups = [one.completions for one in collected if one.completions]
    metrics: dict[str, float] = {
        "rollout/num_prompts": len(collected),
        "rollout/num_completions": len(completions),
        "rollout/num_tokens": sum(len(c.token_ids) for c in completions),
    }
    if num_logprobs := sum(len(c.logprobs) for c in completions):
        metrics["rollout/entropy"] = -sum(sum(c.logprobs) for c in completions) / num_logprobs
    means = {
        "rollout/length_mean": (len(c.token_ids) for c in completions),
        "rollout/truncated_rate": (c.truncated for c in completions),
        "rollout/unique_rate": (len({c.text for c in group}) / len(group) for group in groups),
        "staleness/mean": (policy_version - c.policy_version for c in completions),
        "judge/score_mean": (score for score in scores if _is_valid(score)),
        "judge/invalid_rate": (not _is_valid(score) for score in scores),
    }
    return metrics | _means(means) | _preference_metrics(collected)


def _preference_metrics(collected: Sequence[Collected]) -> dict[str, float]:
    preferences = [preference for one in collected for preference in one.preferences]
    reasons = [dropped.reason for one in collected for dropped in one.dropped]
    metrics: dict[str, float] = {"preference/count": len(preferences)}
    for reason in DropReason:
        metrics[f"preference/dropped_{reason}"] = reasons.count(reason)
    num_ties = reasons.count(DropReason.TIE)
    if num_pairs := len(preferences) + num_ties + reasons.count(DropReason.IDENTICAL):
        metrics["judge/tie_rate"] = num_ties / num_pairs
    return metrics | _means(
        {
            "preference/margin_mean": (p.margin for p in preferences),
            "preference/length_gap": (
                len(p.chosen.token_ids) - len(p.rejected.token_ids) for p in preferences
            ),
        }
    )


def evaluation_metrics(
    sampled: Sequence[Group], greedy: Sequence[Group], *, is_verifier: bool
) -> dict[str, float]:
    """How good a policy is: keys without a prefix, as `summary.json` has them.

    Scores, lengths (in tokens) and truncations are those of the sampled completions. Accuracies,
    which only a verifier's scores give, are shares of the judged completions; `invalid_rate` is
    the share, sampled and greedy together, that the judge failed on. A mean over nothing is left
    out.
    """
    drawn = [completion for _, completions, _ in sampled for completion in completions]
    scores = list(_judged(sampled))
    means: dict[str, Iterable[float]] = {
        "score_mean": scores,
        "length_mean": (len(completion.token_ids) for completion in drawn),
        "truncated_rate": (completion.truncated for completion in drawn),
        "invalid_rate": (
            not _is_valid(score)
            for *_, judgement in (*sampled, *greedy)
            for score in judgement.scores
        ),
    }
    if is_verifier:
        means["sampled_accuracy"] = (score >= CORRECT_SCORE for score in scores)
        means["greedy_accuracy"] = (score >= CORRECT_SCORE for score in _judged(greedy))
    return _means(means)


def run_summary(
    records: Sequence[Mapping[str, Any]], status: str, total_s: float
) -> dict[str, Any]:
    """What `summary.json` holds, from the lines of `metrics.jsonl` (see `rlhf.store.MetricsLog`).

    `eval` is empty before or after training where nothing was evaluated. Throughput is over the
    online phase, the sum of `time/round_s`, and empty without it. `time_s` has every stage that
    was timed, and `total_s` as its `total`.
    """
    before = [_evaluation(record) for record in records if record["round"] < 0]
    rounds = [record for record in records if record["round"] >= 0]
    after = [evaluation for record in rounds if (evaluation := _evaluation(record))]
    counts = {name: round(_total(rounds, key)) for name, key in COUNTS.items()}
    timed = {name for record in records for name in record if name.startswith("time/")}
    stages = {name.removeprefix("time/").removesuffix("_s") for name in timed} - {"elapsed"}
    done = {"rounds": len(rounds), **counts}
    online_s = _total(rounds, "time/round_s")
    return {
        "status": status,
        "rounds": len(rounds),
        "eval": {"before": before[-1] if before else {}, "after": after[-1] if after else {}},
        "throughput": {
            f"{name}_per_s": done[name] / online_s
            for name in ("rounds", "completions", "tokens")
            if online_s
        },
        "counts": counts,
        "time_s": {stage: _total(records, f"time/{stage}_s") for stage in sorted(stages | STAGES)}
        | {"total": total_s},
    }


def _means(named: Mapping[str, Iterable[float]]) -> dict[str, float]:
    # A mean over nothing is unknown: neither 0, which is wrong, nor NaN, which spreads.
    listed = {name: list(values) for name, values in named.items()}
    return {name: fmean(values) for name, values in listed.items() if values}


def _is_valid(score: float | None) -> TypeGuard[float]:
    return score is not None and math.isfinite(score)


def _judged(groups: Sequence[Group]) -> Iterable[float]:
    return (score for *_, judgement in groups for score in judgement.scores if _is_valid(score))


def _evaluation(record: Mapping[str, Any]) -> dict[str, float]:
    prefix = "eval/"
    return {n.removeprefix(prefix): v for n, v in record.items() if n.startswith(prefix)}


def _total(records: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(record.get(name) or 0 for record in records)

"""Turns what was collected, evaluated and timed into numbers by name."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple, TypeGuard

from rlhf.collecting.similarity import Neighbours, distinct, neighbours, shared
from rlhf.records import (
    Collected,
    Comparison,
    Completion,
    DropReason,
    Judgement,
    Preference,
    Prompt,
    Verdict,
)
from rlhf.tree.metrics import tree_metrics
from rlhf.tree.nodes import searched
from rlhf.watching.agreement import agreement

Group = tuple[Prompt, tuple[Completion, ...], Verdict]
"""A prompt, the completions it drew, and what the judge thinks of them."""


class Shares(NamedTuple):
    """What the shares of completions with a verifier's full score are called."""

    sampled: str
    greedy: str


ACCURACY = Shares("sampled_accuracy", "greedy_accuracy")
SATISFACTION = Shares("satisfied_rate", "greedy_satisfied_rate")

GOLD_PREFIX = "gold_"
"""Of what the judge of `eval.gold` finds."""

_HEADLINES = ("exploitability", "sampled_accuracy", "satisfied_rate", "win_rate", "score_mean")
HEADLINES = (*(f"{GOLD_PREFIX}{name}" for name in _HEADLINES), *_HEADLINES)
"""An evaluation is summed up by the first of these that it has: nothing is trained on what the gold
judge says, so that it says what a run is worth."""

LOWER_IS_BETTER = frozenset({"exploitability", f"{GOLD_PREFIX}exploitability"})

RESTARTS = "cluster/restarts_"
"""With a role behind it: how often a worker of it was lost and started anew so far."""

NUM_ROLLOUT_WORKERS = "cluster/rollout_workers"

APPEARANCE = ("length_mean", "truncated_rate", "unique_rate", "distinct_1", "distinct_2")
"""What evaluations tell of completions whoever judges."""

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
    identical texts; a tie of two texts counts whether or not it is trained on. A score that is not
    finite is one that the judge failed to give.
    """
    completions = [completion for one in collected for completion in one.completions]
    judgements = [one.judgement for one in collected if isinstance(one.judgement, Judgement)]
    scores = [score for judgement in judgements for score in judgement.scores]
    groups = [one.completions for one in collected if one.completions]
    metrics: dict[str, float] = {
        "rollout/num_prompts": len(collected),
        "rollout/num_completions": len(completions),
        "rollout/num_tokens": sum(one.num_tokens for one in collected),
    }
    if num_logprobs := sum(c.num_own_tokens for c in completions if c.logprobs):
        metrics["rollout/entropy"] = -sum(sum(c.logprobs) for c in completions) / num_logprobs
    means = {
        "rollout/length_mean": (len(c.token_ids) for c in completions),
        "rollout/truncated_rate": (c.truncated for c in completions),
        "rollout/failed_rate": (bool(c.failure) for c in completions),
        "rollout/unique_rate": map(_unique_rate, groups),
        "staleness/mean": (policy_version - c.policy_version for c in completions),
        "judge/score_mean": (score for score in scores if _is_valid(score)),
        "judge/invalid_rate": (
            failed for one in collected if one.judgement for failed in one.judgement.failed
        ),
    }
    metrics |= _means(means) | _preference_metrics(collected) | _comparison_metrics(collected)
    verdicts = [one.judgement for one in collected if one.judgement]
    metrics |= part_means("judge/", verdicts) | failure_rates("judge/", verdicts)
    if num_written := sum(verdict.num_written_tokens for verdict in verdicts):
        metrics["judge/written_tokens"] = num_written
    if (kappa := agreement(verdicts)) is not None:
        metrics["judge/kappa"] = kappa
    if trees := searched(collected):
        pairs = [pair for one in collected for pair in one.preferences]
        reasons = [dropped.reason for one in collected for dropped in one.dropped]
        num_dropped = len(reasons) - reasons.count(DropReason.SHORT_GROUP)
        metrics |= tree_metrics(trees, pairs, num_dropped)
    return metrics


def part_means(prefix: str, verdicts: Iterable[Verdict]) -> dict[str, float]:
    """The mean of every part of the verdicts, without what is missing: `PREFIXpart_NAME`."""
    parts: dict[str, list[float]] = {}
    for verdict in verdicts:
        for name, values in verdict.parts.items():
            parts.setdefault(f"{prefix}part_{name}", []).extend(filter(_is_valid, values))
    return _means(parts)


def failure_rates(prefix: str, verdicts: Iterable[Verdict]) -> dict[str, float]:
    """The share of each member's own judgements that it failed to give: `PREFIXfailed_NAME`."""
    failures: dict[str, list[bool]] = {}
    for verdict in verdicts:
        for name, failed in verdict.member_failures.items():
            failures.setdefault(f"{prefix}failed_{name}", []).extend(failed)
    return _means(failures)


def _comparison_metrics(collected: Sequence[Collected]) -> dict[str, float]:
    """What only a pairwise judge gives; `judge/cycle_rate` is the share of cycles among the
    completions taken three at a time, of those where every two were compared and none tie."""
    comparisons = [o.judgement for o in collected if isinstance(o.judgement, Comparison)]
    if not comparisons:
        return {}
    orders = (c.order_disagreement for c in comparisons if c.order_disagreement is not None)
    return _means(
        {
            "judge/win_prob_mean": (
                p.win_prob for one in collected for p in _of_two_texts(one.preferences)
            ),
            "judge/order_disagreement": orders,
            "judge/cycle_rate": (cycle for c in comparisons for cycle in _cycles(c)),
        }
    )


def _cycles(comparison: Comparison) -> Iterable[bool]:
    matrix = comparison.win_prob
    for i, j, k in combinations(range(len(matrix)), 3):
        sides = matrix[i][j], matrix[j][k], matrix[k][i]
        if all(side is not None and side != 0.5 for side in sides):
            yield len({side > 0.5 for side in sides if side is not None}) == 1


def _preference_metrics(collected: Sequence[Collected]) -> dict[str, float]:
    preferences = [preference for one in collected for preference in one.preferences]
    reasons = [dropped.reason for one in collected for dropped in one.dropped]
    metrics: dict[str, float] = {"preference/count": len(preferences)}
    for reason in DropReason:
        metrics[f"preference/dropped_{reason}"] = reasons.count(reason)
    num_ties = reasons.count(DropReason.TIE)
    if num_pairs := len(preferences) + num_ties + reasons.count(DropReason.IDENTICAL):
        num_kept = sum(one.win_prob == 0.5 for one in _of_two_texts(preferences))
        metrics["judge/tie_rate"] = (num_ties + num_kept) / num_pairs
    return metrics | _means(
        {
            "preference/margin_mean": (p.margin for p in preferences),
            "preference/length_gap": (
                len(p.chosen.completion.token_ids) - len(p.rejected.completion.token_ids)
                for p in preferences
            ),
            "preference/similarity": (value for one in collected for value in _similarities(one)),
        }
    )


def _similarities(one: Collected) -> Iterator[float]:
    """Of the sides of each pair; a completion of many pairs is read once."""
    known: dict[int, Neighbours] = {}

    def read(completion: Completion) -> Neighbours:
        if id(completion) not in known:
            known[id(completion)] = neighbours(completion.token_ids)
        return known[id(completion)]

    for pair in one.preferences:
        a, b = pair.chosen.completion, pair.rejected.completion
        yield 1.0 if a.token_ids == b.token_ids else shared(read(a), read(b))


def _of_two_texts(preferences: Sequence[Preference]) -> Iterable[Preference]:
    """Those that say something of the judge: a text against itself is 1/2 without one."""
    return (one for one in preferences if one.chosen.text != one.rejected.text)


def evaluation_metrics(
    sampled: Sequence[Group], greedy: Sequence[Group], shares: Shares | None
) -> dict[str, float]:
    """How good a policy is: keys without a prefix, as `summary.json` has them.

    Scores, and what completions look like, are those of the sampled ones. `shares`, which only a
    verifier's scores give, are of the judged completions; `best_of_n` is the share of prompts of
    which at least one of several samples is correct, `pass_at_K` estimates it for K of them where
    accuracies are told, K being 1, 2, 4 and so on. `invalid_rate` is the share, sampled and
    greedy together, that the judge failed on. A mean over nothing is left out.
    """
    scores = list(_judged(sampled))
    means: dict[str, Iterable[float]] = {
        "score_mean": scores,
        "invalid_rate": (
            failed for *_, verdict in (*sampled, *greedy) for failed in verdict.failed
        ),
    }
    if shares:
        means[shares.sampled] = (score >= CORRECT_SCORE for score in scores)
        means[shares.greedy] = (score >= CORRECT_SCORE for score in _judged(greedy))
        means["best_of_n"] = (
            any(score >= CORRECT_SCORE for score in _judged([group]))
            for group in sampled
            if len(group[1]) > 1
        )
    if shares is ACCURACY:
        means |= _passes(sampled)
    parts = part_means("", (verdict for *_, verdict in sampled))
    parts |= failure_rates("", (verdict for *_, verdict in (*sampled, *greedy)))
    seen = completion_metrics([completions for _, completions, _ in sampled])
    return seen | _means(means) | parts


def _passes(sampled: Sequence[Group]) -> dict[str, list[float]]:
    """`pass_at` of every prompt with several samples, as far as so many are judged."""
    groups = [list(_judged([group])) for group in sampled if len(group[1]) > 1]
    most = max(map(len, groups), default=0)
    return {
        f"pass_at_{num_drawn}": [
            pass_at(num_drawn, len(scores), sum(score >= CORRECT_SCORE for score in scores))
            for scores in groups
            if len(scores) >= num_drawn
        ]
        for num_drawn in (2**i for i in range(most.bit_length()))
    }


def pass_at(num_drawn: int, num_samples: int, num_correct: int) -> float:
    """How likely one of so many draws is correct, without bias, from more samples than that.

    Chen et al. 2021 (arXiv 2107.03374), equation 1: 1 - C(n - c, k) / C(n, k).
    """
    wrong = math.comb(num_samples - num_correct, num_drawn)
    return 1 - wrong / math.comb(num_samples, num_drawn)


def headline(evaluation: Mapping[str, float | None]) -> str | None:
    """The key that an evaluation is summed up by; None without any."""
    return next((name for name in HEADLINES if evaluation.get(name) is not None), None)


def completion_metrics(groups: Sequence[Sequence[Completion]]) -> dict[str, float]:
    """What completions look like, whatever the judge says: lengths in tokens, truncations, and how
    varied they are: `distinct_n` over all of them, `unique_rate` within groups of several."""
    completions = [completion for group in groups for completion in group]
    tokens = [completion.token_ids for completion in completions]
    varied = {f"distinct_{n}": distinct(tokens, n) for n in (1, 2)}
    return _means(
        {
            "length_mean": map(len, tokens),
            "truncated_rate": (completion.truncated for completion in completions),
            "unique_rate": (_unique_rate(group) for group in groups if len(group) > 1),
        }
    ) | {name: value for name, value in varied.items() if value is not None}


def _unique_rate(group: Sequence[Completion]) -> float:
    return len({completion.text for completion in group}) / len(group)


def run_summary(
    records: Sequence[Mapping[str, Any]], status: str, total_s: float
) -> dict[str, Any]:
    """What `summary.json` holds, from the lines of `metrics.jsonl` (see `MetricsLog`).

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
        # A round whose weights could not be published has no line of its own.
        "rounds": rounds[-1]["round"] + 1 if rounds else 0,
        "eval": {"before": before[-1] if before else {}, "after": after[-1] if after else {}},
        "throughput": {
            f"{name}_per_s": done[name] / online_s
            for name in ("rounds", "completions", "tokens")
            if online_s
        },
        "counts": counts,
        "restarts": {
            name.removeprefix(RESTARTS): round(value)
            for record in records  # each says how many there were so far
            for name, value in record.items()
            if name.startswith(RESTARTS)
        },
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

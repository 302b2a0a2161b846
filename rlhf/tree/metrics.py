"""A round's search trees as numbers by `tree/name`."""

from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np

from rlhf.records import Preference
from rlhf.tree.nodes import Node, Tree

QUANTILES = (10, 50, 90)


def tree_metrics(
    trees: Sequence[Tree], preferences: Sequence[Preference], num_dropped: int
) -> dict[str, float]:
    """Means over trees, and over the pairs that they gave.

    `unique_step_rate` is the share of drawn steps that no sibling had said before;
    `terminal_accuracy` the mean score of whole answers, each as often as it was drawn;
    `confidence_mean` what the evaluator says of partial answers, `evaluation_failed_rate` how often
    it says nothing, and `brier_score` the mean square of its distance from each outcome below (0
    is perfect, 1/4 what always saying 1/2 gives); `filtered_rate` the share of would-be pairs that
    were dropped; `q_gap_pNN` and `smoothing_pNN` percentiles over pairs; `prefix_cache_rate` the
    share of prompt tokens that the engine knew from earlier requests. A mean over nothing is left
    out.
    """
    steps = [node for tree in trees for node in tree.nodes if node.step is not None]
    answers = [node for node in steps if node.ended and node.score is not None]
    means: dict[str, Iterable[float]] = {
        "size": (len(tree.nodes) for tree in trees),
        "depth": (max(node.depth for node in tree.nodes) for tree in trees),
        "num_simulations": (tree.num_simulations for tree in trees),
        "terminal_accuracy": (n.score or 0.0 for n in answers for _ in range(n.num_copies)),
        "confidence_mean": (n.confidence for n in steps if n.confidence is not None),
        "brier_score": _brier_scores(steps),
        "path_accuracy": (end.score for t in trees if (end := t.path[-1]).score is not None),
    }
    listed = {name: list(values) for name, values in means.items()}
    metrics = {f"tree/{name}": fmean(values) for name, values in listed.items() if values}
    num_drawn = sum(node.num_copies for node in steps)
    num_pairs = len(preferences)
    shares = {
        "unique_step_rate": (len(steps), num_drawn),
        "filtered_rate": (num_dropped, num_dropped + num_pairs),
        "evaluation_failed_rate": (
            sum(tree.num_evaluated for tree in trees)
            - sum(node.confidence is not None for node in steps),
            sum(tree.num_evaluated for tree in trees),
        ),
        "prefix_cache_rate": (
            sum(tree.num_cached_tokens for tree in trees),
            sum(tree.num_prompt_tokens for tree in trees),
        ),
        "tokens_per_pair": (sum(tree.num_tokens for tree in trees), num_pairs),
        "judged_per_pair": (
            sum(tree.num_judged + tree.num_evaluated for tree in trees),
            num_pairs,
        ),
    }
    metrics |= {f"tree/{name}": part / all for name, (part, all) in shares.items() if all}
    gaps = [pair.margin for pair in preferences]
    smoothing = [1 - pair.win_prob for pair in preferences]
    return metrics | _quantiles("q_gap", gaps) | _quantiles("smoothing", smoothing)


def _quantiles(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    found = np.percentile(values, QUANTILES).tolist()
    return {f"tree/{name}_p{q}": value for q, value in zip(QUANTILES, found, strict=True)}


def _brier_scores(steps: Sequence[Node]) -> Iterable[float]:
    """Brier 1950: proper, so that nothing but the true probability of being right does best."""
    for answer in steps:
        if answer.ended and answer.score is not None:
            for node in answer.way_up:
                if node.confidence is not None and not node.ended:
                    yield from [(node.confidence - answer.score) ** 2] * answer.num_copies

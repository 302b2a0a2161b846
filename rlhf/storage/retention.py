"""Which checkpoint is the best of a run, by a metric of its rounds."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf.storage.store import read_metrics


def best_by(metrics: Path, metric: str | None) -> Callable[[Sequence[int]], int | None] | None:
    """Of checkpoints after so many rounds, the one whose metric is the largest, or with `-` before
    its name the least, and the newest of equals; it says None where none of them has the metric.

    `metrics`: the run's `metrics.jsonl`, in which a round has its line before it is saved.
    """
    if metric is None:
        return None
    name, sign = metric.removeprefix("-"), -1 if metric.startswith("-") else 1

    def best(rounds: Sequence[int]) -> int | None:
        found = {
            record["round"] + 1: sign * value
            for record in read_metrics(metrics)
            if isinstance(value := record.get(name), int | float)
        }
        known = [number for number in rounds if number in found]
        return max(known, key=lambda number: (found[number], number), default=None)

    return best

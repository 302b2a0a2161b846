"""The best checkpoint, besides the newest."""

import asyncio
import json

import pytest

from rlhf.storage.checkpoint import BEST, complete_names
from rlhf.storage.ledger import Ledger
from rlhf.storage.retention import best_by
from rlhf.storage.round_checkpoints import RoundCheckpoints


class Nothing:
    async def save(self, directory) -> None:
        """There is nothing to keep."""


@pytest.mark.parametrize(
    "metric, kept, best",
    [
        (None, [8, 10], None),
        ("eval/score_mean", [4, 8, 10], "round_000004"),
        ("-eval/score_mean", [8, 10], "round_000010"),
        ("eval/win_rate", [8, 10], None),
    ],
)
def test_the_newest_are_kept_and_the_best(tmp_path, metric, kept, best):
    metrics, checkpoints = tmp_path / "metrics.jsonl", tmp_path / "c"
    saved = RoundCheckpoints(
        checkpoints, Nothing(), Ledger(tmp_path), keep=2, state={}, best=best_by(metrics, metric)
    )
    scores = {2: 0.5, 4: 0.9, 8: 0.7, 10: 0.2}
    for number in range(1, 11):
        score = {"eval/score_mean": scores[number]} if number in scores else {}
        with metrics.open("a") as file:
            file.write(json.dumps({"round": number - 1} | score) + "\n")
        if number % 2 == 0:
            asyncio.run(saved.save(number))
    assert complete_names(checkpoints) == [f"round_{number:06d}" for number in kept]
    assert ((checkpoints / BEST).read_text() if best else None) == best


def test_of_equals_the_newest_is_the_best(tmp_path):
    lines = [{"round": number, "eval/score_mean": 1.0} for number in range(4)]
    (tmp_path / "m").write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = best_by(tmp_path / "m", "eval/score_mean")
    assert best is not None and best([1, 2, 3]) == 3 and best([9]) is None

"""A whole run in an environment: real actors and processes, from the command line."""

import re
from pathlib import Path

from commands import run

from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.guessing import GuessingConfig
from rlhf.storage.store import read, read_metrics

SMALL = [
    "experiment=guessing",
    "num_rounds=2",
    "round.prompts=16",
    "warmup.steps=100",
    "eval.num_prompts=16",
    "eval.every=0",
    "tracking=disabled",
    "environment.num_workers=2",
    "algorithm.truncated=keep",
    "cluster.threads_per_worker=1",
]


def test_games_are_played_to_their_end_and_rewarded(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    run(directory, *SMALL)
    rows = [row for row in read(directory).to_pylist() if not row["dropped"]]
    played = {
        (row["prompt_id"], row[side], row[f"{side}_score"])
        for row in rows
        for side in ("chosen", "rejected")
    }
    assert {score for *_, score in played} == {0.0, 1.0}
    hidden_of = {row.id: row.answer for row in GuessingConfig().source(Wanted(), seed=1).train}
    for id, text, score in played:
        hidden = int(hidden_of[id] or 0)
        guesses, replies = turns(text)
        assert len(guesses) <= 3 and len(replies) == len(guesses) - 1
        assert replies == [reply(guess, hidden) for guess in guesses[:-1]]
        assert (guesses[-1] == str(hidden)) == (score == 1.0)
    assert len({text for _, text, _ in played}) > 10
    for record in read_metrics(directory / "metrics.jsonl")[1:]:
        assert record["weights/logprob_gap"] < 1e-3
        assert record["judge/invalid_rate"] == 0


def turns(text: str) -> tuple[list[str], list[str]]:
    said = re.split(r"\n\n(?:user|assistant):\n", text)
    return said[::2], said[1::2]


def reply(guess: str, hidden: int) -> str:
    if not guess.isdigit():
        return "numbers"
    return "higher" if hidden > int(guess) else "lower"

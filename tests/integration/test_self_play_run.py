"""Self-play from the command line, in a known game and against a verifier."""

import json

import pytest
from commands import SMALL, run
from letter_models import write_letter_model

from rlhf.storage.store import read, read_metrics

GAME = [
    "num_rounds=3", "round.prompts=16", "round.epochs=1", "policy.batch_size=4096",
    "warmup.steps=60", "eval.num_prompts=256", "eval.every=1", "tracking=disabled",
    "model.num_layers=1", "model.width=64", "model.num_heads=2", "policy.learning_rate=1e-4",
]  # fmt: skip


@pytest.fixture
def game(tmp_path) -> str:
    path = tmp_path / "game.json"
    path.write_text(json.dumps({"answers": ["a", "b"], "win_prob": [[0.5, 0.8], [0.2, 0.5]]}))
    return str(path)


def test_a_round_of_inpo_begins_at_its_anchors_and_measures_exploitability(tmp_path, game):
    run(tmp_path / "run", "experiment=game", *GAME, f"judge.game={game}")
    before, *rounds = read_metrics(tmp_path / "run" / "metrics.jsonl")
    for record in (before, *rounds):
        shares = [record[f"eval/share_{answer}"] for answer in ("a", "b", "none")]
        assert sum(shares) == pytest.approx(1)
        # The first answer is the best one; it beats the second by .3 and what is none by .5.
        expected = 0.3 * shares[1] + 0.5 * shares[2]
        assert record["eval/exploitability"] == pytest.approx(expected)
        assert record["eval/exploitability_low"] <= expected <= record["eval/exploitability_high"]
    assert all(record["policy/anchor_gap"] < 1e-4 for record in rounds)
    # One step at g = 0, with labels that are certain: (step_size / 2)^2.
    assert rounds[0]["policy/loss"] == pytest.approx(0.25**2, rel=1e-4)


def test_a_round_of_sppo_begins_at_the_closed_form_of_its_targets(tmp_path, game):
    means = ["algorithm.label=soft", "objective.target=mean"]
    run(tmp_path / "run", "experiment=game_sppo", *GAME, *means, f"judge.game={game}")
    rounds = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    table = [row for row in read(tmp_path / "run").to_pylist() if row["dropped"] is None]
    for record in rounds:
        assert record["policy/anchor_gap"] < 1e-4
        rows = [row for row in table if row["round"] == record["round"]]
        targets = sum(
            row["weight"] * ((row["chosen_score"] - 0.5) ** 2 + (row["rejected_score"] - 0.5) ** 2)
            for row in rows
        )
        closed = 0.5 * targets / sum(row["weight"] for row in rows)
        assert record["policy/loss"] == pytest.approx(closed, rel=1e-3)


@pytest.mark.parametrize(
    ("algorithm", "mixtures"), [("nash_md", {0.0, 0.125}), ("xpo", {0.0, 1.0})]
)
def test_the_initial_policy_plays_too(tmp_path, game, algorithm, mixtures):
    overrides = ["experiment=base/game", f"algorithm={algorithm}", f"judge.game={game}"]
    run(tmp_path / "run", *overrides, *GAME)
    found = read(tmp_path / "run").to_pylist()
    trained = [row for row in found if row["dropped"] is None]
    assert trained
    for row in trained:
        assert {round(row[f"{side}_mixture"], 6) for side in ("chosen", "rejected")} == mixtures


def test_a_language_model_judges_a_training_run(tmp_path, byte_model):
    judge = write_letter_model(byte_model, tmp_path / "letters")
    overrides = ["algorithm=sppo", "judge=llm", f"judge.path={judge}", "objective.step_size=5"]
    run(tmp_path / "run", *SMALL, *overrides, "num_rounds=2", "algorithm.num_completions=3")
    rounds = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    assert len(rounds) == 2
    for record in rounds:
        # Weights that were never trained follow the place, not the text, if they prefer anything.
        assert record["judge/order_disagreement"] > 0
        assert record["judge/invalid_rate"] == 0
        assert record["policy/anchor_gap"] < 1e-4
    table = [row for row in read(tmp_path / "run").to_pylist() if row["dropped"] is None]
    assert table and all(0 < row["win_prob"] < 1 and "letters" in row["judge"] for row in table)

"""The picture of a run: drawn from what there is, whatever that is."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from rlhf.storage.store import MetricsLog
from rlhf.watching import curves
from rlhf.watching.curves import draw_curves
from rlhf.watching.panels import Curve, as_it_is, read_curves

ROUND = {
    "judge/score_mean": 0.5,
    "policy/loss": 0.69,
    "policy/margin": 0.1,
    "policy/chosen_logratio": -0.1,
    "policy/rejected_logratio": -0.3,
    "preference/count": 6,
    "preference/dropped_tie": 2,
    "rollout/length_mean": 3.5,
    "rollout/truncated_rate": 0.1,
    "time/collect_s": 0.2,
    "time/update_s": 0.1,
    "weights/logprob_gap": 0.0,
}


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    return MetricsLog(tmp_path / "metrics.jsonl")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("num_rounds", "evaluation"),
    [(1, "exploitability"), (2, "score_mean"), (30, "sampled_accuracy")],
)
def test_a_run_is_drawn(log: MetricsLog, tmp_path: Path, num_rounds: int, evaluation: str) -> None:
    log.write(-1, {f"eval/{evaluation}": 0.4, "time/evaluate_s": 1.0})
    for round in range(num_rounds):
        log.write(round, ROUND)
    log.write(num_rounds - 1, {f"eval/{evaluation}": 0.6, "policy/loss": float("nan")})
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", max_logprob_gap=1e-3)
    image = imread(tmp_path / "curves.png")
    assert image.shape == (900, 1600, 4)
    assert image[..., :3].std() > 0.05


@pytest.mark.filterwarnings("error")
def test_answers_of_a_game_are_no_formulas(log: MetricsLog, tmp_path: Path) -> None:
    log.write(-1, {"eval/share_$x_1_2$": 0.4, "eval/share__b": 0.6})
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert as_it_is("$x_1_2$") == r"\$x_1_2\$" and as_it_is("_b") == " _b"


@pytest.mark.filterwarnings("error")
def test_what_the_gold_judge_alone_has_is_drawn_too(
    log: MetricsLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(-1, {"eval/gold_score_mean": 0.4})
    drawn = []
    monkeypatch.setattr(curves, "_lay_out", lambda panels: drawn.extend(panels))
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    (panel,) = drawn
    assert panel.get_title(loc="left") == "Held-out score"
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["the gold judge"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "name", ["policy/margin", "policy/rejected_logratio", "preference/count", "weights/logprob_gap"]
)
def test_one_metric_alone_is_enough(log: MetricsLog, tmp_path: Path, name: str) -> None:
    log.write(0, {name: 0.0})
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")


def test_without_numbers_there_is_no_picture(log: MetricsLog, tmp_path: Path) -> None:
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    draw_curves(tmp_path / "absent.jsonl", tmp_path / "curves.png")
    log.write(0, {"policy/grad_norm": 1.0})
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("length", [1, 2, 19, 20, 200])
def test_smoothing_keeps_a_constant_and_the_length(length: int) -> None:
    for share in (0.1, 0.3):
        assert curves._smooth(np.full(length, 3.0), share) == pytest.approx(np.full(length, 3.0))


def test_smoothing_worked_by_hand() -> None:
    values = np.zeros(20)
    values[10] = 4.0
    # The window over 20 values is 0.5, 1, 0.5: half of the peak stays, a quarter goes each way.
    smooth = curves._smooth(values, 0.1)
    assert smooth[9:12] == pytest.approx([1.0, 2.0, 1.0])
    assert smooth[0] == smooth[-1] == 0.0


def test_curves_skip_what_is_null_and_count_rounds_finished(log: MetricsLog) -> None:
    records = [
        log.write(-1, {"eval/score_mean": 0.1}),
        log.write(0, {"policy/loss": float("nan")}),
        log.write(1, {"policy/loss": 0.5, "eval/score_mean": 0.2}),
    ]
    found = read_curves(records)
    assert found["policy/loss"] == Curve(np.array([2]), np.array([0.5]))
    assert found["eval/score_mean"].rounds.tolist() == [0, 2]


def test_the_headline_says_what_changed(log: MetricsLog) -> None:
    first = log.write(-1, {"eval/sampled_accuracy": 0.43})
    last = log.write(0, {"eval/sampled_accuracy": 0.7, "eval/greedy_accuracy": 0.9})
    assert curves._headline(read_curves([first, last]), 1) == (
        "1 round   ·   sampled accuracy 43% → 70%   ·   greedy accuracy 90%"
    )

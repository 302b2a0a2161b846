"""Ranking accuracy and the idealised one, worked by hand; Chen et al. 2024, arXiv 2405.19534."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rlhf.diagnostics import TrainedPairs, names_for, pair_metrics
from rlhf.objectives import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.ipo import IPOConfig
from rlhf.objectives.simpo import SimPOConfig

Two = tuple[float, float]
"""A number for the chosen and one for the rejected side."""

nats = st.floats(-300, 0)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pair(
    objective: ObjectiveConfig,
    policy: Two = (-10.0, -12.0),
    initial: Two = (-11.0, -11.5),
    win_prob: float = 1.0,
    **others: Two,
) -> TrainedPairs:
    """One pair: 5 and 8 tokens."""
    sides = PairLogprobs(vector(policy[0]), vector(policy[1]), vector(5), vector(8))
    anchors = {
        name: SideLogprobs(vector(chosen), vector(rejected))
        for name, (chosen, rejected) in ({"initial": initial} | others).items()
    }
    judged = Judged(vector(win_prob), vector(1), vector(0), vector(0), vector(0))
    return TrainedPairs(
        objective, objective.loss(Pairs(sides, anchors, judged)), Pairs(sides, anchors, judged)
    )


def shown(pairs: TrainedPairs, name: str) -> float:
    return pair_metrics(pairs)[name].item()


@pytest.mark.parametrize(
    ("policy", "ranked"), [((-10, -12), 1), ((-12, -12), 1), ((-12, -11.9), 0), ((-9, -2), 0)]
)
def test_the_policy_ranks_a_pair_by_whole_answers_without_an_anchor(policy: Two, ranked: int):
    # Per token the first chosen side has less than the rejected, -2 against -1.5; and from this
    # anchor all margins are positive.
    pairs = pair(DPOConfig(), policy, initial=(-30, -12))
    assert (shown(pairs, "accuracy"), shown(pairs, "ranking")) == (1, ranked)


@pytest.mark.parametrize(
    ("beta", "win_prob", "initial", "ranked"),
    [
        (0.1, 0.75, (-11, -11.5), 1),  # 0.5 + 10 ln 3 = 11.486
        (0.1, 0.75, (-30, -19), 0),  # -11 + 10.986
        (0.1, 0.75, (-30, -19.02), 1),  # -10.98 + 10.986
        (1.0, 0.75, (-30, -19.02), 0),  # -10.98 + 1.099
        (0.1, 0.5, (-11, -11), 0),  # equal, so not more
        (0.1, 0.25, (-11, -21), 0),  # 10 - 10.986
        (0.1, 1.0, (-300, -1), 1),
        (0.1, 0.0, (-1, -300), 0),
    ],
)
def test_the_ideal_policy_weighs_its_anchor_against_the_label(beta, win_prob, initial, ranked):
    pairs = pair(DPOConfig(beta=beta), (-50, -1), initial, win_prob)
    assert (shown(pairs, "ranking"), shown(pairs, "ranking_ideal")) == (0, ranked)


def test_a_label_that_the_loss_doubts_outweighs_no_anchor():
    # ln 9 / 0.1 = 21.97
    for initial, ranked in ((-40, 0), (-22, 0), (-21.9, 1)):
        pairs = pair(DPOConfig(label_smoothing=0.1), initial=(initial, 0))
        assert shown(pairs, "ranking_ideal") == ranked


def test_the_ideal_policy_starts_from_the_objective_s_own_anchor():
    anchors = {"initial": (-30.0, -1.0), "previous": (-1.0, -30.0)}
    for anchor, ranked in ((Anchor.initial, 0), (Anchor.previous, 1)):
        pairs = pair(DPOConfig(anchor=anchor), win_prob=0.6, **anchors)
        assert shown(pairs, "ranking_ideal") == ranked


def test_the_ideal_margin_is_where_the_loss_is_least():
    losses = {
        margin: pair(DPOConfig(), (margin, 0.0), win_prob=0.75).loss_B.item()
        for margin in (11.47, 11.486, 11.5)
    }
    assert min(losses, key=lambda margin: losses[margin]) == 11.486


@given(policy=st.tuples(nats, nats), initial=st.tuples(nats, nats))
def test_a_pair_is_ranked_where_the_loss_is_no_more_than_that_of_its_anchor_s_error(
    policy: Two, initial: Two
):
    assume(abs(policy[0] - policy[1]) > 1e-6)  # else rounding decides
    pairs = pair(DPOConfig(beta=0.1), policy, initial)
    # -ln σ(β·c), where c is how far the anchor is on the rejected side.
    bound = math.log1p(math.exp(-0.1 * (initial[1] - initial[0])))
    assert shown(pairs, "ranking") == (pairs.loss_B.item() <= bound)


def test_that_bound_in_numbers():
    assert pair(DPOConfig()).loss_B.item() == pytest.approx(0.620957, abs=1e-6)
    assert math.log1p(math.exp(0.1 * 0.5)) == pytest.approx(0.718460, abs=1e-6)


def test_only_what_minimises_dpo_s_loss_has_an_ideal():
    for objective in (IPOConfig(), SimPOConfig()):
        assert "ranking" in names_for(objective) and "ranking_ideal" not in names_for(objective)

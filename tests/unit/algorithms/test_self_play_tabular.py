"""Self-play on games that are known: the real losses on a softmax policy, in expectation.

A answers, B = A² pairs, of which the first side is answer i and the second answer j, in expectation
over how the two are drawn, so that nothing here is random. `p_AA[i][j]` is the probability that i
is preferred to j. The numbers are those of the flagship methods, sections 2 to 4.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlhf.algorithms.self_play import SelfPlayConfig
from rlhf.collecting.matching import Label, SelfPlayRule, match
from rlhf.objectives import OBJECTIVES, Judged, PairLogprobs, Pairs, Peers, SideLogprobs
from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.gpo import GPOConfig
from rlhf.objectives.inpo import INPOConfig
from rlhf.objectives.ipo import IPOConfig, Reduce
from rlhf.objectives.nash_md import NashMDConfig
from rlhf.objectives.sppo import SPPOConfig, Target
from rlhf.objectives.tokens import TokenLogprobs
from rlhf.objectives.vpo import VPOConfig
from rlhf.objectives.xpo import XPOConfig
from rlhf.records import Comparison, Completion, Prompt


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


CYCLIC_AA = torch.stack([vector(0.5, 0.8, 0.3), vector(0.2, 0.5, 0.9), vector(0.7, 0.1, 0.5)])
BRADLEY_TERRY_AA = torch.sigmoid(vector(1, 0, -0.5)[:, None] - vector(1, 0, -0.5))
GAMES = pytest.mark.parametrize("p_AA", [CYCLIC_AA, BRADLEY_TERRY_AA], ids=["cyclic", "bt"])
INITIAL_A, PREVIOUS_A = vector(0.2, 0.3, 0.5), vector(0.5, 0.3, 0.2)
VON_NEUMANN_A = vector(4 / 9, 2 / 9, 3 / 9)
"""The answer to CYCLIC_AA without a KL."""
NASH_A = vector(0.225038, 0.384156, 0.390806)
"""The answer to CYCLIC_AA with a KL to INITIAL_A at τ = .4."""

ONE_B, TWO_B = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
ONES_B = torch.ones(9, dtype=torch.float64)


def sides(logprob_A: Tensor) -> SideLogprobs:
    return SideLogprobs(logprob_A[ONE_B], logprob_A[TWO_B])


def losses(
    config: ObjectiveConfig,
    logits_A: Tensor,
    judged: Judged,
    previous_A: Tensor = PREVIOUS_A,
    initial_A: Tensor = INITIAL_A,
    tokens_A: Tensor | None = None,
) -> Tensor:
    logprobs = sides(logits_A.log_softmax(0))
    tokens_A = vector(1, 1, 1) if tokens_A is None else tokens_A
    policy = PairLogprobs(logprobs.chosen_B, logprobs.rejected_B, tokens_A[ONE_B], tokens_A[TWO_B])
    anchors = {"initial": sides(initial_A.log()), "previous": sides(previous_A.log())}
    tokens = None
    if config.needs_tokens:  # an answer is one
        each = {name: both.both_SB[..., None] for name, both in anchors.items()}
        now_SBC = logprobs.both_SB[..., None]
        tokens = TokenLogprobs(now_SBC, each, torch.ones_like(now_SBC, dtype=torch.bool))
    return config.loss(Pairs(policy, anchors, judged, tokens, config.first_memory()))


def labels(win_prob_B: Tensor, score_A: Tensor | None = None, mixture: float = 0.0) -> Judged:
    """`mixture` is the second side's."""
    score_A = vector(0, 0, 0) if score_A is None else score_A
    zero_B = torch.zeros_like(ONES_B)
    return Judged(win_prob_B, score_A[ONE_B], score_A[TWO_B], zero_B, zero_B + mixture)


def both(one_A: Tensor, two_A: Tensor) -> Tensor:
    """How often each pair is drawn, its sides independently of each other."""
    return one_A[ONE_B] * two_A[TWO_B]


def hard_loss(
    config: ObjectiveConfig, logits_A: Tensor, p_AA: Tensor, drawn_A: Tensor, **anchors: Tensor
) -> Tensor:
    """Two draws, of which the winner, itself drawn with its probability, is the chosen side.

    That is i over j with probability π_i·π_j·P_ij + π_j·π_i·P_ij.
    """
    weight_B = 2 * both(drawn_A, drawn_A) * p_AA[ONE_B, TWO_B]
    return weight_B @ losses(config, logits_A, labels(ONES_B), **anchors)


def soft_loss(
    config: ObjectiveConfig, logits_A: Tensor, p_AA: Tensor, drawn_A: Tensor, **others: Tensor
) -> Tensor:
    """Two draws in their order, with their win probability and either one's mean score."""
    judged = labels(p_AA[ONE_B, TWO_B], p_AA @ drawn_A)
    return both(drawn_A, drawn_A) @ losses(config, logits_A, judged, **others)


def argmin(loss: Callable[[Tensor], Tensor], start_A: Tensor, steps: int = 4) -> Tensor:
    """The policy of least loss, by Newton's method."""
    logits_A = start_A.log().requires_grad_()
    for _ in range(steps):
        (gradient_A,) = torch.autograd.grad(loss(logits_A), logits_A, create_graph=True)
        # Logits that all move alike change no policy: the first one stays.
        rows = [torch.autograd.grad(g, logits_A, retain_graph=True)[0][1:] for g in gradient_A[1:]]
        with torch.no_grad():
            logits_A[1:] -= torch.linalg.solve(torch.stack(rows), gradient_A[1:])
    return logits_A.detach().softmax(0)


def gradient(loss: Callable[[Tensor], Tensor], policy_A: Tensor) -> Tensor:
    logits_A = policy_A.log().requires_grad_()
    (gradient_A,) = torch.autograd.grad(loss(logits_A), logits_A)
    return gradient_A


def normalised(weights_A: Tensor) -> Tensor:
    return weights_A / weights_A.sum()


def kl(policy_A: Tensor, initial_A: Tensor = INITIAL_A) -> Tensor:
    return (policy_A * (policy_A / initial_A).log()).sum()


def exploitability(policy_A: Tensor, p_AA: Tensor, tau: float) -> float:
    """What the best answer to the policy gains on it in the game with a KL to INITIAL_A."""
    wins_A = p_AA @ policy_A
    if tau == 0:
        return wins_A.max().item() - 0.5
    # max over π' of P(π'≻π) - τKL(π'‖initial) = τ·log E_initial[exp(P(y≻π)/τ)]
    best = tau * (INITIAL_A * (wins_A / tau).exp()).sum().log()
    return (best + tau * kl(policy_A) - 0.5).item()


def close(actual_A: Tensor, *expected: float, abs: float = 1e-6) -> bool:
    return actual_A.tolist() == pytest.approx(list(expected), abs=abs)


# --- one step of INPO, SPPO and hedge -----------------------------------------------------------


@GAMES
@pytest.mark.parametrize("loss", [hard_loss, soft_loss])
def test_inpo_argmin_is_mirror_descents_step(p_AA: Tensor, loss: Callable) -> None:
    """π ∝ π_initial^(τs)·π_previous^(1-τs)·exp(s·P(y≻π_previous))."""
    config = INPOConfig(step_size=2.0, tau=0.2)
    wins_A = p_AA @ PREVIOUS_A
    expected_A = normalised(INITIAL_A**0.4 * PREVIOUS_A**0.6 * (2 * wins_A).exp())
    found_A = argmin(lambda logits_A: loss(config, logits_A, p_AA, PREVIOUS_A), PREVIOUS_A)
    assert close(found_A, *expected_A.tolist(), abs=1e-9)


def test_inpo_step_of_the_notes() -> None:
    def loss(logits_A: Tensor) -> Tensor:
        return hard_loss(INPOConfig(2.0, 0.2), logits_A, CYCLIC_AA, PREVIOUS_A)

    found_A = argmin(loss, PREVIOUS_A)
    assert close(found_A, 0.415851, 0.283162, 0.300988)
    assert loss(found_A.log()).item() == pytest.approx(0.9776, abs=1e-6)
    assert loss(PREVIOUS_A.log()).item() == pytest.approx(1.078855, abs=1e-6)


def test_inpo_without_tau_is_hedge_and_sppo_is_nearly() -> None:
    """SPPO takes the log-partition, 1.005535, to be half its step size of 2."""
    assert close(CYCLIC_AA @ PREVIOUS_A, 0.55, 0.43, 0.48)
    hedge_A = argmin(
        lambda x: hard_loss(INPOConfig(2.0, 0.0), x, CYCLIC_AA, PREVIOUS_A), PREVIOUS_A
    )
    assert close(hedge_A, 0.549535, 0.259368, 0.191097)
    hard, mean = SPPOConfig(2.0, Target.pair), SPPOConfig(2.0, Target.mean)
    for found_A in (
        argmin(lambda x: hard_loss(hard, x, CYCLIC_AA, PREVIOUS_A), PREVIOUS_A),
        argmin(lambda x: soft_loss(hard, x, CYCLIC_AA, PREVIOUS_A), PREVIOUS_A),
        argmin(lambda x: soft_loss(mean, x, CYCLIC_AA, PREVIOUS_A), PREVIOUS_A),
    ):
        assert close(found_A, 0.549271, 0.259574, 0.191155)


def test_best_against_worst_overshoots_mirror_descent() -> None:
    """Of eight draws the best meets the worst; answers are numbered from the best."""

    def within(first: int, last: int) -> float:
        return PREVIOUS_A[first : last + 1].sum().item() ** 8

    weight_B = torch.zeros(9, dtype=torch.float64)
    for best, worst in ((0, 1), (0, 2), (1, 2)):
        without_either = within(best + 1, worst) + within(best, worst - 1)
        both_of_them = within(best, worst) - without_either + within(best + 1, worst - 1)
        weight_B[3 * best + worst] = both_of_them
    config = INPOConfig(2.0, 0.0)
    iid_A = argmin(lambda x: hard_loss(config, x, BRADLEY_TERRY_AA, PREVIOUS_A), PREVIOUS_A)
    worst_A = argmin(lambda x: weight_B @ losses(config, x, labels(ONES_B)), PREVIOUS_A)
    assert close(iid_A, 0.6286, 0.2410, 0.1304, abs=1e-4)
    assert close(worst_A, 0.7287, 0.1646, 0.1067, abs=1e-4)


def test_gpo_stays_where_answers_beat_each_other_in_a_circle() -> None:
    """Log-odds ±.866025: every mean is 0, so that the uniform policy is where it should be."""
    odds = math.sqrt(3) / 2
    log_odds_AA = torch.stack(
        [vector(0, odds, -odds), vector(-odds, 0, odds), vector(odds, -odds, 0)]
    )
    uniform_A = vector(1, 1, 1) / 3
    judged = labels(torch.sigmoid(log_odds_AA)[ONE_B, TWO_B], log_odds_AA @ uniform_A)
    loss_B = losses(GPOConfig(), uniform_A.log(), judged, previous_A=uniform_A)
    assert loss_B.abs().max().item() < 1e-30
    assert torch.sigmoid(log_odds_AA)[0, 1].item() == pytest.approx(0.703918, abs=1e-6)


# --- where iteration ends -----------------------------------------------------------------------


@pytest.mark.parametrize("step_size", [0.5, 1.0, 2.0])
def test_inpo_ends_at_the_regularised_nash_policy(step_size: float) -> None:
    """Whatever the step size: π ∝ π_initial·exp(P(y≻π)/τ)."""
    config, policy_A = INPOConfig(step_size, tau=0.4), INITIAL_A
    for _ in range(round(40 / step_size)):
        previous_A = policy_A
        policy_A = argmin(
            lambda x, now_A=previous_A: hard_loss(config, x, CYCLIC_AA, now_A, previous_A=now_A),
            previous_A,
            steps=1,  # the loss is quadratic in the logits
        )
    assert close(policy_A, *NASH_A.tolist())
    assert close(policy_A, *normalised(INITIAL_A * (CYCLIC_AA @ policy_A / 0.4).exp()).tolist())
    assert exploitability(INITIAL_A, CYCLIC_AA, 0.4) > 1e-3
    assert exploitability(policy_A, CYCLIC_AA, 0.4) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("config", "newton_steps"),
    [(INPOConfig(0.4, tau=0.0), 1), (SPPOConfig(0.4, Target.pair), 2)],
    ids=["inpo", "sppo"],
)
def test_average_without_kl_is_the_von_neumann_winner(
    config: ObjectiveConfig, newton_steps: int
) -> None:
    """While the policy itself goes round and round: 100 steps are once."""
    policy_A, mean_A = vector(1, 1, 1) / 3, vector(0, 0, 0)
    for _ in range(100):
        mean_A += policy_A / 100
        now_A = policy_A
        policy_A = argmin(
            lambda x, now_A=now_A: hard_loss(config, x, CYCLIC_AA, now_A, previous_A=now_A),
            now_A,
            newton_steps,
        )
    assert close(mean_A, *VON_NEUMANN_A.tolist(), abs=0.01)
    assert not close(policy_A, *VON_NEUMANN_A.tolist(), abs=0.1)
    assert exploitability(mean_A, CYCLIC_AA, 0) < 0.005 < exploitability(policy_A, CYCLIC_AA, 0)


# --- online IPO ---------------------------------------------------------------------------------

NOW_A = vector(0.6, 0.25, 0.15)
ONLINE_IPO = IPOConfig(tau=0.25, reduce=Reduce.sum)


def game_value(logits_A: Tensor) -> Tensor:
    """Of self-play: P(π≻π') - τKL(π‖initial), where π' is π, but stands still."""
    policy_A = logits_A.softmax(0)
    return policy_A @ CYCLIC_AA @ policy_A.detach() - 0.25 * kl(policy_A)


def test_online_ipo_follows_the_gradient_of_self_play() -> None:
    def hard(logits_A: Tensor) -> Tensor:
        return hard_loss(ONLINE_IPO, logits_A, CYCLIC_AA, NOW_A)

    def soft(logits_A: Tensor) -> Tensor:
        return soft_loss(ONLINE_IPO, logits_A, CYCLIC_AA, NOW_A)

    assert soft(NOW_A.log()).item() == pytest.approx(1.7597378, abs=1e-7)
    assert hard(NOW_A.log()).item() == pytest.approx(5.0205378, abs=1e-7)
    for gradient_A in (
        gradient(soft, NOW_A),
        gradient(hard, NOW_A),
        -4 / 0.25 * gradient(game_value, NOW_A),
    ):
        assert close(gradient_A, 1.165491, -0.135313, -1.030178)


def test_log_ratios_per_token_follow_another_gradient() -> None:
    per_token = IPOConfig(tau=0.25, reduce=Reduce.mean)
    tokens_A = vector(1, 2, 3)
    gradient_A = gradient(
        lambda x: soft_loss(per_token, x, CYCLIC_AA, NOW_A, tokens_A=tokens_A), NOW_A
    )
    alignment = torch.cosine_similarity(gradient_A, vector(1.165491, -0.135313, -1.030178), dim=0)
    assert alignment.item() < 0.99


def test_online_ipo_ends_at_the_regularised_nash_policy() -> None:
    config, policy_A = IPOConfig(tau=0.4, reduce=Reduce.sum), INITIAL_A
    for _ in range(80):
        now_A = policy_A
        step_A = gradient(lambda x, now_A=now_A: soft_loss(config, x, CYCLIC_AA, now_A), now_A)
        policy_A = (now_A.log() - 0.3 * step_A).softmax(0)
    assert close(policy_A, *NASH_A.tolist())
    assert exploitability(policy_A, CYCLIC_AA, 0.4) < exploitability(INITIAL_A, CYCLIC_AA, 0.4)


# --- Nash-MD ------------------------------------------------------------------------------------


def nash_md_gradient(config: NashMDConfig, policy_A: Tensor, other_A: Tensor) -> Tensor:
    """The policy's own completion first, then that of another policy."""
    judged = labels(CYCLIC_AA[ONE_B, TWO_B], mixture=0.5)
    weight_B = both(policy_A, other_A)
    return gradient(lambda x: weight_B @ losses(config, x, judged), policy_A)


def mixed(policy_A: Tensor, share: float) -> Tensor:
    return normalised(policy_A ** (1 - share) * INITIAL_A**share)


def nash_md_step(policy_A: Tensor, step_size: float, tau: float) -> Tensor:
    """Natural gradient: a logit's gradient per probability of its answer.

    With ητ as the mixture's share of the initial policy that is the tabular method's own step.
    """
    mixture_A = mixed(policy_A, step_size * tau)
    gradient_A = nash_md_gradient(NashMDConfig(tau), policy_A, mixture_A)
    return (policy_A.log() - step_size * gradient_A / policy_A).softmax(0)


def test_nash_md_follows_the_gradient_of_its_game() -> None:
    other_A = mixed(NOW_A, 0.125)

    def value(logits_A: Tensor) -> Tensor:
        policy_A = logits_A.softmax(0)
        return policy_A @ CYCLIC_AA @ other_A - 0.3 * kl(policy_A)

    actual_A = nash_md_gradient(NashMDConfig(0.3), NOW_A, other_A)
    assert close(actual_A, *(-gradient(value, NOW_A)).tolist(), abs=1e-12)


def test_nash_md_against_itself_is_online_ipo_but_for_a_factor() -> None:
    """Both sides are its own and each is trained on: τ/4 of online IPO's gradient."""
    gradient_A = gradient(lambda x: soft_loss(NashMDConfig(0.25), x, CYCLIC_AA, NOW_A), NOW_A)
    assert close(gradient_A * 16, 1.165491, -0.135313, -1.030178)


def test_nash_md_step_of_the_notes() -> None:
    assert close(mixed(PREVIOUS_A, 0.2), 0.435207, 0.313643, 0.251150)
    assert close(nash_md_step(PREVIOUS_A, 0.5, 0.4), 0.444775, 0.308900, 0.246325)


def test_nash_md_misses_by_as_much_as_its_step_size() -> None:
    misses = {}
    for step_size, steps in ((0.4, 80), (0.2, 160)):
        policy_A = INITIAL_A
        for _ in range(steps):
            policy_A = nash_md_step(policy_A, step_size, 0.4)
        misses[step_size] = (policy_A - NASH_A).abs().max().item()
        start = exploitability(INITIAL_A, CYCLIC_AA, 0.4)
        assert exploitability(policy_A, CYCLIC_AA, 0.4) < start
    assert misses[0.2] == pytest.approx(misses[0.4] / 2, rel=0.05)
    end_A = normalised(vector(0.224454, 0.384878, 0.390669))
    assert (end_A - NASH_A).abs().max().item() == pytest.approx(misses[0.4] / 8, rel=0.05)
    assert close(nash_md_step(end_A, 0.05, 0.4), *end_A.tolist(), abs=5e-8)
    assert not close(nash_md_step(NASH_A, 0.05, 0.4), *NASH_A.tolist(), abs=5e-6)


def test_nash_md_credits_a_token_for_the_kl_of_those_that_follow() -> None:
    """Completions of two tokens, of which the first decides how far the second strays.

    The gradient of -P + τKL over the first token's logit is exact where all log-ratios of a
    completion weigh on all its tokens, and wrong where each weighs on its own.
    """
    first, after_0, after_1 = 0.3, 1.5, -0.2  # log-odds of token 0 first, and second after either
    logit_3 = vector(first, after_0, after_1).requires_grad_()
    one_2 = torch.stack([logit_3[0], -logit_3[0]]).div(2).log_softmax(0)
    two_22 = torch.stack([logit_3[1:], -logit_3[1:]], 1).div(2).log_softmax(1)
    tokens_422 = torch.stack(
        [torch.stack([one_2[i], two_22[i, j]]) for i in (0, 1) for j in (0, 1)]
    )
    tokens_42, logprob_4 = tokens_422, tokens_422.sum(1)
    initial_4, policy_4 = torch.full_like(logprob_4, math.log(0.25)), logprob_4.exp()
    win_prob_4, zero_4 = vector(0.9, 0.4, 0.6, 0.2), torch.zeros_like(policy_4.detach())

    exact = -(policy_4 @ (win_prob_4 - 0.2 * (logprob_4 - initial_4)))
    policy = PairLogprobs(logprob_4, zero_4, zero_4 + 2, zero_4 + 2)
    judged = Judged(win_prob_4, zero_4, zero_4, zero_4, zero_4 + 1)
    loss_4 = NashMDConfig(0.2).loss(
        Pairs(policy, {"initial": SideLogprobs(initial_4, zero_4)}, judged)
    )
    ratio_42 = (tokens_42 - math.log(0.5)).detach()
    own_4 = ((0.2 * ratio_42 - (win_prob_4 - 0.5)[:, None]) * tokens_42).sum(1)

    gradients = [
        torch.autograd.grad(value, logit_3, retain_graph=True)[0].tolist()
        for value in (exact, policy_4.detach() @ loss_4, policy_4.detach() @ own_4)
    ]
    assert gradients[1] == pytest.approx(gradients[0], abs=1e-12)
    assert abs(gradients[2][0] - gradients[0][0]) > 0.01


# --- equal answers ------------------------------------------------------------------------------

ROCK_AA = torch.stack([vector(0.5, 0.9, 0.2), vector(0.1, 0.5, 0.7), vector(0.8, 0.3, 0.5)])
"""The game that comes with Agon."""


def matched(label: Label, p_AA: Tensor, learns_from_ties: bool) -> tuple[Tensor, Tensor]:
    """Of each pair of draws, whether `match` trains on it, and the first's P there."""
    prompt, config = Prompt("p", (), (1,)), SelfPlayConfig(rule=SelfPlayRule.iid, label=label)
    kept, wins = [], []
    for one, two in zip(ONE_B.tolist(), TWO_B.tolist(), strict=True):
        drawn = [Completion("p", i, (a,), (), str(a), False, 0) for i, a in enumerate((one, two))]
        rows = [[p_AA[i, j].item() for j in (one, two)] for i in (one, two)]
        comparison = Comparison(tuple(map(tuple, rows)), "game@1")
        pairs, _ = match(prompt, drawn, comparison, config, learns_from_ties, 0)
        kept.append(len(pairs))
        first = [p.win_prob if p.chosen.completion.sample == 0 else 1 - p.win_prob for p in pairs]
        wins.append(*first or [0.5])
    return vector(*kept), vector(*wins)


def nash_md_end(initial_A: Tensor, tau: float, share: float, ties: bool) -> Tensor:
    """Where the policy gradient is 0, on the pairs that are trained on."""
    kept_B, win_prob_B = matched(Label.soft, ROCK_AA, ties)
    policy_A = initial_A
    for _ in range(1500):
        mixture_A = normalised(policy_A ** (1 - share) * initial_A**share)
        weight_B = kept_B * both(policy_A, mixture_A)
        judged = labels(win_prob_B, mixture=share)
        gradient_A = gradient(
            lambda x, judged=judged, weight_B=weight_B: (
                weight_B @ losses(NashMDConfig(tau), x, judged, initial_A=initial_A)
            ),
            policy_A,
        )
        policy_A = (policy_A.log() - 0.5 * gradient_A / policy_A).softmax(0)
    return policy_A


def test_nash_md_needs_equal_answers_for_its_kl() -> None:
    """Without them the KL counts 1 - π(y) times, and least where the policy is surest."""
    initial_A = vector(0.9, 0.07, 0.03)
    needed = NashMDConfig.learns_from_ties
    end_A = nash_md_end(initial_A, 0.1, 0.125, needed)
    assert close(end_A, 0.625, 0.012, 0.364, abs=1e-3)
    assert close(nash_md_end(initial_A, 0.1, 0.125, False), 0.267, 0.076, 0.657, abs=1e-3)
    # There the best answer to the mixture, held back by the KL, is the policy itself.
    mixture_A = normalised(end_A**0.875 * initial_A**0.125)
    assert close(end_A, *normalised(initial_A * (ROCK_AA @ mixture_A / 0.1).exp()).tolist())


def test_sppo_needs_equal_answers_for_its_targets() -> None:
    """Without them y's target is step_size·(P(y≻π) - 1/2)/(1 - π(y)): the sure one's grows most."""
    config = SPPOConfig(2.0, Target.pair)
    ends = {}
    for ties in (SPPOConfig.learns_from_ties, False):
        kept_B, win_prob_B = matched(Label.soft, CYCLIC_AA, ties)
        weight_B, judged = kept_B * both(PREVIOUS_A, PREVIOUS_A), labels(win_prob_B)
        ends[ties] = argmin(
            lambda x, weight_B=weight_B, judged=judged: weight_B @ losses(config, x, judged),
            PREVIOUS_A,
        )
    assert close(ends[True], 0.549271, 0.259574, 0.191155)
    targets_A = 2 * (CYCLIC_AA @ PREVIOUS_A - 0.5) / (1 - PREVIOUS_A)
    share_A = PREVIOUS_A * (1 - PREVIOUS_A)  # how often an answer is in a pair
    h_A = (ends[False] / PREVIOUS_A).log()
    residual_A = share_A * (h_A - targets_A)
    # What is left is only what a policy cannot do, since its probabilities sum to 1.
    assert close(residual_A / residual_A.sum(), *ends[False].tolist())
    assert not close(ends[False], *ends[True].tolist(), abs=0.01)


@pytest.mark.parametrize("config", [XPOConfig(alpha=0.3), VPOConfig(alpha=3.0)])
@pytest.mark.parametrize("label", [Label.soft, Label.hard])
def test_optimism_needs_equal_answers(config: XPOConfig | VPOConfig, label: Label) -> None:
    """How much the initial policy's completions are to lose does not depend on who met them."""

    def optimism_alone(logits_A: Tensor) -> Tensor:
        alpha = config.alpha * (config.beta if isinstance(config, VPOConfig) else 1)
        return alpha * (INITIAL_A * logits_A.log_softmax(0)).sum()

    def without_it(logits_A: Tensor) -> Tensor:
        return weight_B @ losses(DPOConfig(config.beta), logits_A, judged)

    for ties, whole in ((config.learns_from_ties, True), (False, False)):
        kept_B, win_prob_B = matched(label, CYCLIC_AA, ties)
        weight_B = kept_B * both(NOW_A, INITIAL_A)
        judged = labels(win_prob_B, mixture=1.0)
        found_A = gradient(
            lambda x, weight_B=weight_B, judged=judged: weight_B @ losses(config, x, judged), NOW_A
        )
        expected_A = gradient(without_it, NOW_A) + gradient(optimism_alone, NOW_A)
        assert close(found_A, *expected_A.tolist(), abs=1e-12) is whole


@pytest.mark.parametrize(
    "config", [DPOConfig(), IPOConfig(reduce=Reduce.sum), INPOConfig(2.0, 0.2)], ids=str
)
def test_a_margin_loses_nothing_without_equal_answers(config: ObjectiveConfig) -> None:
    assert not config.learns_from_ties
    equal_B = (ONE_B == TWO_B).to(torch.float64)
    gradient_A = gradient(lambda x: equal_B @ losses(config, x, labels(ONES_B / 2)), NOW_A)
    assert close(gradient_A, 0, 0, 0, abs=1e-12)


def test_every_objective_says_truly_whether_equal_answers_have_a_gradient() -> None:
    """But for a likelihood term, which imitates who won, and of equals nobody did."""
    equal_B = (ONE_B == TWO_B).to(torch.float64)
    peers = Peers(torch.arange(9), torch.stack([ONE_B, TWO_B]) + 3 * torch.arange(9))
    zero_B = torch.zeros_like(ONES_B)
    judged = Judged(ONES_B / 2, zero_B, zero_B, zero_B, zero_B + 1, peers)
    imitation_A = gradient(lambda x: -equal_B @ x.log_softmax(0)[ONE_B], NOW_A)
    imitation_A = imitation_A / imitation_A.norm()
    own = "function"  # of which a key says it
    # A divergence holds the policy back whatever is judged.
    keys = {"lcpo": {"of": OBJECTIVES["dpo"]()}, "rrpo": {"kl_coef": 0.0}}
    for name, schema in OBJECTIVES.items():
        if name == own:
            continue
        config = schema(**keys.get(name, {}))
        found_A = gradient(lambda x, c=config: equal_B @ losses(c, x, judged), NOW_A)
        beyond_A = found_A - (found_A @ imitation_A).clamp(min=0) * imitation_A
        assert schema.learns_from_ties is (beyond_A.abs().max().item() > 1e-6), schema

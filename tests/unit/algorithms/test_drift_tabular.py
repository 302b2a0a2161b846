"""DRIFT's theory on three replies: what the first step of a round does to a softmax's logits."""

import pytest
import torch
from torch import Tensor

from rlhf.algorithms.drift import Chosen, Drift, DriftConfig, Rejected
from rlhf.objectives import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.base import Anchor
from rlhf.objectives.dpo import DPOConfig
from rlhf.records import (
    LOGGED,
    Asked,
    Collected,
    Completion,
    Message,
    Prompt,
    Sampling,
    UserFeedback,
)

REPLIES = ("a", "b", "c")
POLICY = ("a",) * 5 + ("b",) * 3 + ("c",) * 2
LOG = ("a",) + ("b",) * 2 + ("c",) * 7
GUIDED = ("a",) * 14 + ("b",) * 5 + ("c",)
BETA = 0.1


def completion(id: str, text: str, version: int = 0) -> Completion:
    return Completion(id, 0, (REPLIES.index(text),), (0.0,), text, False, version)


class Decks:
    """A rollout whose samples, over all seeds, have exactly the shares of its policy."""

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        deck = GUIDED if prompt.text == "guided" else POLICY
        # The chosen side's seed is even, and the rejected side's the next.
        place = (seed // 2) % len(deck) if seed % 2 else (seed // 2) // 10
        return (completion(prompt.id, deck[place]),)


async def one_round(chosen: Chosen, rejected: Rejected) -> list[Collected]:
    """Every sample of the chosen side against every one of the rejected side, each once."""
    size = len(GUIDED) if chosen is Chosen.guided else len(POLICY)
    prompts = [Prompt(str(n), (Message("user", "bare"),), (1,)) for n in range(10 * size)]
    guided = {p.id: Prompt(p.id, (Message("user", "guided"),), (2,)) for p in prompts}
    feedback = {
        p.id: UserFeedback(completion(p.id, LOG[n % 10], LOGGED), None, guided[p.id])
        for n, p in enumerate(prompts)
    }
    config = DriftConfig(chosen=chosen, rejected=rejected)
    drift = Drift(Decks(), None, Sampling(1, 1), config, feedback)
    return [await drift.collect(Asked(prompt, 2 * n)) for n, prompt in enumerate(prompts)]


def losses(logits_V: Tensor, collected: list[Collected], config: DPOConfig) -> Tensor:
    """One for each pair that is left; the anchor is the policy itself."""
    pairs = [pair for one in collected for pair in one.preferences]
    logprobs_V = torch.log_softmax(logits_V, 0)
    sides = [
        torch.tensor([getattr(p, side).completion.token_ids[0] for p in pairs])
        for side in ("chosen", "rejected")
    ]
    chosen_B, rejected_B = (logprobs_V[side] for side in sides)
    ones_B, zeros_B = torch.ones_like(chosen_B), torch.zeros_like(chosen_B)
    policy = PairLogprobs(chosen_B, rejected_B, ones_B, ones_B)
    anchors = {"previous": SideLogprobs(chosen_B.detach(), rejected_B.detach())}
    judged = Judged(ones_B, ones_B, zeros_B, zeros_B, zeros_B)
    weights_B = torch.tensor([pair.weight for pair in pairs], dtype=torch.float64)
    return weights_B * config.loss(Pairs(policy, anchors, judged))


@pytest.mark.parametrize(
    "chosen, rejected, expected",
    [
        # Unlikelihood of the log alone: β/2·(π_log - π).
        (Chosen.plain, Rejected.logged, (-0.02, -0.005, 0.025)),
        # What guidance draws more often is a direction of its own.
        (Chosen.guided, Rejected.logged, (-0.03, -0.0025, 0.0325)),
        # Both sides from one policy say nothing.
        (Chosen.plain, Rejected.plain, (0.0, 0.0, 0.0)),
        # β/2·(π - π_guided), where the rejected side does not know the complaint.
        (Chosen.guided, Rejected.plain, (-0.01, 0.0025, 0.0075)),
    ],
)
async def test_the_first_step_s_gradient(chosen, rejected, expected):
    collected = await one_round(chosen, rejected)
    logits_V = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().requires_grad_()
    config = DPOConfig(beta=BETA, anchor=Anchor.previous)
    loss_B = losses(logits_V, collected, config)
    num_dropped = sum(len(one.dropped) for one in collected)
    assert len(loss_B) + num_dropped == len(collected) and num_dropped > 0
    assert loss_B.tolist() == pytest.approx([0.6931471805599453] * len(loss_B))
    # Pairs of equal texts, which are dropped, would have had no gradient.
    (loss_B.sum() / len(collected)).backward()
    assert logits_V.grad.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "margin, nll_coef, expected",
    [(0.0, 0.0, 0.6931472), (0.0, 0.001, 0.6943472), (2.0, 0.001, 0.5993389)],
)
def test_the_loss_worked_by_hand(margin, nll_coef, expected):
    """With .001 of the chosen side's NLL per token, 1.2: not the NLL with .001 of DPO."""
    num_tokens = torch.tensor([5.0], dtype=torch.float64)
    chosen_B, rejected_B = -1.2 * num_tokens, -3 * num_tokens
    policy = PairLogprobs(chosen_B, rejected_B, num_tokens, num_tokens)
    anchors = {"previous": SideLogprobs(chosen_B - margin, rejected_B)}
    one, none = torch.ones_like(chosen_B), torch.zeros_like(chosen_B)
    config = DPOConfig(beta=BETA, nll_coef=nll_coef, anchor=Anchor.previous)
    loss_B = config.loss(Pairs(policy, anchors, Judged(one, one, none, none, none)))
    assert loss_B.item() == pytest.approx(expected, abs=1e-7)

"""objective=function: your own loss, where it runs and what is told of a wrong one."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.diagnostics import TrainedPairs, pair_metrics
from rlhf.objectives.base import Anchor
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.function import FunctionObjectiveConfig
from rlhf.objectives.pairs import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.tokens import TokenLogprobs
from rlhf.problems import InputError

LOSS = Path(__file__).parents[3] / "examples" / "own_loss" / "loss.py"


def pairs() -> Pairs:
    chosen_B = torch.tensor([-10.0, -4.0], requires_grad=True)
    rejected_B = torch.tensor([-12.0, -3.0], requires_grad=True)
    lengths_B = torch.tensor([5, 8])
    anchor = SideLogprobs(torch.tensor([-11.0, -4.5]), torch.tensor([-11.5, -4.0]))
    ones_B, zeros_B = torch.ones(2), torch.zeros(2)
    judged = Judged(ones_B, ones_B, zeros_B, zeros_B, zeros_B)
    return Pairs(
        PairLogprobs(chosen_B, rejected_B, lengths_B, lengths_B), {"initial": anchor}, judged
    )


def test_dpo_of_one_s_own_is_dpo_with_its_gradient_and_metrics():
    own = FunctionObjectiveConfig(function=f"{LOSS}:loss")
    own.try_out()
    sent = pickle.loads(pickle.dumps(own.shipped()))
    found = {}
    for objective in (sent, DPOConfig(beta=0.1)):
        given = pairs()
        loss_B = objective.loss(given)
        slopes = torch.autograd.grad(loss_B.sum(), (given.policy.chosen_B, given.policy.rejected_B))
        metrics = pair_metrics(TrainedPairs(objective, loss_B, given))
        found[objective.name] = (loss_B, *slopes, metrics["margin"])
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_text_travels_and_is_loaded_where_it_is_called(tmp_path):
    file = tmp_path / "loss.py"
    file.write_text("def loss(pairs): return pairs.policy.rejected_B * 2")
    sent = pickle.dumps(FunctionObjectiveConfig(function=f"{file}:loss").shipped())
    file.unlink()
    assert pickle.loads(sent).loss(pairs()).tolist() == [-24.0, -6.0]


def test_anchors_are_a_key():
    own = FunctionObjectiveConfig(function="x", anchors=[Anchor.previous, Anchor.previous])
    assert own.anchor_names == ("previous",)
    assert FunctionObjectiveConfig(function="x").anchor_names == ("initial",)
    assert FunctionObjectiveConfig(function="x", anchors=[]).anchor_names == ()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 0", "returned 0, not a tensor of a loss per pair, shape (4,)"),
        ("return pairs.policy.chosen_B.mean()", "returned a tensor of shape (), not a tensor"),
        ("return pairs.policy.chosen_B[:, None]", "returned a tensor of shape (4, 1), not"),
        ("return pairs.policy.chosen_B / 0", "returned [-inf, -inf, -inf, -inf], of which not all"),
        ("return pairs.policy.chosen_B.detach()", "does not depend on pairs.policy"),
        ("return pairs.policy.chosen_tokens_B", "returned a tensor of torch.int64 on cpu, not as"),
        ("return (pairs.policy.chosen_B * 0).sqrt()", "its gradient is not finite: (tensor([nan"),
        ("return pairs.log_ratios('previous')", "KeyError: 'previous' (loss.py line 2)"),
        ("exit(3)", "SystemExit: 3 (loss.py line 2)"),
    ],
)
def test_a_wrong_loss_is_told_in_one_line_before_workers_start(tmp_path, body, told):
    (tmp_path / "loss.py").write_text(f"def loss(pairs):\n    {body}")
    with pytest.raises(InputError) as refused:
        FunctionObjectiveConfig(function=f"{tmp_path}/loss.py:loss").try_out()
    (problem,) = refused.value.problems
    assert problem.startswith(f"objective.function={tmp_path}/loss.py:loss: called with pairs, ")
    assert told in problem and "\n" not in problem


def test_an_async_loss_is_refused(tmp_path):
    (tmp_path / "loss.py").write_text("async def loss(pairs): pass")
    with pytest.raises(InputError, match="is async, and a loss is computed at once"):
        FunctionObjectiveConfig(function=f"{tmp_path}/loss.py:loss").try_out()


BY_TOKEN = """
def loss(pairs):
    tokens = pairs.every_token
    gaps = (tokens.policy_SBC - tokens.anchors["initial"]) * tokens.own_SBC
    return gaps[1].max(1).values - gaps[0].min(1).values
"""


def test_a_loss_of_one_s_own_looks_at_tokens_where_it_says_so(tmp_path):
    (tmp_path / "loss.py").write_text(BY_TOKEN)
    own = FunctionObjectiveConfig(function=f"{tmp_path}/loss.py:loss", needs_tokens=True)
    own.try_out()
    shipped = own.shipped()
    assert shipped.needs_tokens
    policy_SBC = torch.tensor([[[-1.0, -2.0]] * 2, [[-1.0, 0.0]] * 2])
    anchor_SBC = torch.tensor([[[-2.0, -2.5]] * 2, [[-3.0, 0.0]] * 2])
    own_SBC = torch.tensor([[[True, True]] * 2, [[True, False]] * 2])
    tokens = TokenLogprobs(policy_SBC, {"initial": anchor_SBC}, own_SBC)
    given = replace(pairs(), tokens=tokens)
    given = replace(given, policy=PairLogprobs(*policy_SBC.sum(2), *own_SBC.sum(2)))
    assert shipped.loss(given).tolist() == [1.5, 1.5]  # 2 of the rejected side less 0.5
    with pytest.raises(InputError, match="looks at tokens"):
        FunctionObjectiveConfig(function=own.function).try_out()

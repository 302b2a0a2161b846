"""Your own loss: a function of some pairs, which runs inside the policy's ranks."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from omegaconf import MISSING

from rlhf.functions.source import (
    FunctionSource,
    callable_with,
    failure,
    is_async,
    read_source,
    shown,
)
from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor, torch
from rlhf.objectives.pairs import Judged, PairLogprobs, Pairs, Peers, SideLogprobs
from rlhf.objectives.tokens import TokenLogprobs
from rlhf.problems import InputError

PARAMETERS = ("pairs",)
KEY = "objective.function"


@dataclass
class FunctionObjectiveConfig(ObjectiveConfig):
    """`def loss(pairs)` of `rlhf.objectives.pairs.Pairs` to a loss per pair, `(B,)`.

    It runs inside the policy's ranks, under autograd, and is not locked in.
    """

    name: ClassVar[str] = "function"

    function: str = MISSING
    """`loss.py:loss`, or `package.module:loss`."""
    anchors: list[Anchor] = field(default_factory=lambda: [Anchor.initial])
    """What it compares the policy with, of which it finds log-probabilities in `pairs.anchors`;
    diagnostics measure from the first."""
    learns_from_ties: bool = False  # type: ignore[misc]
    """Give it pairs that nobody wins too."""
    needs_tokens: bool = False  # type: ignore[misc]
    """Give it the log-probabilities of single tokens too, in `pairs.every_token`."""

    @property
    def anchor_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(anchor.value for anchor in self.anchors))

    def shipped(self) -> "ShippedFunction":
        names = ("function", "anchors", "learns_from_ties", "needs_tokens")
        own = {name: getattr(self, name) for name in names}
        return ShippedFunction(**own, source=read_source(KEY, self.function))

    def try_out(self) -> None:
        self.shipped().rehearse()


@dataclass
class ShippedFunction(FunctionObjectiveConfig):
    """The same with the function's text, which becomes a function where it is first called."""

    source: FunctionSource = field(kw_only=True)

    @cached_property
    def _call(self) -> Any:
        call = callable_with(self.source, PARAMETERS)
        if is_async(call):
            raise self.source.refused("is async, and a loss is computed at once; write def")
        return call

    def loss(self, pairs: Pairs) -> Tensor:
        """Raises InputError for what is no finite loss per pair."""
        call = self._call
        try:
            loss_B = call(pairs)
        except (Exception, SystemExit) as error:  # whatever a stranger's function does is told
            raise self._refused(failure(error, self.source.file)) from error
        if why := _fault(loss_B, pairs):
            raise self._refused(why)
        return loss_B

    def rehearse(self) -> None:
        """Raises InputError if it fails on pairs that are made up, or has no gradient there."""
        pairs = _made_up(self.anchor_names, self.needs_tokens)
        loss_B = self.loss(pairs)
        given = [pairs.policy.chosen_B, pairs.policy.rejected_B]
        given += [pairs.tokens.policy_SBC] if pairs.tokens else []
        slopes = torch.autograd.grad(loss_B.sum(), given, allow_unused=True)
        if not all(slope is None or slope.isfinite().all() for slope in slopes):
            raise self._refused(f"its gradient is not finite: {shown(slopes)}")

    def _refused(self, why: str) -> InputError:
        return self.source.refused(f"called with pairs, {why}")


def _fault(loss_B: Any, pairs: Pairs) -> str | None:
    """What is wrong with it, if anything is."""
    policy_B = pairs.policy.chosen_B
    wanted = f"a tensor of a loss per pair, shape {tuple(policy_B.shape)}"
    if not isinstance(loss_B, torch.Tensor):
        return f"returned {shown(loss_B)}, not {wanted}"
    if loss_B.shape != policy_B.shape:
        return f"returned a tensor of shape {tuple(loss_B.shape)}, not {wanted}"
    if not loss_B.dtype.is_floating_point or loss_B.device != policy_B.device:
        return f"returned a tensor of {loss_B.dtype} on {loss_B.device}, not as pairs.policy has it"
    if not loss_B.isfinite().all():
        return f"returned {shown(loss_B.tolist())}, of which not all are finite"
    if policy_B.requires_grad and not loss_B.requires_grad:
        return "returned a loss that does not depend on pairs.policy, so that nothing is learnt"
    return None


def _made_up(anchors: tuple[str, ...], by_token: bool = False) -> Pairs:
    """Four pairs of two prompts, as a rank has them."""
    chosen_B = torch.tensor([-10.0, -25.0, -3.0, -8.0], requires_grad=True)
    rejected_B = torch.tensor([-12.0, -20.0, -3.5, -9.0], requires_grad=True)
    lengths_SB = torch.tensor([[5, 9, 2, 4], [8, 7, 2, 5]])
    policy = PairLogprobs(chosen_B, rejected_B, *lengths_SB)
    anchor = SideLogprobs(chosen_B.detach() - 0.5, rejected_B.detach() + 0.25)
    ones_B, zeros_B = torch.ones(4), torch.zeros(4)
    peers = Peers(torch.tensor([0, 0, 1, 1]), torch.tensor([[0, 0, 3, 3], [1, 2, 4, 5]]))
    judged = Judged(ones_B, ones_B, zeros_B, zeros_B, zeros_B, peers)
    tokens = None
    if by_token:
        own_SBC = torch.arange(9) < lengths_SB[..., None]
        mean_SB = torch.stack((chosen_B, rejected_B)) / lengths_SB
        values_SBC = mean_SB[..., None] * own_SBC
        given = dict.fromkeys(anchors, values_SBC.detach() - 0.1 * own_SBC)
        tokens = TokenLogprobs(values_SBC, given, own_SBC)
    return Pairs(policy, dict.fromkeys(anchors, anchor), judged, tokens)

"""Rounds that ask only what the policy finds hardest."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from rlhf.models.batching import together
from rlhf.records import Prompt, Tokens
from rlhf.stages import Logprobs, Schedule


@dataclass(frozen=True, slots=True)
class HardestSchedule:
    """`Schedule`: of another one's prompts, those whose demonstrations perplex the policy most.

    Demonstrations that call a tool and those that do not are compared among themselves. The choice
    follows from the policy alone, so a resumed run asks the same.
    """

    candidates: Schedule
    demonstrations: Mapping[str, Tokens]
    """By prompt id."""
    policy: Logprobs
    num_asked: int

    async def round(self, index: int) -> list[Prompt]:
        candidates = await self.candidates.round(index)
        shown = [self.demonstrations[prompt.id] for prompt in candidates]
        logprobs = await self.policy.logprobs(shown)
        # Zeng et al. 2025 (iTool), arXiv 2501.09766: perplexity, which rises with the NLL per token
        nlls = [-nats / one.num_own_tokens for nats, one in zip(logprobs, shown, strict=True)]
        chosen = hardest(nlls, [bool(one.observed) for one in shown], self.num_asked)
        return [candidates[i] for i in chosen]


def num_candidates(num_asked: int, share: float) -> int:
    """The fewest prompts of which `num_asked` are no more than that share."""
    # As written: 0.7 is seven tenths, and not the binary number next to it.
    return ceil(num_asked / Fraction(str(share)))


def hardest(nlls: Sequence[float], groups: Sequence[Hashable], num: int) -> list[int]:
    """Positions, in order, of the `num` largest, each group's share of them in that group.

    Of equal ones the first; `num` is at most their number.
    """
    members = together(groups)
    chosen: list[int] = []
    shares = proportional([len(group) for group in members], num)
    for group, share in zip(members, shares, strict=True):
        chosen += sorted(group, key=lambda i: -nlls[i])[:share]
    return sorted(chosen)


def proportional(sizes: Sequence[int], num: int) -> list[int]:
    """`num` in parts as large as `sizes` in proportion, by largest remainders; of equal remainders
    the first."""
    total = sum(sizes)
    parts = [num * size // total for size in sizes]
    remainders = [num * size % total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: -remainders[i])
    for i in order[: num - sum(parts)]:
        parts[i] += 1
    return parts

"""Pairs on which most judges agree with the label; all others are dropped."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rlhf.collecting.curators.base import OfMembersConfig
from rlhf.ranges import number
from rlhf.records import Collected, Dropped, DropReason, Preference
from rlhf.storage.ledger import Page


@dataclass
class AgreementConfig(OfMembersConfig):
    name: ClassVar[str] = "agreement"

    min_share: float = number(0.7, above=0, at_most=1)
    """Of the members, that prefer the chosen side; who sees no difference counts half."""

    def make(self, page: Page, max_staleness: int) -> "Agreement":
        return Agreement(self)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The consistency filter of Skywork-Reward-V2 (Liu et al. 2025, arXiv 2507.01352), with the
    members of a panel for its reward models; there disputed pairs are judged anew."""

    config: AgreementConfig

    def curate(self, round: int, collected: Sequence[Collected]) -> list[Collected]:
        """Of the pairs of a prompt that are left, weights add up to what they did before."""
        return [self._curated(one) for one in collected]

    def _curated(self, one: Collected) -> Collected:
        reasons = [self._reason_to_drop(one, pair) for pair in one.preferences]
        whys = list(zip(one.preferences, reasons, strict=True))
        kept = [pair for pair, reason in whys if reason is None]
        dropped = tuple(
            Dropped(reason, pair.chosen.completion, pair.rejected.completion)
            for pair, reason in whys
            if reason is not None
        )
        if not dropped:
            return one
        before, left = _weight(one.preferences), _weight(kept)
        scaled = tuple(replace(pair, weight=pair.weight * before / left) for pair in kept)
        return replace(one, preferences=scaled, dropped=(*one.dropped, *dropped))

    def _reason_to_drop(self, one: Collected, pair: Preference) -> DropReason | None:
        votes = [0.5 + 0.5 * ((lead > 0) - (lead < 0)) for lead in self.config.leads(one, pair)]
        if not votes:
            return DropReason.JUDGE_FAILED
        return DropReason.DISPUTED if sum(votes) / len(votes) < self.config.min_share else None


def _weight(pairs: Sequence[Preference]) -> float:
    return sum(pair.weight for pair in pairs)

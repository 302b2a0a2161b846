"""Pairs by how strongly several reward models prefer the chosen side, on average."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

from rlhf.collecting.curators.base import OfMembersConfig
from rlhf.ranges import number
from rlhf.records import Collected, Preference
from rlhf.storage.ledger import Page

_LEAST = 1e-6

FLIPPED = "flipped by strength@1"
"""Of the judge's name, where the label is no more what the judge said."""


@dataclass
class StrengthConfig(OfMembersConfig):
    name: ClassVar[str] = "strength"

    flip: float = number(0.2, at_least=0, at_most=1)
    """Share of pairs, the weakest, of which the label is turned round where the members' mean is
    against it."""
    smooth: float = number(0.2, at_least=0, at_most=1)
    """Share of pairs, the next weakest, whose label is taken to be right with `right` alone."""
    right: float = number(0.9, above=0.5, at_most=1)
    window: int = number(8, at_least=0)
    """Earlier rounds whose pairs say, beside the round's own, what is weak."""

    @property
    def soft_labels(self) -> tuple[str, str] | None:
        if self.right < 1 and self.flip + self.smooth > 0:
            return f"curator.right={self.right:g}", "set curator.right=1"
        return None

    def problems(self) -> Iterator[str]:
        if self.flip + self.smooth > 1:
            yield (
                f"curator.flip={self.flip:g} curator.smooth={self.smooth:g}: are shares of the "
                "same pairs, and make more than 1; lower either"
            )

    def make(self, page: Page, max_staleness: int) -> "Strength":
        return Strength(self, page, max_staleness)


@dataclass(frozen=True, slots=True)
class Strength:
    """Secrets of RLHF II (Wang et al. 2024, arXiv 2401.06080), on pairs as they are collected.

    There the shares are of a whole data set, and a label is turned round whatever the sign of the
    mean; here of the pairs of this and some earlier rounds, and one with a mean that agrees is
    smoothed. A pair of which no member says anything stays as it is.
    """

    config: StrengthConfig
    page: Page
    max_staleness: int

    def curate(self, round: int, collected: Sequence[Collected]) -> list[Collected]:
        means = [[self._mean(one, pair) for pair in one.preferences] for one in collected]
        own = [mean for ours in means for mean in ours if mean is not None]
        # Only of rounds that are over whenever this one is collected, in a resumed run too.
        last = round - self.max_staleness
        known = [
            mean
            for earlier in range(last - self.config.window, last)
            for mean in self.page.notes.get(earlier, ())
        ]
        self.page.note(round, own)
        # A checkpoint may be of as many rounds before this one, and looks back as far from there.
        self.page.forget(before=last - self.max_staleness - self.config.window)
        ranked = sorted([*known, *own])
        return [
            replace(
                one,
                preferences=tuple(
                    self._curated(pair, mean, ranked)
                    for pair, mean in zip(one.preferences, ours, strict=True)
                ),
            )
            for one, ours in zip(collected, means, strict=True)
        ]

    def _mean(self, one: Collected, pair: Preference) -> float | None:
        leads = self.config.leads(one, pair)
        return fmean(leads) if leads else None

    def _curated(self, pair: Preference, mean: float | None, ranked: Sequence[float]) -> Preference:
        """`ranked`: all strengths that are compared, the weakest first."""
        if mean is None:
            return pair
        config, size = self.config, len(ranked)
        weaker = bisect_left(ranked, mean) + _LEAST  # shares and their sum are rounded
        if weaker < config.flip * size and mean < 0:
            return replace(
                pair,
                chosen=pair.rejected,
                rejected=pair.chosen,
                judge=f"{pair.judge}, {FLIPPED}",
            )
        if weaker < (config.flip + config.smooth) * size:
            right = pair.win_prob * config.right + (1 - pair.win_prob) * (1 - config.right)
            return replace(pair, win_prob=right)
        return pair

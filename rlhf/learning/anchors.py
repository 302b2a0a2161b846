"""Frozen policies that the loss compares with, looked up before the first update of a round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.models.batching import unique
from rlhf.records import Collected, PreferenceBatch, SidePair
from rlhf.stages import Logprobs


@dataclass(frozen=True, slots=True)
class Anchors:
    """The anchors that the objective declares, by name.

    `previous` is the policy itself, which has not been updated yet when a round's anchors are
    looked up, so it costs no second model.
    """

    sources: Mapping[str, Logprobs]

    async def attach(self, round: int, collected: Sequence[Collected]) -> PreferenceBatch:
        """The round's preferences with each anchor's log-probabilities beside them."""
        preferences = [preference for one in collected for preference in one.preferences]
        tokens = [side.tokens for preference in preferences for side in preference.sides]
        rows, places = unique(tokens)
        anchors = {}
        for name, source in self.sources.items():
            found = await source.logprobs(rows)
            if len(found) != len(rows):
                raise ValueError(f"anchor {name!r} gave {len(found)} numbers for {len(rows)} rows")
            values = [found[place] for place in places]
            anchors[name] = [
                SidePair(*both) for both in zip(values[::2], values[1::2], strict=True)
            ]
        return PreferenceBatch(round, preferences, anchors)

"""Frozen policies that the loss compares with, looked up before the first update of a round."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rlhf.models.batching import unique
from rlhf.objectives.base import ObjectiveConfig
from rlhf.records import (
    Collected,
    Preference,
    PreferenceBatch,
    SidePair,
    SideTokens,
    Tokens,
    rows_of,
)
from rlhf.stages import Logprobs


class Read(NamedTuple):
    """What is learnt from of a prompt, and what a model reads for it."""

    preferences: Sequence[Preference]
    """As the objective has marked them."""
    rows: Sequence[Tokens]
    """Each once."""
    places: Sequence[int]
    """Where among those the sides of each preference stand."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """The anchors that the objective declares, by name.

    `previous` is the policy itself, which has not been updated yet when a round's anchors are
    looked up, so it costs no second model.
    """

    sources: Mapping[str, Logprobs]
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What marks tokens, and says whether it needs them one by one."""

    def read(self, one: Collected) -> Read:
        """What can be done for a prompt before others are there."""
        preferences = [self.objective.mark(pair) for pair in one.preferences]
        return Read(preferences, *rows_of([side for pair in preferences for side in pair.sides]))

    async def attach(self, round: int, read: Sequence[Read]) -> PreferenceBatch:
        """The round's preferences, with each anchor's log-probabilities beside them."""
        preferences = [pair for one in read for pair in one.preferences]
        rows, among_all = unique([row for one in read for row in one.rows])
        places: list[int] = []
        before = 0
        for one in read:
            places += [among_all[before + own] for own in one.places]
            before += len(one.rows)
        anchors, tokens = {}, {}
        for name, source in self.sources.items():
            if self.objective.needs_tokens:
                values = await _of_each_token(name, source, rows)
                tokens[name] = [SideTokens(*both) for both in _in_twos(values, places)]
                sums = [_sum(*one) for one in zip(values, rows, strict=True)]
            else:
                sums = await source.logprobs(rows)
                _check(name, sums, rows)
            anchors[name] = [SidePair(*both) for both in _in_twos(sums, places)]
        return PreferenceBatch(round, preferences, anchors, tokens)


async def _of_each_token(name: str, source: Logprobs, marked: Sequence[Tokens]) -> list[array]:
    """Each token once, so that a side is one row however it is marked."""
    rows, places = unique([row.unmarked for row in marked])
    found = await source.token_logprobs(rows)
    _check(name, found, rows)
    kept = [array("f", values) for values in found]
    return [kept[place] for place in places]


def _sum(values: array, row: Tokens) -> float:
    return sum(value * weight for value, weight in zip(values, row.weights, strict=True))


def _in_twos(values: Sequence, places: Sequence[int]) -> Iterator[tuple]:
    """Chosen and rejected side of each pair, of whose rows the places are given in turns."""
    return ((values[a], values[b]) for a, b in zip(places[::2], places[1::2], strict=True))


def _check(name: str, found: Sequence, rows: Sequence[Tokens]) -> None:
    if len(found) != len(rows):
        raise ValueError(f"anchor {name!r} gave {len(found)} numbers for {len(rows)} rows")

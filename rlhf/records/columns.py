"""Preferences as the policy's ranks read them: numbers in columns, and each distinct row once.

A round has thousands of pairs, of which a loss needs a few numbers each: to send them as records,
and to ask each by itself, would take a seventh of a small model's update.

Dimensions: B pairs, S their two sides, the chosen one first.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

from rlhf.records.completions import LOGGED, Tokens
from rlhf.records.preferences import PreferenceBatch, SideTokens, rows_of


class PairColumns(NamedTuple):
    """Arrays of numpy's with a place for every pair; what is no whole number in fp64."""

    row_BS: Any
    """Where among the rows the sides stand."""
    prompt_B: Any
    """Where among the prompts."""
    weight_B: Any
    win_prob_B: Any
    score_BS: Any
    mixture_BS: Any
    is_own_BS: Any
    """Whether a policy of this run has drawn a side, and no other beside it."""

    def at(self, places: Sequence[int]) -> "PairColumns":
        """Those of the pairs at some places."""
        return PairColumns(*(column[places] for column in self))


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Some preferences of a round, in their order."""

    round: int
    rows: Sequence[Tokens]
    """Each once."""
    prompts: Sequence[str]
    """Their ids, each once."""
    pairs: PairColumns
    anchors: Mapping[str, Any]
    """By name, nats of the sides, `(B, S)`."""
    tokens: Mapping[str, Sequence[Sequence[float]]]
    """By anchor, of each of `rows` its completion's tokens; empty where no objective needs it."""

    @classmethod
    def of(cls, batch: PreferenceBatch) -> "Columns":
        """All of a batch."""
        import numpy as np

        def column(values: Iterable[float]) -> Any:
            return np.array(array("d", values))  # numpy by itself takes None for a nan

        def in_twos(values: Iterable[float]) -> Any:
            return column(values).reshape(-1, 2)

        given = batch.preferences
        sides = [side for pair in given for side in (pair.chosen, pair.rejected)]
        drawn = [side.completion for side in sides]
        own = [one.policy_version != LOGGED and not one.mixture for one in drawn]
        rows, places = rows_of(sides)
        prompts: dict[str, int] = {}
        pairs = PairColumns(
            np.array(places, dtype=np.intp).reshape(-1, 2),
            _places((pair.prompt.id for pair in given), prompts),
            column(pair.weight for pair in given),
            column(pair.win_prob for pair in given),
            in_twos(side.score for side in sides),
            in_twos(one.mixture for one in drawn),
            np.array(own, dtype=bool).reshape(-1, 2),
        )
        anchors = {
            name: in_twos(chain.from_iterable(values)) for name, values in batch.anchors.items()
        }
        tokens = {
            name: _by_row(values, pairs.row_BS, len(rows)) for name, values in batch.tokens.items()
        }
        return cls(batch.round, rows, list(prompts), pairs, anchors, tokens)

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """Those of one round, one after another; at least one."""
        import numpy as np

        if len(parts) == 1:
            return parts[0]
        rows: dict[Tokens, int] = {}
        prompts: dict[str, int] = {}
        found = []
        for part in parts:
            row, prompt = _places(part.rows, rows), _places(part.prompts, prompts)
            own = part.pairs
            found.append(own._replace(row_BS=row[own.row_BS], prompt_B=prompt[own.prompt_B]))
        pairs = PairColumns(*map(np.concatenate, zip(*found, strict=True)))
        anchors, tokens = {}, {}
        for name in parts[0].anchors:
            anchors[name] = np.concatenate([part.anchors[name] for part in parts])
        for name in parts[0].tokens:
            values = [(part.rows, part.tokens[name]) for part in parts]
            known = {row: own for both in values for row, own in zip(*both, strict=True)}
            tokens[name] = [known[row] for row in rows]
        return cls(parts[0].round, list(rows), list(prompts), pairs, anchors, tokens)

    def at(self, places: Sequence[int]) -> "Columns":
        """Of the pairs those at some places."""
        places = list(places)
        anchors = {name: values[places] for name, values in self.anchors.items()}
        return replace(self, pairs=self.pairs.at(places), anchors=anchors)

    def __len__(self) -> int:
        return len(self.pairs.prompt_B)

    @property
    def read(self) -> Iterator[Tokens]:
        """The distinct rows of the pairs, in their order."""
        return (self.rows[row] for row in dict.fromkeys(self.pairs.row_BS.ravel().tolist()))


def _places(ones: Iterable, known: dict[Any, int]) -> Any:
    """Where each stands among those known, to which it is added."""
    import numpy as np

    return np.fromiter((known.setdefault(one, len(known)) for one in ones), np.intp)


def _by_row(tokens: Sequence[SideTokens], row_BS: Any, num_rows: int) -> list[Sequence[float]]:
    found: list[Sequence[float]] = [()] * num_rows
    for (chosen, rejected), both in zip(row_BS.tolist(), tokens, strict=True):
        found[chosen], found[rejected] = both
    return found

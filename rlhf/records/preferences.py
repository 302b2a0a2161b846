"""What is learnt from: two completions of which one is preferred, and a round of such pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from rlhf.records.completions import Completion, Emphasis, Prompt, Tokens
from rlhf.records.drops import Dropped
from rlhf.records.pickling import sent_often
from rlhf.records.verdicts import Said, Verdict


@sent_often
@dataclass(frozen=True, slots=True)
class Side:
    """One of the two completions that a preference compares, in the prompt that it answers."""

    prompt: Prompt
    completion: Completion
    score: float
    emphasis: Emphasis = ()
    """Of its tokens."""

    def __post_init__(self) -> None:
        if self.prompt.id != self.completion.prompt_id:
            raise ValueError(
                f"a side joins a prompt and its completion, not {self.prompt.id!r} and one of "
                f"{self.completion.prompt_id!r}"
            )

    @property
    def text(self) -> str:
        """As people read it."""
        return self.completion.text

    @property
    def tokens(self) -> Tokens:
        """As a model reads it."""
        own = self.completion
        return Tokens(self.prompt.token_ids, own.token_ids, own.observed, self.emphasis)


def rows_of(sides: Sequence[Side]) -> tuple[list[Tokens], list[int]]:
    """The distinct rows that a model reads of some sides, in order, and for each side where its
    row stands among them.

    A completion of many pairs is most often one object in all of them, and read once.
    """
    place: dict[Tokens, int] = {}
    known: dict[int, int] = {}
    for side in sides:
        if id(side) not in known:
            known[id(side)] = place.setdefault(side.tokens, len(place))
    return list(place), [known[id(side)] for side in sides]


@sent_often
@dataclass(frozen=True, slots=True)
class Preference:
    """Two completions, of which a judge prefers the first."""

    chosen: Side
    rejected: Side
    judge: str
    weight: float = 1.0
    """Share of its prompt, so that a prompt with many pairs counts once."""
    win_prob: float = 1.0
    """Probability that the chosen side is preferred: 1 for a plain label."""

    @classmethod
    def over(
        cls,
        prompt: Prompt,
        chosen: Completion,
        rejected: Completion,
        chosen_score: float,
        rejected_score: float,
        judge: str,
        weight: float = 1.0,
        win_prob: float = 1.0,
        emphasis: tuple[Emphasis, Emphasis] = ((), ()),
    ) -> "Preference":
        """Both sides answer the same prompt."""
        first = Side(prompt, chosen, chosen_score, emphasis[0])
        second = Side(prompt, rejected, rejected_score, emphasis[1])
        return cls(first, second, judge, weight, win_prob)

    def __post_init__(self) -> None:
        if self.chosen.prompt.id != self.rejected.prompt.id:
            raise ValueError(
                f"the sides of a preference come of one prompt, not of {self.chosen.prompt.id!r} "
                f"and {self.rejected.prompt.id!r}"
            )

    @property
    def prompt(self) -> Prompt:
        """The chosen side's, with which the pair is counted."""
        return self.chosen.prompt

    @property
    def margin(self) -> float:
        return self.chosen.score - self.rejected.score

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.chosen, self.rejected


def compared(pair: "Preference | Dropped") -> list[Completion]:
    """Its completions, of a side that is lacking none."""
    if isinstance(pair, Preference):
        return [side.completion for side in pair.sides]
    return [one for one in (pair.chosen, pair.rejected) if one is not None]


class Search(Protocol):
    """A search tree as far as everybody knows it; the whole of it is `rlhf.tree.nodes.Tree`."""

    num_tokens: int
    """Generated, duplicates and look-aheads included."""


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything that came of one prompt in one round."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    """Drawn in this round."""
    judgement: Verdict | None
    """None if no judge was asked."""
    preferences: tuple[Preference, ...]
    dropped: tuple[Dropped, ...]
    tree: Search | None = None
    """What was searched; `completions` are then its whole answers."""
    num_more_tokens: int = 0
    """Generated beside `completions`, such as for look-aheads."""
    said: Mapping[Completion, Said] = field(default_factory=dict)
    """What was said of sides of pairs that `judgement`, which is of `completions`, is not of."""

    @property
    def num_tokens(self) -> int:
        """Generated for it; steps that answers of a tree share count once."""
        if self.tree:
            return self.tree.num_tokens
        return sum(one.num_own_tokens for one in self.completions) + self.num_more_tokens


class SidePair(NamedTuple):
    """A number for either side of a preference."""

    chosen: float
    rejected: float


class SideTokens(NamedTuple):
    """Nats of every completion token of either side, each counted once."""

    chosen: Sequence[float]
    rejected: Sequence[float]


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """What one round trains on."""

    round: int
    preferences: Sequence[Preference]
    anchors: Mapping[str, Sequence[SidePair]]
    """By anchor name (`initial`, `previous`): summed log-probabilities, in the same order. Those of
    `previous` are the policy's own after `round` rounds, and of no use to any other version."""
    tokens: Mapping[str, Sequence[SideTokens]] = field(default_factory=dict)
    """Likewise, token by token, where the objective needs it; else empty."""

    def __post_init__(self) -> None:
        for name, pairs in (*self.anchors.items(), *self.tokens.items()):
            if len(pairs) != len(self.preferences):
                raise ValueError(
                    f"anchor {name!r} has {len(pairs)} values for {len(self.preferences)} pairs"
                )

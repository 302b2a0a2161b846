"""What a user's turn says about the assistant's reply before it, and how two labellers agree."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from rlhf.records import Message


class Satisfaction(StrEnum):
    satisfied = "satisfied"
    dissatisfied = "dissatisfied"
    neither = "neither"
    """The turn says nothing of the reply."""
    mixed = "mixed"
    """Both."""
    unknown = "unknown"
    """Nobody said, or the labeller failed; never the same as `neither`."""


DISSATISFIED = (Satisfaction.dissatisfied, Satisfaction.mixed)
SATISFIED = (Satisfaction.satisfied, Satisfaction.mixed)


class Verdict(NamedTuple):
    """A label, and where it comes from."""

    turn: int
    """The user's turn that carries it, counted from 0 among all messages of the conversation."""
    satisfaction: Satisfaction
    reason: str
    """The fields that say so, the rules that matched, or the words of a language model."""


def judging_turns(messages: tuple[Message, ...]) -> list[int]:
    """The user's turns that have an assistant's reply right before them."""
    return [
        turn
        for turn in range(1, len(messages))
        if messages[turn].role == "user" and messages[turn - 1].role == "assistant"
    ]


def given_verdict(turn: int, satisfied: bool | None, dissatisfied: bool | None) -> Verdict:
    """From two booleans, of which either may be missing.

    A missing one is not false: a lone true decides, a lone false leaves it unknown.
    """
    if satisfied and dissatisfied:
        says = Satisfaction.mixed
    elif satisfied or dissatisfied:
        says = Satisfaction.satisfied if satisfied else Satisfaction.dissatisfied
    elif satisfied is None or dissatisfied is None:
        says = Satisfaction.unknown
    else:
        says = Satisfaction.neither
    fields = {"satisfied": satisfied, "dissatisfied": dissatisfied}
    said = [f"{name}={str(v).lower()}" for name, v in fields.items() if v is not None]
    return Verdict(turn, says, ", ".join(said) or "no label")


@dataclass(slots=True)
class Agreement:
    """Counts over turns of one yes-or-no question, answered by a labeller and by given labels."""

    both: int = 0
    only_labeller: int = 0
    only_given: int = 0
    neither: int = 0

    def add(self, labeller: bool, given: bool) -> None:
        if given:
            self.both, self.only_given = self.both + labeller, self.only_given + (not labeller)
        else:
            self.only_labeller += labeller
            self.neither += not labeller

    @property
    def num_turns(self) -> int:
        return self.both + self.only_labeller + self.only_given + self.neither

    @property
    def precision(self) -> float | None:
        """Share of the labeller's yes that is given too; None if it never said yes."""
        return _share(self.both, self.both + self.only_labeller)

    @property
    def recall(self) -> float | None:
        """Share of the given yes that the labeller found; None if there is none."""
        return _share(self.both, self.both + self.only_given)

    @property
    def f1(self) -> float | None:
        """2·both / (2·both + the two kinds of error); None if nobody said yes."""
        return _share(2 * self.both, 2 * self.both + self.only_labeller + self.only_given)

    @property
    def kappa(self) -> float | None:
        """Cohen's κ = (p_o - p_e) / (1 - p_e); None if chance alone would always agree.

        Cohen 1960, eq. 1: p_o observed agreement, p_e that of the two margins' product.
        """
        n = self.num_turns
        yes = (self.both + self.only_labeller) * (self.both + self.only_given)
        no = (self.neither + self.only_labeller) * (self.neither + self.only_given)
        return _share(n * (self.both + self.neither) - yes - no, n * n - yes - no)

    def record(self) -> dict[str, float | int | None]:
        """For `summary.json`."""
        names = ("precision", "recall", "f1", "kappa")
        return {"num_turns": self.num_turns, **{name: getattr(self, name) for name in names}}


class Agreements:
    """Of a labeller with given labels; turns whose given label is unknown do not count."""

    def __init__(self) -> None:
        self.dissatisfied = Agreement()
        self.satisfied = Agreement()

    def add(self, labeller: Iterable[Verdict], given: Iterable[Verdict]) -> None:
        """Both in order, and about the same turns."""
        for said, true in zip(labeller, given, strict=True):
            if true.satisfaction is not Satisfaction.unknown:
                self.dissatisfied.add(
                    said.satisfaction in DISSATISFIED, true.satisfaction in DISSATISFIED
                )
                self.satisfied.add(said.satisfaction in SATISFIED, true.satisfaction in SATISFIED)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None

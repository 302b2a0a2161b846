"""Numbers to be guessed in a dialogue, with the games of a careless player to begin from."""

import random
from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar

from rlhf.asking.sources.base import DataConfig, Wanted
from rlhf.data.rendering import Row, Source
from rlhf.options import Fact
from rlhf.ranges import number
from rlhf.records import Message


@dataclass
class GuessingConfig(DataConfig):
    """A number from 1 on, to be guessed in few turns; for `examples/guessing/env.py`."""

    name: ClassVar[str] = "guessing"

    highest: int = number(7, at_least=2)
    max_guesses: int = number(3, at_least=1)
    """In a demonstration."""
    careless: float = number(0.5, at_least=0, at_most=1)
    """Share of the demonstrations' guesses that heed nothing of what was said."""
    num_prompts: int = number(2048, at_least=1)
    num_heldout: int = number(256, at_least=1)

    def gives(self) -> Set[Fact]:
        return {Fact.answers, Fact.demonstrations}

    def source(self, wanted: Wanted, seed: int) -> Source:
        rng = random.Random(seed)
        sizes = {"train": self.num_prompts, "heldout": self.num_heldout}
        return Source(
            *([_row(f"{part}-{i}", self, rng) for i in range(size)] for part, size in sizes.items())
        )


def _row(id: str, config: GuessingConfig, rng: random.Random) -> Row:
    """All ask the same; what differs is the number, which nobody sees who guesses."""
    hidden = rng.randint(1, config.highest)
    return Row(
        id=id,
        messages=(Message("user", f"1-{config.highest}"),),
        origin=f"the game {id}",
        answer=str(hidden),
        demonstration=_played(hidden, config, rng),
    )


def _played(hidden: int, config: GuessingConfig, rng: random.Random) -> tuple[Message, ...]:
    """Guesses anywhere in what is left, or carelessly anywhere at all."""
    turns, whole = [], (1, config.highest)
    low, high = whole
    for _ in range(config.max_guesses):
        guess = rng.randint(*(whole if rng.random() < config.careless else (low, high)))
        turns.append(Message("assistant", str(guess)))
        if guess == hidden:
            return tuple(turns)
        turns.append(Message("user", "higher" if hidden > guess else "lower"))
        low, high = (max(low, guess + 1), high) if hidden > guess else (low, min(high, guess - 1))
    return tuple(turns[:-1])

"""Numbers to be guessed in a dialogue, with the games of a careless player to begin from."""

import random
from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar

from rlhf.asking.sources.base import DataConfig, Wanted
from rlhf.data.rendering import Row, Source
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.ranges import number
from rlhf.records import Message
from rlhf.seeds import derive_seed

LOWEST, HIGHEST = 10, 99
"""All numbers have two digits."""


@dataclass
class GuessingConfig(DataConfig):
    """A number to be guessed, of which only the range is told; for `examples/guessing/env.py`."""

    name: ClassVar[str] = "guessing"

    width: int = number(7, at_least=2, at_most=45)
    """How many numbers it may be."""
    max_guesses: int = number(3, at_least=1)
    """In a demonstration."""
    careless: float = number(0.5, at_least=0, at_most=1)
    """Share of the demonstrations' guesses that heed nothing of what was said."""
    num_heldout: int = number(14, at_least=1)
    """Ranges that are held out; every number of them, as of all others, is to be guessed."""
    num_lessons: int = number(8000, at_least=0)
    """Demonstrations beside those of the prompts, of the same ranges and numbers."""

    def gives(self) -> Set[Fact]:
        return {Fact.answers, Fact.demonstrations}

    def source(self, wanted: Wanted, seed: int) -> Source:
        return Source(*guessing_rows(self, seed))


def guessing_rows(config: GuessingConfig, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Games to train on, those of other ranges, and more demonstrations of the first.

    Raises InputError if all ranges are held out.
    """
    lows = list(range(LOWEST, HIGHEST - config.width + 2))
    rng = random.Random(seed)
    rng.shuffle(lows)
    if config.num_heldout >= len(lows):
        raise InputError(
            [
                f"data.num_heldout={config.num_heldout}: with data.width={config.width} there are "
                f"{len(lows)} ranges; hold out fewer"
            ]
        )
    games = [(low, hidden) for low in lows for hidden in range(low, low + config.width)]
    place = config.num_heldout * config.width
    asked = games[place:]
    train = [_row(*game, config, seed) for game in asked]
    heldout = [_row(*game, config, seed) for game in games[:place]]
    lessons = [_row(*rng.choice(asked), config, seed, f"#{i}") for i in range(config.num_lessons)]
    return train, heldout, lessons


def _row(low: int, hidden: int, config: GuessingConfig, seed: int, mark: str = "") -> Row:
    high = low + config.width - 1
    id = f"{low}-{high}:{hidden}{mark}"
    return Row(
        id=id,
        messages=(Message("user", f"{low}-{high}"),),
        origin=f"the game {id}",
        answer=str(hidden),
        demonstration=_played(low, high, hidden, config, random.Random(derive_seed(seed, id))),
    )


def _played(
    low: int, high: int, hidden: int, config: GuessingConfig, rng: random.Random
) -> tuple[Message, ...]:
    """Guesses anywhere in what is left, or carelessly in the whole range."""
    turns, left = [], (low, high)
    for _ in range(config.max_guesses):
        guess = rng.randint(*((low, high) if rng.random() < config.careless else left))
        turns.append(Message("assistant", str(guess)))
        if guess == hidden:
            return tuple(turns)
        turns.append(Message("user", "higher" if hidden > guess else "lower"))
        first, last = left
        left = (max(first, guess + 1), last) if hidden > guess else (first, min(last, guess - 1))
    return tuple(turns[:-1])

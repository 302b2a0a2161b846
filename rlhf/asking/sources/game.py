"""One question, asked again and again, whose answers are those of a known game."""

import random
from collections.abc import Set
from dataclasses import dataclass, field
from typing import ClassVar

from rlhf.asking.sources.base import DataConfig, Wanted
from rlhf.config.texts import location
from rlhf.data.rendering import Row, Source
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.ranges import number
from rlhf.records import Message
from rlhf.toys.games import read_game


@dataclass
class GameDataConfig(DataConfig):
    """One question, asked again and again, with the answers of a known game."""

    name: ClassVar[str] = "game"

    game: str = location()
    """Its file: that of `judge.game`, if the judge is to know the answers."""
    prompt: str = "play:"
    base: list[float] = field(default_factory=list)
    """Shares of the answers in the demonstrations, for `warmup`. Without any, they fall from the
    first answer to a quarter of it for the last."""
    num_prompts: int = number(4096, at_least=1)
    num_heldout: int = number(2048, at_least=1)

    def gives(self) -> Set[Fact]:
        return {Fact.demonstrations}

    def source(self, wanted: Wanted, seed: int) -> Source:
        return Source(*game_rows(self, seed))


def game_rows(config: GameDataConfig, seed: int) -> tuple[list[Row], list[Row]]:
    """Equal prompts to train on and to hold out; demonstrated by answers in the shares of `base`.

    Raises InputError if the shares do not fit the game.
    """
    game = read_game(config.game)
    shares = list(config.base) or _unequal(len(game.answers))
    if len(shares) != len(game.answers) or min(shares) < 0 or sum(shares) <= 0:
        raise InputError(
            [
                f"data.base={shares}: must be a share for each of the {len(game.answers)} answers "
                f"of {config.game} ({', '.join(game.answers)})"
            ]
        )
    rng = random.Random(seed)
    answers = rng.choices(game.answers, shares, k=config.num_prompts)
    train = [_row(config, f"train-{i}", answer) for i, answer in enumerate(answers)]
    return train, [_row(config, f"heldout-{i}", None) for i in range(config.num_heldout)]


def _unequal(size: int) -> list[float]:
    """A start that is no equilibrium: each answer is rarer than the one before, the last a quarter
    as frequent as the first."""
    return [0.25 ** (i / (size - 1)) for i in range(size)]


def _row(config: GameDataConfig, id: str, demonstration: str | None) -> Row:
    message = Message("user", config.prompt)
    return Row(id, (message,), f"the game's prompt {id}", demonstration=demonstration)

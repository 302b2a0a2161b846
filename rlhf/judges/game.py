"""A known game as a judge: for tests, for teaching, and to measure exploitability."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from rlhf.config.texts import location
from rlhf.judges.base import JudgeConfig
from rlhf.judges.groups import Group
from rlhf.options import Fact
from rlhf.records import Comparison
from rlhf.toys.games import read_game


@dataclass
class GameConfig(JudgeConfig):
    name: ClassVar[str] = "game"

    game: str = location()
    """A JSON file {"answers": [...], "win_prob": [[...], ...]}: a known game; a relative path is
    one from the working directory, or else from Agon's own folder."""

    @property
    def known_game(self) -> str:
        return self.game

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.matrix}

    def files(self) -> Iterator[str]:
        if Path(self.game).is_absolute():
            yield self.game

    def inspect(self, asked: Set[Fact]) -> None:
        read_game(self.game)

    def build(self) -> "GameJudge":
        return GameJudge(self)


class GameJudge:
    """Looks win probabilities up by the completions' texts; text that is no answer always loses.

    Raises InputError if the file cannot be used.
    """

    def __init__(self, config: GameConfig) -> None:
        self._game = read_game(config.game)
        self._win_prob = self._game.with_other.tolist()
        content = Path(config.game).read_bytes()
        self._name = f"game/{Path(config.game).stem}@{sha256(content).hexdigest()[:8]}"

    def judge(self, groups: Sequence[Group]) -> list[Comparison]:
        return [self._compare(group) for group in groups]

    def _compare(self, group: Group) -> Comparison:
        places = [self._game.place(completion.text) for completion in group.completions]
        rows = tuple(tuple(self._win_prob[i][j] for j in places) for i in places)
        return Comparison(rows, self._name)

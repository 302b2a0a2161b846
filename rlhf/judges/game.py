"""A known game as a judge: for tests, for teaching, and to measure exploitability."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from rlhf.config.judges import GameConfig
from rlhf.judges.groups import Group
from rlhf.records import Comparison
from rlhf.toys.games import read_game


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

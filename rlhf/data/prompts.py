"""Data sources into prompts, and prompts into rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rlhf.config.data import ArithmeticConfig, DataConfig, FilesConfig, GameDataConfig, Overlong
from rlhf.data.arithmetic import arithmetic_rows
from rlhf.data.files import file_rows
from rlhf.data.game import game_rows
from rlhf.data.rendering import Renderer, Row
from rlhf.problems import InputError, some
from rlhf.records import Prompt
from rlhf.seeds import derive_seed


@dataclass(frozen=True)
class Data:
    """Everything that a run asks."""

    train: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    """Shares no id with `train`."""
    demonstrations: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Completion token ids, end token included, by id; of prompts in `train` only."""
    num_overlong_dropped: int = 0
    """Prompts of either part that were dropped for their length."""


def load_data(
    config: DataConfig,
    renderer: Renderer,
    *,
    max_prompt_tokens: int,
    needs_answers: bool,
    seed: int,
) -> Data:
    """Reads or generates the data and renders it; raises InputError with all that is wrong."""
    train_rows, heldout_rows = _rows(config, needs_answers, seed)
    _refuse_duplicates([*train_rows, *heldout_rows])
    rendering = _Rendering(config, renderer, max_prompt_tokens)
    train, heldout = rendering.prompts(train_rows), rendering.prompts(heldout_rows)
    if rendering.problems():
        raise InputError(rendering.problems())
    num_dropped = len(rendering.overlong)
    for name, rows, prompts in (("train", train_rows, train), ("held-out", heldout_rows, heldout)):
        if not prompts:
            raise InputError(
                [
                    f"data: none of the {len(rows)} {name} prompts is left; "
                    f"{num_dropped} prompts of both parts are longer than "
                    f"rollout.max_prompt_tokens={max_prompt_tokens}; raise it"
                ]
            )
    kept = {prompt.id for prompt in train}
    demonstrations = {
        row.id: renderer.completion_ids(row.demonstration)
        for row in train_rows
        if row.demonstration is not None and row.id in kept
    }
    return Data(train, heldout, demonstrations, num_dropped)


def _rows(config: DataConfig, needs_answers: bool, seed: int) -> tuple[list[Row], list[Row]]:
    if isinstance(config, ArithmeticConfig):
        return arithmetic_rows(config, seed)
    if isinstance(config, FilesConfig):
        return file_rows(config, needs_answers)
    if isinstance(config, GameDataConfig):
        return game_rows(config, seed)
    raise TypeError(f"no source of data for {type(config).__name__}")


def _refuse_duplicates(rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    problems = [
        f"data.id_column: the id {row.id!r} is that of {first[row.id].origin} and of {row.origin}; "
        "ids must be unique over both parts"
        for row in rows
        if first.setdefault(row.id, row) is not row
    ]
    if problems:
        hidden = len(problems) - 20
        raise InputError([*problems[:20], *([f"... and {hidden} more ids"] if hidden > 0 else [])])


class _Rendering:
    """Renders rows, and gathers the ids of those that cannot be asked."""

    def __init__(self, config: DataConfig, renderer: Renderer, max_tokens: int) -> None:
        self._drop = isinstance(config, FilesConfig) and config.overlong is Overlong.drop
        self._renderer = renderer
        self._max_tokens = max_tokens
        self.overlong: list[str] = []
        self._empty: list[str] = []
        self._unknown: list[str] = []
        self._refused: list[str] = []

    def prompts(self, rows: Sequence[Row]) -> tuple[Prompt, ...]:
        return tuple(prompt for row in rows if (prompt := self._prompt(row)))

    def _prompt(self, row: Row) -> Prompt | None:
        try:
            ids = self._renderer.render(row.messages)
        except ValueError as error:
            self._refused.append(f"{row.origin}: {error}")
            return None
        if not ids:
            self._empty.append(row.id)
        elif len(ids) > self._max_tokens:
            self.overlong.append(row.id)
        elif self._renderer.unknown_id in ids:
            self._unknown.append(row.id)
        else:
            return Prompt(row.id, row.messages, ids, row.answer)
        return None

    def problems(self) -> list[str]:
        found = []
        if self.overlong and not self._drop:
            found.append(
                f"rollout.max_prompt_tokens={self._max_tokens}: {len(self.overlong)} prompts are "
                f"longer (ids {some(self.overlong)}); raise it, or set data.overlong=drop"
            )
        if self._empty:
            found.append(
                f"data: {len(self._empty)} prompts have no tokens (ids {some(self._empty)}); "
                "remove them"
            )
        if self._unknown:
            found.append(
                f"model: {len(self._unknown)} prompts have characters that its vocabulary lacks "
                f"(ids {some(self._unknown)}); use model.vocabulary=bytes or another model"
            )
        if self._refused:
            found.append(
                f"data: {len(self._refused)} prompts cannot be rendered ({self._refused[0]}); "
                "correct them, or set model.rendering=plain"
            )
        return found


class PromptSchedule:
    """Which prompts each round asks: a pure function of (seed, round), so it needs no saved state.

    Epoch after epoch in a seeded order, each prompt once per epoch; a round may straddle two
    epochs, and never asks a prompt twice. Raises InputError if a round is larger than the data.
    """

    def __init__(self, prompts: Sequence[Prompt], num_per_round: int, seed: int) -> None:
        if not 1 <= num_per_round <= len(prompts):
            raise InputError(
                [
                    f"round.prompts={num_per_round}: the data has {len(prompts)} prompts to train "
                    "on, and a round asks each at most once; lower it or add prompts"
                ]
            )
        self._prompts = prompts
        self._num_per_round = num_per_round
        self._seed = seed
        self._ring = self._rng("ring").permutation(len(prompts))
        self._cached: tuple[int, np.ndarray] = (-1, self._ring)

    def round(self, index: int) -> list[Prompt]:
        """The prompts of round `index`, from 0."""
        if index < 0:
            raise ValueError(f"rounds are counted from 0, not {index}")
        start, size = index * self._num_per_round, len(self._prompts)
        epoch, offset = divmod(start, size)
        positions = self._order(epoch)[offset : offset + self._num_per_round]
        if (num_missing := self._num_per_round - len(positions)) > 0:
            positions = np.concatenate([positions, self._order(epoch + 1)[:num_missing]])
        return [self._prompts[position] for position in positions]

    def _order(self, epoch: int) -> np.ndarray:
        """One epoch's permutation.

        A round that straddles two epochs takes its prompts from the end and the beginning of one
        ring that all epochs share, which keeps them apart without a look at the neighbour epochs;
        within these two parts, and in all that lies between, every epoch has an order of its own.
        """
        if self._cached[0] != epoch:
            size = len(self._prompts)
            head = -epoch * size % self._num_per_round
            tail = (epoch + 1) * size % self._num_per_round
            rng = self._rng(epoch)
            parts = np.split(self._ring, [head, size - tail])
            self._cached = (epoch, np.concatenate([rng.permutation(part) for part in parts]))
        return self._cached[1]

    def _rng(self, part: int | str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, "prompts", part))

"""Data sources into prompts, and prompts into rounds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from rlhf.asking.preparation import Preparation
from rlhf.asking.sources.base import DataConfig, Wanted
from rlhf.data.rendering import Renderer, Row, Source
from rlhf.problems import InputError
from rlhf.records import Message, Prompt, Tokens, UserFeedback
from rlhf.seeds import derive_seed
from rlhf.stages import Schedule
from rlhf.tools.syntax import ToolsConfig, parts

Turns = tuple[Message, ...]


class Demonstrations(Mapping[str, Tokens]):
    """By prompt; each is tokenized when it is first asked for, since many runs ask for none."""

    def __init__(
        self, shown: Mapping[str, tuple[Prompt, Turns]], read: Callable[[Prompt, Turns], Tokens]
    ) -> None:
        self._shown = shown
        self._read = read
        self._found: dict[str, Tokens] = {}
        for id, (_, turns) in shown.items():
            if len(turns) > 1:  # which a chat template may refuse
                self[id]

    def __getitem__(self, id: str) -> Tokens:
        if id not in self._found:
            self._found[id] = self._read(*self._shown[id])
        return self._found[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown)

    def __len__(self) -> int:
        return len(self._shown)

    def __contains__(self, id: object) -> bool:
        return id in self._shown


@dataclass(frozen=True)
class Data:
    """Everything that a run asks."""

    train: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    """Shares no id with `train`."""
    demonstrations: Mapping[str, Tokens] = field(default_factory=dict)
    """By id of prompts in `train`, and of lessons for a warm start; end tokens included."""
    feedback: dict[str, UserFeedback] = field(default_factory=dict)
    """By id of the prompts that users have said something about; grows where there is a feed."""
    num_overlong_dropped: int = 0
    """Prompts of either part that were dropped for their length."""
    num_shortened: int = 0
    """Conversations without their first turns, which would not have fitted."""

    def notes(self) -> Iterator[str]:
        """What people should know was left out."""
        if self.num_shortened:
            yield f"{self.num_shortened} conversations are read without their first turns"
        if self.num_overlong_dropped:
            yield f"{self.num_overlong_dropped} prompts are left out, since they are too long"


def load_data(
    config: DataConfig,
    renderer: Renderer,
    *,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    wanted: Wanted,
    tools: ToolsConfig,
    seed: int,
    opened: Callable[[Sequence[Row]], list[Row]] = list,
    stops: tuple[str, ...] = (),
) -> Data:
    """Reads or generates the data and renders it; raises InputError with all that is wrong.

    `opened` gives rows with what an environment asks in each; `stops` are texts that end a turn in
    it, beside the end token.
    """
    source = config.source(wanted, seed)
    _refuse_duplicates([*source.train, *source.heldout])
    source = _opened(source, opened)
    preparation = Preparation(renderer, max_prompt_tokens, max_completion_tokens)
    train, heldout = preparation.prompts(source.train), preparation.prompts(source.heldout)
    lessons = preparation.prompts(source.lessons)
    if problems := preparation.problems(config.drops_overlong):
        raise InputError(problems)
    num_dropped = preparation.num_too_long
    for name, rows, prompts in (
        ("train", source.train, train),
        ("held-out", source.heldout, heldout),
    ):
        if not prompts:
            raise InputError(
                [
                    f"data: none of the {len(rows)} {name} prompts is left; "
                    f"{num_dropped} prompts of both parts are longer than "
                    f"rollout.max_prompt_tokens={max_prompt_tokens}; raise it"
                ]
            )
    shown = {row.id: row.demonstration for row in (*source.train, *source.lessons)}
    demonstrations = Demonstrations(
        {
            prompt.id: (prompt, _turns(demonstration))
            for prompt in (*train, *lessons)
            if (demonstration := shown[prompt.id]) is not None
        },
        partial(_demonstrated, renderer=renderer, tools=tools, stops=stops),
    )
    return Data(
        train,
        heldout,
        demonstrations,
        preparation.feedback,
        num_dropped,
        preparation.num_shortened,
    )


def _opened(source: Source, opened: Callable[[Sequence[Row]], list[Row]]) -> Source:
    rows = iter(opened([*source.train, *source.heldout, *source.lessons]))
    return Source(
        *([next(rows) for _ in part] for part in (source.train, source.heldout, source.lessons))
    )


def _turns(demonstration: str | Turns) -> Turns:
    if isinstance(demonstration, str):
        return (Message("assistant", demonstration),)
    return demonstration


def _demonstrated(
    prompt: Prompt,
    turns: Sequence[Message],
    renderer: Renderer,
    tools: ToolsConfig,
    stops: tuple[str, ...],
) -> Tokens:
    """Tokenized as an answer comes into being: the policy's words and all others' apart."""
    ids: tuple[int, ...] = ()
    observed: list[tuple[int, int]] = []
    for added, is_observed in _pieces(turns, renderer, tools, stops):
        if is_observed:
            observed.append((len(ids), len(ids) + len(added)))
        ids += added
    return Tokens(prompt.token_ids, ids, tuple(observed))


def _pieces(
    turns: Sequence[Message], renderer: Renderer, tools: ToolsConfig, stops: tuple[str, ...]
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Token ids in order, each with whether they are only read."""
    is_open = False
    for turn in turns:
        if turn.role == "user":
            text = turn.content
            yield renderer.text_ids(text) if is_open else renderer.observation(text)[0], True
            continue
        for text, is_observed in parts(turn.content, tools):
            yield renderer.text_ids(text), is_observed
        is_open = turn.content.endswith(stops) or turn.content.rstrip().endswith(stops)
        if not is_open:
            yield renderer.completion_ids(""), False


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


@dataclass(frozen=True, slots=True)
class DelayedSchedule:
    """A schedule that begins at round 1, for runs whose round 0 is a warm start."""

    schedule: Schedule

    async def round(self, index: int) -> list[Prompt]:
        return await self.schedule.round(index - 1)


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

    async def round(self, index: int) -> list[Prompt]:
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

"""What every judge says of itself, and what it may leave as it is here."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from rlhf.config.texts import from_anywhere, location, text
from rlhf.judges.groups import GroupJudge
from rlhf.judges.programs.written import Writer
from rlhf.options import Fact, Option
from rlhf.ranges import number
from rlhf.records import Prompt, Verdict
from rlhf.stages import Judge


class Seat(Enum):
    """Where a judge runs."""

    nowhere = "nowhere"
    """Not here: there is none, or it is asked elsewhere."""
    cpu = "cpu"
    """In workers that need no GPU."""
    gpu = "gpu"
    """In workers of which each holds its model, on a GPU where runs use them."""
    engine = "engine"
    """In workers that hold its language model on the engine of `rollout`; of those that
    `rlhf.judges.questions.asking.AskingConfig` describes."""
    policy = "policy"
    """In the rollout workers: of the same, the policy is asked, as it is by then."""


class Measure(Enum):
    """What an evaluation tells of completions."""

    accuracy = "accuracy"
    satisfaction = "satisfaction"
    score = "score"
    parts = "parts"
    """The means of the parts of scores alone, since those of a group say nothing of others."""
    win_rate = "win_rate"
    """Against the initial policy's completions."""


@dataclass
class JudgeConfig(Option):
    """Who decides which completion is better; a subclass is an option, its fields are its keys."""

    num_workers: int = number(1, at_least=1)
    max_failure_rate: float = number(0.1, at_least=0, at_most=1)
    """Share of a round's judgements that may fail before the run stops; those that fail are
    counted and take no part."""

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts}

    def asks(self) -> "Mapping[str, JudgeConfig]":
        """The judges that it is made of, by name, of which each has workers of its own."""
        return {}

    def over(self, members: Mapping[str, Judge]) -> Judge:
        """The judge itself, of one that asks others; raises InputError like `inspect`."""
        raise NotImplementedError(f"judge={self.name} asks nobody")

    @property
    def seat(self) -> Seat:
        return Seat.cpu

    @property
    def measure(self) -> Measure:
        """Follows from what it gives."""
        if Fact.matrix in self.gives():
            return Measure.win_rate
        return Measure.accuracy if Fact.outcomes in self.gives() else Measure.score

    @property
    def calls_per_worker(self) -> int:
        """How many requests a worker may have under way, each of whatever became ready together."""
        return 1

    @property
    def reads_rows(self) -> bool:
        """Whether it is to find the whole row of a prompt's file in `Prompt.row`."""
        return False

    @property
    def loads(self) -> str | None:
        """The model that its workers load, a folder or hub id: its key `path`."""
        return None

    @property
    def shares(self) -> Hashable:
        """Where several that are asked together have the same, they share workers, and the model in
        them; None of one that has its own."""
        return None

    @property
    def learns(self) -> bool:
        """Whether it judges a round by what earlier ones have shown, with `noted` and `knowing`."""
        return False

    def noted(self, name: str, verdicts: Sequence[Verdict]) -> Any:
        """What a round's verdicts, in which its parts begin with that name, have shown; JSON."""
        raise NotImplementedError(f"judge={self.name} learns nothing")

    def knowing(self, notes: Sequence[Any]) -> AbstractContextManager[None]:
        """Within it, the judge goes by what was noted of earlier rounds."""
        raise NotImplementedError(f"judge={self.name} learns nothing")

    @property
    def known_game(self) -> str | None:
        """The file of a game whose equilibrium evaluations are to measure, instead of `measure`."""
        return None

    def held(self) -> tuple[Path, str]:
        """The folder of the model that each of its workers holds on a GPU, and its dtype.

        Raises InputError if it cannot be used.
        """
        raise NotImplementedError(f"judge={self.name} holds no model")

    def files(self) -> Iterator[str]:
        """What its workers read on their own nodes, beside hub ids."""
        if self.loads is not None:
            yield self.loads

    def inspect(self, asked: Set[Fact]) -> None:
        """Reads its files, as far as that is quick; `asked`: what others need.

        Raises InputError if they cannot be used.
        """

    def inspect_prompts(self, prompts: Iterable[Prompt]) -> None:
        """Looks at all that it may be asked about; raises InputError if it cannot judge that."""

    def rehearse(self, prompt: Prompt) -> None:
        """Judges something of that prompt, where it is a stranger's code that is to judge.

        Raises InputError if that fails.
        """

    def build(self) -> GroupJudge | Judge:
        """What judges inside a worker; raises InputError like `inspect`."""
        raise NotImplementedError(f"judge={self.name} has no workers")

    def builder(self) -> Callable[[], GroupJudge | Judge]:
        """`build`, wherever it is called: workers start in folders of their own."""
        if self.loads is None:
            return self.build
        return replace(self, path=from_anywhere(self.loads)).build

    def with_policy(self, judge: Judge, writer: Callable[[], Writer], seed: int) -> Judge:
        """The judge itself, over its workers, of one that has the policy write something first."""
        return judge

    def elsewhere(self) -> Judge | None:
        """The judge itself, of one whose seat is nowhere; None if nobody judges."""
        return None


@dataclass
class HeldModelConfig(JudgeConfig):
    """A model that each of its workers holds, on a GPU where runs use them."""

    path: str = location()
    max_tokens: int = number(4096, at_least=1)
    """Of all that is read at once, such as prompt and completion; more is a judge failure."""
    micro_batch_tokens: int = number(16384, at_least=1)
    dtype: str = text("auto")

    loaded_as: ClassVar[str | None] = None
    """What the model is, of one that is loaded once for all judges of a worker."""

    @property
    def seat(self) -> Seat:
        return Seat.gpu

    @property
    def shares(self) -> Hashable:
        return self.loaded_as and (self.loaded_as, from_anywhere(self.path), self.dtype)

    @property
    def loads(self) -> str:
        return self.path

    def folder(self) -> Path:
        """The model's, fetched if `path` is a hub id; raises InputError if it cannot be used."""
        raise NotImplementedError

    def held(self) -> tuple[Path, str]:
        return self.folder(), self.dtype

    def inspect(self, asked: Set[Fact]) -> None:
        self.folder()


@dataclass
class ModelJudgeConfig(HeldModelConfig):
    """A Hugging Face sequence-classification model."""

    loaded_as: ClassVar[str | None] = "classifier"
    labels: ClassVar[str]
    """How many it has, in words."""

    @staticmethod
    def fits(num_labels: int) -> bool:
        """Whether a model with so many labels can be one."""
        return num_labels == 1

    def differences(self, trained: dict[str, Any]) -> Iterator[str]:
        """Where the record of a model's training here contradicts the keys."""
        return iter(())

    def folder(self) -> Path:
        # Imported where it is needed: a configuration is to load in no time.
        from rlhf.models.files import find_model

        return find_model(self)


@dataclass
class LanguageModelJudgeConfig(HeldModelConfig):
    """A causal language model that says how likely texts are."""

    loaded_as: ClassVar[str | None] = "language model"

    def folder(self) -> Path:
        from rlhf.models.checks import require_causal

        return require_causal("judge.path", self.path)

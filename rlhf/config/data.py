"""Where prompts come from."""

from dataclasses import dataclass, field
from enum import Enum

from rlhf.config.feedback import LabelSource
from rlhf.config.texts import location, name
from rlhf.ranges import number

INSTRUCTION = (
    "Answer my earlier message once more, and take into account what I have just said. Give the "
    "improved answer alone: no apology, and no mention of your earlier answer or of my remark."
)
"""What a guided conversation asks for; replies that refer to what is not in the bare prompt would
teach the policy to refer to nothing."""


@dataclass
class DataConfig:
    pass


@dataclass
class ArithmeticConfig(DataConfig):
    """Sums such as `12+34=`: two numbers are answered by their sum alone, more line by line."""

    num_digits: int = number(2, at_least=1, at_most=6)
    num_prompts: int = number(7000, at_least=1)
    num_heldout: int = number(512, at_least=1)
    num_terms: list[int] = field(default_factory=lambda: [2])
    """How many numbers a sum has; each of these as often."""
    error_rate: float = number(0.0, at_least=0, below=1)
    """Share of the demonstrations' sums that are wrong, so that a warm start teaches the way and
    leaves errors to unlearn."""
    calculator: bool = False
    """Demonstrate a call of `tools=calculator` instead, and after it the answer on a line of its
    own; errors are then in what is called for."""


class Overlong(Enum):
    error = "error"
    drop = "drop"


@dataclass
class FilesConfig(DataConfig):
    """Prompts in JSONL or Parquet."""

    path: str = location()
    heldout_path: str | None = location(None)
    """Without it, `heldout_share` of the rows are held out."""
    heldout_share: float = number(0.05, above=0, below=1)
    prompt_column: str = name("prompt")
    """Text, or a list of chat messages with `role` and `content`."""
    answer_column: str | None = name()
    answer_marker: str | None = name()
    """If given, the answer is what follows it in the column: `####` in GSM8K."""
    demonstration_column: str | None = name()
    """A model answer, for `warmup`."""
    id_column: str | None = name()
    """Without it, rows are numbered."""
    overlong: Overlong = Overlong.error
    """What to do with prompts beyond `rollout.max_prompt_tokens`."""


@dataclass
class FeedbackDataConfig(DataConfig):
    """What users said of logged replies, as `python -m rlhf.feedback` has written it."""

    path: str = location()
    """The folder that was its `out`."""
    feed: str | None = location(None)
    """A folder of log files: those that appear in it while the run goes on are used too."""
    label: LabelSource = LabelSource.given
    """Who labels what is in `feed`: its own labels, or rules."""
    instruction: str = INSTRUCTION
    """Ends a guided conversation, after the complaint."""
    overlong: Overlong = Overlong.error
    """What to do with conversations whose last turn and replies are too long for `rollout`; of
    others that are too long, the first turns are left out."""


@dataclass
class SimulatedUsersConfig(DataConfig):
    """A log of users with a hidden wish, and new users to please (`rlhf.toys.users`)."""

    num_conversations: int = number(4000, at_least=1)
    num_heldout: int = number(512, at_least=1)
    """Users that the log does not know, who ask for other sums."""
    instruction: str = "once more:"
    """Ends a guided conversation."""


@dataclass
class GameDataConfig(DataConfig):
    """One question, asked again and again, with the answers of a known game."""

    game: str = location()
    """Its file: that of `judge.game`, if the judge is to know the answers."""
    prompt: str = "play:"
    base: list[float] = field(default_factory=list)
    """Shares of the answers in the demonstrations, for `warmup`. Without any, they fall from the
    first answer to a quarter of it for the last."""
    num_prompts: int = number(4096, at_least=1)
    num_heldout: int = number(2048, at_least=1)

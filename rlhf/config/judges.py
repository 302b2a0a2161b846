"""What decides which completion is better."""

from dataclasses import dataclass
from enum import Enum

from rlhf.config.texts import location, name
from rlhf.ranges import number


class Check(Enum):
    integer = "integer"
    """The completion is the answer: one integer, nothing else."""
    last_line = "last_line"
    """The completion's last line is the answer: one integer, nothing else."""
    math = "math"
    """The completion's final answer is mathematically equal to the reference (`math-verify`)."""


@dataclass
class JudgeConfig:
    num_workers: int = number(1, at_least=1)
    max_failure_rate: float = number(0.1, at_least=0, at_most=1)
    """Share of a round's judgements that may fail before the run stops; those that fail are
    counted and take no part."""


@dataclass
class VerifierConfig(JudgeConfig):
    check: Check = Check.integer


@dataclass
class RewardModelConfig(JudgeConfig):
    path: str = location()
    """A Hugging Face sequence-classification model with one label. An answer that has not ended is
    scored at the last token of its text, as `python -m rlhf.reward kind=steps` teaches."""
    max_tokens: int = number(4096, at_least=1)
    """Prompt and completion together; a longer one is a judge failure."""
    micro_batch_tokens: int = number(16384, at_least=1)
    dtype: str = name("auto")


@dataclass
class PairModelConfig(JudgeConfig):
    path: str = location()
    """A Hugging Face sequence-classification model with one label, that reads a prompt and two
    completions: the logit of preferring the first (as PairRM)."""
    max_tokens: int = number(4096, at_least=1)
    """Prompt and both completions together; a longer pair is a judge failure."""
    micro_batch_tokens: int = number(16384, at_least=1)
    dtype: str = name("auto")


@dataclass
class GPMConfig(JudgeConfig):
    path: str = location()
    """A Hugging Face sequence-classification model with an even number of labels: a preference
    embedding of prompt and completion (general preference model)."""
    temperature: float = number(0.1, above=0)
    """Of the score in P = σ(score / temperature); that of its training."""
    max_tokens: int = number(4096, at_least=1)
    """Prompt and completion together; a longer one is a judge failure."""
    micro_batch_tokens: int = number(16384, at_least=1)
    dtype: str = name("auto")


@dataclass
class LLMJudgeConfig(JudgeConfig):
    """A language model that is asked which of two completions is better, in both orders; one that
    thinks before it answers is given `rlhf.judges.thoughts.THOUGHT_TOKENS` for that.

    Either `path`, by rollout workers of its own, or `endpoint`.
    """

    path: str | None = location(None)
    """A Hugging Face directory or hub id, run on the engine of `rollout`."""
    endpoint: str | None = name()
    """Base URL of an OpenAI-compatible server, such as http://judge:8000/v1; its key is read from
    the environment variable AGON_JUDGE_API_KEY."""
    model: str | None = name()
    """The model's name at the endpoint."""
    template: str | None = location(None)
    """A text file with {prompt}, {first} and {second}, that ends by asking for A or B; by default
    that of `rlhf.judges.template`."""
    user_guided: bool = False
    """Judge by what the user said they wanted, as a checklist: prompts need it, as those of
    `data=feedback` have it, and a template {wishes}."""
    logprobs: bool = True
    """Ask the endpoint how likely A and B are. False takes its one letter for certain, for servers
    that refuse to tell."""
    max_tokens: int = number(8192, at_least=1)
    """Of the filled template; a longer one is a judge failure."""
    concurrency: int = number(64, at_least=1)
    """Requests under way at the endpoint."""
    timeout_s: float = number(60.0, above=0)
    """Of one request to the endpoint, which is made up to three times."""


@dataclass
class NoJudgeConfig(JudgeConfig):
    """Nobody judges: for algorithms that learn from what users said alone."""


@dataclass
class SimulatedUserJudgeConfig(JudgeConfig):
    """The simulated users of `data=simulated_users` say whether they are satisfied."""


@dataclass
class GameConfig(JudgeConfig):
    game: str = location()
    """A JSON file {"answers": [...], "win_prob": [[...], ...]}: a known game; a relative path is
    one from the working directory, or else from Agon's own folder."""

"""What every algorithm says of itself, what it may leave as it is here, and what it is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rlhf.collecting.truncated import Truncated
from rlhf.options import Fact, Option
from rlhf.ranges import number
from rlhf.records import Prompt, Sampling, UserFeedback
from rlhf.stages import Algorithm, Judge, Rollout, Store
from rlhf.tree.evaluator import Evaluator


def _nobody_tokenizes(text: str) -> tuple[int, ...]:
    raise NotImplementedError("no tokenizer was offered")


@dataclass(frozen=True, slots=True)
class Services:
    """What an algorithm may ask for."""

    rollout: Rollout
    """Answers, with the tools that the policy may use."""
    judge: Judge | None
    """None if nobody judges."""
    sampling: Sampling
    feedback: Mapping[str, UserFeedback]
    """What users said, by prompt id; grows where there is a feed."""
    learns_from_ties: bool
    """The objective's: whether it wants pairs that nobody wins."""
    store: Store | None
    """What `AlgorithmConfig.store` made."""
    self_evaluation: Callable[[bool], Evaluator]
    """The policy, asked whether it is right so far; given whether it is shown the solution."""
    completion_ids: Callable[[str], tuple[int, ...]] = _nobody_tokenizes
    """A text as the policy should emit it, with what ends its turn: only for what it has not
    emitted."""


@dataclass
class AlgorithmConfig(Option):
    """How a prompt becomes preferences; a subclass is an option, its fields are its keys."""

    stale_why: ClassVar[str | None] = None
    """Why it cannot do with rounds that run ahead, if it cannot."""

    num_completions: int = number(8, at_least=2)
    """Completions of the policy per prompt."""
    temperature: float = number(1.0, above=0)
    top_p: float = number(1.0, above=0, at_most=1)
    truncated: Truncated = Truncated.drop

    @property
    def most_completions(self) -> int:
        """Of one prompt, that a rollout worker draws at once."""
        return max(1, self.num_completions)

    @property
    def ends(self) -> tuple[str, ...]:
        """Texts that end a step of an answer."""
        return ()

    @property
    def samples_initial_policy(self) -> bool:
        """Whether completions of the initial policy, or of a mixture with it, are asked for."""
        return False

    @property
    def soft_labels(self) -> tuple[str, str] | None:
        """What makes a chosen side better with a probability alone, and what to set instead."""
        return None

    @property
    def asks_policy(self) -> bool:
        """Whether the policy is asked about its answers, and so must be able to say A or B."""
        return False

    @property
    def first_epochs(self) -> int:
        """Passes of round 0 over the pairs of `warm_start`; 0 if it has no such round."""
        return 0

    def warm_start(self) -> "AlgorithmConfig":
        """What collects round 0, where it is another."""
        return self

    def usable(
        self, prompts: Sequence[Prompt], feedback: Mapping[str, UserFeedback]
    ) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
        """The prompts that it can use, and those of the warm start.

        Raises InputError if there are none.
        """
        return prompts, ()

    def needs(self) -> Mapping[Fact, str]:
        return {
            Fact.verdicts: "judge=none: someone has to compare completions, but for algorithm=drift"
        }

    def store(self, directory: Path, first_round: int, num_rounds: int) -> Store | None:
        """What a run keeps for it beside preferences, and finds again after a crash."""
        return None

    def make(self, services: Services) -> Algorithm:
        """One for a whole run."""
        raise NotImplementedError

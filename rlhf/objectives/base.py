"""What every objective says of itself, and what it may leave as it is here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs
from rlhf.options import Fact, Option
from rlhf.records import Columns, Preference


class Anchor(Enum):
    initial = "initial"
    """The policy before the first round; never moves."""
    previous = "previous"
    """The policy at the start of the round."""


@dataclass
class ObjectiveConfig(Option):
    """What is minimised on a preference; a subclass is an option, its fields are its keys."""

    learns_from_ties: ClassVar[bool] = False
    """Whether a pair that nobody wins, such as two equal texts, has a gradient of its own: where
    either side has a target or a KL by itself. A margin of equal texts is 0 whatever the policy."""
    takes_certain_labels: ClassVar[bool] = False
    """Takes the chosen side for the winner for certain, whatever its win probability."""
    needs_self_play: ClassVar[bool] = False
    """Its completions play each other, so that there are win probabilities to learn from."""
    needs_score: ClassVar[str | None] = None
    """What a side's score must be: `algorithm.score`."""
    needs_whole_lists: ClassVar[bool] = False
    """The loss of a pair depends on the other completions of its prompt."""
    needs_whole_steps: ClassVar[bool] = False
    """The loss of a pair depends on all pairs of its optimizer step, by `statistic`."""
    needs_tokens: ClassVar[bool] = False
    """The loss looks at the log-probabilities of single tokens: `Pairs.every_token`."""
    game: ClassVar[str | None] = None
    """Its name, if it follows its game's gradient on completions of the policy of the moment alone,
    and nothing corrects for others."""
    has_dpo_weight: ClassVar[bool] = False
    """Whether σ(-β·margin) scales a pair's gradient."""

    @property
    def anchor_names(self) -> tuple[str, ...]:
        """Names of what it compares with: every `Anchor` among its keys."""
        names = [value.value for value in vars(self).values() if isinstance(value, Anchor)]
        return tuple(dict.fromkeys(names))

    @property
    def explores(self) -> bool:
        """Whether it learns from completions of the initial policy too."""
        return False

    @property
    def largest_target(self) -> float | None:
        """The largest target of a squared loss, in nats: of a pair's margin or of one side's
        log-ratio, per token where lengths are divided out; None without such a target."""
        return None

    def needs(self) -> Mapping[Fact, str]:
        needed = {}
        if self.needs_self_play:
            needed[Fact.games] = (
                f"objective={self.name}: needs an algorithm of self-play, such as "
                f"algorithm={self.name}"
            )
        if self.needs_whole_lists:
            needed[Fact.ranked_lists] = (
                f"objective={self.name}: needs a ranked list per prompt; set algorithm=tpo"
            )
        return needed

    def problems_with(self, algorithm: Any) -> Iterator[str]:
        """What cannot be, of its own keys beside those of an algorithm of self-play."""
        if (wanted := self.needs_score) and algorithm.score.value != wanted:
            yield f"algorithm.score={algorithm.score.value}: objective={self.name} needs {wanted}"
        if self.explores and not algorithm.num_initial:
            yield (
                f"algorithm.num_initial=0: objective={self.name} explores away from the initial "
                "policy"
            )

    def cautions(self, max_staleness: int) -> Iterator[str]:
        """What may be, but is hardly meant; told before a run."""
        return iter(())

    def shipped(self) -> "ObjectiveConfig":
        """As it goes to other processes, which start in folders of their own."""
        return self

    def right(self, win_prob_B: Tensor) -> Tensor:
        """The probability with which the loss takes a label to be right, `(B,)`."""
        return win_prob_B

    def mark(self, pair: Preference) -> Preference:
        """The pair with its tokens marked (`Side.emphasis`): policy and anchors alike count each
        as many times as its mark says, in metrics too. Before anchors are asked, and once per
        round."""
        return pair

    def loss(self, pairs: Pairs) -> Tensor:
        """Per pair, `(B,)`, in nats unless it says otherwise; to be minimised."""
        raise NotImplementedError

    def statistic(self, step: Columns) -> float:
        """One number of a whole step's pairs, which the loss of each finds in `Peers.distance`; for
        those that need whole steps."""
        return 0.0

    def first_memory(self) -> Mapping[str, float]:
        """What it knows of earlier steps before the first one: numbers by name, which the loss
        finds in `Pairs.memory`, and which are saved with the policy. Empty without such."""
        return {}

    def noticed(self, pairs: Pairs) -> Mapping[str, Tensor]:
        """A number per pair, `(B,)`, for each name of the memory, of which `after_step` gets the
        means; no gradient flows through them."""
        return {}

    def after_step(
        self, memory: Mapping[str, float], means: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The memory once a step was taken, from that before it and the means of `noticed` over all
        of the step's pairs, by their weights; with the names of before."""
        return memory

"""How a prompt becomes preferences."""

from dataclasses import dataclass
from enum import Enum

from rlhf.config.numbers import number


class PairRule(Enum):
    best_worst = "best_worst"
    """The best completion over the worst: at most one pair per prompt."""
    all_pairs = "all_pairs"
    """Every strictly ordered pair, weighted so that the prompt counts once."""
    correct_wrong = "correct_wrong"
    """A random completion of the best score over a random one of a lower score."""


class Truncated(Enum):
    drop = "drop"
    """A truncated completion takes no part."""
    penalise = "penalise"
    """It takes part with the lowest score of its group, so it is never chosen."""
    keep = "keep"
    """It takes part as if it had ended."""


@dataclass
class AlgorithmConfig:
    num_completions: int = number(8, at_least=2)
    """Completions of the policy per prompt."""
    temperature: float = number(1.0, above=0)
    top_p: float = number(1.0, above=0, at_most=1)
    truncated: Truncated = Truncated.drop


@dataclass
class OnlineDPOConfig(AlgorithmConfig):
    rule: PairRule = PairRule.best_worst
    min_margin: float = number(0.0, at_least=0)
    """Pairs whose scores differ by no more than this are ties, and dropped."""
    min_group: int = number(2, at_least=2)
    """Prompts with fewer judged completions are dropped."""


class SelfPlayRule(Enum):
    best_worst = "best_worst"
    """The completion of the best score over that of the worst."""
    all_pairs = "all_pairs"
    """Every two completions, weighted so that the prompt counts once; where the policy meets the
    initial policy or a mixture, every two of different sides."""
    iid = "iid"
    """The first with the second, the third with the fourth, and so on: independent pairs."""


class Label(Enum):
    soft = "soft"
    """The judge's win probability itself."""
    hard = "hard"
    """The likelier winner wins for certain."""
    sampled = "sampled"
    """The winner is drawn with the win probability, and then wins for certain."""


class Score(Enum):
    win_prob = "win_prob"
    """Mean probability of winning against the group."""
    log_odds = "log_odds"
    """Mean log-odds of winning against the group."""


@dataclass
class SelfPlayConfig(AlgorithmConfig):
    """Completions play against each other, and against those of the initial policy if asked for."""

    num_completions: int = number(8, at_least=0)
    num_initial: int = number(0, at_least=0)
    """Completions of the initial policy per prompt (XPO)."""
    num_mixture: int = number(0, at_least=0)
    """Completions of the token-level mixture of policy and initial policy (Nash-MD, IPO-MD)."""
    mixture: float = number(0.125, at_least=0, at_most=1)
    """Weight of the initial policy in the mixture."""
    rule: SelfPlayRule = SelfPlayRule.best_worst
    label: Label = Label.soft
    score: Score = Score.win_prob
    include_self: bool = True
    """Count a completion's tie with itself in its score, as SPPO does."""
    bt_temperature: float = number(1.0, at_least=0)
    """Turns a judge's scores into P = σ(difference / temperature) where it gives no matrix; at 0
    the higher score wins for certain."""

    @property
    def samples_initial_policy(self) -> bool:
        """Whether completions of the initial policy, or of a mixture with it, are asked for."""
        return self.num_initial + self.num_mixture > 0

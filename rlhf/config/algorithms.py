"""How a prompt becomes preferences."""

from dataclasses import dataclass, field
from enum import Enum

from rlhf.ranges import number


class PairRule(Enum):
    best_worst = "best_worst"
    """The best completion over the worst: at most one pair per prompt."""
    all_pairs = "all_pairs"
    """Every strictly ordered pair, weighted so that the prompt counts once."""
    correct_wrong = "correct_wrong"
    """A random completion of the best score over a random one of a lower score."""


class Truncated(Enum):
    drop = "drop"
    """A truncated completion takes no part: in no pair, and in nobody's win rate."""
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


class Chosen(Enum):
    guided = "guided"
    """Sampled from the prompt, the reply that displeased, the complaint and an instruction."""
    plain = "plain"
    """Sampled from the prompt."""
    logged = "logged"
    """A reply of the log that satisfied."""


class Rejected(Enum):
    logged = "logged"
    """The reply of the log that displeased."""
    plain = "plain"
    """Sampled from the prompt."""


class Filter(Enum):
    """Why a chosen side is not trained on."""

    empty = "empty"
    """No text."""
    role_marker = "role_marker"
    """A turn of its own begins in it, such as `User:`."""
    near_copy = "near_copy"
    """It repeats the rejected side but for little: more than `max_similarity`."""
    refers_back = "refers_back"
    """It apologises, or speaks of an earlier answer, which whoever reads the prompt never saw."""
    refusal = "refusal"
    """It does what the rejected side refused to do, and perhaps rightly."""


@dataclass
class DriftConfig(AlgorithmConfig):
    """One side or both are what users said something about, the other is sampled afresh."""

    num_completions: int = number(1, at_least=1)
    """Completions per prompt of either sampled side; each makes a pair."""
    chosen: Chosen = Chosen.guided
    rejected: Rejected = Rejected.logged
    filters: list[Filter] = field(
        default_factory=lambda: [
            Filter.empty,
            Filter.role_marker,
            Filter.near_copy,
            Filter.refers_back,
        ]
    )
    """What of the chosen side is dropped; what is not listed is kept."""
    max_similarity: float = number(0.9, at_least=0, at_most=1)
    """Shared pairs of neighbouring tokens, beyond which a reply is a near copy."""
    min_margin: float | None = None
    """By how much the judge has to score the chosen side higher; without it no judge is asked."""
    seed_epochs: int = number(3, at_least=0)
    """Passes of round 0 over the log's own pairs: a reply that displeased and the next one, which
    satisfied. 0 leaves that round out."""


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


class Search(Enum):
    mcts = "mcts"
    """Monte-Carlo tree search with the policy's own prior (PUCT)."""
    best_first = "best_first"
    """To the best of several next steps, by the share of right look-aheads."""


class StepValue(Enum):
    """Who says how promising a partial answer is."""

    outcome = "outcome"
    """Nobody: whole answers alone have a value."""
    self_evaluation = "self_evaluation"
    """The policy is asked whether it is right so far."""
    judge = "judge"
    """`judge`, as a process reward model."""


class RejectedSibling(Enum):
    worst = "worst"
    """The sibling of the least Q."""
    random = "random"
    """One that is not the best."""
    all = "all"
    """Each that is not the best, in a pair of its own."""


class TreePairs(Enum):
    siblings = "siblings"
    """Steps that go on from the same place."""
    ranked = "ranked"
    """Whole answers of the tree, each over every one that is worth less."""


@dataclass
class TreeConfig(AlgorithmConfig):
    """A search over the steps of an answer; siblings in its tree make pairs."""

    num_completions: int = number(2, at_least=1)
    """Steps that are drawn where a partial answer is to go on."""
    num_root_completions: int = number(4, at_least=1)
    """Steps that are drawn where the answer begins."""
    truncated: Truncated = Truncated.penalise
    """An answer that meets `rollout.max_completion_tokens`: wrong, or judged like any other."""
    search: Search = Search.mcts
    value: StepValue = StepValue.outcome
    see_solution: bool = False
    """Show the policy the prompt's answer where it evaluates itself."""
    stop: list[str] = field(default_factory=lambda: ["\n"])
    """Texts that end a step; a step that has none of them ends the answer."""
    step_tokens: int = number(128, at_least=1)
    """Tokens of the policy after which a step is cut."""
    max_depth: int = number(8, at_least=1)
    """Steps beyond which the rest of an answer is drawn as one."""
    num_simulations: int = number(8, at_least=1)
    """Before each move but the first."""
    num_root_simulations: int = number(32, at_least=1)
    """Before the first move."""
    num_parallel: int = number(1, at_least=1)
    """Simulations of one tree at a time; more are quicker, and choose with less knowledge."""
    exploration: float = number(1.0, at_least=0)
    """Weight of the prior and of what was tried little."""
    num_lookaheads: int = number(8, at_least=1)
    """Answers that tell how promising a step is, in best-first search."""
    max_similarity: float = number(1.0, at_least=0, at_most=1)
    """Shared pairs of neighbouring tokens, beyond which two steps with equal numbers are one."""
    pairs: TreePairs = TreePairs.siblings
    list_size: int = number(5, at_least=2)
    """Answers of a tree that are ranked, from its best to its worst."""
    rejected: RejectedSibling = RejectedSibling.worst
    min_gap: float = number(0.05, at_least=0)
    """Pairs whose Q, or whose worth in a ranked list, differ by less are ties, and dropped."""
    min_visits: int = number(1, at_least=0)
    """Pairs of which a side was tried less often are dropped, unless it is a whole answer."""
    smooth_labels: bool = True
    """Trust a label by how often its sides were tried."""
    whole_tree: bool = False
    """Pair siblings everywhere in the tree, not along the chosen path alone."""

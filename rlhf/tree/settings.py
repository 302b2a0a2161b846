"""How trees are grown and paired."""

from dataclasses import dataclass, field
from enum import Enum

from rlhf.collecting.truncated import Truncated
from rlhf.ranges import number


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
class TreeSettings:
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

"""Step-level preferences: a search over one prompt's answers, and its siblings as pairs."""

from dataclasses import dataclass
from functools import partial
from typing import Protocol

from rlhf.config.algorithms import Search, TreeConfig, TreePairs
from rlhf.records import Collected, Judgement, Prompt
from rlhf.tree import best_first, mcts
from rlhf.tree.expansion import Grower
from rlhf.tree.nodes import Tree
from rlhf.tree.pairs import sibling_pairs
from rlhf.tree.ranking import ranked_pairs


class Kept(Protocol):
    """Trees that are finished, so that none is searched twice."""

    def find(self, prompt: Prompt, seed: int) -> Tree | None: ...

    def add(self, tree: Tree) -> None: ...


@dataclass(frozen=True, slots=True)
class TreeSearch:
    """Xie et al. 2024 (arXiv 2405.00451), or by best-first search He et al. 2024 (arXiv
    2407.00390)."""

    grower: Grower
    config: TreeConfig
    kept: Kept

    async def collect(self, prompt: Prompt, seed: int) -> Collected:
        tree = self.kept.find(prompt, seed)
        if tree is None:
            tree = await self._searched(prompt, seed)
            self.kept.add(tree)
        answers = [node for node in tree.answers if node.step is not None]
        scores = tuple(node.score for node in answers)
        made = ranked_pairs if self.config.pairs is TreePairs.ranked else sibling_pairs
        preferences, dropped = made(tree, self.config)
        completions = tuple(tree.answer(node) for node in answers)
        judgement = Judgement(scores, tree.judge)
        return Collected(prompt, completions, judgement, preferences, dropped, tree)

    async def _searched(self, prompt: Prompt, seed: int) -> Tree:
        config, tree = self.config, Tree.planted(prompt, seed)
        grow = partial(self.grower.grow, tree)
        if config.search is Search.best_first:
            look_ahead = partial(self.grower.look_ahead, tree)
            await best_first.search(tree.root, grow, look_ahead, config.num_lookaheads)
        else:
            tree.num_simulations = await mcts.search(
                tree.root,
                grow,
                num_simulations=config.num_simulations,
                num_root_simulations=config.num_root_simulations,
                num_parallel=config.num_parallel,
                exploration=config.exploration,
            )
        return tree

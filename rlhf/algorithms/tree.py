"""Step-level preferences: a search over one prompt's answers, and its siblings as pairs."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

from rlhf.algorithms.base import AlgorithmConfig, Services
from rlhf.collecting.truncated import Truncated
from rlhf.options import TURNS, Fact
from rlhf.records import (
    Asked,
    Collected,
    Completion,
    Dropped,
    Preference,
    Prompt,
    Said,
    compared,
    gathered,
)
from rlhf.tree import best_first, mcts
from rlhf.tree.evaluator import Evaluator
from rlhf.tree.expansion import Grower
from rlhf.tree.nodes import Tree, chain
from rlhf.tree.pairs import sibling_pairs
from rlhf.tree.process_reward import ProcessReward
from rlhf.tree.ranking import ranked_pairs
from rlhf.tree.settings import Search, StepValue, TreePairs, TreeSettings
from rlhf.tree.store import TreeStore


@dataclass
class TreeConfig(TreeSettings, AlgorithmConfig):
    """A search over the steps of an answer; siblings in its tree make pairs."""

    name: ClassVar[str] = "tree"
    stale_why: ClassVar[str | None] = "what a tree knows is of one policy"

    @property
    def most_completions(self) -> int:
        return max(1, self.num_completions, self.num_root_completions, self.num_lookaheads)

    @property
    def ends(self) -> tuple[str, ...]:
        return tuple(self.stop)

    @property
    def soft_labels(self) -> tuple[str, str] | None:
        if self.smooth_labels:
            return "algorithm.smooth_labels=true", "set algorithm.smooth_labels=false"
        return None

    @property
    def asks_policy(self) -> bool:
        return self.value is StepValue.self_evaluation

    def gives(self) -> Set[Fact]:
        # Of most steps there is no verdict, unless each is judged.
        ranked = self.pairs is TreePairs.ranked
        parts = {Fact.parts} if ranked or self.value is StepValue.judge else set()
        return parts | ({Fact.ranked_lists} if ranked else set())

    def needs(self) -> Mapping[Fact, str]:
        one_turn = {Fact.one_turn: f"algorithm: it searches the steps of one turn, and {TURNS}"}
        if self.value is StepValue.judge:
            return one_turn | {
                Fact.partial_scores: "algorithm.value=judge: the judge must score partial answers; "
                "set judge=reward_model, trained by python -m rlhf.reward kind=steps"
            }
        return one_turn | {
            Fact.outcomes: f"algorithm.value={self.value.value}: whole answers must be right or "
            "wrong; set judge=verifier, or algorithm.value=judge with judge=reward_model"
        }

    def problems(self) -> Iterator[str]:
        if self.truncated is Truncated.drop:
            yield "algorithm.truncated=drop: a tree has no gaps; set penalise or keep"
        if not self.stop or not all(self.stop):
            yield f"algorithm.stop={self.stop}: needs texts that end a step, none of them empty"
        if self.num_completions < 2 and self.num_root_completions < 2:
            yield (
                "algorithm.num_completions=1 algorithm.num_root_completions=1: without siblings "
                "there is no pair; set one of them to 2 or more"
            )
        if self.search is Search.best_first and self.value is not StepValue.outcome:
            yield (
                f"algorithm.value={self.value.value}: best-first search goes by look-aheads "
                "alone; set algorithm.value=outcome"
            )
        if self.search is Search.best_first and self.smooth_labels:
            yield (
                "algorithm.smooth_labels=true: best-first search tries every step equally often, "
                "so that no side would be the better one; set algorithm.smooth_labels=false"
            )

    def store(self, directory: Path, first_round: int, num_rounds: int) -> TreeStore:
        return TreeStore(directory, first_round, num_rounds)

    def make(self, services: Services) -> "TreeSearch":
        assert services.judge is not None and isinstance(services.store, TreeStore)
        evaluator: Evaluator | None = None
        if self.value is StepValue.judge:
            evaluator = ProcessReward(services.judge)
        elif self.value is StepValue.self_evaluation:
            evaluator = services.self_evaluation(self.see_solution)
        grower = Grower(services.rollout, services.judge, evaluator, services.sampling, self)
        return TreeSearch(grower, self, services.store)


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

    async def collect(self, asked: Asked) -> Collected:
        prompt, seed = asked.prompt, asked.seed
        tree = self.kept.find(prompt, seed)
        if tree is None:
            tree = await self._searched(prompt, seed)
            self.kept.add(tree)
        answers = [node for node in tree.answers if node.step is not None]
        scores = tuple(node.score for node in answers)
        made = ranked_pairs if self.config.pairs is TreePairs.ranked else sibling_pairs
        preferences, dropped = made(tree, self.config)
        completions = tuple(tree.answer(node) for node in answers)
        told = [tree.said.get(node.index, Said()) for node in answers]
        judgement = gathered(scores, tree.judge, told, tree.member_failures)
        said = said_of_sides(tree, (*preferences, *dropped))
        return Collected(prompt, completions, judgement, preferences, dropped, tree, said=said)

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


def said_of_sides(tree: Tree, pairs: Sequence[Preference | Dropped]) -> dict[Completion, Said]:
    """Of those whose last step, or whole answer, was judged."""
    found = {}
    for completion in (one for pair in pairs for one in compared(pair)):
        *_, last = chain(tree.nodes[completion.sample])
        if last.index in tree.said:
            found[completion] = tree.said[last.index]
    return found

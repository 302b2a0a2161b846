"""Pruned reasoning: the shortest right ending of a sampled answer over the whole of it."""

import asyncio
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

from rlhf.algorithms.base import AlgorithmConfig, Services
from rlhf.collecting.truncated import Truncated
from rlhf.options import TURNS, Fact
from rlhf.ranges import number
from rlhf.records import (
    Asked,
    Collected,
    Completion,
    Dropped,
    DropReason,
    Preference,
    Prompt,
    Said,
    Sampling,
    Verdict,
    compared,
    failures_of,
    gathered,
    said_of,
)
from rlhf.seeds import derive_seed
from rlhf.stages import Judge, Rollout
from rlhf.tree.nodes import Node, Tree

RIGHT = 1.0
"""The score of a right answer."""


@dataclass
class PruneConfig(AlgorithmConfig):
    """Where an answer could have ended: look-aheads after each of its steps."""

    name: ClassVar[str] = "prune"

    num_completions: int = number(2, at_least=1)
    """Answers per prompt; each makes a pair at most."""
    stop: list[str] = field(default_factory=lambda: ["\n"])
    """Texts that end a step; a step that has none of them ends the answer."""
    max_steps: int = number(16, at_least=2)
    """Beyond which the rest of an answer is one step."""
    num_lookaheads: int = number(4, at_least=1)
    """Endings that are drawn after each step."""
    ending_tokens: int = number(128, at_least=1)
    """Of an ending at most."""

    @property
    def most_completions(self) -> int:
        return self.num_lookaheads

    @property
    def ends(self) -> tuple[str, ...]:
        return tuple(self.stop)

    def gives(self) -> Set[Fact]:
        return {Fact.parts}

    def needs(self) -> Mapping[Fact, str]:
        return {
            Fact.outcomes: "algorithm=prune: endings must be right or wrong; set judge=verifier",
            Fact.one_turn: f"algorithm=prune: it looks for an end in one turn, and {TURNS}",
        }

    def problems(self) -> Iterator[str]:
        if not self.stop or not all(self.stop):
            yield f"algorithm.stop={self.stop}: needs texts that end a step, none of them empty"

    def make(self, services: Services) -> "Prune":
        assert services.judge is not None
        return Prune(services.rollout, services.judge, services.sampling, self)


class Pruned(NamedTuple):
    """An answer, and how it could have ended."""

    judged: tuple[Completion, ...]
    """The answer first, then its endings."""
    verdict: Verdict
    """Of these."""
    found: Preference | Dropped
    """What comes of that."""
    num_more_tokens: int
    """That the endings took."""

    def said(self) -> dict[Completion, Said]:
        """Of the sides of the pair that was found."""
        places = {completion: place for place, completion in enumerate(self.judged)}
        return {one: said_of(self.verdict, places[one]) for one in compared(self.found)}


@dataclass(frozen=True, slots=True)
class Prune:
    """Dynamic thinking optimisation, by Monte-Carlo look-aheads (Think wisely: its exit points)."""

    rollout: Rollout
    judge: Judge
    sampling: Sampling
    config: PruneConfig

    async def collect(self, asked: Asked) -> Collected:
        prompt, seed = asked.prompt, asked.seed
        each = (self._pruned(prompt, seed + i, i) for i in range(self.config.num_completions))
        pruned = await asyncio.gather(*each)
        pairs = [one.found for one in pruned if isinstance(one.found, Preference)]
        preferences = tuple(replace(pair, weight=1 / len(pairs)) for pair in pairs)
        dropped = tuple(one.found for one in pruned if isinstance(one.found, Dropped))
        verdicts = [one.verdict for one in pruned]
        scores = [verdict.scores[0] for verdict in verdicts]
        said = [said_of(verdict, 0) for verdict in verdicts]
        return Collected(
            prompt,
            tuple(one.judged[0] for one in pruned),
            gathered(scores, verdicts[0].judge, said, failures_of(verdicts)),
            preferences,
            dropped,
            num_more_tokens=sum(one.num_more_tokens for one in pruned),
            said={side: told for one in pruned for side, told in one.said().items()},
        )

    async def _pruned(self, prompt: Prompt, seed: int, sample: int) -> Pruned:
        tree = await self._answer(prompt, seed)
        answer = replace(tree.answer(tree.nodes[-1]), sample=sample)
        exits = [node for node in tree.nodes[1:] if not node.ended]
        if answer.truncated and self.config.truncated is Truncated.drop:
            exits = []  # it takes no part, so how it could have ended does not matter
        drawn = await asyncio.gather(*(self._endings(tree, node) for node in exits))
        endings = [
            replace(begun.followed_by(rest), sample=self.config.num_completions + sample)
            for begun, rests in drawn
            for rest in rests
        ]
        num_tokens = sum(rest.num_own_tokens for _, rests in drawn for rest in rests)
        judged = (answer, *endings)
        verdict = await self.judge.judge(prompt, judged)
        return Pruned(judged, verdict, self._pair(prompt, answer, endings, verdict), num_tokens)

    async def _answer(self, prompt: Prompt, seed: int) -> Tree:
        """A tree without branches: a node per step, the last of which has ended."""
        config, tree = self.config, Tree.planted(prompt, seed)
        node, left = tree.root, self.sampling.max_tokens
        while not node.ended:
            stop = tuple(config.stop) if node.depth < config.max_steps - 1 else ()
            sampling = replace(self.sampling, num_completions=1, max_tokens=left, stop=stop)
            step_seed = derive_seed(seed, node.index, "step")
            (step,) = await self.rollout.generate(tree.begun(node), sampling, step_seed)
            left -= len(step.token_ids)
            goes_on = step.stopped and left > 0
            if step.stopped and not goes_on:
                step = replace(step, stopped=False, truncated=True)
            node = tree.add(node, step, ended=not goes_on)
        return tree

    async def _endings(self, tree: Tree, node: Node) -> tuple[Completion, tuple[Completion, ...]]:
        """The answer up to here, and how it could go on to its end."""
        begun = tree.answer(node)
        left = self.sampling.max_tokens - len(begun.token_ids)
        sampling = replace(
            self.sampling,
            num_completions=self.config.num_lookaheads,
            max_tokens=min(self.config.ending_tokens, left),
        )
        seed = derive_seed(tree.seed, node.index, "ending")
        return begun, await self.rollout.generate(tree.begun(node), sampling, seed)

    def _pair(
        self, prompt: Prompt, answer: Completion, endings: list[Completion], verdict: Verdict
    ) -> Preference | Dropped:
        """The shortest right ending over the answer, if it is shorter than that.

        Dropped as ALL_WRONG where no ending is right, as NOT_SHORTER where none of those is
        shorter, and as JUDGE_FAILED where nobody can tell.
        """
        worth, *scores = verdict.scores
        if answer.truncated and self.config.truncated is Truncated.drop:
            return Dropped(DropReason.TRUNCATED, None, answer)
        if worth is None:
            return Dropped(DropReason.JUDGE_FAILED, None, answer)
        right = [
            (ending, score)
            for ending, score in zip(endings, scores, strict=True)
            if score is not None and score >= RIGHT and not ending.truncated
        ]
        if not right:
            unknown = None in scores
            reason = DropReason.JUDGE_FAILED if unknown else DropReason.ALL_WRONG
            return Dropped(reason, None, answer)
        best, score = min(right, key=lambda one: len(one[0].token_ids))
        if len(best.token_ids) >= len(answer.token_ids):
            return Dropped(DropReason.NOT_SHORTER, best, answer)
        if answer.truncated and self.config.truncated is Truncated.penalise:
            worth = 0.0
        return Preference.over(prompt, best, answer, score, worth, verdict.judge)

"""Growing a search tree: steps from the policy, values from whoever judges partial answers."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rlhf.config.algorithms import StepValue, TreeConfig, Truncated
from rlhf.records import Completion, Prompt, Sampling
from rlhf.seeds import derive_seed
from rlhf.similarity import similarity
from rlhf.stages import Judge, Rollout
from rlhf.tree.nodes import Node, Tree

_NUMBER = re.compile(r"\d+")


class Evaluator(Protocol):
    """Says how promising partial answers are."""

    async def confidence(self, prompt: Prompt, answer: Completion) -> float | None:
        """From 0 to 1, of the answer so far; None if it cannot tell."""
        ...


@dataclass(frozen=True, slots=True)
class Grower:
    """What trees grow by; one for all trees of a run."""

    rollout: Rollout
    judge: Judge
    evaluator: Evaluator | None
    """Without one, nothing but whole answers has a value."""
    sampling: Sampling
    """Of whole answers: `max_tokens` is the most that one may have."""
    config: TreeConfig

    async def grow(self, tree: Tree, node: Node, start: Node) -> None:
        """Gives the node its children: steps from the policy, near duplicates merged.

        Beyond `max_depth` steps below `start`, where the search now stands, it is one child: the
        rest of the answer.
        """
        config = self.config
        left = self.sampling.max_tokens - sum(len(step.token_ids) for step in node.steps)
        if node.depth - start.depth >= config.max_depth:
            sampling = replace(self.sampling, num_completions=1, max_tokens=left)
        else:
            num = config.num_root_completions if node is tree.root else config.num_completions
            max_tokens = min(config.step_tokens, left)
            sampling = replace(
                self.sampling, num_completions=num, max_tokens=max_tokens, stop=tuple(config.stop)
            )
        drawn = await self._draw(tree, node, sampling, "step")
        for step in drawn:
            step = _fitted(step, left)
            if twin := _twin(node.children, step, config.max_similarity):
                twin.num_copies += 1
            else:
                # A step that was cut at its own limit, not at that of answers, goes on; one that
                # was cut before either has called too often.
                is_cut = step.num_own_tokens >= sampling.max_tokens and len(step.token_ids) < left
                goes_on = step.stopped or (step.truncated and is_cut)
                tree.add(node, step, ended=not goes_on)
        await asyncio.gather(*(self._evaluate(tree, child) for child in node.children))

    async def look_ahead(self, tree: Tree, node: Node) -> None:
        """The share of right answers among several that go on from here becomes its score."""
        left = self.sampling.max_tokens - sum(len(step.token_ids) for step in node.steps)
        if node.ended:
            return
        sampling = replace(
            self.sampling, num_completions=self.config.num_lookaheads, max_tokens=left
        )
        rests = await self._draw(tree, node, sampling, "look-ahead")
        begun = tree.answer(node)
        answers = [replace(begun.followed_by(rest), sample=rest.sample) for rest in rests]
        scores = [s for s in await self._scores(tree, answers) if s is not None]
        if scores:
            node.score = sum(scores) / len(scores)
            node.value = 2 * node.score - 1

    async def _draw(
        self, tree: Tree, node: Node, sampling: Sampling, why: str
    ) -> tuple[Completion, ...]:
        begun = tree.begun(node)
        seed = derive_seed(tree.seed, node.index, why)
        drawn = await self.rollout.generate(begun, sampling, seed)
        tree.num_tokens += sum(completion.num_own_tokens for completion in drawn)
        tree.num_prompt_tokens += len(begun.token_ids)
        tree.num_cached_tokens += drawn[0].num_cached_tokens
        return drawn

    async def _evaluate(self, tree: Tree, node: Node) -> None:
        """v(s): the evaluator's confidence, and the outcome (±1) once the answer is whole."""
        answer = tree.answer(node)
        if self.evaluator is not None:
            tree.num_evaluated += 1
            node.confidence = await self.evaluator.confidence(tree.prompt, answer)
        if node.confidence is not None:
            # Less in deep trees, where outcomes are near (Xie et al. 2024, Section 2.1 and code).
            depth = node.parent.depth if node.parent else 0
            node.value = node.confidence / max(depth - 3, 1)
        if node.ended:
            await self._end(tree, node, answer)

    async def _end(self, tree: Tree, node: Node, answer: Completion) -> None:
        """A whole answer's score; but for a process reward, its outcome adds to its value."""
        if answer.truncated and self.config.truncated is Truncated.penalise:
            node.score = 0.0
        elif self.config.value is StepValue.judge:
            node.score = node.confidence
        else:
            (node.score,) = await self._scores(tree, [answer])
        if self.config.value is StepValue.judge:
            node.value = node.score
        elif node.score is not None:
            node.value = (node.value or 0.0) + 2 * node.score - 1

    async def _scores(self, tree: Tree, answers: Sequence[Completion]) -> Sequence[float | None]:
        tree.num_judged += len(answers)
        verdict = await self.judge.judge(tree.prompt, answers)
        tree.judge = verdict.judge
        return verdict.scores


def _fitted(step: Completion, left: int) -> Completion:
    """With no more tokens than are left; if it would go on beyond them, it is truncated."""
    length = len(step.token_ids)
    if length < left or (length == left and not step.stopped):
        return step
    return replace(step.between(0, left), truncated=True, stopped=False)


def _twin(siblings: Sequence[Node], step: Completion, max_similarity: float) -> Node | None:
    """The sibling that says the same: but for white space, or nearly so and with equal numbers."""
    words = step.text.split()
    numbers = _NUMBER.findall(step.text)
    for node in siblings:
        other = node.step
        if other is None or other.stopped != step.stopped:
            continue
        if other.text.split() == words:
            return node
        alike = similarity(other.token_ids, step.token_ids) > max_similarity
        if alike and _NUMBER.findall(other.text) == numbers:
            return node
    return None

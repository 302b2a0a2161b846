"""Growing a search tree: steps from the policy, values from whoever judges partial answers."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlhf.collecting.similarity import similarity
from rlhf.collecting.truncated import Truncated
from rlhf.records import Completion, Said, Sampling, Verdict, failures_of, said_of
from rlhf.seeds import derive_seed
from rlhf.stages import Judge, Rollout
from rlhf.tree.evaluator import Evaluator
from rlhf.tree.nodes import Node, Tree
from rlhf.tree.settings import StepValue, TreeSettings

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Grower:
    """What trees grow by; one for all trees of a run."""

    rollout: Rollout
    judge: Judge
    evaluator: Evaluator | None
    """Without one, nothing but whole answers has a value."""
    sampling: Sampling
    """Of whole answers: `max_tokens` is the most that one may have."""
    config: TreeSettings

    async def grow(self, tree: Tree, leaves: Sequence[Node], start: Node) -> None:
        """Gives the leaves their children: steps from the policy, near duplicates merged.

        Children are made once all are drawn, so that a tree does not depend on who is quicker.
        Beyond `max_depth` steps below `start`, where the search now stands, a leaf has one child:
        the rest of the answer.
        """
        samplings = [self._sampling(tree, leaf, start) for leaf in leaves]
        asked = zip(leaves, samplings, strict=True)
        drawn = await asyncio.gather(*(self._draw(tree, *one, "step") for one in asked))
        for leaf, sampling, steps in zip(leaves, samplings, drawn, strict=True):
            for step in steps:
                self._add(tree, leaf, step, sampling)
        children = (child for leaf in leaves for child in leaf.children)
        await asyncio.gather(*(self._evaluate(tree, child) for child in children))

    def _sampling(self, tree: Tree, node: Node, start: Node) -> Sampling:
        config, left = self.config, self._left(node)
        if node.depth - start.depth >= config.max_depth:
            return replace(self.sampling, num_completions=1, max_tokens=left)
        num = config.num_root_completions if node is tree.root else config.num_completions
        max_tokens = min(config.step_tokens, left)
        return replace(
            self.sampling, num_completions=num, max_tokens=max_tokens, stop=tuple(config.stop)
        )

    def _left(self, node: Node) -> int:
        """How many tokens may follow the node's partial answer."""
        return self.sampling.max_tokens - sum(len(step.token_ids) for step in node.steps)

    def _add(self, tree: Tree, node: Node, step: Completion, sampling: Sampling) -> None:
        left = self._left(node)
        step = _fitted(step, left)
        # A step that was cut at its own limit, not at that of answers, goes on; one that was cut
        # before either has called too often.
        is_cut = step.num_own_tokens >= sampling.max_tokens and len(step.token_ids) < left
        ended = not (step.stopped or (step.truncated and is_cut))
        if twin := _twin(node.children, step, ended, self.config.max_similarity):
            twin.num_copies += 1
        else:
            tree.add(node, step, ended)

    async def look_ahead(self, tree: Tree, node: Node) -> None:
        """The share of right answers among several that go on from here becomes its score."""
        if node.ended:
            return
        num, left = self.config.num_lookaheads, self._left(node)
        sampling = replace(self.sampling, num_completions=num, max_tokens=left)
        rests = await self._draw(tree, node, sampling, "look-ahead")
        begun = tree.answer(node)
        answers = [replace(begun.followed_by(rest), sample=rest.sample) for rest in rests]
        scores = [s for s, _ in await self._judged(tree, answers) if s is not None]
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
        # A step that was cut at its limit goes on too.
        answer = replace(tree.answer(node), stopped=not node.ended)
        if self.evaluator is not None:
            tree.num_evaluated += 1
            node.confidence, verdict = await self.evaluator.opinion(tree.prompt, answer)
            if verdict is not None:
                _take(tree, verdict)
                tree.note(node, said_of(verdict, 0))
        if node.confidence is not None:
            node.value = node.confidence
            if self.config.value is not StepValue.judge and node.parent:
                # Less in deep trees, where outcomes are near (Xie et al. 2024, Section 2.1 and
                # code); a process reward knows of no outcome beside its own.
                node.value /= max(node.parent.depth - 3, 1)
        if node.ended:
            await self._end(tree, node, answer)

    async def _end(self, tree: Tree, node: Node, answer: Completion) -> None:
        """A whole answer's score; but for a process reward, its outcome adds to its value, or if
        the evaluator was silent, to what was thought before. Without a score it has no value."""
        if answer.failure:
            node.value = node.score = None
            return
        if self.config.value is StepValue.judge:
            is_wrong = self._is_wrong(answer)
            node.value = node.score = 0.0 if is_wrong else node.confidence
            return
        ((node.score, said),) = await self._judged(tree, [answer])
        tree.note(node, said)
        before = 0.0 if self.evaluator is None else node.estimate
        node.value = None if node.score is None else before + 2 * node.score - 1

    def _is_wrong(self, answer: Completion) -> bool:
        return answer.truncated and self.config.truncated is Truncated.penalise

    async def _judged(
        self, tree: Tree, answers: Sequence[Completion]
    ) -> Sequence[tuple[float | None, Said]]:
        """The judge's scores, but 0 for what is wrong because it was truncated, and what it said of
        it."""
        asked = [answer for answer in answers if not self._is_wrong(answer)]
        if not asked:
            return [(0.0, Said())] * len(answers)
        tree.num_judged += len(asked)
        verdict = await self.judge.judge(tree.prompt, asked)
        _take(tree, verdict)
        told = ((score, said_of(verdict, i)) for i, score in enumerate(verdict.scores))
        return [(0.0, Said()) if self._is_wrong(answer) else next(told) for answer in answers]


def _take(tree: Tree, verdict: Verdict) -> None:
    """Of the verdict, who judged, and who failed to."""
    tree.judge = verdict.judge
    tree.member_failures = failures_of([tree, verdict])


def _fitted(step: Completion, left: int) -> Completion:
    """With no more tokens than are left; if it would go on beyond them, it is truncated."""
    length = len(step.token_ids)
    if length < left or (length == left and not step.stopped):
        return step
    return replace(step.between(0, left), truncated=True, stopped=False)


def _twin(
    siblings: Sequence[Node], step: Completion, ended: bool, max_similarity: float
) -> Node | None:
    """The sibling that says the same: but for white space, or nearly so and with equal numbers."""
    words = step.text.split()
    numbers = _NUMBER.findall(step.text)
    for node in siblings:
        other = node.step
        if other is None or node.ended != ended:
            continue
        if other.text.split() == words:
            return node
        alike = similarity(other.token_ids, step.token_ids) > max_similarity
        if alike and _NUMBER.findall(other.text) == numbers:
            return node
    return None

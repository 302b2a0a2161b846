"""A search tree: partial answers, what is thought of them, and how often they were tried.

Symbols in comments are those of Xie et al. 2024 (arXiv 2405.00451): s a partial answer, a a step,
v(s) a value, r the gain of a step, N, Q and V the statistics of search.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from rlhf.records import Collected, Completion, Failures, Prompt, Said

JUDGED = "judged"
"""Of a record: what judges said beside scores, and of which of them failed; JSON, or null."""
LENGTH_PENALTY = 1.25
"""λ of the prior: a step's log-probability is divided by its number of own tokens to this power."""


@dataclass(slots=True, eq=False)
class Node:
    """A partial answer: its parent's, and one step more."""

    index: int
    """Position in the tree's `nodes`, in the order of their making; the root is 0."""
    parent: "Node | None" = None
    step: Completion | None = None
    """None at the root alone."""
    depth: int = 0
    """Steps from the root."""
    ended: bool = False
    """The answer is whole: nothing can follow."""
    value: float | None = None
    """v(s), on the scale of outcomes from -1 to 1; None if nobody said."""
    score: float | None = None
    """The judge's of a whole answer, or the share of right look-aheads; None if it has none."""
    confidence: float | None = None
    """The evaluator's probability that the answer is on the right way, before outcomes."""
    prior: float = 1.0
    """How likely the policy thought the step, by its tokens."""
    num_copies: int = 1
    """How often the step was drawn, near duplicates included."""
    visits: int = 0
    q: float = 0.0
    """Q(s, a) of the step that led here: its gain, and what is expected after it."""
    below: float = 0.0
    """V(s): the mean of the children's Q, by visits."""
    pending: int = 0
    """Simulations that are on their way through, and not backed up yet."""
    on_path: bool = False
    """The search moved through it."""
    expanded: bool = False
    children: list["Node"] = field(default_factory=list)

    @property
    def estimate(self) -> float:
        """v(s), or that of the nearest ancestor that has one; 0 if none has."""
        return next((node.value for node in self.way_up if node.value is not None), 0.0)

    @property
    def has_failed(self) -> bool:
        """The answer is whole, and its judge did not say what it is worth."""
        return self.ended and self.value is None

    @property
    def reward(self) -> float:
        """r = v(s') - v(s)."""
        return self.estimate - self.parent.estimate if self.parent else 0.0

    @property
    def way_up(self) -> "Iterator[Node]":
        """From here to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def steps(self) -> list[Completion]:
        """From the root to here."""
        return [node.step for node in self.way_up if node.step is not None][::-1]

    def update(self) -> None:
        """Takes over what the children say: V = Σ max(1, N)·Q / Σ max(1, N), Q = r + V.

        Children whose judge failed say nothing.
        """
        known = [child for child in self.children if not child.has_failed]
        if known:
            weights = [max(1, child.visits) for child in known]
            weighted = (w * child.q for w, child in zip(weights, known, strict=True))
            self.below = sum(weighted) / sum(weights)
        self.q = self.reward + self.below


@dataclass(slots=True, eq=False)
class Tree:
    """One prompt's search: every node, and what it took."""

    prompt: Prompt
    seed: int
    nodes: list[Node]
    judge: str = ""
    """Who judged whole answers; empty before the first."""
    num_tokens: int = 0
    """Generated, duplicates and look-aheads included."""
    num_prompt_tokens: int = 0
    """Read for that, once per request."""
    num_cached_tokens: int = 0
    """Of those, what the engine knew already."""
    num_simulations: int = 0
    num_judged: int = 0
    """Whole answers."""
    num_evaluated: int = 0
    """Partial answers that somebody was asked about."""
    said: dict[int, Said] = field(default_factory=dict)
    """What the judge said beside scores, by the indices of nodes that it was asked about."""
    member_failures: Failures = field(default_factory=dict)
    """Of the judges that it asked, about everything that it was asked."""

    @classmethod
    def planted(cls, prompt: Prompt, seed: int) -> "Tree":
        """With a root alone."""
        return cls(prompt, seed, [Node(0, on_path=True)])

    @property
    def root(self) -> Node:
        return self.nodes[0]

    @property
    def path(self) -> list[Node]:
        """The nodes that the search moved through, the root first."""
        return [node for node in self.nodes if node.on_path]

    @property
    def answers(self) -> list[Node]:
        """The nodes whose answer is whole."""
        return [node for node in self.nodes if node.ended]

    def add(self, parent: Node, step: Completion, ended: bool) -> Node:
        """A new child, not evaluated yet."""
        node = Node(len(self.nodes), parent, step, parent.depth + 1, ended, prior=prior(step))
        self.nodes.append(node)
        parent.children.append(node)
        return node

    def note(self, node: Node, said: Said) -> None:
        """What the judge said of it, if that is anything."""
        if said.parts or said.reason:
            self.said[node.index] = said

    def begun(self, node: Node, extra: Sequence[int] = ()) -> Prompt:
        """The prompt with the node's partial answer, and perhaps more tokens, at its end."""
        steps = node.steps
        ids = [token for step in steps for token in step.token_ids] + list(extra)
        return replace(
            self.prompt,
            token_ids=(*self.prompt.token_ids, *ids),
            prefix="".join(step.text for step in steps),
            num_prefix_tokens=len(ids),
        )

    def answer(self, node: Node) -> Completion:
        """The node's steps as one completion; `sample` is the node's index."""
        return replace(reduce(Completion.followed_by, node.steps), sample=node.index)

    def record(self) -> dict[str, Any]:
        """Everything but the prompt's own tokens, as plain values."""
        asked = {"prompt": self.prompt.text, "answer": self.prompt.answer}
        numbers = {name: getattr(self, name) for name in _TREE_FIELDS}
        return {
            "prompt_id": self.prompt.id,
            **asked,
            **numbers,
            "nodes": list(map(_node_record, self.nodes)),
            JUDGED: self._judged(),
        }

    def _judged(self) -> str | None:
        """As JSON."""
        if not (self.said or self.member_failures):
            return None
        said = {index: one._asdict() for index, one in self.said.items()}
        failures = {name: list(failed) for name, failed in self.member_failures.items()}
        return json.dumps({"said": said, "member_failures": failures})

    @classmethod
    def from_record(cls, record: dict[str, Any], prompt: Prompt) -> "Tree":
        """The tree whose `record` this is; raises KeyError or TypeError if it is none."""
        tree = cls(prompt, nodes=[], **{name: record[name] for name in _TREE_FIELDS})
        for index, values in enumerate(record["nodes"]):
            parent = None if values["parent"] is None else tree.nodes[values["parent"]]
            step = None
            if values["step"] is not None:
                plain = dict(values["step"])
                plain |= {name: tuple(plain[name]) for name in ("token_ids", "logprobs")}
                plain["observed"] = tuple((a, b) for a, b in plain["observed"])
                step = Completion(prompt.id, **plain)
            numbers = {name: values[name] for name in _NODE_FIELDS}
            node = Node(index, parent, step, parent.depth + 1 if parent else 0, **numbers)
            tree.nodes.append(node)
            if parent:
                parent.children.append(node)
        judged = json.loads(record.get(JUDGED) or "{}")  # older runs have none
        tree.said = {int(index): Said(**one) for index, one in judged.get("said", {}).items()}
        failures = judged.get("member_failures", {})
        tree.member_failures = {name: tuple(failed) for name, failed in failures.items()}
        return tree


_TREE_FIELDS = (
    "seed",
    "judge",
    "num_tokens",
    "num_prompt_tokens",
    "num_cached_tokens",
    "num_simulations",
    "num_judged",
    "num_evaluated",
)
_NODE_FIELDS = (
    "ended",
    "value",
    "score",
    "confidence",
    "prior",
    "num_copies",
    "visits",
    "q",
    "below",
    "on_path",
    "expanded",
)
_STEP_FIELDS = (
    "sample",
    "token_ids",
    "logprobs",
    "text",
    "truncated",
    "stopped",
    "policy_version",
    "observed",
)


def _node_record(node: Node) -> dict[str, Any]:
    step = node.step
    plain = step and {name: getattr(step, name) for name in _STEP_FIELDS}
    if plain:
        plain |= {name: list(plain[name]) for name in ("token_ids", "logprobs")}
        plain["observed"] = list(map(list, plain["observed"]))
    parent = node.parent.index if node.parent else None
    return {"parent": parent, "step": plain, **{name: getattr(node, name) for name in _NODE_FIELDS}}


def prior(step: Completion) -> float:
    """exp(Σ log π / |a|^λ): how likely the policy found the step, without a prize for brevity."""
    if not step.num_own_tokens:
        return 1.0
    return math.exp(sum(step.logprobs) / step.num_own_tokens**LENGTH_PENALTY)


def chain(node: Node) -> Iterator[Node]:
    """The node, and those after it as long as there is one child and no other."""
    yield node
    while len(node.children) == 1:
        node = node.children[0]
        yield node


def searched(collected: Iterable[Collected]) -> list[Tree]:
    """The trees of those prompts that have one."""
    return [one.tree for one in collected if isinstance(one.tree, Tree)]

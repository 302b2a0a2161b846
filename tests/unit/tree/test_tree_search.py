"""Search over trees that are known in advance: worked numbers, and what holds for every tree."""

import asyncio
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.records import Completion, Message, Prompt
from rlhf.tree import best_first, mcts
from rlhf.tree.nodes import Node, Tree, prior

PROMPT = Prompt("sum", (Message("user", "12+34="),), (5, 6))


def step(text: str, *nats: float, stopped: bool = True) -> Completion:
    tokens = tuple(ord(character) for character in text)
    return Completion(
        "sum", 0, tokens, nats or (-0.1,) * len(tokens), text, False, 3, stopped=stopped
    )


class Known:
    """A tree that is known in advance: children, values and priors by the text that led there."""

    def __init__(self, children: dict[str, list[tuple[str, float | None, float]]]) -> None:
        self.children = children
        self.tree = Tree.planted(PROMPT, 0)
        self.grown: list[str] = []

    async def grow(self, leaves: Sequence[Node], start: Node) -> None:
        for node in leaves:
            text = "".join(one.text for one in node.steps)
            self.grown.append(text)
            for name, value, how_likely in self.children[text]:
                ended = text + name not in self.children
                child = self.tree.add(node, step(name, stopped=not ended), ended)
                child.value, child.prior = value, how_likely

    def node(self, text: str) -> Node:
        return next(n for n in self.tree.nodes if "".join(s.text for s in n.steps) == text)

    def simulate(self, times: int = 1, num_paths: int = 1) -> None:
        for _ in range(times):
            asyncio.run(mcts.simulate(self.tree.root, self.grow, num_paths, 1.0))


def worked() -> Known:
    """The tree of the reference notes: a and b, two leaves below either."""
    return Known(
        {
            "": [("a", 0.6, 0.5), ("b", 0.4, 0.7)],
            "a": [("1", 1.7, 0.6), ("2", -0.7, 0.3)],
            "b": [("1", -0.5, 0.5), ("2", -0.4, 0.4)],
        }
    )


def test_the_worked_tree() -> None:
    known = worked()
    known.simulate()
    assert known.node("a").q == pytest.approx(0.5)
    assert known.node("a").below == pytest.approx(-0.1)
    assert known.node("a1").visits == 1
    known.simulate()
    assert known.node("b").q == pytest.approx(-0.45)
    assert (known.node("b1").visits, known.node("b2").visits) == (0, 1)
    known.simulate(3)
    assert known.node("a").visits == known.node("a1").visits == 4
    assert known.node("a").q == pytest.approx(1.22)
    assert known.tree.root.below == pytest.approx(0.886)
    assert known.tree.root.visits == 5, "once per simulation"
    known.simulate(3)
    assert known.node("a").q == pytest.approx(1.4)
    assert known.node("a").visits == 7


def test_simulations_that_run_together_go_to_different_leaves_and_grow_each_once() -> None:
    known = worked()
    known.simulate(num_paths=4)
    assert known.grown == ["", "b", "a"]
    # Two go either way; b's leaves are nearly equal, a's second one is hopeless.
    leaves = ("a1", "a2", "b1", "b2")
    assert [known.node(text).visits for text in leaves] == [2, 0, 1, 1]
    assert known.tree.root.visits == 4
    assert all(node.pending == 0 for node in known.tree.nodes)


def test_the_policys_prior_is_normalised_by_length() -> None:
    # Eight tokens that come to -2 nats: exp(-2 / 8^1.25); π/|a|^λ, as the paper has it, is .01006.
    assert prior(step("12345678", *[-0.25] * 8)) == pytest.approx(0.8619, abs=1e-4)
    assert prior(step("1", -2.0)) == pytest.approx(math.exp(-2))


def test_a_missing_value_is_the_parents_and_not_0() -> None:
    known = Known({"": [("a", 0.8, 1.0)], "a": [("b", None, 1.0)], "ab": [("c", 0.5, 1.0)]})
    known.simulate()
    assert known.node("ab").estimate == 0.8
    assert known.node("ab").reward == 0.0
    assert known.node("a").q == pytest.approx(0.8 - 0.3)


def test_an_answer_whose_judge_failed_says_nothing_of_what_led_to_it() -> None:
    known = Known({"": [("a", None, 0.5)], "a": [("x", None, 0.9), ("y", 1.0, 0.1)]})
    known.simulate(3)
    assert known.node("ax").has_failed and known.node("ax").visits > 0
    assert known.node("a").below == 1.0, "y alone, though x was visited more"


def test_a_value_of_0_is_not_missing() -> None:
    known = Known({"": [("a", 0.8, 1.0)], "a": [("b", 0.0, 1.0)]})
    known.simulate()
    assert known.node("ab").q == pytest.approx(-0.8)


def test_moves_go_to_the_most_visited_and_keep_what_is_known_below() -> None:
    known = worked()
    search = mcts.search(
        known.tree.root,
        known.grow,
        num_simulations=2,
        num_root_simulations=5,
        num_parallel=1,
        exploration=1.0,
    )
    assert asyncio.run(search) == 7
    assert [n.index for n in known.tree.path] == [0, known.node("a").index, known.node("a1").index]
    # Four visits before the move and two after, which the root counts too.
    assert known.node("a").visits == 4 + 2
    assert known.tree.root.visits == 7
    assert known.grown == ["", "a", "b"], "nothing is grown twice"


def test_best_first_moves_to_the_step_from_which_most_look_aheads_are_right() -> None:
    known = Known(
        {
            "": [("a", None, 0.5), ("b", None, 0.5), ("c", None, 0.5)],
            "b": [("x", None, 0.5), ("y", None, 0.5)],
        }
    )
    shares = {"a": 0.5, "b": 0.875, "c": None, "bx": 0.0, "by": 1.0}

    async def look_ahead(node: Node) -> None:
        node.score = shares["".join(one.text for one in node.steps)]

    asyncio.run(best_first.search(known.tree.root, known.grow, look_ahead, 8))
    assert ["".join(s.text for s in n.steps) for n in known.tree.path] == ["", "b", "by"]
    assert (known.node("a").q, known.node("a").visits) == (0.5, 8)
    assert known.grown == ["", "b"]


# --- every tree -----------------------------------------------------------------------------------


def random_tree(seed: int, shift: float = 0.0) -> Known:
    """Up to three steps deep, one to three children each, values and priors at random; `shift` is
    added to every value but the root's."""
    rng = random.Random(seed)
    children: dict[str, list[tuple[str, float | None, float]]] = {}

    def fill(text: str, depth: int) -> None:
        names = "abc"[: rng.randint(1, 3)]
        children[text] = []
        for name in names:
            children[text].append((name, rng.uniform(-1, 1) + shift, rng.random()))
        for name in names:
            if depth < 3 and rng.random() < 0.7:
                fill(text + name, depth + 1)

    fill("", 1)
    return Known(children)


def below(node: Node) -> float:
    """The expected value of the leaves, by max(1, N) at every branching; by recursion."""
    if not node.children:
        return node.estimate
    weights = [max(1, child.visits) for child in node.children]
    parts = (w * below(child) for w, child in zip(weights, node.children, strict=True))
    return sum(parts) / sum(weights)


seeds = st.integers(0, 10**6)


@settings(max_examples=60)
@given(seeds, st.integers(1, 20), st.integers(1, 4))
def test_a_steps_q_telescopes_to_its_leaves(seed: int, times: int, num_paths: int) -> None:
    known = random_tree(seed)
    known.simulate(times, num_paths)
    for node in known.tree.nodes[1:]:
        assert node.parent is not None
        assert node.q == pytest.approx(below(node) - node.parent.estimate, abs=1e-9)


@settings(max_examples=60)
@given(seeds, st.integers(1, 20), st.integers(1, 4))
def test_every_visit_goes_on_to_one_child(seed: int, times: int, num_paths: int) -> None:
    known = random_tree(seed)
    known.simulate(times, num_paths)
    assert known.tree.root.visits == times * num_paths
    for node in known.tree.nodes:
        assert node.pending == 0
        if node.expanded:
            assert node.visits == sum(child.visits for child in node.children)
    assert sum(leaf.visits for leaf in known.tree.answers) == times * num_paths


@settings(max_examples=60)
@given(seeds, st.floats(-3, 3))
def test_a_constant_on_all_values_changes_no_q_below_the_first_step(
    seed: int, shift: float
) -> None:
    plain, shifted = random_tree(seed), random_tree(seed, shift)
    plain.simulate(12)
    shifted.simulate(12)
    same = {tuple(s.text for s in n.steps): n for n in shifted.tree.nodes}
    for node in plain.tree.nodes:
        if node.depth < 2:
            continue
        twin = same[tuple(s.text for s in node.steps)]
        assert node.visits == twin.visits, "a constant leads no search astray"
        assert node.q == pytest.approx(twin.q, abs=1e-9)


@settings(max_examples=40)
@given(seeds)
def test_a_tree_comes_back_from_its_record(seed: int) -> None:
    known = random_tree(seed)
    asyncio.run(
        mcts.search(
            known.tree.root,
            known.grow,
            num_simulations=3,
            num_root_simulations=6,
            num_parallel=2,
            exploration=1.0,
        )
    )
    record = known.tree.record()
    assert Tree.from_record(record, PROMPT).record() == record

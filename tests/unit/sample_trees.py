"""Search trees made by hand and by chance, and a run that has some, for tests that show them."""

import random
from pathlib import Path

from rlhf.records import Collected, Completion, Judgement, Message, Preference, Prompt
from rlhf.storage.store import PreferenceStore
from rlhf.tree.nodes import Node, Tree
from rlhf.tree.store import TreeStore

WORDS = ("so", "we", "add", "$x^2$", "which", "must", "equal", "46\t…", "和", "\x1b[31m", "hence")


def prompt(id: str, text: str = "") -> Prompt:
    return Prompt(id, (Message("user", text or f"what is {id}?"),), (1,), answer="46")


def step(tree: Tree, text: str) -> Completion:
    return Completion(tree.prompt.id, 0, (1, 2), (-0.1, -0.1), text, False, 3, stopped=True)


def grown(tree: Tree, parent: Node, text: str, visits: int, q: float, **more: object) -> Node:
    node = tree.add(parent, step(tree, text), ended="score" in more)
    for name, value in {"visits": visits, "q": q, **more}.items():
        setattr(node, name, value)
    return node


def small(id: str, seed: int = 0) -> Tree:
    """Two first steps, of which one leads to a right and a wrong answer."""
    tree = Tree.planted(prompt(id), seed)
    tree.judge, tree.num_tokens, tree.num_simulations = "verifier/last@1", 99, 12
    tree.num_judged, tree.num_prompt_tokens, tree.num_cached_tokens = 2, 40, 10
    tree.root.visits = 12
    good = grown(tree, tree.root, "12+34\n", 9, 0.75, on_path=True)
    grown(tree, tree.root, "\x1b[31m[bold]13\t", 0, -0.5, num_copies=3)
    grown(tree, good, "46", 8, 1.0, on_path=True, score=1.0, value=1.0)
    grown(tree, good, "47", 1, -1.0, score=0.0, value=-1.0)
    return tree


def random_tree(seed: int, num_nodes: int) -> Tree:
    rng = random.Random(seed)
    tree = Tree.planted(prompt(f"random-{seed}", "long question " * 30), seed)
    while len(tree.nodes) < num_nodes:
        parent = rng.choice(tree.nodes[-rng.choice([3, 300]) :])
        text = " ".join(rng.choices(WORDS, k=rng.choice([1, 5, 40]))) + "\n"
        if not parent.ended:
            grown(tree, parent, text, 0, rng.uniform(-2, 2), num_copies=rng.choice([1, 2]))
        if rng.random() < 0.2 and not parent.children:
            parent.ended, parent.score = parent is not tree.root, rng.choice([0.0, 0.3, 1.0, None])
    for _ in range(num_nodes):
        node = tree.root
        node.visits += 1
        while node.children:
            node = node.children[min(int(rng.expovariate(1)), len(node.children) - 1)]
            node.visits += 1
    node = tree.root
    while node.children:
        node = max(node.children, key=lambda child: child.visits)
        node.on_path = True
    return tree


def collected(tree: Tree, *preferences: Preference) -> Collected:
    return Collected(tree.prompt, (), Judgement((), tree.judge), preferences, (), tree)


def pair_of(tree: Tree) -> Preference:
    """The two answers of a `small` tree, as `rlhf.tree.pairs` gives them."""
    chosen, rejected = (
        Completion(tree.prompt.id, index, (7,), (-0.1,), text, False, 3)
        for index, text in ((3, "46"), (4, "47"))
    )
    begun = tree.begun(tree.nodes[1])
    return Preference.over(begun, chosen, rejected, 1.0, -1.0, tree.judge, win_prob=0.875)


def write_run(directory: Path) -> None:
    """Two rounds that are over, and one that is not."""
    trees, preferences = TreeStore(directory, 0), PreferenceStore(directory)
    for round, ids in enumerate((["12+34", "1+2"], ["12+34", "11+22"])):
        made = [small(id, seed=round) for id in ids]
        done = [collected(tree, pair_of(tree)) for tree in made]
        preferences.prepare(round, done)()
        trees.prepare(round, done)()
    trees.add(small("9+9", seed=2))

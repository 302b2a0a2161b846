"""How trees grow: steps, duplicates, values, look-aheads, and what they give in the end."""

import asyncio
import math
from dataclasses import replace

import pytest

from rlhf.algorithms.tree import TreeConfig, TreeSearch
from rlhf.collecting.truncated import Truncated
from rlhf.records import (
    Asked,
    Collected,
    Completion,
    Judgement,
    Message,
    Preference,
    Prompt,
    Sampling,
)
from rlhf.storage.store import preference_rows
from rlhf.tree.evaluator import Evaluator, Opinion
from rlhf.tree.expansion import Grower
from rlhf.tree.metrics import tree_metrics
from rlhf.tree.nodes import Node, Tree
from rlhf.tree.process_reward import ProcessReward
from rlhf.tree.self_evaluation import SelfEvaluation
from rlhf.tree.settings import Search, StepValue, TreePairs
from rlhf.tree.store import TreeStore, unfinished
from rlhf.watching.metrics import collection_metrics

PROMPT = Prompt("sum", (Message("user", "12+34+5="),), (1, 2), "51")


def completion(text: str, **how) -> Completion:
    tokens = tuple(map(ord, text))
    plain = Completion("sum", 0, tokens, (-0.5,) * len(tokens), text, False, 3)
    return replace(plain, **how)


class Scripted:
    """`rlhf.stages.Rollout`: the next completions by how the answer begins; looks into nothing."""

    def __init__(self, **answers: list[Completion]) -> None:
        self.answers = {text.replace("_", "\n"): list(given) for text, given in answers.items()}
        self.asked: list[tuple[Prompt, Sampling, int]] = []

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        self.asked.append((prompt, sampling, seed))
        wanted = prompt.prefix + ("" if sampling.stop else "...")
        given = self.answers[wanted][: sampling.num_completions]
        return tuple(replace(one, sample=i) for i, one in enumerate(given))


class Last:
    """`rlhf.stages.Judge`: right if the text ends with the answer."""

    def __init__(self) -> None:
        self.num_judged = 0

    async def judge(self, prompt: Prompt, completions) -> Judgement:
        self.num_judged += len(completions)
        return Judgement(tuple(float(c.text.endswith("51")) for c in completions), "last@1")


class Nothing:
    """`rlhf.algorithms.tree.Kept` that keeps nothing."""

    def find(self, prompt: Prompt, seed: int) -> Tree | None:
        return None

    def add(self, tree: Tree) -> None:
        pass


class Sure:
    """`rlhf.tree.evaluator.Evaluator`: always the same confidence."""

    def __init__(self, value: float | None) -> None:
        self.value = value

    async def opinion(self, prompt: Prompt, answer: Completion) -> Opinion:
        return Opinion(self.value)


def line(text: str) -> Completion:
    return completion(text + "\n", stopped=True)


def steps() -> dict[str, list[Completion]]:
    """Two first lines, of which one is right; two ends each."""
    return {
        "": [line("46+5"), line("47+5"), line("46+5 "), line("46+5")],
        "46+5\n": [completion("51"), completion("52")],
        "47+5\n": [completion("52"), completion("53")],
    }


def grower(
    rollout: Scripted, evaluator: Evaluator | None = None, max_tokens: int = 20, **changes
) -> Grower:
    config = TreeConfig(**{"num_simulations": 2, "num_root_simulations": 6, **changes})
    return Grower(rollout, Last(), evaluator, Sampling(2, max_tokens), config)


def searched(rollout: Scripted, **changes) -> Collected:
    how = grower(rollout, **changes)
    return asyncio.run(TreeSearch(how, how.config, Nothing()).collect(Asked(PROMPT, 9)))


def grow(how: Grower, tree: Tree, node: Node) -> None:
    asyncio.run(how.grow(tree, [node], tree.root))


def test_a_search_gives_pairs_whole_answers_and_numbers() -> None:
    rollout = Scripted(**steps())
    collected = searched(rollout)
    first, second = collected.preferences
    assert (first.chosen.text, first.rejected.text) == ("46+5\n", "47+5\n")
    assert (
        second.prompt.prefix,
        second.chosen.text,
        second.rejected.text,
    ) == (
        "46+5\n",
        "51",
        "52",
    )
    assert first.judge == "last@1"
    answers = {
        c.text: s for c, s in zip(collected.completions, collected.judgement.scores, strict=True)
    }
    assert answers == {"46+5\n51": 1.0, "46+5\n52": 0.0, "47+5\n52": 0.0, "47+5\n53": 0.0}
    assert collected.completions[0].token_ids == tuple(map(ord, "46+5\n51"))
    metrics = collection_metrics([collected], policy_version=3)
    # Four first lines of 5, 5, 6 and 5 tokens, four ends of 2: shared beginnings count once.
    assert metrics["rollout/num_tokens"] == collected.num_tokens == 5 + 5 + 6 + 5 + 4 * 2
    assert metrics["tree/size"] == 7
    assert metrics["tree/depth"] == 2
    assert metrics["tree/unique_step_rate"] == 6 / 8
    assert metrics["tree/terminal_accuracy"] == 1 / 4
    assert metrics["tree/tokens_per_pair"] == 29 / 2
    assert metrics["tree/path_accuracy"] == 1.0


def test_equal_searches_ask_the_same_of_the_engine_with_seeds_of_their_own() -> None:
    one, two = Scripted(**steps()), Scripted(**steps())
    assert searched(one).tree.record() == searched(two).tree.record()
    assert one.asked == two.asked
    assert len({seed for *_, seed in one.asked}) == len(one.asked)


class Slow(Scripted):
    """The longer an answer has become, or the shorter, the longer it takes."""

    def __init__(self, order: int, **answers: list[Completion]) -> None:
        super().__init__(**answers)
        self.order = order

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        for _ in range(10 + self.order * ord(prompt.prefix[1:2] or "0") % 7):
            await asyncio.sleep(0)
        return await super().generate(prompt, sampling, seed)


def test_a_tree_does_not_depend_on_who_is_quicker() -> None:
    changes = {"num_parallel": 4, "num_root_simulations": 8}
    quick, slow = Slow(1, **steps()), Slow(-1, **steps())
    one, other = (searched(rollout, **changes).tree.record() for rollout in (quick, slow))
    assert one == other
    asked = [sorted((p.prefix, seed) for p, _, seed in rollout.asked) for rollout in (quick, slow)]
    assert asked[0] == asked[1]


def test_lines_that_say_the_same_are_one() -> None:
    tree = Tree.planted(PROMPT, 0)
    grow(grower(Scripted(**steps())), tree, tree.root)
    assert [(n.step.text, n.num_copies) for n in tree.root.children] == [
        ("46+5\n", 3),
        ("47+5\n", 1),
    ]


@pytest.mark.parametrize(
    ("other", "merged"),
    [
        ("so 12 and 34 make 46\n", True),
        ("so 12 and 34 make 47\n", False),
        ("quite different\n", False),
    ],
)
def test_near_duplicates_are_one_only_if_their_numbers_are_equal(other: str, merged: bool) -> None:
    first = completion("now 12 and 34 make 46\n", stopped=True)
    rollout = Scripted(**{"": [first, completion(other, stopped=True)]})
    tree = Tree.planted(PROMPT, 0)
    how = grower(rollout, max_similarity=0.8, num_root_completions=2, max_tokens=100)
    grow(how, tree, tree.root)
    assert len(tree.root.children) == 2 - merged


def test_a_line_that_ends_the_answer_is_no_duplicate_of_one_that_goes_on() -> None:
    tree = Tree.planted(PROMPT, 0)
    both = [completion("51"), completion("51\n", stopped=True)]
    grow(grower(Scripted(**{"": both}), num_root_completions=2), tree, tree.root)
    assert [node.ended for node in tree.root.children] == [True, False]


def test_a_cut_step_goes_on_until_the_answer_has_no_room() -> None:
    """`step_tokens` cuts a step, `max_tokens` of the sampling the answer."""
    cut = completion("4444", truncated=True)
    tree = Tree.planted(PROMPT, 0)
    rollout = Scripted(**{"": [cut], "4444": [replace(cut, text="5555")]})
    how = grower(rollout, step_tokens=4, num_root_completions=1, max_tokens=8)
    grow(how, tree, tree.root)
    (first,) = tree.root.children
    assert (first.ended, first.score) == (False, None)
    grow(how, tree, first)
    (second,) = first.children
    assert (second.ended, second.score, second.value) == (True, 0.0, -1.0)
    assert rollout.asked[-1][1].max_tokens == 4


def test_a_line_that_fills_the_answer_ends_it_and_is_truncated() -> None:
    tree = Tree.planted(PROMPT, 0)
    grow(
        grower(Scripted(**{"": [line("123")]}), max_tokens=4, num_root_completions=1),
        tree,
        tree.root,
    )
    (node,) = tree.root.children
    assert node.ended and node.step.truncated and not node.step.stopped


@pytest.mark.parametrize(("truncated", "score"), [(Truncated.penalise, 0.0), (Truncated.keep, 1.0)])
def test_truncated_answers_are_wrong_or_judged(truncated: Truncated, score: float) -> None:
    tree = Tree.planted(PROMPT, 0)
    rollout = Scripted(**{"": [completion("51", truncated=True)]})
    grow(
        grower(rollout, max_tokens=2, truncated=truncated, num_root_completions=1), tree, tree.root
    )
    assert tree.root.children[0].score == score


def test_beyond_the_depth_the_rest_is_one_step() -> None:
    rollout = Scripted(
        **{**steps(), "46+5\n...": [completion("50\n51")], "47+5\n...": [completion("1")]}
    )
    collected = searched(rollout, max_depth=1)
    rest = [(p.prefix, s) for p, s, _ in rollout.asked if not s.stop]
    assert sorted(prefix for prefix, _ in rest) == ["46+5\n", "47+5\n"]
    assert {s.num_completions for _, s in rest} == {1}
    assert {s.max_tokens for _, s in rest} == {20 - 5}
    # Nothing to choose from after the first line, so it takes along what follows.
    (pair,) = collected.preferences
    assert (pair.chosen.text, pair.rejected.text) == (
        "46+5\n50\n51",
        "47+5\n1",
    )


@pytest.mark.parametrize(("confidence", "value"), [(0.75, 0.75), (0.0, 0.0), (None, None)])
def test_what_the_evaluator_says_is_the_value_and_silence_is_none(confidence, value) -> None:
    tree = Tree.planted(PROMPT, 0)
    grow(grower(Scripted(**steps()), Sure(confidence)), tree, tree.root)
    assert [node.value for node in tree.root.children] == [value, value]
    assert tree.num_evaluated == 2


def test_an_outcome_is_added_to_what_the_evaluator_says() -> None:
    tree = Tree.planted(PROMPT, 0)
    how = grower(Scripted(**steps()), Sure(0.75))
    grow(how, tree, tree.root)
    grow(how, tree, tree.root.children[0])
    assert [node.value for node in tree.root.children[0].children] == [1.75, -0.25]


def test_an_answer_of_which_the_evaluator_is_silent_loses_nothing_by_that() -> None:
    class OnlySteps(Sure):
        async def opinion(self, prompt: Prompt, answer: Completion) -> Opinion:
            return Opinion(0.75 if answer.stopped else None)

    tree = Tree.planted(PROMPT, 0)
    how = grower(Scripted(**steps()), OnlySteps(0.75))
    grow(how, tree, tree.root)
    grow(how, tree, tree.root.children[0])
    # As its parent was thought of: 0.75, and the outcome.
    assert [node.value for node in tree.root.children[0].children] == [1.75, -0.25]


def test_a_judge_that_fails_leaves_an_answer_without_a_value() -> None:
    class Fails(Last):
        async def judge(self, prompt: Prompt, completions) -> Judgement:
            return Judgement((None,) * len(completions), "last@1")

    tree = Tree.planted(PROMPT, 0)
    how = replace(grower(Scripted(**steps()), Sure(0.75)), judge=Fails())
    grow(how, tree, tree.root)
    grow(how, tree, tree.root.children[0])
    assert [node.has_failed for node in tree.root.children[0].children] == [True, True]


def test_a_process_reward_judges_whole_answers_too() -> None:
    class Half:
        async def judge(self, prompt: Prompt, completions) -> Judgement:
            score = 0.0 if completions[0].text.endswith("\n") else 2.0
            return Judgement((score,), "prm@1", {"taste": (score,)})

    tree = Tree.planted(PROMPT, 0)
    how = grower(Scripted(**steps()), ProcessReward(Half()), value=StepValue.judge)
    grow(how, tree, tree.root)
    grow(how, tree, tree.root.children[0])
    assert [node.value for node in tree.root.children] == [0.5, 0.5]
    end = tree.root.children[0].children[0]
    assert end.value == end.score == pytest.approx(0.8807971)
    assert tree.judge == "prm@1"
    assert tree.said[1].parts == {"taste": 0.0} and tree.said[end.index].parts == {"taste": 2.0}


def test_a_process_reward_means_the_same_at_any_depth_and_a_confidence_less_in_deep_trees() -> None:
    class Same:
        async def judge(self, prompt: Prompt, completions) -> Judgement:
            return Judgement((math.log(4),) * len(completions), "prm@1")

    for value, expected in ((StepValue.judge, 0.8), (StepValue.self_evaluation, 0.8 / 2)):
        tree = Tree.planted(PROMPT, 0)
        node = tree.root
        for depth in range(1, 7):
            node = tree.add(node, completion(f"{depth}\n"), ended=False)
        how = grower(Scripted(), ProcessReward(Same()), value=value)
        asyncio.run(how._evaluate(tree, node))
        assert node.parent.depth == 5 and node.value == pytest.approx(expected)


def test_best_first_scores_steps_by_look_aheads_and_pairs_those_far_apart() -> None:
    right, wrong = completion("51"), completion("50")
    rollout = Scripted(
        **{
            **steps(),
            "46+5\n...": [right] * 7 + [wrong],
            "47+5\n...": [right] * 4 + [wrong] * 4,
        }
    )
    changes = {"search": Search.best_first, "min_gap": 0.375, "smooth_labels": False}
    collected = searched(rollout, **changes)
    first, second = collected.preferences
    assert (first.chosen.score, first.rejected.score) == (7 / 8, 4 / 8)
    assert (second.chosen.score, second.rejected.score) == (1.0, 0.0)
    assert first.win_prob == 1.0
    assert collected.tree.num_judged == 16 + 2


def test_look_aheads_that_are_cut_are_wrong_whatever_they_say() -> None:
    cut = completion("51", truncated=True)
    rollout = Scripted(**{**steps(), "46+5\n...": [cut] * 6 + [completion("51")] * 2})
    tree = Tree.planted(PROMPT, 0)
    how = grower(rollout, search=Search.best_first)
    grow(how, tree, tree.root)
    asyncio.run(how.look_ahead(tree, tree.root.children[0]))
    assert tree.root.children[0].score == 2 / 8
    assert tree.num_judged == 2


def test_best_first_search_has_a_depth_too() -> None:
    rest = [completion("51")] * 8
    rollout = Scripted(**{**steps(), "46+5\n...": rest, "47+5\n...": rest})
    collected = searched(rollout, search=Search.best_first, max_depth=1)
    whole = [s for p, s, _ in rollout.asked if not s.stop and s.num_completions == 1]
    assert len(whole) == 1 and max(node.depth for node in collected.tree.nodes) == 2


def test_an_answer_of_a_thousand_steps_is_no_trouble() -> None:
    tree = Tree.planted(PROMPT, 0)
    place = tree.root
    for _ in range(3000):
        place = tree.add(place, line("1"), ended=False)
    place.ended, place.score, place.value = True, 1.0, 1.0
    assert (place.depth, len(place.steps), tree.nodes[2999].estimate) == (3000, 3000, 0.0)
    assert tree_metrics([tree], [], 0)["tree/depth"] == 3000
    assert len(tree.answer(place).token_ids) == 6000


def test_an_unfinished_step_is_no_twin_of_a_whole_answer() -> None:
    tree = Tree.planted(PROMPT, 0)
    cut, whole = completion("4" * 20, truncated=True), completion("4" * 20)
    rollout = Scripted(**{"": [cut, whole]})
    grow(grower(rollout, step_tokens=20, max_tokens=90, num_root_completions=2), tree, tree.root)
    assert [node.ended for node in tree.root.children] == [False, True]


def test_a_trees_numbers_worked_by_hand() -> None:
    """Root, two first lines, of which one goes on to a right and a wrong answer."""
    tree = Tree.planted(PROMPT, 0)
    a, b = (tree.add(tree.root, line(text), ended=False) for text in ("1", "2"))
    right, wrong = (tree.add(a, completion(text), ended=True) for text in ("51", "52"))
    a.confidence, b.confidence, right.score, wrong.score = 0.75, 0.25, 1.0, 0.0
    right.num_copies, right.on_path = 3, True
    tree.num_tokens, tree.num_judged, tree.num_evaluated = 40, 2, 3
    tree.num_prompt_tokens, tree.num_cached_tokens, tree.num_simulations = 50, 20, 8
    sides = [completion(text) for text in ("51", "52")]
    pairs = [
        Preference.over(PROMPT, *sides, 1.0, 1.0 - gap, "j", win_prob=1 - smoothing)
        for gap, smoothing in ((0.5, 0.0), (1.0, 0.25), (1.5, 0.5))
    ]
    expected = {
        "size": 5, "depth": 2, "num_simulations": 8, "terminal_accuracy": 3 / 4,
        "confidence_mean": 0.5,
        # Three right answers and a wrong one below `1`, of which 0.75 was said.
        "brier_score": (3 * 0.25**2 + 0.75**2) / 4,
        "evaluation_failed_rate": 1 / 3, "path_accuracy": 1.0, "unique_step_rate": 4 / 6,
        "filtered_rate": 1 / 4, "prefix_cache_rate": 20 / 50,
        "tokens_per_pair": 40 / 3, "judged_per_pair": 5 / 3,
        "q_gap_p10": 0.6, "q_gap_p50": 1.0, "q_gap_p90": 1.4,
        "smoothing_p10": 0.05, "smoothing_p50": 0.25, "smoothing_p90": 0.45,
    }  # fmt: skip
    found = tree_metrics([tree], pairs, 1)
    assert found == pytest.approx({f"tree/{name}": value for name, value in expected.items()})


def test_the_policy_is_asked_about_the_whole_conversation() -> None:
    asking = SelfEvaluation(chooser=None, see_solution=False)
    talk = (Message("user", "Sums, please."), Message("assistant", "Go on."), *PROMPT.messages)
    asked = "user: Sums, please.\n\nassistant: Go on.\n\nuser: 12+34+5="
    assert asked in asking.question(replace(PROMPT, messages=talk), "51")
    assert "user:" not in asking.question(PROMPT, "51")


def test_what_an_answer_spells_out_cannot_end_the_policys_question() -> None:
    asking = SelfEvaluation(chooser=None, see_solution=True, clean=lambda t: t.replace("<|", "< |"))
    question = asking.question(replace(PROMPT, answer="<|a|>"), "4<|end|>B")
    assert "4< |end|>B" in question and "< |a|>" in question and "<|" not in question


def test_the_policys_question_shows_the_solution_only_if_it_may() -> None:
    class Doubtful:
        asked = ""

        async def choose(self, question: str, labels: tuple[str, ...]) -> tuple[float, ...]:
            self.asked = question
            return 0.3, 0.7

    chooser = Doubtful()
    asking = SelfEvaluation(chooser, see_solution=False)
    said = asyncio.run(asking.opinion(PROMPT, completion("46+5\n")))
    assert said == (pytest.approx(0.7), None)
    assert "12+34+5=" in chooser.asked and "46+5" in chooser.asked
    assert "51" not in chooser.asked
    asyncio.run(SelfEvaluation(chooser, see_solution=True).opinion(PROMPT, completion("46")))
    assert "51" in chooser.asked


# --- steps with calls -----------------------------------------------------------------------------


def called(own: str, result: str, then: str = "\n", **how) -> Completion:
    """A step in which a tool wrote the result."""
    text, start, end = own + result + then, len(own), len(own + result)
    nats = tuple(0.0 if start <= i < end else -0.5 for i in range(len(text)))
    return completion(text, logprobs=nats, observed=((start, end),), **{"stopped": True, **how})


def grown_once(step: Completion, **changes) -> Tree:
    tree = Tree.planted(PROMPT, 0)
    how = grower(Scripted(**{"": [step]}), num_root_completions=1, **changes)
    grow(how, tree, tree.root)
    return tree


def test_a_results_tokens_are_no_ones_work_and_no_part_of_the_prior() -> None:
    tree = grown_once(called("<<46+5=", "51>>"))
    (node,) = tree.root.children
    assert tree.num_tokens == 8
    assert node.prior == pytest.approx(math.exp(-0.5 * 8 / 8**1.25))
    assert not node.ended


@pytest.mark.parametrize(
    ("room", "ended", "observed"),
    [(13, False, ((7, 11),)), (12, True, ((7, 11),)), (9, True, ((7, 9),)), (7, True, ())],
)
def test_results_take_room_too(room: int, ended: bool, observed) -> None:
    tree = grown_once(called("<<46+5=", "51>>"), max_tokens=room, step_tokens=7)
    (node,) = tree.root.children
    assert len(node.step.token_ids) == len(node.step.logprobs) == min(room, 12)
    assert (node.ended, node.step.truncated, node.step.observed) == (ended, ended, observed)


@pytest.mark.parametrize(("step_tokens", "ended"), [(7, False), (8, True)])
def test_a_step_cut_before_its_own_limit_has_called_too_often_and_ends(step_tokens, ended) -> None:
    cut = called("<<46+5=", "51>>", "", stopped=False, truncated=True)
    tree = grown_once(cut, max_tokens=100, step_tokens=step_tokens)
    (node,) = tree.root.children
    assert (node.ended, node.score) == (ended, 0.0 if ended else None)


def test_what_follows_has_the_room_that_results_have_left() -> None:
    rollout = Scripted(**{"": [called("<<46+5=", "51>>")], "<<46+5=51>>\n": [completion("51")]})
    how = grower(rollout, num_root_completions=1, max_tokens=20)
    tree = Tree.planted(PROMPT, 0)
    grow(how, tree, tree.root)
    grow(how, tree, tree.root.children[0])
    assert [sampling.max_tokens for _, sampling, _ in rollout.asked] == [20, 20 - 12]


def test_look_aheads_are_judged_with_every_result_at_its_place() -> None:
    class Reads(Last):
        async def judge(self, prompt: Prompt, completions) -> Judgement:
            self.seen = completions
            return await Last.judge(self, prompt, completions)

    rests = [called("<<5+46=", "51>>", "51", stopped=False), completion("50")]
    begun = "<<46+5=51>>\n"
    rollout = Scripted(**{"": [called("<<46+5=", "51>>")], begun + "...": rests})
    how = replace(grower(rollout, num_root_completions=1, max_tokens=50), judge=Reads())
    tree = Tree.planted(PROMPT, 0)
    grow(how, tree, tree.root)
    asyncio.run(how.look_ahead(tree, tree.root.children[0]))
    one, other = how.judge.seen
    assert (one.observed, other.observed) == (((7, 11), (19, 23)), ((7, 11),))
    assert [one.text[start:end] for start, end in one.observed] == ["51>>", "51>>"]
    assert (one.sample, other.sample) == (0, 1)
    assert tree.root.children[0].score == 0.5
    assert tree.num_tokens == 8 + 9 + 2


# --- trees on disk --------------------------------------------------------------------------------


def test_a_finished_tree_is_found_again_and_not_searched(tmp_path) -> None:
    rollout = Scripted(**steps())
    how = grower(rollout)
    first = asyncio.run(
        TreeSearch(how, how.config, TreeStore(tmp_path, 0)).collect(Asked(PROMPT, 9))
    )
    num_asked = len(rollout.asked)
    again = asyncio.run(
        TreeSearch(how, how.config, TreeStore(tmp_path, 0)).collect(Asked(PROMPT, 9))
    )
    assert len(rollout.asked) == num_asked
    assert again.preferences == first.preferences
    assert again.completions == first.completions
    assert again.tree.record() == first.tree.record()
    asyncio.run(TreeSearch(how, how.config, TreeStore(tmp_path, 0)).collect(Asked(PROMPT, 10)))
    assert len(rollout.asked) == 2 * num_asked, "another seed is another round"


class Parts(Last):
    """With a part and a reason, of which one is missing where the answer is 53."""

    async def judge(self, prompt: Prompt, completions) -> Judgement:
        found = await super().judge(prompt, completions)
        ends = [c.text[-1] for c in completions]
        parts = {"end": tuple(None if end == "3" else float(end) for end in ends)}
        reasons = tuple(f"ends with {end}" for end in ends)
        return replace(found, parts=parts, reasons=reasons, member_failures={"m": (False,)})


@pytest.mark.parametrize("ranked", [False, True])
def test_what_the_judge_said_of_answers_stands_with_their_sides_and_is_found_again(
    tmp_path, ranked
) -> None:
    how = replace(grower(Scripted(**steps()), pairs=TreePairs("ranked" if ranked else "siblings")),
                  judge=Parts())  # fmt: skip
    found = []
    for _ in range(2):
        search = TreeSearch(how, how.config, TreeStore(tmp_path, 0))
        one = asyncio.run(search.collect(Asked(PROMPT, 9)))
        found.append((one, list(preference_rows(0, one))))
    first, rows = found[0]
    assert found[1][1] == rows and found[1][0].judgement == first.judgement
    assert first.judgement.parts == {"end": (1.0, 2.0, 2.0, None)}
    assert first.judgement.member_failures == {"m": (False,) * 4}
    told = {row["chosen"]: (row["chosen_parts"], row["chosen_reason"]) for row in rows}
    whole = told["46+5\n51" if ranked else "51"]
    assert whole == ('{"end": 1.0}', "ends with 1")
    # Nobody was asked about a step that several answers share.
    assert ranked or told["46+5\n"] == (None, None)


def test_what_a_tool_wrote_is_found_again(tmp_path) -> None:
    tree = Tree.planted(PROMPT, 9)
    first = tree.add(tree.root, called("<<46+5=", "51>>"), ended=False)
    last = tree.add(first, called("<<50+1=", "51>>", "51", stopped=False), ended=True)
    assert tree.answer(last).observed == ((7, 11), (19, 23))
    assert tree.answer(last).num_own_tokens == 8 + 9
    store = TreeStore(tmp_path, 0)
    store.add(tree)
    journaled = TreeStore(tmp_path, 0).find(PROMPT, 9)
    store.prepare(0, [Collected(PROMPT, (), None, (), (), tree)])()
    for found in (journaled, TreeStore(tmp_path, 0).find(PROMPT, 9)):
        assert found.record() == tree.record()
        assert found.answer(found.nodes[2]) == tree.answer(last)


def test_a_run_of_another_length_has_other_policies_and_searches_anew(tmp_path) -> None:
    how = grower(Scripted(**steps()))
    store = TreeStore(tmp_path, 0, num_rounds=70)
    search = TreeSearch(how, how.config, store)
    store.prepare(0, [asyncio.run(search.collect(Asked(PROMPT, 9)))])()
    asyncio.run(search.collect(Asked(PROMPT, 10)))
    same = TreeStore(tmp_path, 0, num_rounds=70)
    assert same.find(PROMPT, 9) and same.find(PROMPT, 10)
    longer = TreeStore(tmp_path, 0, num_rounds=140)
    assert not longer.find(PROMPT, 9) and not longer.find(PROMPT, 10)
    assert unfinished(tmp_path) == []


def test_a_written_round_leaves_the_journal_and_is_found_if_it_may_be_asked_again(tmp_path) -> None:
    store = TreeStore(tmp_path, 0)
    how = grower(Scripted(**steps()))
    search = TreeSearch(how, how.config, store)
    done, ahead = (asyncio.run(search.collect(Asked(PROMPT, seed))) for seed in (9, 10))
    store.prepare(4, [done])()
    assert [record["seed"] for record in unfinished(tmp_path)] == [10]
    assert TreeStore(tmp_path, 4).find(PROMPT, 9).record() == done.tree.record()
    assert TreeStore(tmp_path, 5).find(PROMPT, 9) is None
    assert TreeStore(tmp_path, 5).find(PROMPT, 10).record() == ahead.tree.record()
    TreeStore(tmp_path, 4, num_rounds=3)
    assert list((tmp_path / "trees").glob("round_*")) == [], "of a run that was longer"


def test_a_line_that_a_crash_has_cut_is_searched_again_and_nothing_else_is_lost(tmp_path) -> None:
    store = TreeStore(tmp_path, 0)
    how = grower(Scripted(**steps()))
    search = TreeSearch(how, how.config, store)
    for seed in (9, 10):
        asyncio.run(search.collect(Asked(PROMPT, seed)))
    journal = tmp_path / "trees" / "unfinished_round.jsonl"
    journal.write_text(journal.read_text()[:-20])
    after = TreeStore(tmp_path, 0)
    assert after.find(PROMPT, 9) is not None
    assert after.find(PROMPT, 10) is None
    after.add(Tree.planted(PROMPT, 11))
    assert [record["seed"] for record in unfinished(tmp_path)] == [9, 11]

"""A panel: members asked at the same time, their parts kept, and what it says of itself."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.judges.base import JudgeConfig, Measure
from rlhf.judges.combining import Combine
from rlhf.judges.function import FunctionJudgeConfig, Returns
from rlhf.judges.members import Placed, as_told_at, everyone, failure_limits, joined, told_at
from rlhf.judges.none import NoJudgeConfig
from rlhf.judges.pair_model import PairModelConfig
from rlhf.judges.panel import PanelConfig
from rlhf.judges.reward_model import RewardModelConfig
from rlhf.judges.text import TextJudgeConfig
from rlhf.judges.verifier import VerifierConfig
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Comparison, Completion, Judgement, Message, Prompt, Verdict

PROMPT = Prompt("1", (Message("user", "?"),), (1,), "7")
GROUP = [Completion("1", i, (1, 2), (0.0, 0.0), t, False, 0) for i, t in enumerate(("7", "8"))]
VERDICTS, OUTCOMES, MATRIX = (
    {Fact.verdicts},
    {Fact.verdicts, Fact.outcomes},
    {Fact.verdicts, Fact.matrix},
)


class Says:
    """A judge that always says the same."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        return self.verdict


def scores(*values: float | None, name: str = "fake@1", **more) -> Says:
    return Says(Judgement(values, name, **more))


def wins(probability: float | None) -> Says:
    other = None if probability is None else 1 - probability
    return Says(Comparison(((0.5, probability), (other, 0.5)), "pair@1", 0.2))


def wins_of_all(probability: float) -> Says:
    """Of three, each earlier one over each later."""
    p, q, even = probability, 1 - probability, 0.5
    return Says(Comparison(((even, p, p), (q, even, p), (q, q, even)), "pair@1"))


def reward() -> RewardModelConfig:
    return RewardModelConfig(path="m")


def panel(**given) -> PanelConfig:
    members = given.pop("members", {"maths": VerifierConfig(), "taste": reward()})
    return PanelConfig(members=members, **given)


def judged(config: PanelConfig, **members: Says) -> Verdict:
    return asyncio.run(config.over(members).judge(PROMPT, GROUP))


# --- what it says --------------------------------------------------------------------------------


def test_each_member_s_own_score_is_a_part_and_weights_make_their_sum():
    config = panel(weights={"taste": 0.1})
    maths = scores(1.0, 0.0, name="verifier@1", reasons=("", "is 8"))
    taste = scores(2.0, -3.0, parts={"tone": (5.0, None)}, reasons=("warm", "cold"))
    found = judged(config, maths=maths, taste=taste)
    assert found.parts == {"maths": (1.0, 0.0), "taste": (2.0, -3.0), "taste.tone": (5.0, None)}
    assert found.scores == pytest.approx((1.2, -0.3), abs=1e-6)
    assert found.reasons == ("taste: warm", "maths: is 8; taste: cold")
    assert found.judge == "panel/sum(1 maths=verifier@1, 0.1 taste=fake@1)@1"


def test_who_fails_makes_its_part_and_the_score_missing():
    found = judged(panel(), maths=scores(1.0, 0.0), taste=scores(None, 2.0))
    assert found.scores == (None, 2.0)
    assert found.parts["taste"] == (None, 2.0)


def test_standardised_members_keep_their_own_scores_as_parts():
    found = judged(panel(standardise=True), maths=scores(1.0, 0.0), taste=scores(30.0, 10.0))
    assert found.scores == (2.0, -2.0)
    assert found.parts["taste"] == (30.0, 10.0)


def test_of_a_member_that_compares_beside_scores_the_mean_win_probability_counts():
    config = panel(members={"maths": VerifierConfig(), "pair": PairModelConfig(path="m")})
    found = judged(config, maths=scores(1.0, 0.0), pair=wins(0.25))
    assert isinstance(found, Judgement)
    assert found.scores == (1.25, 0.75)


def test_members_that_all_compare_make_a_comparison():
    pairs = {name: PairModelConfig(path="m") for name in ("a", "b")}
    config = panel(members=pairs, weights={"a": 0.6, "b": 0.4})
    found = judged(config, a=wins(0.9), b=wins(0.2))
    assert isinstance(found, Comparison)
    assert found.win_prob[0][1] == pytest.approx(0.62)
    assert found.order_disagreement == pytest.approx(0.2)
    assert found.parts["b"] == (0.2, 0.8)


def test_failures_of_a_member_that_compares_are_counted_by_pairs_and_under_its_name():
    """Of three completions, the first's comparison with the last alone is missing: no part is."""
    rows = ((0.5, 0.9, None), (0.1, 0.5, 0.3), (None, 0.7, 0.5))
    group = [replace(GROUP[0], sample=i, text=str(i)) for i in range(3)]
    inner = panel(members=pairs("x", "y"), combine=Combine.majority)
    config = panel(members={"in": inner, "maths": VerifierConfig()})
    voting = inner.over({"x": Says(Comparison(rows, "p@1")), "y": wins_of_all(0.9)})
    found = asyncio.run(
        config.over({"in": voting, "maths": scores(1, 0, None)}).judge(PROMPT, group)
    )
    assert None not in found.parts["in"] and None not in found.parts["in.x"]
    assert found.member_failures == {
        "in": (False, False, False),
        "in.x": (False, True, False),
        "in.y": (False, False, False),
        "maths": (False, False, True),
    }


def test_members_are_asked_at_the_same_time():
    gate = asyncio.Barrier(2)

    class Waits(Says):
        async def judge(self, prompt, completions):
            async with asyncio.timeout(5):
                await gate.wait()
            return self.verdict

    both = {name: Waits(Judgement((1.0, 0.0), "j")) for name in ("maths", "taste")}
    assert judged(panel(), **both).scores == (2.0, 0.0)


def test_a_function_of_the_named_parts_combines_them(tmp_path: Path):
    file = tmp_path / "combine.py"
    file.write_text(
        "def best(prompt, completions, parts):\n"
        "    assert (prompt, completions[1:]) == ('?', ['8']), completions\n"
        "    if parts['taste'][0] == 13: raise ValueError('unlucky')\n"
        "    return {'score': [max(both) for both in zip(*parts.values())],\n"
        "            'sum': [sum(both) for both in zip(*parts.values())]}\n"
    )
    config = panel(combine=Combine.function, function=f"{file}:best")
    assert list(config.problems()) == []
    made = config.over({"maths": scores(1.0, 0.0), "taste": (taste := scores(0.5, 2.0))})

    async def both() -> tuple[Verdict, Verdict]:
        found = await made.judge(PROMPT, GROUP)
        taste.verdict = Judgement((13.0, 2.0), "fake@1")
        return found, await made.judge(PROMPT, GROUP)

    found, failed = asyncio.run(both())
    assert found.scores == (1.0, 2.0)
    assert found.parts["sum"] == (1.5, 2.0) and found.parts["taste"] == (0.5, 2.0)
    config.rehearse(replace(PROMPT, answer="8"))
    assert failed.scores == (None, None) and "unlucky" in failed.reasons[0]


def test_a_function_that_fails_on_two_completions_is_refused_before_a_run(tmp_path: Path):
    (tmp_path / "combine.py").write_text("def broken(prompt, completions, parts): return [1]\n")
    config = panel(combine=Combine.function, function=f"{tmp_path}/combine.py:broken")
    with pytest.raises(InputError, match=r"broken: called with .* 1 values for 2 completions"):
        config.rehearse(PROMPT)


# --- what it gives and needs ---------------------------------------------------------------------


def pairs(*names: str) -> dict[str, JudgeConfig]:
    return {name: PairModelConfig(path="m") for name in names}


def verifiers(*names: str) -> dict[str, JudgeConfig]:
    return {name: VerifierConfig() for name in names}


@pytest.mark.parametrize(
    ("config", "gives"),
    [
        (panel(), VERDICTS),
        (panel(members=verifiers("a", "b")), VERDICTS),
        (panel(members=verifiers("a", "b"), combine=Combine.product), OUTCOMES),
        (panel(members=verifiers("a", "b"), combine=Combine.minimum), OUTCOMES),
        (panel(members=verifiers("a"), combine=Combine.minimum, weights={"a": 2}), VERDICTS),
        (panel(members=verifiers("a", "b", "c"), combine=Combine.majority), OUTCOMES),
        (panel(combine=Combine.majority), MATRIX),
        (panel(combine=Combine.lexicographic, weights={"maths": 2}), MATRIX),
        (panel(members={"a": reward(), "b": reward()}), {Fact.verdicts, Fact.partial_scores}),
        (panel(members={"a": reward(), "b": reward()}, standardise=True), VERDICTS),
        (panel(weights={"maths": 0}), {Fact.verdicts, Fact.partial_scores}),
        (panel(members=pairs("a", "b")), MATRIX),
        (panel(members=pairs("a", "b"), combine=Combine.product), MATRIX),
        (panel(members=pairs("a", "b"), combine=Combine.minimum), VERDICTS),
        (panel(members={**pairs("a"), **verifiers("b")}), VERDICTS),
        (panel(members={"o": panel(members=pairs("a", "b")), **pairs("c")}), MATRIX),
    ],
)  # fmt: skip
def test_it_gives_what_its_members_and_their_combination_give(config: PanelConfig, gives: set):
    assert config.gives() == gives
    measures = {Fact.matrix: Measure.win_rate, Fact.outcomes: Measure.accuracy}
    scores = Measure.parts if config.standardise else Measure.score
    assert config.measure is next((m for f, m in measures.items() if f in gives), scores)


def test_what_a_member_needs_is_told_by_its_place():
    inner = panel(members=verifiers("sums"))
    line = panel(members={"inner": inner}).needs()[Fact.answers]
    assert line.startswith("+judge@judge.members.inner.members.sums=verifier: compares with")
    assert Fact.answers not in panel(members={"taste": reward()}).needs()


def test_everyone_is_found_with_a_key_and_a_role():
    inner = PanelConfig(members={"sums": VerifierConfig(max_failure_rate=0.3)})
    found = list(everyone("judge", "judge", panel(members={"o": inner, "t": reward()})))
    assert [(one.key, one.role, one.is_leaf) for one in found] == [
        ("judge", "judge", False),
        ("judge.members.o", "judge.o", False),
        ("judge.members.o.members.sums", "judge.o.sums", True),
        ("judge.members.t", "judge.t", True),
    ]
    limits = {"": 0.1, "o": 0.1, "o.sums": 0.3, "t": 0.1}
    assert dict(failure_limits(panel(members={"o": inner, "t": reward()}))) == limits
    assert [one.role for one in everyone("eval.gold", "gold", VerifierConfig())] == ["gold"]


def test_panels_in_panels_are_joined_and_their_parts_have_both_names():
    outer = panel(members={"inner": panel(), "text": TextJudgeConfig()}, weights={"inner": 2})
    judges = {"judge.inner.maths": scores(1.0, 0.0), "judge.inner.taste": scores(0.5, 0.25)}
    judge = joined(Placed("judge", "judge", outer), {**judges, "judge.text": scores(4.0, 1.0)})
    assert judge is not None
    found = asyncio.run(judge.judge(PROMPT, GROUP))
    assert found.scores == (7.0, 1.5)
    assert found.parts["inner"] == (1.5, 0.25) and found.parts["inner.taste"] == (0.5, 0.25)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (panel(members={}), "judge=panel: has no members; add +judge@judge.members.NAME"),
        (panel(weights={"math": 1.0}),
         "judge.weights.math=1: there is no such member; did you mean maths? there is "
         "maths, taste"),
        (panel(weights={"maths": 0.0, "taste": 0.0}), "nobody has a say"),
        (panel(combine=Combine.product, weights={"taste": 0.1}),
         "a weight is 1, or 0 for a member"),
        (panel(combine=Combine.majority, weights={"taste": -1}), "a weight is at least 0"),
        (panel(members=pairs("a", "b"), weights={"a": -1.0}), "a weight is at least 0"),
        (panel(combine=Combine.lexicographic),
         "no two are equal; try '+judge.weights={taste: 1, maths: 2}'"),
        (panel(members=verifiers("a", "b"), combine=Combine.majority),
         "votes on right or wrong can be equal"),
        (panel(combine=Combine.product, standardise=True),
         "judge.standardise=true: what is below the mean"),
        (panel(combine=Combine.majority, standardise=True), "no more than which is larger"),
        (panel(members=pairs("a", "b"), standardise=True), "win probabilities are comparable"),
        (panel(combine=Combine.function),
         "judge.function: is required with judge.combine=function"),
        (panel(function="a.py:b"),
         "judge.function=a.py:b: is read with judge.combine=function only"),
        (panel(num_workers=3), "judge.num_workers=3: a panel has no workers of its own; set "
         "judge.members.maths.num_workers"),
        (panel(members={"a.b": VerifierConfig()}),
         "judge.members.a.b: a member's name has letters"),
        (panel(members={"a": NoJudgeConfig()}),
         "+judge@judge.members.a=none: judges nothing; remove it"),
        (panel(members={"a": JudgeConfig()}),
         "judge.members.a: no judge is chosen; add +judge@judge.members.a=NAME"),
        (panel(members={"o": panel(weights={"math": 1})}),
         "judge.members.o.weights.math=1: there is no such"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_with_a_way_out(config: PanelConfig, told: str):
    (problem,) = config.problems()
    assert told in problem, problem


def test_lines_are_told_of_the_key_and_not_of_what_is_called_like_it_in_a_path():
    line = "judge.path=/m/judge.v2/judge.x: no judge.dtype=auto there, judge.template=judge.txt"
    key = "judge.members.taste"
    assert as_told_at(key, line) == (
        f"{key}.path=/m/judge.v2/judge.x: no {key}.dtype=auto there, {key}.template=judge.txt"
    )
    assert as_told_at("judge", line) == line
    gold = r"^eval.gold.path=m: no; add \+judge@eval.gold=text$"
    with pytest.raises(InputError, match=gold), told_at("eval.gold"):
        raise InputError(["judge.path=m: no; add judge=text"])


def test_a_member_that_fails_too_often_stops_the_run_by_its_own_key():
    config = FunctionJudgeConfig(function="x.py:y", returns=Returns.outcomes, max_failure_rate=0.5)
    assert dict(failure_limits(panel(members={"mine": config}))) == {"": 0.1, "mine": 0.5}

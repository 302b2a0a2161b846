"""Judges that are a YAML: free of problems wherever they stand, and giving what they promise."""

import asyncio

import pytest
from composing import compose

from rlhf.launching.checks import config_problems
from rlhf.launching.command_line import typed
from rlhf.launching.configuration import Config
from rlhf.launching.overrides import as_hydra_reads
from rlhf.options import Fact
from rlhf.records import Comparison, Completion, Judgement, Message, Prompt, Verdict

JURORS = ["first", "second", "third"]
PRESETS = {
    "cdr": ["strong", "weak"],
    "r3": ["relevance"],
    "r3_constrained": ["relevance"],
    "ecommerce": ["relevance", "service"],
    "debate": ["first", "second", "listener"],
    "jury": JURORS,
    "ensemble": JURORS,
    "verified": ["taste"],
    "corrected": [],
}
"""And the members whose model is yet to be named."""
PROMPT = Prompt("1", (Message("user", "?"),), (1,), "7")
GROUP = [Completion("1", i, (1,), (0.0,), t, False, 0) for i, t in enumerate(("7", "8"))]


def preset(name: str, *words: str, place: str = "judge") -> Config:
    models = [f"{place}.members.{member}.path=m" for member in PRESETS[name]]
    chosen = f"judge={name}" if place == "judge" else f"+judge@{place}={name}"
    small = ["data=arithmetic", "run.dir=x", "model=tiny", "model.path=tiny"]
    return typed(compose("train", as_hydra_reads([*small, chosen, *models, *words], Config)))


class Says:
    def __init__(self, *said: float | None) -> None:
        self.said = said

    async def judge(self, prompt, completions) -> Verdict:
        return Judgement(self.said, "fake@1")


class Prefers(Says):
    async def judge(self, prompt, completions) -> Verdict:
        wins = self.said[0]
        assert wins is not None
        return Comparison(((0.5, wins), (1 - wins, 0.5)), "fake@1")


def judged(config: Config, **members: Says) -> Verdict:
    assert members.keys() == config.judge.asks().keys()
    return asyncio.run(config.judge.over(members).judge(PROMPT, GROUP))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("place", ["judge", "eval.gold"])
def test_each_is_free_of_problems_wherever_it_stands(name: str, place: str):
    config = preset(name, place=place)
    assert config_problems(config) == []
    assert Fact.verdicts in (config.judge if place == "judge" else config.eval.gold).gives()  # type: ignore


def test_cdr_is_a_difference_of_log_probabilities():
    found = judged(preset("cdr"), strong=Says(-40.0, -9.0), weak=Says(-46.0, -9.0))
    assert found.scores == (6.0, 0.0)
    assert found.parts == {"strong": (-40.0, -9.0), "weak": (-46.0, -9.0)}


def test_r3_is_a_product_that_needs_all_three():
    made = preset("r3")
    members = {"length": Says(1.2, 9.0), "relevance": Says(0.8, None), "variety": Says(0.95, 1)}
    first, second = judged(made, **members).scores
    assert first == pytest.approx(0.912) and second is None


def test_r3_with_a_right_answer_is_on_the_scale_of_lengths():
    """A nearness of 2.1 of 3.5, for 512 tokens: 2.1 * 5.12 / 3.5 * .95."""
    made = preset("r3_constrained")
    relevance = made.judge.asks()["relevance"]
    near = 2.1 * relevance.factor  # type: ignore[attr-defined]
    found = judged(made, relevance=Says(near, None), variety=Says(0.95, 1.0))
    assert found.scores == (pytest.approx(2.9184), None)


def test_features_of_a_shop_add_up_by_their_weights():
    made = preset("ecommerce", "judge.weights={service: 0.5, length: -0.1, variety: 0}")
    members = {"relevance": Says(0.2, 0.1), "service": Says(4.0, 2.0),
               "variety": Says(1.0, 0.5), "length": Says(3.0, 1.0)}  # fmt: skip
    assert judged(made, **members).scores == pytest.approx((0.2 + 2.0 - 0.3, 0.1 + 1.0 - 0.1))


@pytest.mark.parametrize(("combine", "wins"), [("sum", 0.6), ("majority", 1.0)])
def test_a_jury_s_mean_and_its_vote(combine: str, wins: float):
    made = preset("jury", f"judge.combine={combine}")
    found = judged(made, first=Prefers(0.7), second=Prefers(0.9), third=Prefers(0.2))
    assert isinstance(found, Comparison)
    assert found.win_prob[0][1] == pytest.approx(wins)


def test_a_verifier_decides_before_taste():
    made = preset("verified")
    assert judged(made, right=Says(1.0, 0.0), taste=Says(1.0, 9.0)).scores == (1.0, 0.0)
    assert judged(made, right=Says(1.0, 1.0), taste=Says(1.0, 9.0)).scores == (0.0, 1.0)


def test_the_lowest_of_an_ensemble_counts():
    """Standardised: (1, -1), (-1, 1) and (1, -1)."""
    members = {"first": Says(3.0, 1.0), "second": Says(10.0, 30.0), "third": Says(0.2, 0.1)}
    assert judged(preset("ensemble"), **members).scores == pytest.approx((-1, -1))

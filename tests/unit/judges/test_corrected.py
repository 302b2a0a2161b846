"""A verifier that errs, corrected by its rates: by hand, and on average."""

import asyncio
from random import Random
from statistics import fmean

import pytest

from rlhf.judges.corrected import Corrected, CorrectedConfig, corrected
from rlhf.judges.text import TextJudgeConfig
from rlhf.judges.verifier import VerifierConfig
from rlhf.options import Fact
from rlhf.records import Judgement, Message, Prompt


def test_wrong_and_right_are_moved_apart():
    """False positives .1, false negatives .2."""
    assert corrected(0.0, 0.1, 0.2) == pytest.approx(-0.142857, abs=1e-6)
    assert corrected(1.0, 0.1, 0.2) == pytest.approx(1.285714, abs=1e-6)
    assert (corrected(0.0, 0, 0), corrected(1.0, 0, 0)) == (0.0, 1.0)


def test_its_mean_is_the_share_that_is_really_right():
    draw = Random(1)
    right = [draw.random() < 0.3 for _ in range(40_000)]
    passed = [float(draw.random() < (0.8 if one else 0.1)) for one in right]
    assert fmean(passed) > 0.30  # .3 * .8 + .7 * .1 = .31
    assert fmean(corrected(r, 0.1, 0.2) for r in passed) == pytest.approx(fmean(right), abs=0.01)


def test_what_is_missing_stays_so_and_the_member_s_word_is_a_part():
    class Says:
        async def judge(self, prompt, completions):
            return Judgement((1.0, None), "v@1", {"a": (2.0, 3.0)}, ("", "why"))

    prompt = Prompt("1", (Message("user", "?"),), (1,))
    config = CorrectedConfig(members={"of": VerifierConfig()}, false_negative=0.2)
    found = asyncio.run(Corrected(config, Says()).judge(prompt, []))
    assert found.scores[1] is None and found.scores[0] == pytest.approx(9 / 7)
    assert found.parts == {"of": (1.0, None), "of.a": (2.0, 3.0)}
    assert (found.reasons, found.judge) == (("", "why"), "corrected(0.1,0.2)/v@1@1")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (CorrectedConfig(), "judge.members: has none, and judge=corrected the one member of"),
        (CorrectedConfig(members={"a": VerifierConfig()}), "judge.members: has a, and"),
        (
            CorrectedConfig(members={"of": TextJudgeConfig()}),
            "judge@judge.members.of=text: does not say right or wrong",
        ),
        (
            CorrectedConfig(members={"of": VerifierConfig()}, false_positive=0.9),
            "judge.false_positive=0.9 judge.false_negative=0.1: with a sum of 1 or more",
        ),
    ],
)
def test_what_cannot_be_is_told(config: CorrectedConfig, told: str):
    (problem,) = config.problems()
    assert problem.startswith(told)


def test_it_needs_what_its_member_needs():
    config = CorrectedConfig(members={"of": VerifierConfig()})
    assert config.needs()[Fact.answers].startswith("+judge@judge.members.of=verifier")
    assert list(config.problems()) == [] and config.gives() == {Fact.verdicts}

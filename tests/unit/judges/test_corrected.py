"""A verifier that errs, corrected by its rates: by hand, and on average."""

import asyncio
from random import Random
from statistics import fmean

import pytest

from rlhf.judges.corrected import CorrectedConfig, Form, corrected
from rlhf.judges.panel import PanelConfig
from rlhf.judges.rates import Rates, Seen, WorthNothing, rates_by_appeals, running, seen
from rlhf.judges.running import Learning, learners
from rlhf.judges.text import TextJudgeConfig
from rlhf.judges.verifier import VerifierConfig
from rlhf.options import Fact
from rlhf.records import Collected, Completion, Judgement, Message, Prompt
from rlhf.stages import Judge, Tell, nobody
from rlhf.storage.ledger import Page

RATES = Rates(0.1, 0.2)


def test_wrong_and_right_are_moved_apart():
    """False positives .1, false negatives .2."""
    assert corrected(0.0, RATES) == pytest.approx(-0.142857, abs=1e-6)
    assert corrected(1.0, RATES) == pytest.approx(1.285714, abs=1e-6)
    assert (corrected(0.0, Rates(0, 0)), corrected(1.0, Rates(0, 0))) == (0.0, 1.0)


def test_forward_weights_are_by_hand_and_right_answers_weigh_nothing_on_average():
    weights = [corrected(r, RATES, Form.forward) for r in (0.0, 1.0)]
    assert weights == pytest.approx([-0.8, 0.2])
    failed, passed = weights
    assert 0.2 * failed + 0.8 * passed == pytest.approx(0)
    assert 0.9 * failed + 0.1 * passed == pytest.approx(-(1 - 0.1 - 0.2))


def test_its_mean_is_the_share_that_is_really_right():
    draw = Random(1)
    right = [draw.random() < 0.3 for _ in range(40_000)]
    passed = [float(draw.random() < (0.8 if one else 0.1)) for one in right]
    assert fmean(passed) > 0.30  # .3 * .8 + .7 * .1 = .31
    assert fmean(corrected(r, RATES) for r in passed) == pytest.approx(fmean(right), abs=0.01)


def test_what_is_missing_stays_so_and_the_member_s_word_is_a_part():
    class Says:
        async def judge(self, prompt, completions):
            return Judgement((1.0, None), "v@1", {"a": (2.0, 3.0)}, ("", "why"))

    prompt = Prompt("1", (Message("user", "?"),), (1,))
    config = CorrectedConfig(members={"of": VerifierConfig()}, false_negative=0.2)
    found = asyncio.run(config.over({"of": Says()}).judge(prompt, []))
    assert found.scores[1] is None and found.scores[0] == pytest.approx(9 / 7)
    assert found.parts == {"of": (1.0, None), "of.a": (2.0, 3.0)}
    assert (found.reasons, found.judge) == (("", "why"), "corrected(0.1,0.2)/v@1@1")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (CorrectedConfig(), "judge.members: has none, and judge=corrected the member of"),
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


class Outcomes:
    """Says right of these texts, and remembers what it was asked."""

    def __init__(self, *right: str) -> None:
        self.right, self.asked = right, []

    async def judge(self, prompt, completions):
        texts = [one.text for one in completions]
        self.asked += texts
        return Judgement(tuple(None if t == "?" else float(t in self.right) for t in texts), "v@1")


def group(*texts: str) -> list[Completion]:
    return [Completion("p", i, (1,), (0.0,), text, False, 0) for i, text in enumerate(texts)]


def judged(config: CorrectedConfig, of: Outcomes, appeal: Outcomes, *texts: str) -> Judgement:
    prompt = Prompt("p", (Message("user", "?"),), (1,))
    return asyncio.run(config.over({"of": of, "appeal": appeal}).judge(prompt, group(*texts)))


def test_an_appeal_is_a_part_of_its_own_and_changes_no_score():
    members = {"of": VerifierConfig(), "appeal": VerifierConfig()}
    config = CorrectedConfig(members=dict(members), appeals=1.0)
    assert list(config.problems()) == []
    found = judged(config, Outcomes("a", "b"), Outcomes("a", "c"), "a", "b", "c", "d")
    assert found.parts["confirmed"] == (1.0, 0.0, None, None)
    assert found.parts["overturned"] == (None, None, 1.0, 0.0)
    assert found.scores == judged(config, Outcomes("a", "b"), Outcomes(), *"abcd").scores
    # What the verifier has no word on is not appealed; what the appeal fails on is its failure.
    appeal = Outcomes("x")
    found = judged(config, Outcomes("x"), appeal, "?", "x")
    assert appeal.asked == ["x"]
    assert found.member_failures == {"of": (True, False), "appeal": (False,)}


def test_the_share_that_is_appealed_is_the_same_answers_each_time():
    config = CorrectedConfig(members={"of": VerifierConfig(), "appeal": VerifierConfig()})
    texts = [str(i) for i in range(1000)]
    asked = []
    for _ in range(2):
        appeal = Outcomes()
        judged(config, Outcomes(), appeal, *texts)
        asked.append(appeal.asked)
    assert asked[0] == asked[1] and 70 < len(asked[0]) < 130


def test_rates_by_appeals_are_no_shares_of_what_was_overturned():
    """60 passed and 40 did not, of which 5 in 20 were overturned: 10 of 70 right ones failed."""
    assert rates_by_appeals(0.6, 5 / 20, 1.0) == pytest.approx((0.0, 0.142857), abs=1e-6)
    # A tenth of what passed was wrong too: 6 of 36 wrong ones passed, 10 of 64 right ones failed.
    assert rates_by_appeals(0.6, 0.25, 0.9) == pytest.approx((6 / 36, 10 / 64))
    assert rates_by_appeals(1.0, 0.0, 1.0) == (0.0, 0.0)


def test_rates_come_back_from_a_simulated_verifier_and_its_appeals():
    draw = Random(2)
    right = [draw.random() < 0.4 for _ in range(60_000)]
    passed = [draw.random() < (0.8 if one else 0.1) for one in right]
    both = list(zip(passed, right, strict=True))
    found = rates_by_appeals(
        fmean(passed), fmean(r for p, r in both if not p), fmean(r for p, r in both if p)
    )
    assert found == pytest.approx(RATES, abs=0.01)


# --- estimated as a run goes on -------------------------------------------------------------------

BEFORE = Rates(0.1, 0.2)


def test_running_rates_by_hand():
    """60 of 100 passed, 5 of 20 failures were overturned: 1/7 of the right ones fail, by 5 right
    answers beside 20 of the prior, and none of the wrong ones passes, by 15."""
    total = Seen(100, 60, 20, 5.0)
    assert running(BEFORE, Seen()) == BEFORE
    assert running(BEFORE, total) == pytest.approx((20 * 0.1 / 35, (20 * 0.2 + 5 / 7) / 25))
    # 10 of what passed were asked about too, and 9 confirmed: 6 of 36 wrong ones pass.
    total = Seen(100, 60, 20, 5.0, 10, 9.0)
    expected = ((20 * 0.1 + 16 * 6 / 36) / 36, (20 * 0.2 + 14 * 10 / 64) / 34)
    assert running(BEFORE, total) == pytest.approx(expected)


def test_a_verifier_that_is_worth_nothing_ends_the_run():
    with pytest.raises(WorthNothing, match="says less than a guess"):
        running(BEFORE, Seen(100, 50, 5000, 5000.0, 5000, 0.0))


def test_what_a_round_shows_is_counted_from_its_parts():
    parts = {"maths.of": (1.0, 0.0, None), "maths.overturned": (None, 1.0, None),
             "maths.confirmed": (0.0, None, None)}  # fmt: skip
    assert seen([parts, parts], "maths.") == (4, 2, 2, 2.0, 2, 0.0)
    assert seen([{}], "") == Seen()


def learning(page: Page, max_staleness: int = 0) -> tuple[Learning, Judge, list[Judgement]]:
    """Rounds of four answers, of which `a` and `b` pass, by a panel's member; the appeal calls `a`
    and `c` right."""
    members = {"of": VerifierConfig(), "appeal": VerifierConfig()}
    config = CorrectedConfig(members=dict(members), appeals=1.0, estimate=True, false_negative=0.2)
    assert list(config.problems()) == []
    panel = PanelConfig(members={"maths": config, "other": VerifierConfig()})
    inner = config.over({"of": Outcomes("a", "b"), "appeal": Outcomes("a", "c")})
    judge = panel.over({"maths": inner, "other": Outcomes("a")})
    prompt = Prompt("p", (Message("user", "?"),), (1,))
    told: list[Judgement] = []

    class Rounds:
        async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
            # In a task of its own, as prompts are.
            verdict = await asyncio.create_task(judge.judge(prompt, group(*"abcd")))
            told.append(verdict)
            return [Collected(prompt, (), verdict, (), ())]

    return Learning(Rounds(), learners(panel), page, max_staleness), judge, told


def test_each_round_goes_by_those_before_it_and_so_does_one_that_is_resumed():
    page = Page({})
    collector, judge, told = learning(page)

    async def rounds() -> None:
        for round in range(3):
            await collector.collect(round)

    asyncio.run(rounds())
    # By a round of two that passed, one rightly, and two that failed, one wrongly.
    first = running(BEFORE, Seen(4, 2, 2, 1.0, 2, 1.0))
    second = running(BEFORE, Seen(8, 4, 4, 2.0, 4, 2.0))
    in_force = [one.parts["maths.false_negative"][0] for one in told]
    assert in_force == [0.2, first.false_negative, second.false_negative]
    assert told[2].parts["maths"] == pytest.approx([corrected(r, second) for r in (1, 1, 0, 0)])
    # What judges something else meanwhile, such as an evaluation, goes by the rates that are given.
    prompt = Prompt("p", (Message("user", "?"),), (1,))
    outside = asyncio.run(judge.judge(prompt, group(*"abcd")))
    assert outside.parts["maths"] == told[0].parts["maths"]
    again, _, resumed = learning(Page({r: n for r, n in page.notes.items() if r < 2}))
    asyncio.run(again.collect(2))
    assert resumed[0] == told[2]
    late, _, found = learning(Page(dict(page.notes)), max_staleness=1)
    asyncio.run(late.collect(2))
    assert found[0] == told[1]


def test_who_estimates_needs_who_knows_better():
    config = CorrectedConfig(members={"of": VerifierConfig()}, estimate=True)
    (problem,) = config.problems()
    assert problem.startswith("judge.estimate=true: needs one who knows better; add +judge@")
    assert learners(CorrectedConfig(members={"of": VerifierConfig()})) == {}
    assert learners(config).keys() == {""}


def test_rates_of_a_file_count_instead(tmp_path):
    file = tmp_path / "rates.json"
    members = {"of": VerifierConfig()}
    for text, told in [
        ("{}", r"is no JSON such as"),
        ('{"false_positive": 1.5, "false_negative": 0}', "a rate is at least 0, below 1"),
        ('{"false_positive": 0.5, "false_negative": 0.6}', "with a sum of 1 or more"),
    ]:
        file.write_text(text)
        (problem,) = CorrectedConfig(members=dict(members), rates_file=str(file)).problems()
        assert problem.startswith(f"judge.rates_file={file}: ") and told in problem
    file.write_text('{"false_positive": 0.25, "false_negative": 0.05}')
    config = CorrectedConfig(members=dict(members), rates_file=str(file))
    assert list(config.problems()) == [] and config.rates == (0.25, 0.05)


def test_it_needs_what_its_member_needs():
    config = CorrectedConfig(members={"of": VerifierConfig()})
    assert config.needs()[Fact.answers].startswith("+judge@judge.members.of=verifier")
    assert list(config.problems()) == [] and config.gives() == {Fact.verdicts}

"""Judges that argue: who hears what, who decides, and seats that change."""

import asyncio
from collections.abc import Mapping

import pytest
from authors import PROMPT, Author, better, completions

from rlhf.judges.debate import Debate, DebateConfig
from rlhf.judges.deliberation import DeliberationConfig
from rlhf.judges.llm import LLMJudgeConfig
from rlhf.judges.questions.choosing import Remembering
from rlhf.options import Fact


def debate(authors: Mapping[str, Author], **given) -> Debate:
    notes = given.pop("notes", {})
    config = {name: DeliberationConfig(path="m", notes=notes.get(name, {})) for name in authors}
    made = DebateConfig(members=dict(config), **given)
    assert list(made.problems()) == []
    judges = {n: config[n].judge_by(Remembering(a), n, str) for n, a in authors.items()}
    return made.over(judges)


def judged(one: Debate, *texts: str):
    return asyncio.run(one.judge(PROMPT, completions(*texts)))


def speaker(name: str, wins: float = 0.5) -> Author:
    return Author(lambda q: (wins, 1 - wins), lambda q, w: f"{name}{q.count('round')}")


def test_each_hears_all_before_it_and_the_listener_alone_decides():
    authors = {name: speaker(name) for name in ("ann", "bob")}
    authors["lee"] = Author(better("x", "y"), lambda q, w: pytest.fail("it listens"))
    found = judged(debate(authors, listener="lee"), "x", "y")
    assert found.win_prob == ((0.5, 1.0), (0.0, 0.5)) and found.order_disagreement == 0
    # Two orders, two rounds.
    assert len(authors["ann"].written) == len(authors["bob"].written) == 4
    assert all("speak for Answer A" in one for one in authors["ann"].written)
    assert all("speak for Answer B" in one for one in authors["bob"].written)
    assert authors["ann"].chosen == authors["bob"].chosen == []
    heard = authors["lee"].chosen[0].split("\n")
    assert [line for line in heard if "round" in line] == [
        f"=== {name}, round {number} ===" for number in (1, 2) for name in ("ann", "bob")
    ]
    assert found.reasons[0].startswith("[ann, round 1] ann0\n\n[bob, round 1] bob1")


def test_without_a_listener_all_decide_and_the_mean_counts():
    authors = {
        "ann": Author(lambda q: (0.9, 0.1) if "A ===\nx" in q else (0.3, 0.7)),
        "bob": Author(lambda q: (0.6, 0.4) if "A ===\nx" in q else (0.4, 0.6)),
    }
    found = judged(debate(authors, rounds=1), "x", "y")
    # x first: (.9 + .6) / 2; x second: 1 - (.3 + .4) / 2.
    assert found.win_prob[0][1] == pytest.approx((0.75 + 0.65) / 2)
    assert "one of 2 judges who discuss" in authors["bob"].written[0]


def test_seats_that_are_swapped_leave_the_winner_or_make_a_tie():
    faithful = {name: Author(better("x", "y")) for name in ("ann", "bob")}
    forth, back = judged(debate(faithful), "x", "y"), judged(debate(faithful), "y", "x")
    assert forth.win_prob[0][1] == back.win_prob[1][0] == 1.0
    seated = {name: speaker(name, 1.0) for name in ("ann", "bob")}
    assert judged(debate(seated), "x", "y").win_prob[0][1] == 0.5


def test_two_who_are_the_same_decide_as_one():
    same = {name: Author(lambda q: (0.8, 0.2), lambda q, w: "so") for name in ("ann", "bob")}
    alone = DeliberationConfig(path="m").judge_by(Remembering(same["ann"]), "m", str)
    both = judged(debate(same), "x", "y", "z")
    assert both.win_prob == asyncio.run(alone.judge(PROMPT, completions(*"xyz"))).win_prob


def test_notes_of_one_s_own_are_not_heard_by_others():
    authors = {name: speaker(name) for name in ("ann", "bob")}
    judged(debate(authors, notes={"ann": {"secret": "Answer it."}}, rounds=1), "x", "y")
    assert any("=== secret ===" in one for one in authors["ann"].chosen)
    assert not any("=== secret ===" in one for one in authors["bob"].written)


def test_who_says_nothing_makes_the_pair_missing():
    authors = {"ann": speaker("ann"), "bob": Author(lambda q: (1.0, 0.0), lambda q, w: None)}
    found = judged(debate(authors), "x", "y")
    assert found.failed == (True,) and found.reasons[0] == "nothing was said by bob, round 1"
    authors["bob"] = Author(lambda q: None)
    found = judged(debate(authors), "x", "y")
    assert found.failed == (True,) and found.reasons[0].startswith("no verdict after [ann, round")


def member(**given) -> DeliberationConfig:
    return DeliberationConfig(path="m", **given)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (DebateConfig(members={"a": member()}), "judge.members: a debate needs two who speak"),
        (DebateConfig(members={"a": member(), "b": member()}, listener="b"),
         "judge.members: a debate needs two who speak"),
        (DebateConfig(members={"a": member(), "b": member()}, listener="c"),
         "judge.listener=c: there is no such member; there is a, b"),
        (DebateConfig(members={"a": member(), "b": LLMJudgeConfig(path="m")}),
         "+judge@judge.members.b=llm: does not argue; take deliberation"),
        (DebateConfig(members={"a": member(), "b": member(scale=5)}),
         "+judge@judge.members.b=deliberation: does not argue"),
        (DebateConfig(members={"a": member(), "b": member(votes=2)}),
         "+judge@judge.members.b=deliberation: does not argue"),
        (DebateConfig(members={"a": member(), "b": member()}, num_workers=2),
         "judge.num_workers=2: a debate has no workers of its own"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(config: DebateConfig, told: str):
    (problem,) = config.problems()
    assert problem.startswith(told)


def test_it_compares():
    config = DebateConfig(members={"a": member(), "b": member()})
    assert config.gives() == {Fact.verdicts, Fact.matrix} and config.needs() == {}

"""Simulated users: seeded, true to their words, and to the rates that are written down."""

import random
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.asking.sources.simulated_users import SimulatedUsersConfig, simulated_users
from rlhf.conversations.labels import Satisfaction
from rlhf.conversations.log import Conversation, ConversationLog
from rlhf.data.rendering import Source
from rlhf.feedback import rules
from rlhf.judges.groups import Group
from rlhf.judges.simulated_users import SimulatedUserJudgeConfig, SimulatedUsers
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt
from rlhf.toys.users import (
    ASKS_FOR,
    ASSISTANT,
    COMPLAIN_RATE,
    FORMS,
    HEEDS_RATE,
    MAX_REPLIES,
    PRAISE,
    PRAISE_RATE,
    WISHES,
    WRONG_SUM,
    SimulatedUser,
    converse,
    draw_user,
    is_satisfied,
    write_log,
)

Talk = tuple[SimulatedUser, Conversation]


@cache
def talks() -> list[Talk]:
    rng, made = random.Random(5), []
    for i in range(6000):
        user = draw_user(f"{rng.randint(10, 99)}+{rng.randint(10, 99)}=", rng)
        made.append((user, converse(f"user-{i}", user, rng)))
    return made


def replies(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages[1::2]]


def share(holds) -> float:
    listed = list(holds)
    assert len(listed) > 100
    return sum(listed) / len(listed)


# --- what a user says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form, reply, remark",
    [
        ("brackets", "(46)", PRAISE),
        ("brackets", " (46)\n", PRAISE),
        ("brackets", "46", ASKS_FOR["brackets"]),
        ("brackets", "12+34=46", ASKS_FOR["brackets"]),
        ("brackets", "(45)", WRONG_SUM),
        ("number", "46", PRAISE),
        ("number", "(46)", ASKS_FOR["number"]),
        ("number", "", WRONG_SUM),
        ("equation", "12+34=46", PRAISE),
        ("equation", "46", ASKS_FOR["equation"]),
        ("equation", "12+34=36", WRONG_SUM),
    ],
)
def test_what_a_user_says_of_a_reply(form, reply, remark):
    user = SimulatedUser("12+34=", form)
    assert user.remark(reply) == remark
    assert is_satisfied(user.wanted, reply) == (remark == PRAISE)


@given(a=st.integers(10, 99), b=st.integers(10, 99), form=st.sampled_from(sorted(FORMS)))
def test_a_user_wants_one_form_of_the_right_sum(a, b, form):
    user = SimulatedUser(f"{a}+{b}=", form)
    shown = {name: SimulatedUser(user.question, name).wanted for name in FORMS}
    assert shown == {"number": f"{a + b}", "brackets": f"({a + b})", "equation": f"{a}+{b}={a + b}"}
    assert [name for name, text in shown.items() if user.remark(text) == PRAISE] == [form]
    wrong = FORMS[form].format(question=user.question, sum=a + b + 1)
    assert user.remark(wrong) == WRONG_SUM


# --- conversations --------------------------------------------------------------------------------


def test_labels_agree_with_the_words_and_with_the_rules():
    """A first labeller needs nobody's labels to find these."""
    for user, conversation in talks():
        remarks = conversation.messages[2::2]
        assert [verdict.turn for verdict in conversation.given] == [
            2 * n for n in range(1, len(remarks) + 1)
        ]
        by_rules = rules.label(conversation.messages)
        for verdict, found, reply in zip(
            conversation.given, by_rules, replies(conversation), strict=False
        ):
            remark = conversation.messages[verdict.turn].content
            assert remark == user.remark(reply)
            satisfied = is_satisfied(user.wanted, reply)
            expected = Satisfaction.satisfied if satisfied else Satisfaction.dissatisfied
            assert verdict.satisfaction == found.satisfaction == expected


def test_users_and_assistant_take_turns_until_somebody_is_content_or_gives_up():
    for user, conversation in talks():
        messages = conversation.messages
        assert [m.role for m in messages] == [
            ("user", "assistant")[n % 2] for n in range(len(messages))
        ]
        assert messages[0] == Message("user", user.question)
        said = replies(conversation)
        assert 1 <= len(said) <= MAX_REPLIES
        # Nobody goes on after a reply that satisfied.
        assert not any(is_satisfied(user.wanted, reply) for reply in said[:-1])


def test_rates_are_near_the_constants():
    wishes = Counter(user.form for user, _ in talks())
    for form, expected in WISHES.items():
        assert wishes[form] / len(talks()) == pytest.approx(expected, abs=0.02)
    by_chance = ASSISTANT.accuracy * sum(WISHES[form] * ASSISTANT.forms[form] for form in FORMS)
    content = [(is_satisfied(user.wanted, replies(c)[0]), c) for user, c in talks()]
    assert share(pleased for pleased, _ in content) == pytest.approx(by_chance, abs=0.02)
    spoke = {
        who: share(len(c.messages) > 2 for pleased, c in content if pleased == who)
        for who in (True, False)
    }
    assert spoke[False] == pytest.approx(COMPLAIN_RATE, abs=0.02)
    assert spoke[True] == pytest.approx(PRAISE_RATE, abs=0.06)
    # After a complaint it is heeded, or pleases by chance.
    second = share(
        is_satisfied(user.wanted, replies(c)[1]) for user, c in talks() if len(replies(c)) > 1
    )
    assert second == pytest.approx(HEEDS_RATE + (1 - HEEDS_RATE) * by_chance, abs=0.03)


# --- the data -------------------------------------------------------------------------------------


@cache
def source(seed: int = 1) -> Source:
    return simulated_users(SimulatedUsersConfig(1500, 300), seed)


def test_the_data_follows_the_seed():
    assert source() == simulated_users(SimulatedUsersConfig(1500, 300), 1)
    assert source() != source(2)


def test_held_out_users_ask_for_sums_that_nobody_in_the_log_asks_for():
    made = source()
    log = {row.messages[0].content for row in (*made.train, *made.lessons)}
    heldout = [row.messages[0].content for row in made.heldout]
    assert len(set(heldout)) == len(heldout) == 300 and len(made.lessons) == 1500
    assert not log & set(heldout)
    rows = (*made.train, *made.heldout, *made.lessons)
    assert len({row.id for row in rows}) == len(rows)
    assert {row.review for row in made.heldout} == {None}


def test_reviews_are_of_the_reply_that_comes_next():
    """What displeased, what was said of it, and what pleased: as the user would say again."""
    kinds = Counter()
    for row in source().train:
        question, review = row.messages[0].content, row.review
        assert row.messages[-1].role == "user"
        kinds[review.complaint is not None, review.liked is not None] += 1
        if review.complaint is None:
            assert review.disliked is None and review.liked
            continue
        wishes = [
            SimulatedUser(question, form)
            for form in FORMS
            if SimulatedUser(question, form).remark(review.disliked) == review.complaint
        ]
        assert wishes and review.instruction == "once more:"
        if review.liked:
            assert review.liked in [user.wanted for user in wishes]
    # Complaints are far more frequent than praise, and few have an answer that pleased.
    assert kinds[True, False] > 5 * kinds[False, True] > 0
    assert 0 < kinds[True, True] < kinds[True, False] / 5


def test_lessons_show_how_to_heed_a_complaint_and_another_s_habits():
    made = source()
    guided = [row for row in made.lessons if len(row.messages) > 1]
    plain = [row for row in made.lessons if len(row.messages) == 1]
    assert abs(len(guided) - len(plain)) <= 1
    for row in guided:
        question, reply, complaint = (message.content for message in row.messages)
        assert complaint.endswith("\n\nonce more:")
        remark = complaint.removesuffix("\n\nonce more:")
        assert any(
            (user.wanted, user.remark(reply)) == (row.demonstration, remark)
            for user in (SimulatedUser(question, form) for form in FORMS)
        )
    answers = Counter(row.demonstration[0] == "(" for row in plain)
    assert answers[True] / len(plain) == pytest.approx(0.3, abs=0.06)


def test_more_users_than_sums_are_refused():
    assert len(simulated_users(SimulatedUsersConfig(8000, 100), 1).heldout) == 100
    with pytest.raises(InputError, match="8100 sums"):
        simulated_users(SimulatedUsersConfig(8000, 101), 1)


def test_a_written_log_is_read_back_whole(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_log(tmp_path / f"{name}.jsonl", 50, seed)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    (tmp_path / "b.jsonl").unlink()
    log = ConversationLog(tmp_path)
    found = list(log)
    # Logs of two seeds have no id in common.
    assert len(found) == log.tally.num_read == 100 and not log.tally.dropped
    for conversation in found:
        says = [verdict.satisfaction for verdict in conversation.given]
        assert says == [verdict.satisfaction for verdict in rules.label(conversation.messages)]


# --- the judge ------------------------------------------------------------------------------------


def test_the_judge_knows_the_wish_and_fails_where_there_is_none():
    def group(answer: str | None, *texts: str) -> Group:
        prompt = Prompt("p", (Message("user", "12+34="),), (1,), answer)
        drawn = (Completion("p", i, (1,), (), text, False, 0) for i, text in enumerate(texts))
        return Group(prompt, tuple(drawn))

    texts = ("(46)", " (46)\n", "46", "(45)", "")
    judge = SimulatedUsers(SimulatedUserJudgeConfig())
    known, unknown = judge.judge([group("(46)", *texts), group(None, "(46)", "46")])
    assert known.scores == (1.0, 1.0, 0.0, 0.0, 0.0)
    assert unknown.scores == (None, None) and all(unknown.failed)
    assert known.judge == unknown.judge == "simulated_users@1"

"""Rules that read a user's turn, and numbers that say how good they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.conversations.labels import Agreement, Agreements, Satisfaction, Verdict
from rlhf.feedback.rules import label
from rlhf.records import Message

ASKED = "Write a poem about spring in Paris"


def said(text: str, reply: str = "Here it is.", asked: str = ASKED) -> Verdict:
    (verdict,) = label((Message("user", asked), Message("assistant", reply), Message("user", text)))
    return verdict


@pytest.mark.parametrize(
    "text, rule",
    [
        ("That's wrong.", "wrong"),
        ("That’s still completely wrong", "wrong"),
        ("The second answer is incorrect, check the units", "wrong"),
        ("you made a mistake in line 3", "wrong"),
        ("this is not right", "not_right"),
        ("that isn't correct", "not_right"),
        ("this is not what I asked for", "not_asked"),
        ("I didn't ask for a story", "not_asked"),
        ("I asked for three examples", "not_asked"),
        ("No, I meant the river", "meant, no"),
        ("no that is the old name", "no"),
        ("Try again", "again"),
        ("please write it again, shorter", "again"),
        ("you forgot the title", "forgot"),
        ("You still haven't used the word", "forgot"),
        ("It doesn't work", "broken"),
        ("The function doesn't compile", "broken"),
        ("still getting the same error", "wrong, broken"),
        ("too long", "too"),
        ("that is way too formal", "too"),
        ("Write a poem about spring in Paris, please", "repeated"),
    ],
)
def test_complaints(text, rule):
    assert said(text)[1:] == (Satisfaction.dissatisfied, rule)


@pytest.mark.parametrize(
    "text, rule",
    [
        ("Thank you so much!", "thanks"),
        ("no problem, thanks", "thanks"),
        ("Perfect, now do it in French", "praise"),
        ("great job", "praise"),
        ("That's exactly what I needed", "praise"),
        ("not bad", "not_bad"),
        ("that isn't bad at all", "not_bad"),
        ("it works now", "works"),
        ("Write a poem about spring in Paris, thanks", "thanks"),
    ],
)
def test_praise(text, rule):
    assert said(text)[1:] == (Satisfaction.satisfied, rule)


@pytest.mark.parametrize(
    "text",
    [
        "that's not wrong",
        "That isn't wrong",
        "nothing is wrong here",
        "no thanks",
        "Thanks in advance",
        "why is this wrong?",
        "tell me if it is wrong",
        "No",
        "No worries. continue",
        "good morning",
        "write a perfect letter",
        "Great Gatsby summary please",
        "is that correct?",
        "it's not perfect",
        "make it longer",
        "my printer does not work",
        "Write a poem about autumn in Rome",
        "Review this:\n```\n# that's wrong\n```",
        "Summarise this text. " + "word " * 60 + "that's wrong",
        "Against all odds, the forgotten wrongdoer",
    ],
)
def test_what_is_neither(text):
    assert said(text)[1:] == (Satisfaction.neither, "no rule matched")


def test_praise_and_complaint_are_mixed():
    assert said("Thanks, but that's wrong")[1:] == (Satisfaction.mixed, "wrong, thanks")


@pytest.mark.parametrize("text", ["谢谢", "👎", "123"])
def test_what_the_rules_cannot_read_is_unknown(text):
    assert said(text).satisfaction is Satisfaction.unknown


def test_a_no_after_a_question_is_its_answer():
    assert said("no, i want tea", "Here is coffee.").satisfaction is Satisfaction.dissatisfied
    assert said("no, i want tea", "Would you like coffee?").satisfaction is Satisfaction.neither


def test_short_requests_are_alike_by_chance():
    assert said("next one", asked="next one").satisfaction is Satisfaction.neither


def test_only_turns_after_a_reply_are_labelled():
    texts = ["That's wrong", "a", "thanks", "b", "Try again"]
    roles = ["user", "assistant", "user", "assistant", "user"]
    found = label(tuple(map(Message, roles, texts)))
    assert [verdict[:2] for verdict in found] == [(2, "satisfied"), (4, "dissatisfied")]


def test_agreement_by_hand():
    # 20 turns: 6 both, 2 only the labeller, 3 only given, 9 neither. p_o = 15/20, and by the
    # margins (8 and 9 of 20) p_e = .4 · .45 + .6 · .55 = .51: κ = .24 / .49.
    counts = Agreement(both=6, only_labeller=2, only_given=3, neither=9)
    assert counts.precision == pytest.approx(6 / 8)
    assert counts.recall == pytest.approx(6 / 9)
    assert counts.f1 == pytest.approx(12 / 17)
    assert counts.kappa == pytest.approx(0.24 / 0.49)


def test_agreement_without_any_yes():
    counts = Agreement(neither=4)
    assert counts.record() == {
        "num_turns": 4,
        "precision": None,
        "recall": None,
        "f1": None,
        "kappa": None,
    }


def test_agreements_leave_out_unknown_turns_and_count_mixed_ones_on_both_sides():
    def verdicts(*labels):
        return [Verdict(turn, Satisfaction(label), "") for turn, label in enumerate(labels)]

    agreements = Agreements()
    agreements.add(
        verdicts("dissatisfied", "mixed", "satisfied", "unknown", "satisfied"),
        verdicts("mixed", "unknown", "satisfied", "dissatisfied", "neither"),
    )
    assert agreements.dissatisfied == Agreement(both=1, only_given=1, neither=2)
    assert agreements.satisfied == Agreement(both=1, only_labeller=1, only_given=1, neither=1)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_agreement_is_bounded_and_perfect_only_with_itself(answers):
    counts, itself = Agreement(), Agreement()
    for labeller, true in answers:
        counts.add(labeller, true)
        itself.add(true, true)
    assert counts.num_turns == len(answers)
    for name in ("precision", "recall", "f1"):
        assert (value := getattr(counts, name)) is None or 0 <= value <= 1
    assert counts.kappa is None or -1 <= counts.kappa <= 1
    assert itself.kappa in (None, 1)

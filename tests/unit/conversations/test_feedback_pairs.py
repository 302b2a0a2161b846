"""Complaints and seed pairs hold the log's own words, and each conversation is on one side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.conversations.labels import Satisfaction, Verdict
from rlhf.conversations.log import Conversation
from rlhf.conversations.pairs import Complaint, complaints, is_heldout, praises, seed_pairs
from rlhf.data.guidance import INSTRUCTION, guided
from rlhf.records import Message

SATISFACTION = {"d": "dissatisfied", "s": "satisfied", "n": "neither", "m": "mixed", "u": "unknown"}


def conversation(labels: str, texts=None, id="c") -> tuple[Conversation, tuple[Verdict, ...]]:
    """One letter per user's turn from the second on."""
    num_messages = 2 * len(labels) + 1
    texts = texts or [f"t{n}" for n in range(num_messages)]
    messages = tuple(Message(("user", "assistant")[n % 2], texts[n]) for n in range(num_messages))
    verdicts = tuple(
        Verdict(2 * n, Satisfaction(SATISFACTION[letter]), f"says {letter}")
        for n, letter in enumerate(labels, start=1)
    )
    return Conversation(id, messages, verdicts, "log.jsonl", 3), verdicts


def found(labels: str, **rest) -> list[Complaint]:
    return list(complaints(*conversation(labels, **rest), "given"))


def test_a_complaint_about_the_first_reply():
    (complaint,) = found("d")
    assert complaint.record() == {
        "id": "c:2",
        "conversation_id": "c",
        "file": "log.jsonl",
        "row": 3,
        "turn": 2,
        "label_source": "given",
        "reason": "says d",
        "history": [{"role": "user", "content": "t0"}],
        "reply": "t1",
        "complaint": "t2",
    }


@pytest.mark.parametrize("labels, turns", [("nsmu", []), ("dnd", [2, 6]), ("dd", [2, 4])])
def test_only_dissatisfied_turns_are_complaints(labels, turns):
    assert [complaint.origin.turn for complaint in found(labels)] == turns


@pytest.mark.parametrize(
    "labels, turns",
    [("ds", [2]), ("dsds", [2, 6]), ("dds", [4]), ("dns", []), ("sd", []), ("dm", []), ("d", [])],
)
def test_seed_pairs_are_dissatisfied_turns_whose_next_reply_satisfied(labels, turns):
    pairs = list(seed_pairs(*conversation(labels), "given"))
    assert [pair.origin.turn for pair in pairs] == turns
    for pair in pairs:
        turn = pair.origin.turn
        assert (pair.rejected, pair.chosen) == (f"t{turn - 1}", f"t{turn + 1}")
        assert [m.content for m in pair.prompt] == [f"t{n}" for n in range(turn - 1)]
        assert (pair.origin.reason, pair.chosen_reason) == ("says d", "says s")


def test_a_reply_that_was_repeated_is_no_pair():
    assert not list(seed_pairs(*conversation("ds", texts=["q", "a", "no", "a", "ok"]), "given"))


def test_the_guided_conversation():
    (complaint,) = found("d")
    assert guided(complaint.history, complaint.reply, complaint.complaint) == (
        Message("user", "t0"),
        Message("assistant", "t1"),
        Message("user", f"t2\n\n{INSTRUCTION}"),
    )
    asked = guided(complaint.history, complaint.reply, complaint.complaint, "Again.")
    assert asked[-1].content == "t2\n\nAgain."
    assert complaint.history == (Message("user", "t0"),)


@pytest.mark.parametrize("labels, turns", [("ndmu", []), ("sns", [2, 6]), ("ds", [4])])
def test_only_satisfied_turns_are_praise(labels, turns):
    made = list(praises(*conversation(labels), "rules"))
    assert [praise.origin.turn for praise in made] == turns
    for praise, turn in zip(made, turns, strict=True):
        history = [
            {"role": ("user", "assistant")[n % 2], "content": f"t{n}"} for n in range(turn - 1)
        ]
        assert praise.record() == {
            "id": f"c:{turn}",
            "conversation_id": "c",
            "file": "log.jsonl",
            "row": 3,
            "turn": turn,
            "label_source": "rules",
            "reason": "says s",
            "history": history,
            "reply": f"t{turn - 1}",
            "praise": f"t{turn}",
        }


LABELS = st.text(st.sampled_from("dsnmu"), min_size=1, max_size=6)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(data=st.data(), labels=LABELS)
def test_texts_are_the_logs_own_and_prompts_are_bare(data, labels):
    size = 2 * len(labels) + 1
    # Numbered, so that no two texts are equal by chance.
    texts = [f"{n}{data.draw(TEXT)}" for n in range(size)]
    made, verdicts = conversation(labels, texts)
    found = list(complaints(made, verdicts, "rules"))
    assert len(found) == labels.count("d")
    assert len(list(seed_pairs(made, verdicts, "rules"))) == labels.count("ds")
    assert len(list(praises(made, verdicts, "rules"))) == labels.count("s")
    for complaint in found:
        turn = complaint.origin.turn
        assert complaint.reply.encode() == texts[turn - 1].encode()
        bare, asked = complaint.history, guided(complaint.history, complaint.reply, texts[turn])
        assert complaint.complaint.encode() == texts[turn].encode()
        assert bare == made.messages[: turn - 1] == asked[: turn - 1]
        contents = [message.content for message in bare]
        assert complaint.complaint not in contents and complaint.reply not in contents
        assert not any(INSTRUCTION in content for content in contents)
        assert [m.role for m in asked] == ["user", "assistant"] * (turn // 2) + ["user"]


def test_a_share_of_the_conversations_is_held_out():
    held = [n for n in range(4000) if is_heldout(str(n), 0.25)]
    assert len(held) / 4000 == pytest.approx(0.25, abs=0.03)
    assert set(held) <= {n for n in range(4000) if is_heldout(str(n), 0.5)}

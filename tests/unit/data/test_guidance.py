"""Conversations that ask for a better reply, and shorter ones of those that are too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from users_log import conversation

from rlhf.data.guidance import INSTRUCTION, guided, shortened
from rlhf.records import Message

TEXTS = st.lists(st.text(max_size=3), min_size=1, max_size=11).map(
    lambda texts: texts if len(texts) % 2 else texts[:-1] or ["q"]
)
SYSTEM = st.none() | st.text(max_size=3)


def test_a_conversation_loses_whole_exchanges_from_the_left():
    history = conversation("q1", "a1", "q2", "a2", "q3", system="s")
    contents = [[m.content for m in one] for one in shortened(history)]
    assert contents == [["s", "q1", "a1", "q2", "a2", "q3"], ["s", "q2", "a2", "q3"], ["s", "q3"]]


@given(texts=TEXTS, system=SYSTEM)
def test_what_is_left_is_a_conversation_that_ends_alike(texts, system):
    history = conversation(*texts, system=system)
    found = list(shortened(history))
    assert found[0] == history
    assert len(found) == (len(texts) + 1) // 2
    start = system is not None
    for longer, one in zip([history, *found], found, strict=False):
        assert one[:start] == history[:start]
        assert one[-1] == history[-1]
        turns = one[start:]
        # The end of what was there, from a turn of the user on.
        assert turns == history[len(history) - len(turns) :]
        assert [m.role for m in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"]
        assert len(longer) - len(one) in (0, 2)
    assert [m.role for m in found[-1]] == ["system"] * start + ["user"]


@given(texts=TEXTS, system=SYSTEM, reply=st.text(), complaint=st.text(), more=st.text())
def test_a_guided_conversation_goes_on_with_reply_complaint_and_instruction(
    texts, system, reply, complaint, more
):
    history = conversation(*texts, system=system)
    asked = guided(history, reply, complaint, more)
    assert asked[:-2] == history
    assert asked[-2] == Message("assistant", reply)
    assert asked[-1] == Message("user", f"{complaint}\n\n{more}")
    roles = [m.role for m in asked[system is not None :]]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


@pytest.mark.parametrize("words", ["no apology", "my remark", "take into account"])
def test_the_instruction_asks_for_an_answer_that_stands_alone(words):
    assert words in INSTRUCTION
    assert guided(conversation("q"), "a", "bad")[-1].content == f"bad\n\n{INSTRUCTION}"

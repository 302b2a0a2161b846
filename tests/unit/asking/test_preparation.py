"""Reviewed rows into prompts: what is too long is shortened, and what is left out is told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from users_log import (
    COMPLAINT,
    DISLIKED,
    LIKED,
    QUESTION,
    conversation,
    renderer,
    reviewed,
    tokenizer,
)

from rlhf.asking.preparation import Preparation
from rlhf.config.models import Rendering, Vocabulary
from rlhf.data.guidance import INSTRUCTION
from rlhf.data.rendering import Renderer, Review, Row
from rlhf.records import LOGGED
from rlhf.toys.tiny import build_tokenizer

PLAIN = renderer(rendering=Rendering.plain)


def preparation(
    max_prompt_tokens: int = 512, max_completion_tokens: int = 64, render=None
) -> Preparation:
    return Preparation(render or renderer(), max_prompt_tokens, max_completion_tokens)


def read(ids) -> str:
    return tokenizer().decode(ids)


def test_a_reviewed_row_becomes_a_bare_prompt_with_the_log_s_words_beside_it():
    made = preparation()
    prompt = made.prompt(reviewed(history=conversation(QUESTION, system="Be kind.")))
    assert read(prompt.token_ids) == f"#Be kind.\n?{QUESTION}\n!"
    (said,) = made.feedback.values()
    assert read(said.guided.token_ids) == (
        f"#Be kind.\n?{QUESTION}\n!{DISLIKED}\n?{COMPLAINT}\n\n{INSTRUCTION}\n!"
    )
    assert said.guided.id == prompt.id
    for logged, text in ((said.disliked, DISLIKED), (said.liked, LIKED)):
        assert logged.text == text
        assert read(logged.token_ids) == f"{text}<eos>"
        assert (logged.prompt_id, logged.policy_version) == (prompt.id, LOGGED)
        assert (logged.logprobs, logged.truncated, logged.sample) == ((), False, LOGGED)
    assert (made.problems(can_drop=False), made.num_shortened) == ([], 0)


def test_praise_has_no_guided_prompt_and_rows_without_review_say_nothing():
    made = preparation()
    praise = Row("a", conversation(QUESTION), "log", review=Review(liked=LIKED))
    plain = Row("b", conversation(QUESTION), "log", answer="4")
    first, second = made.prompts([praise, plain])
    assert first.token_ids == second.token_ids
    assert (made.feedback["a"].guided, made.feedback["a"].disliked) == (None, None)
    assert made.feedback["a"].liked.text == LIKED
    assert "b" not in made.feedback and second.answer == "4"


def test_a_complaint_alone_or_a_reply_alone_guides_nobody():
    made = preparation()
    made.prompts([reviewed("a", complaint=None), reviewed("b", disliked=None, liked=LIKED)])
    assert made.feedback["a"].guided is made.feedback["b"].guided is None
    assert made.feedback["a"].disliked.text == DISLIKED


# --- what is too long -----------------------------------------------------------------------------

HISTORY = conversation("first", "one", "second", "two", QUESTION, system="Be kind.")


def guided_length(num_turns: int) -> int:
    """Tokens of the guided prompt with that many last turns of the history."""
    history = (HISTORY[0], *HISTORY[-num_turns:])
    made = preparation(10**6)
    made.prompt(reviewed(history=history))
    return len(made.feedback["p"].guided.token_ids)


@pytest.mark.parametrize("num_turns", [1, 3, 5])
def test_as_many_turns_stay_as_fit_beside_complaint_and_instruction(num_turns):
    limit = guided_length(num_turns)
    made = preparation(limit)
    prompt = made.prompt(reviewed(history=HISTORY))
    said = made.feedback["p"]
    assert prompt.messages == (HISTORY[0], *HISTORY[-num_turns:])
    assert said.guided.messages[:-2] == prompt.messages
    assert len(said.guided.token_ids) == limit
    assert read(said.guided.token_ids).endswith(f"{DISLIKED}\n?{COMPLAINT}\n\n{INSTRUCTION}\n!")
    assert (made.num_shortened, made.overlong) == (int(num_turns < 5), [])
    # One token less costs an exchange, or the row.
    fewer = preparation(limit - 1)
    cut = fewer.prompt(reviewed(history=HISTORY))
    if num_turns == 1:
        assert cut is None and fewer.overlong == ["p"] and not fewer.feedback
    else:
        assert cut.messages == (HISTORY[0], *HISTORY[-num_turns + 2 :])


@settings(max_examples=60)
@given(
    texts=st.lists(st.text(max_size=12), min_size=1, max_size=9),
    said=st.tuples(*[st.text(min_size=1, max_size=12)] * 2),
    limit=st.integers(1, 350),
)
def test_what_is_prepared_fits_and_complaint_and_instruction_survive(texts, said, limit):
    texts = texts if len(texts) % 2 else texts[1:]
    made = preparation(limit, render=renderer())
    row = reviewed(history=conversation(*texts), disliked=said[0], complaint=said[1])
    prompt = made.prompt(row)
    if prompt is None:
        assert made.overlong == ["p"]
        return
    guided = made.feedback["p"].guided
    assert max(len(prompt.token_ids), len(guided.token_ids)) <= limit
    assert guided.messages[-1].content == f"{said[1]}\n\n{INSTRUCTION}"
    assert prompt.messages == row.messages[-len(prompt.messages) :] == guided.messages[:-2]
    assert made.num_shortened == (len(prompt.messages) < len(texts))


def test_what_cannot_be_shortened_is_told_by_its_id_or_left_out():
    rows = [reviewed("a"), reviewed("b", conversation("?" * 600)), reviewed("c", liked="." * 64)]
    made = preparation()
    assert [prompt.id for prompt in made.prompts(rows)] == ["a"]
    assert list(made.feedback) == ["a"]
    prompts, replies = made.problems(can_drop=False)
    assert prompts.startswith("rollout.max_prompt_tokens=512: 1 prompts are longer (ids b);")
    # 64 characters and the end token.
    assert replies.startswith("rollout.max_completion_tokens=64: 1 logged replies are longer")
    assert "(ids c)" in replies and "data.overlong=drop" in replies
    assert made.problems(can_drop=True) == []
    assert made.num_too_long == 2


def test_a_row_without_review_is_never_shortened():
    made = preparation(guided_length(1))
    assert made.prompt(Row("x", conversation("a" * 400, "b", "c"), "log")) is None
    assert (made.overlong, made.num_shortened) == (["x"], 0)


# --- what cannot be used at all -------------------------------------------------------------------


@pytest.mark.parametrize("part", ["history", "disliked", "complaint", "liked", "instruction"])
def test_unknown_characters_in_any_part_are_told_whatever_may_be_dropped(part):
    arithmetic = build_tokenizer(Vocabulary.arithmetic)
    # The tiny model's own template marks roles by characters that this vocabulary lacks.
    arithmetic.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    made = preparation(render=Renderer(arithmetic, Rendering.auto))
    row = {"disliked": "3", "complaint": "1+1=3", "liked": "(2)", "instruction": "(1+1)"}
    history = conversation("1+1=")
    assert made.prompt(reviewed("good", history, **row)) is not None
    if part == "history":
        history = conversation("1é1=")
    else:
        row[part] = "Ö"
    assert made.prompt(reviewed("bad", history, **row)) is None
    (problem,) = made.problems(can_drop=True)
    assert "1 prompts have characters that its vocabulary lacks (ids bad)" in problem
    assert list(made.feedback) == ["good"]


def test_plain_rendering_cannot_read_several_turns_and_is_told_so_once():
    made = preparation(render=PLAIN)
    assert made.prompts([reviewed("a"), reviewed("b"), Row("c", conversation("1"), "log")])
    (problem,) = made.problems(can_drop=True)
    assert problem.startswith("model.rendering: 2 conversations of several turns need a chat")
    assert not made.feedback


def test_a_log_may_speak_of_control_tokens():
    speaking = build_tokenizer(Vocabulary.bytes)
    speaking.split_special_tokens = False
    speaking.chat_template = (
        "{% for m in messages %}{{ m.content }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}<pad>{% endif %}"
    )
    made = preparation(render=Renderer(speaking, Rendering.chat))
    history = conversation("Why <eos>?", "So.", "What is <pad>?")
    prompt = made.prompt(reviewed(history=history, disliked="<eos>", complaint="No <eos>!"))
    (said,) = made.feedback.values()
    pad, eos = 0, 1
    assert [id for id in prompt.token_ids if id <= eos] == [eos] * 3 + [pad]
    assert [id for id in said.guided.token_ids if id <= eos] == [eos] * 5 + [pad]
    assert [id for id in said.disliked.token_ids if id <= eos] == [eos]  # its own end
    assert made.problems(can_drop=False) == []


def test_what_a_template_refuses_and_what_is_empty_is_told():
    made = preparation()
    strange = (*conversation(QUESTION, "So.", "Why?")[:2], ("tool", "x"), *conversation("Why?"))
    row = reviewed("a", tuple(type(HISTORY[0])(*message) for message in strange))
    assert made.prompt(row) is None
    (problem,) = made.problems(can_drop=True)
    assert "1 prompts cannot be rendered (log row a: the chat template refuses it:" in problem
    empty = preparation(render=PLAIN)
    assert empty.prompt(Row("b", conversation(""), "log")) is None
    assert "1 prompts have no tokens (ids b)" in empty.problems(can_drop=True)[0]

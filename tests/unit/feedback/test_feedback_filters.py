"""Which fresh replies are kept out, phrase by phrase; and how alike sequences of tokens are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.collecting.similarity import distinct, similarity
from rlhf.feedback.filters import OPENING_CHARS, Filter, reason_to_drop
from rlhf.records import Completion, DropReason


def completion(text: str, sample: int = 0, token_ids: tuple[int, ...] = ()) -> Completion:
    ids = token_ids or tuple(map(ord, text))
    return Completion("p", sample, ids, (), text, False, 0)


def found(only: Filter, fresh: str, rejected: str = "~") -> bool:
    """Whether that filter alone drops it, which must then be its own reason."""
    reason = reason_to_drop(completion(fresh), completion(rejected), [only], 0.9)
    assert reason in (None, DropReason(only.value))
    return reason is not None


# --- phrases --------------------------------------------------------------------------------------

ROLE_MARKERS = [
    "Yes.\nUser: and then?",
    "Yes.\n  human:",
    "ASSISTANT: Yes.",
    "Yes.\n\n**User:** what now?",
    "Yes.\n**Assistant**: Sure.",
    "Yes.\n### Human: more",
    "Yes.\nAI: more",
    "System: you are a pirate",
    "Yes.<|im_end|>",
    "<|start_header_id|>",
    "Yes. [/INST]",
    "[INST] Go on",
    "<<SYS>> be brief",
    "<start_of_turn>",
]
NO_ROLE_MARKERS = [
    "<s>struck out</s>",
    "The user: whoever pays.",
    "Ask your assistant: they know.",
    "Users: 12",
    "Users of the system are human.",
    "Use <strong>this</strong> | that.",
    "An AI system helps its user",
    "if a < s > b:",
    "[INSTALL] first",
]


@pytest.mark.parametrize("text", ROLE_MARKERS)
def test_a_turn_of_its_own_is_found(text):
    assert found(Filter.role_marker, text)


@pytest.mark.parametrize("text", NO_ROLE_MARKERS)
def test_words_about_roles_are_no_turn(text):
    assert not found(Filter.role_marker, text)


REFERS_BACK = [
    "Sorry, here it is.",
    "I apologize for the confusion.",
    "I apologise! The answer is 4.",
    "My apologies. It is 4.",
    "My mistake: it is 4.",
    "I misunderstood you.",
    "As I wrote in my previous answer, it is 4.",
    "Unlike the earlier response, this one has brackets.",
    "My last rushed version was short.",
    "Thanks to your feedback it is now shorter.",
    "You're right, it is 4.",
    "You’re absolutely right.",
    "You are quite right.",
    "Thank you for pointing that out.",
    "Thanks for clarifying!",
    "Here is the improved answer: 4.",
    "A corrected version follows.",
    "As you requested, with brackets: (4)",
    "As you pointed out, it is 4.",
]
STANDS_ALONE = [
    "I am sorry for your loss.",
    "Say sorry to her first.",
    "The answer is 4.",
    "(4)",
    "Turn right at the corner.",
    "The right answer is 4.",
    "An apologetic tone works best here.",
    "The previous king was Charles.",
    "My first car was red.",
    "Your first step is to mix the flour.",
    "You are responsible for the result.",
    "Thank the host for the invitation.",
    "As you can see, it is 4.",
    "To improve the answer rate, send a reminder.",
    "The message was revised in 1991.",
]


@pytest.mark.parametrize("text", REFERS_BACK)
def test_words_about_what_the_prompt_lacks_are_found(text):
    assert found(Filter.refers_back, text)
    assert found(Filter.refers_back, text.upper())


@pytest.mark.parametrize("text", STANDS_ALONE)
def test_a_reply_that_stands_alone_is_kept(text):
    assert not found(Filter.refers_back, text)


REFUSALS = [
    "I can't help with that.",
    "I can’t help with that.",
    "I cannot do this.",
    "I am not able to say.",
    "I am unable to say.",
    "I won't write this.",
    "I will not write this.",
    "I must decline.",
    "I'm sorry, but no.",
    "I’m unable to.",
    "As an AI, I have no opinion.",
    "I don't feel comfortable with that.",
    "I do not feel comfortable with that.",
    "That violates our content policy.",
    "It is against my guidelines.",
]
NO_REFUSALS = [
    "You can't divide by zero.",
    "One cannot know.",
    "It will not rain.",
    "They declined.",
    "I'm sure it is 4.",
    "As an aid, use a ruler.",
    "Is it comfortable?",
    "It is against the law.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_not_to_be_undone(text):
    assert found(Filter.refusal, "Take two spoons.", rejected=text)
    assert not found(Filter.refusal, text, rejected=text)
    assert not found(Filter.refusal, text, rejected="Take two spoons.")


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_what_is_no_refusal_may_be_answered_otherwise(text):
    assert not found(Filter.refusal, "Take two spoons.", rejected=text)


def test_apologies_and_refusals_count_where_a_reply_begins():
    before = "x" * (OPENING_CHARS - 11)
    assert found(Filter.refers_back, f"{before} my mistake")
    assert not found(Filter.refers_back, f"{before}. my mistake")
    assert not found(Filter.refusal, "Yes.", rejected=f"{before}.....I cannot do it.")
    assert found(Filter.role_marker, f"{before}{before}\nUser: more")


@pytest.mark.parametrize(
    "text, empty", [("", True), (" \n\t", True), ("\u3000", True), ("0", False)]
)
def test_empty_is_without_text(text, empty):
    assert found(Filter.empty, text) == empty


def test_a_near_copy_repeats_more_than_is_allowed():
    fresh, rejected = (
        completion("", token_ids=(1, 2, 3, 4, 5)),
        completion("", token_ids=(1, 2, 3, 4)),
    )
    # Three pairs are in both, of four and three.
    for limit, reason in ((6 / 7, None), (0.85, DropReason.NEAR_COPY)):
        assert reason_to_drop(fresh, rejected, [Filter.near_copy], limit) == reason
    alone = [completion("a", token_ids=(n, 9)) for n in (1, 2)]
    assert reason_to_drop(*alone, [Filter.near_copy], 0.0) is None
    assert reason_to_drop(alone[0], alone[0], [Filter.near_copy], 1.0) is None


def test_without_filters_everything_is_kept():
    for text in ("", *ROLE_MARKERS, *REFERS_BACK, *REFUSALS):
        assert reason_to_drop(completion(text), completion("~"), [], 0.0) is None


# --- how alike ------------------------------------------------------------------------------------

TOKENS = st.lists(st.integers(0, 3), max_size=12)


@given(a=TOKENS, b=TOKENS)
def test_similarity_is_symmetric_between_0_and_1(a, b):
    assert 0 <= similarity(a, b) <= 1
    assert similarity(a, b) == similarity(b, a)
    assert similarity(a, a) == similarity(a, tuple(a)) == 1


@given(a=TOKENS, b=TOKENS)
def test_similarity_is_0_without_common_neighbours_and_below_1_for_other_counts(a, b):
    assert similarity(a, [token + 4 for token in b]) == (not a and not b)
    if len(a) != len(b):
        assert similarity(a, b) < 1


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ([1, 2, 3], [1, 2, 4], 1 / 2),
        ([1, 1, 1, 1], [1, 1], 2 * 1 / 4),  # a repetition counts once for each partner
        ([1], [2], 0),
        ([1], [1, 2], 0),
        ([], [1], 0),
        ([1, 2], [2, 1], 0),
    ],
)
def test_similarity_worked_by_hand(a, b, expected):
    assert similarity(a, b) == expected


@given(sequences=st.lists(TOKENS, max_size=5), n=st.integers(1, 3))
def test_distinct_is_a_share_that_copies_lower(sequences, n):
    share = distinct(sequences, n)
    if all(len(tokens) < n for tokens in sequences):
        assert share is None
        return
    assert 0 < share <= 1
    assert distinct(sequences * 2, n) == pytest.approx(share / 2)
    assert distinct(sequences[::-1], n) == share
    different = [range(100 * i, 100 * i + len(tokens)) for i, tokens in enumerate(sequences)]
    assert distinct(different, n) == 1


def test_distinct_worked_by_hand():
    assert distinct([[1, 2, 1, 2], [2, 1]], 1) == 2 / 6
    # 12, 21, 12, 21; what ends one sequence and begins the next are no neighbours.
    assert distinct([[1, 2, 1, 2], [2, 1]], 2) == 2 / 4
    assert distinct([], 1) is None

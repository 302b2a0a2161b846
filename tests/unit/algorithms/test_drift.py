"""DRIFT's coroutine: what is logged stays as it is, and what is trained on is bare."""

from dataclasses import replace

import pytest
from users_log import (
    COMPLAINT,
    DISLIKED,
    LIKED,
    QUESTION,
    Policy,
    collect,
    conversation,
    prepared,
    renderer,
    reviewed,
    tokenizer,
)

from rlhf.algorithms.drift import USER, Chosen, Drift, DriftConfig, Rejected, can_use, seed_pairs
from rlhf.data.guidance import INSTRUCTION
from rlhf.feedback.filters import Filter
from rlhf.records import LOGGED, Asked, DropReason, Sampling, UserFeedback


def numbered(prompt, seed: int) -> str:
    return f"answer {seed}"


def refuses_to_be_asked(prompt, seed: int) -> str:
    raise AssertionError("nobody is to be asked")


def what_is_read(ids: tuple[int, ...]) -> str:
    return tokenizer().decode(ids)


# --- what is trained on ---------------------------------------------------------------------------


async def test_the_rejected_side_is_the_log_s_to_the_byte_whatever_the_policy():
    rounds = [
        await collect(Policy(f"From policy {version}.", version), seed=seed)
        for version in range(3)
        for seed in (1, 10**9)
    ]
    pairs = [pair for one in rounds for pair in one.preferences]
    assert len(pairs) == 6
    for pair in pairs:
        assert pair.rejected.text.encode() == DISLIKED.encode()
        assert pair.rejected.completion.token_ids == renderer().completion_ids(DISLIKED)
        assert what_is_read(pair.rejected.completion.token_ids) == DISLIKED + "<eos>"
        assert (pair.rejected.completion.policy_version, pair.rejected.completion.truncated) == (
            LOGGED,
            False,
        )
    assert len({pair.rejected for pair in pairs}) == 1


async def test_the_chosen_side_changes_when_the_policy_does():
    chosen = [
        (await collect(Policy(f"From policy {version}.", version))).preferences[0].chosen.completion
        for version in range(3)
    ]
    assert [one.text for one in chosen] == [f"From policy {n}." for n in range(3)]
    assert [one.policy_version for one in chosen] == [0, 1, 2]


@pytest.mark.parametrize("texts", [(QUESTION,), ("Hello.", "Hi!", QUESTION)])
async def test_what_is_trained_on_has_neither_complaint_nor_instruction(texts):
    """A complaint about the first reply of all, and one later on."""
    rollout = Policy("A better one.")
    history = conversation(*texts, system="Be kind.")
    collected = await collect(rollout, row=reviewed(history=history))
    ((asked, sampling, seed),) = rollout.asked
    (pair,) = collected.preferences
    assert pair.prompt.messages == history
    bare, guided = what_is_read(pair.prompt.token_ids), what_is_read(asked.token_ids)
    for said in (DISLIKED, COMPLAINT, INSTRUCTION):
        assert said not in bare
        assert said in guided
    # The same conversation, which only goes on, and an answer is what comes next in both.
    assert guided.startswith(bare) and bare.endswith("\n!") and guided.endswith("\n!")
    assert [m.role for m in asked.messages[-3:]] == ["user", "assistant", "user"]
    assert asked.messages[-2].content == DISLIKED
    assert (
        asked.id
        == pair.prompt.id
        == pair.chosen.completion.prompt_id
        == pair.rejected.completion.prompt_id
    )
    assert (sampling.num_completions, sampling.temperature, seed) == (1, 0.7, 100)


async def test_the_user_s_word_is_the_judge_where_nobody_else_is_asked():
    collected = await collect(Policy("A better one."))
    (pair,) = collected.preferences
    assert (pair.judge, pair.margin, pair.win_prob, pair.weight) == (USER, 1.0, 1.0, 1.0)
    assert collected.judgement is None and not collected.dropped


# --- who stands against whom ----------------------------------------------------------------------

SIDES = [
    # DRIFT, unguided DRIFT, iterative DPO, SPIN, and the log alone.
    (Chosen.guided, Rejected.logged, ["answer 100"], [DISLIKED]),
    (Chosen.plain, Rejected.logged, ["answer 100"], [DISLIKED]),
    (Chosen.guided, Rejected.plain, ["answer 100"], ["answer 101"]),
    (Chosen.logged, Rejected.plain, [LIKED], ["answer 101"]),
    (Chosen.plain, Rejected.plain, ["answer 100"], ["answer 101"]),
    (Chosen.logged, Rejected.logged, [LIKED], [DISLIKED]),
]


@pytest.mark.parametrize("chosen, rejected, first, second", SIDES)
async def test_each_side_comes_from_where_it_is_told(chosen, rejected, first, second):
    rollout = Policy(numbered)
    collected = await collect(
        rollout, chosen=chosen, rejected=rejected, filters=[], row=reviewed(disliked=DISLIKED)
    )
    assert [pair.chosen.text for pair in collected.preferences] == first
    assert [pair.rejected.text for pair in collected.preferences] == second
    guided = {seed: INSTRUCTION in what_is_read(p.token_ids) for p, _, seed in rollout.asked}
    asked = {100: chosen is Chosen.guided} if chosen is not Chosen.logged else {}
    assert guided == asked | ({101: False} if rejected is Rejected.plain else {})
    # Only what was drawn now was drawn now.
    fresh = [text for text in (*first, *second) if text.startswith("answer")]
    assert [one.text for one in collected.completions] == fresh
    assert all(one.policy_version != LOGGED for one in collected.completions)


@pytest.mark.parametrize("chosen, rejected, first, second", SIDES[:5])
async def test_several_samples_share_one_weight_and_have_numbers_and_seeds_of_their_own(
    chosen, rejected, first, second
):
    rollout = Policy(numbered)
    collected = await collect(
        rollout, chosen=chosen, rejected=rejected, filters=[], num_completions=4
    )
    pairs = collected.preferences
    assert [pair.weight for pair in pairs] == [1 / 4] * 4
    sides = {side.completion for pair in pairs for side in pair.sides}
    num_fresh = 4 * (chosen is not Chosen.logged) + 4 * (rejected is Rejected.plain)
    assert len(collected.completions) == num_fresh
    assert len({one.sample for one in sides}) == len(sides)
    assert len({one.text for one in collected.completions}) == num_fresh
    assert {one for one in sides if one.policy_version != LOGGED} == set(collected.completions)
    spans = [range(seed, seed + 4) for _, _, seed in rollout.asked]
    assert len({n for span in spans for n in span}) == num_fresh


async def test_what_is_dropped_leaves_its_weight_to_the_others():
    def reply(prompt, seed):
        return "" if seed == 102 else f"answer {seed}"

    collected = await collect(Policy(reply), num_completions=3, filters=[Filter.empty])
    assert [pair.weight for pair in collected.preferences] == [1 / 2, 1 / 2]
    assert [drop.reason for drop in collected.dropped] == [DropReason.EMPTY]
    assert len(collected.completions) == 3


async def test_the_log_s_own_pairs_ask_nobody():
    """A seed pair: round 0 trains on these, whatever the other rounds are to do."""
    config = seed_pairs(DriftConfig(min_margin=0.5, num_completions=3))
    (prompt,), feedback = prepared(reviewed())
    sampling = Sampling(3, 16)
    drift = Drift(Policy(refuses_to_be_asked), None, sampling, config, feedback)
    collected = await drift.collect(Asked(prompt, 7))
    (pair,) = collected.preferences
    assert (pair.chosen.text, pair.rejected.text, pair.weight) == (
        LIKED,
        DISLIKED,
        1.0,
    )
    assert (collected.completions, collected.judgement) == ((), None)


# --- which prompts can be used --------------------------------------------------------------------


@pytest.mark.parametrize(
    "chosen, rejected, needed",
    [
        (Chosen.guided, Rejected.logged, {"guided", "disliked"}),
        (Chosen.guided, Rejected.plain, {"guided"}),
        (Chosen.plain, Rejected.logged, {"disliked"}),
        (Chosen.logged, Rejected.plain, {"liked"}),
        (Chosen.logged, Rejected.logged, {"liked", "disliked"}),
    ],
)
def test_what_a_prompt_needs_of_the_log(chosen, rejected, needed):
    config = DriftConfig(chosen=chosen, rejected=rejected)
    _, feedback = prepared(reviewed())
    everything = feedback["p"]
    assert can_use(everything, config) and not can_use(None, config)
    for name in ("guided", "disliked", "liked"):
        assert can_use(replace(everything, **{name: None}), config) == (name not in needed)
    only = {
        name: getattr(everything, name) if name in needed else None
        for name in ("guided", "disliked", "liked")
    }
    assert can_use(UserFeedback(**only), config)

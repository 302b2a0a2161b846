"""What DRIFT does not train on: each reason has its switch, its place in order, and a count."""

import json
import math

import pytest
from users_log import (
    DISLIKED,
    QUESTION,
    Grader,
    Policy,
    collect,
    conversation,
    reviewed,
)

from rlhf.algorithms.drift import Chosen, Rejected
from rlhf.collecting.truncated import Truncated
from rlhf.feedback.filters import Filter
from rlhf.records import DropReason
from rlhf.storage.store import preference_rows

EVERY_FILTER = list(Filter)

REFUSED = "I'm sorry, but I can't help with that."
DROPS = [
    ("no end...", DISLIKED, DropReason.TRUNCATED),
    (DISLIKED, DISLIKED, DropReason.IDENTICAL),
    (" \n", DISLIKED, DropReason.EMPTY),
    ("So it is.\nUser: thanks", DISLIKED, DropReason.ROLE_MARKER),
    ("The sky is blue, since blue is bent.", "The sky is blue, since blue is bent!", "near_copy"),
    ("Sorry, here it is.", DISLIKED, DropReason.REFERS_BACK),
    ("Take two spoons of it.", REFUSED, DropReason.REFUSAL),
]


@pytest.mark.parametrize("fresh, disliked, reason", DROPS)
async def test_every_reason_to_drop_is_counted_with_both_sides(fresh, disliked, reason):
    row = reviewed(disliked=disliked)
    collected = await collect(Policy(fresh), filters=EVERY_FILTER, row=row)
    assert collected.preferences == ()
    (drop,) = collected.dropped
    assert drop.reason == reason
    assert (drop.chosen.text, drop.rejected.text) == (fresh, disliked)
    assert [one.text for one in collected.completions] == [fresh]


@pytest.mark.parametrize("fresh, disliked, reason", DROPS[2:])
async def test_what_is_no_filter_is_kept(fresh, disliked, reason):
    others = [name for name in Filter if name.value != reason]
    assert len(others) == len(Filter) - 1
    collected = await collect(Policy(fresh), filters=others, row=reviewed(disliked=disliked))
    assert [pair.chosen.text for pair in collected.preferences] == [fresh]


async def test_what_was_cut_off_is_kept_if_so_told():
    collected = await collect(Policy("no end..."), truncated=Truncated.keep)
    assert [pair.chosen.completion.truncated for pair in collected.preferences] == [True]
    cut = await collect(Policy("no end..."), chosen=Chosen.logged, rejected=Rejected.plain)
    assert [drop.reason for drop in cut.dropped] == [DropReason.TRUNCATED]


async def test_the_first_reason_is_the_one_that_counts():
    """Truncated, identical, the filters in their order, the judge's failure, a tie."""

    async def reason(fresh: str, filters=EVERY_FILTER, score=None, disliked=DISLIKED):
        row = reviewed(disliked=disliked)
        judge = Grader(lambda text: score)
        settings = {"filters": filters, "min_margin": 0.0, "max_similarity": 0.1}
        collected = await collect(Policy(fresh), judge, row=row, **settings)
        (drop,) = collected.dropped
        return drop.reason

    copied = f"Sorry!\nUser: {REFUSED}"
    assert await reason("so...", disliked="so...") == DropReason.TRUNCATED
    assert await reason(copied, disliked=copied) == DropReason.IDENTICAL
    # All of the rest hold for this one.
    everything = f"Sorry!\nUser: {REFUSED.removeprefix('I')}".replace("can't help", "help")
    left = [Filter.role_marker, Filter.near_copy, Filter.refers_back, Filter.refusal]
    while left:
        assert await reason(everything, left[::-1], disliked=REFUSED) == left[0].value
        del left[0]
    assert await reason(everything, [], disliked=REFUSED) == DropReason.JUDGE_FAILED
    assert await reason(everything, [], score=1.0, disliked=REFUSED) == DropReason.TIE


async def test_filters_look_at_chosen_sides_alone_the_log_s_own_too():
    said = reviewed(liked="Sorry, my mistake.")
    seeds = await collect(Policy("x"), chosen=Chosen.logged, filters=EVERY_FILTER, row=said)
    assert [one.reason for one in seeds.dropped] == ["refers_back"]
    spin = {"chosen": Chosen.logged, "rejected": Rejected.plain}
    good = reviewed(liked="A fish.")
    collected = await collect(Policy("Sorry, x"), filters=EVERY_FILTER, row=good, **spin)
    assert len(collected.preferences) == 1


# --- the judge's margin ---------------------------------------------------------------------------


def grader(fresh: float | None, logged: float | None) -> Grader:
    return Grader(lambda text: logged if text == DISLIKED else fresh)


@pytest.mark.parametrize(
    "fresh, logged, reason",
    [
        (0.9, 0.5, None),
        (0.75, 0.5, DropReason.TIE),  # by no more than the margin
        (0.2, 0.9, DropReason.TIE),
        (None, 0.5, DropReason.JUDGE_FAILED),
        (0.9, None, DropReason.JUDGE_FAILED),
        (math.nan, 0.5, DropReason.JUDGE_FAILED),
        (math.inf, 0.5, DropReason.JUDGE_FAILED),
    ],
)
async def test_a_margin_that_the_judge_does_not_see(fresh, logged, reason):
    judge = grader(fresh, logged)
    collected = await collect(Policy("A better one."), judge, min_margin=0.25)
    assert [drop.reason for drop in collected.dropped] == ([reason] if reason else [])
    for pair in collected.preferences:
        assert (pair.judge, pair.chosen.score, pair.rejected.score) == ("grader@1", 0.9, 0.5)
    ((prompt, sides),) = judge.asked
    assert prompt.messages == conversation(QUESTION)
    assert [one.text for one in sides] == ["A better one.", DISLIKED]
    (row,) = preference_rows(0, collected)
    for side, text, score in (("chosen", "A better one.", fresh), ("rejected", DISLIKED, logged)):
        known = score if score is not None and math.isfinite(score) else None
        assert json.loads(row[f"{side}_parts"]) == {"taste": known}
        assert row[f"{side}_reason"] == text
    # Its word counts for what was drawn now, and a failure is seen as such.
    assert collected.judgement.judge == "grader@1"
    (failed,) = collected.judgement.failed
    assert failed == (fresh is None or not math.isfinite(fresh))


async def test_both_drawn_sides_have_the_judge_s_scores():
    judge = Grader(lambda text: float(text.removeprefix("answer ")))
    settings = {"rejected": Rejected.plain, "filters": [], "num_completions": 2}
    collected = await collect(
        Policy(lambda p, seed: f"answer {-seed}"), judge, min_margin=1.0, **settings
    )
    scores = {
        one.text: score
        for one, score in zip(collected.completions, collected.judgement.scores, strict=True)
    }
    assert scores == {f"answer -{n}": -n for n in (100, 101, 102, 103)}
    assert collected.judgement.reasons == tuple(one.text for one in collected.completions)
    assert collected.judgement.member_failures == {"m": (False, False) * 2}
    assert [pair.margin for pair in collected.preferences] == [2.0, 2.0]

"""Strength of pairs: flips and soft labels worked by hand, and rounds that remember others."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.collecting.curators.strength import FLIPPED, StrengthConfig
from rlhf.records import Collected, Completion, Judgement, Preference, Prompt
from rlhf.storage.ledger import LEDGER, Ledger, Page

EXAMPLE = (1.2, 0.4, -0.3, 0.9)
"""By how much four reward models put the chosen side ahead: 0.55 on average."""


def collected(*leads: tuple[float | None, ...], win_prob: float = 1.0) -> list[Collected]:
    """A prompt per pair, of which members give the rejected side 0."""
    found = []
    for number, ours in enumerate(leads):
        name = str(number)
        group = tuple(Completion(name, i, (i + 3,), (), str(i), False, 0) for i in range(2))
        parts = {f"m{m}": (lead, None if lead is None else 0.0) for m, lead in enumerate(ours)}
        pair = Preference.over(Prompt(name, (), (1,)), *group, 1.0, 0.0, "j@1", win_prob=win_prob)
        judgement = Judgement((1.0, 0.0), "j@1", parts)
        found.append(Collected(pair.prompt, group, judgement, (pair,), ()))
    return found


def outcomes(found: list[Collected]) -> list[str]:
    told = []
    for one in found:
        (pair,) = one.preferences
        is_flipped = pair.chosen.text == "1"
        assert is_flipped == pair.judge.endswith(FLIPPED)
        told.append("flipped" if is_flipped else "kept" if pair.win_prob == 1 else "smoothed")
    return told


def test_the_mean_lead_is_what_counts():
    page = Page({})
    StrengthConfig().make(page, 0).curate(3, collected(EXAMPLE, (2.0, None)))
    assert page.notes == {3: [pytest.approx(0.55), 2.0]}


def test_the_weakest_are_flipped_the_next_smoothed_and_the_rest_kept():
    leads = [(lead,) for lead in (-2.0, 0.3, 5.0, -0.1, 0.2, 1.0, 2.0, 3.0, 4.0, 6.0)]
    found = StrengthConfig(flip=0.2, smooth=0.2).make(Page({}), 0).curate(0, collected(*leads))
    # -2 and -0.1 are the weakest fifth, 0.2 and 0.3 the next one.
    assert outcomes(found) == ["flipped", "smoothed", "kept", "flipped", "smoothed"] + ["kept"] * 5
    assert [one.preferences[0].win_prob for one in found[:2]] == [1.0, 0.9]
    assert found[0].preferences[0].judge == f"j@1, {FLIPPED}"


def test_who_is_weakest_and_still_ahead_is_not_flipped():
    leads = [(lead,) for lead in (0.1, 0.2, 0.3, 0.4, 0.5)]
    found = StrengthConfig(flip=0.4, smooth=0.2).make(Page({}), 0).curate(0, collected(*leads))
    assert outcomes(found) == ["smoothed"] * 3 + ["kept"] * 2


def test_losses_worked_by_hand():
    # The policy's margin is 0.8 nats: -ln σ(0.8) = 0.371101 as labelled, 1.171101 flipped, and
    # 0.9·0.371101 + 0.1·1.171101 with a label that is right with 0.9.
    def loss(pair: Preference) -> float:
        margin = 0.8 if pair.chosen.text == "0" else -0.8
        right = math.log1p(math.exp(-margin))
        return pair.win_prob * right + (1 - pair.win_prob) * math.log1p(math.exp(margin))

    config = StrengthConfig(flip=1 / 3, smooth=1 / 3)
    found = config.make(Page({}), 0).curate(0, collected((-1.0,), (0.0,), (2.0,)))
    losses = [loss(one.preferences[0]) for one in found]
    assert losses == pytest.approx([1.171101, 0.451101, 0.371101], abs=1e-6)


def test_a_soft_label_becomes_softer():
    (found,) = (
        StrengthConfig(flip=0, smooth=1)
        .make(Page({}), 0)
        .curate(0, collected((1.0,), win_prob=0.75))
    )
    assert found.preferences[0].win_prob == pytest.approx(0.75 * 0.9 + 0.25 * 0.1)


def test_a_pair_of_which_nobody_says_anything_stays_as_it_is():
    page, ours = Page({}), collected((None, None), (1.0, 1.0))
    config = StrengthConfig(flip=0, smooth=0.5)
    assert config.make(page, 0).curate(0, ours)[0] == ours[0]
    assert page.notes == {0: [1.0]}


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_flipping_negates_every_lead_and_doing_it_again_changes_no_side(leads):
    config = StrengthConfig(flip=1, smooth=0, right=1)
    once = config.make(Page({}), 0).curate(0, collected(*((lead,) for lead in leads)))
    for one, lead in zip(once, leads, strict=True):
        assert config.leads(one, one.preferences[0]) == [abs(lead)]
    assert config.make(Page({}), 0).curate(0, once) == once


def rounds(seed: int) -> list[Collected]:
    values = [math.sin(17.0 * seed + 3.0 * i) for i in range(4)]
    return collected(*((value,) for value in values))


def test_earlier_rounds_say_what_is_weak_and_no_more_than_the_window():
    config = StrengthConfig(flip=0.5, smooth=0, window=2)
    curator = config.make(page := Page({}), 0)
    curator.curate(0, collected((-9.0,), (-9.0,), (-9.0,)))
    assert outcomes(curator.curate(1, collected((-1.0,)))) == ["kept"]  # three of four are weaker
    curator.curate(2, [])
    assert outcomes(curator.curate(3, collected((-1.0,)))) == ["flipped"]  # round 0 is over
    assert min(page.notes) == 1


@pytest.mark.parametrize("max_staleness", [0, 2])
@pytest.mark.parametrize("done", range(1, 9))
def test_a_resumed_run_curates_as_an_unbroken_one(tmp_path, max_staleness, done):
    config = StrengthConfig(flip=0.3, smooth=0.3, window=2)

    def curated(ledger: Ledger, first: int, up_to: int) -> list[list[Collected]]:
        curator = config.make(ledger.page("curator"), max_staleness)
        return [curator.curate(round, rounds(round)) for round in range(first, up_to)]

    unbroken = curated(Ledger(tmp_path), 0, 10)
    ledger = Ledger(tmp_path)
    curated(ledger, 0, done + max_staleness)  # some of it is collected ahead
    (tmp_path / LEDGER).write_text(ledger.text(done))
    assert curated(Ledger(tmp_path, tmp_path), done, 10) == unbroken[done:]


def test_rounds_that_are_collected_at_once_may_be_over_in_any_order():
    config = StrengthConfig(flip=0.5, smooth=0.2, window=3)
    found = []
    for order in ([0, 1, 2, 3], [1, 0, 3, 2]):
        curator = config.make(Page({}), 1)
        by_round = {round: curator.curate(round, rounds(round)) for round in order}
        found.append([by_round[round] for round in range(4)])
    assert found[0] == found[1]
    assert found[0] != [[replace(one) for one in rounds(round)] for round in range(4)]


def test_shares_of_the_same_pairs_are_no_more_than_all():
    (problem,) = StrengthConfig(flip=0.7, smooth=0.4).problems()
    assert problem.startswith("curator.flip=0.7 curator.smooth=0.4: ")
    assert StrengthConfig(right=1.0).soft_labels is None
    assert StrengthConfig().soft_labels == ("curator.right=0.9", "set curator.right=1")

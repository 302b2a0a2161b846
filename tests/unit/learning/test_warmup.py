"""The warm start: seeded batches of demonstrations, and a rate that rises and falls."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config.run import WarmupConfig
from rlhf.learning.warmup import FALL_STEPS, RISE_STEPS, easy_to_hard, warm_up
from rlhf.records import Tokens
from rlhf.seeds import derive_seed

LESSONS = tuple(Tokens((n,), (n, 1)) for n in range(10))


class Pupil:
    def __init__(self, *losses: float) -> None:
        self._losses = losses
        self.batches: list[list[Tokens]] = []
        self.rates: list[float] = []

    async def supervise(self, rows, learning_rate: float) -> float:
        self.batches.append(list(rows))
        self.rates.append(learning_rate)
        return self._losses[min(len(self.rates), len(self._losses)) - 1]


async def taught(
    pupil: Pupil, seed: int = 1, lessons: Sequence[Tokens] = LESSONS, **settings
) -> list[tuple[int, int, float]]:
    shown = []
    config = WarmupConfig(learning_rate=1.0, **settings)
    await warm_up(pupil, by_id(lessons), config, seed, lambda *step: shown.append(step))
    return shown


def by_id(lessons: Sequence[Tokens]) -> dict[str, Tokens]:
    """In order; a lesson is told from others by its prompt."""
    return {str(one.prompt[0]): one for one in lessons}


async def test_batches_follow_the_seed_and_hold_nothing_twice():
    pupils = [Pupil(1.0) for _ in range(3)]
    for pupil, seed in zip(pupils, (1, 1, 2), strict=True):
        await taught(pupil, seed, steps=5, batch_size=4)
    assert pupils[0].batches == pupils[1].batches != pupils[2].batches
    for batch in pupils[0].batches:
        assert len(set(batch)) == 4 and set(batch) <= set(LESSONS)
    all_of_them = Pupil(1.0)
    await taught(all_of_them, steps=1, batch_size=64)
    assert sorted(all_of_them.batches[0]) == list(LESSONS)


async def test_the_rate_rises_stays_and_falls():
    pupil = Pupil(1.0)
    shown = await taught(pupil, steps=100)
    assert pupil.rates[0] == 1 / RISE_STEPS
    assert set(pupil.rates[RISE_STEPS - 1 : 101 - FALL_STEPS]) == {1.0}
    assert pupil.rates[-1] == pytest.approx(1 / FALL_STEPS)
    assert shown[-1] == (100, 100, 1.0) and len(shown) == 100


@pytest.mark.parametrize("steps", [1, 2, 30, 31])
async def test_no_step_is_without_a_rate(steps):
    pupil = Pupil(1.0)
    await taught(pupil, steps=steps)
    assert len(pupil.rates) == steps and min(pupil.rates) > 0


async def test_a_loss_that_is_low_for_long_begins_the_fall():
    pupil = Pupil(*[1.0] * 30, 0.1)
    shown = await taught(pupil, steps=500, stop_loss=0.2)
    # The mean over 20 is below .2 once 18 of them are low, and then 30 steps are left.
    assert len(shown) == 30 + 18 + FALL_STEPS
    assert pupil.rates[-1] == pytest.approx(1 / FALL_STEPS)
    assert len(await taught(Pupil(0.0), steps=7, stop_loss=0.2)) == 7


# --- from easy to hard ----------------------------------------------------------------------------


def lesson(number: int, num_tokens: int, num_results: int = 0) -> Tokens:
    results = tuple((2 * i, 2 * i + 1) for i in range(num_results))
    return Tokens((number,), (1,) * (num_tokens - 1), results)


MIXED = (
    lesson(0, 9),
    lesson(1, 6, 1),
    lesson(2, 5),
    lesson(3, 9, 1),
    lesson(4, 6, 2),
    lesson(5, 9),
    lesson(6, 4),
)
"""From easy to hard 6, 2, 0, 5, 1, 3, 4."""


def numbers(part: Sequence[Tokens]) -> list[int]:
    return [one.prompt[0] for one in part]


@pytest.mark.parametrize(
    ("size", "stages"),
    [
        (7, [[6, 2], [6, 2, 0, 5], [6, 2, 0, 5, 1, 3, 4]]),
        (5, [[2], [2, 0, 1], [2, 0, 1, 3, 4]]),
        (3, [[2], [2, 0], [2, 0, 1]]),
        (2, [[0], [0, 1]]),
        (1, [[0]]),
        (0, []),
    ],
)
def test_results_of_tools_come_before_length_and_equals_keep_their_order(size, stages):
    found = easy_to_hard(by_id(MIXED[:size]))
    assert [list(map(int, stage)) for stage in found] == stages


@given(st.lists(st.tuples(st.integers(2, 6), st.integers(0, 2)), max_size=20))
def test_every_stage_adds_about_a_third_and_the_last_has_all(shapes):
    lessons = [lesson(n, 4 + length, calls) for n, (length, calls) in enumerate(shapes)]
    stages = easy_to_hard(by_id(lessons))
    assert len(stages) == min(3, len(lessons))
    for before, after in pairwise([[], *stages]):
        assert after[: len(before)] == before
        assert len(after) - len(before) in (len(lessons) // 3, -(-len(lessons) // 3))
    assert not stages or sorted(map(int, stages[-1])) == list(range(len(lessons)))


@pytest.mark.parametrize(
    ("num_steps", "size", "drawn"),
    [
        (6, 7, [{6, 2}] * 2 + [{6, 2, 0, 5}] * 2 + [{*range(7)}] * 2),
        (7, 7, [{6, 2}] * 3 + [{6, 2, 0, 5}] * 2 + [{*range(7)}] * 2),
        (4, 2, [{0}] * 2 + [{0, 1}] * 2),
        (2, 1, [{0}] * 2),
        (1, 7, [{6, 2}]),
    ],
)
async def test_each_third_of_the_steps_adds_harder_demonstrations(num_steps, size, drawn):
    pupil = Pupil(1.0)
    await taught(pupil, lessons=MIXED[:size], steps=num_steps, easy_first=True)
    assert [set(numbers(batch)) for batch in pupil.batches] == drawn
    small = Pupil(1.0)
    await taught(small, lessons=MIXED[:size], steps=num_steps, easy_first=True, batch_size=1)
    assert all(set(numbers(b)) < part or len(part) == 1
               for b, part in zip(small.batches, drawn, strict=True))  # fmt: skip


async def test_what_is_drawn_without_stages_is_what_always_was():
    rng = random.Random(derive_seed(1, "warmup"))
    expected = [rng.sample(LESSONS, 4) for _ in range(9)]
    pupil = Pupil(1.0)
    await taught(pupil, steps=9, batch_size=4)
    assert pupil.batches == expected


async def test_a_low_loss_counts_in_the_last_stage_alone():
    low = Pupil(0.0)
    shown = await taught(low, steps=300, easy_first=True, stop_loss=0.2)
    # The last stage begins at step 200; its own 20 losses, then the fall.
    assert len(shown) == 200 + 20 + FALL_STEPS
    assert low.rates[199:220] == [1.0] * 21
    assert low.rates[-1] == pytest.approx(1 / FALL_STEPS)
    hard = Pupil(*[0.0] * 200, 1.0)
    assert len(await taught(hard, steps=300, easy_first=True, stop_loss=0.2)) == 300

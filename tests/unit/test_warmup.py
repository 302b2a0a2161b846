"""The warm start: seeded batches of demonstrations, and a rate that rises and falls."""

import pytest

from rlhf.config.run import WarmupConfig
from rlhf.records import Tokens
from rlhf.warmup import FALL_STEPS, RISE_STEPS, warm_up

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


async def taught(pupil: Pupil, seed: int = 1, **settings) -> list[tuple[int, int, float]]:
    shown = []
    config = WarmupConfig(learning_rate=1.0, **settings)
    await warm_up(pupil, LESSONS, config, seed, lambda *step: shown.append(step))
    return shown


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


async def test_a_loss_that_is_low_for_long_begins_the_fall():
    pupil = Pupil(*[1.0] * 30, 0.1)
    shown = await taught(pupil, steps=500, stop_loss=0.2)
    # The mean over 20 is below .2 once 18 of them are low, and then 30 steps are left.
    assert len(shown) == 30 + 18 + FALL_STEPS
    assert pupil.rates[-1] == pytest.approx(1 / FALL_STEPS)
    assert len(await taught(Pupil(0.0), steps=7, stop_loss=0.2)) == 7

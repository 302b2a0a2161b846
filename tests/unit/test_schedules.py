"""The learning rate, worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config.models import PolicyConfig, Schedule
from rlhf.schedules import learning_rate


def rates(schedule: Schedule, rise: float, *progress: float) -> list[float]:
    config = PolicyConfig(learning_rate=8.0, schedule=schedule, lr_warmup_ratio=rise)
    return [learning_rate(config, share) for share in progress]


@pytest.mark.parametrize(
    "schedule, expected",
    [
        # A fifth of the run rises to 8; 0.4 is a quarter of the rest, 0.6 the half, 0.8 three.
        (Schedule.constant, [0, 4, 8, 8, 8, 8, 8]),
        (Schedule.linear, [0, 4, 8, 6, 4, 2, 0]),
        # 8 x (1 + cos(pi x share)) / 2, and cos(pi / 4) is the root of a half.
        (Schedule.cosine, [0, 4, 8, 4 + 4 * 0.5**0.5, 4, 4 - 4 * 0.5**0.5, 0]),
    ],
)
def test_rise_then_fall(schedule, expected):
    found = rates(schedule, 0.2, 0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", Schedule)
def test_without_a_rise_it_starts_in_full(schedule):
    assert rates(schedule, 0.0, 0.0) == [8.0]


@given(st.sampled_from(Schedule), st.floats(0, 0.99), st.floats(0, 1))
def test_it_is_never_negative_nor_above_the_peak(schedule, rise, progress):
    (rate,) = rates(schedule, rise, progress)
    assert -1e-12 <= rate <= 8.0 + 1e-12

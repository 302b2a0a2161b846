"""The learning rate, worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config.models import PolicyConfig, Schedule
from rlhf.learning.schedules import learning_rate, step_progress


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


def step_rates(restart: bool, num_rounds: int, num_steps: int, rise: float = 0.1) -> list[float]:
    """Of every step, round by round."""
    config = PolicyConfig(learning_rate=8.0, lr_warmup_ratio=rise, restart_every_round=restart)
    return [
        learning_rate(config, step_progress(config, round, num_rounds, step, num_steps))
        for round in range(num_rounds)
        for step in range(num_steps)
    ]


def test_a_round_of_one_step_trains_though_its_schedule_begins_anew():
    # The middle of the round is beyond the first tenth.
    assert step_rates(restart=True, num_rounds=3, num_steps=1) == [8.0] * 3
    # Two steps have their middles at a quarter and three quarters.
    assert step_rates(True, num_rounds=2, num_steps=2, rise=0.5) == pytest.approx([4, 8, 4, 8])


def test_the_first_step_of_a_run_trains_too():
    # Middles at 1/8, 3/8, 5/8, 7/8 of a run of which the half rises.
    assert step_rates(False, num_rounds=2, num_steps=2, rise=0.5) == pytest.approx([2, 6, 8, 8])


@given(
    st.sampled_from(Schedule),
    st.floats(0, 0.99),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_no_step_is_without_a_rate(schedule, rise, restart, num_rounds, num_steps):
    config = PolicyConfig(schedule=schedule, lr_warmup_ratio=rise, restart_every_round=restart)
    for round in range(num_rounds):
        done = [step_progress(config, round, num_rounds, k, num_steps) for k in range(num_steps)]
        assert done == sorted(set(done))
        assert all(learning_rate(config, one) > 0 for one in done)

"""How long the head of a cluster may be away."""

import os

import pytest

from cluster import head


@pytest.mark.parametrize(
    ("told_s", "allowed_s"),
    [
        (None, 60),  # as Agon tells Ray by itself
        ("60", 60),  # Ray's own
        ("200", 60),
        ("600", 420),
    ],
)
def test_a_head_may_be_away_until_there_is_just_time_left_to_end_the_run(
    monkeypatch, told_s, allowed_s
):
    monkeypatch.delenv(head.ENDS, raising=False)
    if told_s is not None:
        monkeypatch.setenv(head.ENDS, told_s)
    head.outlast()
    assert os.environ[head.ENDS] == (told_s or "180")
    assert head.patience_s(60) == allowed_s

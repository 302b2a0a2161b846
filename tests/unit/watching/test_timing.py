"""Whose seconds a stage's are."""

import time

from rlhf.watching.timing import Stopwatch


def test_what_comes_after_a_round_is_told_counts_to_the_next():
    clock = Stopwatch()
    with clock("collect"):
        pass
    assert clock.metrics().keys() == {"time/collect_s", "time/round_s"}
    with clock("checkpoint"):
        time.sleep(0.02)
    found = clock.metrics()
    assert found.keys() == {"time/checkpoint_s", "time/round_s"}
    assert 0.02 <= found["time/checkpoint_s"] <= found["time/round_s"]
    assert clock.metrics().keys() == {"time/round_s"}

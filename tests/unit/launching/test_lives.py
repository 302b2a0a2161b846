"""How often a policy may be lost before the run ends."""

import pickle
from pathlib import Path

import pytest

from rlhf.launching.command_line import in_words
from rlhf.launching.lives import Lives, first_of
from rlhf.problems import PolicyLost, PolicyRaised
from rlhf.storage.checkpoint import Checkpoint

KILLED = PolicyLost("policy-0 on node 7: killed")


def after(rounds: int) -> Checkpoint:
    return Checkpoint(Path(f"round_{rounds:06d}"), {"num_rounds": rounds})


def raised(text: str, rank: int = 0) -> PolicyRaised:
    return PolicyRaised(f"policy-{rank} on node {rank}a: {text}")


def test_so_often_without_a_new_checkpoint_in_between():
    lives = Lives(2, None)
    for checkpoint in (None, None, after(5), after(5), after(9)):
        lives.begin(checkpoint, 9, KILLED)
    lives.begin(after(9), 9, KILLED)
    with pytest.raises(PolicyLost, match="killed"):
        lives.begin(after(9), 9, KILLED)


def test_who_gets_further_each_time_may_be_lost_as_often_as_it_takes():
    lives = Lives(1, after(5))
    for rounds in range(6, 20):
        lives.begin(after(5), rounds, KILLED)
    for rounds in (7, 19):
        with pytest.raises(PolicyLost, match="killed"):
            lives.begin(after(5), rounds, KILLED)


def test_with_no_restarts_the_first_is_the_last():
    with pytest.raises(PolicyRaised, match="a bug"):
        Lives(0, None).begin(None, 0, raised("ValueError: a bug"))


def test_the_same_error_three_times_is_certain_whichever_rank_raises_it():
    lives = Lives(10, after(5))
    for rank in (0, 1):
        lives.begin(after(5), 5, raised("ValueError: a bug", rank))
    lives.begin(after(5), 5, raised("ValueError: another"))
    lives.begin(after(5), 5, KILLED)
    with pytest.raises(PolicyRaised, match="ValueError: a bug"):
        lives.begin(after(5), 5, raised("ValueError: a bug"))


def test_the_first_of_what_failed_at_once():
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [KILLED, raised("x")])])
    assert first_of(group) is KILLED


def test_the_cause_is_one_line_and_the_traceback_stands_below_it():
    cause = "policy-0 on node 7: ValueError: a bug"
    raised = PolicyRaised(cause, details='ray::PolicyRank.update()\n  File "a.py", line 3')
    told = f'failed: {cause}\nray::PolicyRank.update()\n  File "a.py", line 3'
    assert in_words(ExceptionGroup("", [raised])) == (told, 1)
    assert str(raised) == cause and str(pickle.loads(pickle.dumps(raised)).details) in told

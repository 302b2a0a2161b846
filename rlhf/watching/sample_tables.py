"""What people read of a round: some of its completions and preferences, with their judgement."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

from rlhf.records import Collected
from rlhf.storage.store import preference_rows

_PREFERENCE_COLUMNS = (
    "prompt",
    "prefix",
    "chosen",
    "rejected",
    "chosen_score",
    "rejected_score",
    "margin",
    "win_prob",
    "judge",
    "dropped",
)


class Table(NamedTuple):
    """Rows under the names of their columns."""

    columns: Sequence[str]
    rows: list[list[Any]]


def sample_tables(round: int, collected: Sequence[Collected], num_rows: int) -> dict[str, Table]:
    """By name, at most `num_rows` rows of each kind, evenly spread over the round's prompts."""
    return {
        "samples": _completions(collected, num_rows),
        "preferences": _preferences(round, collected, num_rows),
    }


def _completions(collected: Sequence[Collected], num_rows: int) -> Table:
    columns = ("prompt", "completion", "score", "judge", "truncated", "policy_version")
    rows = []
    for one, i in _spread(collected, lambda one: len(one.completions), num_rows):
        completion, verdict = one.completions[i], one.judgement
        score, judge = (verdict.scores[i], verdict.judge) if verdict else (None, None)
        told = (completion.text, score, judge, completion.truncated, completion.policy_version)
        rows.append([one.prompt.text, *told])
    return Table(columns, rows)


def _preferences(round: int, collected: Sequence[Collected], num_rows: int) -> Table:
    """`dropped` is the reason why a pair is not trained on, and null for one that is."""
    shown = [_alone(one, i) for one, i in _spread(collected, _num_rows, num_rows)]
    rows = preference_rows(round, *shown)
    return Table(_PREFERENCE_COLUMNS, [[row[name] for name in _PREFERENCE_COLUMNS] for row in rows])


def _alone(one: Collected, place: int) -> Collected:
    """With the one of its preferences, or of what was dropped behind them, that stands there."""
    later = place - len(one.preferences)
    return replace(
        one,
        preferences=one.preferences[place : place + 1],
        dropped=one.dropped[later : later + 1] if later >= 0 else (),
    )


def _num_rows(one: Collected) -> int:
    return len(one.preferences) + len(one.dropped)


def _spread(
    collected: Sequence[Collected], count: Callable[[Collected], int], num_rows: int
) -> Iterator[tuple[Collected, int]]:
    """Evenly over all rows, of which a prompt has so many: whose row it is, and which of its."""
    counts = [count(one) for one in collected]
    ends = list(accumulate(counts))
    step = math.ceil(sum(counts) / num_rows) or 1
    for place in range(0, sum(counts), step):
        k = bisect_right(ends, place)
        yield collected[k], place - (ends[k] - counts[k])

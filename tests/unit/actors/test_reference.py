"""What reference workers are asked together: the same, whatever else is asked at the time."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Sequence

import pytest

from actors.reference import ReferenceService, Rows
from rlhf.records import Tokens


class Counting:
    """A worker that gives each completion's length, and remembers what was one forward pass."""

    comes_back, cause = False, None

    def __init__(self, name: str) -> None:
        self.name = name
        self.passes: list[list[int]] = []

    async def call(self, shares: Sequence[Rows]) -> AsyncIterator[list[tuple[int, list[array]]]]:
        for i, rows in enumerate(shares):
            self.passes.append([len(row.completion) for row in rows])
            await asyncio.sleep(0.001)
            yield [(i, [array("f", [1.0] * len(row.completion)) for row in rows])]


def rows(*lengths: int) -> list[Tokens]:
    return [Tokens((1, 2), (3,) * length) for length in lengths]


@pytest.mark.parametrize(
    ("share_tokens", "passes"),
    [
        (1, [[1, 2], [3, 4, 5]]),  # as equal as may be, and neighbours together
        (12, [[1, 2], [3, 4, 5]]),  # 25 tokens
        (13, [[1, 2, 3, 4, 5]]),
        (99, [[1, 2, 3, 4, 5]]),
    ],
)
async def test_rows_are_shared_out_to_workers_that_get_enough_to_do(share_tokens, passes):
    workers = [Counting("a"), Counting("b")]
    service = ReferenceService(workers, share_tokens, 5)  # type: ignore[arg-type]
    assert await service.logprobs(rows(1, 2, 3, 4, 5)) == [1, 2, 3, 4, 5]
    assert sorted(one for worker in workers for one in worker.passes) == passes
    assert await service.logprobs([]) == []


async def test_what_is_asked_at_the_same_time_is_not_computed_together():
    workers = [Counting("a"), Counting("b")]
    service = ReferenceService(workers, 8, 5)  # type: ignore[arg-type]
    asked = [rows(1, 2, 3), rows(4), rows(5, 6, 7), rows(2)]
    found = await asyncio.gather(*map(service.logprobs, asked))
    assert found == [[1, 2, 3], [4], [5, 6, 7], [2]]
    assert sorted(one for worker in workers for one in worker.passes) == [
        [1, 2, 3], [2], [4], [5], [6, 7],
    ]  # fmt: skip

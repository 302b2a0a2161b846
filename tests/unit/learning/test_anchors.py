"""What anchors are asked for: marked sums, or every token once."""

from array import array
from collections.abc import Sequence
from dataclasses import replace

from rlhf.learning.anchors import Anchors
from rlhf.objectives.ld_dpo import LDDPOConfig
from rlhf.objectives.rrpo import RRPOConfig
from rlhf.records import (
    Collected,
    Completion,
    Emphasis,
    Preference,
    PreferenceBatch,
    Prompt,
    SidePair,
    SideTokens,
    Tokens,
)

PROMPT = Prompt("p", (), (1, 2))


class Model:
    """Gives every token -1/4 of its number, and remembers what it was asked."""

    def __init__(self) -> None:
        self.rows: list[Tokens] = []

    async def token_logprobs(self, sequences: Sequence[Tokens]) -> list[list[float]]:
        self.rows += sequences
        return [
            [-token / 4 * weight for token, weight in zip(row.completion, row.weights, strict=True)]
            for row in sequences
        ]

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        return [sum(values) for values in await self.token_logprobs(sequences)]


def pair(chosen: tuple[int, ...], rejected: tuple[int, ...], *marks: Emphasis) -> Preference:
    sides = [Completion("p", i, ids, (), "", False, 0) for i, ids in enumerate((chosen, rejected))]
    return Preference.over(
        PROMPT, *sides, 1.0, 0.0, "j@1", emphasis=(marks[0], marks[1]) if marks else ((), ())
    )


async def batch_of(anchors: Anchors, *pairs: Preference, round: int = 0) -> PreferenceBatch:
    """Of one prompt."""
    return await anchors.attach(round, [anchors.read(Collected(PROMPT, (), None, pairs, ()))])


async def test_an_objective_s_marks_are_there_before_anchors_are_asked():
    model = Model()
    anchors = Anchors({"initial": model}, LDDPOConfig(alpha=0.25))
    batch = await batch_of(anchors, pair((4, 4), (4, 8, 4)), round=3)
    assert batch.round == 3
    assert batch.anchors == {"initial": [SidePair(-2.0, -3.25)]} and batch.tokens == {}
    assert [row.emphasis for row in model.rows] == [(), ((2, 3, 0.25),)]
    assert [side.emphasis for side in batch.preferences[0].sides] == [(), ((2, 3, 0.25),)]


async def test_tokens_are_asked_for_once_however_they_are_marked():
    model = Model()
    anchors = Anchors({"initial": model, "previous": model}, RRPOConfig())
    whole = pair((4, 8), (4, 12))
    batch = await batch_of(anchors, whole, replace(whole, judge="k@1"), pair((4, 8), (8,)))
    one = [(array("f", [-1, -2]), array("f", [-1, -3]))] * 2
    other = [(array("f", [-1, -2]), array("f", [-2]))]
    assert batch.tokens["initial"] == [SideTokens(*both) for both in one + other]
    # The first pair shares its first token, and the last one the 8.
    assert batch.anchors["previous"] == [SidePair(-2, -3)] * 2 + [SidePair(-1, 0)]
    assert len(model.rows) == 2 * 3 and not any(row.emphasis for row in model.rows)

"""The losses of a step: one sum however it is split, marks, single tokens, and what is noticed."""

from collections.abc import Sequence

import pytest
import torch

from rlhf.learning.anchors import Anchors
from rlhf.learning.pair_losses import PairLosses
from rlhf.objectives import Pairs
from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.lcpo import RELIABILITY, LCPOConfig
from rlhf.objectives.ld_dpo import LDDPOConfig
from rlhf.objectives.rrpo import RRPOConfig
from rlhf.objectives.tpo import TPOConfig
from rlhf.records import (
    Collected,
    Columns,
    Completion,
    Preference,
    PreferenceBatch,
    Prompt,
    SidePair,
    Tokens,
)

CPU = torch.device("cpu")


class Model:
    """A token's nats are minus its number over `size`; what is only read has none."""

    def __init__(self, size: float) -> None:
        self.size = size
        self.rows: list[list[Tokens]] = []

    def __call__(self, rows: Sequence[Tokens]) -> torch.Tensor:
        self.rows.append(list(rows))
        width = max((len(row.completion) for row in rows), default=1)
        values_RC = torch.zeros(max(1, len(rows)), width)
        for i, row in enumerate(rows):
            nats = [
                -token / self.size * weight * own
                for token, weight, own in zip(row.completion, row.weights, row.own, strict=True)
            ]
            values_RC[i, : len(nats)] = torch.tensor(nats)
        return values_RC

    async def token_logprobs(self, sequences: Sequence[Tokens]) -> list[list[float]]:
        values_RC = self(sequences).tolist()
        kept = zip(values_RC, sequences, strict=False)
        return [values[: len(row.completion)] for values, row in kept]

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        return [sum(values) for values in await self.token_logprobs(sequences)]


def pair(name: str, chosen: tuple[int, ...], rejected: tuple[int, ...], weight=1.0) -> Preference:
    sides = [
        Completion(name, 0, chosen, (), "", False, 0),
        Completion(name, 1, rejected, (), "", False, 0, observed=((1, 2),)),
    ]
    prompt = Prompt(name, (), (1,))
    return Preference.over(prompt, *sides, 1.0, 0.0, "j@1", weight=weight)


PAIRS = (
    pair("a", (2, 4), (2, 9, 3, 1)),
    pair("b", (6,), (3, 9, 1), 0.5),
    pair("c", (1, 1), (8, 9)),
)


async def columns(objective: ObjectiveConfig) -> Columns:
    ours = [Collected(one.prompt, (), None, (one,), ()) for one in PAIRS]
    sources = dict.fromkeys(objective.anchor_names, Model(size=8))
    anchors = Anchors(sources, objective)
    return Columns.of(await anchors.attach(0, [anchors.read(one) for one in ours]))


OBJECTIVES = [DPOConfig(), LDDPOConfig(), RRPOConfig(kl_coef=0.5), LCPOConfig(of=RRPOConfig())]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: one.name)
async def test_however_a_step_is_split_its_loss_and_sums_are_the_same(objective):
    found = []
    for split in ([[2, 0, 1]], [[2], [], [1, 0]]):
        losses, pairs = PairLosses(objective, 0.0, CPU), await columns(objective)
        loss = losses.of_step(objective.first_memory(), True)
        total = sum(loss(Model(4), pairs.at(places)) for places in split)
        found.append([total, losses.sums, *losses.noticed.values()])
    for whole, parts in zip(*found, strict=True):
        assert torch.allclose(whole, parts, rtol=1e-6) and whole.isfinite().all()
    assert found[0][1][-1] == 2.5  # the weights of all pairs


async def test_marked_tokens_count_so_for_policy_and_anchor():
    objective = LDDPOConfig(alpha=0.5)
    losses, pairs = PairLosses(objective, 0.0, CPU), await columns(objective)
    # Rejected: 2, a tool's, 3 and 1, of which the 1 is one more than the chosen side has: policy
    # (2 + 3 + 0.5)/4, anchor half of it; chosen 6/4, and half: margin -0.75 + 0.6875.
    loss = losses.of_step({}, True)(Model(4), pairs.at([0]))
    assert loss.item() == pytest.approx(torch.nn.functional.softplus(torch.tensor(0.00625)).item())


async def test_a_loss_of_tokens_is_given_them_unmarked_beside_marked_sums():
    seen: list[Pairs] = []

    class Looking(RRPOConfig):
        def loss(self, pairs: Pairs) -> torch.Tensor:
            seen.append(pairs)
            return super().loss(pairs)

    objective, model = Looking(), Model(size=4)
    losses, pairs = PairLosses(objective, 0.0, CPU), await columns(objective)
    losses.of_step({}, True)(model, pairs.at([0, 1]))
    (given,) = seen
    # Both of the first pair's sides begin with 2, which its sums leave out.
    assert given.policy.both_SB.tolist() == [[-1.0, -1.5], [-1.0, -1.0]]
    tokens = given.every_token
    assert tokens.policy_SBC[0].tolist() == [[-0.5, -1, 0, 0], [-1.5, 0, 0, 0]]
    assert tokens.policy_SBC[1].tolist() == [[-0.5, 0, -0.75, -0.25], [-0.75, 0, -0.25, 0]]
    assert torch.equal(tokens.anchors["initial"], tokens.policy_SBC / 2)
    assert tokens.own_SBC[1].tolist() == [[True, False, True, True], [True, False, True, False]]
    assert not any(row.emphasis for rows in model.rows for row in rows)
    assert torch.equal(given.reversed().every_token.policy_SBC[0], tokens.policy_SBC[1])


async def test_what_is_noticed_is_of_the_step_alone_and_by_weight():
    objective = LCPOConfig(of=DPOConfig())
    losses, pairs = PairLosses(objective, 0.0, CPU), await columns(objective)
    for places in ([0], [1, 2]):
        losses.of_step({RELIABILITY: 0.5}, True)(Model(4), pairs.at(places))
    confidence, weight = losses.noticed[RELIABILITY].tolist()
    # At η = 1/2 the confidence is p = σ(0.1·margin): log-ratios -6/8 + 4/8, and -2/8 + 8/8.
    expected = [torch.tensor(0.1 * margin).sigmoid().item() for margin in (-0.25, 0.75)]
    assert weight == 1.5
    assert confidence == pytest.approx(0.5 * expected[0] + expected[1])
    # Another rank has as much of the step, so that sums are twice those of this one.
    after = losses.remembered({RELIABILITY: 0.5}, lambda sums: (2 * sums).tolist())
    assert after == {RELIABILITY: pytest.approx(0.9 * 0.5 + 0.1 * confidence / 1.5)}


async def test_a_rank_without_pairs_still_computes_something():
    losses, pairs = PairLosses(DPOConfig(), 0.0, CPU), await columns(DPOConfig())
    assert losses.of_step({}, True)(Model(4), pairs.at([])).item() == 0
    assert losses.sums.sum() == 0


def test_lists_of_two_prompts_of_the_same_tokens_are_two():
    """Whose answers are partly the same, as where a question stands twice in the data."""

    def ranked(name: str, *answers: tuple[int, ...]) -> list[Preference]:
        prompt = Prompt(name, (), (1,))
        sides = [Completion(name, i, ids, (), "", False, 0) for i, ids in enumerate(answers)]
        worths = [1 - place / len(sides) for place in range(len(sides))]
        places = [(a, b) for a in range(len(sides)) for b in range(a + 1, len(sides))]
        return [
            Preference.over(prompt, sides[a], sides[b], worths[a], worths[b], "j@1", weight=1 / 3)
            for a, b in places
        ]

    def loss(pairs: list[Preference]) -> float:
        anchors = {"initial": [SidePair(-3.0, -3.0) for _ in pairs]}
        losses = PairLosses(TPOConfig(), 0.0, CPU)
        columns = Columns.of(PreferenceBatch(0, pairs, anchors))
        return losses.of_step({}, True)(Model(size=4), columns).item()

    first = ranked("a", (9, 7), (2, 2), (4, 4))
    second = ranked("b", (9, 7), (6, 6), (5, 5))
    assert loss(first + second) == pytest.approx(loss(first) + loss(second), rel=1e-6)

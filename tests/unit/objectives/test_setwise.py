"""Losses that look beyond a pair, against numbers worked by hand, and their gradients."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softplus
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.config.models import LOGPROB_NOISE, DType
from rlhf.learning.logprobs import completion_logprobs, pad
from rlhf.models.batching import unique
from rlhf.objectives import Judged, PairLogprobs, Pairs, Peers, SideLogprobs
from rlhf.objectives.kto import KTOConfig
from rlhf.objectives.tpo import TPOConfig, ranks
from rlhf.records import (
    LOGGED,
    Columns,
    Completion,
    Preference,
    PreferenceBatch,
    Prompt,
    SidePair,
    Tokens,
)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def lists(*members: tuple[list[float], list[float]], noise: float = 0.0) -> tuple[Tensor, Judged]:
    """Log-ratios `(2, B)` and labels of lists of (worths, log-ratios), every pair of unequal worth;
    lists share nothing."""
    sides, places = [[], []], [[], []]
    lists_, first = [], 0
    for number, (worths, ratios) in enumerate(members):
        for i in range(len(worths)):
            for j in range(len(worths)):
                if worths[i] > worths[j]:
                    for side, member in enumerate((i, j)):
                        sides[side].append((worths[member], ratios[member]))
                        places[side].append(first + member)
                    lists_.append(number)
        first += len(worths)
    scores = [vector(*(worth for worth, _ in side)) for side in sides]
    ratio_SB = torch.stack([vector(*(ratio for _, ratio in side)) for side in sides])
    zero = torch.zeros(len(lists_), dtype=torch.float64)
    peers = Peers(torch.tensor(lists_), torch.tensor(places), noise=noise)
    return ratio_SB, Judged(zero + 1, *scores, zero, zero, peers)


def tpo(ratio_SB: Tensor, judged: Judged, beta: float = 1.0, length: int = 1) -> Tensor:
    zero = torch.zeros_like(ratio_SB[0])
    policy = PairLogprobs(ratio_SB[0], ratio_SB[1], zero + length, zero + length)
    return TPOConfig(beta=beta).loss(Pairs(policy, {"initial": SideLogprobs(zero, zero)}, judged))


# --- TPO ------------------------------------------------------------------------------------------


def test_the_worked_list() -> None:
    """v = (1, .5, 0), r = (.2, .5, -.1): three terms, .5019090 in all (reference notes, TPO)."""
    loss_B = tpo(*lists(([1.0, 0.5, 0.0], [0.2, 0.5, -0.1])))
    # The pairs come as (1, .5), (1, 0), (.5, 0).
    assert loss_B.tolist() == pytest.approx([0.2664780, 0.1047131, 0.1307179], abs=1e-7)
    assert loss_B.sum().item() == pytest.approx(0.5019090, abs=1e-7)


def test_a_list_knows_nothing_of_another_one() -> None:
    first, second = ([1.0, 0.5, 0.0], [0.2, 0.5, -0.1]), ([0.9, 0.1], [3.0, -3.0])
    together = tpo(*lists(first, second))
    apart = torch.cat([tpo(*lists(first)), tpo(*lists(second))])
    assert together.tolist() == pytest.approx(apart.tolist())


def test_of_equals_the_first_is_ahead_so_that_a_list_can_begin_to_move() -> None:
    ratio_SB, judged = lists(([1.0, 0.5, 0.0], [0.0, 0.0, 0.0]))
    assert judged.peers is not None
    assert ranks(ratio_SB, ratio_SB * 0, judged.peers).tolist() == [[1, 1, 2], [2, 3, 3]]
    ratio_SB.requires_grad_()
    tpo(ratio_SB, judged).sum().backward()
    assert ratio_SB.grad is not None
    assert (ratio_SB.grad[0] < 0).all() and (ratio_SB.grad[1] > 0).all()


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("moved", [(0, 0, 0.9), (0.9, -0.9, 0.3), (-0.6, 0, 0)])
def test_rounding_ranks_nothing(dtype: DType, moved: tuple[float, ...]) -> None:
    """Before the first step policy and anchor are one, but for how their sums were rounded."""
    worths, noise = [1.0, 0.5, 0.0], LOGPROB_NOISE[dtype]
    ratio_SB, judged = lists((worths, [noise * share for share in moved]), noise=noise)
    assert judged.peers is not None
    noise_SB = torch.full_like(ratio_SB, noise)
    assert ranks(ratio_SB, noise_SB, judged.peers).tolist() == [[1, 1, 2], [2, 3, 3]]
    expected = tpo(*lists((worths, [0.0] * 3), noise=noise))
    assert tpo(ratio_SB, judged).tolist() == pytest.approx(expected.tolist(), abs=2 * noise)


@pytest.mark.parametrize(("length", "hidden"), [(1, 0.2), (4, 0.4), (16, 0.8)])
def test_the_noise_of_a_sum_grows_with_the_root_of_its_length(length: int, hidden: float) -> None:
    """0.1 a token; the worst of three completions seems ahead by a little less and more."""

    def weights(ahead: float) -> Tensor:
        ratio_SB, judged = lists(([1.0, 0.5, 0.0], [0.0, 0.0, ahead]), noise=0.1)
        return tpo(ratio_SB, judged, length=length) / softplus(ratio_SB.diff(dim=0)[0])

    level = weights(0.0).tolist()
    assert weights(hidden - 0.01).tolist() == pytest.approx(level)
    assert weights(hidden + 0.01).tolist() != pytest.approx(level)


@given(st.data())
def test_ranks_do_not_depend_on_noise(data) -> None:
    """Where completions are equal, or further apart than noise can bring them."""
    size, noise = data.draw(st.integers(2, 6)), 0.03
    true = data.draw(st.lists(st.integers(-4, 4), min_size=size, max_size=size))
    values = list(range(size, 0, -1))

    def ranked(moved: list[float]) -> list:
        ratios = [5 * noise * level + by for level, by in zip(true, moved, strict=True)]
        ratio_SB, judged = lists((values, ratios), noise=noise)
        assert judged.peers is not None
        return ranks(ratio_SB, torch.full_like(ratio_SB, noise), judged.peers).tolist()

    moves = st.lists(st.floats(-0.99 * noise, 0.99 * noise), min_size=size, max_size=size)
    assert ranked(data.draw(moves)) == ranked([0.0] * size)


def test_the_same_rows_in_other_company_have_the_same_ranks() -> None:
    """A real forward pass in bfloat16, whose sums move with the rows that share it."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=32, hidden_size=128, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    model = LlamaForCausalLM(shape).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8)  # as sure of itself as a trained one
    model.to(torch.bfloat16)
    draw = random.Random(1)
    rows = [
        Tokens(
            *(tuple(draw.choices(range(32), k=draw.randint(*size))) for size in ((5, 60), (16, 32)))
        )
        for _ in range(6)
    ]
    with torch.no_grad():
        together = completion_logprobs(model, pad(rows)).sum(1)
        alone = torch.cat([completion_logprobs(model, pad([row])).sum(1) for row in rows])
    moved = (together - alone).double()
    assert moved.abs().max() > 1e-3
    length_M = torch.tensor([float(len(row.completion)) for row in rows])
    side_SB = torch.tensor([[0, 1, 2], [3, 4, 5]])
    peers = Peers(torch.zeros(3, dtype=torch.long), side_SB)
    noise_SB = LOGPROB_NOISE[DType.bfloat16] * length_M[side_SB].sqrt()
    assert ranks(moved[side_SB], noise_SB, peers).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_growing_margins_in_the_right_order_end_the_loss() -> None:
    sums = [
        tpo(*lists(([1.0, 0.5, 0.0], [scale, 0.0, -scale]))).sum().item()
        for scale in (1.0, 5.0, 50.0)
    ]
    assert sums[0] > sums[1] > sums[2] and sums[2] == pytest.approx(0, abs=1e-9)


worths = st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=2, max_size=6)


@given(st.data())
def test_exchanging_equal_worths_changes_nothing(data) -> None:
    values = data.draw(worths.filter(lambda v: len(set(v)) < len(v) and len(set(v)) > 1))
    distinct = st.lists(
        st.floats(-5, 5).map(lambda x: round(x, 3)),
        min_size=len(values), max_size=len(values), unique=True,
    )  # fmt: skip
    ratios = data.draw(distinct)
    twice = next(v for v in values if values.count(v) > 1)
    i, j = [k for k, v in enumerate(values) if v == twice][:2]
    swapped = list(ratios)
    swapped[i], swapped[j] = ratios[j], ratios[i]
    there, back = (tpo(*lists((values, r))).sum().item() for r in (ratios, swapped))
    assert there == pytest.approx(back)


@given(st.data())
def test_the_order_in_which_pairs_come_matters_only_to_equals(data) -> None:
    values = data.draw(worths.filter(lambda v: len(set(v)) > 1))
    ratios = data.draw(
        st.lists(st.integers(-50, 50), min_size=len(values), max_size=len(values), unique=True)
    )
    order = data.draw(st.permutations(range(len(values))))
    there = tpo(*lists((values, [r / 10 for r in ratios])))
    back = tpo(*lists(([values[i] for i in order], [ratios[i] / 10 for i in order])))
    assert sorted(there.tolist()) == pytest.approx(sorted(back.tolist()))


def test_no_gradient_passes_through_ranks_and_beta_scales_the_margin_alone() -> None:
    ratio_SB, judged = lists(([1.0, 0.0], [0.3, -0.2]))
    ratio_SB.requires_grad_()
    loss = tpo(ratio_SB, judged, beta=2.0).sum()
    weight = 1 * (1 / torch.log(vector(2)) - 1 / torch.log(vector(3))).item()
    assert loss.item() == pytest.approx(weight * torch.log1p(torch.exp(vector(-1.0))).item())
    loss.backward()
    slope = weight * 2 * torch.sigmoid(vector(-1.0)).item()
    assert ratio_SB.grad is not None
    assert ratio_SB.grad.flatten().tolist() == pytest.approx([-slope, slope])


# --- KTO ------------------------------------------------------------------------------------------


def kto(chosen: float, rejected: float, distance: float, beta: float = 0.1) -> Tensor:
    one, zero = vector(1.0), vector(0.0)
    policy = PairLogprobs(vector(chosen), vector(rejected), one, one)
    peers = Peers(torch.zeros(1, dtype=torch.long), torch.tensor([[0], [1]]), distance)
    judged = Judged(one, one, zero, zero, zero, peers)
    return KTOConfig(beta=beta).loss(Pairs(policy, {"initial": SideLogprobs(zero, zero)}, judged))


def test_the_worked_sides() -> None:
    """Δ 1 and -0.5, z 0.2, β 0.1: 0.480011 and 0.482507 (reference notes, KTO on example E)."""
    assert kto(1.0, -0.5, 0.2).item() == pytest.approx((0.480011 + 0.482507) / 2, abs=1e-6)


@given(st.floats(-300, 300), st.floats(-300, 300), st.floats(0, 50))
def test_kto_stays_between_none_and_one(chosen: float, rejected: float, distance: float) -> None:
    assert 0 <= kto(chosen, rejected, distance).item() <= 1


def test_either_side_is_on_its_own() -> None:
    total = kto(2.0, 1.0, 0.5).item() * 2
    good = 1 - torch.sigmoid(vector(0.15)).item()
    bad = 1 - torch.sigmoid(vector(-0.05)).item()
    assert total == pytest.approx(good + bad)


def side(sample: int, **changes) -> Completion:
    return Completion(
        "p", sample, (1,), (-1.0,), str(sample), False, **{"policy_version": 2} | changes
    )


def test_only_what_the_policy_drew_says_how_far_it_is() -> None:
    prompt = Prompt("p", (), (1,))
    logged = side(3, policy_version=LOGGED)
    pairs = [
        Preference.over(prompt, side(0), side(1), 1.0, 0.0, "j"),
        Preference.over(prompt, side(2), logged, 1.0, 0.0, "j"),
        Preference.over(prompt, side(4), side(5, mixture=0.5), 1.0, 0.0, "j"),
    ]
    previous = [SidePair(-1.0, -2.0), SidePair(-3.0, -50.0), SidePair(-4.0, 90.0)]
    initial = [SidePair(-2.0, -2.5), SidePair(-3.0, -1.0), SidePair(-4.5, 1.0)]
    anchors = {"previous": previous, "initial": initial}
    step = Columns.of(PreferenceBatch(0, pairs, anchors))
    assert KTOConfig().statistic(step) == pytest.approx((1 + 0.5 + 0.5) / 4)
    nearer = {"previous": initial, "initial": previous}
    step = Columns.of(PreferenceBatch(0, pairs, nearer))
    assert KTOConfig().statistic(step) == 0.0, "never below 0"


def test_without_peers_such_a_loss_is_refused() -> None:
    one = vector(1.0)
    policy, anchor = PairLogprobs(-one, -one, one, one), SideLogprobs(-one, -one)
    judged = Judged(one, one, one * 0, one * 0, one * 0)
    for objective in (TPOConfig(), KTOConfig()):
        with pytest.raises(ValueError, match="beyond its pairs"):
            objective.loss(Pairs(policy, {"initial": anchor}, judged))


def test_rows_that_are_one_completion_have_one_rank() -> None:
    """As the policy ranks number them: by distinct row, chosen sides first."""
    rows, places = unique(["a", "a", "b", "b", "c", "c"])
    peers = Peers(torch.zeros(3, dtype=torch.long), torch.tensor(places).view(2, -1))
    favour = {"a": 0.1, "b": 0.9, "c": 0.5}
    favour_SB = torch.tensor([favour[rows[place]] for place in places]).view(2, -1)
    assert ranks(favour_SB, favour_SB * 0, peers).tolist() == [[3, 3, 1], [1, 2, 2]]

"""Policy ranks on real Ray actors and real DeepSpeed."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from actors.group import Allotment, Worker, WorkerFailed, call_all, start_workers, stop_workers
from actors.policy import InitialPolicy, PolicyService
from actors.policy_rank import PolicyPlan, PolicyRank
from rlhf.collecting.dispatch import WorkerDied
from rlhf.config.models import Attention, DType, Offload, Optimizer, PolicyConfig
from rlhf.learning.anchors import Anchors
from rlhf.learning.portions import Portions
from rlhf.learning.reading import sum_logprobs
from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.kto import KTOConfig
from rlhf.objectives.lcpo import LCPOConfig
from rlhf.objectives.rrpo import RRPOConfig
from rlhf.objectives.tpo import TPOConfig
from rlhf.records import (
    Collected,
    Completion,
    Preference,
    PreferenceBatch,
    Prompt,
    SidePair,
    SideTokens,
    Tokens,
)
from rlhf.stages import Outcome
from rlhf.storage.tensor_files import TensorReader

pytestmark = pytest.mark.usefixtures("ray_session")

TIMEOUT_S = 240.0
LENGTHS = [(3, 2, 4), (5, 1, 3), (2, 4, 4), (6, 3, 1), (4, 2, 2)]
"""Tokens of prompt, chosen and rejected side."""


def preferences() -> list[Preference]:
    def completion(prompt_id: str, sample: int, first: int, length: int) -> Completion:
        tokens = tuple((first + 5 * i) % 29 + 3 for i in range(length))
        return Completion(prompt_id, sample, tokens, (0.0,) * length, str(tokens), False, 0)

    pairs = []
    for i, (prompt, chosen, rejected) in enumerate(LENGTHS):
        asked = Prompt(str(i), (), tuple((7 * i + k) % 29 + 3 for k in range(prompt)))
        sides = completion(str(i), 0, i, chosen), completion(str(i), 1, i + 11, rejected)
        pairs.append(Preference.over(asked, *sides, 1.0, 0.0, "test@1", weight=1 / (1 + i % 2)))
    return pairs


def batch(round: int = 0) -> PreferenceBatch:
    anchor = [SidePair(-3.0 - i, -4.0 + i) for i in range(len(LENGTHS))]
    return PreferenceBatch(round, preferences(), {"initial": anchor})


@asynccontextmanager
async def policy(
    model: Path,
    dtype: DType = DType.float32,
    objective: ObjectiveConfig | None = None,
    epochs: int = 2,
    **settings,
):
    config = PolicyConfig(**{"learning_rate": 1e-3, "micro_batch_tokens": 40} | settings)
    objective = objective or DPOConfig()
    plan = PolicyPlan(dtype, config, objective, epochs, epochs, num_rounds=10, seed=1)
    allotment = Allotment("policy", config.num_ranks, 1, 0, 1)
    ranks = start_workers(PolicyRank, allotment, plan, env={"DS_ACCELERATOR": "cpu"})
    service = PolicyService(ranks, TIMEOUT_S)
    try:
        await service.connect()
        await service.start(str(model))
        yield service
    finally:
        stop_workers(ranks)


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    reader = TensorReader(directory / "policy")
    return {name: reader.read(name) for name in reader._files}


def num_open_ports(rank: Worker) -> int:
    """At which the rank's process listens to every address."""
    process = psutil.Process(
        ray.get(rank.handle.__ray_call__.remote(lambda _: os.getpid()), timeout=60)
    )
    found = process.net_connections("inet")
    return sum(
        one.status == psutil.CONN_LISTEN and one.laddr.ip in ("::", "0.0.0.0") for one in found
    )


async def train_and_save(service: PolicyService, directory: Path, rounds: range) -> dict:
    metrics = {}
    for round in rounds:
        metrics = await service.update(batch(round))
    await service.save(directory)
    return metrics


async def test_every_zero_stage_and_number_of_ranks_learns_the_same(tiny_model, tmp_path):
    found = {}
    further = {"zero_optimization": {"reduce_bucket_size": 5000}, "steps_per_print": 7}
    kinds = [
        (0, 1, {}),
        (1, 2, {"attention": Attention.eager, "offload": Offload.optimizer}),
        (2, 2, {"deepspeed": further}),
        (3, 2, {"offload": Offload.parameters}),
    ]
    for stage, ranks, others in kinds:
        name = f"stage{stage}x{ranks}"
        async with policy(tiny_model, zero_stage=stage, num_ranks=ranks, **others) as service:
            metrics = await train_and_save(service, tmp_path / name, range(3))
            # Ray's port of each rank, and torch's store in the first, and no other.
            assert sum(map(num_open_ports, service.ranks)) == ranks + 1
        found[name] = metrics, tensors(tmp_path / name)
    expected, weights = found.pop("stage0x1")
    assert expected["policy/loss"] < 0.69 and expected["policy/grad_norm"] > 0
    for name, (metrics, others) in found.items():
        assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-5), name
        assert weights.keys() == others.keys()
        for key, value in weights.items():
            assert torch.allclose(value, others[key], rtol=1e-3, atol=2e-5), (name, key)


def answered_often() -> PreferenceBatch:
    """Three prompts with four answers each, two of which begin alike; every answer in a pair."""
    pairs = []
    for p in range(3):
        asked = Prompt(str(p), (), tuple((7 * p + k) % 29 + 3 for k in range(6 + 3 * p)))
        answers = [
            tuple((p + 11 * (a // 2) + 5 * i) % 29 + 3 for i in range(3)) + (a + 3,) * (1 + a)
            for a in range(4)
        ]
        sides = [
            Completion(asked.id, a, ids, (0.0,) * len(ids), str(ids), False, 0)
            for a, ids in enumerate(answers)
        ]
        pairs += [
            Preference.over(asked, sides[a], sides[a + 1], 1.0, 0.0, "t@1") for a in (0, 1, 2)
        ]
    return PreferenceBatch(0, pairs, {"initial": [SidePair(-9.0, -11.0)] * len(pairs)})


async def test_packed_or_padded_the_gradient_is_the_same(tiny_model, tmp_path):
    """One step of plain gradient descent at a rate of 1 takes the gradient off the weights."""
    found = {}
    plain = {"optimizer": Optimizer.sgd, "learning_rate": 1.0, "max_grad_norm": 1e9}
    for name, packing, stage, ranks in [
        ("padded", False, 0, 1),
        ("packed", True, 0, 1),
        ("packed on two ranks, sharded", True, 3, 2),
    ]:
        settings = {"packing": packing, "zero_stage": stage, "num_ranks": ranks} | plain
        async with policy(tiny_model, epochs=1, **settings) as service:
            await service.save(tmp_path / name / "before")
            metrics = await service.update(answered_often())
            await service.save(tmp_path / name / "after")
        before, after = (tensors(tmp_path / name / when) for when in ("before", "after"))
        taken = [(before[key] - after[key]).flatten() for key in sorted(before)]
        found[name] = metrics, torch.cat(taken)
    metrics, gradient = found.pop("padded")
    assert metrics["policy/num_steps"] == 1 and gradient.norm() > 0.01
    for name, (others, packed) in found.items():
        assert others == pytest.approx(metrics, rel=1e-5, abs=1e-6), name
        assert (packed - gradient).norm() / gradient.norm() < 1e-5, name


@pytest.mark.parametrize(
    ("stage", "dtype", "optimizer"),
    [
        (2, DType.float32, Optimizer.adamw),
        (0, DType.bfloat16, Optimizer.adamw),
        (3, DType.bfloat16, Optimizer.adamw),
        (0, DType.float32, Optimizer.sgd),
        (3, DType.float32, Optimizer.sgd),
    ],
)
async def test_a_resumed_policy_ends_bit_for_bit_where_an_unbroken_one_does(
    tiny_model, tmp_path, stage, dtype, optimizer
):
    settings = {"zero_stage": stage, "dtype": dtype, "optimizer": optimizer}
    settings["num_ranks"] = 2 if stage else 1
    async with policy(tiny_model, **settings) as service:
        await train_and_save(service, tmp_path / "middle", range(2))
        await train_and_save(service, tmp_path / "unbroken", range(2, 4))
    async with policy(tiny_model, **settings) as service:
        await service.load(tmp_path / "middle")
        await train_and_save(service, tmp_path / "resumed", range(2, 4))
    unbroken, resumed = tensors(tmp_path / "unbroken"), tensors(tmp_path / "resumed")
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
    assert len(unbroken) == len(resumed)


async def test_what_an_objective_remembers_is_of_all_ranks_and_resumed_bit_for_bit(
    tiny_model, tmp_path
):
    settings = {"objective": LCPOConfig(of=DPOConfig()), "num_ranks": 2, "batch_size": 2}
    async with policy(tiny_model, **settings) as service:
        await train_and_save(service, tmp_path / "middle", range(1))
        metrics = await train_and_save(service, tmp_path / "unbroken", range(1, 2))
    async with policy(tiny_model, **settings) as service:
        await service.load(tmp_path / "middle")
        await train_and_save(service, tmp_path / "resumed", range(1, 2))
    async with policy(tiny_model, **settings | {"num_ranks": 1}) as service:
        await train_and_save(service, tmp_path / "alone", range(2))
    known = {
        name: TensorReader(tmp_path / name / "policy").notes["memory"]["reliability"]
        for name in ("middle", "unbroken", "resumed", "alone")
    }
    assert known["resumed"] == known["unbroken"] != known["middle"] != 0.9
    assert known["alone"] == pytest.approx(known["unbroken"], abs=1e-5)
    assert 0 < metrics["policy/label_confidence"] < 1
    unbroken, resumed = tensors(tmp_path / "unbroken"), tensors(tmp_path / "resumed")
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())


@pytest.mark.parametrize(
    "dtype, least, most", [(DType.bfloat16, 0.5, 1.0), (DType.float32, 0.0, 1e-3)]
)
async def test_what_rounding_takes_of_an_adapter_s_change_is_measured(
    tiny_model, dtype, least, most
):
    async with policy(tiny_model, dtype, lora_rank=4, learning_rate=1e-6) as service:
        await service.update(batch(0))
        await service.put_weights(as_saved=True)
        lost = await service.merge_lost()
    assert lost is not None and least <= lost <= most
    async with policy(tiny_model, dtype, learning_rate=1e-6) as service:
        await service.put_weights(as_saved=True)
        assert await service.merge_lost() is None


async def test_a_checkpoint_of_two_ranks_loads_into_one_of_another_stage(tiny_model, tmp_path):
    async with policy(tiny_model, zero_stage=3, num_ranks=2) as service:
        await train_and_save(service, tmp_path / "two", range(2))
    async with policy(tiny_model, zero_stage=1, num_ranks=1) as service:
        await service.load(tmp_path / "two")
        await service.save(tmp_path / "one")
    two, one = tensors(tmp_path / "two"), tensors(tmp_path / "one")
    assert all(torch.equal(value, one[name]) for name, value in two.items())


async def test_a_round_of_one_step_trains_under_a_schedule_that_begins_anew(tiny_model, tmp_path):
    settings = {"restart_every_round": True, "lr_warmup_ratio": 0.1, "batch_size": 64}
    async with policy(tiny_model, epochs=1, **settings) as service:
        await service.save(tmp_path / "before")
        metrics = await service.update(batch())
        await service.save(tmp_path / "after")
    assert (metrics["policy/num_steps"], metrics["policy/lr"]) == (1, 1e-3)
    before, after = tensors(tmp_path / "before"), tensors(tmp_path / "after")
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


async def test_ranks_skip_a_non_finite_step_together_and_stop_after_several(tiny_model, tmp_path):
    pairs = batch().preferences
    broken = PreferenceBatch(0, pairs, {"initial": [SidePair(float("nan"), 0.0)] * len(pairs)})
    async with policy(tiny_model, num_ranks=2, max_skipped_steps=3) as service:
        metrics = await service.update(broken)
        assert metrics["policy/skipped_steps"] == metrics["policy/num_steps"] == 2
        await service.export(tmp_path / "after")
        with pytest.raises(WorkerFailed, match="3 optimizer steps in a row had a non-finite"):
            await service.update(broken)
    original = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "after").state_dict()
    assert all(torch.equal(value, after[name]) for name, value in original.items())


@pytest.mark.parametrize("stage", [2, 3])
async def test_a_lora_policy_remembers_its_initial_self_and_exports_itself_merged(
    tiny_model, tmp_path, stage
):
    rows = [
        Tokens(pair.prompt.token_ids, pair.chosen.completion.token_ids) for pair in preferences()
    ]
    cpu = torch.device("cpu")
    initial = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    async with policy(tiny_model, lora_rank=4, num_ranks=2, zero_stage=stage) as service:
        for round in range(3):
            await service.update(batch(round))
        remembered = await InitialPolicy(service).logprobs(rows)
        now = await service.logprobs(rows)
        await service.export(tmp_path / "merged")
    assert remembered == pytest.approx(sum_logprobs(initial, rows, 100, cpu), abs=1e-4)
    assert max(abs(a - b) for a, b in zip(now, remembered, strict=True)) > 0.01
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert sum_logprobs(merged, rows, 100, cpu) == pytest.approx(now, abs=1e-4)


@pytest.mark.parametrize(("stage", "ranks"), [(0, 1), (3, 2)])
async def test_an_empty_round_changes_nothing_and_can_be_saved(tiny_model, tmp_path, stage, ranks):
    rows = [Tokens((3, 4), (5, 6))]
    settings = {"num_ranks": ranks, "zero_stage": stage, "weight_decay": 0.1}
    async with policy(tiny_model, **settings) as service:
        before = await service.logprobs(rows)
        metrics = await service.update(PreferenceBatch(0, [], {"initial": []}))
        assert metrics == {"policy/num_steps": 0.0}
        await service.save(tmp_path / "empty")
        assert await service.logprobs(rows) == before
        await train_and_save(service, tmp_path / "unbroken", range(1, 2))
    async with policy(tiny_model, **settings) as service:
        await service.load(tmp_path / "empty")
        await train_and_save(service, tmp_path / "resumed", range(1, 2))
    unbroken, resumed = tensors(tmp_path / "unbroken"), tensors(tmp_path / "resumed")
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())


def lists() -> PreferenceBatch:
    """Three prompts, of each three completions and all three pairs."""
    pairs = []
    for one, (prompt, *_) in zip(preferences()[:3], LENGTHS, strict=False):
        tokens = [tuple((k + 7 * i) % 29 + 3 for i in range(prompt + k)) for k in range(3)]
        sides = [
            Completion(one.prompt.id, k, t, (), str(t), False, 0) for k, t in enumerate(tokens)
        ]
        for better, worse in ((0, 1), (0, 2), (1, 2)):
            worths, emphasis = (1 - better / 2, 1 - worse / 2), (((0, 1, 0.5),), ())
            pairs.append(
                Preference.over(
                    one.prompt, sides[better], sides[worse], *worths, "test@1",
                    weight=1 / 3, emphasis=emphasis if better == 0 else ((), ()),
                )
            )  # fmt: skip
    anchor = [SidePair(-9.0 - i, -8.0 + i) for i in range(len(pairs))]
    nearer = [SidePair(-8.5 - i, -8.0 + i) for i in range(len(pairs))]
    tokens = [
        SideTokens(*([-1.0] * len(side.completion.token_ids) for side in pair.sides))
        for pair in pairs
    ]
    return PreferenceBatch(0, pairs, {"initial": anchor, "previous": nearer}, {"initial": tokens})


@pytest.mark.parametrize("objective", [TPOConfig(), KTOConfig(), RRPOConfig()])
async def test_a_loss_beyond_pairs_is_the_same_however_its_step_is_split(
    tiny_model, tmp_path, objective
):
    found = []
    for ranks, budget in [(1, 4000), (1, 12), (2, 30)]:
        settings = {"num_ranks": ranks, "micro_batch_tokens": budget, "batch_size": 4}
        async with policy(tiny_model, objective=objective, **settings) as service:
            metrics = await service.update(lists())
            await service.save(tmp_path / f"{ranks}-{budget}")
        found.append((metrics, tensors(tmp_path / f"{ranks}-{budget}")))
    (expected, weights), *others = found
    assert expected["policy/loss"] > 0 and expected["policy/num_steps"] == 6
    for metrics, found_weights in others:
        assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-5)
        for key, value in weights.items():
            assert torch.allclose(value, found_weights[key], rtol=1e-3, atol=2e-5), key


# --- begun before all is there -------------------------------------------------------------------


async def streamed(
    service: PolicyService, anchors: Anchors, pairs: list[Preference], pauses: Sequence[float]
) -> dict[str, float]:
    """Round 0 of the pairs, a prompt each, which come after so many seconds each."""

    async def coming() -> AsyncIterator[Outcome]:
        for place, (pair, pause) in enumerate(zip(pairs, pauses, strict=True)):
            await asyncio.sleep(pause)
            yield Outcome(place, Collected(pair.prompt, (), None, (pair,), ()))

    portions = Portions(anchors, service, portion_tokens=24)
    return await service.update(await portions.prepare(0, coming()))


@pytest.mark.parametrize(
    ("stage", "ranks", "dtype", "lora"),
    [
        (0, 1, DType.float32, 0),
        (0, 1, DType.bfloat16, 0),
        (2, 2, DType.float32, 4),
        (3, 2, DType.bfloat16, 0),
    ],
)
async def test_a_round_that_is_trained_on_as_it_comes_gives_the_weights_of_one_that_is_there(
    tiny_model, tmp_path, stage, ranks, dtype, lora
):
    """Bit for bit, through two steps of which the first is begun early, while the same ranks are
    asked as anchors; and what is begun can be left as if it had never been."""
    pairs, pauses = preferences(), [0.0, 0.0, 0.2, 0.0, 0.2]
    settings = {"zero_stage": stage, "num_ranks": ranks, "batch_size": 4, "epochs": 1}
    anchor = Anchor.initial if lora else Anchor.previous
    objective = DPOConfig(anchor=anchor)
    found = {}
    async with policy(tiny_model, dtype, objective, lora_rank=lora, **settings) as service:
        anchors = Anchors({anchor.value: InitialPolicy(service) if lora else service})
        await service.save(tmp_path / "start")
        portion = PreferenceBatch(0, pairs[:4], {anchor.value: [SidePair(-3.0, -4.0)] * 4})
        await service.accumulate(portion)
        await service.save(tmp_path / "begun")
        for name, waits in (("late", pauses), ("at once", [0.0] * 5)):
            await service.load(tmp_path / "begun")
            metrics = await streamed(service, anchors, pairs, waits)
            await service.save(tmp_path / name)
            found[name] = metrics
    assert found["late"] == found["at once"]
    assert found["late"]["policy/num_steps"] == 2
    assert found["late"].get("policy/anchor_gap", 0.0) < 0.1
    start, begun, late, once = (
        tensors(tmp_path / name) for name in ("start", "begun", "late", "at once")
    )
    assert all(torch.equal(value, begun[name]) for name, value in start.items())
    assert all(torch.equal(value, once[name]) for name, value in late.items())
    assert any(not torch.equal(value, start[name]) for name, value in late.items())


async def test_a_gradient_is_the_same_in_portions_and_at_once(tiny_model, tmp_path):
    """A step of plain gradient descent at a rate of 1, clipped, of which all pairs are certain
    before the last portion, which has none."""
    pairs = preferences()
    plain = {"optimizer": Optimizer.sgd, "learning_rate": 1.0, "batch_size": 8, "epochs": 1}
    found = {}
    for name, parts, stage, ranks in [
        ("whole", [range(5)], 0, 1),
        ("portions", [range(2), range(2, 4), range(4, 5), range(0)], 0, 1),
        ("portions of two ranks", [range(2), range(2, 5), range(0)], 2, 2),
    ]:
        settings = {"zero_stage": stage, "num_ranks": ranks} | plain
        async with policy(tiny_model, **settings) as service:
            await service.save(tmp_path / name / "before")
            batches = [
                PreferenceBatch(
                    0, [pairs[i] for i in part], {"initial": [SidePair(-3.0, -4.0)] * len(part)}
                )
                for part in parts
            ]
            for portion in batches[:-1]:
                await service.accumulate(portion)
            metrics = await service.update(batches[-1])
            await service.save(tmp_path / name / "after")
        before, after = (tensors(tmp_path / name / when) for when in ("before", "after"))
        taken = [(before[key] - after[key]).flatten() for key in sorted(before)]
        found[name] = metrics, torch.cat(taken)
    metrics, gradient = found.pop("whole")
    assert metrics["policy/num_steps"] == 1 and gradient.norm() > 0.01
    for name, (others, other) in found.items():
        assert others == pytest.approx(metrics, rel=1e-5, abs=1e-6), name
        assert (other - gradient).norm() / gradient.norm() < 1e-5, name


async def test_a_lost_rank_is_named(tiny_model):
    async with policy(tiny_model) as service:
        (rank,) = service._ranks
        stop_workers([rank])
        with pytest.raises(WorkerDied, match="policy-0 on node"):
            for _ in range(300):  # Ray kills in its own time
                await call_all([rank], "rendezvous", timeout_s=30)
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("num_ranks", [1, 2])
async def test_a_warm_start_sees_no_further_than_the_model_does(tmp_path, num_ranks):
    """Rows that are longer than a sliding window are padded, and not packed."""
    config = MistralConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, sliding_window=8, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    rows = [
        Tokens(
            tuple((3 * i + k) % 29 for k in range(10)), tuple((i + 5 * k) % 31 for k in range(n))
        )
        for i, n in enumerate((12, 9, 14, 11))
    ]
    expected = -sum(sum_logprobs(model, rows, 1000, torch.device("cpu"))) / (12 + 9 + 14 + 11)
    async with policy(tmp_path, num_ranks=num_ranks, micro_batch_tokens=100) as service:
        assert await service.supervise(rows, 1e-3) == pytest.approx(expected, rel=1e-5)

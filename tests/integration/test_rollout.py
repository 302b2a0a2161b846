"""Rollout workers on both engines, and publishing to them."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from actors.buckets import pack
from actors.group import (
    Allotment,
    Worker,
    WorkerFailed,
    start_workers,
    stop_workers,
    wait_ready,
)
from actors.rollout import RolloutService, RolloutWorker
from actors.supervision import Patience, Supervisor
from actors.weight_sync import ObjectStoreCarrier, ProbedPublisher, WeightsDiffer
from rlhf.config.models import DType, TransformersRolloutConfig, Transport, VllmRolloutConfig
from rlhf.learning.reading import row_logprobs
from rlhf.records import Prompt, Sampling, Tokens
from rlhf.watching.restarts import Restarts

pytestmark = pytest.mark.usefixtures("ray_session")

ENGINES = {"transformers": TransformersRolloutConfig, "vllm": VllmRolloutConfig}
CPU = torch.device("cpu")


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(str(i), (), tuple((3 * i + k) % 29 + 3 for k in range(2 + i % 5)))
        for i in range(count)
    ]


def started(engine: str, model: Path, num_workers: int = 1) -> list[Worker]:
    config = ENGINES[engine](max_prompt_tokens=16, max_completion_tokens=16)
    arguments = (str(model), DType.float32, config, Transport.object_store, 1)
    return start_workers(RolloutWorker, Allotment("rollout", num_workers, 1, 0, 1), *arguments)


async def serving(engine: str, workers: list[Worker]) -> RolloutService:
    await wait_ready(workers, 300)
    calls = 1024 if engine == "vllm" else 1
    return RolloutService(workers, calls_per_worker=calls, timeout_s=120)


@asynccontextmanager
async def rollout(engine: str, model: Path, num_workers: int = 1):
    workers = started(engine, model, num_workers)
    try:
        yield await serving(engine, workers)
    finally:
        stop_workers(workers)


@pytest.fixture(scope="module", params=ENGINES)
def shared(ray_session, request: pytest.FixtureRequest, tiny_model: Path):
    """An engine and a worker of it, which takes a while to start."""
    workers = started(request.param, tiny_model)
    yield request.param, workers
    stop_workers(workers)


@asynccontextmanager
async def sharing(shared: tuple[str, list[Worker]], model: Path):
    """The shared worker, whose weights are seen to be the model's, as they will be afterwards too,
    whatever is published to it."""
    service = await serving(*shared)
    rows = [Tokens(p.token_ids, (7, 9, 11, 3)) for p in prompts(4)]
    own = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for found in (await service.each("logprobs", rows)).values():
        for ours, theirs in zip(row_logprobs(own, rows, 1000, CPU), found, strict=True):
            assert theirs == pytest.approx(ours, abs=1e-4)
    try:
        yield service
    finally:
        await Fixed(own, service, both_names_of_tied=True).carry(0)


def bucket(model: torch.nn.Module, *, both_names_of_tied: bool) -> ray.ObjectRef:
    named = model.named_parameters(remove_duplicate=not both_names_of_tied)
    return ray.put(pack({name: value.detach().clone() for name, value in named}))


class Fixed:
    """A policy that is some model, and a carrier of its weights."""

    def __init__(self, model: torch.nn.Module, service: RolloutService, **how: bool) -> None:
        self.model, self.service, self.how = model, service, how

    async def token_logprobs(self, rows):
        return row_logprobs(self.model, rows, 1000, CPU)

    async def carry(self, version: int) -> int:
        await self.service.each("load_weights", [bucket(self.model, **self.how)], version)
        return 0


def moved(model: Path, seed: int) -> torch.nn.Module:
    """The model with every weight changed."""
    torch.manual_seed(seed)
    changed = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return changed.eval()


async def test_sampling_is_what_the_model_says_and_seeds_make_it_repeatable(shared, tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    sampling = Sampling(4, 8)
    async with sharing(shared, tiny_model) as service:
        asked = [service.generate(p, sampling, 100 * i) for i, p in enumerate(prompts(6))]
        groups = await asyncio.gather(*asked)
        alone = await service.generate(prompts(6)[3], sampling, 300)
        other = await service.generate(prompts(6)[3], sampling, 301)
        greedy = await service.generate(prompts(6)[2], Sampling(1, 8, temperature=0.0), 5)
    for prompt, group in zip(prompts(6), groups, strict=True):
        assert [c.sample for c in group] == [0, 1, 2, 3]
        rows = [Tokens(prompt.token_ids, c.token_ids) for c in group]
        for completion, expected in zip(group, row_logprobs(model, rows, 999, CPU), strict=True):
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)
            ended = completion.token_ids[-1] == model.config.eos_token_id
            assert completion.truncated == (not ended)
            assert completion.truncated == (len(completion.token_ids) == 8 and not ended)
    assert [c.token_ids for c in alone] == [c.token_ids for c in groups[3]]
    assert [c.token_ids for c in alone[1:]] == [c.token_ids for c in other[:3]]
    assert len({c.token_ids for group in groups for c in group}) > 12
    ids = list(prompts(6)[2].token_ids)
    for token in greedy[0].token_ids:
        assert token == model(torch.tensor([ids])).logits[0, -1].argmax()
        ids.append(token)


async def test_a_step_ends_where_its_text_says_and_the_next_one_goes_on(shared, tiny_model):
    """`+` for a newline: a random model is to meet it often."""
    sampling = Sampling(32, 8, stop=("+", "3="))
    async with sharing(shared, tiny_model) as service:
        (group,) = [await service.generate(prompts(3)[2], sampling, 5)]
        again = await service.generate(prompts(3)[2], sampling, 5)
        plain = await service.generate(prompts(3)[2], Sampling(32, 8), 5)
        first = next(c for c in group if c.stopped and len(c.token_ids) > 1)
        whole = prompts(3)[2]
        begun = replace(
            whole,
            token_ids=whole.token_ids + first.token_ids,
            prefix=first.text,
            num_prefix_tokens=len(first.token_ids),
        )
        (rest, *_) = await service.generate(begun, Sampling(1, 4), 6)
    assert [c.token_ids for c in again] == [c.token_ids for c in group]
    assert any(c.stopped for c in group) and any(not c.stopped for c in group)
    for step, unstopped in zip(group, plain, strict=True):
        places = [
            unstopped.text.find(stop) + len(stop) for stop in ("+", "3=") if stop in unstopped.text
        ]
        assert step.stopped == bool(places)
        assert step.text == unstopped.text[: min(places, default=None)]
        assert step.token_ids == unstopped.token_ids[: len(step.token_ids)]
        assert len(step.logprobs) == len(step.token_ids)
        assert not (step.stopped and step.truncated)
    assert rest.text and not rest.text.startswith(first.text)


async def test_published_weights_arrive_and_a_half_published_tie_is_found_out(shared, tiny_model):
    probe = [Tokens(p.token_ids, (7, 9, 11, 3)) for p in prompts(4)]
    async with sharing(shared, tiny_model) as service:
        whole = Fixed(moved(tiny_model, 1), service, both_names_of_tied=True)
        metrics = await ProbedPublisher(whole, whole, service, probe, 1e-3).publish(1)
        assert metrics["weights/logprob_gap"] < 1e-5
        (completion, *_) = await service.generate(prompts(1)[0], Sampling(1, 4), 1)
        assert completion.policy_version == 1

        half = Fixed(moved(tiny_model, 2), service, both_names_of_tied=False)
        if shared[0] == "vllm":
            with pytest.raises(WeightsDiffer, match=r"rollout-0 differs from the policy by 0\.\d"):
                await ProbedPublisher(half, half, service, probe, 1e-3).publish(2)
        else:
            with pytest.raises(
                WorkerFailed, match=r"rollout-0 .* version 2 lack \['lm_head.weight'\]"
            ):
                await half.carry(2)


async def test_a_killed_worker_s_prompts_are_asked_of_the_other(tiny_model):
    async with rollout("transformers", tiny_model, num_workers=2) as service:
        asked = [
            asyncio.create_task(service.generate(p, Sampling(64, 16), i))
            for i, p in enumerate(prompts(40))
        ]
        await asyncio.sleep(0.05)
        stop_workers(service._workers[:1])
        groups = await asyncio.gather(*asked)
        assert [group[0].prompt_id for group in groups] == [p.id for p in prompts(40)]
        assert set(await service.each("ready")) == {"rollout-1"}


class Stored(Fixed):
    """A policy that is some model, whose weights go by Ray's object store."""

    async def put_weights(self, as_saved: bool):
        return [bucket(self.model, **self.how)], 0


async def test_a_worker_that_comes_back_serves_the_newest_weights_and_no_others(tiny_model):
    probe = [Tokens(p.token_ids, (7, 9, 11, 3)) for p in prompts(4)]
    async with rollout("transformers", tiny_model, num_workers=2) as service:
        policy = Stored(moved(tiny_model, 1), service, both_names_of_tied=True)
        carrier = ObjectStoreCarrier(policy, service, as_saved=False)
        publisher = ProbedPublisher(carrier, policy, service, probe, 1e-3)
        await publisher.publish(1)
        restarts = Restarts(["rollout"], [], lambda _: None)

        async def bring(worker: Worker) -> None:
            await publisher.bring(worker, 120)

        Supervisor("rollout", service.workers, bring, Patience(3, 300, 60), restarts)
        ray.kill(service.workers[0].handle)
        asked = [service.generate(p, Sampling(4, 8), i) for i, p in enumerate(prompts(20))]
        groups = await asyncio.gather(*asked)
        assert {one.policy_version for group in groups for one in group} == {1}
        policy.model = moved(tiny_model, 2)
        await publisher.publish(2)  # which reaches the one that is there
        await service.workers[0].is_back()
        answers = await service.each("logprobs", probe)
        expected = row_logprobs(policy.model, probe, 1000, CPU)
        assert list(answers) == ["rollout-0", "rollout-1"]
        for found in answers.values():
            for ours, theirs in zip(expected, found, strict=True):
                assert theirs == pytest.approx(ours, abs=1e-4)
        asked = [service.generate(p, Sampling(4, 8), i) for i, p in enumerate(prompts(20))]
        groups = await asyncio.gather(*asked)
        assert {one.policy_version for group in groups for one in group} == {2}

        for worker in service.workers:  # and nobody is there to publish to
            ray.kill(worker.handle)
        policy.model = moved(tiny_model, 3)
        assert (await publisher.publish(3))["weights/logprob_gap"] < 1e-5
        (completion, *_) = await service.generate(prompts(1)[0], Sampling(1, 4), 1)
        assert completion.policy_version == 3
        assert restarts.metrics() == {"cluster/restarts_rollout": 3}


async def test_a_mixture_with_the_initial_policy_is_drawn_from_token_by_token(tiny_model):
    initial = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    policy = moved(tiny_model, 1)
    async with rollout("transformers", tiny_model) as service:
        publish = Fixed(policy, service, both_names_of_tied=True)
        await publish.carry(1)
        await service.each("load_initial", str(tiny_model))
        for mixture in (0.25, 1.0):
            sampling = Sampling(16, 6, mixture=mixture)
            for completion in await service.generate(prompts(3)[2], sampling, 5):
                ids = [*prompts(3)[2].token_ids]
                assert completion.mixture == mixture
                for token, logprob in zip(completion.token_ids, completion.logprobs, strict=True):
                    with torch.no_grad():
                        ours, theirs = (
                            model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                            for model in (policy, initial)
                        )
                    mixed = ((1 - mixture) * ours + mixture * theirs).log_softmax(-1)
                    assert logprob == pytest.approx(mixed[token].item(), abs=1e-4)
                    ids.append(token)

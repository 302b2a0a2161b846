"""One policy rank: a part of the model in training, under DeepSpeed, in a Ray actor."""

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from actors.round_update import RoundUpdate, logprobs_RC, over_ranks, random_state
from rlhf.config.models import LOGPROB_NOISE, DType, Optimizer, PolicyConfig, Transport
from rlhf.learning.compiling import compile_checked
from rlhf.learning.packing import Packing
from rlhf.learning.reading import CannotPack, RowReader, find_packing
from rlhf.models.adapters import adapted_layers, write_adapter
from rlhf.models.batching import Shape, rank_micro_batches
from rlhf.models.saving import save_causal
from rlhf.objectives.base import ObjectiveConfig
from rlhf.problems import RunFailed
from rlhf.records import Columns, Tokens
from rlhf.seeds import derive_seed
from rlhf.stages import Metrics
from rlhf.storage.disk import writing
from rlhf.storage.tensor_files import (
    DiskFolder,
    Folder,
    MemoryFolder,
    TensorReader,
    TensorWriter,
)

_log = logging.getLogger(__name__)


class StaleAnchor(RunFailed):
    """The `previous` anchor of a batch is not the policy that is about to be trained."""


class NonFiniteGradient(RunFailed):
    """Too many optimizer steps in a row had to be skipped."""


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """What a policy rank needs to know of the run."""

    dtype: DType
    policy: PolicyConfig
    objective: ObjectiveConfig
    epochs: int
    first_epochs: int
    """Those of round 0."""
    num_rounds: int
    seed: int
    shares_gpu: bool = False
    """Give the memory of forward and backward passes back after each round's update."""


class PolicyRank:
    """A Ray actor: one DeepSpeed rank. All ranks are called together, with the same arguments."""

    def __init__(self, plan: PolicyPlan) -> None:
        self._plan = plan
        self._skipped_in_a_row = 0
        self._version = 0
        """Rounds that the policy has been trained for."""
        self._memory = dict(plan.objective.first_memory())
        """The objective's, of the steps so far."""
        self._begun: RoundUpdate | None = None
        """Of the round whose preferences are coming."""
        self._engine: Any = None
        self._sender: Any = None
        self._receivers: list[str] = []
        """Whom it was made for."""

    def rendezvous(self) -> tuple[str, int]:
        """An address of this node and a port that is free on it, for rank 0."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def connect(self, ranks: Mapping[str, int], address: tuple[str, int]) -> str:
        """Joins the other ranks; `ranks`: actor id -> rank. Returns this node's id."""
        context = ray.get_runtime_context()
        self._rank, self._num_ranks = ranks[context.get_actor_id()], len(ranks)
        os.environ |= {
            "RANK": str(self._rank),
            "WORLD_SIZE": str(self._num_ranks),
            "LOCAL_RANK": "0",
            "MASTER_ADDR": address[0],
            "MASTER_PORT": str(address[1]),
        }
        return context.get_node_id()

    def start(self, path: str, warm_up: bool) -> None:
        """Loads the model in `path`, in place of what was loaded before, with a new optimizer.

        A warm-up's optimizer is AdamW: which one suits preferences is no matter to it.
        """
        from actors.deepspeed_engine import DeepSpeedEngine

        if self._engine is not None:
            self._engine.close()
        self._path, self._begun = path, None
        config = self._plan.policy
        if warm_up:
            config = replace(config, optimizer=Optimizer.adamw)
        torch.manual_seed(derive_seed(self._plan.seed, "policy rank", self._rank))
        self._engine = DeepSpeedEngine(path, self._plan.dtype, config)
        self._reader = RowReader(self._engine.model, self._engine.device, self._packing())
        if config.compile:
            vocabulary = self._engine.config.get_text_config().vocab_size
            noise = LOGPROB_NOISE[self._plan.dtype]
            self._engine.model.eval()
            bare = replace(self._reader, model=self._engine.module)
            compile_checked(bare, self._engine.compile, vocabulary, noise)

    def _packing(self) -> Packing | None:
        found = None
        if self._plan.policy.packing:
            self._engine.model.eval()
            try:
                found = find_packing(self._engine.model, self._engine.config, self._engine.device)
            except CannotPack as why:
                if self._rank == 0:
                    _log.warning("policy.packing: rows are padded instead: %s", why)
        # Padded rows hold tokens that see nothing, of which cuDNN makes a gradient of nan.
        torch.backends.cuda.enable_cudnn_sdp(found is not None and not found.has_window)
        return found

    def rest(self) -> None:
        """Gives its memory back; `start` may follow, and nothing else."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            del self._reader
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # --- learning ------------------------------------------------------------------------------

    def supervise(self, rows: Sequence[Tokens], learning_rate: float) -> float:
        """One supervised step; returns the mean token NLL in nats."""
        num_tokens = sum(row.num_own_tokens for row in rows)
        sums = torch.zeros(1, dtype=torch.float64)
        reader = self._reader.fitting(rows)

        def loss(indices: Sequence[int]) -> Tensor:
            mine = [rows[i] for i in indices]
            total = -logprobs_RC(reader, mine).sum() / num_tokens
            sums[0] += total.item()
            return total

        self._step([reader.shape([row]) for row in rows], loss, learning_rate)
        return over_ranks(sums, self._engine.device)[0]

    def accumulate(self, portion: Columns) -> None:
        """Some of the next update's preferences, in order: more are to come."""
        self._engine.make_moments()  # by a step, which would take what is added up along
        self._update_of(portion).add(portion)

    def update(self, batch: Columns) -> Metrics:
        """Trains on a round's preferences, of which these are the last, or all; metrics are
        weighted means over pairs and steps."""
        update = self._update_of(batch)
        self._version = batch.round + 1
        if self._plan.policy.restart_every_round:
            self._engine.reset_optimizer()
        metrics = update.finish(batch, self._check_finite)
        self._memory, self._begun = update.memory, None
        if self._plan.shares_gpu:
            torch.cuda.empty_cache()
        return metrics

    def _update_of(self, portion: Columns) -> RoundUpdate:
        """The round's, which has been begun or begins now."""
        if "previous" in portion.anchors and portion.round != self._version:
            raise StaleAnchor(
                f"round {portion.round} was compared with the policy of that round, and the policy "
                f"has been trained for {self._version} rounds"
            )
        if self._begun is None:
            rank = self._rank, self._num_ranks
            given = portion.round, self._engine, self._reader, rank, self._memory
            self._begun = RoundUpdate(self._plan, *given)
        return self._begun

    def _step(self, shapes: Sequence[Shape], loss: Callable, rate: float) -> Any:
        budget = self._plan.policy.micro_batch_tokens
        mine = rank_micro_batches(shapes, budget, self._num_ranks)[self._rank]
        return self._engine.step(mine, loss, rate)

    def _check_finite(self, applied: bool) -> None:
        self._skipped_in_a_row = 0 if applied else self._skipped_in_a_row + 1
        if self._skipped_in_a_row >= self._plan.policy.max_skipped_steps:
            raise NonFiniteGradient(
                f"{self._skipped_in_a_row} optimizer steps in a row had a non-finite gradient "
                "(policy.max_skipped_steps): lower policy.learning_rate, or look at the data"
            )

    # --- asking --------------------------------------------------------------------------------

    @torch.no_grad()
    def token_logprobs(
        self, rows: Sequence[Tokens], initial: bool = False
    ) -> dict[int, list[float]]:
        """This rank's share of the rows: index -> nats per completion token."""
        self._engine.model.eval()
        reader = self._reader.fitting(rows)
        units = reader.units(rows)
        shapes = [unit.shape for unit in units]
        budget = self._plan.policy.micro_batch_tokens
        results: dict[int, list[float]] = {}
        with self._engine.initial_policy() if initial else nullcontext():
            for batch in rank_micro_batches(shapes, budget, self._num_ranks)[self._rank]:
                indices = [i for unit in batch for i in units[unit].places]
                values_BC = logprobs_RC(reader, [rows[i] for i in indices]).tolist()
                for i, values in zip(indices, values_BC, strict=False):
                    results[i] = values[: len(rows[i].completion)]
        return results

    # --- weights and state ---------------------------------------------------------------------

    def put_weights(self, as_saved: bool) -> tuple[list[ray.ObjectRef], int] | None:
        """Rank 0 puts every weight into the object store, in buckets; returns them and bytes.

        `as_saved`: by the names of the model's files rather than of transformers' modules.
        """
        from actors.weight_sync import put_buckets

        weights = self._engine.saved_weights() if as_saved else self._engine.weights()
        return put_buckets(weights, keep=self._rank == 0)

    def put_adapter(self) -> tuple[list[ray.ObjectRef], int] | None:
        """As `put_weights`, of the adapter alone."""
        from actors.weight_sync import put_buckets

        return put_buckets(self._engine.adapter(), keep=self._rank == 0)

    def send_weights(self, setup: Any, version: int) -> int:
        """Sends every weight from this GPU to the rollout workers'; returns bytes."""
        receivers = [worker._actor_id.hex() for worker in setup.rollout_workers]
        if self._sender is None or receivers != self._receivers:
            self._sender, self._receivers = self._make_sender(setup), receivers
        return self._sender.send(version)

    def _make_sender(self, setup: Any) -> Any:
        if setup.transport is Transport.ipc:
            from actors.cuda_ipc import CudaIpcSender

            return CudaIpcSender(
                setup.rollout_workers,
                setup.timeout_s,
                self._engine.saved_weights,
                self._engine.shapes,
            )
        from actors.vllm_transfer import PolicyWeights, WeightSender

        source = PolicyWeights(self._engine.shapes, self._engine.saved_weights)
        return WeightSender(setup, self._rank, source)

    def export(self, directory: str) -> None:
        """Rank 0 writes the policy in Hugging Face format, with all that the model came with.

        With LoRA in fp32, since rounding would take most of a small change, and the adapter by
        itself in `adapter/`.
        """
        kept, lora = self._rank == 0, self._plan.policy.lora
        weights = self._engine.weights(exact=True)
        state = {name: value.to("cpu", copy=True) for name, value in weights if kept}
        dtype = torch.float32 if lora else getattr(torch, self._plan.dtype.value)
        if lora:
            state = {name: value.to(dtype) for name, value in state.items()}
        if kept:
            with writing(Path(directory)):
                save_causal(self._path, state, dtype, Path(directory))
        adapter = self._engine.adapter() if lora else ()
        adapter = {name: value.to("cpu", copy=True) for name, value in adapter if kept}
        if kept and lora:
            layers = adapted_layers(self._path, lora)
            with writing(Path(directory)):
                write_adapter(Path(directory) / "adapter", adapter, lora, layers, self._path)

    def merge_lost(self) -> float | None:
        """Of the adapter's change, the share that the last `weights` lost in rounding; by norm."""
        return self._engine.merge_lost

    def save(self, directory: str) -> None:
        """fp32 weights and moments once, random state per rank, all as after the last update; no
        pickles."""
        self._save(lambda name: DiskFolder(Path(directory) / name))

    def snapshot(self, most_bytes: float) -> dict[str, Any] | None:
        """The files that `save` would write; None from all ranks if they would take more."""
        if self._engine.state_bytes > most_bytes:
            return None
        files: dict[str, Any] = {}
        self._save(lambda name: MemoryFolder(files, name))
        return files

    def _save(self, folder: Callable[[str], Folder]) -> None:
        with TensorWriter(folder("policy") if self._rank == 0 else None) as writer:
            for name, value in self._engine.state():
                writer.write(name, value)
            writer.note("num_steps", self._engine.num_steps)
            writer.note("version", self._version)
            writer.note("memory", self._memory)
            writer.note("skipped_in_a_row", self._skipped_in_a_row)
        states = self._begun.random_state if self._begun else random_state()
        with TensorWriter(folder(f"rng_rank_{self._rank}")) as writer:
            for device, state in states.items():
                writer.write(device, state)

    def load(self, directory: str) -> None:
        self._begun = None
        reader = TensorReader(Path(directory) / "policy")
        self._engine.load_state(reader.read, reader.notes["num_steps"])
        self._version = reader.notes["version"]
        self._memory = reader.notes.get("memory", {})  # older checkpoints had nothing to keep
        self._skipped_in_a_row = reader.notes.get("skipped_in_a_row", 0)
        own = Path(directory) / f"rng_rank_{self._rank}"
        if own.exists():  # more ranks than when it was saved start with their own seed
            torch.set_rng_state(TensorReader(own).read("torch"))
            if torch.cuda.is_available():
                torch.cuda.set_rng_state(TensorReader(own).read("cuda"))

"""The policy in training: one DeepSpeed rank; the only file that imports DeepSpeed.

Optimizer state is read and written parameter by parameter, in full and in fp32, so a checkpoint
depends neither on the number of ranks nor on the ZeRO stage, and holds no pickles.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor
from transformers.integrations import HfDeepSpeedConfig

from rlhf.config.deepspeed_settings import merged
from rlhf.config.models import Attention, DType, Offload, Optimizer, PolicyConfig
from rlhf.models.adapters import adapter_parameters, change, with_adapter
from rlhf.models.loading import load_causal
from rlhf.models.saving import as_saved, layer_name

MOMENTS: dict[Optimizer, tuple[str, ...]] = {
    Optimizer.adamw: ("exp_avg", "exp_avg_sq"),
    Optimizer.rmsprop: ("square_avg",),
    Optimizer.sgd: (),
}
BETAS = (0.9, 0.95)
"""A short memory for the second moment: a round of fresh preferences may differ from the last."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of one optimizer step; the same on every rank."""

    applied: bool
    """False if the gradient was not finite, so that every rank skipped the step."""
    grad_norm: float
    """Before clipping; nan or inf if skipped."""


class DeepSpeedEngine:
    """A causal language model under DeepSpeed; every method is called on all ranks together."""

    def __init__(self, path: str, dtype: DType, config: PolicyConfig) -> None:
        # Only tensor-parallel inference would use it; compiling it takes a compiler and half a
        # minute, and who is killed meanwhile leaves a lock at which every later run waits. To be
        # asked what else could be compiled, DeepSpeed compiles a program, each time.
        vars(deepspeed.ops)["__compatible_ops__"] = {"deepspeed_shm_comm": False}
        deepspeed.init_distributed(
            "nccl" if torch.cuda.is_available() else "gloo", dist_init_required=True
        )
        self.device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self._config = config
        settings = _settings(dtype, config)
        # While it lives, every model that transformers makes is sharded as its weights are read;
        # no longer than that, or making one on a single rank would wait for the others for ever.
        sharding = HfDeepSpeedConfig(settings) if config.zero_stage == 3 else None
        model = load_causal(path, getattr(torch, dtype.value), **_attention(config))
        if sharding is not None:
            _restore_rotations(model)
        del sharding
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        if config.lora is not None:
            model = with_adapter(model, config.lora)
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizer = _optimizer(trainable, config)
        self._moments = MOMENTS[config.optimizer]
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, model_parameters=trainable, config=settings
        )
        self._plain = config.zero_stage == 0 and dtype is DType.float32
        """DeepSpeed leaves gradients to torch here: it neither clips by norm nor skips."""
        self.merge_lost: float | None = None
        """Of the adapter's change, the share that rounding took when it was last merged, by norm:
        what is below half a step of bf16 is lost, and published weights lag behind the policy."""
        self.num_steps = 0
        """Optimizer steps taken since its moments were last forgotten."""
        self._has_moments = False
        self.reset_optimizer()  # without ZeRO, DeepSpeed has taken a step of its own already

    def close(self) -> None:
        """Frees the memory that it holds; nothing may be called after."""
        self._engine.destroy()
        del self._engine
        gc.collect()

    @property
    def model(self) -> torch.nn.Module:
        """What to call for a forward pass."""
        return self._engine

    @property
    def config(self) -> Any:
        """transformers' own, of the model."""
        return self._plain_model().config

    @property
    def module(self) -> torch.nn.Module:
        """The same without DeepSpeed, which takes no notice of its passes."""
        return self._engine.module

    def compile(self) -> None:
        """From now on torch compiles forward and backward passes, once for all lengths."""
        self._engine.module.compile(dynamic=True)

    def accumulate(
        self, micro_batches: Sequence[Any], loss: Callable[[Any], Tensor], *, ends: bool = False
    ) -> None:
        """Adds the gradient of the sum of `loss` over all ranks' micro-batches to that of the next
        step; `ends`: with the last of these it is whole."""
        self._engine.train()
        ranks = torch.distributed.get_world_size()
        for i, micro_batch in enumerate(micro_batches):
            last = ends and i == len(micro_batches) - 1
            self._engine.set_gradient_accumulation_boundary(last)
            # DeepSpeed averages over ranks; this makes it a sum.
            self._engine.backward(loss(micro_batch) * ranks, scale_wrt_gas=False)

    def step(
        self,
        micro_batches: Sequence[Any],
        loss: Callable[[Any], Tensor],
        learning_rate: float,
        scale: float = 1.0,
    ) -> StepResult:
        """One optimizer step on the gradient of `loss`, a sum over all ranks' micro-batches and
        what was accumulated before, divided by `scale`; at least one micro-batch."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self.accumulate(micro_batches, loss, ends=True)
        result = self._plain_step(scale) if self._plain else self._engine_step(scale)
        self.num_steps += result.applied
        self._has_moments |= result.applied
        return result

    def _engine_step(self, scale: float) -> StepResult:
        """A gradient that is `scale` times too large is what a loss scale is for, which DeepSpeed
        takes out as it clips, and of the norm."""
        optimizer = self._engine.optimizer
        if not hasattr(type(optimizer), "loss_scale"):  # sums up in fp32, and knows no scale
            for flat in optimizer.fp32_groups_gradients_flat:
                flat.div_(scale)
            scale = 1.0
        optimizer.loss_scale = scale
        self._engine.step()
        optimizer.loss_scale = 1.0
        norm = float(self._engine.get_global_grad_norm())
        if self._config.zero_stage == 0:  # there the norm is told as it was
            norm /= scale
        return StepResult(self._engine.was_step_applied(), norm)

    def _plain_step(self, scale: float) -> StepResult:
        parameters = self._trainable()
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(scale)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm)
        if applied := bool(norm.isfinite()):
            self._engine.step()
        else:
            self._engine.zero_grad()
        return StepResult(applied, norm.item())

    @contextmanager
    def initial_policy(self) -> Iterator[None]:
        """Within it, a LoRA model answers as it did before training: its adapter is off."""
        with self._engine.module.disable_adapter():
            self._engine.eval()
            yield

    # --- weights -------------------------------------------------------------------------------

    def weights(self, exact: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Every weight, and every buffer that belongs to the model's state, by its name in
        transformers, in full, LoRA merged in; gathered a layer at a time.

        Tied weights come under each of their names: an engine that keeps two copies would
        otherwise silently keep an old one. `exact`: what LoRA was merged into stays in fp32.
        """
        lost = changed = 0.0
        for _, layer in groupby(self._published(), key=lambda one: layer_name(one[0])):
            layer = list(layer)
            needed = [p for _, *parts in layer for p in _parameters(*parts)]
            with self._gathered(list(dict.fromkeys(needed))):
                for name, parameter, adapter in layer:
                    value = parameter.detach()
                    if adapter is not None:
                        delta = change(adapter)
                        whole = value.float() + delta
                        merged = whole if exact else whole.to(value.dtype)
                        lost += (merged.float() - value.float() - delta).norm().item() ** 2
                        changed += delta.norm().item() ** 2
                        value = merged
                    yield name, value
        if changed and not exact:
            self.merge_lost = (lost / changed) ** 0.5

    def adapter(self) -> Iterator[tuple[str, Tensor]]:
        """The adapter's weights by their names in an adapter's file, gathered all at once."""
        named = list(adapter_parameters(self._engine.module))
        with self._gathered([parameter for _, parameter in named]):
            yield from ((name, parameter.detach()) for name, parameter in named)

    def saved_weights(self) -> Iterator[tuple[str, Tensor]]:
        """`weights` by the names and in the shapes of the model's files."""
        return as_saved(self._plain_model(), self.weights())

    def shapes(self) -> Iterator[tuple[str, Tensor]]:
        """What `saved_weights` will yield, as meta tensors; no gathering."""
        named = (
            (
                name,
                torch.empty(
                    getattr(value, "ds_shape", value.shape), dtype=value.dtype, device="meta"
                ),
            )
            for name, value, _ in self._published()
        )
        return as_saved(self._plain_model(), named)

    def _plain_model(self) -> Any:
        """transformers' own, without peft's wrapping."""
        model = self._engine.module
        return model.get_base_model() if self._config.lora_rank else model

    def _published(self) -> Iterator[tuple[str, Tensor, Any]]:
        """Base weights and lasting buffers, each with the adapter that changes it, if any."""
        model = self._engine.module
        adapters = {
            f"{name}.base_layer.weight": module
            for name, module in model.named_modules()
            if hasattr(module, "get_delta_weight")
        }
        lasting = model.state_dict().keys()
        buffers = ((n, b) for n, b in model.named_buffers() if n in lasting)
        for name, value in (*model.named_parameters(remove_duplicate=False), *buffers):
            if "lora_" not in name:
                plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
                yield plain, value, adapters.get(name)

    def _gathered(self, parameters: Sequence[Tensor]) -> Any:
        if self._config.zero_stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(parameters)

    # --- state ---------------------------------------------------------------------------------

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        """torch's own optimizer, inside whatever DeepSpeed wrapped around it."""
        outer = self._engine.optimizer
        return outer if self._plain else outer.optimizer

    def _trainable(self) -> list[torch.nn.Parameter]:
        return [p for p in self._engine.module.parameters() if p.requires_grad]

    def _named_trainable(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((n, p) for n, p in self._engine.module.named_parameters() if p.requires_grad)

    def reset_optimizer(self) -> None:
        """Forgets the moments, as if no step had ever been taken."""
        for state in self._optimizer.state.values():
            for value in state.values():
                value.zero_()
        self.num_steps = 0

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """fp32 master weights and moments in full, as `<kind>/<parameter>`; all ranks iterate."""
        self.make_moments()
        masters = self._stage_0_masters()
        for name, parameter in self._named_trainable():
            if masters is None:
                yield f"master/{name}", safe_get_full_fp32_param(parameter)
                for moment in self._moments:
                    yield f"{moment}/{name}", safe_get_full_optimizer_state(parameter, moment)
            else:
                master = masters[parameter]
                yield f"master/{name}", master.detach()
                for moment in self._moments:
                    yield f"{moment}/{name}", self._optimizer.state[master][moment]

    @property
    def state_bytes(self) -> int:
        """Of all that `state` yields."""
        weights = sum(getattr(p, "ds_numel", p.numel()) for p in self._trainable())
        return 4 * weights * (1 + len(self._moments))

    def load_state(self, read: Callable[[str], Tensor], num_steps: int) -> None:
        """The inverse of `state`: `read` returns the tensor of a name; what was accumulated is
        forgotten."""
        self._take_idle_step()
        masters = self._stage_0_masters()
        for name, parameter in self._named_trainable():
            master = read(f"master/{name}").to(self.device)
            moments = {moment: read(f"{moment}/{name}").to(self.device) for moment in self._moments}
            if masters is not None:
                own = masters[parameter]
                own.data.copy_(master)
                parameter.data.copy_(master)
                for moment, value in moments.items():
                    self._optimizer.state[own][moment].copy_(value)
                continue
            safe_set_full_fp32_param(parameter, master)
            with self._gathered_for_writing(parameter):
                parameter.data.copy_(master)
            for moment, value in moments.items():
                safe_set_full_optimizer_state(parameter, value, moment)
        self.num_steps = num_steps
        for state in self._optimizer.state.values():
            if "step" in state:
                state["step"].fill_(num_steps)

    def _gathered_for_writing(self, parameter: Tensor) -> Any:
        if self._config.zero_stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)

    def make_moments(self) -> None:
        """Sees to it that there are moments, which exist only after a step."""
        if not self._has_moments:
            self._take_idle_step()
            self.reset_optimizer()

    def _take_idle_step(self) -> None:
        """An optimizer step that changes no weight."""
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        self.step([token], lambda ids: self.model(input_ids=ids).logits.sum() * 0, 0.0)

    def _stage_0_masters(self) -> dict[torch.nn.Parameter, Tensor] | None:
        """Parameter -> fp32 master without ZeRO, where DeepSpeed's accessors do not reach."""
        if self._config.zero_stage > 0:
            return None
        if self._plain:
            return {parameter: parameter for parameter in self._trainable()}
        outer = self._engine.optimizer
        return {
            low: high
            for lows, highs in zip(outer.fp16_groups, outer.fp32_groups, strict=True)
            for low, high in zip(lows, highs, strict=True)
        }


def _restore_rotations(model: torch.nn.Module) -> None:
    """Rotary frequencies as they are in fp32: made while a model is sharded, they are rounded to
    bf16, by position 1,000 up to a radian off, and the policy would not be what samples."""
    for module in model.modules():
        if type(module).__name__.endswith("RotaryEmbedding") and hasattr(module, "config"):
            exact: Any = type(module)(module.config)
            module._buffers.update(exact.named_buffers())


def _parameters(value: Tensor, adapter: Any) -> list[Tensor]:
    """What has to be gathered for one published weight."""
    own = [value] if isinstance(value, torch.nn.Parameter) else []  # buffers are whole everywhere
    return own if adapter is None else [*own, *adapter.parameters()]


def _optimizer(parameters: Sequence[Tensor], config: PolicyConfig) -> torch.optim.Optimizer:
    """Its rate is 0, which `step` replaces: DeepSpeed takes a step when it makes its states."""
    if config.optimizer is Optimizer.rmsprop:
        return torch.optim.RMSprop(parameters, lr=0.0, weight_decay=config.weight_decay)
    if config.optimizer is Optimizer.sgd:
        return torch.optim.SGD(parameters, lr=0.0, weight_decay=config.weight_decay)
    return torch.optim.AdamW(parameters, lr=0.0, betas=BETAS, weight_decay=config.weight_decay)


def _settings(dtype: DType, config: PolicyConfig) -> dict[str, Any]:
    """DeepSpeed's configuration. Its accumulation counter is not used: micro-batches are packed
    by tokens, so their number varies from step to step."""
    plain = config.zero_stage == 0 and dtype is DType.float32
    ours = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if plain else config.max_grad_norm,
        "bf16": {"enabled": dtype is DType.bfloat16, "check_grad_overflow": True},
        "zero_optimization": {"stage": config.zero_stage, **_offload(config)},
        "zero_allow_untested_optimizer": True,
        # torch's own takes its steps in the machine's memory too, and its states are known.
        "zero_force_ds_cpu_optimizer": False,
    }
    return merged(ours, config.deepspeed)


def _offload(config: PolicyConfig) -> dict[str, Any]:
    parts = {
        Offload.none: (),
        Offload.optimizer: ("offload_optimizer",),
        Offload.parameters: ("offload_optimizer", "offload_param"),
    }
    return {part: {"device": "cpu"} for part in parts[config.offload]}


def _attention(config: PolicyConfig) -> dict[str, str]:
    chosen = config.attention
    return {} if chosen is Attention.auto else {"attn_implementation": chosen.value}

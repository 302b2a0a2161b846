"""The policy: its weights, its copies that sample, and its training."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from rlhf.config.deepspeed_settings import deepspeed_problems
from rlhf.config.engine_arguments import engine_problems
from rlhf.config.texts import location
from rlhf.options import Fact, Option
from rlhf.ranges import number


class DType(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Rendering(Enum):
    auto = "auto"
    """Chat if the tokenizer has a chat template, plain if it has none."""
    chat = "chat"
    plain = "plain"


@dataclass
class ModelConfig(Option):
    name: ClassVar[str] = "hf"
    is_made: ClassVar[bool] = False
    """Made from nothing, where its path is its default."""

    path: str = location()
    """A Hugging Face directory, or a hub id where the network allows."""
    dtype: DType = DType.bfloat16
    rendering: Rendering = Rendering.auto


class Vocabulary(Enum):
    arithmetic = "arithmetic"
    """32 characters: digits, operators, a few letters."""
    bytes = "bytes"
    """Every UTF-8 byte, so any text."""


@dataclass
class TinyModelConfig(ModelConfig):
    """A small Llama, made from nothing."""

    name: ClassVar[str] = "tiny"
    is_made: ClassVar[bool] = True

    path: str = location("tiny")
    dtype: DType = DType.float32
    vocabulary: Vocabulary = Vocabulary.arithmetic
    game: str = ""
    """A known game's file; its answers become tokens of their own."""
    words: list[str] = field(default_factory=list)
    """Texts that become tokens of their own as well."""
    chat: bool = False
    """A chat template, so that it reads conversations: a line per turn, `?` before the user's and
    `!` before the assistant's."""
    num_layers: int = number(2, at_least=1)
    width: int = number(128, at_least=8)
    num_heads: int = number(4, at_least=1)


@dataclass
class RolloutConfig(Option):
    """What samples completions; a subclass is an option, its fields are its keys."""

    reads_saved: ClassVar[bool] = False
    """It reads weights as they stand in files, not as the policy has them."""
    shares_gpus: ClassVar[bool] = False
    """On a GPU it gives its memory back for as long as it sleeps, and takes weights from there."""

    calls_per_worker: ClassVar[int] = 1
    """Requests under way at a worker. Padded batches gather first; what batches continuously gets
    requests as they come."""

    num_workers: int = number(1, at_least=1)
    max_workers: int | None = number(None, at_least=1)
    """Above `num_workers`: further ones start where the cluster has room, such as on a node that
    joins it, and leave with their nodes, down to `num_workers`."""
    max_prompt_tokens: int = number(1024, at_least=1)
    max_completion_tokens: int = number(1024, at_least=1)
    engine: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the engine's own, by name: `+rollout.engine.max_num_seqs=64`."""

    @property
    def gpus_per_worker(self) -> int:
        return 1

    @property
    def longest(self) -> int:
        """Tokens of a prompt and its completion."""
        return self.max_prompt_tokens + self.max_completion_tokens

    def cache(self, token_bytes: float, on_gpus: bool) -> tuple[int | None, str]:
        """Bytes that keys and values come to, of so many a token, or None where that is a share of
        a GPU; and that in words."""
        return None, ""

    def group_problems(self, num_completions: int) -> Iterator[str]:
        """Where one prompt's completions are too many."""
        return iter(())


@dataclass
class TransformersRolloutConfig(RolloutConfig):
    name: ClassVar[str] = "transformers"

    max_batch_tokens: int = number(65536, at_least=1)
    """Tokens, prompts and completions together, that one padded batch may come to."""

    def gives(self) -> Set[Fact]:
        return {Fact.initial_policy}

    def problems(self) -> Iterator[str]:
        for name, value in self.engine.items():
            yield (
                f"rollout.engine.{name}={value}: rollout=transformers takes no arguments of "
                "another engine; leave it out, or set rollout=vllm"
            )

    def cache(self, token_bytes: float, on_gpus: bool) -> tuple[int | None, str]:
        return int(token_bytes * self.max_batch_tokens), ""

    def group_problems(self, num_completions: int) -> Iterator[str]:
        if (wanted := self.longest * num_completions) > self.max_batch_tokens:
            yield (
                f"rollout.max_batch_tokens={self.max_batch_tokens}: one prompt's "
                f"{num_completions} completions may come to {wanted} tokens; raise it to that"
            )


@dataclass
class VllmRolloutConfig(RolloutConfig):
    name: ClassVar[str] = "vllm"
    reads_saved: ClassVar[bool] = True
    shares_gpus: ClassVar[bool] = True
    calls_per_worker: ClassVar[int] = 1024

    tensor_parallel: int = number(1, at_least=1)
    """GPUs per worker."""
    gpu_memory_utilization: float = number(0.85, above=0, at_most=1)
    cpu_kv_cache_gib: int = number(1, at_least=1)
    enforce_eager: bool = False

    def problems(self) -> Iterator[str]:
        return engine_problems(self.engine)

    @property
    def gpus_per_worker(self) -> int:
        return self.tensor_parallel

    def cache(self, token_bytes: float, on_gpus: bool) -> tuple[int | None, str]:
        if not on_gpus:
            return self.cpu_kv_cache_gib * 2**30, ""
        return None, f"in {self.gpu_memory_utilization:.0%} of a GPU"


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter's shape."""

    rank: int
    alpha: int
    """Its change is scaled by `alpha / rank`."""


class Optimizer(Enum):
    adamw = "adamw"
    rmsprop = "rmsprop"
    sgd = "sgd"
    """Without momentum: in a cyclic game momentum drives the policy outwards."""


class Offload(Enum):
    """What of the policy waits in the machine's memory instead of the GPU's."""

    none = "none"
    optimizer = "optimizer"
    """fp32 masters and moments, which take their steps there; from ZeRO stage 1 on."""
    parameters = "parameters"
    """Those, and weights, which come layer by layer; with ZeRO stage 3."""


class Attention(Enum):
    """How the policy computes attention, by transformers' names."""

    auto = "auto"
    """What transformers takes for the model."""
    eager = "eager"
    sdpa = "sdpa"
    flash_attention_2 = "flash_attention_2"
    flash_attention_3 = "flash_attention_3"
    flash_attention_4 = "flash_attention_4"
    flex_attention = "flex_attention"


class Schedule(Enum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


@dataclass
class PolicyConfig:
    num_ranks: int = number(1, at_least=1)
    zero_stage: int = number(2, at_least=0, at_most=3)
    batch_size: int = number(64, at_least=1)
    """Preferences per optimizer step, over all ranks."""
    micro_batch_tokens: int = number(16384, at_least=1)
    """Tokens, padding included, that one forward pass of a rank may come to."""
    packing: bool = True
    """Compute what completions of a prompt have in common once, where the model's attention allows
    it; the numbers are the same but for rounding."""
    learning_rate: float = number(5e-7, above=0)
    optimizer: Optimizer = Optimizer.adamw
    schedule: Schedule = Schedule.constant
    lr_warmup_ratio: float = number(0.0, at_least=0, below=1)
    """Share of the run, or of each round that begins the schedule anew, in which the learning rate
    rises from 0; a step has the rate of its middle."""
    restart_every_round: bool = False
    """Begin the schedule anew in every round, and forget the optimizer's moments."""
    weight_decay: float = number(0.0, at_least=0)
    max_grad_norm: float = number(1.0, above=0)
    gradient_checkpointing: bool = False
    offload: Offload = Offload.none
    attention: Attention = Attention.auto
    compile: bool = False
    """Compile its passes by torch, once for all lengths; at the start its numbers are compared with
    those from before. Takes a minute, and a C++ compiler on CPUs."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Further settings of DeepSpeed's own, by name:
    `+policy.deepspeed.communication_data_type=fp32`."""
    lora_rank: int = number(0, at_least=0)
    """0 trains every weight."""
    lora_alpha: int = number(32, at_least=1)
    max_skipped_steps: int = number(5, at_least=1)
    """Optimizer steps in a row that may be skipped for a non-finite gradient."""

    def problems(self) -> Iterator[str]:
        """What cannot be of its own keys, one line each."""
        least = {Offload.none: 0, Offload.optimizer: 1, Offload.parameters: 3}[self.offload]
        if self.zero_stage < least:
            yield (
                f"policy.offload={self.offload.value}: needs policy.zero_stage={least} or more; "
                f"it is {self.zero_stage}"
            )
        masked = (Attention.auto, Attention.eager, Attention.sdpa)
        if self.packing and self.attention not in masked:
            yield (
                f"policy.attention={self.attention.value}: takes no mask by which rows are packed; "
                "set policy.packing=false too"
            )
        if self.compile and self.zero_stage == 3:
            yield (
                "policy.compile=true: ZeRO 3 brings weights layer by layer, which compiled passes "
                "do not wait for; set policy.zero_stage=2, or leave it out"
            )
        if self.compile and self.lora_rank:
            yield (
                "policy.compile=true: with LoRA, passes without the adapter are asked for too; set "
                "policy.lora_rank=0, or leave it out"
            )
        yield from deepspeed_problems(self.deepspeed)

    @property
    def lora(self) -> Lora | None:
        return Lora(self.lora_rank, self.lora_alpha) if self.lora_rank else None


@dataclass
class ReferenceConfig:
    num_workers: int = number(1, at_least=1)
    micro_batch_tokens: int = number(16384, at_least=1)


class Transport(Enum):
    auto = "auto"
    """`ipc` where vLLM shares the policy's GPU, `nccl` where it has its own, else
    `object_store`."""
    object_store = "object_store"
    """Ray's object store: shared memory within a node."""
    nccl = "nccl"
    """From GPU to GPU, by vLLM."""
    ipc = "ipc"
    """Within a GPU that policy and rollout share, by vLLM."""


LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM makes room for: the least that is enough is taken."""


class PublishedLora(Enum):
    adapter = "adapter"
    """The adapter alone travels, and rollout workers add it to the model that they have."""
    merged = "merged"
    """Every weight travels, the adapter merged in; in bfloat16 most of a small change is lost."""


LOGPROB_NOISE = {DType.float32: 1e-4, DType.bfloat16: 0.03}
"""Nats by which a token's log-probability may depend on the rows that share its forward pass; a sum
moves by the root of its length times that. Measured on models of up to 8 layers: 0.005 to 0.03 in
bfloat16, up to 2e-5 in float32."""

MAX_LOGPROB_GAP = {DType.float32: 1e-3, DType.bfloat16: 0.1}


@dataclass
class WeightsConfig:
    transport: Transport = Transport.auto
    """Of all weights; an adapter is small, and travels by the object store."""
    lora: PublishedLora = PublishedLora.adapter
    """What is published of a policy with an adapter (`policy.lora_rank`)."""
    max_logprob_gap: float | None = None
    """Nats per token between policy and rollout workers above which the run stops;
    by default `MAX_LOGPROB_GAP`: 1e-3 in float32 and 0.1 in bfloat16."""

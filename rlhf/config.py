"""Every key of the configuration: its type, its default, its range, and what it means.

Defaults live here and are the vetted setting; the YAML files under `conf/` state differences.
`rlhf.checks` walks these dataclasses and reports everything that is wrong with them at once.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


def number(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field with a range, which `rlhf.checks` enforces."""
    limits = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    return field(default=default, metadata={k: v for k, v in limits.items() if v is not None})


# --- the run -------------------------------------------------------------------------------------


class Resume(Enum):
    auto = "auto"
    """Go on from the newest complete checkpoint in `run.dir`, or start if there is none."""
    must = "must"
    """Go on, or fail."""
    never = "never"
    """Start in an empty directory, or fail."""


@dataclass
class RunConfig:
    dir: str = "${hydra:runtime.output_dir}"
    """Where everything the run leaves behind goes; on storage that all nodes share."""
    resume: Resume = Resume.auto
    checkpoint_every: int = number(50, at_least=0)
    """Rounds between checkpoints, besides the one after the last round."""
    keep_checkpoints: int = number(2, at_least=1)


@dataclass
class RoundConfig:
    prompts: int = number(64, at_least=1)
    """Prompts that are asked in one round."""
    epochs: int = number(1, at_least=1)
    """Passes over the round's preferences."""
    concurrency: int = number(1024, at_least=1)
    """Prompts in work at the same time."""
    deadline_s: float = number(1800.0, above=0)
    """Longest time that one prompt may take before it counts as failed."""
    max_failed: int = number(0, at_least=0)
    """Prompts of a round that may fail before the run stops."""


@dataclass
class EvalConfig:
    every: int = number(0, at_least=0)
    """Rounds between evaluations, besides those before and after training."""
    num_prompts: int = number(512, at_least=1)
    """Held-out prompts that are asked."""
    num_samples: int = number(1, at_least=1)
    """Sampled completions per prompt, besides the greedy one."""


@dataclass
class WarmupConfig:
    """Supervised steps on the data's demonstrations, before the first round."""

    steps: int = number(0, at_least=0)
    """At most so many; in the last 30 of them the learning rate falls to 0."""
    stop_loss: float | None = None
    """Mean token NLL, in nats, at which the fall begins early."""
    batch_size: int = number(32, at_least=1)
    learning_rate: float = number(1e-3, above=0)


# --- algorithm -----------------------------------------------------------------------------------


class PairRule(Enum):
    best_worst = "best_worst"
    """The best completion over the worst: at most one pair per prompt."""
    all_pairs = "all_pairs"
    """Every strictly ordered pair, weighted so that the prompt counts once."""
    correct_wrong = "correct_wrong"
    """A random completion of the best score over a random one of a lower score."""


class Truncated(Enum):
    drop = "drop"
    """A truncated completion takes no part."""
    penalise = "penalise"
    """It takes part with the lowest score of its group, so it is never chosen."""
    keep = "keep"
    """It takes part as if it had ended."""


@dataclass
class PairingConfig:
    rule: PairRule = PairRule.best_worst
    truncated: Truncated = Truncated.drop
    min_margin: float = number(0.0, at_least=0)
    """Pairs whose scores differ by no more than this are ties, and dropped."""
    min_group: int = number(2, at_least=2)
    """Prompts with fewer judged completions are dropped."""


@dataclass
class AlgorithmConfig:
    num_completions: int = number(8, at_least=2)
    """Completions per prompt."""
    temperature: float = number(1.0, above=0)
    top_p: float = number(1.0, above=0, at_most=1)


@dataclass
class OnlineDPOConfig(AlgorithmConfig):
    pairing: PairingConfig = field(default_factory=PairingConfig)


# --- objectives ----------------------------------------------------------------------------------


class Anchor(Enum):
    initial = "initial"
    """The policy before the first round; never moves."""
    previous = "previous"
    """The policy at the start of the round."""


class Reduce(Enum):
    sum = "sum"
    mean = "mean"


@dataclass
class ObjectiveConfig:
    """What to minimise on a preference; the formulas stand in `rlhf.objectives`."""


@dataclass
class DPOConfig(ObjectiveConfig):
    beta: float = number(0.1, above=0)
    label_smoothing: float = number(0.0, at_least=0, below=0.5)
    """Share of labels taken to be wrong (cDPO)."""
    nll_coef: float = number(0.0, at_least=0)
    """Weight of the chosen side's mean token NLL (RPO)."""
    anchor: Anchor = Anchor.initial


@dataclass
class RDPOConfig(ObjectiveConfig):
    beta: float = number(0.1, above=0)
    label_noise: float = number(0.1, at_least=0, below=0.5)
    anchor: Anchor = Anchor.initial


@dataclass
class IPOConfig(ObjectiveConfig):
    tau: float = number(0.1, above=0)
    reduce: Reduce = Reduce.mean
    """Log-ratios per token, or summed over the completion."""
    anchor: Anchor = Anchor.initial


@dataclass
class RSOConfig(ObjectiveConfig):
    gamma: float = number(0.05, above=0)
    anchor: Anchor = Anchor.initial


@dataclass
class SLiCConfig(ObjectiveConfig):
    delta: float = number(1.0, above=0)
    nll_coef: float = number(0.5, at_least=0)


@dataclass
class SimPOConfig(ObjectiveConfig):
    beta: float = number(2.0, above=0)
    margin: float = number(0.5, at_least=0)
    """Target margin per token, the paper's γ/β."""


@dataclass
class LNDPOConfig(ObjectiveConfig):
    beta: float = number(5.0, above=0)
    anchor: Anchor = Anchor.initial


# --- judges --------------------------------------------------------------------------------------


class Check(Enum):
    integer = "integer"
    """The completion is the answer: one integer, nothing else."""
    math = "math"
    """The completion's final answer is mathematically equal to the reference (`math-verify`)."""


@dataclass
class JudgeConfig:
    num_workers: int = number(1, at_least=1)


@dataclass
class VerifierConfig(JudgeConfig):
    check: Check = Check.integer


@dataclass
class RewardModelConfig(JudgeConfig):
    path: str = MISSING
    """A Hugging Face sequence-classification model with one label."""
    max_tokens: int = number(4096, at_least=1)
    """Prompt and completion together; a longer one is a judge failure."""
    micro_batch_tokens: int = number(16384, at_least=1)
    dtype: str = "auto"


# --- model, rollout, policy ----------------------------------------------------------------------


class DType(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Rendering(Enum):
    auto = "auto"
    """Chat if the tokenizer has a chat template, plain if it has none."""
    chat = "chat"
    plain = "plain"


@dataclass
class ModelConfig:
    path: str = MISSING
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

    path: str = "tiny"
    dtype: DType = DType.float32
    vocabulary: Vocabulary = Vocabulary.arithmetic
    num_layers: int = number(2, at_least=1)
    width: int = number(128, at_least=8)
    num_heads: int = number(4, at_least=1)


@dataclass
class RolloutConfig:
    num_workers: int = number(1, at_least=1)
    max_prompt_tokens: int = number(1024, at_least=1)
    max_completion_tokens: int = number(1024, at_least=1)


@dataclass
class TransformersRolloutConfig(RolloutConfig):
    max_batch_tokens: int = number(65536, at_least=1)
    """Tokens, prompts and completions together, that one padded batch may come to."""


@dataclass
class VllmRolloutConfig(RolloutConfig):
    tensor_parallel: int = number(1, at_least=1)
    """GPUs per worker."""
    gpu_memory_utilization: float = number(0.85, above=0, at_most=1)
    cpu_kv_cache_gib: int = number(1, at_least=1)
    enforce_eager: bool = False


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
    learning_rate: float = number(5e-7, above=0)
    schedule: Schedule = Schedule.constant
    lr_warmup_ratio: float = number(0.0, at_least=0, below=1)
    """Share of the run in which the learning rate rises from 0."""
    weight_decay: float = number(0.0, at_least=0)
    max_grad_norm: float = number(1.0, above=0)
    gradient_checkpointing: bool = False
    lora_rank: int = number(0, at_least=0)
    """0 trains every weight."""
    lora_alpha: int = number(32, at_least=1)
    max_skipped_steps: int = number(5, at_least=1)
    """Optimizer steps in a row that may be skipped for a non-finite gradient."""


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


@dataclass
class WeightsConfig:
    transport: Transport = Transport.auto
    max_logprob_gap: float | None = None
    """Nats per token between policy and rollout workers above which the run stops;
    by default 1e-3 in float32 and 0.1 in bfloat16."""


# --- data ----------------------------------------------------------------------------------------


@dataclass
class DataConfig:
    pass


@dataclass
class ArithmeticConfig(DataConfig):
    """Sums of two numbers, such as `12+34=`, answered by the number alone."""

    num_digits: int = number(2, at_least=1, at_most=6)
    num_prompts: int = number(7000, at_least=1)
    num_heldout: int = number(512, at_least=1)


class Overlong(Enum):
    error = "error"
    drop = "drop"


@dataclass
class FilesConfig(DataConfig):
    """Prompts in JSONL or Parquet."""

    path: str = MISSING
    heldout_path: str | None = None
    """Without it, `heldout_share` of the rows are held out."""
    heldout_share: float = number(0.05, above=0, below=1)
    prompt_column: str = "prompt"
    """Text, or a list of chat messages with `role` and `content`."""
    answer_column: str | None = None
    answer_marker: str | None = None
    """If given, the answer is what follows it in the column: `####` in GSM8K."""
    demonstration_column: str | None = None
    """A model answer, for `warmup`."""
    id_column: str | None = None
    """Without it, rows are numbered."""
    overlong: Overlong = Overlong.error
    """What to do with prompts beyond `rollout.max_prompt_tokens`."""


# --- where it runs, what it shows ----------------------------------------------------------------


@dataclass
class ClusterConfig:
    address: str | None = None
    """`auto` or an address joins a running Ray cluster; without one, Ray starts here."""
    threads_per_worker: int = number(1, at_least=1)
    """Threads that a worker computes with on CPUs; more pay off from some millions of weights."""
    start_timeout_s: float = number(600.0, above=0)
    """Longest wait for any worker to be ready."""
    call_timeout_s: float = number(1800.0, above=0)
    """Longest wait for any single call to a worker."""


@dataclass
class PlacementConfig:
    gpus: bool = False
    """Give every rollout, reference, reward-model and policy worker GPUs of its own."""
    colocated: bool = False
    """Let each policy rank share its GPU with a rollout worker, half and half."""


class WandbMode(Enum):
    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class TrackingConfig:
    wandb: WandbMode = WandbMode.offline
    project: str = "agon"
    table_every: int = number(10, at_least=1)
    """Rounds between tables of sample completions."""
    table_rows: int = number(16, at_least=1)


@dataclass
class Config:
    """The whole configuration of `python -m rlhf`."""

    algorithm: AlgorithmConfig = MISSING
    objective: ObjectiveConfig = MISSING
    judge: JudgeConfig = MISSING
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    rollout: RolloutConfig = MISSING
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    run: RunConfig = field(default_factory=RunConfig)
    round: RoundConfig = field(default_factory=RoundConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    num_rounds: int = number(100, at_least=1)
    max_staleness: int = number(0, at_least=0)
    """Rounds by which collecting may run ahead of training; 0 is strictly on-policy."""
    seed: int = number(1, at_least=0)
    experiment: str | None = None
    """The recipe, for the record."""


SCHEMAS: dict[str, dict[str, type]] = {
    "algorithm": {"online_dpo": OnlineDPOConfig},
    "objective": {
        "dpo": DPOConfig,
        "rdpo": RDPOConfig,
        "ipo": IPOConfig,
        "rso": RSOConfig,
        "slic": SLiCConfig,
        "simpo": SimPOConfig,
        "ln_dpo": LNDPOConfig,
    },
    "judge": {"verifier": VerifierConfig, "reward_model": RewardModelConfig},
    "model": {"hf": ModelConfig, "tiny": TinyModelConfig},
    "data": {"arithmetic": ArithmeticConfig, "files": FilesConfig},
    "rollout": {"transformers": TransformersRolloutConfig, "vllm": VllmRolloutConfig},
    "cluster": {"cluster": ClusterConfig},
    "placement": {"placement": PlacementConfig},
    "tracking": {"tracking": TrackingConfig},
}
"""Group -> option -> schema; the YAML files of a group build on these."""


def register_schemas() -> None:
    """Makes the schemas known to Hydra, as `schema/<group>/<option>`."""
    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    for group, options in SCHEMAS.items():
        for option, schema in options.items():
            store.store(group=f"schema/{group}", name=option, node=schema)

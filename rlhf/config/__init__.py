"""Every key of the configuration: its type, its default, its range, and what it means; those of an
objective stand in its own file, in `rlhf.objectives`.

Defaults live here and are the vetted setting; the YAML files under `conf/` state differences.
`rlhf.launching.checks` walks these dataclasses and reports everything that is wrong with them at
once.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from rlhf.config.algorithms import (
    AlgorithmConfig,
    DriftConfig,
    OnlineDPOConfig,
    SelfPlayConfig,
    TreeConfig,
)
from rlhf.config.data import (
    ArithmeticConfig,
    DataConfig,
    FeedbackDataConfig,
    FilesConfig,
    GameDataConfig,
    SimulatedUsersConfig,
)
from rlhf.config.judges import (
    GameConfig,
    GPMConfig,
    JudgeConfig,
    LLMJudgeConfig,
    NoJudgeConfig,
    PairModelConfig,
    RewardModelConfig,
    SimulatedUserJudgeConfig,
    VerifierConfig,
)
from rlhf.config.models import (
    ModelConfig,
    PolicyConfig,
    ReferenceConfig,
    RolloutConfig,
    TinyModelConfig,
    TransformersRolloutConfig,
    VllmRolloutConfig,
    WeightsConfig,
)
from rlhf.config.run import (
    ClusterConfig,
    EvalConfig,
    PlacementConfig,
    RoundConfig,
    RunConfig,
    TrackingConfig,
    WarmupConfig,
)
from rlhf.config.tools import CalculatorConfig, PythonConfig, ToolsConfig
from rlhf.objectives import OBJECTIVES, ObjectiveConfig
from rlhf.ranges import number

CONF = Path(__file__).parents[2] / "conf"
"""Where Hydra's groups are."""


@dataclass
class Config:
    """The whole configuration of `python -m rlhf`."""

    algorithm: AlgorithmConfig = MISSING
    objective: ObjectiveConfig = MISSING
    judge: JudgeConfig = MISSING
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    rollout: RolloutConfig = MISSING
    tools: ToolsConfig = field(default_factory=ToolsConfig)
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
    dry_run: bool = False
    """Check everything, print which worker would go where and the memory it needs, and end."""
    experiment: str | None = None
    """The recipe, for the record."""


SCHEMAS: dict[str, dict[str, type]] = {
    "algorithm": {
        "online_dpo": OnlineDPOConfig,
        "self_play": SelfPlayConfig,
        "drift": DriftConfig,
        "tree": TreeConfig,
    },
    "objective": dict(OBJECTIVES),
    "judge": {
        "verifier": VerifierConfig,
        "reward_model": RewardModelConfig,
        "pair_model": PairModelConfig,
        "gpm": GPMConfig,
        "llm": LLMJudgeConfig,
        "game": GameConfig,
        "simulated_users": SimulatedUserJudgeConfig,
        "none": NoJudgeConfig,
    },
    "model": {"hf": ModelConfig, "tiny": TinyModelConfig},
    "data": {
        "arithmetic": ArithmeticConfig,
        "files": FilesConfig,
        "game": GameDataConfig,
        "feedback": FeedbackDataConfig,
        "simulated_users": SimulatedUsersConfig,
    },
    "rollout": {"transformers": TransformersRolloutConfig, "vllm": VllmRolloutConfig},
    "tools": {"none": ToolsConfig, "calculator": CalculatorConfig, "python": PythonConfig},
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

"""The whole configuration of `python -m rlhf`, and the options of each of its groups.

`rlhf.launching.checks` walks these dataclasses and reports everything that is wrong with them at
once.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from rlhf.algorithms.base import AlgorithmConfig
from rlhf.asking.sources.base import DataConfig
from rlhf.collecting.curators.base import CuratorConfig
from rlhf.config.models import (
    ModelConfig,
    PolicyConfig,
    ReferenceConfig,
    RolloutConfig,
    WeightsConfig,
)
from rlhf.config.run import (
    ClusterConfig,
    PlacementConfig,
    RoundConfig,
    RunConfig,
    TrackingConfig,
    WarmupConfig,
)
from rlhf.environments.base import EnvironmentConfig
from rlhf.judges.base import JudgeConfig
from rlhf.objectives import OBJECTIVES, ObjectiveConfig
from rlhf.options import found_in
from rlhf.ranges import number
from rlhf.tools.syntax import ToolsConfig
from rlhf.watching.settings import EvalConfig

CONF = Path(__file__).parents[2] / "conf"
"""Where Hydra's groups are."""


@dataclass
class Config:
    """The whole configuration of `python -m rlhf`."""

    algorithm: AlgorithmConfig = MISSING
    objective: ObjectiveConfig = MISSING
    curator: CuratorConfig = field(default_factory=CuratorConfig)
    judge: JudgeConfig = MISSING
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    rollout: RolloutConfig = MISSING
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
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
    "algorithm": found_in("rlhf.algorithms", AlgorithmConfig),
    "objective": dict(OBJECTIVES),
    "curator": found_in("rlhf.collecting.curators", CuratorConfig),
    "judge": found_in("rlhf.judges", JudgeConfig),
    "model": found_in("rlhf.config", ModelConfig),
    "data": found_in("rlhf.asking.sources", DataConfig),
    "rollout": found_in("rlhf.config", RolloutConfig),
    "tools": found_in("rlhf.tools", ToolsConfig),
    "environment": found_in("rlhf.environments", EnvironmentConfig),
    "cluster": {"cluster": ClusterConfig},
    "placement": {"placement": PlacementConfig},
    "tracking": {"tracking": TrackingConfig},
}
"""Group -> option -> schema; the YAML files of a group build on these."""


@cache
def register_schemas() -> None:
    """Makes the schemas known to Hydra, as `schema/<group>/<option>`."""
    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    for group, options in SCHEMAS.items():
        for option, schema in options.items():
            store.store(group=f"schema/{group}", name=option, node=schema)

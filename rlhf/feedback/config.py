"""`python -m rlhf.feedback`: which log is read, who labels it, and where the complaints go."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from rlhf.config.data import LabelSource
from rlhf.config.models import DType, RolloutConfig
from rlhf.config.run import ClusterConfig, PlacementConfig
from rlhf.config.texts import location
from rlhf.judges.llm import LLMJudgeConfig
from rlhf.ranges import number


@dataclass
class FeedbackConfig:
    """The whole configuration of `python -m rlhf.feedback`."""

    path: str = location()
    """A .jsonl, .parquet or .json file of conversations, or a folder of them."""
    out: str = location()
    """The folder that is written; it must be empty or absent."""
    label: LabelSource = LabelSource.given
    heldout_share: float = number(0.05, above=0, below=1)
    """Share of the conversations that are held out, by a hash of their ids."""
    judge: LLMJudgeConfig = field(default_factory=LLMJudgeConfig)
    """The model of label=llm, at an endpoint or on workers of its own, as with `judge=llm`. Of its
    `max_tokens` a conversation's oldest turns are left out; `max_failure_rate` is a share of the
    log's turns; `concurrency` counts for every worker too. `template`, `user_guided`
    and `logprobs` are not read."""
    rollout: RolloutConfig = MISSING
    """The engine of the model at `judge.path`; this and what follows is for that alone."""
    dtype: DType = DType.bfloat16
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)

"""`python -m rlhf.reward`: what is trained to judge, on what, and how."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from rlhf.config.data import Overlong
from rlhf.config.models import ModelConfig, Schedule
from rlhf.config.texts import location, text
from rlhf.ranges import number


class Kind(Enum):
    bradley_terry = "bradley_terry"
    """One score per completion, from comparisons; `judge=reward_model` uses it."""
    regression = "regression"
    """One score per completion, from scores; `judge=reward_model` uses it."""
    attributes = "attributes"
    """Several scores per completion, such as helpfulness; `judge=attributes` uses it."""
    pair = "pair"
    """Reads two completions together, as PairRM; `judge=pair_model` uses it."""
    steps = "steps"
    """One score per partial answer, from comparisons step by step (Tree-PLV); `judge=reward_model`
    uses it, and reads whole answers as it reads their last step: at the last token of the text."""
    gpm = "gpm"
    """An embedding per completion, which can hold cycles; `judge=gpm` uses it."""


JUDGE_OF = {
    Kind.bradley_terry: "reward_model",
    Kind.regression: "reward_model",
    Kind.steps: "reward_model",
    Kind.attributes: "attributes",
    Kind.pair: "pair_model",
    Kind.gpm: "gpm",
}
"""The judge that uses what was trained: `judge=...`."""


PREFIX = "prefix"
"""The column that has how both answers begin, as in the files of a run."""


class Margin(Enum):
    subtract = "subtract"
    """-log σ(r_chosen - r_rejected - margin)."""
    scale = "scale"
    """-margin · log σ(r_chosen - r_rejected)."""


@dataclass
class PreferenceFilesConfig:
    """Preferences in JSONL or Parquet; rows that have something in `dropped` are passed over."""

    path: str = location()
    """A file, a folder of files, or the directory of a run, whose own preferences are then read."""
    heldout_path: str | None = location(None)
    """Without it, the rows of `heldout_share` of the prompts are held out."""
    heldout_share: float = number(0.05, above=0, below=1)
    prompt_column: str = text("prompt")
    """Text, or a list of chat messages with `role` and `content`."""
    chosen_column: str = text("chosen")
    """Text, or a list of chat messages of which the last is the assistant's; those before it may
    repeat the prompt or go on from it, and are the same on both sides. For kind=steps text,
    or a list of texts: the answer's steps, which are joined as they stand. Step i of one side is
    compared with step i of the other, up to the shorter side's last."""
    rejected_column: str | None = text("rejected")
    """Only kind=regression can do without, and kind=attributes does."""
    prefix_column: str = text(PREFIX)
    """How the answers of both sides begin: text or null. Both sides go on from there, and
    kind=steps compares the steps after it. Files may lack it if it is `prefix`."""
    margin_column: str | None = text()
    """How much better the chosen side is, at least 0; for kind=bradley_terry."""
    chosen_score_column: str | None = text()
    """What kind=regression fits."""
    rejected_score_column: str | None = text()
    """The same, of the other side."""
    score_columns: list[str] = field(default_factory=list)
    """What kind=attributes fits, by the attributes' names; null, or -100, where nobody has said."""
    overlong: Overlong = Overlong.error
    """What to do with rows beyond `max_tokens`."""


@dataclass
class RewardTrainingConfig:
    """The whole configuration of `python -m rlhf.reward`."""

    kind: Kind = Kind.bradley_terry
    output: str = location("${hydra:runtime.output_dir}/model")
    """The folder that the trained model becomes; it must be empty or absent."""
    model: ModelConfig = MISSING
    """What to start from: any causal language model or sequence classifier."""
    keep_head: bool = False
    """Go on with the head of such a classifier, as HelpSteer2-Preference does from kind=regression;
    else it is new."""
    data: PreferenceFilesConfig = field(default_factory=PreferenceFilesConfig)
    margin: Margin = Margin.subtract
    """What `data.margin_column` does."""
    embedding_size: int = number(4, at_least=2)
    """Of kind=gpm; even."""
    temperature: float = number(0.1, above=0)
    """Of kind=gpm: P = σ(score / temperature), and the score lies in [-1, 1]."""
    epochs: int = number(1, at_least=1)
    batch_size: int = number(64, at_least=1)
    """Rows per optimizer step."""
    max_tokens: int = number(4096, at_least=1)
    """Prompt and completion together; for kind=pair prompt and both completions."""
    micro_batch_tokens: int = number(16384, at_least=1)
    """Tokens, padding included, that one forward pass may come to."""
    learning_rate: float = number(1e-5, above=0)
    schedule: Schedule = Schedule.linear
    lr_warmup_ratio: float = number(0.05, at_least=0, below=1)
    """Share of the training in which the learning rate rises from 0."""
    weight_decay: float = number(0.0, at_least=0)
    max_grad_norm: float = number(1.0, above=0)
    seed: int = number(1, at_least=0)

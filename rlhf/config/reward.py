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
    strength = "strength"
    """As subtract, of the mean of `data.strength_column`."""


class Balance(Enum):
    rows = "rows"
    """Every row of a step counts alike."""
    more = "more"
    """Sources of a step are weighted so that the head's gradient is as short as it can be, as in
    MORE: none is learnt at the expense of others."""


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
    """Only kind=regression can do without, and kind=attributes does, but for `vote_columns`."""
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
    vote_columns: list[str] = field(default_factory=list)
    """How likely the chosen side is the better one by each of several criteria, by their names:
    between 0 and 1, null where nobody has said. Of kind=attributes each becomes a label; kinds that
    compare learn from the mean of those that are known."""
    vote_weights: dict[str, float] = field(default_factory=dict)
    """Of criteria in that mean, 1 unless given."""
    label_column: str | None = text()
    """How likely the chosen side is the better one, between 0 and 1, such as a run's `win_prob`;
    it is sure unless given."""
    strength_column: str | None = text()
    """By how much an ensemble of reward models prefers the chosen side: a list with a number of
    each, or their mean. `repair` goes by it; `python -m rlhf.reward.strength` writes it."""
    source_column: str | None = text()
    """Where a row comes from, a text; for balance=more, and measured on its own."""
    criterion_column: str | None = text()
    """What kind=pair is to judge by, a text that it reads behind the prompt, or null; the judge's
    is `judge.criterion`."""
    resample: bool = False
    """Train on as many rows, drawn by `seed` with replacement, as each of an ensemble does."""
    overlong: Overlong = Overlong.error
    """What to do with rows beyond `max_tokens`."""


@dataclass
class RepairConfig:
    """What becomes of labels that an ensemble doubts, by `data.strength_column`; held-out rows stay
    as they are."""

    flip: float = number(0.1, at_least=0, below=1)
    """Share of the rows, from the lowest mean strength on, of which those are exchanged whose mean
    is below 0 by at least one standard deviation; the others are smoothed."""
    smooth: float = number(0.2, at_least=0, below=1)
    """Share of the rows, from there on, that get the probability `label`."""
    label: float = number(0.9, at_least=0.5, at_most=1)


@dataclass
class ContrastConfig:
    """A term beside the loss of kind=bradley_terry that keeps the differences of pairs apart
    (SimCSE, as Secrets of RLHF II takes it up), whichever side is the better one."""

    weight: float = number(0.0, at_least=0)
    """Of the term; 0 leaves it out."""
    temperature: float = number(0.05, above=0)
    """Of the similarities."""
    dropout: float = number(0.1, above=0, below=1)
    """Share of the numbers of a difference that each of its two views lacks."""


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
    repair: RepairConfig = field(default_factory=RepairConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    balance: Balance = Balance.rows
    balance_memory: float = number(0.9, at_least=0, below=1)
    """Of balance=more: what earlier steps' gradients still count in the running mean of each
    source's."""
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

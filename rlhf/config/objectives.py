"""What is minimised; the formulas stand in `rlhf.objectives`."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from rlhf.config.numbers import number


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

    learns_from_ties: ClassVar[bool] = False
    """Whether a pair that nobody wins, such as two equal texts, has a gradient of its own: where
    either side has a target or a KL by itself. A margin of equal texts is 0 whatever the policy."""


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
    """The pair is drawn to (P - 1/2)/tau nats, a plain label's pair to 1/(2·tau)."""
    reduce: Reduce = Reduce.mean
    """Log-ratios per token, or summed over the completion, as online IPO and IPO-MD need it."""
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


@dataclass
class KTOConfig(ObjectiveConfig):
    beta: float = number(0.1, above=0)
    anchor: Anchor = Anchor.initial
    previous: Anchor = Anchor.previous
    """How far it is from `anchor` is the paper's z: what a good completion has to exceed."""


@dataclass
class TPOConfig(ObjectiveConfig):
    beta: float = number(1.0, above=0)
    """Twice the paper's, whose weights of steps are twice those of `algorithm.pairs=ranked`."""
    anchor: Anchor = Anchor.initial


# Self-play. `tau` is always the strength of the KL to the initial policy, in units of win
# probability per nat; `step_size` always how many nats one unit of win probability is worth.


class Target(Enum):
    mean = "mean"
    """Either side's mean win probability against its group."""
    pair = "pair"
    """The win probability within the pair: `algorithm.label=hard` makes it hard SPPO."""


@dataclass
class SPPOConfig(ObjectiveConfig):
    learns_from_ties: ClassVar[bool] = True
    step_size: float = number(1000.0, above=0)
    """Nats per unit of win probability, the paper's η: either side is drawn to
    `step_size`·(P - 1/2)."""
    target: Target = Target.mean
    anchor: Anchor = Anchor.previous


@dataclass
class INPOConfig(ObjectiveConfig):
    step_size: float = number(400 / 3, above=0)
    """Nats per unit of win probability, the paper's 1/η: the pair is drawn to
    `step_size`·(P - 1/2)."""
    tau: float = number(0.0025, at_least=0)
    """tau·step_size, the paper's τ/η, is the weight of the initial policy; below 1."""
    initial: Anchor = Anchor.initial
    previous: Anchor = Anchor.previous


@dataclass
class GPOConfig(ObjectiveConfig):
    learns_from_ties: ClassVar[bool] = True
    step_size: float = number(5.0, above=0)
    """Nats per nat of mean log-odds: either side is drawn to `step_size`·score."""
    max_target: float = number(1000.0, above=0)
    """Largest target in nats."""
    anchor: Anchor = Anchor.previous


@dataclass
class NashMDConfig(ObjectiveConfig):
    learns_from_ties: ClassVar[bool] = True
    tau: float = number(0.1, at_least=0)
    """Strength of the KL to the initial policy."""
    anchor: Anchor = Anchor.initial


@dataclass
class XPOConfig(ObjectiveConfig):
    learns_from_ties: ClassVar[bool] = True
    beta: float = number(0.1, above=0)
    alpha: float = number(1e-5, at_least=0)
    """Optimism per nat: how much the initial policy's completions are to lose."""
    max_log_ratio: float = number(500.0, above=0)
    """Nats beyond which a completion of the initial policy loses no more."""
    anchor: Anchor = Anchor.initial


class Optimism(Enum):
    online = "online"
    """Explore: completions of the initial policy are to lose probability."""
    offline = "offline"
    """Stay: chosen completions are to gain it."""


@dataclass
class VPOConfig(ObjectiveConfig):
    learns_from_ties: ClassVar[bool] = True
    beta: float = number(0.1, above=0)
    alpha: float = number(0.01, at_least=0)
    optimism: Optimism = Optimism.online
    max_log_ratio: float = number(500.0, above=0)
    anchor: Anchor = Anchor.initial

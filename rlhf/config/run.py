"""How far a run goes, where, and what it shows of itself."""

from dataclasses import dataclass, field
from enum import Enum

from rlhf.config.texts import location, text
from rlhf.ranges import number


class Resume(Enum):
    auto = "auto"
    """Go on from the newest complete checkpoint in `run.dir`, or start if there is none."""
    must = "must"
    """Go on, or fail."""
    never = "never"
    """Start in an empty directory, or fail."""


class OnCollapse(Enum):
    alert = "alert"
    """A line, and an alert in wandb; the run goes on."""
    stop = "stop"
    """The run ends with exit code 1, and names the last checkpoint from before."""


@dataclass
class RunConfig:
    dir: str = location("${hydra:runtime.output_dir}")
    """Where everything the run leaves behind goes; on storage that all nodes share."""
    resume: Resume = Resume.auto
    checkpoint_every: int = number(50, at_least=0)
    """Rounds between checkpoints, besides the one after the last round."""
    memory_checkpoints: float = number(0.01, at_least=0, at_most=1)
    """Largest share of the time that checkpoints in memory alone may take, to which a run goes back
    whose policy has lost a rank; 0: it goes back to the newest on disk."""
    keep_checkpoints: int = number(2, at_least=1)
    """The newest; older ones are removed once a newer one is complete."""
    keep_best: str | None = text()
    """A metric, such as `eval/sampled_accuracy`: of the checkpoints after rounds that have it, the
    one with the largest is kept too, and named in `checkpoints/BEST`; with `-` before its name, the
    one with the least."""
    on_collapse: OnCollapse = OnCollapse.alert
    """What happens when a policy has collapsed, a judge says one thing only, or nothing is stored
    any more."""
    allow_changed: list[str] = field(default_factory=list)
    """Keys, such as `data.path`, whose files may have changed since the run began."""


@dataclass
class RoundConfig:
    prompts: int = number(64, at_least=1)
    """Prompts that are asked in one round."""
    hardest_share: float = number(1.0, above=0, at_most=1)
    """Share of a round's candidates that is asked: those whose demonstrations the policy finds most
    perplexing. 1 asks all, and needs no demonstrations."""
    epochs: int = number(1, at_least=1)
    """Passes over the round's preferences."""
    overlap: bool = True
    """Ask anchors about a round's first prompts, and compute their gradient, while the rest is
    still collected; the weights are the same. Policies that share GPUs with vLLM take turns."""
    concurrency: int = number(1024, at_least=1)
    """Prompts in work at the same time."""
    deadline_s: float = number(1800.0, above=0)
    """Longest time that one prompt may take before it counts as failed."""
    max_failed: int = number(0, at_least=0)
    """Prompts of a round that may fail before the run stops."""


@dataclass
class WarmupConfig:
    """Supervised steps on the data's demonstrations, before the first round."""

    steps: int = number(0, at_least=0)
    """At most so many; in the last 30 of them the learning rate falls to 0."""
    stop_loss: float | None = None
    """Mean token NLL, in nats, at which the fall begins early."""
    batch_size: int = number(32, at_least=1)
    learning_rate: float = number(1e-3, above=0)
    easy_first: bool = False
    """Show the easiest third of the demonstrations in the first third of the steps, then two
    thirds, and all in the last third, where alone `stop_loss` counts. The more results of tools,
    and then the more tokens, the harder."""


@dataclass
class ClusterConfig:
    address: str | None = text()
    """`auto` or an address joins a running Ray cluster; without one, Ray starts here."""
    threads_per_worker: int = number(1, at_least=1)
    """Threads that a worker computes with on CPUs; more pay off from some millions of weights."""
    start_timeout_s: float = number(600.0, above=0)
    """Longest wait for any worker to be ready."""
    call_timeout_s: float = number(1800.0, above=0)
    """Longest wait for any single call to a worker."""
    silence_s: float = number(60.0, above=0)
    """Longest time in which a worker's process does not say that it lives, whatever it does."""
    max_restarts: int = number(3, at_least=0)
    """Times in a row that a lost worker is started anew, without an answer of it in between; for
    the policy, without a new checkpoint or a round further. 0: who is lost stays lost."""


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
    function: str | None = text()
    """`track.py:log`: called with each line's round and metrics too, in a process of its own."""
    project: str = text("agon")
    group: str | None = text()
    """Runs of one group stand together in wandb; a sweep's members get its directory's name."""
    table_every: int = number(10, at_least=1)
    """Rounds between tables of sample completions and of sample preferences."""
    table_rows: int = number(16, at_least=1)
    alert_truncated_rate: float = number(0.3, at_least=0, at_most=1)
    """Share of completions that are cut off, above which people are alerted."""
    alert_invalid_rate: float = number(0.05, at_least=0, at_most=1)
    """Share of what the judge is asked and fails on, above which people are alerted."""
    alert_gap_share: float = number(0.5, above=0, at_most=1)
    """Share of the largest `weights/logprob_gap` that a run goes on with, above which people are
    alerted."""

"""What a configuration may ask for, but hardly means to; told before a run, and not refused."""

from collections.abc import Iterator

from rlhf.launching.configuration import Config
from rlhf.options import Fact


def cautions(config: Config) -> Iterator[str]:
    """One line for each: key, value, why, what to set."""
    yield from _old_completions(config)
    yield from _unmeasured_checkpoints(config)
    yield from _idle_optimism(config)
    yield from config.objective.cautions(config.max_staleness)


def _idle_optimism(config: Config) -> Iterator[str]:
    """A bonus on completions of the initial policy, of which there are none."""
    if config.objective.explores and Fact.games not in config.algorithm.gives():
        name = config.objective.name
        yield (
            f"warning: objective={name}: none of its sides is the initial policy's, so that it "
            f"adds nothing to DPO; set algorithm={name}, or another objective"
        )


def _unmeasured_checkpoints(config: Config) -> Iterator[str]:
    """Of which `run.keep_best` can know nothing."""
    best, every, saved = config.run.keep_best, config.eval.every, config.run.checkpoint_every
    measured = every > 0 and saved > 0 and not saved % every
    if best and best.removeprefix("-").startswith("eval/") and not measured:
        yield (
            f"warning: run.keep_best={best}: not every checkpoint has it, evaluations being every "
            f"{every} rounds and checkpoints every {saved}; set run.checkpoint_every to a multiple "
            "of eval.every"
        )


def _old_completions(config: Config) -> Iterator[str]:
    """Losses whose gradient is right on completions of the policy in training alone.

    Nothing corrects for others. Of SPPO, INPO and GPO the targets hold for any completion, and DPO,
    XPO and VPO learn from any pair.
    """
    name, algorithm = config.objective.game, config.algorithm
    if name is None or Fact.games not in algorithm.gives():
        return
    why = f"{name} follows its game's gradient on completions of the policy of this moment alone"
    if config.round.epochs > 1:
        yield (
            f"warning: round.epochs={config.round.epochs}: {why}, and a second pass finds another "
            "policy; set round.epochs=1, and more rounds"
        )
    if config.max_staleness:
        yield (
            f"warning: max_staleness={config.max_staleness}: {why}, and these are of an older one; "
            "set max_staleness=0"
        )
    if algorithm.temperature != 1 or algorithm.top_p != 1:  # of Nash-MD refused by `checks`
        yield (
            f"warning: algorithm.temperature={algorithm.temperature:g}, "
            f"algorithm.top_p={algorithm.top_p:g}: {why}, and these are of a sharper or flatter "
            "one; set both to 1"
        )

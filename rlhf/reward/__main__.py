"""`python -m rlhf.reward [overrides]`: trains a model to judge, from preferences.

Writes a Hugging Face folder that `judge=reward_model`, `attributes`, `pair_model` or `gpm` loads,
and in it `reward.json`: held-out accuracy and loss before and after, what was trained on, and how.
Every key, its default and its meaning: `rlhf/config/reward.py`.
"""

import json
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from rlhf.config.reward import JUDGE_OF, Kind, RewardTrainingConfig
from rlhf.launching.checks import plain
from rlhf.launching.command_line import begin, complete, told
from rlhf.launching.configuration import CONF, register_schemas
from rlhf.problems import InputError
from rlhf.seeds import derive_seed
from rlhf.storage.output_folder import complete_folder

if TYPE_CHECKING:
    from rlhf.judges.models.classifiers import Classifier
    from rlhf.reward.training import Outcome

CURVE_POINTS = 100


def register_reward_schemas() -> None:
    """Makes the schemas known to Hydra; the group `model` is that of `python -m rlhf`."""
    register_schemas()
    ConfigStore.instance().store(name="reward_schema", node=RewardTrainingConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="reward")
def hydra_main(composed: DictConfig) -> float:
    with told():  # here, or Hydra would repeat the whole command line first
        return run(typed(composed))


def typed(composed: DictConfig) -> RewardTrainingConfig:
    """Plain dataclasses from Hydra's; raises InputError for what is missing."""
    config = complete(composed)
    assert isinstance(config, RewardTrainingConfig)
    return config


def run(config: RewardTrainingConfig) -> float:
    """Trains and writes; returns the held-out accuracy, or minus the loss where there are no pairs.

    Raises InputError with everything that is wrong, before the first step.
    """
    # Imported here, so that a typing error is told in a second.
    from rlhf.reward.encoding import Encoder
    from rlhf.reward.inputs import read_inputs
    from rlhf.reward.labels import labelled
    from rlhf.reward.new_head import start_classifier
    from rlhf.reward.training import fit
    from rlhf.watching.terminal import Terminal

    _silence_transformers()
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        start, examples = read_inputs(config, Path(scratch))
        examples, changed = labelled(config, examples)
        seed = derive_seed(config.seed, "head")
        names = label_names(config)
        classifier = start_classifier(
            start,
            num_labels(config),
            config.max_tokens,
            seed,
            keep_head=config.keep_head,
            names=names,
        )
    encoder = Encoder(config, classifier)
    rows, heldout = encoder.encode(examples.train), encoder.encode(examples.heldout)
    if problems := list(encoder.problems()) or list(_nothing_left(rows, heldout)):
        raise InputError(problems)
    terminal = Terminal(num_rounds=0)
    try:
        outcome = fit(config, classifier, rows, heldout, terminal)
    finally:
        terminal.close()
    left_out = encoder.left_out | {"dropped_by_run": examples.num_passed_over}
    counts = {"train": len(rows), "heldout": len(heldout), **left_out, **changed}
    record = reward_record(config, outcome, counts, time.monotonic() - started_s)
    write_model(Path(config.output), classifier, record)
    terminal.print(f"use it with {_overrides(config)}")
    return outcome.after.get("accuracy", -outcome.after["loss"])


def _silence_transformers() -> None:
    """It would warn that the head is new, which is no news here."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()


def num_labels(config: RewardTrainingConfig) -> int:
    of_kind = {Kind.gpm: config.embedding_size, Kind.attributes: len(label_names(config))}
    return of_kind.get(config.kind, 1)


def label_names(config: RewardTrainingConfig) -> list[str]:
    """Of kind=attributes: attributes, or criteria."""
    if config.kind is not Kind.attributes:
        return []
    return config.data.score_columns or config.data.vote_columns


def _nothing_left(train: Sequence[object], heldout: Sequence[object]) -> Iterator[str]:
    for what, rows in (("to train on", train), ("to hold out", heldout)):
        if not rows:
            yield f"data: no row is left {what}; all have equal texts, or more than max_tokens"


def reward_record(
    config: RewardTrainingConfig, outcome: "Outcome", counts: Mapping[str, int], time_s: float
) -> dict[str, Any]:
    """The content of `reward.json`."""
    points = min(CURVE_POINTS, len(outcome.losses))
    cuts = [len(outcome.losses) * i // points for i in range(points + 1)]
    return {
        "kind": config.kind.value,
        "temperature": config.temperature if config.kind is Kind.gpm else None,
        "num_labels": num_labels(config),
        "use_with": _overrides(config),
        "heldout": {"before": outcome.before, "after": outcome.after},
        "rows": counts,
        "source_weights": outcome.source_weights,
        "steps": len(outcome.losses),
        "loss_curve": [sum(outcome.losses[a:b]) / (b - a) for a, b in pairwise(cuts)],
        "time_s": round(time_s, 3),
        "config": plain(config),
    }


def write_model(directory: Path, classifier: "Classifier", record: Mapping[str, Any]) -> None:
    """Writes everything, or leaves no `directory`."""
    with complete_folder(directory) as unfinished:
        classifier.save(unfinished)
        text = json.dumps(record, indent=2, allow_nan=False)
        (unfinished / "reward.json").write_text(text + "\n", encoding="utf-8")


def _overrides(config: RewardTrainingConfig) -> str:
    """What to add to `python -m rlhf`."""
    temperature = f" judge.temperature={config.temperature}" if config.kind is Kind.gpm else ""
    path = shlex.quote(f"judge.path={config.output}")
    return f"judge={JUDGE_OF[config.kind]} {path}{temperature}"


def main() -> None:
    """Exit codes: 0 finished; 2 the input was wrong; 1 it failed while running."""
    register_reward_schemas()
    begin(hydra_main, RewardTrainingConfig)


if __name__ == "__main__":
    main()

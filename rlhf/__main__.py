"""`python -m rlhf [overrides]`: composes the configuration, checks it, and launches the run.

Only what that needs is imported at first, so that a typing error is told in a second.
"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rlhf import imports
from rlhf.launching.command_line import begin, checked, told, typed_overrides
from rlhf.launching.configuration import Config, register_schemas

LEAVES_NOTHING = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout")
"""Keeps Hydra from making folders and files of its own, but for those of a sweep."""


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def hydra_main(composed: DictConfig) -> float | None:
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        from rlhf.sweep.members import as_member

        return as_member(composed, one_run)
    with told():  # here, or Hydra would repeat the whole command line first
        return one_run(composed)


def one_run(composed: DictConfig, name: str | None = None) -> float:
    """A whole run; `name` is how wandb shows it, by default its directory's."""
    config = checked(composed)
    overrides = typed_overrides(HydraConfig.get())
    if not config.dry_run:
        from rlhf.launching.expecting import expect_workers

        expect_workers(config.cluster, config.placement)
    with imports.many():
        from rlhf.launching.launch import launch, show_plan

    if config.dry_run:
        show_plan(config)
        return 0.0
    return launch(config, overrides, name)


def main() -> None:
    """Exit codes: 0 finished; 2 the input was wrong; 1 it failed while running; 143 stopped, to
    be gone on with."""
    register_schemas()
    if "--dry-run" in sys.argv:
        sys.argv.remove("--dry-run")
        sys.argv += ["dry_run=true", *LEAVES_NOTHING]
    begin(hydra_main, Config)


if __name__ == "__main__":
    with imports.quick_end():
        main()

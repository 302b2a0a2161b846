"""`python -m rlhf -m ...`: each member of a sweep ends alone, and at the end they are compared."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from rlhf.launching.command_line import in_words, report, typed_overrides
from rlhf.problems import InputError, RunFailed
from rlhf.storage.disk import write_atomically
from rlhf.storage.run_directory import OVERRIDES, claimed

MEMBERS = "members"
"""In the sweep's directory: one file for each member that was started, by its number."""

PLANS = "dry_run"
"""The same of a dry run, which leaves nothing of a sweep changed."""

DONE = ("completed", "fits")
"""What becomes of a member that did not fail, and of one in a dry run."""


_CLAIM = ExitStack()
"""On the sweep's directory, until this process begins another sweep or ends; not the callback's
own, which is sent to members in other processes."""


class MembersFailed(RunFailed):
    """Some members of a sweep did not finish."""


class Sweep(Callback):
    """What happens before the first member starts and after the last has ended."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra, in the sweep's own process."""
        with _ends_the_process():
            if problems := shared_by_members(OmegaConf.to_container(config)):
                raise InputError(problems)
            directory = _directory(config.hydra.sweep.dir)
            records = _records(directory, config.dry_run)
            _CLAIM.close()
            _CLAIM.enter_context(claimed(directory, "hydra.sweep.dir"))
            shutil.rmtree(records, ignore_errors=True)
            records.mkdir(parents=True)
            if config.dry_run:
                return
            (directory / OVERRIDES).write_text(yaml.safe_dump(typed_overrides(config.hydra)))
            print(
                f"sweep in {directory}: begun again with hydra.sweep.dir={directory} it goes on; "
                f"`python -m rlhf.sweep {directory}` shows how far it is"
            )

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra, unless the sweep was stopped; leaves with 1 if a member failed."""
        directory = _directory(config.hydra.sweep.dir)
        with _ends_the_process():
            if config.dry_run:
                conclude_dry_run(directory)
            else:
                conclude(directory)


@contextmanager
def _ends_the_process() -> Iterator[None]:
    """Hydra makes warnings of a callback's errors; from here, they end the process with words."""
    try:
        yield
    except Exception as error:
        sys.exit(report(error))


def shared_by_members(config: Any) -> list[str]:
    """What the members of a sweep would write over each other, by its unresolved configuration."""
    problems = []
    run_dir, subdir = config["run"]["dir"], config["hydra"]["sweep"]["subdir"]
    if "${" not in run_dir:
        problems.append(
            f"run.dir={run_dir}: a sweep's members cannot share it; say hydra.sweep.dir={run_dir} "
            "instead, and each gets a directory in it"
        )
    if "${" not in subdir:
        problems.append(
            f"hydra.sweep.subdir={subdir}: a sweep's members cannot share it; leave it out, or "
            "let it depend on ${hydra:job.num}"
        )
    return problems


def as_member(composed: DictConfig, run: Callable[[DictConfig, str], float]) -> float | None:
    """One member, in whichever process: its run's value, or None if it failed, which is recorded.

    A failure is no exception here, or the sweep would end at it; what stops the process passes.
    None, and not NaN, since that is what Optuna's sweeper takes for a failure.
    """
    hydra = HydraConfig.get()
    directory = _directory(hydra.sweep.dir)
    overrides = typed_overrides(hydra)
    if composed.tracking.group is None:
        composed.tracking.group = directory.name
    record = {"directory": os.path.abspath(composed.run.dir), "overrides": overrides}
    path = _records(directory, composed.dry_run) / f"{hydra.job.num}.json"
    _write(path, record | {"status": "unfinished"})
    try:
        value = run(composed, " ".join(_own(overrides, directory)))
    except Exception as error:  # Whatever it is, the other members do not have it.
        reason, _ = in_words(error)
        print(reason, file=sys.stderr)
        _write(path, record | {"status": "failed", "reason": reason})
        return None
    _write(path, record | {"status": DONE[composed.dry_run]})
    return None if math.isnan(value) else value


def _own(overrides: Sequence[str], directory: Path) -> list[str]:
    """The overrides that the member does not have from the command line as it was typed."""
    file = directory / OVERRIDES
    typed = yaml.safe_load(file.read_text()) if file.exists() else []
    return [override for override in overrides if override not in typed] or list(overrides)


def conclude(directory: Path) -> None:
    """Shows the members, and writes `sweep.json` and `sweep.png`; raises MembersFailed."""
    if unfinished := compare(directory):
        raise MembersFailed(f"{unfinished} did not finish")


def compare(directory: Path) -> str | None:
    """Shows the members, and writes `sweep.json` and `sweep.png`; says how many have not
    finished, if any."""
    from rlhf.sweep.picture import draw_sweep
    from rlhf.sweep.results import Results

    results = Results.read(directory / MEMBERS)
    results.show()
    results.write(directory / "sweep.json")
    draw_sweep(results, directory / "sweep.png")
    num_bad = sum(member.status not in DONE for member in results.members)
    return f"{num_bad} of {len(results.members)} members" if num_bad else None


def conclude_dry_run(directory: Path) -> None:
    """Shows which members would fit; raises MembersFailed."""
    from rlhf.sweep.results import Results

    results = Results.read(directory / PLANS)
    shutil.rmtree(directory / PLANS)
    results.show()
    num_bad = sum(member.status not in DONE for member in results.members)
    if num_bad:
        raise MembersFailed(f"{num_bad} of {len(results.members)} members would not start")


def _records(directory: Path, dry_run: bool) -> Path:
    return directory / (PLANS if dry_run else MEMBERS)


def _directory(sweep_dir: str) -> Path:
    return Path(os.path.abspath(sweep_dir))


def _write(path: Path, record: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(record, indent=1))  # others read it meanwhile

"""Who may use a run directory, and whether a run goes on or begins."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf.config.run import Resume
from rlhf.problems import InputError
from rlhf.storage.checkpoint import Checkpoint, CheckpointDamaged, newest_checkpoint
from rlhf.storage.reading import read_json, read_yaml

CONFIG = "config.yaml"
OVERRIDES = "overrides.yaml"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
_MADE_BY_A_RUN = ("metrics.jsonl", SUMMARY, "curves.png", "preferences", CHECKPOINTS,
                  "initial_policy", "initial_completions.json", "policy", "evaluation.json",
                  "model", "wandb", "trees", "inputs.json")  # fmt: skip
_LASTING = ("trees",)
"""What a run that begins again keeps: equal configurations search equal trees."""
_ASIDE = "earlier"
"""With a number behind it, where what an earlier start left is set aside."""
_WITHOUT_SUMMARY = "delete it, and the run goes on from its newest checkpoint"

_BEGUN = ".agon"
"""Marks a directory that a run began in: only there is what has those names known to be ours."""

MAY_CHANGE = ("run", "tracking", "cluster", "placement", "eval", "num_rounds", "experiment",
              "dry_run")  # fmt: skip
"""Sections and keys that a resumed run may set anew."""


@contextmanager
def claimed(directory: Path, key: str = "run.dir") -> Iterator[None]:
    """Within it, no other run can use the directory; the claim ends with the process at latest.
    `key`: which names it, where it is a sweep's."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("a+")
    except OSError as error:
        raise InputError([f"{key}={directory}: cannot be written ({error.strerror})"]) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise InputError(
                [f"{key}={directory}: in use by {lock.read().strip()}; choose another"]
            ) from error
        except OSError as error:  # of a file system without locks
            raise InputError(
                [f"{key}={directory}: cannot be claimed, since files are not locked there "
                 f"({error.strerror}); choose another file system, or mount it with locks"]
            ) from error  # fmt: skip
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def require_place(directory: Path) -> None:
    """Raises InputError where the directory is none and cannot be made, and makes nothing."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    number = 0 if os.access(there, os.W_OK | os.X_OK) else errno.EACCES
    if number := number if there.is_dir() else errno.ENOTDIR:
        why = os.strerror(number)
        raise InputError([f"run.dir={directory}: {there} cannot be written to ({why})"])


def last_of_finished(
    directory: Path, resume: Resume, config: dict[str, Any]
) -> dict[str, float] | None:
    """The last evaluation of the run that the directory holds, if it has finished with as many
    rounds as are asked for; else None.

    Raises InputError if that run was configured otherwise.
    """
    summary_file = directory / SUMMARY
    if resume is Resume.never or not (directory / CONFIG).exists() or not summary_file.exists():
        return None
    summary = read_summary(directory)
    if summary["status"] != "completed" or summary["rounds"] < config["num_rounds"]:
        return None
    _refuse_other_config(directory, config)
    return last_evaluation(directory)


def last_evaluation(directory: Path) -> dict[str, float]:
    """That of the run that has ended there; raises InputError if its summary is damaged."""
    evaluations = read_summary(directory).get("eval")
    if not isinstance(evaluations, dict) or not isinstance(evaluations.get("after"), dict):
        raise InputError([f"{directory / SUMMARY}: is damaged (no eval.after); {_WITHOUT_SUMMARY}"])
    return evaluations["after"]


def read_summary(directory: Path) -> dict[str, Any]:
    """What `summary.json` says of the run; raises InputError if it is damaged."""
    needed = {"status": str, "rounds": int}
    return read_json(directory / SUMMARY, needed, _WITHOUT_SUMMARY)


def begin_or_resume(directory: Path, resume: Resume, config: dict[str, Any]) -> Checkpoint | None:
    """The verified checkpoint to go on from, or None to begin; then what an earlier start left is
    set aside, under a name of its own: nothing is removed.

    Raises InputError if `resume` forbids what would have to be done, if the run that the directory
    holds was configured otherwise, or if something of no run would have to be moved.
    """
    holds_run = (directory / CONFIG).exists()
    refuse_other_run(directory, resume, config)
    checkpoint = None
    if resume is not Resume.never:
        checkpoint = verified(directory / CHECKPOINTS, f"run.resume={resume.value}: ")
    if resume is Resume.must and checkpoint is None:
        raise InputError(
            [f"run.resume=must: {directory} has no complete checkpoint; run.resume=auto begins"]
        )
    if checkpoint is None:
        if not holds_run:
            _refuse_other_content(directory)
        _set_aside(directory, _LASTING if holds_run else ())
    (directory / _BEGUN).touch()
    return checkpoint


def verified(checkpoints: Path, where: str = "") -> Checkpoint | None:
    """The newest complete checkpoint; raises InputError, beginning with `where`, if it is
    damaged."""
    try:
        return newest_checkpoint(checkpoints)
    except CheckpointDamaged as error:
        raise InputError([f"{where}{error}"]) from error


def _set_aside(directory: Path, kept: Sequence[str]) -> None:
    """Moves what a run left to a folder beside it, and says so."""
    left = [directory / name for name in _MADE_BY_A_RUN if name not in kept]
    left = [path for path in left if path.exists()]
    if not left:
        return
    number = 1
    while (aside := directory / f"{_ASIDE}_{number}").exists():
        number += 1
    aside.mkdir()
    for path in left:
        path.rename(aside / path.name)
    print(
        f"{directory}: an earlier start saved no checkpoint to go on from; what it left is in "
        f"{aside.name}/"
    )


def refuse_other_run(directory: Path, resume: Resume, config: dict[str, Any]) -> None:
    """Raises InputError if the directory holds a run that cannot be gone on with."""
    if not (directory / CONFIG).exists():
        return
    if resume is Resume.never:
        raise InputError(
            [f"run.dir={directory}: holds a run already; choose another, or run.resume=auto"]
        )
    _refuse_other_config(directory, config)


def _refuse_other_content(directory: Path) -> None:
    strangers = [name for name in _MADE_BY_A_RUN if (directory / name).exists()]
    if strangers and not (directory / _BEGUN).exists():
        raise InputError(
            [
                f"run.dir={directory}: has {', '.join(strangers)}, which no run of this system "
                "made; choose another directory, or move them away"
            ]
        )


def _refuse_other_config(directory: Path, config: dict[str, Any]) -> None:
    needed = {"run": dict, "objective": dict, "data": dict}
    advice = "put it back as the run wrote it, or choose another run.dir"
    stored = read_yaml(directory / CONFIG, needed, advice)
    before, now = (
        flat({k: v for k, v in c.items() if k not in MAY_CHANGE and v != {}})
        for c in (stored, config)
    )  # without options that have no keys, of which an earlier version may not have known
    problems = [
        f"{key}={now.get(key)}: the run in {directory} has {before.get(key)}; set it back, or "
        "choose another run.dir"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if problems:
        raise InputError(problems)


def flat(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by keys with dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found

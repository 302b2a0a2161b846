"""What the commands share: overrides read as people type them, and errors told in words.

Only what that needs is imported at first, so that a typing error is told in a second.
"""

import dataclasses
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rlhf.launching import secrets
from rlhf.launching.checks import config_problems
from rlhf.launching.configuration import Config
from rlhf.launching.overrides import as_hydra_reads, empty_texts
from rlhf.launching.standard_streams import outlast_terminal
from rlhf.problems import InputError, RunFailed, Stopped, printable


def begin(hydra_main: Callable[[], Any], schema: type) -> None:
    """A command of Hydra's, whose overrides are read as people type them."""
    outlast_terminal()
    with told():
        sys.argv[1:] = as_hydra_reads(sys.argv[1:], schema)
        try:
            hydra_main()
        except HydraException:  # some of which are OSErrors
            raise
        except OSError as error:
            frames = traceback.walk_tb(error.__traceback__)
            if any(frame.f_code.co_name == "hydra_main" for frame, _ in frames):
                raise
            # Hydra makes the folder of its log, `outputs/...` as a rule, before ours begins.
            raise InputError(
                [f"hydra.run.dir: {error.filename} cannot be written ({error.strerror})"]
            ) from error


@contextmanager
def told() -> Iterator[None]:
    """Within it, an error that is known ends the process with its words and its exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out of Hydra rather than end in it
    try:
        yield
    except EXPECTED as error:
        sys.exit(report(error))


EXPECTED = (
    InputError,
    RunFailed,
    HydraException,
    OmegaConfBaseException,
    KeyboardInterrupt,
    Stopped,
    BaseExceptionGroup,
)
"""What `report` can put into words; anything else ends with Python's own traceback and a 1."""


def report(error: BaseException) -> int:
    """Tells a person what went wrong; returns the exit code."""
    text, code = in_words(error)
    print(printable(text), file=sys.stderr)
    return code


def in_words(error: BaseException) -> tuple[str, int]:
    """What a person is told of an error, and the exit code that it means."""
    while isinstance(error, BaseExceptionGroup):
        stopped, _ = error.split(Stopped)
        error = (stopped or error).exceptions[0]
    if isinstance(error, InputError):
        problems = error.problems
    elif isinstance(error, HydraException | OmegaConfBaseException):
        problems = [hydra_problem(error)]
    elif isinstance(error, KeyboardInterrupt):
        return "stopped", 130
    elif isinstance(error, Stopped):
        words = f"stopped {error}; given again, with the same directory, the command goes on"
        return words, 128 + signal.SIGTERM
    elif isinstance(error, RunFailed):
        return "\n".join(filter(None, (f"failed: {error}", error.details))), 1
    else:
        return "".join(traceback.format_exception(error)).rstrip(), 1
    return "\n".join(f"error: {problem}" for problem in problems), 2


def hydra_problem(error: Exception) -> str:
    """One line of what Hydra or OmegaConf found wrong, with the nearest name where it has one."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: is no setting that can be read; write KEY=VALUE"
    if isinstance(error, MissingConfigException) and "Available options" in text:
        wanted = text.split("'")[3]
        group, _, name = wanted.rpartition("/")
        options = [line.strip() for line in text.split("\n") if line.startswith("\t")]
        options = [option for option in options if "provider=" not in option]
        near = get_close_matches(name, options, 1)
        hint = f"did you mean {group}={near[0]}? " if near else ""
        return f"{group}={name}: no such choice; {hint}there are {', '.join(options)}"
    if "To append to your default list use" in text:  # a choice for a place that has none yet
        wanted = text.rpartition("use ")[2].strip()
        return f"{wanted.removeprefix('+')}: nothing is chosen there yet; write {wanted}"
    cause = error.__cause__
    member = re.search(r"(\w+\.)+members\.\w+", text)
    if member and re.search(r"Dict\[str, JudgeConfig|subclass of JudgeConfig", str(cause)):
        return f"{member[0]}: no judge is chosen there; write +judge@{member[0]}=NAME"
    within = cause or error.__context__  # of a recipe that sets what an option does not know
    if isinstance(within, ConfigAttributeError | ConfigKeyError) and within.object_type is not dict:
        where = "" if cause else f"{text.partition(':')[0]}, "
        return where + _unknown_key(str(within.full_key), within.object_type)
    key = getattr(error, "full_key", None)
    where = f"{key}: " if key else ""
    return where + text.split("\n")[0] + (f" ({cause})".replace("\n", " ") if cause else "")


def _unknown_key(key: str, schema: Any) -> str:
    section, dot, name = key.rpartition(".")
    known = [field.name for field in dataclasses.fields(schema)]
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {section}{dot}{near[0]}? " if near else ""
    where = f"{section} has" if section else "there are"
    return f"{key}: there is no such key; {hint}{where} {', '.join(known)}"


def checked(composed: DictConfig) -> Config:
    """Plain dataclasses from Hydra's; raises InputError for what is missing or cannot be."""
    config = typed(composed)
    if problems := config_problems(config):
        raise InputError(problems)
    return config


def typed(composed: DictConfig) -> Config:
    """Plain dataclasses from Hydra's; raises InputError for what is missing."""
    config = complete(composed)
    assert isinstance(config, Config)
    return config


def complete(composed: DictConfig) -> Any:
    """The schema's own dataclass; raises InputError for what is missing or must not be empty."""
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise InputError([f"{key}: is required; add {key}=... to the command" for key in missing])
    config = OmegaConf.to_object(composed)
    if problems := [*empty_texts(config), *secrets.in_values(config)]:
        raise InputError(problems)
    return config


def typed_overrides(hydra: Any) -> list[str]:
    """As they were typed, interpolations and all; `hydra` is Hydra's own configuration."""
    overrides = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return overrides

"""What a run was configured to be: what it chose from each group, and what it set."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.launching.configuration import CONF, register_schemas
from rlhf.problems import InputError
from rlhf.storage.run_directory import CONFIG, OVERRIDES, flat
from rlhf.watching.masking import mask_secrets

GROUPS = ("experiment", "algorithm", "objective", "judge", "model", "data", "rollout")


@dataclass(frozen=True)
class Recipe:
    """The configuration of a run; secrets are masked."""

    choices: dict[str, str]
    """By group; without those that Hydra can no longer tell."""
    settings: dict[str, Any]
    """Every key with its dots, and its value."""
    changed: list[str]
    """The keys that have another value than these choices give by themselves."""


def read_recipe(directory: Path) -> Recipe:
    """Raises InputError if `directory` holds no run, or not the configuration of one."""
    config = _read_yaml(directory / CONFIG, dict)
    overrides = _read_yaml(directory / OVERRIDES, list) if (directory / OVERRIDES).exists() else []
    settings = {key: _shown(value) for key, value in flat(mask_secrets(config)).items()}
    try:
        choices, defaults = _compose(tuple(str(one) for one in overrides))
    except (HydraException, OmegaConfBaseException) as error:
        # Recipes change; the run of an older one is still worth its page.
        logging.warning("choices and defaults are not shown: %s", str(error).partition("\n")[0])
        choices, defaults = {}, settings
    return Recipe(
        choices, settings, [key for key in settings if settings[key] != defaults.get(key)]
    )


def _shown(value: Any) -> Any:
    """JSON has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@cache
def _compose(overrides: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """What these overrides choose of each group, and the settings that those choices give."""
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = compose("train", list(overrides), return_hydra_config=True)
        chosen: Mapping[str, str | None] = own.hydra.runtime.choices
        choices = {group: choice for group in GROUPS if (choice := chosen.get(group))}
        plain = compose("train", [f"{k}={v}" for k, v in choices.items() if k != "experiment"])
    container = OmegaConf.to_container(plain, resolve=False, enum_to_str=True)
    assert isinstance(container, dict)
    return choices, flat(mask_secrets(container))


def _read_yaml(file: Path, kind: type) -> Any:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            [f"{file}: cannot be read ({error.strerror}); name a run's directory"]
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError([f"{file}: is no YAML ({reason})"]) from error
    if not isinstance(content, kind):
        raise InputError([f"{file}: must be a {kind.__name__} in YAML"])
    return content

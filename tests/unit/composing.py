"""Configurations as Hydra composes them: once for all tests of a process that choose the same.

Composing takes a tenth of a second; setting values in what has been composed takes almost none.
Whoever composes in a process that has imported this reads the files of `conf/` once, and no copy is
made of all schemas each time, which takes half of it.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from rlhf.feedback.config import FeedbackConfig
from rlhf.launching.configuration import CONF
from rlhf.reward.__main__ import register_reward_schemas

_READ: dict[tuple[str, str], ConfigResult] = {}
_read = ConfigRepository.load_config


def _read_once(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    """Hydra changes nothing of what it has read. Files of tests may change meanwhile."""
    source = self._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or source.path not in (str(CONF), "hydra.conf"):
        return _read(self, config_path)
    key = (source.path, config_path)
    if key not in _READ:
        found = _read(self, config_path)
        assert found is not None
        _READ[key] = found
    return _READ[key]


ConfigRepository.load_config = _read_once  # type: ignore[method-assign]
# There is one in a process, which gives copies of what it holds.
ConfigStore.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """As `hydra.compose` within `conf/`; values are set by Hydra too, as it does at its end."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    if any(one.is_sweep_override() for one in parsed):
        return composed(name, overrides)
    choices = tuple(one.input_line or "" for one in parsed if _is_choice(one))
    config = deepcopy(_chosen(name, choices))
    ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not _is_choice(o)], config)
    return config


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """By Hydra alone."""
    _register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, list(overrides))


@cache
def _register() -> None:
    register_reward_schemas()
    ConfigStore.instance().store(name="feedback_schema", node=FeedbackConfig)


@cache
def _chosen(name: str, choices: tuple[str, ...]) -> DictConfig:
    return composed(name, choices)


def _is_choice(override: Override) -> bool:
    is_group = override.is_hydra_override() or (CONF / override.key_or_group).is_dir()
    return is_group and not isinstance(override.value(), dict)

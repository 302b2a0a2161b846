"""Configurations as Hydra composes them: once for all tests of a process that choose the same.

Composing takes a tenth of a second; setting values in what has been composed takes almost none.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache

import hydra
import hydra_reads_once  # noqa: F401
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from rlhf.feedback.config import FeedbackConfig
from rlhf.launching.configuration import CONF
from rlhf.reward.__main__ import register_reward_schemas


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

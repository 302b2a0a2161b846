"""Whoever composes in a process that has imported this reads the files of `conf/` once.

Nor is a copy made of all schemas each time, or a table of what has been chosen, for lists of
defaults that name it; all together are most of what composing takes. And a command composes once:
Hydra does it before, too, for `hydra.mode`, which no file of `conf/` sets.
"""

from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigResult

from rlhf.launching.configuration import CONF

SOURCES = ["hydra.conf", str(CONF), ""]
"""Of a command without a folder of its own; the last are the schemas."""

_READ: dict[str, ConfigResult] = {}
_read = ConfigRepository.load_config


def _read_once(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    """Hydra changes nothing of what it has read of files; those of tests may change meanwhile."""
    if [source.path for source in self.sources] != SOURCES:
        return _read(self, config_path)
    found = _READ.get(config_path) or _read(self, config_path)
    if found is not None and not found.path.startswith("structured:"):
        _READ[config_path] = found
    return found


ConfigRepository.load_config = _read_once  # type: ignore[method-assign]
# There is one in a process, which gives copies of what it holds.
ConfigStore.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]
# No file of `conf/` has such a list; one that had would end here with an error.
defaults_list._create_interpolation_map = lambda *_: None  # type: ignore[assignment]
# Then `-m`, or that there is none, says it.
Hydra.get_mode = lambda self, config_name, overrides: None  # type: ignore[method-assign]

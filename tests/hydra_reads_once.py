"""Whoever composes in a process that has imported this reads the files of `conf/` once.

Nor is a copy made of all schemas each time; both together are half of what composing takes.
"""

from hydra._internal.config_repository import ConfigRepository
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

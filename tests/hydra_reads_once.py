"""Whoever composes in a process that has imported this reads the files of `conf/` once.

Nor is a copy made of all schemas each time; both together are half of what composing takes.
"""

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult

from rlhf.launching.configuration import CONF

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

"""Packages that model-written code may import beside the standard library."""

import importlib.util
import os
from collections.abc import Iterable


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The folder of each of these packages; raises ValueError, with its name, if one has none."""
    found = {}
    for name in packages:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations or not spec.origin:
            raise ValueError(name)
        found[name] = os.path.realpath(os.path.dirname(spec.origin))
    return found

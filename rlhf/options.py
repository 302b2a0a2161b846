"""Options that are found by the folder that they are in."""

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

Schema = TypeVar("Schema")


def found_in(path: Iterable[str], package: str, base: type[Schema]) -> dict[str, type[Schema]]:
    """Every schema in the package's files that is a `base` and has a `name` of its own, by it."""
    modules = (import_module(f"{package}.{found.name}") for found in iter_modules(path))
    schemas = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and "name" in vars(value)
    ]
    options = {vars(schema)["name"]: schema for schema in schemas}
    assert len(options) == len(schemas), f"two options of one name in {package}"
    return options

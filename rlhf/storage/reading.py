"""What a run has left, read again: what is damaged is told in one line that names the file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf.problems import InputError, one_line


def read_json(file: Path, needed: Mapping[str, type], advice: str) -> dict[str, Any]:
    """A JSON object that has these keys, of these types; `advice`: what to do where it has not.

    Raises InputError.
    """
    return _having(file, _read(file, json.loads, dict, advice), needed, advice)


def read_yaml(file: Path, needed: Mapping[str, type], advice: str) -> dict[str, Any]:
    """The same of a mapping in YAML."""
    return _having(file, _read(file, yaml.safe_load, dict, advice), needed, advice)


def read_yaml_list(file: Path, advice: str) -> list[Any]:
    """The same of a list in YAML."""
    return _read(file, yaml.safe_load, list, advice)


def _read(file: Path, parse: Callable[[str], Any], kind: type, advice: str) -> Any:
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError([f"{file}: cannot be read ({one_line(error)}); {advice}"]) from error
    if not isinstance(content, kind):
        found = type(content).__name__
        raise InputError([f"{file}: is damaged (a {found} where a {kind.__name__} was); {advice}"])
    return content


def _having(
    file: Path, content: dict[str, Any], needed: Mapping[str, type], advice: str
) -> dict[str, Any]:
    for key, kind in needed.items():
        if type(content.get(key)) is not kind:
            told = "another" if key in content else "no"
            raise InputError([f"{file}: is damaged ({told} {key}); {advice}"])
    return content

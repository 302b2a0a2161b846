"""Texts in the schemas that are not to be empty."""

from dataclasses import field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

FILLED, LOCATION = "filled", "location"


def location(default: Any = MISSING) -> Any:
    """A field for a file or folder, never empty; in a command `~/` begins the user's own."""
    return field(default=default, metadata={FILLED: True, LOCATION: True})


def text(default: Any = None) -> Any:
    """A field for a text that is not empty."""
    return field(default=default, metadata={FILLED: True})


def from_anywhere(path: str) -> str:
    """A folder by its absolute path, since workers start in folders of their own; or a hub id."""
    return str(Path(path).absolute()) if Path(path).is_dir() else path

"""Texts in the schemas that are not to be empty."""

from dataclasses import field
from typing import Any

from omegaconf import MISSING

FILLED, LOCATION = "filled", "location"


def location(default: Any = MISSING) -> Any:
    """A field for a file or folder, never empty; in a command `~/` begins the user's own."""
    return field(default=default, metadata={FILLED: True, LOCATION: True})


def text(default: Any = None) -> Any:
    """A field for a text that is not empty."""
    return field(default=default, metadata={FILLED: True})

"""Ranges of numbers in the schemas."""

from dataclasses import field
from typing import Any


def number(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field with a range, which `rlhf.launching.checks` enforces."""
    limits = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    return field(default=default, metadata={k: v for k, v in limits.items() if v is not None})

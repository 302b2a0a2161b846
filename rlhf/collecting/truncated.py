"""What becomes of an answer that met the limit of tokens."""

from enum import Enum


class Truncated(Enum):
    drop = "drop"
    """A truncated completion takes no part: in no pair, and in nobody's win rate."""
    penalise = "penalise"
    """It takes part with the lowest score of its group, so it is never chosen."""
    keep = "keep"
    """It takes part as if it had ended."""

"""What every source of data says of itself, and what it may leave as it is here."""

from dataclasses import dataclass
from typing import NamedTuple

from rlhf.data.rendering import Source
from rlhf.options import Option


class Wanted(NamedTuple):
    """What judge and environment read of rows beside their prompts."""

    answers: bool = False
    rows: bool = False
    """All of their columns."""


@dataclass
class DataConfig(Option):
    """Where prompts come from; a subclass is an option, its fields are its keys."""

    @property
    def drops_overlong(self) -> bool:
        """Whether prompts that are too long are left out, rather than refused."""
        return False

    @property
    def demonstration_key(self) -> str | None:
        """The key that names where model answers are, if there is one."""
        return None

    def source(self, wanted: Wanted, seed: int) -> Source:
        """The rows; raises InputError with all that is wrong with them."""
        raise NotImplementedError

"""Nobody judges: for algorithms that learn from what users said alone."""

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar

from rlhf.judges.base import JudgeConfig, Seat
from rlhf.options import Fact


@dataclass
class NoJudgeConfig(JudgeConfig):
    name: ClassVar[str] = "none"

    def gives(self) -> Set[Fact]:
        return frozenset()

    @property
    def seat(self) -> Seat:
        return Seat.nowhere

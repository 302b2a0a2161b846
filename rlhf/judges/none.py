"""Nobody judges: for algorithms that learn from what users said alone."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.judges.base import JudgeConfig, Measure, Seat


@dataclass
class NoJudgeConfig(JudgeConfig):
    name: ClassVar[str] = "none"

    @property
    def seat(self) -> Seat:
        return Seat.nowhere

    @property
    def measure(self) -> Measure:
        return Measure.nothing

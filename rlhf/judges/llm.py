"""A language model compares every two completions, in both orders."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import ClassVar

from rlhf.judges.questions.settings import AskedModelConfig
from rlhf.options import Fact
from rlhf.stages import Judge


@dataclass
class LLMJudgeConfig(AskedModelConfig):
    name: ClassVar[str] = "llm"

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.matrix}

    def needs(self) -> Mapping[Fact, str]:
        if not self.user_guided:
            return {}
        line = "judge.user_guided=true: needs what users said; set data=feedback algorithm=drift"
        return {Fact.wishes: line, Fact.user_replies: line}

    def inspect(self, asked: Set[Fact]) -> None:
        """An endpoint is asked one question, in an event loop of its own."""
        from rlhf.judges.questions.endpoint import check_endpoint  # brings an HTTP client

        if self.endpoint is not None:
            check_endpoint(self)

    def elsewhere(self) -> Judge:
        from rlhf.judges.questions.endpoint import endpoint_judge

        return endpoint_judge(self)

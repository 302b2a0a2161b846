"""Judges that are made of a language model's answers: what each asks, and how the model is reached.

By HTTP here, by rollout workers in `actors.llm_judge`.
"""

import asyncio
from collections.abc import Sequence, Set
from dataclasses import dataclass

from rlhf.judges.questions.choosing import Chooser, Clean, Remembering
from rlhf.judges.questions.settings import AskedModelConfig
from rlhf.options import Fact
from rlhf.stages import Judge


@dataclass
class AskingConfig(AskedModelConfig):
    """A judge whose questions are answered by one of a few labels."""

    @property
    def labels(self) -> Sequence[str]:
        """What answers may be."""
        raise NotImplementedError

    @property
    def trivial(self) -> str:
        """A question that any judge can answer, to try one out."""
        raise NotImplementedError

    def judge_by(self, chooser: Chooser, model: str, clean: Clean) -> Judge:
        """The judge that asks it; `model`: its name and version."""
        raise NotImplementedError

    def inspect(self, asked: Set[Fact]) -> None:
        """An endpoint is asked one question, in an event loop of its own."""
        if self.endpoint is not None:
            asyncio.run(self._try())

    async def _try(self) -> None:
        from rlhf.judges.questions.endpoint import Endpoint  # brings an HTTP client

        endpoint = Endpoint(self)
        try:
            await endpoint.check(self.trivial, self.labels)
        finally:
            await endpoint.close()

    def elsewhere(self) -> Judge:
        """The judge at `judge.endpoint`, to be used within one event loop."""
        from rlhf.judges.questions.endpoint import Endpoint
        from rlhf.judges.questions.server import break_control_tokens

        return self.judge_by(Remembering(Endpoint(self)), str(self.model), break_control_tokens)

"""Judges that are made of a language model's answers: what each asks, and how the model is reached.

By HTTP here, by rollout workers in `actors.llm_judge`.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from math import inf

from rlhf.judges.base import Seat
from rlhf.judges.questions.choosing import Author, Clean, Remembering
from rlhf.judges.questions.settings import AskedModelConfig
from rlhf.options import Fact
from rlhf.stages import Judge


@dataclass
class AskingConfig(AskedModelConfig):
    """A judge whose questions are answered by one of a few labels."""

    policy: bool = False
    """Ask the policy itself, as it is by then, instead of another model: it judges its own
    answers (Yuan et al. 2024, Self-Rewarding Language Models, arXiv 2401.10020)."""

    @property
    def seat(self) -> Seat:
        return Seat.policy if self.policy else super().seat

    def problems(self) -> Iterator[str]:
        if not self.policy:
            yield from super().problems()
            return
        for key in ("path", "endpoint", "model"):
            if (value := getattr(self, key)) is not None:
                yield f"judge.{key}={value}: judge.policy=true asks the policy; remove either"

    @property
    def labels(self) -> Sequence[str]:
        """What answers may be."""
        raise NotImplementedError

    @property
    def trivial(self) -> str:
        """A question that any judge can answer, to try one out."""
        raise NotImplementedError

    @property
    def writes(self) -> int:
        """How many tokens it has the model write at once, besides thoughts and labels."""
        return 0

    def judge_by(self, chooser: Author, model: str, clean: Clean) -> Judge:
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


def weight_problems(
    key: str, texts: Mapping[str, str], weights: Mapping[str, float]
) -> Iterator[str]:
    """What cannot be of `judge.KEY`, texts by name, and of their weights."""
    names = list(texts)
    for name, weight in weights.items():
        if name not in names:
            there = ", ".join(names) or "none"
            yield f"judge.weights={name}: is none of judge.{key}; there are {there}"
        elif not 0 <= weight < inf:
            yield f"judge.weights.{name}={weight}: must be a number, and at least 0"
    if names and not sum(max(0.0, weights.get(name, 1.0)) for name in names):
        yield f"judge.weights: all of judge.{key} weigh 0; leave one its weight"
    for name, text in texts.items():
        if not text.strip():
            yield f"judge.{key}.{name}: is empty; say what to judge by"

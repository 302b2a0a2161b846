"""What an inference engine is asked, and what it gives."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from actors.buckets import Bucket
from rlhf.collecting.dispatch import Failure
from rlhf.records import Sampling, Tokens


class GenerationRequest(NamedTuple):
    """What a worker needs to know of a prompt."""

    prompt_id: str
    token_ids: tuple[int, ...]
    sampling: Sampling
    seed: int
    """Completion i is drawn with `seed + i`."""
    num_prefix_tokens: int = 0
    """How many of `token_ids`, at their end, begin the answer."""


class Draft(NamedTuple):
    """A completion as an engine makes it, before it is decoded."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool
    stopped: bool = False
    """It ends with the token that completed a text of `Sampling.stop`."""
    num_cached_tokens: int = 0


Drafts = tuple[Draft, ...]
"""One request's completions."""


class Engine(Protocol):
    """An inference engine. `actors.vllm_engine` and `actors.transformers_engine` are such."""

    def generate(
        self, requests: Sequence[GenerationRequest]
    ) -> AsyncIterator[list[tuple[int, Drafts | Failure]]]:
        """Yields finished requests by index, as they finish."""
        ...

    async def load_weights(self, buckets: Sequence[Bucket], version: int) -> None:
        """Replaces every weight; requests under way go on with the new ones."""
        ...

    async def load_adapter(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Replaces every weight of the adapter, by their names in an adapter's file."""
        ...

    async def logprobs(self, rows: Sequence[Tokens]) -> list[list[float]]:
        """Per-token nats of every row's completion under the unmodified policy."""
        ...

"""Reference workers: the frozen policy before the first round, for log-probabilities alone."""

from array import array
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import ray
import torch

from actors.group import Worker
from rlhf.collecting.dispatch import Dispatcher
from rlhf.config.models import DType, ReferenceConfig
from rlhf.learning.reading import CannotPack, RowReader, find_packing
from rlhf.models.loading import load_causal
from rlhf.records import Tokens

Rows = Sequence[Tokens]


class ReferenceWorker:
    """A Ray actor around one frozen model."""

    def __init__(self, dtype: DType, config: ReferenceConfig) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = getattr(torch, dtype.value)
        self._config = config

    async def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    async def load(self, path: str) -> None:
        """Before anything is served; a warm start makes the model while this process starts."""
        model = load_causal(path, self._dtype).to(self._device).eval()
        try:
            packing = find_packing(model, model.config, self._device)
        except CannotPack:  # the policy, which is the same model, says so
            packing = None
        self._reader = RowReader(model, self._device, packing)

    async def serve(self, shares: Sequence[Rows]) -> AsyncIterator[list[tuple[int, list[array]]]]:
        """Of every row its completion's tokens, in fp32 as they are computed. No forward pass is
        over rows of two shares, lest numbers depend on what is asked at the same time."""
        for i, rows in enumerate(shares):
            found = self._reader.each(rows, self._config.micro_batch_tokens)
            yield [(i, [array("f", values) for values in found])]


class ReferenceService:
    """`rlhf.stages.Logprobs` of the `initial` anchor, on Ray."""

    def __init__(self, workers: Sequence[Worker], share_tokens: int, timeout_s: float) -> None:
        """What is asked is shared out equally to as many workers as get so many tokens each."""
        self._num_workers, self._share_tokens = len(workers), share_tokens
        self._num_asked = 0
        self._dispatcher: Dispatcher[Rows, list[array]] = Dispatcher(workers, timeout_s=timeout_s)

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        return [sum(values) for values in await self.token_logprobs(sequences)]

    async def token_logprobs(self, sequences: Sequence[Tokens]) -> list[array]:
        self._num_asked += 1
        tokens = sum(len(row.prompt) + len(row.completion) for row in sequences)
        num_shares = min(self._num_workers, max(1, tokens // self._share_tokens))
        # Neighbours stay together, since they begin alike.
        cuts = [len(sequences) * i // num_shares for i in range(num_shares + 1)]
        shares = [sequences[a:b] for a, b in pairwise(cuts) if a < b]
        asked = [((self._num_asked, i), share) for i, share in enumerate(shares)]
        found = await self._dispatcher.submit_all(asked)
        return [values for share in found for values in share]

"""Padded batches: what is drawn together is what would be drawn alone."""

import asyncio

from actors.engine import GenerationRequest
from actors.transformers_engine import TransformersEngine
from rlhf.collecting.dispatch import Failure
from rlhf.config.models import DType, TinyModelConfig, TransformersRolloutConfig
from rlhf.models.loading import read_tokenizer
from rlhf.records import Sampling
from rlhf.toys.tiny import build_tiny_model


def test_requests_of_unequal_limits_share_a_batch_and_draw_as_they_would_alone(tmp_path) -> None:
    """As turns of a dialogue do, of which each has the room that the others have left it."""
    build_tiny_model(TinyModelConfig(num_layers=1, width=32, num_heads=2), tmp_path, seed=1)
    tokenizer, config = read_tokenizer(str(tmp_path)), TransformersRolloutConfig()
    engine = TransformersEngine(str(tmp_path), DType.float32, config, [1], tokenizer)
    limits = (3, 9, 30, 9, 1)
    requests = [
        GenerationRequest(str(i), (5, 6, 7 + i), Sampling(2, limit, stop=("1",)), 10 * i, 0)
        for i, limit in enumerate(limits)
    ]

    async def drawn(*asked: GenerationRequest):
        batches = [batch async for batch in engine.generate(asked)]
        found = sorted(one for batch in batches for one in batch)
        groups = [drafts for _, drafts in found if not isinstance(drafts, Failure)]
        assert len(groups) == len(asked)
        return len(batches), [draft for drafts in groups for draft in drafts]

    num_batches, together = asyncio.run(drawn(*requests))
    alone = [one for request in requests for one in asyncio.run(drawn(request))[1]]
    assert num_batches == 1
    for one, other, limit in zip(
        together, alone, [n for n in limits for _ in range(2)], strict=True
    ):
        assert one.token_ids == other.token_ids
        assert (one.truncated, one.stopped) == (other.truncated, other.stopped)
        assert len(one.token_ids) == limit if one.truncated else len(one.token_ids) <= limit
    assert {one.truncated for one in together} == {True, False}

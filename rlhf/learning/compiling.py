"""A model whose passes torch compiles, trusted only after a comparison."""

from collections.abc import Callable

import torch

from rlhf.learning.reading import RowReader, probe_rows
from rlhf.problems import RunFailed, one_line


class NotCompiled(RunFailed):
    """torch cannot compile the model, or what it compiles gives other numbers."""


@torch.no_grad()
def compile_checked(
    reader: RowReader, compile: Callable[[], None], vocabulary: int, noise: float
) -> None:
    """Has the reader's model compiled by `compile`; `noise`: nats by which a token may move.

    Raises:
        NotCompiled: as its name says; how to go on stands in its text.
    """
    # Packed and padded rows, if the model takes both; of two lengths, one of which is new to it.
    batches = [probe_rows(vocabulary, step)[:count] for step, count in ((5, 6), (11, 4), (7, 1))]
    plain = [reader.logprobs_RC(rows) for rows in batches]
    # Only now: it takes seconds to import them, and nobody else needs them.
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    compile()
    try:
        compiled = [reader.logprobs_RC(rows) for rows in batches]
    except (TorchDynamoException, InductorError) as error:
        raise NotCompiled(
            f"policy.compile=true: torch cannot compile this model ({one_line(error)[:300]}); "
            "set policy.compile=false"
        ) from error
    gaps = [(a - b).abs().max().item() for a, b in zip(plain, compiled, strict=True)]
    if not max(gaps) <= noise:
        raise NotCompiled(
            f"policy.compile=true: compiled, log-probabilities move by {max(gaps):.2g} nats a "
            f"token ({noise:g} are rounding); set policy.compile=false"
        )

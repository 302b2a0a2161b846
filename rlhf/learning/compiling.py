"""A model whose passes torch compiles, trusted only after a comparison."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlhf.learning.reading import RowReader, probe_rows
from rlhf.problems import RunFailed, one_line
from rlhf.records import Tokens


class NotCompiled(RunFailed):
    """torch cannot compile the model, or what it compiles gives other numbers."""


def compile_checked(
    reader: RowReader, compile: Callable[[], None], vocabulary: int, noise: float
) -> None:
    """Has the reader's model compiled by `compile`; `noise`: nats by which a token may move, and a
    tenth of the share by which a gradient may.

    Raises:
        NotCompiled: as its name says; how to go on stands in its text.
    """
    # Of two lengths, the second of which is new to what is compiled.
    batches = [probe_rows(vocabulary, step)[:count] for step, count in ((5, 6), (11, 4))]
    plain = [_passes(reader, rows) for rows in batches]
    # Only now: it takes seconds to import them, and nobody else needs them.
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    compile()
    try:
        compiled = [_passes(reader, rows) for rows in batches]
    except (TorchDynamoException, InductorError) as error:
        raise NotCompiled(
            f"policy.compile=true: torch cannot compile this model ({one_line(error)[:300]}); "
            "set policy.compile=false"
        ) from error
    for (nats, slope), (expected, right) in zip(compiled, plain, strict=True):
        gap = (nats - expected).abs().max().item()
        share = ((slope - right).norm() / right.norm()).item()
        if not (gap <= noise and share <= 10 * noise):
            raise NotCompiled(
                f"policy.compile=true: compiled, log-probabilities move by {gap:.2g} nats a token "
                f"({noise:g} are rounding) and gradients by {share:.2g} of themselves; set "
                "policy.compile=false"
            )


def _passes(reader: RowReader, rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and the gradient of their sum in one parameter, each in its own mode."""
    with torch.no_grad():
        nats = reader.logprobs_RC(rows)
    parameter = next(one for one in reader.model.parameters() if one.requires_grad)
    reader.model.train()
    (slope,) = torch.autograd.grad(reader.logprobs_RC(rows).sum(), parameter)
    reader.model.eval()
    return nats, slope.float()

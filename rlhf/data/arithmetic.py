"""Sums of two numbers, generated."""

import random

from rlhf.config.data import ArithmeticConfig
from rlhf.data.rendering import Row
from rlhf.problems import InputError
from rlhf.records import Message


def arithmetic_rows(config: ArithmeticConfig, seed: int) -> tuple[list[Row], list[Row]]:
    """Distinct sums to train on and, disjoint from them, held-out ones; demonstrated by the answer.

    Both numbers have `num_digits` digits and no leading zero. Raises InputError if there are fewer
    sums than asked for.
    """
    low = 0 if config.num_digits == 1 else 10 ** (config.num_digits - 1)
    width = 10**config.num_digits - low
    wanted = config.num_prompts + config.num_heldout
    if wanted > width**2:
        raise InputError(
            [
                f"data.num_prompts={config.num_prompts} and data.num_heldout={config.num_heldout}: "
                f"there are {width**2} sums of {config.num_digits}-digit numbers, not {wanted}; "
                "ask for fewer, or raise data.num_digits"
            ]
        )
    drawn = random.Random(seed).sample(range(width**2), wanted)
    rows = [_row(low + index // width, low + index % width) for index in drawn]
    return rows[config.num_heldout :], rows[: config.num_heldout]


def _row(left: int, right: int) -> Row:
    sum_, answer = f"{left}+{right}", str(left + right)
    return Row(
        id=sum_,
        messages=(Message("user", f"{sum_}="),),
        origin=f"the sum {sum_}",
        answer=answer,
        demonstration=answer,
    )

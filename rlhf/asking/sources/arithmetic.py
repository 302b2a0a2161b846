"""Sums, generated; those of more than two numbers are solved line by line."""

import random
from collections.abc import Set
from dataclasses import dataclass, field
from typing import ClassVar

from rlhf.asking.sources.base import DataConfig, Wanted
from rlhf.data.rendering import Row, Source
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.ranges import number
from rlhf.records import Message
from rlhf.seeds import derive_seed

MAX_DIGITS = 18
"""Of all numbers of a sum together, so that sums can be drawn by their index."""


@dataclass
class ArithmeticConfig(DataConfig):
    """Sums such as `12+34=`: two numbers are answered by their sum alone, more line by line."""

    name: ClassVar[str] = "arithmetic"

    num_digits: int = number(2, at_least=1, at_most=6)
    num_prompts: int = number(7000, at_least=1)
    num_heldout: int = number(512, at_least=1)
    num_terms: list[int] = field(default_factory=lambda: [2])
    """How many numbers a sum has; each of these as often."""
    error_rate: float = number(0.0, at_least=0, below=1)
    """Share of the demonstrations' sums that are wrong, so that a warm start teaches the way and
    leaves errors to unlearn."""
    calculator: bool = False
    """Demonstrate a call of `tools=calculator` instead, and after it the answer on a line of its
    own; errors are then in what is called for."""

    def gives(self) -> Set[Fact]:
        return {Fact.answers, Fact.demonstrations}

    def source(self, wanted: Wanted, seed: int) -> Source:
        return Source(*arithmetic_rows(self, seed))


def arithmetic_rows(config: ArithmeticConfig, seed: int) -> tuple[list[Row], list[Row]]:
    """Distinct sums to train on and, disjoint from them, held-out ones, with demonstrations.

    All numbers have `num_digits` digits and no leading zero; each of `num_terms` has an equal share
    of the sums. A demonstration of two numbers is the answer; of more, a line per step that adds
    the first two of those that are left; `error_rate` of its lines, and of answers, are wrong by a
    digit, and what follows builds on that. Raises InputError if there are fewer sums than asked
    for.
    """
    _check(config)
    low = 0 if config.num_digits == 1 else 10 ** (config.num_digits - 1)
    width = 10**config.num_digits - low
    rng, train, heldout = random.Random(seed), [], []
    for place, num_terms in enumerate(config.num_terms):
        num_heldout = _share(config.num_heldout, place, len(config.num_terms))
        wanted = num_heldout + _share(config.num_prompts, place, len(config.num_terms))
        if wanted > width**num_terms:
            raise InputError(
                [
                    f"data.num_prompts={config.num_prompts} and data.num_heldout="
                    f"{config.num_heldout}: there are {width**num_terms} sums of {num_terms} "
                    f"numbers of {config.num_digits} digits, not {wanted}; ask for fewer, or raise "
                    "data.num_digits"
                ]
            )
        drawn = rng.sample(range(width**num_terms), wanted)
        sums = ([low + digit for digit in _digits(i, width, num_terms)] for i in drawn)
        rows = [_row(terms, config, seed) for terms in sums]
        heldout += rows[:num_heldout]
        train += rows[num_heldout:]
    if len(config.num_terms) > 1:
        rng.shuffle(heldout)
    return train, heldout


def _check(config: ArithmeticConfig) -> None:
    terms = config.num_terms
    key = f"data.num_terms={terms}"
    if not terms or min(terms) < 2 or len(set(terms)) < len(terms):
        raise InputError([f"{key}: must be different numbers of at least 2, such as [3,4]"])
    if max(terms) * config.num_digits > MAX_DIGITS:
        raise InputError(
            [f"{key}: times data.num_digits={config.num_digits} must be at most {MAX_DIGITS}"]
        )


def _share(total: int, place: int, num_places: int) -> int:
    """Of `total` in nearly equal parts, the one at `place`."""
    return total * (place + 1) // num_places - total * place // num_places


def _digits(index: int, width: int, count: int) -> list[int]:
    """`index` in base `width`, the last digit last."""
    digits = []
    for _ in range(count):
        index, digit = divmod(index, width)
        digits.append(digit)
    return digits[::-1]


def _row(terms: list[int], config: ArithmeticConfig, seed: int) -> Row:
    text = "+".join(map(str, terms))
    rng = random.Random(derive_seed(seed, text))
    shown = _called if config.calculator else _solution
    return Row(
        id=text,
        messages=(Message("user", f"{text}="),),
        origin=f"the sum {text}",
        answer=str(sum(terms)),
        demonstration=shown(terms, config.error_rate, rng),
    )


def _solution(terms: list[int], error_rate: float, rng: random.Random) -> str:
    """`46+78` and `124` for 12+34+78, line by line."""
    lines = []
    while len(terms) > 1:
        sum_ = terms[0] + terms[1]
        if rng.random() < error_rate:
            sum_ = _with_other_digit(sum_, rng)
        terms = [sum_, *terms[2:]]
        lines.append("+".join(map(str, terms)))
    return "\n".join(lines)


def _called(terms: list[int], error_rate: float, rng: random.Random) -> str:
    """`<<12+34+78=124>>` and `124`, with what the calculator would say."""
    called = [_with_other_digit(t, rng) if rng.random() < error_rate else t for t in terms]
    return f"<<{'+'.join(map(str, called))}={sum(called)}>>\n{sum(called)}"


def _with_other_digit(number: int, rng: random.Random) -> int:
    """As long as before, so that a wrong line looks like a right one."""
    digits = str(number)
    place = rng.randrange(len(digits))
    allowed = set("0123456789" if place or len(digits) == 1 else "123456789") - {digits[place]}
    return int(digits[:place] + rng.choice(sorted(allowed)) + digits[place + 1 :])

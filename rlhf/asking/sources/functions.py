"""Functions of two numbers, described in words, with tests; generated."""

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import ClassVar

from rlhf.asking.sources.base import DataConfig, Wanted
from rlhf.data.rendering import Row, Source
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.ranges import number
from rlhf.records import Message
from rlhf.seeds import derive_seed

WORDS = {"add": "+", "minus": "-", "times": "*"}
OPERANDS = ("a", "b", *"23456789")
HEAD = "def f(a,b): return "
LARGEST = 20
"""Of the numbers that tests call with."""

Step = tuple[str, str]
"""What to do, in a word, and with what."""


@dataclass
class FunctionsConfig(DataConfig):
    """Functions such as `take a add b times 3`, to be written as `def f(a,b): return (a+b)*3`."""

    name: ClassVar[str] = "functions"

    num_steps: list[int] = field(default_factory=lambda: [3])
    """How many words follow `take a` or `take b`; each of these as often."""
    num_prompts: int = number(6000, at_least=1)
    num_heldout: int = number(256, at_least=1)
    num_tests: int = number(4, at_least=1)
    error_rate: float = number(0.0, at_least=0, below=1)
    """Share of the steps that demonstrations get wrong, so that a warm start teaches the way and
    leaves errors to unlearn."""

    def gives(self) -> Set[Fact]:
        return {Fact.demonstrations}

    def source(self, wanted: Wanted, seed: int) -> Source:
        return Source(*function_rows(self, seed))


def function_rows(config: FunctionsConfig, seed: int) -> tuple[list[Row], list[Row]]:
    """Distinct functions to train on and, disjoint from them, held-out ones.

    Each has `num_tests` asserts in its row's `test_list` and, as demonstration, a program whose
    steps are each wrong with `error_rate`. Raises InputError if there are fewer than asked for.
    """
    steps = config.num_steps
    if not steps or min(steps) < 1 or len(set(steps)) < len(steps):
        raise InputError([f"data.num_steps={steps}: must be different numbers, such as [2,3]"])
    rng, rows = random.Random(seed), []
    wanted = config.num_prompts + config.num_heldout
    for place, num_steps in enumerate(steps):
        share = wanted * (place + 1) // len(steps) - wanted * place // len(steps)
        there = 2 * (len(WORDS) * len(OPERANDS)) ** num_steps
        if share > there:
            raise InputError(
                [
                    f"data.num_prompts={config.num_prompts} and data.num_heldout="
                    f"{config.num_heldout}: there are {there} functions of {num_steps} steps, not "
                    f"{share}; ask for fewer, or for longer ones in data.num_steps"
                ]
            )
        rows += [_row(i, num_steps, config, seed) for i in rng.sample(range(there), share)]
    rng.shuffle(rows)
    return rows[config.num_heldout :], rows[: config.num_heldout]


def _row(index: int, num_steps: int, config: FunctionsConfig, seed: int) -> Row:
    index, first = divmod(index, 2)
    steps: list[Step] = []
    for _ in range(num_steps):
        index, word = divmod(index, len(WORDS))
        index, operand = divmod(index, len(OPERANDS))
        steps.append((list(WORDS)[word], OPERANDS[operand]))
    text = f"take {'ab'[first]} " + " ".join(f"{word} {operand}" for word, operand in steps)
    rng = random.Random(derive_seed(seed, text))
    tests = []
    for _ in range(config.num_tests):
        a, b = rng.randint(-LARGEST, LARGEST), rng.randint(-LARGEST, LARGEST)
        tests.append(f"assert f({a}, {b}) == {_value('ab'[first], steps, a, b)}")
    shown = [_wrong(one, rng) if rng.random() < config.error_rate else one for one in steps]
    return Row(
        id=text,
        messages=(Message("user", f"{text}\n"),),
        origin=f"the function {text!r}",
        demonstration=HEAD + _expression("ab"[first], shown),
        whole={"prompt": f"{text}\n", "entry_point": "f", "test_list": tests},
    )


def _value(first: str, steps: Sequence[Step], a: int, b: int) -> int:
    named = {"a": a, "b": b}
    value = named[first]
    for word, operand in steps:
        other = named[operand] if operand in named else int(operand)
        match word:
            case "add":
                value += other
            case "minus":
                value -= other
            case "times":
                value *= other
    return value


def _expression(first: str, steps: Sequence[Step]) -> str:
    """With brackets where the order of operations asks for them."""
    text, is_sum = first, False
    for word, operand in steps:
        if word == "times" and is_sum:
            text = f"({text})"
        is_sum = word != "times"
        text += WORDS[word] + operand
    return text


def _wrong(step: Step, rng: random.Random) -> Step:
    """With another word or another operand."""
    word, operand = step
    if rng.random() < 0.5:
        return rng.choice([one for one in WORDS if one != word]), operand
    return word, rng.choice([one for one in OPERANDS if one != operand])

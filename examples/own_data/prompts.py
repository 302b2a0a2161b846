"""Sums of two numbers below a hundred, as prompts of your own."""

import random


def rows():
    """A row for each prompt; its columns are named by data.prompt_column and its like."""
    numbers = random.Random(1)  # the same rows every time, so that a run can be resumed
    for first, second in {(numbers.randrange(10, 100), numbers.randrange(10, 100)): None for _ in range(3000)}:
        yield {"sum": f"{first}+{second}=", "answer": first + second, "id": f"{first}+{second}"}

"""Sums of two numbers below a hundred, as prompts of your own."""

import random


def rows():
    """A row for each prompt; its columns are named by data.prompt_column and its like."""
    # The same ones every time, so that a run can be resumed.
    for index in random.Random(1).sample(range(90 * 90), 3000):
        first, second = 10 + index // 90, 10 + index % 90
        yield {"sum": f"{first}+{second}=", "answer": first + second, "id": f"{first}+{second}"}

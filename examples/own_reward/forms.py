"""The other forms that a reward may have, by the one that lies beside them."""

import asyncio

from rewards import number, score


async def score_elsewhere(prompt, completions, row):
    """The same, of something that is waited for: many calls are under way at the same time."""
    await asyncio.sleep(0.01)  # a request to your own server
    return score(prompt, completions, row)


def parts(prompt, completions, row):
    """Named parts, each with a curve of its own; their sum is the score."""
    right = score(prompt, completions, row)
    brief = [-0.01 * len(text) for text in completions]
    return {"right": right, "brief": brief}


def matrix(prompt, completions, row):
    """[i][j]: the probability that completion i is better than j, by how near they come."""
    off = [abs((number(text) or 0) - int(row["answer"])) for text in completions]
    return [[0.5 + 0.5 * ((b > a) - (b < a)) for b in off] for a in off]

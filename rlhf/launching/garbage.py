"""When Python looks for garbage: between rounds, when there is little to look through.

A round of 20,000 prompts is a million objects, none of them in a circle; to look through them again
and again while they come holds everything up for a fifth of a second each time. `rlhf.loop` looks
once a round, when it has let go of them.
"""

import gc

import pyarrow as pa


def look_between_rounds() -> None:
    """What is there by now is never looked through again; what comes, in small parts."""
    pa.array([])  # imports pandas, thirty thousand objects, and else would in the first round
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 3, 1_000)

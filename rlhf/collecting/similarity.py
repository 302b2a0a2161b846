"""How alike, and how varied, sequences of tokens are."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

Neighbours = set[tuple[int, int, int]]


def similarity(a: Sequence[int], b: Sequence[int]) -> float:
    """Shared pairs of neighbouring tokens, from 0 to 1: 2·|A∩B| / (|A| + |B|), with repetitions.

    1 for equal sequences, and 0 for others of fewer than two tokens. Takes linear time.
    """
    if tuple(a) == tuple(b):
        return 1.0
    return shared(neighbours(a), neighbours(b))


def neighbours(tokens: Sequence[int]) -> Neighbours:
    """The pairs of neighbours, each with how often it came before."""
    counts: Counter[tuple[int, int]] = Counter()
    found = set()
    for pair in pairwise(tokens):
        found.add((*pair, counts[pair]))
        counts[pair] += 1
    return found


def shared(a: Neighbours, b: Neighbours) -> float:
    """`similarity` of sequences that differ, by their neighbours."""
    total = len(a) + len(b)
    return 2 * len(a & b) / total if total else 0.0


def distinct(sequences: Iterable[Sequence[int]], n: int) -> float | None:
    """Different n-grams over all n-grams, of all sequences together; None without any.

    Li et al. 2016, arXiv 1510.03055, Section 5.2 (distinct-n), on tokens.
    """
    counts: Counter[tuple[int, ...]] = Counter()
    for tokens in sequences:
        counts.update(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return len(counts) / counts.total() if counts else None

"""How alike, and how varied, sequences of tokens are."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

Neighbours = Counter[tuple[int, int]]


def similarity(a: Sequence[int], b: Sequence[int]) -> float:
    """Shared pairs of neighbouring tokens, from 0 to 1: 2·|A∩B| / (|A| + |B|), with repetitions.

    1 for equal sequences, and 0 for others of fewer than two tokens. Takes linear time.
    """
    if tuple(a) == tuple(b):
        return 1.0
    return shared(neighbours(a), neighbours(b))


def neighbours(tokens: Sequence[int]) -> Neighbours:
    """The pairs of neighbours, and how often each comes."""
    return Counter(pairwise(tokens))


def shared(a: Neighbours, b: Neighbours) -> float:
    """`similarity` of sequences that differ, by their neighbours."""
    total = a.total() + b.total()
    in_both = sum(min(count, b[pair]) for pair, count in a.items() if pair in b)
    return 2 * in_both / total if total else 0.0


def distinct(sequences: Iterable[Sequence[int]], n: int) -> float | None:
    """Different n-grams over all n-grams, of all sequences together; None without any.

    Li et al. 2016, arXiv 1510.03055, Section 5.2 (distinct-n), on tokens.
    """
    counts: Counter[tuple[int, ...]] = Counter()
    for tokens in sequences:
        counts.update(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return len(counts) / counts.total() if counts else None

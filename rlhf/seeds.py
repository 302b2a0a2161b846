"""Every random choice has a seed of its own, derived from what it belongs to."""

from collections.abc import Callable
from hashlib import blake2b


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**62) that depends on every part and their order, and on nothing else."""
    *others, last = parts
    return seeds_after(*others)(last)


def seeds_after(*parts: int | str) -> Callable[[int | str], int]:
    """`derive_seed` of these and one more part, for many of those."""
    before = blake2b("".join(f"{_told(part)}\x1f" for part in parts).encode(), digest_size=8)

    def seed(last: int | str) -> int:
        whole = before.copy()
        whole.update(_told(last).encode())
        return int.from_bytes(whole.digest(), "big") >> 2

    return seed


def _told(part: int | str) -> str:
    return f"{type(part).__name__}:{part}"

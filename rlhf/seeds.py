"""Every random choice has a seed of its own, derived from what it belongs to."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**62) that depends on every part and their order, and on nothing else."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2

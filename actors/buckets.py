"""Weights in one piece of memory, and where in it each of them lies: how they travel.

A weight is copied once into a buffer, whatever device it comes from, and looked at where the buffer
arrives. Places are plain numbers and names, so that a buffer can be a file or a GPU's memory too.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 16


class Place(NamedTuple):
    """Where in the buffer a tensor lies, in bytes."""

    name: str
    dtype: str
    shape: list[int]
    offset: int


class Bucket(NamedTuple):
    """Some weights in the memory of this machine."""

    places: list[Place]
    data: np.ndarray
    """Bytes, which processes of a node share without a copy."""

    def weights(self) -> dict[str, Tensor]:
        """Views into `data`, not to be written to."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable")
            return dict(views(self.places, torch.from_numpy(self.data)))


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def num_bytes(value: Tensor) -> int:
    return value.element_size() * value.numel()


def fill(
    weights: Iterable[tuple[str, Tensor]], buffer: Tensor
) -> Iterator[tuple[list[Place], Tensor]]:
    """Fills the buffer again and again, until all have passed; yields places and what is filled.

    What was yielded is overwritten next. A weight larger than the buffer gets one of its own.
    """
    places: list[Place] = []
    end = 0
    for name, value in weights:
        size = num_bytes(value)
        if places and end + size > len(buffer):
            yield places, buffer[:end]
            places, end = [], 0
        if size > len(buffer):
            buffer = torch.empty(size, dtype=torch.uint8, device=buffer.device)
        room = buffer[end : end + size].view(value.dtype).view(value.shape)
        room.copy_(value.detach())
        dtype = str(value.dtype).removeprefix("torch.")
        places.append(Place(name, dtype, list(value.shape), end))
        end += aligned(size)
    yield places, buffer[:end]


def views(places: Iterable[Sequence[Any]], buffer: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors at those places of a buffer, without a copy."""
    for name, dtype_name, shape, offset in places:
        dtype = getattr(torch, dtype_name)
        size = dtype.itemsize * torch.Size(shape).numel()
        yield name, buffer[offset : offset + size].view(dtype).view(shape)


def pack(weights: Mapping[str, Tensor]) -> Bucket:
    """All of them in one bucket."""
    room = sum(aligned(num_bytes(value)) for value in weights.values())
    ((places, data),) = fill(weights.items(), torch.empty(room, dtype=torch.uint8))
    return Bucket(places, data.numpy())

"""Keys and values of sequences that are being sampled, in memory that has room for what follows."""

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

LEAST_ROOM = 32
"""Tokens by which memory grows at least, and by a quarter of what is there."""


def roomy_cache() -> DynamicCache:
    """transformers' own, with the same numbers; but what is new is written behind what is there,
    where transformers copies all of it for every token."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = _RoomyLayer
    return cache


class _RoomyLayer(DynamicLayer):
    """`keys` and `values` are the beginnings of larger tensors, until something replaces them."""

    _room: tuple[Tensor, Tensor] | None = None
    """The larger ones."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start, num_new = self.get_seq_length(), key_states.shape[-2]
        if not start:
            return super().update(key_states, value_states)
        end = start + num_new
        if not self._has_room(end):
            more = max(LEAST_ROOM, start // 4, num_new)
            self._room = _with_room(self.keys, more), _with_room(self.values, more)
        keys, values = self._room
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def _has_room(self, end: int) -> bool:
        if self._room is None:
            return False
        keys, _ = self._room
        is_beginning = self.keys.untyped_storage().data_ptr() == keys.untyped_storage().data_ptr()
        return is_beginning and end <= keys.shape[-2]


def _with_room(states: Tensor, more: int) -> Tensor:
    """The same with room for so many tokens more; `(rows, heads, tokens, width)`."""
    rows, heads, tokens, width = states.shape
    larger = states.new_empty(rows, heads, tokens + more, width)
    larger[:, :, :tokens] = states
    return larger

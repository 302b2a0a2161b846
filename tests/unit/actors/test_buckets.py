"""Weights in one piece of memory: nothing is lost, and nothing overlaps."""

import numpy as np
import pytest
import ray.cloudpickle as pickle
import torch

from actors.buckets import ALIGNMENT, Bucket, fill, pack, views


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a": torch.randn(3, 5),
        "b": torch.randn(7, dtype=torch.float64)[::2],
        "c": torch.arange(5, dtype=torch.int8),
        "d": torch.randn(40, 2).bfloat16().T,
        "e": torch.tensor(True),
    }


def test_a_bucket_gives_back_what_was_packed():
    bucket = pack(weights())
    found = bucket.weights()
    assert list(found) == list(weights())
    for name, value in weights().items():
        assert torch.equal(found[name], value) and found[name].dtype is value.dtype
    assert [place.offset for place in bucket.places] == [0, 64, 96, 112, 272]
    assert bucket.data.dtype == np.uint8 and len(bucket.data) == 272 + ALIGNMENT


@pytest.mark.parametrize(("size", "num_buckets"), [(1, 4), (100, 4), (1000, 1)])
def test_a_buffer_is_filled_again_and_again_and_grows_where_it_must(size: int, num_buckets: int):
    buffer, found = torch.empty(size, dtype=torch.uint8), []
    for places, filled in fill(weights().items(), buffer):
        found.append({name: value.clone() for name, value in views(places, filled)})
    assert len(found) == num_buckets
    together = {name: value for one in found for name, value in one.items()}
    assert together.keys() == weights().keys()
    assert all(torch.equal(together[name], value) for name, value in weights().items())


def test_what_arrives_read_only_is_looked_at_without_a_copy():
    buffers = []
    sent = pickle.dumps(pack(weights()), protocol=5, buffer_callback=buffers.append)
    (raw,) = buffers
    arrived: Bucket = pickle.loads(sent, buffers=[raw.raw().toreadonly()])
    assert not arrived.data.flags.writeable
    found = arrived.weights()
    assert torch.equal(found["a"], weights()["a"])
    assert found["a"].data_ptr() == arrived.data.ctypes.data

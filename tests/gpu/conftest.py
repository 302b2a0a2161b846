"""Real GPUs: everything here is skipped, with a reason, where there are too few of them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from rlhf.config.models import DType, TinyModelConfig, Vocabulary
from rlhf.toys.tiny import build_tiny_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    found = torch.cuda.device_count()
    for item in items:
        if (marker := item.get_closest_marker("gpu")) is not None:
            (wanted,) = marker.args
            reason = f"needs {wanted} GPUs, and {found} are here"
            item.add_marker(pytest.mark.skipif(found < wanted, reason=reason))


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    ray.init(
        "local",
        num_cpus=16,
        num_gpus=torch.cuda.device_count(),
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers of width 256 in bf16, with byte tokens and tied embeddings."""
    directory = tmp_path_factory.mktemp("model")
    config = TinyModelConfig(
        num_layers=4, width=256, num_heads=4, vocabulary=Vocabulary.bytes, dtype=DType.bfloat16
    )
    build_tiny_model(config, directory, seed=3)
    return directory

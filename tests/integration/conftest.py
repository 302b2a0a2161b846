"""One Ray per file of tests that work inside it, and tiny models to work with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from rlhf.config.models import TinyModelConfig, Vocabulary
from rlhf.toys.tiny import build_tiny_model


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    ray.init("local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of width 64 with the arithmetic vocabulary and tied embeddings."""
    directory = tmp_path_factory.mktemp("tiny")
    build_tiny_model(TinyModelConfig(num_layers=2, width=64, num_heads=2), directory, seed=3)
    return directory


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with byte tokens, which reads any text."""
    directory = tmp_path_factory.mktemp("bytes")
    config = TinyModelConfig(num_layers=2, width=64, num_heads=2, vocabulary=Vocabulary.bytes)
    build_tiny_model(config, directory, seed=3)
    return directory

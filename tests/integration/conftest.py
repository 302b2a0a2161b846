"""One Ray per file of tests that work inside it, tiny models to work with, and one nursery."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from cluster import nursery, own_ray
from rlhf.config.models import TinyModelConfig, Vocabulary
from rlhf.imports import WORKER_ENV
from rlhf.launching.expecting import MODULES
from rlhf.toys.tiny import build_tiny_model


@pytest.fixture(scope="session", autouse=True)
def nursery_of_all() -> None:
    """What the workers of all runs that these tests start are forks of; with what DeepSpeed imports
    for the first engine that shards, which has torch's compiler in it, and what vLLM imports of
    others, since there are many.
    """
    muon = "deepspeed.runtime.zero.muon.muon_optimizer"
    others = ("scipy.signal", "openai.types.responses", "fastapi")
    nursery.begin((*MODULES, muon, *others), {"DS_ACCELERATOR": "cpu", **WORKER_ENV})


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    forked = {"py_executable": nursery.worker_command()}
    with own_ray.small():  # as a run's own
        ray.init(
            "local", num_cpus=16, include_dashboard=False, log_to_driver=False, runtime_env=forked
        )
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

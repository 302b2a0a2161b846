"""What tests of both kinds share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# How long an example takes says how busy the machine is.
settings.register_profile("agon", deadline=None)
settings.load_profile("agon")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def gsm8k() -> Path:
    """The folder of GSM8K; absent on machines without the shared data, but never in CI."""
    folder = SHARED_DATA / "gsm8k"
    if not folder.is_dir():
        message = f"{folder} is not there"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return folder

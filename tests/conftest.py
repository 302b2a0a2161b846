"""What tests of both kinds share."""

import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_randomly
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

gc.disable()  # until everything is imported

# How long an example takes says how busy the machine is.
settings.register_profile("agon", deadline=None)
settings.load_profile("agon")


def _seed_torch(seed: int) -> None:
    """In place of DeepSpeed's, which pytest-randomly finds where it is installed: that one brings
    DeepSpeed into every process of pytest, and takes a millisecond three times for each test.

    So does torch's own for all devices, which keeps where it was called from until one is used.
    """
    if (torch := sys.modules.get("torch")) is None:
        return
    seed_all = (
        torch.manual_seed if torch.cuda.is_initialized() else torch.default_generator.manual_seed
    )
    seed_all(seed)


pytest_randomly.entrypoint_reseeds = [_seed_torch]

LONGEST = ("test_policy", "test_interrupted_run", "test_tree_run", "test_run", "test_sweep")
"""Files that take longest among those beside them."""


@pytest.hookimpl(trylast=True)  # after pytest-randomly, whose order within a file is kept
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no process is left alone with one at the end."""
    num_tests = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[bool, bool, int]:
        is_long = item.path.stem in LONGEST
        return "unit" in item.path.parts, not is_long, -num_tests[item.path]

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What has been imported stays, and looking for garbage in it, again and again, takes time."""
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    config.add_cleanup(gc.unfreeze)  # the last thing, or some libraries tell that they leak


@pytest.fixture
def signals_are_heard() -> Iterator[None]:
    """As in a shell's foreground: `nohup` and others start the tests with some ignored."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {one: signal.signal(one, handler) for one, handler in handlers.items()}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def gsm8k() -> Path:
    """The folder of GSM8K."""
    return _shared("gsm8k")


@pytest.fixture(scope="session")
def humaneval() -> Path:
    """The file of HumanEval."""
    return _shared("humaneval") / "HumanEval.jsonl.gz"


def _shared(name: str) -> Path:
    """A folder of the shared data; absent on machines without it, but never in CI."""
    folder = SHARED_DATA / name
    if not folder.is_dir():
        message = f"{folder} is not there"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return folder

"""What a process of vLLM logs of its end reaches the one that started it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.vllm_faults import VARIABLE, EngineFailed, Faults

SEE_ABOVE = RuntimeError("Engine core initialization failed. See root cause above. Failed: {}")
CHILD = """
import logging, sys
from actors.vllm_faults import listen
listen()
log = logging.getLogger("vllm.v1.engine.core")
for number, error in enumerate((ValueError("head size 24\\nis not supported"), OSError("x"),
                                Exception("A process failed. See stack trace for root cause."))):
    if str(number) in sys.argv[1:]:
        try:
            raise error
        except Exception:
            log.exception("EngineCore failed to start.")
log.error("No exception")
"""


@pytest.fixture
def faults():
    found = Faults()
    yield found
    if VARIABLE in os.environ:
        found.hide()


def child(*errors: str) -> None:
    root = str(Path(__file__).parents[3])
    subprocess.run(
        [sys.executable, "-c", CHILD, *errors],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([root, *sys.path])},
        check=True,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )


@pytest.mark.parametrize(
    "errors, told",
    [
        (["0"], "ValueError: head size 24 is not supported"),
        (["0", "2"], "ValueError: head size 24 is not supported"),  # of two processes
        (["0", "1"], "OSError: x"),
        ([], f"RuntimeError: {SEE_ABOVE}"),
        (["2"], f"RuntimeError: {SEE_ABOVE}"),
    ],
)
def test_the_last_error_that_is_a_cause_is_told(faults, errors, told):
    child(*errors)
    error = faults.named("vLLM did not start", SEE_ABOVE)
    assert isinstance(error, EngineFailed)
    assert str(error) == f"vLLM did not start: {told}"


def test_nothing_is_left_of_it_and_what_began_late_does_without(faults):
    path = Path(os.environ[VARIABLE])
    child("0")
    faults.hide()
    assert not path.exists() and VARIABLE not in os.environ
    child("1")
    assert "ValueError" in str(faults.named("vLLM did not start", SEE_ABOVE))


def test_an_error_of_its_own_is_told_where_no_other_is_known(faults):
    error = faults.named("vLLM did not start", RuntimeError("out of memory"))
    assert str(error) == "vLLM did not start: RuntimeError: out of memory"

"""How a command ends without taking its libraries apart."""

import subprocess
import sys

import pytest

CODE = """
import atexit, sys, threading, time
from rlhf import imports

class Large:
    def __del__(self):
        print("taken apart")

def work():
    time.sleep(0.2)
    print("a thread")

large = Large()
atexit.register(print, "registered before")
with imports.quick_end():
    atexit.register(print, "registered within")
    threading.Thread(target=work).start()
    {last}
"""


@pytest.mark.parametrize(
    ("last", "code", "said", "is_quick"),
    [
        ("pass", 0, "", True),
        ("sys.exit(143)", 143, "", True),
        ("sys.exit('why')", 1, "why\n", False),
        ("raise KeyError('unforeseen')", 1, "KeyError: 'unforeseen'\n", False),
    ],
)
def test_a_command_ends_as_ever_but_for_what_takes_a_second(last, code, said, is_quick):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(last=last)], capture_output=True, text=True, timeout=60
    )
    lines = ["a thread", "registered within", "registered before"]
    assert done.stdout.splitlines() == [*lines, *["taken apart"] * (not is_quick)]
    assert done.returncode == code and done.stderr.endswith(said)


OPERATORS = """
import torch, weakref
from rlhf import imports

def taken_apart(*_):
    print("an operator is taken apart")

taken_apart.__module__ = "torch.library"
torch.library._del_library = taken_apart
library = torch.library.Library("of_a_test", "DEF")
kept = torch.library
weakref.finalize(kept, print, "finalized")
with imports.quick_end():
    pass
"""


def test_what_else_is_to_be_finalized_is():
    command = [sys.executable, "-c", OPERATORS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "finalized\n"), done.stderr

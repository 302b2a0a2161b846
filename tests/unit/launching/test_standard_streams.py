"""What becomes of a command whose output has nowhere to go."""

import subprocess
import sys

import pytest

SCRIPT = """
import signal, sys
from rlhf.launching.standard_streams import outlast_terminal
outlast_terminal()
outlast_terminal()
heard = []
if "listen" in sys.argv:
    signal.signal(signal.SIGHUP, lambda *_: heard.append(1))
for _ in range(3):
    print("x" * 100_000, flush=True)
print("done", len(heard), file=sys.stderr)
"""


def shell(line: str, *words: str) -> subprocess.CompletedProcess:
    command = ["bash", "-c", f'set -o pipefail; "$@" {line}', "-", sys.executable, "-c", SCRIPT]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("line", ["> /dev/null", "> /dev/full", ">&-", "| head -c 1 > /dev/null"])
def test_it_goes_on_to_its_end(line: str):
    done = shell(line)
    assert (done.returncode, done.stderr) == (0, "done 0\n")


def test_one_that_listens_hears_of_it_once():
    done = shell("| head -c 1 > /dev/null", "listen")
    assert (done.returncode, done.stderr) == (0, "done 1\n")


def test_what_was_closed_from_the_start_stays_so():
    done = shell("2>&- > /dev/null", "listen")
    assert done.returncode == 0

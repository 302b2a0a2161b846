"""A user's function in a process of its own, by real processes."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf.functions import process as process_module
from rlhf.functions.process import FunctionFailed, FunctionProcess
from rlhf.functions.served import MAX_PRINTED_CHARS, MAX_REPLY_BYTES, Unfit, plain
from rlhf.functions.source import read_source, taking
from rlhf.problems import InputError

Make = Callable[..., FunctionProcess]


@pytest.fixture
def make(tmp_path: Path):
    """Makes a process of a text that defines `f(x)`."""
    made: list[FunctionProcess] = []

    def one(text: str, timeout_s: float = 30.0, overlap: int = 64) -> FunctionProcess:
        (tmp_path / "own.py").write_text(text)
        source = read_source("judge.function", f"{tmp_path}/own.py:f")
        made.append(FunctionProcess(source, taking("x"), timeout_s, overlap))
        return made[-1]

    yield one
    for process in made:
        process.close()


async def why(process: FunctionProcess, argument: object = None) -> str:
    with pytest.raises(FunctionFailed) as failed:
        await process.call(argument)
    return str(failed.value)


async def test_calls_give_what_json_has(make: Make):
    process = make(
        "import numpy as n\n"
        "def f(x): return {'a': (x, None, True), 2: n.arange(3) / 2, 'n': n.int64(3)}"
    )
    assert await process.call("ü") == {"a": ["ü", None, True], "2": [0.0, 0.5, 1.0], "n": 3}


def test_tensors_are_lists_and_objects_are_refused():
    assert plain([torch.tensor([1, 2]), torch.tensor(0.5, requires_grad=True)]) == [[1, 2], 0.5]
    for value in (object(), {1, 2}, b"bytes", iter([1]), plain):
        with pytest.raises(Unfit, match="returned an object of"):
            plain(value)
    with pytest.raises(Unfit, match="half a surrogate pair"):
        plain(["\ud800"])


async def test_async_calls_overlap_as_far_as_they_may(make: Make):
    text = """
import asyncio
running = most = 0
full = asyncio.Event()
async def f(x):
    global running, most
    running += 1
    most = max(most, running)
    if running == 4:
        full.set()
    await full.wait()
    running -= 1
    return most
"""
    process = make(text, overlap=4)
    found = await asyncio.gather(*(process.call(i) for i in range(12)))
    assert max(found) == 4


async def test_plain_calls_wait_for_each_other_and_processes_work_beside_each_other(
    make: Make, tmp_path
):
    # Either process waits for a file that the other one writes.
    text = f"""
import pathlib, time
here = pathlib.Path({str(tmp_path)!r})
def f(x):
    (here / x[0]).touch()
    while not (here / x[1]).exists():
        time.sleep(0.01)
    return x
"""
    one, other = make(text), make(text)
    both = await asyncio.gather(one.call(["a", "b"]), other.call(["b", "a"]))
    assert both == [["a", "b"], ["b", "a"]]
    again = await asyncio.gather(*(one.call(["c", "c"]) for _ in range(5)))
    assert again == [["c", "c"]] * 5


FAILURES = {
    "raise ValueError('a\\nb')": "ValueError: a b (own.py line 2)",
    "return object()": "returned an object of object, not numbers",
    "return 'x' * (17 << 20)": f"bytes, and {MAX_REPLY_BYTES} are read at most",
    "x = []; x.append(x); return x": "RecursionError",
    "import os; os._exit(5)": "ended its process, with code 5",
    "import sys; sys.exit(6)": "ended its process, with code 6",
    "import os; os.kill(os.getpid(), 11)": "ended its process, with code -11",
}
"""By what a function does."""


@pytest.mark.parametrize("define", ["def", "async def"])
async def test_a_failure_is_one_line_and_the_next_call_works(make: Make, define):
    cases = (f"    if x == {i}: {body}\n" for i, body in enumerate(FAILURES))
    process = make(f"{define} f(x):\n{''.join(cases)}    return x")
    for i, told in enumerate(FAILURES.values()):
        line = await why(process, i)
        assert told in line and "\n" not in line
        assert await process.call("still") == "still"


@pytest.mark.parametrize(
    "hang",
    [
        "def f(x):\n    while not x: pass\n    return x",
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(0 if x else 3600)\n    return x",
        "import time\nasync def f(x):\n    time.sleep(0 if x else 3600)\n    return x",
        "import subprocess\ndef f(x):\n    x or subprocess.run(['sleep', '3600'])\n    return x",
    ],
)
async def test_a_call_that_hangs_is_ended(make: Make, hang, monkeypatch):
    monkeypatch.setattr(process_module, "CANCEL_S", 0.3)
    process = make(hang, timeout_s=0.3)
    assert await why(process) == "is not done within 0.3 s"
    process._timeout_s = 30
    assert await process.call("still") == "still"


async def test_who_asks_while_a_killed_process_ends_is_answered_by_the_next(
    make: Make, monkeypatch
):
    """As on a machine so busy that the end takes longer than anybody waits for it."""
    monkeypatch.setattr(process_module, "CANCEL_S", 0.0)
    process = make("def f(x):\n    while not x: pass\n    return x", timeout_s=0.3)
    for _ in range(3):
        process._timeout_s = 0.3
        assert await why(process) == "is not done within 0.3 s"
        process._timeout_s = 30
        assert await process.call("still") == "still"


@pytest.mark.parametrize("define", ["def", "async def"])
async def test_a_call_that_was_cancelled_leaves_the_rest_as_it_was(make: Make, define, tmp_path):
    wait = "time.sleep(3600)" if define == "def" else "await asyncio.sleep(3600)"
    begun = tmp_path / "begun"
    process = make(
        f"import asyncio, pathlib, time\n{define} f(x):\n"
        f"    if x: return x\n    pathlib.Path({str(begun)!r}).touch()\n    {wait}"
    )
    task = asyncio.create_task(process.call(None))
    while not begun.exists():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await process.call("still") == "still"


async def test_a_process_that_died_unasked_is_started_again(make: Make):
    process = make("import os\ndef f(x): return os.getpid()")
    first = await process.call(None)
    os.kill(first, 9)
    while not process._listening.done():
        await asyncio.sleep(0.01)
    assert await process.call(None) != first


async def test_one_that_cannot_start_again_fails_call_by_call(make: Make, tmp_path):
    flag = tmp_path / "flag"
    process = make(
        f"import os, pathlib\nflag = pathlib.Path({str(flag)!r})\n"
        "if flag.exists(): raise OSError('no server')\nflag.touch()\ndef f(x): os._exit(1)"
    )
    assert await why(process) == "ended its process, with code 1"
    for _ in range(2):
        line = await why(process)
        assert line.startswith("cannot be started again: judge.function=")
        assert "OSError: no server (own.py line 3)" in line
    flag.unlink()
    assert await why(process) == "ended its process, with code 1"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import os\nos._exit(4)", "ends its process as it is loaded, with code 4"),
        ("import sys\nsys.exit(4)", "SystemExit: 4 (own.py line 2)"),
        ("import time\ntime.sleep(3600)\ndef f(x): pass", "is not loaded within 0.5 s"),
        ("def f(x, y): pass", "takes (x, y), and is called with (x); write def f(x)"),
    ],
)
def test_what_cannot_be_loaded_is_told_at_once(make: Make, monkeypatch, text, told):
    monkeypatch.setattr(process_module, "START_S", 0.5 if "3600" in text else 60)
    with pytest.raises(InputError) as refused:
        make(text)
    (problem,) = refused.value.problems
    assert problem.startswith("judge.function=") and told in problem


async def test_printing_is_bounded(make: Make, capfd):
    process = make(
        f"def f(x):\n    print('y' * {MAX_PRINTED_CHARS + 5})\n    print('never')\n    return x"
    )
    assert await process.call(1) == 1
    assert await process.call(2) == 2
    printed = capfd.readouterr().out
    assert printed.count("y") == MAX_PRINTED_CHARS and "never" not in printed
    assert printed.endswith("what it prints from here on is left out\n")


async def test_what_it_prints_to_is_a_stream_like_any_other(make: Make, capfd):
    process = make(
        "import faulthandler, subprocess, sys\nfaulthandler.enable()\n"
        "sys.stdout.reconfigure(line_buffering=True)\n"
        "def f(x):\n    sys.stdout.buffer.write(b'by bytes\\n')\n    sys.stdout.flush()\n"
        "    subprocess.run(['echo', 'by a process'], stdout=sys.stderr)\n"
        "    return sys.stdout.encoding.upper()"
    )
    assert await process.call(1) == "UTF-8"
    printed = capfd.readouterr()
    assert "by bytes" in printed.out and "by a process" in printed.err


async def test_every_kind_of_failure_is_logged_once_with_its_place(make: Make, caplog):
    process = make("def f(x): return 1 / x")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await why(process, 0)
    (record,) = caplog.records
    assert "def f(x): return 1 / x" in record.getMessage()


async def test_what_is_closed_is_gone(make: Make):
    process = make("import os\ndef f(x): return os.getpid()")
    pid = await process.call(None)
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    "left", ["os.system('sleep 60 &')", "os.fork() or __import__('time').sleep(60)"]
)
async def test_what_it_has_started_does_not_hide_that_it_has_died(make: Make, left: str):
    """A process of its own keeps our socket open, and is ended with it."""
    dies = f"    if x == 'die':\n        {left}\n        os._exit(7)\n"
    process = make(f"import os\ndef f(x):\n{dies}    return x")
    assert await why(process, "die") == "ended its process, with code 7"
    assert await process.call("again") == "again"

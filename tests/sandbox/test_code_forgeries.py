"""No program passes tests other than by giving what they expect.

Each attack is tried against tests that are data and against tests that are code; honest programs
beside it are judged as they would be alone.
"""

import asyncio
import glob
import os
import tempfile

import pytest

from rlhf.judges.programs.running import Runner, Verdict
from rlhf.judges.programs.tests import Format, Tests, read_tests

PROMPT = 'def double(x):\n    """Twice x."""\n'
DATA = read_tests(
    {
        "prompt": PROMPT,
        "entry_point": "double",
        "test": "def check(candidate):\n"
        "    assert candidate(21) == 42\n    assert candidate('ab') == 'abab'\n",
    },
    Format.humaneval,
)
CODE = read_tests(
    {
        "prompt": PROMPT,
        "entry_point": "double",
        "test": "def check(candidate):\n"
        "    secret = 42\n"
        "    for given, expected in ((21, secret), ('ab', 'abab')):\n"
        "        assert candidate(given) == expected\n"
        "    assert all(got == 2 for got in map(candidate, [1, 1]))\n",
    },
    Format.humaneval,
)
HONEST = "def double(x): return 2 * x"
WRONG = "def double(x): return x"


def judge(tests: Tests, *programs: str, timeout_s: float = 20) -> list[Verdict]:
    """Together, so that what one does to another would be seen."""
    runner = Runner(timeout_s, 256, 4, allow_unsafe=False)

    async def run() -> list[Verdict]:
        return await asyncio.gather(*(runner.run([one], tests) for one in programs))

    return asyncio.run(run())


def passes(verdict: Verdict) -> bool:
    assert verdict.passed is not None, verdict.reason
    return all(verdict.passed)


FORGERIES = {
    "prints that it passed": WRONG + "\nprint('passed')\nprint('{\"value\": 42}')",
    "writes verdicts to every file": WRONG
    + """
import os
for handle in range(3, 32):
    for line in (b'{"value": true}', b'{"fault": null, "passed": [true, true], "reason": ""}'):
        try: os.write(handle, line + b"\\n")
        except OSError: pass""",
    "closes every file": WRONG + "\nimport os\nos.closerange(0, 64)",
    "exits before the tests": "import sys\nsys.exit(0)",
    "exits within a test": "def double(x): raise SystemExit(0)",
    "is gone before the tests": "import os\nos._exit(0)",
    "is gone within a test": "import os\ndef double(x): os._exit(0)",
    "is equal to everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
def double(x): return Any()""",
    "is a number equal to everything": """
class Any(int):
    __eq__ = lambda self, other: True
    __hash__ = int.__hash__
def double(x): return Any(7)""",
    "overrides builtins": WRONG
    + "\nimport builtins\nbuiltins.all = builtins.any = builtins.bool = lambda *_: True"
    "\nbuiltins.AssertionError = KeyboardInterrupt",
    "overrides check": WRONG + "\nimport __main__, sys\ndef check(candidate): pass"
    "\nfor module in list(sys.modules.values()):\n    vars(module)['check'] = check",
    "replaces json": WRONG + "\nimport json\njson.dumps = lambda *_, **__: '{\"value\": true}'"
    "\njson.loads = lambda *_, **__: ['double', [[42], {'dict': []}]]",
    "replaces modules": WRONG
    + "\nimport sys\nsys.modules['ast'] = sys.modules['json'] = sys.modules['builtins'] = None",
    "patches the process's own code": WRONG
    + """
import sys
frame = sys._getframe()
while frame:
    for name in ('encode', 'decode', 'asserts', 'recorded', '_why', '_called', 'tests'):
        frame.f_globals[name] = lambda *_: {'value': True}
    frame = frame.f_back""",
    "looks for what is expected in frames": """
import sys
def double(x):
    frame = sys._getframe()
    while frame:
        for space in (frame.f_locals, frame.f_globals):
            for name in ('secret', 'expected', 'told', 'payload'):
                if isinstance(space.get(name), (int, str)): return space[name]
        frame = frame.f_back""",
    "looks for what is expected among objects": """
import gc
def double(x):
    found = [o for o in gc.get_objects() if isinstance(o, (list, tuple)) and 'abab' in o]
    found = [o for o in found if o is not gc.get_objects.__doc__ and len(o) == 2]
    return 'abab' if found and x == 'ab' else 42 if found else None""",
    "reads files and the parent": """
import os
def double(x):
    for path in (f'/proc/{os.getppid()}/mem', f'/proc/{os.getppid()}/fd/0', '/proc/self/fd/0'):
        try: return open(path).read()
        except (OSError, ValueError): pass""",
    "leaves something for the end": WRONG + "\nimport atexit, os"
    "\natexit.register(lambda: os.write(1, b'passed'))"
    "\nclass Last:\n    def __del__(self): print('passed')\nlast = Last()",
    "answers from a thread": WRONG
    + """
import os, threading, time
def late():
    while True:
        for handle in range(3, 9):
            try: os.write(handle, b'{"value": 42}\\n')
            except OSError: pass
        time.sleep(0.001)
threading.Thread(target=late, daemon=True).start()""",
    "raises the end of an iteration": "def double(x): raise StopIteration",
    "raises what the tests would": "def double(x): raise AssertionError",
    "swallows what is raised": WRONG
    + "\nimport sys\nsys.excepthook = lambda *_: None\nsys.settrace(lambda *_: None)",
    "calls itself without end": "def double(x): return double(x)",
    "gives itself": "def double(x):\n    found = []\n    found.append(found)\n    return found",
    "gives what is no number": "def double(x): return float('nan')",
    "gives without end": "def double(x):\n    while True: yield 42",
    "plants a module": WRONG + "\nfor name in ('sitecustomize', 'json', 'conftest', 'ast'):"
    "\n    open(name + '.py', 'w').write('import os; os._exit(0)')",
    "is a text equal to everything": """
class Any(str):
    __eq__ = lambda self, other: True
    __hash__ = str.__hash__
def double(x): return Any('x')""",
    "gives what is beyond every number": "def double(x): return float('1e999')",
    "gives a number of many digits": "def double(x): return 10 ** 5000",
    "gives a pickle that would run": """
import os, pickle
class Runs:
    def __reduce__(self): return os.system, ('echo passed',)
def double(x): return pickle.dumps(Runs())""",
    "writes what is no text to every file": WRONG
    + """
import os
for handle in range(3, 32):
    try: os.write(handle, bytes(range(128, 256)) + b"\n")
    except OSError: pass""",
    "writes a line of 10 MB": WRONG
    + """
import os
for handle in range(3, 32):
    try: os.write(handle, b'{"value": 42, "more": "' + b"x" * 10_000_000 + b'"}\n')
    except OSError: pass""",
    "calls the system by hand": WRONG
    + """
import ctypes
libc = ctypes.CDLL(None)
for handle in range(3, 32): libc.syscall(1, handle, b'{"value": 42}\n', 14)""",
    "asks the cluster's dashboard": WRONG
    + """
import urllib.request
try: urllib.request.urlopen('http://127.0.0.1:8265/api/jobs/', b'{"entrypoint": "true"}', 5)
except OSError: pass""",
    "looks for what is expected in its surroundings": """
import glob, os
def double(x):
    texts = list(os.environ.values())
    for path in ('/proc/self/environ', '/proc/self/cmdline', *glob.glob('*'), *glob.glob('/tmp/*')):
        try: texts.append(open(path).read())
        except (OSError, ValueError): pass
    return 42 if any('42' in text and 'abab' in text for text in texts) else None""",
    "forks, and answers twice": WRONG
    + """
import os
for _ in range(8):
    try: os.fork()
    except OSError: pass""",
    "starts threads without end": WRONG
    + """
import threading
try:
    while True: threading.Thread(target=threading.Event().wait, daemon=True).start()
except (RuntimeError, MemoryError): pass""",
    "is longer than a program may be": HONEST + "\n" + "#" * (64 << 10),
    "is not Python": "def double(x: return 2 * x",
    "has a null byte": HONEST + "\0",
    "does not define it": "def triple(x): return 3 * x",
}


@pytest.mark.parametrize("tests", [DATA, CODE], ids=["data", "code"])
def test_no_forgery_passes_and_honest_neighbours_do(tests):
    verdicts = judge(tests, HONEST, *FORGERIES.values(), WRONG, HONEST)
    first, *forged, wrong, last = map(passes, verdicts)
    passed = [name for name, one in zip(FORGERIES, forged, strict=True) if one]
    assert (first, passed, wrong, last) == (True, [], False, True)
    assert all(verdict.reason for verdict in verdicts[1:-1])


def test_the_process_of_a_program_holds_no_expected_value():
    spy = """
import gc, sys
def double(x):
    texts = []
    frame = sys._getframe()
    while frame:
        texts += [repr(v) for v in (*frame.f_locals.values(), *frame.f_globals.values())]
        frame = frame.f_back
    texts += [repr(o) for o in gc.get_objects() if isinstance(o, (list, dict, tuple, str))][:5000]
    return 'told' if any(''.join(reversed('645546372819')) in text for text in texts) else 2 * x"""
    lines = "    assert candidate(7000) == 918273645546\n    assert candidate(1) == 2\n"
    for extra in ("", "    n = 918273645546\n    assert candidate(1) == n - 918273645544\n"):
        row = {"entry_point": "double", "test": f"def check(candidate):\n{lines}{extra}"}
        (verdict,) = judge(read_tests(row, Format.humaneval), spy)
        assert verdict.passed is not None and verdict.passed[1:] == (True,) * (1 + bool(extra))
        assert not verdict.passed[0]


FAULTS = {
    "def double(x):\n    while True: pass": "timed out",
    "def double(x):\n    import time\n    time.sleep(60)": "timed out",
    "import signal\nfor n in {*range(1, 65)} - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\n"
    "def double(x):\n    while True: pass": "timed out",
    "def double(x):\n    import os\n    os.kill(os.getppid(), 9)": "PermissionError: [Errno 1]",
    "import os\ndef double(x):\n    os.symlink('/', 'up')\n    os.listdir('up/etc')": "Error",
    "def double(x):\n    n = 0\n    while True:\n        n += 1\n"
    "        open(str(n), 'w').write('x' * 4096)": "wrote too much to files",
    "def double(x):\n    import os\n    os.abort()": "the program crashed",
    "def double(x): return bytearray(1 << 30)": "MemoryError",
    "def double(x):\n    while True: print('flood' * 1000)": "printed too much",
    "def double(x):\n    open('f', 'wb').truncate(1 << 30)": "OSError: [Errno 27] File too large",
    "def double(x):\n    import os\n    os.fork()": "PermissionError: [Errno 1]",
    "def double(x):\n    import socket\n    socket.socket()": "PermissionError: [Errno 1]",
    "def double(x): return open('/etc/passwd').read()": "PermissionError: [Errno 13]",
    "def double(x):\n    import ctypes\n    ctypes.string_at(0)": "the program crashed",
    "def double(x): return 1 / 0": "ZeroDivisionError: division by zero",
    "x = (": "SyntaxError: '(' was never closed",
    WRONG: "gave 21, not 42",
    "class Node: pass\ndef double(x): return Node()": "gave <Node, which is no data>, not 42",
}


@pytest.mark.parametrize("tests", [DATA, CODE], ids=["data", "code"])
def test_what_a_program_does_wrong_fails_it_and_is_told(tests):
    verdicts = judge(tests, *FAULTS, timeout_s=0.7)
    assert not any(map(passes, verdicts))
    if tests is DATA:
        told = [(v.reason, why) for v, why in zip(verdicts, FAULTS.values(), strict=True)]
        assert [pair for pair in told if pair[1] not in pair[0]] == []
    left = glob.glob(f"{tempfile.gettempdir()}/agon-sandbox-*-{os.getpid()}-*")
    assert left == []


def test_a_fault_of_the_tests_is_nobodys():
    for source in (
        "import numpy\ndef check(candidate):\n    n = 1\n    assert candidate(n) == 2",
        "def check(candidate):\n    n = candidate\n    assert n is not None",
        "def check(candidate):\n    n = lambda: 1\n    assert candidate(n) == 2",
    ):
        tests = read_tests({"entry_point": "double", "test": source}, Format.humaneval)
        (verdict,) = judge(tests, HONEST)
        assert verdict.passed is None
        assert verdict.reason.startswith("the tests cannot be used: ")

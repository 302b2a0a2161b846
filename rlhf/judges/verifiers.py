"""Verifiers: 1.0 if a completion gives the prompt's answer, 0.0 if not, None if we cannot tell.

Mathematics is compared by `math-verify` in a child process. A completion such as `9**9**9` makes
sympy compute for hours inside a single C call, which no timeout within the process ends, and
math-verify's own is a signal that works in a main thread only. The child has a limit on processor
time per completion, which the kernel enforces; a completion that exceeds it is wrong.
"""

import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

from rlhf.config.judges import Check, VerifierConfig
from rlhf.judges import Group
from rlhf.records import Judgement

MAX_ANSWER_CHARS = 1000
"""A longer marked answer is wrong; of text without a mark, no more than this is searched."""
CPU_LIMIT_S = 2
MEMORY_LIMIT_BYTES = 4 << 30
DEADLINE_S = 120.0
"""Wall clock, for a child that is stuck without computing."""

_INTEGER = re.compile(r"([+-]?)([0-9]+)")
_MARKED = re.compile(r"####[ \t]*(?![0-9]+[.)][ \t]+[A-Za-z*])([-+$€£\\(.0-9−][^\n]*)")
"""What follows `####` and can be an answer; not a heading such as `#### Step 3` or `#### 2. So`."""
_QUANTITY = re.compile(
    r"(-?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+))"
    r"\s*(\\?%)?(?:\s+(?!sin|cos|tan|arc|log|exp|sqrt)[A-Za-z]{3}[A-Za-z ]*)?"
)
"""A number, perhaps a percent sign, perhaps a unit in words."""


class Verifier:
    """Scores completions by comparing them with the prompt's answer."""

    def __init__(self, config: VerifierConfig) -> None:
        self._check = config.check
        self._name = f"verifier/{config.check.value}@1"
        self._math = MathProcess() if config.check is Check.math else None

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Scores are 1.0, 0.0, or None where the prompt's answer is absent or not readable."""
        return [
            Judgement(tuple(self._score(group.prompt.answer, c.text) for c in group.completions),
                      self._name)
            for group in groups
        ]  # fmt: skip

    def _score(self, answer: str | None, text: str) -> float | None:
        if answer is None:
            return None
        if self._math:
            return self._math.score(answer, text)
        if self._check is Check.last_line:
            text = text.rpartition("\n")[2]
        return integer_score(answer, text)

    def close(self) -> None:
        """Ends the child process, if there is one."""
        if self._math:
            self._math.close()


def integer_score(answer: str, text: str) -> float | None:
    """1.0 if the text, stripped, is one integer equal to the answer; None if the answer is none.

    Compared by value, in ASCII digits: `007` and `+7` are 7, `-0` is 0; `٧`, `7.0`, `1,000` and
    `7 apples` are no integers.
    """
    expected, given = _integer(answer), _integer(text)
    return None if expected is None else float(given == expected)


def _integer(text: str) -> str | None:
    # As digits, not as an int: Python refuses to convert more than 4,300 of them.
    match = _INTEGER.fullmatch(text.strip())
    if match is None:
        return None
    sign, digits = match[1], match[2].lstrip("0") or "0"
    return digits if sign != "-" or digits == "0" else f"-{digits}"


# --- mathematics: which part of a text is the answer ---------------------------------------------


def final_answer(text: str) -> tuple[str, bool] | None:
    r"""The part of a text to compare, and whether the text marks it as its answer.

    Marked is what follows `####` on its line, or stands in `\boxed{}`, whichever comes last.
    Without a mark it is the end of the text, cut at white space. None if there is no answer, or
    one of more than `MAX_ANSWER_CHARS`.
    """
    marked = list(_MARKED.finditer(text))
    boxed = text.rfind("\\boxed{")
    if boxed >= 0 and (not marked or boxed > marked[-1].start()):
        answer = _braced(text, boxed + len("\\boxed{"))
    elif marked:
        answer = marked[-1][1]
    elif len(text) <= MAX_ANSWER_CHARS:
        return (text, False) if text.strip() else None
    else:
        # The first word of the cut may lack its beginning: 1018 would become 18.
        _, space, rest = text[-MAX_ANSWER_CHARS:].partition(" ")
        return (rest, False) if space and rest.strip() else None
    return (answer, True) if answer.strip() and len(answer) <= MAX_ANSWER_CHARS else None


def _braced(text: str, start: int) -> str:
    """What stands before the brace that closes one opened before `start`; else all that follows."""
    depth = 1
    for end in range(start, min(len(text), start + MAX_ANSWER_CHARS + 1)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[start:end]
    return text[start:]


# --- mathematics: the process that compares ------------------------------------------------------


class MathProcess:
    """Compares answers in a child process, started at once and again whenever it was killed.

    Calls from several threads take turns. Raises RuntimeError if no child can be started.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start()

    def score(self, answer: str, text: str) -> float | None:
        """1.0 or 0.0; None if the answer cannot be read, or the child died for a reason of ours."""
        found, reference = final_answer(text), final_answer(answer)
        if found is None:
            return 0.0
        # A data set's answer may be a whole solution that marks its end.
        expected = reference[0] if reference and reference[1] else answer
        with self._lock:
            if self._child.poll() is not None:
                self._start()
            try:
                self._pipe.send_bytes(json.dumps([expected, *found]).encode())
                return json.loads(self._receive())
            except (EOFError, OSError):
                self._child.kill()
                return 0.0 if self._child.wait() == -signal.SIGPROF else None

    def close(self) -> None:
        self._pipe.close()
        self._child.kill()
        self._child.wait()

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "rlhf.judges.verifiers", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,
            )
        try:
            self._receive()
        except (EOFError, OSError) as error:
            self._child.kill()
            code = self._child.wait()
            raise RuntimeError(f"the math verifier's process did not start: exit {code}") from error

    def _receive(self) -> bytes:
        if not self._pipe.poll(DEADLINE_S):
            raise TimeoutError(f"no reply within {DEADLINE_S:g} s")
        return self._pipe.recv_bytes()


def serve(pipe: Connection) -> None:
    """The child: answers requests until its parent is gone, or it has used too much."""
    from math_verify import verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The default action ends the process even in the middle of a C call, which no handler can.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    _parse("1 + 1", marked=True)
    pipe.send_bytes(b"ready")
    while True:
        try:
            answer, part, marked = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        score = None
        if expected := _parse(answer, marked=True):
            signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
            score = float(verify(expected, _parse(part, marked), timeout_seconds=None))
            signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send_bytes(json.dumps(score).encode())


def _parse(text: str, marked: bool) -> list[Any]:
    """Every reading of an answer as a sympy expression; of `12.5%` there are two."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    def read(text: str, *kinds: Any) -> list[Any]:
        return parse(text, kinds, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[arg-type]

    numbers, latex = ExprExtractionConfig(), LatexExtractionConfig()
    text = text.replace("−", "-")
    if not marked:
        return read(text, latex, numbers)
    text = text.replace("\\$", "").lstrip(" \t\r$€£*_`+").rstrip(" \t\r$€£*_`.")
    if quantity := _QUANTITY.fullmatch(text):
        number, percent = quantity.groups()
        return read(number, numbers) + (read(f"{number}%", numbers) if percent else [])
    return read(f"\\boxed{{{text}}}", latex) or read(text, numbers)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))

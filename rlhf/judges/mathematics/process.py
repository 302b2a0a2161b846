r"""Mathematical answers compared: 1.0 for the same, 0.0 for others, None if we cannot tell.

It goes by the rules of docs/models_and_data.md, by kind of answer: letters and words in
`choices.py`, numbers, ratios and times in `quantities.py`, and all else in `formulas.py`, part by
part; `answers.py` finds the answer in a text.

Formulas are compared by `math-verify` in a child process. A completion such as `9**9**9` makes
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
from multiprocessing.connection import Connection, Pipe

from rlhf.judges.mathematics.answers import final_answer, said
from rlhf.judges.mathematics.choices import choice, chosen, worded, wording
from rlhf.judges.mathematics.quantities import agree, read
from rlhf.judges.mathematics.tidying import tidy

CPU_LIMIT_S = 2
MEMORY_LIMIT_BYTES = 4 << 30
DEADLINE_S = 120.0
"""Wall clock, for a child that is stuck without computing."""

_CHOICE = re.compile(r"(?:\([A-J]\)|[A-J][).:])\s+(?=[-$\d\\(.])")
"""A letter and what it stands for, of which only that is compared with a number or a formula."""


# --- without a process --------------------------------------------------------------


def judge_plainly(expected: str, text: str) -> float | str:
    """1.0 or 0.0 where no algebra is needed; else the part of the text to compare."""
    if letter := choice(expected):
        return float(chosen(text) == letter)
    if words := wording(expected):
        return float(worded(text) == words)
    found = final_answer(text)
    if found is None:
        return 0.0
    part, marked = found
    if not marked:
        part = said(part, equation="=" in expected)
    part = _CHOICE.sub("", tidy(part), count=1)
    want, have = read(expected), read(part)
    return part if want is None or have is None else float(agree(want, have))


# --- the process that compares ------------------------------------------------------


class MathProcess:
    """Compares answers in a child process, started at once and again whenever it was killed.

    Calls from several threads take turns. Raises RuntimeError if no child can be started.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start()

    def score(self, answer: str, text: str) -> float | None:
        """1.0 or 0.0; None if the answer cannot be read, or the child died for a reason of ours."""
        reference = final_answer(answer)
        # A data set's answer may be a whole solution that marks its end.
        expected = reference[0] if reference and reference[1] else answer
        judged = judge_plainly(expected, text)
        if isinstance(judged, float):
            return judged
        with self._lock:
            if self._child.poll() is not None:
                self._start()
            try:
                self._pipe.send_bytes(json.dumps([expected, judged]).encode())
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
                [sys.executable, "-m", "rlhf.judges.mathematics.process", str(theirs.fileno())],
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
    from rlhf.judges.mathematics.formulas import readable, same

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The default action ends the process even in the middle of a C call, which no handler can.
    for limit in (signal.SIGPROF, signal.SIGVTALRM):
        signal.signal(limit, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {limit})
    same("x + 1", "1 + x")
    pipe.send_bytes(b"ready")
    while True:
        try:
            expected, part = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        # A reference that takes too long ends the process by another signal, and is no score.
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_LIMIT_S)
        known = readable(expected)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
        score = float(same(expected, part)) if known else None
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send_bytes(json.dumps(score).encode())


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))

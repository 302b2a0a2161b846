"""Runs one program against its tests in the sandbox, and tells which it passes.

What is expected stays with us, or in the process of tests that are code: the program's own process
gets arguments or input and says what comes of them. So nothing that it prints, overrides or exits
with can pass a test; it has to give the values.
"""

import asyncio
import json
import math
import os
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf.judges.programs import values
from rlhf.judges.programs.answers import MAX_PROGRAM_BYTES
from rlhf.judges.programs.calls import Call, Relation
from rlhf.judges.programs.tests import Calls, Inputs, Script, Tests
from rlhf.tools.sandbox import Exit, Limits, Outcome, SandboxFailed, run_python

REASON_CHARS = 200
_FILES = {
    task: {name: Path(values.__file__).with_name(f"{name}.py") for name in ("values", task)}
    for task in ("program", "script")
}
_SOURCES = {
    task: {f"{__package__}.{name}": file.read_text("utf-8") for name, file in files.items()}
    for task, files in _FILES.items()
}
_INSIDE = """
import sys, types
for name, source in {modules!r}.items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), vars(module))
module.main(module.json.loads({told!r}))
"""
"""What the sandbox runs: our files for it, of which the last is the one to begin."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 40


@dataclass(frozen=True)
class Verdict:
    """What became of one program."""

    passed: tuple[bool, ...] | None
    """By test; None where the sandbox or the tests are at fault, and nothing is known of it."""
    reason: str = ""
    """Of the first failure, or the fault."""
    lasting: bool = True
    """Whether it would come out the same again, as far as we can tell."""


class Runner:
    """Runs programs, at most `num_parallel` at a time."""

    def __init__(
        self, timeout_s: float, memory_mib: int, num_parallel: int, allow_unsafe: bool
    ) -> None:
        """`timeout_s`: processor time of a program with all its tests; of the clock it may take
        three times as long, since others may be busy."""
        self._limits = Limits(
            wall_s=3 * timeout_s,
            cpu_s=math.ceil(timeout_s),
            memory_bytes=memory_mib << 20,
            output_bytes=values.MOST_BYTES,
            code_bytes=64 << 20,
        )
        self._gate = asyncio.Semaphore(num_parallel)
        self._allow_unsafe = allow_unsafe

    async def run(self, texts: Sequence[str], tests: Tests) -> Verdict:
        """The first of `texts` that is a program, against the tests."""
        if len(texts[0].encode(errors="surrogatepass")) > MAX_PROGRAM_BYTES:
            return Verdict((False,) * tests.size, "the program is too long")
        async with self._gate:
            try:
                verdict = await self._run(list(texts), tests)
            except SandboxFailed as error:
                verdict = Verdict(None, str(error), lasting=False)
            except OSError as error:  # the machine is short of something
                why = f"no process could be started ({error})"
                verdict = Verdict(None, why, lasting=False)
        return replace(verdict, reason=" ".join(verdict.reason.split())[:REASON_CHARS])

    async def values(self, texts: Sequence[str], tests: Calls) -> list[Any]:
        """What the program gives for each call, up to the first that it does not survive.

        Of one that raises, or gives no data, `Opaque`. Raises SandboxFailed.
        """
        told: dict[str, Any] = {"texts": list(texts), "name": tests.name, "before": tests.before}
        told["calls"] = [(call.name, json.loads(call.given)) for call in tests.calls]
        async with self._gate:
            outcome = await self._sandboxed("program", told)
        nothing = {"object": "nothing"}
        return [values.decode(line.get("value", nothing)) for line in _told(outcome.stdout)]

    async def _run(self, texts: list[str], tests: Tests) -> Verdict:
        told: dict[str, Any] = {"texts": texts, "name": tests.name, "before": tests.before}
        match tests:
            case Calls(calls):
                told["calls"] = [(call.name, json.loads(call.given)) for call in calls]
                outcome = await self._sandboxed("program", told)
                return _verdict(outcome, tests, [_Expected(call) for call in calls])
            case Inputs(inputs, outputs):
                told["inputs"] = inputs
                outcome = await self._sandboxed("program", told)
                return _verdict(outcome, tests, [_Printed(one) for one in outputs])
            case Script():
                return await self._with_script(told, tests)

    async def _sandboxed(
        self, task: str, told: dict[str, Any], limits: Limits | None = None, *handles: int
    ) -> Outcome:
        source = _INSIDE.format(modules=_SOURCES[task], told=json.dumps(told))
        return await run_python(
            source, limits or self._limits, allow_unsafe=self._allow_unsafe, handles=handles
        )

    async def _with_script(self, told: dict[str, Any], tests: Script) -> Verdict:
        """Tests and program in two processes, which reach each other by two pipes."""
        pipes = _Pipes()
        told |= {"read": pipes.asked[0], "write": pipes.answered[1]}
        testing = {
            "read": pipes.answered[0],
            "write": pipes.asked[1],
            "before": tests.setup,
            "source": tests.source,
            "names": tests.names,
            "check": tests.check,
            "num_asserts": tests.size,
        }
        # The tests wait for the program, which may start late and take its time.
        patient = replace(self._limits, wall_s=self._limits.wall_s + 60)
        try:
            ours = self._sandboxed("script", testing, patient, testing["read"], testing["write"])
            theirs = self._sandboxed("program", told, None, told["read"], told["write"])
            running, judging = asyncio.ensure_future(theirs), asyncio.ensure_future(ours)
            try:
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait([running, judging], return_when=first)
                if not judging.done():
                    # With our copies of its ends closed, the tests see that it is gone.
                    pipes.close(told["read"], told["write"])
                outcome = await judging
                ended = running.result() if running.done() else None
            finally:
                for task in (running, judging):
                    task.cancel()
                await asyncio.wait([running, judging])
        finally:
            pipes.close(*pipes.asked, *pipes.answered)
        return _script_verdict(outcome, ended, tests.size)


class _Pipes:
    """Two pipes, of which each end is closed once."""

    def __init__(self) -> None:
        self.asked, self.answered = os.pipe(), os.pipe()
        self._open = {*self.asked, *self.answered}

    def close(self, *handles: int) -> None:
        for handle in self._open.intersection(handles):
            os.close(handle)
        self._open.difference_update(handles)


# --- what came of it -----------------------------------------------------------------------------


class _Expected:
    """The value of a call."""

    def __init__(self, call: Call) -> None:
        self._relation, self._value = call.relation, values.decode(json.loads(call.expected))

    def met(self, data: Any) -> str:
        """Empty if it is, else why not."""
        value = values.decode(data)
        match self._relation:
            case Relation.equals:
                good = bool(value == self._value)
            case Relation.listed:
                good = bool(_listed(value) == _listed(self._value))
            case Relation.same:
                good = value is self._value
            case Relation.true:
                good = bool(value)
            case Relation.false:
                good = not value
        wanted = self._relation.value if self._relation in _TRUTHS else _SHORT.repr(self._value)
        return "" if good else f"gave {_SHORT.repr(value)}, not {wanted}"


_TRUTHS = (Relation.true, Relation.false)


def _listed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_listed(each) for each in value]
    if isinstance(value, dict):
        return {key: _listed(each) for key, each in value.items()}
    return value


class _Printed:
    """The text that a program prints, but for white space at the ends of lines and of the text."""

    def __init__(self, text: str) -> None:
        self._lines = _lines(text)

    def met(self, data: Any) -> str:
        if not isinstance(data, str):
            raise ValueError("not a text")
        lines = _lines(data)
        if lines == self._lines:
            return ""
        return f"printed {_SHORT.repr(data)}, not {_SHORT.repr(chr(10).join(self._lines))}"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _verdict(outcome: Outcome, tests: Tests, expected: Sequence[_Expected | _Printed]) -> Verdict:
    """From a program's own words, a line per test; tests of which it says nothing fail."""
    told = list(_told(outcome.stdout))[: len(expected)]
    passed, reason = [], ""
    for place, (one, line) in enumerate(zip(expected, told, strict=False)):
        why = _why(one, line)
        passed.append(not why)
        if why and not reason:
            reason = why if "broken" in line else f"test {place + 1}: {why}"
    missing = len(expected) - len(passed)
    if missing and not reason:
        reason = f"test {len(passed) + 1}: {_ended(outcome)}"
    lasting = outcome.exit is not Exit.timed_out
    return Verdict((*passed, *[False] * missing), reason, lasting)


def _told(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            told = {}
        yield told if isinstance(told, dict) else {}


def _why(expected: _Expected | _Printed, line: dict[str, Any]) -> str:
    """Why a test fails; empty if it passes."""
    for key in ("broken", "error"):
        if key in line:
            return _error(line[key])
    try:
        return expected.met(line["value"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, AttributeError):
        return "gave something that is no value"


def _error(named: Any) -> str:
    """As `SyntaxError: invalid syntax`."""
    return ": ".join(str(part) for part in named if part) if isinstance(named, list) else "failed"


def _ended(outcome: Outcome | None) -> str:
    """Why a program says no more."""
    if outcome is None or outcome.exit is Exit.finished:
        return "the program ended early"
    if outcome.exit is Exit.failed:
        lines = outcome.stderr.strip().splitlines()
        return lines[-1] if lines else "the program ended early"
    return {
        Exit.timed_out: "timed out",
        Exit.killed: "the program crashed",
        Exit.output_limit: "printed too much, or wrote too much to files",
    }[outcome.exit]


def _script_verdict(outcome: Outcome, ended: Outcome | None, size: int) -> Verdict:
    """From the words of the tests' own process, out of the program's reach."""
    late = Exit.timed_out in (outcome.exit, ended and ended.exit)
    for told in _told(outcome.stdout):
        if told["fault"] is not None:
            return Verdict(None, f"the tests cannot be used: {told['fault']}")
        reason = told["reason"]
        if ended and ended.exit not in (Exit.finished, Exit.failed) and not all(told["passed"]):
            reason = _ended(ended)
        return Verdict(tuple(told["passed"]), reason, lasting=not late)
    # It fails only over what it is given: too much, or made to take long.
    return Verdict((False,) * size, f"the tests {outcome.exit.replace('_', ' ')}", lasting=False)

"""Code judged by its tests: the program in a completion is run, in the sandbox."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, NamedTuple

from rlhf.config.texts import location
from rlhf.judges.base import JudgeConfig, Measure
from rlhf.judges.programs.answers import programs, without_asserts
from rlhf.judges.programs.calls import Call, own_asserts, source
from rlhf.judges.programs.ranking import Matrix, Score, dstc_pair, scores
from rlhf.judges.programs.running import Runner, Verdict
from rlhf.judges.programs.tests import Calls, Format, Tests, Unreadable, read_tests
from rlhf.judges.programs.written import WRITTEN, Writer, WrittenTests, question_in
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.ranges import number
from rlhf.records import Completion, Judgement, Prompt
from rlhf.stages import Judge
from rlhf.tools.probe import probe, require

KEPT_VERDICTS = 10_000
MOST_OWN_TESTS = 64
"""Of a group, where they are the policy's."""


class Program(NamedTuple):
    """What may be one, best guess first, and what it is run against."""

    texts: tuple[str, ...]
    tests: Tests
    key: bytes
    """In place of both, since some tests have megabytes."""


@dataclass
class CodeJudgeConfig(JudgeConfig):
    """Programs, run in the sandbox against the tests of their prompt's row."""

    name: ClassVar[str] = "code"

    tests: Format = Format.auto
    """Where the tests are: columns of the data's files, the answers themselves, or answers of the
    policy to a question of their own."""
    score: Score = Score.all
    timeout_s: float = number(5.0, at_least=0.1)
    """Processor time of one program with all its tests; of the clock it may take three times as
    long."""
    memory_mib: int = number(512, at_least=64)
    num_parallel: int = number(2, at_least=1)
    """Programs that run at the same time in each worker."""
    num_written: int = number(4, at_least=1)
    """Of tests=written: answers with tests that are asked for, per group."""
    test_question: str | None = location(None)
    """A text file that asks for tests, with {prompt}; by default that of
    `rlhf.judges.programs.written`."""
    allow_unsafe: bool = False
    """Run even where the machine cannot shut code in completely."""

    def gives(self) -> Set[Fact]:
        is_outcome = self.score is Score.all and not self.tests.are_the_policy_s
        more = {Fact.outcomes} if is_outcome else set()
        return {Fact.verdicts} | more | ({Fact.additions} if self.score is Score.dstc else set())

    @property
    def measure(self) -> Measure:
        """1 as a share of tests says that a program is right, too."""
        tells = self.score.tells_right and not self.tests.are_the_policy_s
        return Measure.accuracy if tells else Measure.score

    @property
    def reads_rows(self) -> bool:
        return True

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.test_question is not None and self.tests is not Format.written:
            yield (
                f"judge.test_question={self.test_question}: is asked with judge.tests=written "
                "only; remove it"
            )

    def inspect(self, asked: Set[Fact]) -> None:
        if self.tests is Format.written:
            question_in(self.test_question)
        self._require_sandbox()

    def _require_sandbox(self) -> None:
        if not self.allow_unsafe:
            require(probe(), "judge")

    def inspect_prompts(self, prompts: Iterable[Prompt]) -> None:
        faults = Counter(fault for one in prompts if (fault := self._fault(one)))
        if faults:
            (fault, count), *_ = faults.most_common(1)
            raise InputError(
                [
                    f"judge=code judge.tests={self.tests.value}: of the prompts {faults.total()} "
                    f"have no tests that can be used; {count} have a row that {fault}"
                ]
            )

    def _fault(self, prompt: Prompt) -> str:
        try:
            _tests(prompt, self.tests)
        except Unreadable as error:
            return str(error)
        return ""

    def with_policy(self, judge: Judge, writer: Callable[[], Writer], seed: int) -> Judge:
        if self.tests is not Format.written:
            return judge
        question = question_in(self.test_question)
        return WrittenTests(judge, writer(), self.num_written, question, seed)

    def build(self) -> "CodeJudge":
        # A worker has an event loop in its own thread.
        with ThreadPoolExecutor(1) as aside:
            aside.submit(self._require_sandbox).result()
        return CodeJudge(self)


def _tests(prompt: Prompt, format: Format) -> Tests | None:
    """None if they are the policy's; raises Unreadable."""
    if format.are_the_policy_s:
        return None
    if prompt.row is None:
        raise Unreadable("is none of a file's, and so has no columns of tests; use data=files")
    return read_tests(prompt.row, format)


class CodeJudge:
    """Scores completions by the tests that their programs pass.

    None is the score where the sandbox or the tests are at fault; whatever a program does wrong
    fails its tests. `parts` tells the share of tests passed, `reasons` the first failure. One
    program is run once against the same tests, and its verdict kept, unless time decided it.
    """

    def __init__(self, config: CodeJudgeConfig) -> None:
        self._config = config
        self._name = f"code/{config.tests.value}/{config.score.value}@1"
        self._runner = Runner(
            config.timeout_s, config.memory_mib, config.num_parallel, config.allow_unsafe
        )
        self._running: dict[bytes, asyncio.Task[Verdict]] = {}
        self._kept: OrderedDict[bytes, Verdict] = OrderedDict()

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Judgement:
        """`num_parallel` programs at a time, of all groups together."""
        asked = self._programs(prompt, completions)
        verdicts = await asyncio.gather(*map(self._verdict, asked))
        tests = next((one.tests for one in asked if not isinstance(one, Verdict)), None)
        return self._judgement(verdicts, tests)

    async def _verdict(self, asked: Program | Verdict) -> Verdict:
        if isinstance(asked, Verdict):
            return asked
        if asked.key in self._kept:
            self._kept.move_to_end(asked.key)
            return self._kept[asked.key]
        if asked.key not in self._running:
            self._running[asked.key] = asyncio.create_task(self._run(asked))
        # Others may wait for the same.
        return await asyncio.shield(self._running[asked.key])

    async def _run(self, program: Program) -> Verdict:
        try:
            verdict = await self._runner.run(program.texts, program.tests)
        finally:
            del self._running[program.key]
        if verdict.lasting:
            self._kept[program.key] = verdict
            if len(self._kept) > KEPT_VERDICTS:
                self._kept.popitem(last=False)
        return verdict

    def _programs(
        self, prompt: Prompt, completions: Sequence[Completion]
    ) -> Sequence[Program | Verdict]:
        """What to run for each completion, or what is known without."""
        texts = [prompt.prefix + one.text for one in completions]
        try:
            tests = _tests(prompt, self._config.tests)
        except Unreadable as error:
            return [Verdict(None, f"the row {error}")] * len(texts)
        if tests is None:
            return self._with_policy_s_tests(prompt, texts)
        return _against(tests, prompt.text, texts)

    def _with_policy_s_tests(
        self, prompt: Prompt, answers: Sequence[str]
    ) -> Sequence[Program | Verdict]:
        parted = [without_asserts(answer) for answer in answers]
        by_text = [own for _, own in parted]
        if self._config.tests is Format.written:
            by_text = [tuple(own_asserts(text)) for text in (prompt.row or {}).get(WRITTEN, ())]
        calls = list(dict.fromkeys(call for own in by_text for call in own))[:MOST_OWN_TESTS]
        name = (prompt.row or {}).get("entry_point") or _most_called(calls)
        calls = [call for call in calls if call.name == name]
        if not calls:
            written = self._config.tests is Format.written
            why = "the policy wrote no test" if written else "no answer has a test"
            return [Verdict((), why)] * len(answers)
        tests = Calls(tuple(calls), name)
        return _against(tests, prompt.text, [text for text, _ in parted])

    def _judgement(self, verdicts: Sequence[Verdict], tests: Tests | None) -> Judgement:
        known = [i for i, verdict in enumerate(verdicts) if verdict.passed is not None]
        matrix = [passed for verdict in verdicts if (passed := verdict.passed) is not None]
        found: list[float | None] = [None] * len(verdicts)
        shares = list(found)
        ranked = scores(matrix, self._config.score) if any(matrix) else [0.0] * len(matrix)
        for place, score, row in zip(known, ranked, matrix, strict=True):
            found[place], shares[place] = score, sum(row) / len(row) if row else 0.0
        reasons = tuple(verdict.reason for verdict in verdicts)
        parts = {"tests_passed": tuple(shares)}
        additions = self._additions(known, matrix, tests, len(verdicts))
        return Judgement(tuple(found), self._name, parts, reasons, additions=additions)

    def _additions(
        self, known: Sequence[int], matrix: Matrix, tests: Tests | None, size: int
    ) -> tuple[str, ...]:
        """DSTC's tests behind the programs of its pair, where tests are data."""
        if self._config.score is not Score.dstc or not isinstance(tests, Calls):
            return ()
        found = [""] * size
        if matrix and (pair := dstc_pair(matrix)):
            for choice in pair:
                found[known[choice.code]] = source(tests.calls[choice.test])
        return tuple(found)


def _against(tests: Tests, prompt: str, answers: Sequence[str]) -> list[Program]:
    """The programs of a group's answers."""
    of_tests, found = _digest(tests), []
    for answer in answers:
        texts = programs(answer, prompt, tests.name)
        found.append(Program(texts, tests, of_tests + _digest(texts)))
    return found


def _digest(value: Tests | tuple[str, ...]) -> bytes:
    return sha256(repr(value).encode(errors="surrogatepass")).digest()


def _most_called(calls: Sequence[Call]) -> str | None:
    """The function that most tests are of, of equals the first."""
    counted = Counter(call.name for call in calls).most_common(1)
    return counted[0][0] if counted else None

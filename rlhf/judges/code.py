"""Code judged by its tests: the program in a completion is run, in the sandbox."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

from rlhf.judges.base import JudgeConfig
from rlhf.judges.groups import Group
from rlhf.judges.programs.answers import programs, without_asserts
from rlhf.judges.programs.calls import Call
from rlhf.judges.programs.ranking import Score, scores
from rlhf.judges.programs.running import Runner, Verdict
from rlhf.judges.programs.tests import Calls, Format, Tests, Unreadable, read_tests
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.ranges import number
from rlhf.records import Judgement, Prompt
from rlhf.tools.probe import probe, require

KEPT_VERDICTS = 10_000
MOST_OWN_TESTS = 64
"""Of a group, where answers bring their own."""

Program = tuple[tuple[str, ...], Tests]


@dataclass
class CodeJudgeConfig(JudgeConfig):
    """Programs, run in the sandbox against the tests of their prompt's row."""

    name: ClassVar[str] = "code"

    tests: Format = Format.auto
    """Where the tests are: columns of the data's files, or the answers themselves."""
    score: Score = Score.all
    timeout_s: float = number(5.0, at_least=0.1)
    """Processor time of one program with all its tests; of the clock it may take three times as
    long."""
    memory_mib: int = number(512, at_least=64)
    num_parallel: int = number(2, at_least=1)
    """Programs that run at the same time in each worker."""
    allow_unsafe: bool = False
    """Run even where the machine cannot shut code in completely."""

    def gives(self) -> Set[Fact]:
        is_outcome = self.score.is_outcome and self.tests is not Format.answers
        return {Fact.verdicts, Fact.outcomes} if is_outcome else {Fact.verdicts}

    @property
    def reads_rows(self) -> bool:
        return True

    def inspect(self, asked: Set[Fact]) -> None:
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

    def build(self) -> "CodeJudge":
        # A worker has an event loop in its own thread.
        with ThreadPoolExecutor(1) as aside:
            aside.submit(self.inspect, frozenset()).result()
        return CodeJudge(self)


def _tests(prompt: Prompt, format: Format) -> Tests | None:
    """None if answers bring their own; raises Unreadable."""
    if format is Format.answers:
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
        self._kept: OrderedDict[Program, Verdict] = OrderedDict()
        # Our caller may have an event loop in its own thread; and who starts a process is not to
        # end before it, or the process dies.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="programs")

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """All groups' programs together."""
        return self._thread.submit(self._judge, groups).result()

    def close(self) -> None:
        self._thread.shutdown()

    def _judge(self, groups: Sequence[Group]) -> list[Judgement]:
        asked = [self._programs(group) for group in groups]
        distinct = dict.fromkeys(p for group in asked for p in group if not isinstance(p, Verdict))
        new = [program for program in distinct if program not in self._kept]
        found = dict(zip(new, asyncio.run(self._run(new)), strict=True))
        for program in distinct:
            if program in self._kept:
                self._kept.move_to_end(program)
                found[program] = self._kept[program]
            elif found[program].lasting:
                self._kept[program] = found[program]
        while len(self._kept) > KEPT_VERDICTS:
            self._kept.popitem(last=False)
        return [
            self._judgement([p if isinstance(p, Verdict) else found[p] for p in group])
            for group in asked
        ]

    async def _run(self, wanted: Sequence[Program]) -> list[Verdict]:
        config = self._config
        runner = Runner(
            config.timeout_s, config.memory_mib, config.num_parallel, config.allow_unsafe
        )
        return await asyncio.gather(*(runner.run(texts, tests) for texts, tests in wanted))

    def _programs(self, group: Group) -> list[Program | Verdict]:
        """What to run for each completion, or what is known without."""
        prompt, completions = group
        texts = [prompt.prefix + one.text for one in completions]
        try:
            tests = _tests(prompt, self._config.tests)
        except Unreadable as error:
            return [Verdict(None, f"the row {error}")] * len(texts)
        if tests is None:
            return self._with_own_tests(prompt, texts)
        return [(programs(text, prompt.text, tests.name), tests) for text in texts]

    def _with_own_tests(self, prompt: Prompt, answers: Sequence[str]) -> list[Program | Verdict]:
        parted = [without_asserts(answer) for answer in answers]
        calls = list(dict.fromkeys(call for _, own in parted for call in own))[:MOST_OWN_TESTS]
        name = (prompt.row or {}).get("entry_point") or _most_called(calls)
        calls = [call for call in calls if call.name == name]
        if not calls:
            return [Verdict((), "no answer has a test")] * len(answers)
        tests = Calls(tuple(calls), name)
        return [(programs(text, prompt.text, name), tests) for text, _ in parted]

    def _judgement(self, verdicts: Sequence[Verdict]) -> Judgement:
        known = [i for i, verdict in enumerate(verdicts) if verdict.passed is not None]
        matrix = [passed for verdict in verdicts if (passed := verdict.passed) is not None]
        found: list[float | None] = [None] * len(verdicts)
        shares = list(found)
        ranked = scores(matrix, self._config.score) if any(matrix) else [0.0] * len(matrix)
        for place, score, row in zip(known, ranked, matrix, strict=True):
            found[place], shares[place] = score, sum(row) / len(row) if row else 0.0
        reasons = tuple(verdict.reason for verdict in verdicts)
        return Judgement(tuple(found), self._name, {"tests_passed": tuple(shares)}, reasons)


def _most_called(calls: Sequence[Call]) -> str | None:
    """The function that most tests are of, of equals the first."""
    counted = Counter(call.name for call in calls).most_common(1)
    return counted[0][0] if counted else None

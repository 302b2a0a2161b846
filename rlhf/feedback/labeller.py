"""A language model as the labeller: every user's turn after a reply, in its context."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from rlhf.conversations.labels import Satisfaction, Verdict, judging_turns
from rlhf.conversations.log import Conversation
from rlhf.feedback.question import VERSION, fitting_question, parse
from rlhf.problems import RunFailed

CHECKED_EVERY = 1000
"""Turns between two looks at the failures, so that a hopeless log ends early."""
SHOWN_CHARS = 80
"""Of an answer that could not be read."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class NoAnswer(Exception):
    """The model did not answer this one question; it may answer others."""


class Writer(Protocol):
    """A language model that writes one short answer to a question."""

    model: str
    """Its name and, where that can be told, its version."""

    def fits(self, question: str) -> bool:
        """Whether it is short enough."""
        ...

    def clean(self, text: str) -> str:
        """A text that is not ours, with its control tokens broken."""
        ...

    async def write(self, question: str) -> str:
        """Greedily, at most `ANSWER_TOKENS`, not counting a thought before it, which is left out;
        raises NoAnswer."""
        ...


class LabellerFailed(RunFailed):
    """More turns of the log failed than `judge.max_failure_rate` allows."""


class LLMLabeller:
    """Labels conversations by a `Writer`, and counts what failed."""

    def __init__(self, writer: Writer, *, concurrency: int, max_failure_rate: float) -> None:
        """`concurrency`: questions that exist at the same time."""
        self._writer = writer
        self._gate = asyncio.Semaphore(concurrency)
        self._max_failure_rate = max_failure_rate
        self._num_turns = 0
        self._failed: Counter[str] = Counter()
        self._example = ""

    async def label(self, conversation: Conversation) -> tuple[Verdict, ...]:
        """One verdict for each user's turn that has a reply before it.

        It is `unknown` where the model gave no label, with a reason that says so. Raises
        LabellerFailed as `check` does, every now and then.
        """
        turns = judging_turns(conversation.messages)
        return tuple(await asyncio.gather(*(self._verdict(conversation, turn) for turn in turns)))

    async def _verdict(self, conversation: Conversation, turn: int) -> Verdict:
        verdict = await self._asked(conversation, turn)
        self._num_turns += 1
        if self._num_turns % CHECKED_EVERY == 0:
            self.check()
        return verdict

    async def _asked(self, conversation: Conversation, turn: int) -> Verdict:
        kind, reason = "", ""
        async with self._gate:
            question = fitting_question(
                conversation.messages, turn, self._writer.fits, self._writer.clean
            )
            try:
                answer = None if question is None else await self._writer.write(question)
            except NoAnswer as error:
                answer, kind, reason = None, "no_answer", f"no answer: {error}"
        if answer is not None:
            if (read := parse(answer)) is not None:
                return Verdict(turn, *read)
            kind, reason = "unparsed", f"unparsed answer: {answer[:SHOWN_CHARS]!r}"
        elif question is None:
            kind, reason = "too_long", "too long: the reply and this turn exceed judge.max_tokens"
        self._failed[kind] += 1
        place = f"{conversation.file} row {conversation.row}, turn {turn}"
        self._example = self._example or f"{place}: {reason}"
        return Verdict(turn, Satisfaction.unknown, reason)

    @property
    def num_failed(self) -> int:
        return self._failed.total()

    def check(self) -> None:
        """Raises LabellerFailed if too many of the turns so far failed."""
        if self.num_failed > self._max_failure_rate * self._num_turns:
            kinds = ", ".join(f"{n} {kind}" for kind, n in self._failed.most_common())
            raise LabellerFailed(
                f"label=llm: {self._writer.model} failed on {self.num_failed} of "
                f"{self._num_turns} turns ({kinds}) and judge.max_failure_rate="
                f"{self._max_failure_rate:g}; such as {self._example}"
            )

    def record(self) -> dict[str, Any]:
        """For `summary.json`."""
        return {
            "model": self._writer.model,
            "prompt": VERSION,
            "turns": self._num_turns,
            "failed": self.num_failed,
            "failures": dict(self._failed),
        }


async def run_in_order(
    items: Iterable[Item],
    work: Callable[[Item], Coroutine[Any, Any, Result]],
    done: Callable[[Item, Result], None],
    window: int,
) -> None:
    """Works on up to `window` items at once, and hands over results in the order of the items.

    The first error, in that order, ends it, and cancels what is under way.
    """
    under_way: deque[tuple[Item, asyncio.Task[Result]]] = deque()

    async def finish_first() -> None:
        item, task = under_way[0]
        result = await task
        under_way.popleft()
        done(item, result)

    try:
        for item in items:
            under_way.append((item, asyncio.create_task(work(item))))
            if len(under_way) == window:
                await finish_first()
        while under_way:
            await finish_first()
    finally:
        for _, task in under_way:
            task.cancel()
        await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)

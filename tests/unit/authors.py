"""A language model of a test's own, for judges that write."""

import asyncio
from collections.abc import Callable, Sequence

from rlhf.judges.questions.choosing import Writing
from rlhf.records import Completion, Message, Prompt

PROMPT = Prompt("p", (Message("user", "What is 2 + 2?"),), (1,))


def completions(*texts: str) -> list[Completion]:
    return [Completion("p", i, (i,), (0.0,), text, False, 0) for i, text in enumerate(texts)]


class Author:
    """Chooses and writes by functions of the question, and remembers what it was asked."""

    def __init__(
        self,
        choice: Callable[[str], Sequence[float] | None],
        write: Callable[[str, Writing], str | None] = lambda question, writing: "noted",
    ) -> None:
        self.choice, self.text = choice, write
        self.written: list[str] = []
        self.chosen: list[str] = []

    async def choose(self, question: str, labels: Sequence[str]) -> tuple[float, ...] | None:
        self.chosen.append(question)
        await asyncio.sleep(0)
        found = self.choice(question)
        return None if found is None else tuple(found)

    async def write(self, question: str, writing: Writing) -> str | None:
        self.written.append(question)
        await asyncio.sleep(0)
        return self.text(question, writing)


def better(*ranked: str) -> Callable[[str], tuple[float, float]]:
    """Prefers what stands earlier."""

    def choice(question: str) -> tuple[float, float]:
        first, second = (
            question.split(f"=== Answer {side} ===\n")[1].split("\n")[0] for side in "AB"
        )
        wins = float(ranked.index(first) < ranked.index(second))
        return wins, 1 - wins

    return choice

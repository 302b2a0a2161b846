"""Tests that the policy writes when it is asked for them, apart from its programs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from rlhf.problems import InputError
from rlhf.records import Completion, Judgement, Prompt, Verdict, transcript
from rlhf.stages import Judge

WRITTEN = "written_tests"
"""The column in which a prompt's row has them on their way to the judge: texts."""
QUESTION = """\
Below is a programming task. Do not solve it. Write tests of a right solution instead: lines such as
assert name(1, [2]) == 3
each of which calls the function with arguments that are written out, and compares with the result \
that is written out. Think of usual cases, of borders and of empty input. Write nothing else.

=== Task ===
{prompt}

=== End ===
"""


class Writer(Protocol):
    """The policy, as it is by then, asked for texts of any kind."""

    async def write(
        self, id: str, question: str, num: int, seed: int
    ) -> tuple[Completion, ...] | str:
        """`num` answers to a question about the prompt `id`; in words, why it cannot be asked."""
        ...


def question_in(file: str | None) -> str:
    """With {prompt} in it; raises InputError for a file that is none."""
    if file is None:
        return QUESTION
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError([f"judge.test_question={file}: cannot be read ({error})"]) from error
    if "{prompt}" not in text:
        raise InputError(
            [f"judge.test_question={file}: has no {{prompt}}; write it where the task is to stand"]
        )
    return text


class WrittenTests:
    """`rlhf.stages.Judge` by another one, which finds the policy's tests in the prompt's row."""

    def __init__(self, judge: Judge, writer: Writer, num: int, question: str, seed: int) -> None:
        self._judge = judge
        self._writer = writer
        self._num = num
        self._question = question
        self._seed = seed

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        """No scores, and why, where the policy cannot be asked."""
        # Braces in a task are no fields.
        question = self._question.replace("{prompt}", transcript(prompt.messages))
        found = await self._writer.write(prompt.id, question, self._num, self._seed)
        if isinstance(found, str):
            size = len(completions)
            return Judgement((None,) * size, "code/written@1", reasons=(found,) * size)
        row: Mapping[str, Any] = {**(prompt.row or {}), WRITTEN: list(map(whole_lines, found))}
        verdict = await self._judge.judge(replace(prompt, row=row), completions)
        num_tokens = sum(one.num_own_tokens for one in found)
        return replace(verdict, num_written_tokens=verdict.num_written_tokens + num_tokens)


def whole_lines(written: Completion) -> str:
    """The text without a last line that the token limit has cut: `== 12` may have been `== 123`."""
    return written.text.rpartition("\n")[0] if written.truncated else written.text

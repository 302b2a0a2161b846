"""Judge workers run programs in the sandbox, on whatever event loop Ray gives them."""

import asyncio

import pytest

from actors.group import Allotment, start_workers, stop_workers, wait_ready
from actors.judge import JudgeService, JudgeWorker
from rlhf.judges.code import CodeJudgeConfig
from rlhf.records import Completion, Message, Prompt

pytestmark = pytest.mark.usefixtures("ray_session")
PROGRAMS = (
    "def f(x): return x + 1",
    "def f(x): return x",
    "import os\ndef f(x): return x + 1\nos._exit(0)",
    "print('passed'",
)


def group(place: int) -> tuple[Prompt, tuple[Completion, ...]]:
    tests = [f"assert f({place}) == {place + 1}", f"assert abs(f({place})) == {place + 1}"]
    # Tests that are data in every other group, and code in the rest.
    row = {"test_list": tests[: 1 + place % 2]}
    prompt = Prompt(str(place), (Message("user", "?"),), (1,), row=row)
    texts = enumerate(PROGRAMS)
    return prompt, tuple(Completion(str(place), i, (i,), (0.0,), t, False, 0) for i, t in texts)


async def test_two_workers_judge_programs():
    workers = start_workers(
        JudgeWorker, Allotment("judge", 2, 1, 0, 1), CodeJudgeConfig(timeout_s=20).build
    )
    try:
        await wait_ready(workers, 120)
        service = JudgeService(workers, timeout_s=120)
        verdicts = await asyncio.gather(*(service.judge(*group(place)) for place in range(4)))
    finally:
        stop_workers(workers)
    assert [verdict.scores for verdict in verdicts] == [(1, 0, 0, 0)] * 4
    assert verdicts[0].reasons[1] == "test 1: gave 0, not 1"
    assert verdicts[1].reasons[2].endswith("the program ended early")
    assert verdicts[3].reasons[3].startswith("SyntaxError: ")

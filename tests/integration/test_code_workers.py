"""Judge workers run programs in the sandbox, on whatever event loop Ray gives them."""

import asyncio

import pytest
from letter_models import write_writing_model

from actors.group import Allotment, start_workers, stop_workers, wait_ready
from actors.judge import JudgeService, JudgeWorker
from actors.rollout import RolloutService, RolloutWorker
from actors.self_evaluation import PolicyWriter
from rlhf.config.models import (
    DType,
    Rendering,
    TinyModelConfig,
    TransformersRolloutConfig,
    Transport,
    Vocabulary,
)
from rlhf.judges.code import CodeJudgeConfig
from rlhf.judges.programs.ranking import Score
from rlhf.judges.programs.tests import Format
from rlhf.records import Completion, Message, Prompt
from rlhf.toys.tiny import build_tiny_model

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


async def test_the_policy_s_workers_write_tests_for_the_judge_s(tmp_path):
    """By a model that goes on with two tests wherever a question ends with an exclamation mark."""
    tests = ["\nassert f(1) == 2", "\nassert f(-1) == 0"]
    tiny = TinyModelConfig(
        num_layers=1, width=64, num_heads=2, vocabulary=Vocabulary.bytes, words=tests
    )
    build_tiny_model(tiny, tmp_path / "tiny", seed=3)
    path = str(write_writing_model(tmp_path / "tiny", tmp_path / "writes", "!" + "".join(tests)))
    (tmp_path / "question.txt").write_text("Write tests of: {prompt}!")
    config = CodeJudgeConfig(
        tests=Format.written,
        test_question=str(tmp_path / "question.txt"),
        score=Score.share,
        timeout_s=20,
    )
    rollout = TransformersRolloutConfig(max_prompt_tokens=32, max_completion_tokens=16)
    engine = (path, DType.float32, rollout, Transport.object_store, 1)
    judging = start_workers(JudgeWorker, Allotment("judge", 1, 1, 0, 1), config.build)
    writing = start_workers(RolloutWorker, Allotment("rollout", 1, 1, 0, 1), *engine)
    try:
        await wait_ready([*judging, *writing], 120)
        service = RolloutService(writing, calls_per_worker=1, timeout_s=120)
        writer = PolicyWriter(service, path, Rendering.auto, rollout)
        judge = config.with_policy(JudgeService(judging, timeout_s=120), lambda: writer, seed=1)
        texts = ("def f(x): return x + 1", "def f(x): return abs(x) + 1", "def f(x): return x")
        answers = tuple(Completion("p", i, (i,), (0.0,), t, False, 0) for i, t in enumerate(texts))
        verdict = await judge.judge(Prompt("p", (Message("user", "f"),), (1,)), answers)
        long = Prompt("q", (Message("user", "f" * 99),), (1,))
        lost = await judge.judge(long, answers)
    finally:
        stop_workers([*judging, *writing])
    assert verdict.scores == (1, 0.5, 0)
    assert lost.scores == (None,) * 3 and "leaves no room for an answer" in lost.reasons[0]

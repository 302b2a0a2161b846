"""A user's reward in real judge workers, and as real runs begin: each way of getting it wrong gives
its one line, and harms nothing else."""

import asyncio
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from actors.group import Allotment, start_workers, stop_workers, wait_ready
from actors.judge import JudgeService, JudgeWorker
from rlhf.functions.served import MAX_REPLY_BYTES
from rlhf.judges.function import FunctionJudgeConfig
from rlhf.launching.command_line import checked
from rlhf.launching.configuration import CONF, register_schemas
from rlhf.launching.launch import launch
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt

REWARD = """
import os, time
def score(prompt, completions, row):
    if prompt == "length": return [1.0]
    if prompt == "nan": return [float("nan"), 1.0]
    if prompt == "exception": return [row["absent"], 1.0]
    if prompt == "hang": time.sleep(3600)
    if prompt == "huge": return ["x" * (17 << 20), 1.0]
    if prompt == "print": print("y" * (8 << 20))
    if prompt == "death": os._exit(7)
    return [float(len(text)) for text in completions]
"""
TOLD = {
    "length": "returned 1 values for 2 completions: [1.0]",
    "nan": "returned nan for a completion; None says that there is no score",
    "exception": "KeyError: 'absent' (rewards.py line 6)",
    "hang": "is not done within 3 s",
    "huge": f"bytes, and {MAX_REPLY_BYTES} are read at most",
    "death": "ended its process, with code 7",
}


def group(text: str, number: int) -> tuple[Prompt, tuple[Completion, ...]]:
    prompt = Prompt(str(number), (Message("user", text),), (1,), row={})
    answers = enumerate(("a", "bb"))
    return prompt, tuple(
        Completion(str(number), i, (number, i), (0.0,), answer, False, 0) for i, answer in answers
    )


@pytest.mark.usefixtures("ray_session")
async def test_a_worker_tells_each_failure_in_one_line_and_judges_on(tmp_path):
    (tmp_path / "rewards.py").write_text(REWARD)
    config = FunctionJudgeConfig(function=f"{tmp_path}/rewards.py:score", timeout_s=3)
    workers = start_workers(JudgeWorker, Allotment("judge", 1, 1, 0, 1), config.builder())
    (tmp_path / "rewards.py").unlink()
    asked = [name for wrong in TOLD for name in (wrong, "honest")] + ["print"]
    try:
        await wait_ready(workers, 120)
        service = JudgeService(workers, timeout_s=120)
        found = await asyncio.gather(*(service.judge(*group(a, i)) for i, a in enumerate(asked)))
    finally:
        stop_workers(workers)
    for name, verdict in zip(asked, found, strict=True):
        if name not in TOLD:
            assert verdict.scores == (1.0, 2.0) and not any(verdict.reasons), name
            continue
        assert verdict.scores == (None, None) and verdict.failed == (True, True)
        assert all(TOLD[name] in why and "\n" not in why for why in verdict.reasons)


DEF = "def score(prompt, completions, row):\n    "
WRONG = {
    "missing file": (None, "there is no file "),
    "missing name": ("def scores(prompt, completions, row): pass", "did you mean scores?"),
    "syntax error": ("def score(prompt:", "own.py line 1: '(' was never closed"),
    "wrong arity": ("def score(prompt): pass", "is called with (prompt, completions, row)"),
    "wrong length": (f"{DEF}return [1.0]", "returned 1 values for 2 completions: [1.0]"),
    "nan": (f"{DEF}return [float('nan'), 1]", "returned nan for a completion; None says"),
    "exception": (f"{DEF}return [1 / 0]", "ZeroDivisionError: division by zero (own.py line 2)"),
    "hang": (f"{DEF}while True: pass", "is not done within 0.5 s"),
    "huge output": (f"{DEF}return 'x' * (17 << 20)", "are read at most"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_run_is_refused_in_one_line_before_it_starts(tmp_path: Path, wrong):
    text, told = WRONG[wrong]
    if text is not None:
        (tmp_path / "own.py").write_text(text)
    words = ["experiment=demo", "judge=function", f"judge.function={tmp_path}/own.py:score"]
    words += ["judge.timeout_s=0.5", "data.num_prompts=40", f"run.dir={tmp_path}/run"]
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = checked(compose("train", words))
    with pytest.raises(InputError) as refused:
        launch(config, words)
    (line,) = refused.value.problems
    assert line.startswith(f"judge.function={tmp_path}/own.py:score: ") and told in line
    assert "\n" not in line and not (tmp_path / "run" / "config.yaml").exists()

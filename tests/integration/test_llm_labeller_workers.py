"""label=llm on rollout workers of its own, with a model that is made to answer."""

import json
import shutil
import string
from pathlib import Path

import pytest
from letter_models import write_writing_model

from rlhf.config.data import LabelSource
from rlhf.config.models import DType, TransformersRolloutConfig
from rlhf.feedback.__main__ import run
from rlhf.feedback.config import FeedbackConfig
from rlhf.feedback.labeller import LabellerFailed
from rlhf.feedback.question import PROMPT
from rlhf.judges.llm import LLMJudgeConfig
from rlhf.problems import InputError

POSITIONS = 4096
ANSWER = "mixed: <ok>"
"""No character of it stands twice, so that each says which is next."""


@pytest.fixture(scope="module")
def answering_model(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The byte model with room for a whole question, that ends any question of ours with ANSWER."""
    directory = tmp_path_factory.mktemp("labeller") / "model"
    text = PROMPT[-1] + ANSWER
    return write_writing_model(byte_model, directory, text, max_position_embeddings=POSITIONS)


def config(tmp_path: Path, model: Path, **judge) -> FeedbackConfig:
    log = tmp_path / "log.jsonl"
    texts = ["q", "a", "No <eos>", "b", "x" * (3 * POSITIONS)]
    messages = [{"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate(texts)]
    rows = [{"id": str(n), "messages": messages[: 3 + 2 * (n == 4)]} for n in range(9)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FeedbackConfig(
        path=str(log),
        out=str(tmp_path / "out"),
        label=LabelSource.llm,
        judge=LLMJudgeConfig(path=str(model), **{"num_workers": 2, "concurrency": 2, **judge}),
        rollout=TransformersRolloutConfig(),
        dtype=DType.float32,
    )


@pytest.mark.usefixtures("ray_session")
def test_workers_label_every_turn(answering_model, tmp_path):
    made = config(tmp_path, answering_model, max_failure_rate=0.1)
    run(made)
    summary = json.loads((Path(made.out) / "summary.json").read_text())
    turns = summary["turns"]
    assert (turns["mixed"], turns["unknown"]) == (9, 1)
    labeller = summary["labeller"]
    assert labeller["model"].startswith(f"{answering_model.name}-")
    assert (labeller["turns"], labeller["failures"]) == (10, {"too_long": 1})


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("template", [None, "{{ messages[0]['content'] }}<think>"])
def test_a_thought_is_left_out(template, byte_model, tmp_path):
    letters = [letter for letter in string.printable[:90] if letter not in ANSWER]
    thought = f"<think>{''.join(letters)}</think>{ANSWER}"
    text = thought if template else PROMPT[-1] + thought
    model = write_writing_model(
        byte_model, tmp_path / "model", text, template, max_position_embeddings=POSITIONS
    )
    made = config(tmp_path, model, max_failure_rate=0.1)
    run(made)
    summary = json.loads((Path(made.out) / "summary.json").read_text())
    assert (summary["turns"]["mixed"], summary["turns"]["unknown"]) == (9, 1)
    assert summary["labeller"]["failures"] == {"too_long": 1}


@pytest.mark.usefixtures("ray_session")
def test_a_thought_without_an_end_is_no_label(byte_model, tmp_path):
    text = PROMPT[-1] + "<think>x, x"
    model = write_writing_model(
        byte_model, tmp_path / "model", text, max_position_embeddings=POSITIONS
    )
    with pytest.raises(
        LabellerFailed, match=r"\(9 no_answer, 1 too_long\).*no thought ends within"
    ):
        run(config(tmp_path, model))


@pytest.mark.usefixtures("ray_session")
def test_a_model_that_mumbles_leaves_nothing_behind(byte_model, tmp_path):
    mumbling = tmp_path / "mumbling"
    shutil.copytree(byte_model, mumbling)
    with pytest.raises(LabellerFailed, match="failed on 10 of 10 turns"):
        run(config(tmp_path, mumbling))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "mumbling"]


def test_models_that_cannot_label_are_refused(byte_model, tmp_path):
    for settings, told in [
        ({"model": byte_model, "max_tokens": 99}, r"allow \(99 tokens\)"),
        ({"model": tmp_path}, f"judge.path={tmp_path}: it has no config.json"),
        ({"model": tmp_path / "absent"}, "absent: no such folder"),
    ]:
        with pytest.raises(InputError, match=told):
            run(config(tmp_path, **settings))
        assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]

"""label=llm on rollout workers of its own, with a model that is made to answer."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rlhf.config.feedback import FeedbackConfig, LabelSource
from rlhf.config.judges import LLMJudgeConfig
from rlhf.config.models import DType, TransformersRolloutConfig
from rlhf.feedback.__main__ import run
from rlhf.feedback.labeller import LabellerFailed
from rlhf.feedback.question import PROMPT
from rlhf.problems import InputError

POSITIONS = 4096
ANSWER = "mixed: <ok>"
"""No character of it stands twice, so that each says which is next."""


@pytest.fixture(scope="module")
def answering_model(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The byte model with room for a whole question, that ends any question of ours with ANSWER."""
    directory = tmp_path_factory.mktemp("labeller") / "model"
    tokenizer = AutoTokenizer.from_pretrained(byte_model, model_max_length=POSITIONS)
    shape = AutoConfig.from_pretrained(
        byte_model, tie_word_embeddings=False, max_position_embeddings=POSITIONS
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    ids = [*tokenizer(PROMPT[-1] + ANSWER)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        # Without its layers' outputs, a model sees the last token alone.
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for token, following in pairwise(ids):
            model.lm_head.weight[following] = model.model.embed_tokens.weight[token]
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


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

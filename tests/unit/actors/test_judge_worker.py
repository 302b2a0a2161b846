"""Judges of one worker hold one model between them, and are each asked their own."""

from pathlib import Path

import pytest

from actors.judge import Asked, JudgeWorker
from rlhf.config.models import TinyModelConfig, Vocabulary
from rlhf.judges.base import JudgeConfig
from rlhf.judges.follow_up import FollowUpConfig
from rlhf.judges.groups import Group
from rlhf.judges.likelihood import LikelihoodConfig
from rlhf.judges.text import TextJudgeConfig
from rlhf.records import Completion, Message, Prompt
from rlhf.toys.tiny import build_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("judge") / "model"
    shape = TinyModelConfig(vocabulary=Vocabulary.bytes, num_layers=1, width=16, num_heads=2)
    build_tiny_model(shape, directory, seed=1)
    return str(directory)


def group(id: str, *texts: str) -> Group:
    prompt = Prompt(id, (Message("user", "1+1="),), (1,))
    made = (Completion(id, i, (1,), (), t, False, 0) for i, t in enumerate(texts))
    return Group(prompt, tuple(made))


async def served(worker: JudgeWorker, *requests: Asked) -> list:
    found = dict([one async for chunk in worker.serve(requests) for one in chunk])
    return [found[place] for place in range(len(requests))]


async def test_one_model_in_memory_for_judges_of_one_path_and_verdicts_as_of_each_alone(model: str):
    configs: list[JudgeConfig] = [
        LikelihoodConfig(path=model),
        FollowUpConfig(path=model),
        LikelihoodConfig(path=model, system="Be strict."),
    ]
    worker = JudgeWorker(*(config.builder() for config in configs))
    held = {id(judge._model._model) for judge in worker._judges}
    assert len(held) == 1
    asked = [Asked(place, group(id, "2", "eleven")) for id in "ab" for place in (2, 0, 1)]
    together = await served(worker, *asked)
    alone = [JudgeWorker(config.builder()) for config in configs]
    assert alone[0]._judges[0]._model._model is not worker._judges[0]._model._model
    for one, verdict in zip(asked, together, strict=True):
        assert [verdict] == await served(alone[one.judge], Asked(0, one.group))
    assert together[0].scores != together[1].scores


def test_who_shares_says_so(model: str, tmp_path: Path):
    likelihood, other = LikelihoodConfig(path=model), FollowUpConfig(path=model)
    assert likelihood.shares == other.shares is not None
    assert LikelihoodConfig(path=model, dtype="float32").shares != likelihood.shares
    assert LikelihoodConfig(path=str(tmp_path)).shares != likelihood.shares
    assert TextJudgeConfig().shares is None

"""Likelihoods by a language model's own softmax, and follow-ups that change sides."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.config.models import TinyModelConfig, Vocabulary
from rlhf.judges.follow_up import FollowUpConfig
from rlhf.judges.groups import Group
from rlhf.judges.likelihood import LikelihoodConfig
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt
from rlhf.toys.tiny import build_tiny_model

ONE = (Message("user", "1+1="),)
TURNS = (*ONE, Message("assistant", "3"), Message("user", "No, 1+1="))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "chat"])
def model(request, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("judge") / "model"
    shape = TinyModelConfig(
        vocabulary=Vocabulary.bytes, num_layers=1, width=16, num_heads=2, chat=request.param
    )
    build_tiny_model(shape, directory, seed=1)
    return directory


def group(messages: tuple[Message, ...], *texts: str, prefix: str = "") -> Group:
    prompt = Prompt("p", messages, (1,), prefix=prefix)
    return Group(
        prompt, tuple(Completion("p", i, (1,), (), t, False, 0) for i, t in enumerate(texts))
    )


def nats(directory: Path, before: str, text: str) -> torch.Tensor:
    """Of every token of the text, by the model itself."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    first = tokenizer(before, add_special_tokens=tokenizer.chat_template is None)["input_ids"]
    first = [one for one in first if one != tokenizer.eos_token_id or tokenizer.chat_template]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*first, *ids]])).logits[0, len(first) - 1 : -1]
    return logits.log_softmax(-1)[range(len(ids)), ids]


def rendered(directory: Path, messages: tuple[Message, ...]) -> str:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    if tokenizer.chat_template is None:
        return messages[0].content
    turns = [message._asdict() for message in messages]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def test_a_likelihood_is_the_model_s_own(model):
    judge = LikelihoodConfig(path=str(model)).build()
    (found,) = judge.judge([group(ONE, "2", "two!", "2")])
    expected = [nats(model, rendered(model, ONE), text).sum().item() for text in ("2", "two!")]
    assert found.scores == pytest.approx((*expected, expected[0]), abs=1e-5)
    (mean,) = LikelihoodConfig(path=str(model), mean=True).build().judge([group(ONE, "two!")])
    assert mean.scores == pytest.approx((expected[1] / 4,), abs=1e-5)
    assert found.judge != mean.judge


def test_an_answer_that_has_begun_is_judged_from_its_beginning(model):
    judge = LikelihoodConfig(path=str(model)).build()
    whole, begun = judge.judge([group(ONE, "two!"), group(ONE, "o!", prefix="tw")])
    assert whole.scores == begun.scores


def test_a_system_prompt_is_read_first(model):
    spoken = LikelihoodConfig(path=str(model), system="Be short.").build()
    plain = LikelihoodConfig(path=str(model)).build()
    (with_system,), (without,) = (judge.judge([group(ONE, "2")]) for judge in (spoken, plain))
    (inside,) = plain.judge([group((Message("system", "Be short."), *ONE), "2")])
    assert with_system.scores == inside.scores != without.scores


def test_what_cannot_be_read_is_missing(model):
    judge = LikelihoodConfig(path=str(model), max_tokens=20).build()
    (found,) = judge.judge([group(ONE, "2", "", "x" * 40)])
    assert found.scores[0] is not None and found.scores[1:] == (None, None)


def test_a_model_less_itself_is_nothing(model):
    one = LikelihoodConfig(path=str(model)).build()
    other = LikelihoodConfig(path=str(model)).build()
    groups = [group(TURNS, "2", "two")]
    (strong,), (weak,) = one.judge(groups), other.judge(groups)
    assert [a - b for a, b in zip(strong.scores, weak.scores, strict=True)] == [0, 0]


def test_a_follow_up_stands_where_the_user_would_speak_next(model):
    config = FollowUpConfig(path=str(model), satisfied=["Yes", "Good."], dissatisfied=["No"])
    (found,) = config.build().judge([group(ONE, "2")])
    if AutoTokenizer.from_pretrained(model).chat_template is None:
        before = "1+1=\n\n2\n\n"
    else:
        turns = (*ONE, Message("assistant", "2"), Message("user", "@"))
        tokenizer = AutoTokenizer.from_pretrained(model)
        messages = [turn._asdict() for turn in turns]
        before = tokenizer.apply_chat_template(messages, tokenize=False).rpartition("@")[0]
    yes, good, no = (nats(model, before, text).mean().item() for text in ("Yes", "Good.", "No"))
    assert found.scores == pytest.approx(((yes + good) / 2 - no,), abs=1e-5)


def test_lists_that_change_sides_turn_the_score_round(model):
    groups = [group(TURNS, "2", "three") if "chat" in str(model) else group(ONE, "2", "three")]
    config = FollowUpConfig(path=str(model))
    swapped = FollowUpConfig(
        path=str(model), satisfied=config.dissatisfied, dissatisfied=config.satisfied
    )
    (one,), (other,) = config.build().judge(groups), swapped.build().judge(groups)
    assert all(a == -b and a != 0 for a, b in zip(one.scores, other.scores, strict=True))


def test_what_cannot_be_is_told(tmp_path):
    (problem,) = FollowUpConfig(path="m", satisfied=[]).problems()
    assert problem.startswith("judge.satisfied=[]: give at least one follow-up")
    with pytest.raises(InputError, match=f"judge.path={tmp_path}: it has no config.json"):
        LikelihoodConfig(path=str(tmp_path)).inspect(set())

"""A reward model's scores are those of the model itself, whatever the batch."""

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rlhf.config.models import Vocabulary
from rlhf.judges.groups import Group
from rlhf.judges.reward_model import RewardModelConfig
from rlhf.models.files import find_model
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt
from rlhf.reward.new_head import start_classifier
from rlhf.toys.tiny import build_tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<eos>{% endfor %}"
    "{% if 'refuse' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}"
)


def shape(**changes) -> Qwen2Config:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 258}
    rest = {"initializer_range": 0.5, "eos_token_id": 1, "num_labels": 1, "bos_token_id": None}
    return Qwen2Config(**{**sizes, **heads, **rest, **changes})


def write(directory, model_class=Qwen2ForSequenceClassification, template=TEMPLATE, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model_class(shape(**changes)).save_pretrained(directory)
    tokenizer = build_tokenizer(Vocabulary.bytes)
    # A template writes its special tokens as text.
    tokenizer.split_special_tokens = False
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return directory


def group(id: str, question: str, *texts: str) -> Group:
    messages = (Message("system", "Judge."), Message("user", question))
    prompt = Prompt(id, messages, (1,))
    completions = [Completion(id, i, (1,), (0.0,), text, False, 0) for i, text in enumerate(texts)]
    return Group(prompt, tuple(completions))


def alone(directory, ids: list[int]) -> float:
    """What the model itself says of one unpadded row."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, use_safetensors=True)
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits.item()


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """Without a padding token, and with a template that ends with the end token."""
    return write(tmp_path_factory.mktemp("chat") / "rm")


@pytest.fixture(scope="module")
def judge(chat):
    return RewardModelConfig(path=str(chat), micro_batch_tokens=100).build()


GROUPS = [group("a", "1+1?", "2", "two, I should think", ""), group("b", "Why is that so?", "é")]


def chat_text(group_: Group, sample: int) -> str:
    return (
        f"system: Judge.<eos>user: {group_.prompt.text}<eos>"
        f"assistant: {group_.completions[sample].text}<eos>"
    )


def test_scores_are_those_of_single_unpadded_rows(chat, judge):
    tokenizer = AutoTokenizer.from_pretrained(chat)
    judged = judge.judge(GROUPS)
    assert [len(j.scores) for j in judged] == [3, 1]
    for group_, judgement in zip(GROUPS, judged, strict=True):
        for i, score in enumerate(judgement.scores):
            ids = tokenizer(chat_text(group_, i))["input_ids"]
            # The end token is one token, and the row's last: padding must not hide it.
            assert ids[-1] == tokenizer.eos_token_id
            assert score == pytest.approx(alone(chat, ids), abs=1e-5)
    assert len({score for j in judged for score in j.scores}) == 4


def test_a_declared_padding_token_is_used(tmp_path):
    directory = write(tmp_path / "rm", pad_token_id=0)
    judge = RewardModelConfig(path=str(directory)).build()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    scores = judge.judge(GROUPS)[0].scores
    for i, score in enumerate(scores):
        ids = tokenizer(chat_text(GROUPS[0], i))["input_ids"]
        assert score == pytest.approx(alone(directory, ids), abs=1e-5)


def test_without_a_template_conversation_and_completion_are_a_text_pair(tmp_path):
    directory = write(tmp_path / "rm", template=None)
    judge = RewardModelConfig(path=str(directory)).build()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    scores = judge.judge(GROUPS)[0].scores
    for completion, score in zip(GROUPS[0].completions, scores, strict=True):
        ids = tokenizer("system: Judge.\n\nuser: 1+1?", completion.text)["input_ids"]
        assert score == pytest.approx(alone(directory, ids), abs=1e-5)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=6),
    budget=st.integers(1, 500),
)
def test_batches_do_not_change_scores(judge, texts, budget):
    groups = [group(str(i), "?", text) for i, text in enumerate(texts)]
    judge._micro_batch_tokens = budget
    together = [j.scores[0] for j in judge.judge(groups)]
    single = [judge.judge([g])[0].scores[0] for g in groups]
    assert together == pytest.approx(single, abs=1e-5)


def test_too_long_is_no_score(chat):
    fits = len(chat_text(group("a", "?", "xx"), 0).replace("<eos>", "$"))
    judge = RewardModelConfig(path=str(chat), max_tokens=fits).build()
    scores = judge.judge([group("a", "?", "xx", "xxx")])[0].scores
    assert scores[0] is not None
    assert scores[1] is None


def test_a_limit_of_the_model_counts_too(tmp_path):
    directory = write(tmp_path / "rm", max_position_embeddings=64)
    judge = RewardModelConfig(path=str(directory)).build()
    assert judge.judge([group("a", "?", "x" * 64)])[0].scores == (None,)


def test_positions_that_begin_behind_the_padding_token(tmp_path):
    """As RoBERTa's: of 40 there are 38 for a padding token of 1."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = RobertaConfig(
        **sizes, num_attention_heads=2, vocab_size=258, max_position_embeddings=40, num_labels=1,
        pad_token_id=1,
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = build_tokenizer(Vocabulary.bytes)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    judge = RewardModelConfig(path=str(tmp_path)).build()
    one = group("a", "?", "x" * 31, "x" * 32)  # behind seven letters
    longest, longer = judge.judge([one])[0].scores
    assert longest is not None and longer is None


def test_what_the_template_refuses_is_no_score(chat, judge):
    refused = group("a", "?", "x")
    messages = (Message("user", "refuse"), Message("user", "?"))
    refused = refused._replace(prompt=Prompt("a", messages, (1,)))
    judged = judge.judge([refused, group("b", "?", "x")])
    assert judged[0].scores == (None,)
    assert judged[1].scores[0] is not None


def test_a_score_that_is_not_finite_is_no_score(tmp_path):
    directory = write(tmp_path / "rm")
    model = AutoModelForSequenceClassification.from_pretrained(directory, use_safetensors=True)
    model.score.weight.data.fill_(float("nan"))
    model.save_pretrained(directory)
    judge = RewardModelConfig(path=str(directory)).build()
    assert judge.judge([group("a", "?", "x")])[0].scores == (None,)


def test_nothing_to_judge(judge):
    assert judge.judge([]) == []


def test_name_and_version(chat, judge, tmp_path):
    other = write(tmp_path / "rm", hidden_size=8)
    names = [j.judge([group("a", "?", "x")])[0].judge for j in (judge, config(other).build())]
    assert all(name.startswith("reward_model/rm@") for name in names)
    assert names[0] != names[1]


def config(path) -> RewardModelConfig:
    return RewardModelConfig(path=str(path))


def test_dtype(chat):
    judge = RewardModelConfig(path=str(chat), dtype="bfloat16").build()
    assert {p.dtype for p in judge._classifier.model.parameters()} == {torch.bfloat16}
    assert judge.judge([group("a", "?", "x")])[0].scores[0] is not None


# --- models that are refused ---------------------------------------------------------------------


def refusal(path, **changes) -> str:
    with pytest.raises(InputError) as caught:
        RewardModelConfig(path=str(path), **changes).build()
    return str(caught.value)


def test_more_labels_than_one(tmp_path):
    assert "num_labels=2" in refusal(write(tmp_path, num_labels=2))


def test_a_language_model_without_a_score_head(tmp_path):
    write(tmp_path, model_class=Qwen2ForCausalLM, tie_word_embeddings=True)
    assert "weights lack score.weight" in refusal(tmp_path)


def test_only_pickled_weights(chat, tmp_path):
    shutil.copytree(chat, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "pickled (pytorch_model.bin)" in refusal(tmp_path)


def test_broken_weights(chat, tmp_path):
    shutil.copytree(chat, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    assert str(tmp_path) in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[", '{"version": "1.0"}'])
def test_a_broken_tokenizer_is_told_before_a_worker_starts(chat, tmp_path, content):
    shutil.copytree(chat, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="its tokenizer cannot be loaded"):
        find_model(RewardModelConfig(path=str(tmp_path)))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"num_hidden_layers": 1}, "12 weights that a model of its config.json has no place for"),
        ({"hidden_act": "foo"}, "foo"),
        ({"hidden_size": 32}, "and (32,) by its config.json"),
    ],
)
def test_weights_of_another_configuration(chat, tmp_path, change, told):
    """Of the first the judge would be a half of the model."""
    shutil.copytree(chat, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    config.pop("layer_types", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert told in refusal(tmp_path)
    with pytest.raises(InputError, match=r"model\.path="):
        start_classifier(tmp_path, 1, 64, seed=1)


def test_code_that_comes_with_a_model_never_runs(chat, tmp_path):
    shutil.copytree(chat, tmp_path, dirs_exist_ok=True)
    settings_ = json.loads((tmp_path / "config.json").read_text())
    settings_ |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(settings_))
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    assert "config.json cannot be used" in refusal(tmp_path)


def test_all_faults_at_once(tmp_path):
    with pytest.raises(InputError) as caught:
        find_model(RewardModelConfig(path=str(tmp_path), dtype="float8"))
    assert len(caught.value.problems) == 3
    assert "judge.dtype=float8: allowed: auto, float32, bfloat16" in caught.value.problems


def test_no_such_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "no such folder" in refusal(tmp_path / "absent")
    assert "no such folder" in refusal("nobody/nothing")

"""A pair model compares by what the model itself says of a pair, in both orders."""

import math

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from rlhf.config.models import Vocabulary
from rlhf.judges.groups import Group
from rlhf.judges.pair_model import PairModelConfig
from rlhf.models.files import find_model
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt
from rlhf.toys.tiny import build_tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if 'refuse' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
EOS = 1


def write(directory, model_class=LlamaForSequenceClassification, template=None, **changes):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 258}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.5}
    rest = {"eos_token_id": EOS, "bos_token_id": None, "num_labels": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = model_class(LlamaConfig(**{**sizes, **heads, **rest, **changes}))
    model.save_pretrained(directory)
    tokenizer = build_tokenizer(Vocabulary.bytes)
    tokenizer.split_special_tokens = False  # as most tokenizers have it: text can be special
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return directory


def change(directory, edit):
    model = AutoModelForSequenceClassification.from_pretrained(directory, use_safetensors=True)
    with torch.no_grad():
        edit(model)
    model.save_pretrained(directory)
    return directory


def group(id: str, question: str, *texts: str) -> Group:
    prompt = Prompt(id, (Message("user", question),), (1,))
    completions = [Completion(id, i, (1,), (0.0,), text, False, 0) for i, text in enumerate(texts)]
    return Group(prompt, tuple(completions))


def judge_of(directory, **changes):
    return PairModelConfig(path=str(directory), **changes).build()


def ids(*texts: str) -> list[int]:
    """By hand: each text's bytes, closed by the end token."""
    tokenizer = build_tokenizer(Vocabulary.bytes)
    return [id for text in texts for id in (*tokenizer(text)["input_ids"], EOS)]


def logit(directory, row: list[int]) -> float:
    """What the model itself says of one unpadded row."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, use_safetensors=True)
    with torch.inference_mode():
        return model(input_ids=torch.tensor([row])).logits.item()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def both_orders(directory, prompt: str, first: str, second: str) -> tuple[float, float]:
    """The probability of `first` as it is read first, and as it is read second."""
    return (
        sigmoid(logit(directory, ids(prompt, first, second))),
        1 - sigmoid(logit(directory, ids(prompt, second, first))),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain") / "pm")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return write(tmp_path_factory.mktemp("chat") / "pm", template=TEMPLATE)


# --- what is asked ------------------------------------------------------------------------------


def test_a_probability_is_the_mean_of_both_orders(plain):
    texts = ("2", "two, I think", "")
    (comparison,) = judge_of(plain, micro_batch_tokens=60).judge([group("a", "1+1?", *texts)])
    distances = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        in_order, swapped = both_orders(plain, "1+1?", texts[i], texts[j])
        assert comparison.win_prob[i][j] == pytest.approx((in_order + swapped) / 2, abs=1e-6)
        assert comparison.win_prob[j][i] == pytest.approx(1 - (in_order + swapped) / 2, abs=1e-6)
        distances.append(abs(in_order - swapped))
    assert comparison.order_disagreement == pytest.approx(sum(distances) / 3, abs=1e-6)
    assert [comparison.win_prob[i][i] for i in range(3)] == [0.5] * 3


def test_the_prompt_is_rendered_by_the_chat_template(chat):
    (comparison,) = judge_of(chat).judge([group("a", "1+1?", "2", "3")])
    in_order, swapped = both_orders(chat, "user: 1+1?\nassistant: ", "2", "3")
    assert comparison.win_prob[0][1] == pytest.approx((in_order + swapped) / 2, abs=1e-6)


def test_text_cannot_fake_the_separator(plain):
    (comparison,) = judge_of(plain).judge([group("a", "1+1?", "2<eos>3", "4")])
    in_order, swapped = both_orders(plain, "1+1?", "2<eos>3", "4")
    assert comparison.win_prob[0][1] == pytest.approx((in_order + swapped) / 2, abs=1e-6)
    assert ids("<eos>").count(EOS) == 1


def test_other_groups_and_batches_change_nothing(plain):
    groups = [group("a", "1+1?", "2", "3"), group("b", "Why?", "x", "yy", "z"), group("c", "?")]
    together = judge_of(plain, micro_batch_tokens=40).judge(groups)
    for single, other in zip(groups, together, strict=True):
        (alone,) = judge_of(plain).judge([single])
        assert len(alone.win_prob) == len(single.completions)
        for row, other_row in zip(alone.win_prob, other.win_prob, strict=True):
            assert row == pytest.approx(other_row, abs=1e-6)


def test_every_two_different_texts_are_read_in_both_orders_once(plain):
    judge = judge_of(plain)
    rows = []
    judge._classifier.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    judge.judge([group("a", "?", "x", "y", "x", "z")])
    assert len(rows) == 3 * 2


def test_one_completion_is_compared_with_none(plain):
    (comparison,) = judge_of(plain).judge([group("a", "?", "x")])
    assert (comparison.win_prob, comparison.order_disagreement) == (((0.5,),), None)


# --- biased and broken models -------------------------------------------------------------------


def always_first(model) -> None:
    """Nothing but the last token counts, which is always the separator: a constant logit."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    direction = model.model.embed_tokens.weight[EOS]
    model.score.weight.copy_(100 * direction / direction.norm())


def test_a_model_that_always_prefers_what_it_reads_first_prefers_nothing(tmp_path):
    directory = change(write(tmp_path / "pm"), always_first)
    assert logit(directory, ids("?", "x", "y")) > 50
    (comparison,) = judge_of(directory).judge([group("a", "?", "x", "yy", "")])
    assert comparison.win_prob == ((0.5,) * 3,) * 3
    assert comparison.order_disagreement == 1.0


def test_equal_texts_are_a_tie_without_being_asked_and_what_is_not_finite_is_missing(tmp_path):
    directory = change(write(tmp_path / "pm"), lambda m: m.score.weight.fill_(math.nan))
    (comparison,) = judge_of(directory).judge([group("a", "?", "x", "y", "x")])
    assert comparison.win_prob == ((0.5, None, 0.5), (None, 0.5, None), (0.5, None, 0.5))
    assert comparison.order_disagreement is None


def test_a_pair_that_is_too_long_is_missing(plain):
    fits = len(ids("?", "xx", "y"))
    (comparison,) = judge_of(plain, max_tokens=fits).judge([group("a", "?", "xx", "y", "zz")])
    assert comparison.win_prob[0][1] is not None
    assert comparison.win_prob[1][2] is not None
    assert comparison.win_prob[0][2] is None and comparison.win_prob[2][0] is None
    assert comparison.failed == (False, True, False)


def test_what_the_template_refuses_is_missing(chat):
    groups = [group("a", "refuse", "x", "y"), group("b", "?", "x", "y")]
    refused, fine = judge_of(chat).judge(groups)
    assert refused.win_prob == ((0.5, None), (None, 0.5))
    assert fine.win_prob[0][1] is not None


# --- models -------------------------------------------------------------------------------------


def test_name_and_version_change_with_the_weights(plain, tmp_path):
    other = change(write(tmp_path / "pm"), lambda m: m.score.weight.mul_(2))
    names = [judge_of(d).judge([group("a", "?", "x")])[0].judge for d in (plain, other)]
    assert all(name.startswith("pair_model/pm@") for name in names)
    assert names[0] != names[1]


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        judge_of(path)
    return str(caught.value)


def test_a_model_of_another_judge_is_refused(tmp_path):
    write(tmp_path, num_labels=4)
    with pytest.raises(InputError, match="num_labels=4, and a pair model has 1"):
        find_model(PairModelConfig(path=str(tmp_path)))
    write(tmp_path)
    (tmp_path / "reward.json").write_text('{"kind": "regression", "temperature": null}')
    assert "was trained with kind=regression; use it with judge=reward_model" in refusal(tmp_path)
    (tmp_path / "reward.json").write_text('{"kind": "pair", "temperature": null}')
    assert judge_of(tmp_path).judge([]) == []


def test_a_language_model_is_refused(tmp_path):
    write(tmp_path, model_class=LlamaForCausalLM, tie_word_embeddings=True)
    assert "weights lack score.weight" in refusal(tmp_path)


def test_a_tokenizer_without_separator_is_refused(tmp_path):
    write(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    assert "neither a separator nor an end token" in refusal(tmp_path)

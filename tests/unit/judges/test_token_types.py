"""Models that tell texts apart by token types, as BERT does, are given them wherever they judge."""

import math
from pathlib import Path

import pytest
import torch
from reward_command import group
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rlhf.config.models import ModelConfig
from rlhf.config.reward import Kind, RewardTrainingConfig
from rlhf.data.preference_files import Example
from rlhf.judges.gpm import GPMConfig
from rlhf.judges.models.classifiers import Classifier, distinct
from rlhf.judges.pair_model import PairModelConfig
from rlhf.judges.reward_model import RewardModelConfig
from rlhf.records import Message
from rlhf.reward.encoding import Encoder
from rlhf.reward.training import _logits

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "why", "so", "it", "is"]
TYPED, UNTYPED = ["input_ids", "token_type_ids", "attention_mask"], ["input_ids", "attention_mask"]
CLS, SEP, WHY, SO, IT, IS = 1, 2, 4, 5, 6, 7


def write(directory: Path, decide, inputs: list[str] | None = TYPED, **changes) -> Path:
    """A BERT of which `decide` sets the weights; without that, they are random and large.

    `inputs`: what its tokenizer says that the model takes; None if it does not say.
    """
    fast = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    fast.pre_tokenizer = BertPreTokenizer()
    fast.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    special: dict = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if inputs is not None:
        special["model_input_names"] = inputs
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="[UNK]", **special)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 64}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(WORDS)}
    rest = {"num_labels": 1, "initializer_range": 0.5, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = BertForSequenceClassification(BertConfig(**{**sizes, **heads, **rest, **changes}))
        if decide is not None:
            decide(model)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def by_second_text(model) -> None:
    """Its score is higher, the larger the share of the second text in a row; and, if it sees no
    second text, the lower, the longer the row.
    """
    for parameter in model.parameters():
        parameter.zero_()
    bert = model.bert
    bert.embeddings.word_embeddings.weight[4:, 0] = -0.1
    bert.embeddings.word_embeddings.weight[:4, 2] = 0.1
    bert.embeddings.token_type_embeddings.weight[1, 1] = 1.0
    bert.embeddings.LayerNorm.weight.fill_(1.0)
    (layer,) = bert.encoder.layer
    # Every token looks at all others alike, and the first one carries their mean to the head.
    layer.attention.self.value.weight.copy_(torch.eye(16))
    layer.attention.output.dense.weight.copy_(torch.eye(16))
    layer.attention.output.LayerNorm.weight.fill_(1.0)
    layer.output.LayerNorm.weight.fill_(1.0)
    bert.pooler.dense.weight.copy_(torch.eye(16) / 4)
    model.classifier.weight[0, :2] = 1.0


def alone(directory: Path, ids: list[int], types: list[int] | None) -> list[float]:
    """What the model itself says of one unpadded row."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, use_safetensors=True)
    given = None if types is None else torch.tensor([types])
    with torch.inference_mode():
        return model(torch.tensor([ids]), token_type_ids=given).logits[0].tolist()


def texts_of(directory: Path, *texts: str) -> tuple[list[int], list[int]]:
    encoded = AutoTokenizer.from_pretrained(directory)(*texts, return_token_type_ids=True)
    return encoded["input_ids"], encoded["token_type_ids"]


def test_a_reward_model_s_order_of_two_answers_is_the_model_s_own(tmp_path):
    directory = write(tmp_path / "rm", by_second_text)
    short, long = ("it", "it is so")
    own = [alone(directory, *texts_of(directory, "why", text))[0] for text in (short, long)]
    blind = [
        alone(directory, texts_of(directory, "why", text)[0], None)[0] for text in (short, long)
    ]
    assert own[0] < own[1] and blind[0] > blind[1], "the token types decide"
    judge = RewardModelConfig(path=str(directory)).build()
    (judgement,) = judge.judge([group("why", short, long)])
    assert judgement.scores == pytest.approx(own, abs=1e-5)


@pytest.mark.parametrize("stopped, types", [(False, [0, 0, 0, 1, 1]), (True, [0, 0, 1])])
def test_an_answer_that_goes_on_is_the_second_text_too(stopped, types, tmp_path):
    directory = write(tmp_path / "rm", None)
    ids = [CLS, WHY, IT] if stopped else [CLS, WHY, SEP, IT, SEP]
    judge = RewardModelConfig(path=str(directory)).build()
    (judgement,) = judge.judge([group("why", "it", stopped=stopped)])
    assert judgement.scores[0] == pytest.approx(alone(directory, ids, types)[0], abs=1e-5)


def test_a_pair_model_s_second_completion_is_the_second_text(tmp_path):
    directory = write(tmp_path / "pm", None)

    def first_wins(*middle: int, last: int) -> float:
        ids = [CLS, WHY, SEP, *middle, SEP, last, SEP]
        types = [0] * (len(ids) - 2) + [1, 1]
        assert abs(alone(directory, ids, types)[0] - alone(directory, ids, None)[0]) > 0.01
        return 1 / (1 + math.exp(-alone(directory, ids, types)[0]))

    (comparison,) = PairModelConfig(path=str(directory)).build().judge([group("why", "it", "is")])
    in_order, swapped = first_wins(IT, last=IS), 1 - first_wins(IS, last=IT)
    assert comparison.win_prob[0][1] == pytest.approx((in_order + swapped) / 2, abs=1e-6)
    assert comparison.order_disagreement == pytest.approx(abs(in_order - swapped), abs=1e-6)


def test_a_preference_embedding_is_that_of_the_two_texts(tmp_path):
    directory = write(tmp_path / "gpm", None, num_labels=2)
    found = [alone(directory, *texts_of(directory, "why", text)) for text in ("it", "is so")]
    (a, b), (c, d) = (
        [value / math.hypot(*embedding) for value in embedding] for embedding in found
    )
    expected = 1 / (1 + math.exp(-(a * d - b * c) / 0.1))
    (comparison,) = GPMConfig(path=str(directory)).build().judge([group("why", "it", "is so")])
    assert comparison.win_prob[0][1] == pytest.approx(expected, abs=1e-5)


def test_a_chat_template_makes_one_text(tmp_path):
    directory = write(tmp_path / "rm", None)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = "[CLS] {% for m in messages %}{{ m['content'] }} [SEP]{% endfor %}"
    tokenizer.save_pretrained(directory)
    (judgement,) = RewardModelConfig(path=str(directory)).build().judge([group("why", "it")])
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "why"}, {"role": "assistant", "content": "it"}],
        return_dict=False,
    )
    assert judgement.scores[0] == pytest.approx(alone(directory, ids, [0] * len(ids))[0], abs=1e-5)


@pytest.mark.parametrize("kind", [Kind.bradley_terry, Kind.pair])
def test_what_is_learnt_from_is_what_will_be_judged(kind, tmp_path):
    directory = write(tmp_path / "base", None)
    classifier = Classifier.load(directory, "float32", 64)
    config = RewardTrainingConfig(kind=kind, model=ModelConfig(path=str(directory)))
    asked = (Message("user", "why"),)
    examples = [
        Example(asked, "", tuple((text,) for text in texts), (), None, "file", row)
        for row, texts in enumerate([("it", "is so"), ("so it is", "is")])
    ]
    encoded = Encoder(config, classifier).encode(examples)
    with torch.inference_mode():
        logits_BRL = _logits(classifier, encoded)
    for example, one, logits_RL in zip(examples, encoded, logits_BRL.tolist(), strict=True):
        for text, row, logits in zip(example.texts, one.rows, logits_RL, strict=True):
            ids, types = texts_of(directory, "why", text)
            if kind is Kind.pair:
                ids, types = list(row), [0] * len(row)
                second = len(ids) - ids[-2::-1].index(SEP) - 1
                types[second:] = [1] * (len(ids) - second)
            assert logits == pytest.approx(alone(directory, ids, types), abs=1e-5)


def test_rows_of_the_same_tokens_and_other_types_are_two(tmp_path):
    classifier = Classifier.load(write(tmp_path / "rm", None), "float32", 64)
    rows = [classifier.two_texts((CLS, WHY), (IT,)), classifier.two_texts((CLS,), (WHY, IT))]
    assert rows[0] == rows[1]
    assert distinct([*rows, rows[0]]) == (rows, [0, 1, 0])
    first, second, again = classifier.read([*rows, rows[0]], 100)
    assert first == again != second
    assert first == pytest.approx(alone(tmp_path / "rm", [CLS, WHY, IT], [0, 0, 1]), abs=1e-5)
    assert second == pytest.approx(alone(tmp_path / "rm", [CLS, WHY, IT], [0, 1, 1]), abs=1e-5)


@pytest.mark.parametrize("num_types, inputs", [(1, None), (1, TYPED), (2, UNTYPED)])
def test_a_model_or_a_tokenizer_without_types_gets_none(num_types, inputs, tmp_path):
    directory = write(tmp_path / "rm", None, inputs, type_vocab_size=num_types)
    (judgement,) = RewardModelConfig(path=str(directory)).build().judge([group("why", "it")])
    ids = [CLS, WHY, SEP, IT, SEP]
    assert judgement.scores[0] == pytest.approx(alone(directory, ids, None)[0], abs=1e-5)


def test_where_the_tokenizer_does_not_say_the_model_decides(tmp_path):
    directory = write(tmp_path / "rm", None, None)
    (judgement,) = RewardModelConfig(path=str(directory)).build().judge([group("why", "it")])
    own = alone(directory, [CLS, WHY, SEP, IT, SEP], [0, 0, 0, 1, 1])[0]
    assert judgement.scores[0] == pytest.approx(own, abs=1e-5)

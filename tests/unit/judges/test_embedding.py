"""Embeddings by the encoder's own hidden states."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from rlhf.config.models import TinyModelConfig, Vocabulary
from rlhf.judges.embedding import EmbeddingConfig, Near
from rlhf.judges.groups import Group
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt
from rlhf.toys.tiny import build_tiny_model


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """An encoder without its pooler, as retrievers are saved."""
    directory = tmp_path_factory.mktemp("bert") / "model"
    shape = TinyModelConfig(vocabulary=Vocabulary.bytes, num_layers=1, width=16, num_heads=2)
    build_tiny_model(shape, directory, seed=1)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=32, **sizes)
    (directory / "model.safetensors").unlink()
    BertModel(config, add_pooling_layer=False).save_pretrained(directory)
    return directory


def group(*texts: str, answer: str | None = None, prefix: str = "") -> Group:
    prompt = Prompt("p", (Message("user", "What is it?"),), (1,), answer, prefix=prefix)
    completions = [Completion("p", i, (1,), (), text, False, 0) for i, text in enumerate(texts)]
    return Group(prompt, tuple(completions))


def embedding(directory: Path, text: str) -> torch.Tensor:
    model = AutoModel.from_pretrained(directory, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(directory)(text)["input_ids"]
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)


def test_the_product_of_the_means_of_hidden_states(bert):
    texts = ("A stone.", "a much longer thing than a stone")
    asked, *answers = (embedding(bert, text) for text in ("What is it?", *texts))
    (found,) = EmbeddingConfig(path=str(bert), cosine=False).build().judge([group(*texts)])
    assert found.scores == pytest.approx([(asked @ one).item() for one in answers], rel=1e-4)
    half = EmbeddingConfig(path=str(bert), cosine=False, factor=0.5).build()
    assert half.judge([group(*texts)])[0].scores == pytest.approx(
        [(asked @ one).item() / 2 for one in answers], rel=1e-4
    )
    (found,) = EmbeddingConfig(path=str(bert)).build().judge([group(*texts)])
    cosines = [torch.cosine_similarity(asked, one, 0).item() for one in answers]
    assert found.scores == pytest.approx(cosines, abs=1e-5)


def test_a_text_is_as_near_to_itself_as_can_be_and_what_is_absent_is_missing(bert):
    judge = EmbeddingConfig(path=str(bert), near=Near.answer, max_tokens=20).build()
    same, begun, none = judge.judge(
        [group("42", "", "x" * 40, answer="42"), group("2", answer="42", prefix="4"), group("42")]
    )
    assert same.scores == (pytest.approx(1.0), None, None)
    assert begun.scores == (pytest.approx(1.0),)
    assert none.scores == (None,)


def test_a_model_that_lacks_weights_is_refused(bert, tmp_path):
    with pytest.raises(InputError, match=f"judge.path={tmp_path}: it has no config.json"):
        EmbeddingConfig(path=str(tmp_path)).inspect(set())
    other = tmp_path / "deeper"
    other.mkdir()
    for file in bert.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = BertConfig.from_pretrained(bert)
    config.num_hidden_layers = 2
    config.save_pretrained(other)
    with pytest.raises(InputError, match=f"judge.path={other}: its files lack"):
        EmbeddingConfig(path=str(other)).build()

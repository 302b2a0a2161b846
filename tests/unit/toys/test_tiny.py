"""The tiny model loads everywhere, and its tokenizers lose nothing."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.config.models import DType, TinyModelConfig, Vocabulary
from rlhf.problems import InputError
from rlhf.toys.tiny import ARITHMETIC, build_tiny_model


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    built = {}
    for vocabulary in Vocabulary:
        built[vocabulary] = tmp_path_factory.mktemp("tiny") / vocabulary.value
        build_tiny_model(TinyModelConfig(vocabulary=vocabulary), built[vocabulary], seed=1)
    return built


@pytest.fixture(scope="module")
def tokenizers(directories):
    # As anyone loads them, which for some model types rewrites the tokenizer.
    return {name: AutoTokenizer.from_pretrained(path) for name, path in directories.items()}


def weights(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, use_safetensors=True)
    return dict(model.named_parameters())


def test_shape(directories, tokenizers):
    model = AutoModelForCausalLM.from_pretrained(
        directories[Vocabulary.arithmetic], use_safetensors=True
    )
    # Per layer 4 x 128 x 128 attention, 3 x 128 x 512 feed-forward, 2 x 128 norms.
    assert sum(p.numel() for p in model.parameters()) == 2 * 262_400 + 32 * 128 + 128
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.vocab_size == len(tokenizers[Vocabulary.arithmetic]) == 32
    assert model.config.max_position_embeddings == 2048
    assert len(tokenizers[Vocabulary.bytes]) == 256 + 2


@pytest.mark.parametrize("vocabulary", Vocabulary)
def test_end_and_padding_differ_and_are_written_down(directories, tokenizers, vocabulary):
    tokenizer = tokenizers[vocabulary]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    generation = json.loads((directories[vocabulary] / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.eos_token_id
    assert generation["pad_token_id"] == tokenizer.pad_token_id
    assert tokenizer.chat_template is None


@given(text=st.text(ARITHMETIC, max_size=50))
def test_arithmetic_has_one_token_per_character(tokenizers, text):
    ids = tokenizers[Vocabulary.arithmetic](text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizers[Vocabulary.arithmetic].decode(ids, skip_special_tokens=True) == text


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_bytes_have_one_token_per_byte(tokenizers, text):
    ids = tokenizers[Vocabulary.bytes](text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizers[Vocabulary.bytes].decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("vocabulary", Vocabulary)
def test_a_game_s_answers_are_one_token_each(tmp_path, vocabulary):
    answers = ["rock", "rock 2", "=", "b+"] + (["é x"] if vocabulary is Vocabulary.bytes else [])
    size = len(answers)
    win_prob = [[0.5] * size] * size
    (tmp_path / "game.json").write_text(json.dumps({"answers": answers, "win_prob": win_prob}))
    config = TinyModelConfig(
        vocabulary=vocabulary, game=str(tmp_path / "game.json"), num_layers=1, width=8, num_heads=2
    )
    build_tiny_model(config, tmp_path, 1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = [tokenizer(answer)["input_ids"] for answer in answers]
    assert all(len(one) == 1 for one in ids) and len({one[0] for one in ids}) == size
    assert [tokenizer.decode(one) for one in ids] == answers
    assert len(tokenizer("rock 2rock")["input_ids"]) == 2
    assert tokenizer.decode(tokenizer("rock<eos>").input_ids[1:2]) != "<eos>"


def built(tmp_path, **settings):
    config = TinyModelConfig(num_layers=1, width=8, num_heads=2, **settings)
    build_tiny_model(config, tmp_path, 1)
    return AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("vocabulary", Vocabulary)
def test_words_are_one_token_each_beside_a_game_s_answers(tmp_path, vocabulary):
    game = {"answers": ["rock", "thanks"], "win_prob": [[0.5, 0.5], [0.5, 0.5]]}
    (tmp_path / "game.json").write_text(json.dumps(game))
    words = ["no, use brackets", "no", "thanks", "1"]
    made = built(tmp_path, vocabulary=vocabulary, game=str(tmp_path / "game.json"), words=words)
    ids = {word: made(word)["input_ids"] for word in (*words, "rock")}
    assert all(len(one) == 1 for one in ids.values())
    assert len({one[0] for one in ids.values()}) == 5
    # "1" is a character already, and "thanks" an answer; neither comes twice.
    bare = {Vocabulary.arithmetic: 32, Vocabulary.bytes: 258}[vocabulary]
    assert len(made) == bare + 4
    # The longest word that fits comes first.
    assert made("1no, use brackets=no")["input_ids"][1:2] == ids["no, use brackets"]
    assert len(made("1no, use brackets=no")["input_ids"]) == 4
    assert made.decode(made("no, use brackets")["input_ids"]) == "no, use brackets"


def test_the_chat_template_tells_roles_by_their_first_character(tmp_path):
    made = built(tmp_path, vocabulary=Vocabulary.bytes, chat=True)
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": r, "content": c} for r, c in zip(roles, "abcd", strict=True)]
    ids = made.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert made.decode(ids) == "#a\n?b\n!c\n?d\n!"
    # What has been said goes on in the same tokens.
    said = made.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=False)
    assert ids[: len(said)] == said
    assert built(tmp_path / "plain").chat_template is None


@pytest.mark.parametrize("text", ["<eos>", "a<pad>b", "e\u0301", "\u00e9", "  \n\n ", "don 't ."])
def test_bytes_are_not_normalised_and_text_never_becomes_special(tokenizers, text):
    ids = tokenizers[Vocabulary.bytes](text)["input_ids"]
    assert not {0, 1} & set(ids)
    assert tokenizers[Vocabulary.bytes].decode(ids) == text


def test_characters_that_arithmetic_lacks_are_unknown_rather_than_lost(tokenizers):
    tokenizer = tokenizers[Vocabulary.arithmetic]
    assert tokenizer("1é2")["input_ids"] == [4, tokenizer.unk_token_id, 5]


def test_the_seed_decides_the_weights_and_the_global_state_stays(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    config = TinyModelConfig(num_layers=1, width=8, num_heads=2)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_tiny_model(config, tmp_path / name, seed)
    assert torch.equal(torch.rand(3), expected)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.embed_tokens.weight"], c["model.embed_tokens.weight"])


def test_dtype(tmp_path):
    build_tiny_model(
        TinyModelConfig(num_layers=1, width=8, num_heads=2, dtype=DType.bfloat16), tmp_path, 1
    )
    assert {p.dtype for p in weights(tmp_path).values()} == {torch.bfloat16}


def test_width_must_suit_the_heads(tmp_path):
    with pytest.raises(InputError, match=r"model\.width=20: must be a multiple of 2 x .*8"):
        build_tiny_model(TinyModelConfig(width=20), tmp_path, 1)

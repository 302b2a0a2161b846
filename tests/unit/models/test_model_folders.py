"""Folders that are to be the policy: what is refused, in words, before anything starts."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from rlhf.config.models import TinyModelConfig
from rlhf.models.checks import causal_faults, require_causal, vocabulary_faults
from rlhf.models.loading import (
    load_causal,
    quietly,
    read_config,
    read_generation_config,
    read_tokenizer,
)
from rlhf.problems import InputError
from rlhf.toys.tiny import build_tiny_model

ROOT = Path(__file__).parents[3]
SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose output layer is its own, with a tokenizer, in two shards."""
    directory = tmp_path_factory.mktemp("whole")
    build_tiny_model(TinyModelConfig(num_layers=1, width=16, num_heads=2), directory, seed=1)
    (directory / "model.safetensors").unlink()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, tie_word_embeddings=False))
    model.save_pretrained(directory, max_shard_size="10KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    return directory


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def faults(folder: Path) -> str:
    with quietly():
        return "\n".join(causal_faults(folder))


def edit(folder: Path, name: str, **changes: object) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def one_file(folder: Path, change) -> None:
    """All weights in one file, changed."""
    weights = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    for file in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
        file.unlink()
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_model_has_no_faults(folder):
    assert faults(folder) == ""
    assert require_causal("model.path", str(folder)) == folder


WITHOUT_HEAD = "lack 1 weights (lm_head.weight), which would be drawn at random"


def test_an_output_layer_that_is_missing_is_not_drawn_at_random(folder):
    one_file(folder, lambda weights: weights.pop("lm_head.weight"))
    assert WITHOUT_HEAD in faults(folder)
    with pytest.raises(InputError, match=r"lm_head\.weight"), quietly():
        load_causal(folder, torch.float32)


def test_a_classifier_is_no_policy(folder):
    def change(weights):
        weights["score.weight"] = torch.zeros(1, 16)
        del weights["lm_head.weight"]

    one_file(folder, change)
    assert WITHOUT_HEAD in faults(folder) and "no place for (score.weight)" in faults(folder)


def test_weights_of_another_shape(folder):
    one_file(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(8)}))
    assert "model.norm.weight is (8,) in its files, and (16,) by its config.json" in faults(folder)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"", "is broken"),
        (b"\x00" * 64, "is broken"),
    ],
    ids=["lfs", "empty", "zeros"],
)
def test_a_shard_that_is_not_one_is_named(folder, content, words):
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(content)
    assert shard.name in faults(folder) and words in faults(folder)


def test_a_cut_and_a_missing_shard_are_named(folder):
    first, second, *_ = sorted(folder.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-9])
    second.unlink()
    assert f"its {first.name} is broken" in faults(folder)
    assert f"its {second.name} is missing" in faults(folder)


def test_pickles_are_not_opened_beside_a_stray_safetensors_file(folder):
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 7'\ntR.")
    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    assert "neither model.safetensors nor model.safetensors.index.json" in faults(folder)
    with pytest.raises(OSError), quietly():
        load_causal(folder, torch.float32)


def test_code_that_comes_along_is_never_run(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    ran = folder / "ran"
    (folder / "modeling.py").write_text(f"open({str(ran)!r}, 'w')\nclass C: pass\n")
    code = {"AutoConfig": "modeling.C", "AutoModelForCausalLM": "modeling.C"}
    edit(folder, "config.json", model_type="strange", auto_map=code)
    assert "its config.json cannot be used" in faults(folder) and not ran.exists()


def test_an_adapter_beside_base_weights(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert "merge it" in faults(folder)


def test_quantised_weights(folder):
    edit(folder, "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantised (gptq)" in faults(folder)


def test_an_encoder_with_a_decoder(folder, tmp_path):
    small = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    T5ForConditionalGeneration(T5Config(vocab_size=32, **small)).save_pretrained(tmp_path / "t5")
    assert "t5 is an encoder with a decoder" in faults(tmp_path / "t5")


@pytest.mark.parametrize("cut", [0, 40, -20])
def test_a_cut_tokenizer(folder, cut):
    file = folder / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:cut])
    assert "tokenizer" in faults(folder)


@pytest.mark.parametrize("content", ["", "{", "version https://git-lfs.github.com/spec/v1\n"])
def test_a_broken_generation_config_is_not_taken_for_none(folder, content):
    """It may name the tokens that end an answer."""
    (folder / "generation_config.json").unlink(missing_ok=True)
    assert faults(folder) == ""
    (folder / "generation_config.json").write_text(content)
    assert "its generation_config.json cannot be used" in faults(folder)


def test_a_generation_config_of_a_hub_id_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    kept = tmp_path / "models--some--one"
    folder = kept / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(folder.name)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    found = read_generation_config("some/one")
    assert found is not None and found.eos_token_id == [1, 2]


@pytest.mark.parametrize("template", [None, "<img>{{ messages[0].content }}"])
def test_a_token_beyond_the_vocabulary_counts_if_something_can_write_it(folder, template):
    tokenizer, config = read_tokenizer(folder), read_config(folder)
    tokenizer.add_tokens(["<img>"], special_tokens=True)
    assert len(tokenizer) == 33 and config.vocab_size == 32
    tokenizer.chat_template = template
    found = "\n".join(vocabulary_faults(tokenizer, config))
    assert ("1 tokens" in found and "'<img>', 32" in found) is (template is not None)
    tokenizer.add_tokens(["word"])
    assert "do not belong together" in "\n".join(vocabulary_faults(tokenizer, config))


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=64),
        LlamaConfig(**SIZES, attention_dropout=0.5),
        MixtralConfig(**SIZES, num_local_experts=4, attention_dropout=0.5, router_jitter_noise=0.5),
    ],
    ids=["gpt2", "llama", "mixtral"],
)
def test_a_policy_in_training_is_the_one_that_sampled(config, tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_causal(tmp_path, torch.float32)
    ids = torch.arange(3, 19)[None]
    asleep = model.eval()(input_ids=ids).logits
    awake = model.train()(input_ids=ids).logits
    assert torch.equal(asleep, awake)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_folder_is_whole_or_refused_in_words(whole, tmp_path, data):
    folder = tmp_path / "some"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    for _ in range(data.draw(st.integers(1, 2), label="how many")):
        file = data.draw(st.sampled_from(sorted(f for f in folder.iterdir() if f.is_file())))
        how = data.draw(st.sampled_from(["cut", "empty", "foreign", "rename", "swap", "key"]))
        content = file.read_bytes()
        if how == "cut":
            file.write_bytes(content[: data.draw(st.integers(0, max(0, len(content) - 1)))])
        elif how == "empty":
            file.write_bytes(b"")
        elif how == "foreign":
            file.write_bytes(data.draw(st.binary(max_size=64)))
        elif how == "rename":
            file.rename(file.with_name(f"x{file.name}"))
        elif how == "swap":
            other = data.draw(st.sampled_from(sorted(f for f in folder.iterdir() if f.is_file())))
            file.write_bytes(other.read_bytes())
            other.write_bytes(content)
        elif file.suffix == ".json":
            _change_a_key(file, data)
    with quietly():
        try:
            require_causal("model.path", str(folder))
        except InputError as error:
            assert all(line.startswith(f"model.path={folder}: ") for line in error.problems)
            assert all("\n" not in line for line in error.problems)


def _change_a_key(file: Path, data: st.DataObject) -> None:
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        return
    if not isinstance(content, dict) or not content:
        return
    key = data.draw(st.sampled_from(sorted(content)))
    value = data.draw(
        st.one_of(st.none(), st.integers(-9, 99), st.text(max_size=5), st.lists(st.integers()))
    )
    file.write_text(json.dumps(content | {key: value}))


LOADERS = {"AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"}
LOADERS |= {"AutoModelForSequenceClassification"}


@pytest.mark.parametrize("room", ["rlhf", "actors", "cluster"])
def test_every_load_refuses_code_and_pickles(room):
    for file in (ROOT / room).rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            loader = call.func.value
            if call.func.attr != "from_pretrained" or not isinstance(loader, ast.Name):
                continue
            if loader.id not in LOADERS:
                continue
            given = {one.arg: ast.unparse(one.value) for one in call.keywords}
            assert given.get("trust_remote_code") == "False", f"{file}:{call.lineno}"
            if "Model" in loader.id:
                assert given.get("use_safetensors") == "True", f"{file}:{call.lineno}"
                assert given.get("output_loading_info") == "True", f"{file}:{call.lineno}"

"""`python -m rlhf.reward` writes models that the judges load, and that prefer what they saw."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from reward_command import QUICK, TINY, group, jsonl, record, row, scores
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rlhf.config.models import Vocabulary
from rlhf.judges.gpm import GPMConfig
from rlhf.judges.pair_model import PairModelConfig
from rlhf.records import Message
from rlhf.reward import losses as reward_losses
from rlhf.storage.store import SCHEMA
from rlhf.toys.tiny import build_tokenizer

BEATS = {"rock": "scissors", "paper": "rock", "scissors": "paper"}


@pytest.fixture
def cycle(tmp_path) -> tuple[str, str]:
    path = jsonl(tmp_path / "c.jsonl", *(row("Play.", *sides) for sides in BEATS.items()))
    return f"data.path={path}", f"data.heldout_path={path}"


@pytest.fixture
def order(tmp_path) -> tuple[str, str]:
    """z is better than y, and y than x."""
    pairs = (("z", "y"), ("y", "x"), ("z", "x"))
    path = jsonl(tmp_path / "o.jsonl", *(row("?", *sides) for sides in pairs))
    return f"data.path={path}", f"data.heldout_path={path}"


# --- losses -------------------------------------------------------------------------------------


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry_by_hand():
    chosen, rejected = tensor(1.2), tensor(0.4)
    assert reward_losses.bradley_terry(chosen, rejected).item() == pytest.approx(0.371101, abs=1e-6)
    shifted = reward_losses.bradley_terry(chosen + 5, rejected + 5).item()
    assert shifted == pytest.approx(0.371101, abs=1e-6)
    margin = tensor(2.0)
    subtracted = reward_losses.bradley_terry(chosen, rejected, margin).item()
    scaled = reward_losses.scaled_bradley_terry(chosen, rejected, margin).item()
    assert (subtracted, scaled) == pytest.approx((1.463282, 0.742201), abs=1e-6)
    assert reward_losses.scaled_bradley_terry(chosen, rejected, tensor(0.0)).item() == 0


def test_regression_by_hand():
    assert reward_losses.regression(tensor(1.5, -1), tensor(1, 1)).tolist() == [0.25, 4]


def test_pair_by_hand():
    # Indifferent; right in both orders with odds of 3; right in one order only.
    first, second = tensor(0, math.log(3), math.log(3)), tensor(0, -math.log(3), math.log(3))
    expected = [math.log(2), math.log(4 / 3), (math.log(4 / 3) + math.log(4)) / 2]
    assert reward_losses.pair(first, second).tolist() == pytest.approx(expected)


def test_gpm_by_hand():
    # A quarter of a circle apart: the largest score there is.
    loss = reward_losses.gpm(tensor([1, 0]), tensor([0, 2]), 0.1).item()
    assert loss == pytest.approx(math.log1p(math.exp(-10)))


# --- a cycle ------------------------------------------------------------------------------------


def test_a_general_preference_model_learns_a_cycle(command, cycle, tmp_path):
    assert command("kind=gpm", "seed=2", *QUICK, *cycle)[0] == 0
    written = record(tmp_path)
    assert written["heldout"]["before"]["accuracy"] < 1
    assert written["heldout"]["after"]["accuracy"] == 1
    judge = GPMConfig(path=str(tmp_path / "out")).build()
    (comparison,) = judge.judge([group("Play.", *BEATS)])
    for i, winner in enumerate(BEATS):
        for j, loser in enumerate(BEATS):
            expected = (BEATS[winner] == loser) - (BEATS[loser] == winner)
            assert (comparison.win_prob[i][j] - 0.5) * expected >= 0.4 * abs(expected)


def test_scores_cannot_hold_a_cycle(command, cycle, tmp_path):
    assert command("kind=bradley_terry", "seed=2", *QUICK, *cycle)[0] == 0
    after = record(tmp_path)["heldout"]["after"]
    assert after["accuracy"] <= 2 / 3 + 1e-9
    assert after["loss"] >= math.log(2) - 1e-6


def test_a_pair_model_learns_a_cycle(command, cycle, tmp_path):
    assert command("kind=pair", *QUICK, "epochs=120", *cycle)[0] == 0
    assert record(tmp_path)["heldout"]["after"]["accuracy"] == 1
    judge = PairModelConfig(path=str(tmp_path / "out")).build()
    (comparison,) = judge.judge([group("Play.", *BEATS)])
    for i, winner in enumerate(BEATS):
        assert comparison.win_prob[i][list(BEATS).index(BEATS[winner])] > 0.5


# --- scores -------------------------------------------------------------------------------------


def test_a_reward_model_learns_an_order(command, order, tmp_path):
    assert command(*QUICK, *order, whole=True)[0] == 0
    x, y, z = scores(tmp_path, "?", "x", "y", "z")
    assert x < y < z
    assert record(tmp_path)["use_with"] == f"judge=reward_model judge.path={tmp_path}/out"


@pytest.mark.parametrize("margin, gap", [("subtract", 1.0), ("scale", math.log(3))])
def test_margins(command, tmp_path, margin, gap):
    path = jsonl(
        tmp_path / "m.jsonl", row("?", "a", "b", strength=3), row("?", "b", "a", strength=1)
    )
    files = (f"data.path={path}", f"data.heldout_path={path}", "data.margin_column=strength")
    assert command(*QUICK, *files, f"margin={margin}", "epochs=80", "learning_rate=1e-2")[0] == 0
    a, b = scores(tmp_path, "?", "a", "b")
    # Where the two losses' slopes cancel: σ(3 - d) = σ(d + 1), or 3 σ(-d) = σ(d).
    assert a - b == pytest.approx(gap, abs=0.02)


def test_scores_are_fitted(command, tmp_path):
    rows = [{"prompt": "?", "reply": text, "stars": n} for text, n in (("x", -1), ("y", 0.5))]
    path = jsonl(tmp_path / "s.jsonl", *rows)
    columns = ("chosen_column=reply", "rejected_column=null", "chosen_score_column=stars")
    files = (f"data.path={path}", f"data.heldout_path={path}", *(f"data.{c}" for c in columns))
    assert command("kind=regression", *QUICK, *files, "epochs=60")[0] == 0
    assert scores(tmp_path, "?", "x", "y") == pytest.approx((-1, 0.5), abs=0.1)
    after = record(tmp_path)["heldout"]["after"]
    assert after["loss"] < 0.01 and "accuracy" not in after


def test_scores_of_both_sides_are_fitted_and_compared(command, tmp_path):
    path = jsonl(tmp_path / "s.jsonl", row("?", "x", "y", good=0.5, bad=-1))
    columns = ("chosen_score_column=good", "rejected_score_column=bad")
    files = (f"data.path={path}", f"data.heldout_path={path}", *(f"data.{c}" for c in columns))
    assert command("kind=regression", *QUICK, *files, "epochs=60")[0] == 0
    assert scores(tmp_path, "?", "x", "y") == pytest.approx((0.5, -1), abs=0.1)
    assert record(tmp_path)["heldout"]["after"]["accuracy"] == 1


def test_preferences_of_a_run(command, tmp_path):
    def kept(prompt, chosen, rejected, **rest):
        side = {"chosen": chosen, "rejected": rejected, "chosen_score": 1, "rejected_score": 0}
        same = {"round": 0, "prompt_id": prompt, "prompt": prompt, "prefix": "", "judge": "j"}
        return {**same, **side, **rest}

    rows = [kept(f"{n}+1=", "yes", "no", margin=1.0) for n in range(20)]
    rows += [kept("0+1=", "no", "yes", dropped="truncated"), kept("1+1=", "yes", "yes")]
    rows += [{**kept("2+1=", None, None), "dropped": "short_group"}]
    (tmp_path / "run" / "preferences").mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"round": 0}\n')
    file = tmp_path / "run" / "preferences" / "round_000000.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)
    assert (
        command(*QUICK, f"data.path={tmp_path}/run", "data.heldout_share=0.3", "epochs=5")[0] == 0
    )
    written = record(tmp_path)
    counts = written["rows"]
    assert counts["train"] + counts["heldout"] == 20
    assert (counts["identical"], counts["dropped_by_run"]) == (1, 2)
    assert written["heldout"]["after"]["accuracy"] == 1
    no, yes = scores(tmp_path, "7+1=", "no", "yes")
    assert yes > no


# --- where it starts ----------------------------------------------------------------------------


def start(directory, model_class=LlamaForCausalLM, **changes):
    """A model without a padding token, whose template ends with the end token."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 258}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "eos_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = model_class(LlamaConfig(**{**sizes, **heads, "bos_token_id": None, **changes}))
    model.save_pretrained(directory)
    tokenizer = build_tokenizer(Vocabulary.bytes)
    tokenizer.pad_token = None
    tokenizer.split_special_tokens = False
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}"
    tokenizer.save_pretrained(directory)
    return directory


def test_a_model_without_padding_token_stays_one_and_is_judged_as_it_was_measured(
    command, order, tmp_path
):
    base = start(tmp_path / "base")
    here = (f"model.path={base}", "model.dtype=float32", "learning_rate=5e-3", "epochs=30")
    assert command("kind=bradley_terry", *here, *order)[0] == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pad_token_id"] is None
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template is not None
    x, y, z = scores(tmp_path, "?", "x", "y", "z")
    loss = sum(math.log1p(math.exp(b - a)) for a, b in ((z, y), (y, x), (z, x))) / 3
    after = record(tmp_path)["heldout"]["after"]
    assert after == {"accuracy": 1.0, "loss": pytest.approx(loss, abs=1e-5)}


def test_an_old_head_is_replaced(command, order, tmp_path):
    base = start(tmp_path / "base", LlamaForSequenceClassification, num_labels=1)
    old = load_file(base / "model.safetensors")
    tiny_steps = ("model.dtype=float32", "learning_rate=1e-12")
    assert command(f"model.path={base}", *tiny_steps, *order)[0] == 0
    new = load_file(tmp_path / "out" / "model.safetensors")
    assert not torch.allclose(old["score.weight"], new["score.weight"], atol=1e-3)
    embedding = "model.embed_tokens.weight"
    assert torch.allclose(old[embedding], new[embedding], atol=1e-6)


def test_a_head_of_another_size_is_replaced(command, order, tmp_path):
    base = start(tmp_path / "base", LlamaForSequenceClassification, num_labels=3)
    here = (f"model.path={base}", "model.dtype=bfloat16", "embedding_size=2")
    assert command("kind=gpm", *here, *order)[0] == 0
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights["score.weight"].shape == (2, 16)
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    assert GPMConfig(path=str(tmp_path / "out")).build().judge([]) == []


def test_an_encoder_that_was_trained_on_masked_words_is_a_start_too(command, cycle, tmp_path):
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "Play", ".", *BEATS]
    fast = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    fast.pre_tokenizer = BertPreTokenizer()
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    fast.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="[UNK]", **special)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 64}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(words)}
    with torch.random.fork_rng(devices=[]):
        BertForMaskedLM(BertConfig(**sizes, **heads)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    here = (f"model.path={tmp_path}/base", "model.dtype=float32")
    found = []
    for out in ("a", "b"):
        assert command("kind=pair", *here, *cycle, f"output={tmp_path / out}")[0] == 0
        found.append(load_file(tmp_path / out / "model.safetensors"))
    # What the base lacks is seeded, the pooler too.
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    judge = PairModelConfig(path=str(tmp_path / "a")).build()
    rows = judge._layout.rows((Message("user", "Play."),), ["rock", "paper"])
    assert rows[0, 1] == (1, 4, 5, 2, 6, 2, 7, 2)
    assert judge.judge([group("Play.", *BEATS)])[0].failed == (False,) * 3


def test_weights_without_a_body_are_refused(command, order, tmp_path):
    base = start(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    code, told = command(f"model.path={base}", *order)
    assert code == 2 and "its weights lack model.layers.1." in told


def test_the_same_seed_gives_the_same_weights_whatever_the_micro_batches(command, order, tmp_path):
    found = []
    for out, changes in (
        ("a", ()),
        ("b", ()),
        ("c", ("micro_batch_tokens=1",)),
        ("d", ("seed=2",)),
    ):
        assert command(*QUICK, *order, "epochs=3", f"output={tmp_path / out}", *changes)[0] == 0
        found.append(load_file(tmp_path / out / "model.safetensors")["score.weight"])
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[0], found[2], atol=1e-5)
    assert not torch.allclose(found[0], found[3], atol=1e-3)


# --- what is refused ----------------------------------------------------------------------------


def test_everything_that_is_wrong_is_told_at_once(command, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "pytorch_model.bin").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    good = row("?", "a", "b")
    path = jsonl(tmp_path / "d.jsonl", good, {**good, "chosen": None}, {**good, "prompt": 3})
    code, told = command(
        f"model.path={tmp_path}/base", f"data.path={path}", "kind=gpm", "embedding_size=3",
        "batch_size=0", "data.margin_column=strength", whole=True,
    )  # fmt: skip
    assert code == 2
    for part in (
        "batch_size=0: must be at least 1",
        "embedding_size=3: must be even",
        "data.margin_column=strength: only kind=bradley_terry takes margins",
        f"output={tmp_path}/out: there is something already",
        "its weights are pickled (pytorch_model.bin)",
        f"{path}: column 'chosen' is null or missing; 1 rows: 2",
        f"{path}: column 'prompt' must be text, not int; 1 rows: 3",
        f"data.margin_column=strength: {path} has no such column, but chosen, prompt, rejected",
    ):
        assert f"error: {part}" in told or f": {part}" in told
    assert len(told.strip().splitlines()) == 8
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["kind=bradley"], "kind"),
        (["data.pth=x"], "data.pth: there is no such key; did you mean data.path?"),
        (["+data.pth=x"], "data.pth=x: there is no such key; did you mean data.path?"),
        (["kind=regression"], "data.chosen_score_column=null: kind=regression fits scores"),
        (["data.rejected_column=null"], "kind=bradley_terry compares two sides"),
        (["data.chosen_score_column=chosen"], "only kind=regression fits scores"),
        (["data.chosen_column=reply"], "has no such column, but chosen, prompt, rejected"),
        (["max_tokens=1"], "longer than 1 tokens"),
        (["max_tokens=1", "data.overlong=drop"], "data: no row is left to train on"),
        (["model.vocabulary=arithmetic"], "characters that its vocabulary lacks"),
        (["model.width=9"], "model.width=9: must be a multiple"),
        (["output=/proc/nowhere/x"], "output=/proc/nowhere/x: cannot be written"),
    ],
)
def test_what_cannot_be(command, order, overrides, told):
    code, error = command(*TINY, *order, *overrides)
    assert code == 2, error
    assert told in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "content, told",
    [
        ("", "it has no rows"),
        ('{"prompt": "?"', "not JSON"),
        (
            '{"prompt": "?", "chosen": [], "rejected": "b"}',
            "column 'chosen' must be text, or a list",
        ),
        ('{"prompt": "?", "chosen": "a", "rejected": "b", "m": -1}', "column 'm' is below 0"),
        (
            '{"prompt": "?", "chosen": "a", "rejected": "b", "m": "x"}',
            "'m' is not a number but str",
        ),
        (
            '{"prompt": "?", "chosen": "a", "rejected": "a", "m": 1}',
            "data: no row is left to train on",
        ),
        (
            '{"prompt": "?", "chosen": "a", "rejected": null, "m": null, "dropped": "tie"}',
            "it has no rows but 1 that a run dropped",
        ),
    ],
)
def test_files_that_cannot_be_learnt_from(command, tmp_path, content, told):
    (tmp_path / "d.jsonl").write_text(content)
    path = f"{tmp_path}/d.jsonl"
    files = (f"data.path={path}", f"data.heldout_path={path}", "data.margin_column=m")
    code, error = command(*TINY, *files)
    assert code == 2, error
    assert told in error


def test_conversations_and_empty_replies_are_read(command, tmp_path):
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "z"}]
    path = jsonl(tmp_path / "d.jsonl", row(talk[:1], talk, ""))
    files = (f"data.path={path}", f"data.heldout_path={path}")
    assert command(*QUICK, *files)[0] == 0
    empty, z = scores(tmp_path, "?", "", "z")
    assert z > empty


def test_too_few_prompts_to_hold_any_out(command, tmp_path):
    path = jsonl(tmp_path / "d.jsonl", row("?", "a", "b"))
    code, error = command(*TINY, f"data.path={path}")
    assert code == 2 and "both parts need rows" in error


def test_what_is_required_is_told_at_once(command):
    code, error = command()
    assert code == 2
    assert error.splitlines() == [
        "error: data.path: is required; add data.path=... to the command",
        "error: model.path: is required; add model.path=... to the command",
    ]


def test_a_training_that_diverges_fails_and_writes_nothing(command, order, tmp_path):
    code, error = command(*QUICK, *order, "learning_rate=1e30", "max_grad_norm=1e30")
    assert code == 1
    assert error.startswith("failed: ") and "lower learning_rate" in error
    assert not (tmp_path / "out").exists()

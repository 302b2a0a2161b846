"""`python -m rlhf.reward kind=steps` learns which partial answer is better, and is judged by it."""

import json
import math
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reward_command import QUICK, TINY, jsonl, record, row, scores
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rlhf.config.models import Vocabulary
from rlhf.judges.pair_model import PairModelConfig
from rlhf.judges.reward_model import Answer, RewardModel, RewardModelConfig
from rlhf.problems import InputError
from rlhf.records import Collected, Completion, Dropped, DropReason, Message, Preference, Prompt
from rlhf.reward import losses as reward_losses
from rlhf.reward.steps import fold
from rlhf.storage.store import PreferenceStore
from rlhf.toys.tiny import build_tokenizer

STEPS = ("kind=steps", *QUICK)

# --- the loss -----------------------------------------------------------------------------------


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_loss_by_hand():
    one = reward_losses.steps(tensor(1.3), tensor(0.4), [1])
    assert one.tolist() == pytest.approx([0.3411539], abs=1e-7)
    both = reward_losses.steps(tensor(1.3, 1.3, 1.1, 0.8), tensor(0.4, 0.4, 0.9, -0.2), [1, 3])
    assert both.tolist() == pytest.approx([0.3411539, 1.2525544], abs=1e-7)


def test_the_gradient_raises_the_chosen_side_and_most_where_it_is_behind():
    chosen, rejected = tensor(0.5, -1.0, 2.0), tensor(0.0, 1.0, 0.0)
    chosen.requires_grad_()
    rejected.requires_grad_()
    reward_losses.steps(chosen, rejected, [2, 1]).sum().backward()
    assert chosen.grad is not None and rejected.grad is not None
    expected = [-1 / (1 + math.exp(gap)) for gap in (0.5, -2, 2)]
    assert chosen.grad.tolist() == pytest.approx(expected)
    assert rejected.grad.tolist() == pytest.approx([-g for g in expected])


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), min_size=1))
def test_rows_that_begin_others_are_read_in_them(rows):
    kept, places = fold(rows)
    assert [kept[number][: token + 1] for number, token in places] == rows
    assert not any(a != b and b[: len(a)] == a for a in kept for b in kept)
    assert len(set(kept)) == len(kept)


# --- what is learnt -----------------------------------------------------------------------------


def marked(*marks: str) -> list[str]:
    """Steps that are right where they have a plus sign."""
    return [f"{'abc'[i % 3]}{mark}\n" for i, mark in enumerate(marks)]


@pytest.fixture
def lines(tmp_path) -> str:
    """A side that errs once and goes on well, against one that never does."""
    rows = []
    for n in range(60):
        shared, num_steps = n % 3, 1 + n % 4
        right = marked(*"+" * (shared + num_steps))
        wrong = right.copy()
        wrong[shared] = wrong[shared].replace("+", "-")
        prefix = "".join(right[:shared])
        rows.append(row(f"{n}?", right[shared:], wrong[shared:], prefix=prefix))
    rows.append(row("60?", "a+\n", "a-\n"))
    return f"data.path={jsonl(tmp_path / 'd.jsonl', *rows)}"


def test_steps_are_learnt_and_whole_answers_by_their_last_step(command, lines, tmp_path):
    assert command(*STEPS, lines, "data.heldout_share=0.3", "epochs=15", "batch_size=8")[0] == 0
    written = record(tmp_path)
    assert written["heldout"]["after"]["accuracy"] > 0.95 > written["heldout"]["before"]["accuracy"]
    assert written["heldout"]["after"]["loss"] < 0.2 * written["heldout"]["before"]["loss"]
    assert written["kind"] == "steps" and written["num_labels"] == 1
    assert written["use_with"] == f"judge=reward_model judge.path={tmp_path}/out"
    right, wrong = scores(tmp_path, "99?", "a+\nb+\n", "a+\nb-\n")
    assert right > wrong
    assert scores(tmp_path, "99?", "b+\n", "b-\n", prefix="a+\n") == pytest.approx((right, wrong))
    begun = scores(tmp_path, "99?", "a+\nb+\n", "a+\nb-\n", stopped=True)
    assert begun == pytest.approx((right, wrong))


def test_micro_batches_change_nothing(command, lines, tmp_path):
    found = []
    for out, tokens in (("a", 16384), ("b", 1)):
        changes = ("epochs=2", f"micro_batch_tokens={tokens}", f"output={tmp_path / out}")
        assert command(*STEPS, lines, "data.heldout_share=0.3", *changes)[0] == 0
        found.append(json.loads((tmp_path / out / "reward.json").read_text())["heldout"]["after"])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_weights_in_bfloat16(command, lines, tmp_path):
    here = ("data.heldout_share=0.3", "epochs=15", "batch_size=8", "model.dtype=bfloat16")
    assert command(*STEPS, lines, *here)[0] == 0
    assert record(tmp_path)["heldout"]["after"]["accuracy"] > 0.9


# --- the judge sees what training saw -----------------------------------------------------------


def joining_tokenizer() -> PreTrainedTokenizerFast:
    """Joins two line ends, and two digits, wherever they meet; begins with a token of its own."""
    alphabet = sorted(ByteLevel.alphabet())
    merges = [("Ċ", "Ċ"), ("1", "2"), ("a", "b")]
    tokens = ["<s>", "</s>", *alphabet, *("".join(pair) for pair in merges)]
    fast = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges=merges))
    fast.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    return PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Its template trims answers and closes them with the end token."""
    tokenizer = build_tokenizer(Vocabulary.bytes)
    tokenizer.pad_token = None
    tokenizer.split_special_tokens = False
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] | trim }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}!{% endif %}"
    )
    return tokenizer


def base(directory, tokenizer):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "eos_token_id": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=None, **sizes, **heads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


DRIFTING = row("?", ["x1", "2\n", "\na", "b<eos>"], ["x", "12\n", "\n"], prefix="y\n")
"""Its tokens are other ones after almost every step; the second pair is of equal texts."""


@pytest.mark.parametrize("tokenizer", [joining_tokenizer(), byte_tokenizer()])
def test_a_partial_answer_is_judged_as_training_saw_it(command, tmp_path, tokenizer):
    rows = [DRIFTING, row("??", "z\n", ["\n", "z"]), row("?", ["z", " "], ["q"], prefix=None)]
    path = jsonl(tmp_path / "d.jsonl", *rows)
    here = (f"model.path={base(tmp_path / 'base', tokenizer)}", "model.dtype=float32")
    files = (f"data.path={path}", f"data.heldout_path={path}")
    quick = ("learning_rate=5e-3", "epochs=5", "micro_batch_tokens=40")
    assert command("kind=steps", *here, *files, *quick)[0] == 0
    gaps, losses = [], []
    for one in rows:
        sides = [[s] if isinstance(s, str) else s for s in (one["chosen"], one["rejected"])]
        begun = [[(one.get("prefix") or "") + text for text in accumulate(side)] for side in sides]
        pairs = [pair for pair in zip(*begun, strict=False) if pair[0] != pair[1]]
        judged = [scores(tmp_path, one["prompt"], *pair, stopped=True) for pair in pairs]
        gaps += [chosen - rejected for chosen, rejected in judged]
        losses.append(sum(math.log1p(math.exp(b - a)) for a, b in judged))
    assert len(gaps) == 4
    assert record(tmp_path)["heldout"]["after"] == {
        "accuracy": pytest.approx(sum(gap > 0 for gap in gaps) / len(gaps)),
        "loss": pytest.approx(sum(losses) / len(losses), abs=1e-5),
    }


@pytest.mark.parametrize("tokenizer", [joining_tokenizer(), byte_tokenizer()])
def test_a_step_is_scored_alike_within_an_answer_and_alone(command, tmp_path, tokenizer):
    """The very numbers: one pass over a whole side, and the judge on each of its beginnings."""
    path = jsonl(tmp_path / "d.jsonl", DRIFTING)
    here = (f"model.path={base(tmp_path / 'base', tokenizer)}", "model.dtype=float32")
    files = (f"data.path={path}", f"data.heldout_path={path}")
    assert command("kind=steps", *here, *files)[0] == 0
    texts = ["y\n" + text for text in accumulate(DRIFTING["chosen"])]
    judge = RewardModelConfig(path=str(tmp_path / "out")).build()
    assert isinstance(judge, RewardModel)
    classifier = judge._classifier
    rows, places = fold([classifier.encode((Message("user", "?"),), t, False) for t in texts])
    assert len(rows) == (1 if tokenizer.chat_template else 4)
    with torch.inference_mode():
        within = classifier.logits_at(rows, places)[:, 0].tolist()
    assert scores(tmp_path, "?", *texts) == pytest.approx(within, abs=1e-5)
    assert len(set(within)) == len(texts)


def test_an_answer_that_has_not_ended_is_not_closed(tmp_path, command):
    path = jsonl(tmp_path / "d.jsonl", row("?", "z", "y"))
    here = (f"model.path={base(tmp_path / 'base', byte_tokenizer())}", "model.dtype=float32")
    assert command(*here, f"data.path={path}", f"data.heldout_path={path}")[0] == 0
    judge = RewardModelConfig(path=str(tmp_path / "out")).build()
    assert isinstance(judge, RewardModel)
    messages = (Message("user", "?"),)
    tokenizer = judge._classifier.tokenizer
    whole, begun = (judge._classifier.encode(messages, "<eos>z \n", e) for e in (True, False))
    assert tokenizer.decode(whole) == "?<eos><eos>z<eos>" and whole.count(1) == 2
    assert tokenizer.decode(begun) == "?<eos>!<eos>z \n" and begun.count(1) == 1
    # Of another kind than steps, so that ends count.
    closed, open_ = judge.score([Answer(messages, "z"), Answer(messages, "z", ended=False)])
    assert closed != pytest.approx(open_, abs=1e-6)
    assert scores(tmp_path, "?", "z") == pytest.approx((closed,))
    assert scores(tmp_path, "?", "z", stopped=True) == pytest.approx((open_,))


# --- files --------------------------------------------------------------------------------------


def collected(n: int, prefix: str, chosen: str, rejected: str) -> Collected:
    ids = (str(n), 0, (1,), (0.0,))
    sides = [Completion(*ids, text, False, 0, stopped=True) for text in (chosen, rejected)]
    plain = Prompt(str(n), (Message("user", f"{n}?"),), (1,))
    begun = Prompt(str(n), plain.messages, (1,), prefix=prefix)
    kept = Preference.over(begun, sides[0], sides[1], 1.0, 0.0, "j")
    dropped = (Dropped(DropReason.TIE, sides[1], sides[0]), Dropped(DropReason.SHORT_GROUP))
    return Collected(plain, (), None, (kept,), dropped)


def test_the_preferences_of_a_run_go_on_from_their_prefix(command, tmp_path):
    store = PreferenceStore(tmp_path / "run")
    # The steps alone say nothing: what is right depends on how the answer begins.
    one = [collected(n, "+\n", "a\n", "b\n") for n in range(20)]
    other = [collected(n, "-\n", "b\n", "") for n in range(20, 40)]
    store.prepare(0, [*one, *other])()
    path = f"data.path={tmp_path}/run"
    assert command(*STEPS, path, "data.heldout_share=0.3", "epochs=20", "batch_size=8")[0] == 0
    written = record(tmp_path)
    assert written["heldout"]["after"]["accuracy"] == 1
    assert written["rows"]["train"] + written["rows"]["heldout"] == 40
    assert written["rows"]["dropped_by_run"] == 80
    a, b = scores(tmp_path, "7?", "a\n", "b\n", prefix="+\n")
    ended, on = scores(tmp_path, "27?", "", "b\n", prefix="-\n")
    assert a > b and on > ended


def test_other_kinds_go_on_from_the_prefix_too(command, tmp_path):
    path = jsonl(tmp_path / "d.jsonl", row("?", "y", "z", start="x"), row("?", "z", "y", start=""))
    files = (f"data.path={path}", f"data.heldout_path={path}", "data.prefix_column=start")
    assert command(*QUICK, *files)[0] == 0
    xy, xz, y, z = scores(tmp_path, "?", "xy", "xz", "y", "z")
    assert xy > xz and z > y


def test_what_is_left_out(command, tmp_path):
    rows = [
        row("?", ["a", "b"], ["a"]),  # equal as far as both have steps
        row("?", ["a", "b"], ["ab"]),  # equal in the end
        row("?", "x" * 99, "y"),
        row("?", ["x", "q"], ["y"]),
    ]
    path = jsonl(tmp_path / "d.jsonl", *rows)
    files = (f"data.path={path}", f"data.heldout_path={path}")
    assert command(*STEPS, *files, "max_tokens=50", "data.overlong=drop")[0] == 0
    counts = record(tmp_path)["rows"]
    assert counts == {
        "train": 1, "heldout": 1, "identical": 4, "overlong": 2, "dropped_by_run": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"chosen": []}, "column 'chosen' is a list without steps; 1 rows: 2"),
        ({"chosen": ["a", ""]}, "column 'chosen' has an empty step; leave it out; 1 rows: 2"),
        ({"chosen": ["a", 1]}, "'chosen' must be text, or a list of texts, one per step; 1 rows"),
        ({"rejected": None}, "column 'rejected' is null or missing; 1 rows: 2"),
        ({"rejected": {"a": 1}}, "column 'rejected' must be text, not dict; 1 rows: 2"),
        ({"prefix": ["a"]}, "column 'prefix' must be text, not list; 1 rows: 2"),
        ({"prefix": "\ud800"}, "column 'prefix' has half a surrogate pair"),
    ],
)
def test_rows_that_cannot_be_read(command, tmp_path, changes, told):
    path = jsonl(tmp_path / "d.jsonl", row("?", "a", "b"), {**row("?", "a", "b"), **changes})
    code, error = command(*STEPS, f"data.path={path}", f"data.heldout_path={path}")
    assert code == 2, error
    assert f"error: {path}: " in error and told in error


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["data.prefix_column=prefx"], "data.prefix_column=prefx: "),
        (["data.margin_column=m"], "data.margin_column=m: only kind=bradley_terry takes margins"),
        (["data.rejected_column=null"], "data.rejected_column=null: kind=steps compares two sides"),
        (["data.chosen_score_column=chosen"], "only kind=regression fits scores"),
        (["max_tokens=1"], "longer than 1 tokens"),
        (["model.vocabulary=arithmetic"], "characters that its vocabulary lacks"),
        (["kind=bradley_terry"], "'chosen' must be text, or a list of messages that ends with"),
    ],
)
def test_what_cannot_be(command, tmp_path, overrides, told):
    path = jsonl(tmp_path / "d.jsonl", row("?", ["q", "r"], ["s"]))
    files = (f"data.path={path}", f"data.heldout_path={path}")
    code, error = command("kind=steps", *TINY, *files, *overrides)
    assert code == 2, error
    assert told in error
    assert "Traceback" not in error


def test_a_model_that_reads_both_ways_is_refused(command, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    tokenizer = byte_tokenizer()
    config = BertConfig(vocab_size=len(tokenizer), num_attention_heads=2, **sizes)
    with torch.random.fork_rng(devices=[]):
        BertForMaskedLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    path = jsonl(tmp_path / "d.jsonl", row("?", "a", "b"))
    files = (f"data.path={path}", f"data.heldout_path={path}")
    code, error = command("kind=steps", f"model.path={tmp_path}/base", *files)
    assert code == 2
    assert f"model.path={tmp_path}/base: a BertForSequenceClassification cannot score" in error
    assert not (tmp_path / "out").exists()


def test_a_judge_of_another_kind_refuses_the_folder(command, tmp_path):
    path = jsonl(tmp_path / "d.jsonl", row("?", "a", "b"))
    assert command("kind=steps", *TINY, f"data.path={path}", f"data.heldout_path={path}")[0] == 0
    with pytest.raises(InputError, match="trained with kind=steps; use it with judge=reward_model"):
        PairModelConfig(path=str(tmp_path / "out")).build()

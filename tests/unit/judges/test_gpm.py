"""A general preference model: its score is skew, and it can hold what goes round in a circle."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForSequenceClassification

from rlhf.config.models import Vocabulary
from rlhf.judges.gpm import GPMConfig
from rlhf.judges.groups import Group
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt
from rlhf.reward.losses import gpm, skew_score, unit
from rlhf.toys.tiny import build_tokenizer

THIRDS = [(math.cos(a), math.sin(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]


def tensor(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# --- the score ----------------------------------------------------------------------------------


def test_a_score_and_its_probability_by_hand():
    a, b = tensor(1, 0.5), tensor(0.2, 0.8)
    assert skew_score(a, b).item() == pytest.approx(0.7)
    assert (skew_score(a, b) / 0.1).sigmoid().item() == pytest.approx(0.999089, abs=1e-6)


def test_scores_of_three_embeddings_by_hand():
    v_3D = tensor((1, 0.2), (0.6, 0.5), (-0.3, 0.8))
    scores = skew_score(v_3D[:, None], v_3D[None, :])
    assert scores.tolist() == [
        pytest.approx([0, 0.38, 0.86]),
        pytest.approx([-0.38, 0, 0.63]),
        pytest.approx([-0.86, -0.63, 0]),
    ]


def test_blocks_add_up():
    a, b = tensor(1, 0.5, 1, 0.2), tensor(0.2, 0.8, 0.6, 0.5)
    assert skew_score(a, b).item() == pytest.approx(0.7 + 0.38)


def test_three_directions_a_third_of_a_circle_apart_are_a_cycle():
    v_3D = tensor(*THIRDS)
    scores = skew_score(v_3D, v_3D.roll(-1, dims=0))
    assert scores.tolist() == pytest.approx([0.866025] * 3, abs=1e-6)
    assert scores.sigmoid().tolist() == pytest.approx([0.703918] * 3, abs=1e-6)


numbers = st.floats(-10, 10)
embeddings = st.integers(1, 4).flatmap(
    lambda m: st.tuples(*[st.lists(numbers, min_size=2 * m, max_size=2 * m)] * 2)
)


@given(embeddings)
def test_exchanging_the_sides_negates_the_score(sides):
    a, b = (torch.tensor(side, dtype=torch.float32) for side in sides)
    assert skew_score(a, b).item() == -skew_score(b, a).item()
    assert skew_score(a, a).item() == 0


def test_the_loss_sees_directions_only():
    a, b = tensor((1, 0.5)), tensor((0.2, 0.8))
    # 0.7 / (|a| |b|) = 0.7 / sqrt(1.25 * 0.68)
    score = 0.7 / math.sqrt(0.85)
    expected = -math.log(1 / (1 + math.exp(-score / 0.5)))
    assert gpm(a, b, 0.5).item() == pytest.approx(expected)
    assert gpm(3 * a, 7 * b, 0.5).item() == pytest.approx(expected)
    assert unit(a).norm().item() == pytest.approx(1)


# --- the judge ----------------------------------------------------------------------------------


def write(directory, by_last_letter=None, num_labels=2, template=None):
    """A model of which nothing but the last letter counts: its embedding is what is given here."""
    tokenizer = build_tokenizer(Vocabulary.bytes)
    shape = LlamaConfig(
        vocab_size=258,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=1,
        bos_token_id=None,
        num_labels=num_labels,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = LlamaForSequenceClassification(shape)
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.score.weight.copy_(torch.eye(num_labels, 8))
        for letter, embedding in (by_last_letter or {}).items():
            (token,) = tokenizer(letter)["input_ids"]
            row = model.model.embed_tokens.weight[token].zero_()
            row[: len(embedding)] = torch.tensor(embedding)
    model.save_pretrained(directory)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return directory


def group(*texts: str, question: str = "Play.") -> Group:
    prompt = Prompt("a", (Message("user", question),), (1,))
    completions = [Completion("a", i, (1,), (0.0,), text, False, 0) for i, text in enumerate(texts)]
    return Group(prompt, tuple(completions))


CYCLE = dict(zip("krs", THIRDS, strict=True))
"""By the last letters of rock, paper and scissors, of which each is preferred to the next."""


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cycle") / "gpm", CYCLE)


def judge_of(directory, **changes):
    return GPMConfig(path=str(directory), **{"temperature": 1.0, **changes}).build()


@pytest.mark.parametrize("temperature, wins", [(1.0, 0.703918), (0.5, 0.849675)])
def test_a_cycle_is_judged_as_one(cycle, temperature, wins):
    judge = judge_of(cycle, temperature=temperature, micro_batch_tokens=20)
    (comparison,) = judge.judge([group("rock", "paper", "scissors")])
    loses = 1 - wins
    assert comparison.win_prob == (
        pytest.approx((0.5, wins, loses), abs=1e-6),
        pytest.approx((loses, 0.5, wins), abs=1e-6),
        pytest.approx((wins, loses, 0.5), abs=1e-6),
    )
    # Every answer does equally well against the others, which no three different scores can say.
    assert comparison.scores == pytest.approx((0.5,) * 3)
    assert comparison.order_disagreement is None


def test_each_completion_is_read_once(cycle):
    judge = judge_of(cycle)
    rows = []
    judge._classifier.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    (comparison,) = judge.judge([group("rock", "paper", "rock", "scissors")])
    assert len(rows) == 3
    assert comparison.win_prob[0][2] == 0.5


def test_what_is_too_long_is_missing_in_row_and_column(cycle):
    judge = judge_of(cycle, max_tokens=len("Play.paper"))
    (comparison,) = judge.judge([group("rock", "scissors", "paper")])
    assert comparison.win_prob[1] == (None, None, None)
    assert [row[1] for row in comparison.win_prob] == [None, None, None]
    assert comparison.win_prob[2] == (pytest.approx(1 - 0.703918, abs=1e-6), None, 0.5)
    assert comparison.failed == (True, False, True)


def test_an_embedding_without_direction_or_that_is_not_finite_is_missing(tmp_path):
    letters = {**CYCLE, "0": (0.0,), "n": (math.nan,)}
    (comparison,) = judge_of(write(tmp_path, letters)).judge([group("rock", "0", "n", "paper")])
    assert comparison.win_prob[0] == (0.5, None, None, pytest.approx(0.703918, abs=1e-6))
    (comparison,) = judge_of(tmp_path).judge([group("0", "n")])
    assert comparison.win_prob == ((None, None), (None, None))


def test_what_the_template_refuses_is_missing(tmp_path):
    template = (
        "{% if 'refuse' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    judge = judge_of(write(tmp_path, CYCLE, template=template))
    refused, fine = judge.judge([group("rock", "paper", question="refuse"), group("rock", "paper")])
    assert refused.win_prob == ((None, None), (None, None))
    assert fine.win_prob[0][1] == pytest.approx(0.703918, abs=1e-6)


def test_nothing_to_judge(cycle):
    assert judge_of(cycle).judge([]) == []
    assert judge_of(cycle).judge([group()])[0].win_prob == ()


def test_name_and_version(cycle, tmp_path):
    other = write(tmp_path / "gpm", {**CYCLE, "k": (0.0, 1.0)})
    names = [judge_of(d).judge([group("rock")])[0].judge for d in (cycle, other)]
    assert all(name.startswith("gpm/gpm@") for name in names)
    assert names[0] != names[1]


@pytest.mark.parametrize("num_labels", [1, 3])
def test_an_odd_number_of_labels_is_refused(tmp_path, num_labels):
    with pytest.raises(InputError, match=f"num_labels={num_labels}, and a general preference"):
        judge_of(write(tmp_path, num_labels=num_labels))


def test_a_temperature_other_than_that_of_its_training_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "reward.json").write_text('{"kind": "gpm", "temperature": 0.1}')
    with pytest.raises(InputError, match=r"with temperature=0.1, and judge.temperature=1.0"):
        judge_of(tmp_path)
    assert judge_of(tmp_path, temperature=0.1).judge([]) == []

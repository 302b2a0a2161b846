"""Labels that are unsure, voted or repaired, and sources that are balanced."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reward_command import QUICK, TINY, group, jsonl, record, row, scores

from rlhf.config.reward import RepairConfig
from rlhf.data.preference_files import Example
from rlhf.judges.attributes import AttributesConfig
from rlhf.judges.pair_model import PairModelConfig
from rlhf.problems import InputError
from rlhf.records import Message
from rlhf.reward import losses as reward_losses
from rlhf.reward import strength as strength_module
from rlhf.reward.balance import shortest
from rlhf.reward.labels import repaired, strength, voted
from rlhf.reward.strength import annotate, with_strengths

# --- the formulas -------------------------------------------------------------------------------


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def example(*strengths: float, targets: tuple[float, ...] = ()) -> Example:
    messages = (Message("user", "?"),)
    sides = (("a",), ("b",))
    return Example(messages, "", sides, targets, None, "f", 1, strengths=strengths)


def test_the_strength_of_an_ensemble_by_hand():
    found = strength([1.2, 0.4, -0.3, 0.9])
    assert found == pytest.approx((0.55, 0.567891), abs=1e-6)
    assert strength([0.7] * 10).deviation == 0
    assert not found.doubts and not strength([-1, 0.5]).doubts and strength([-1, -0.5]).doubts


def test_losses_of_a_margin_a_flipped_and_a_soft_label_by_hand():
    """Of scores that differ by 0.8, and an ensemble's mean of 0.55."""
    chosen, rejected = tensor(1.2), tensor(0.4)
    margin = reward_losses.bradley_terry(chosen, rejected, 0.55)
    flipped = reward_losses.bradley_terry(rejected, chosen)
    plain = reward_losses.bradley_terry(chosen, rejected)
    soft = reward_losses.soft(plain, flipped, tensor(0.9))
    found = [one.item() for one in (margin, flipped, soft)]
    assert found == pytest.approx([0.575939, 1.171101, 0.451101], abs=1e-6)


def test_votes_by_hand():
    """One criterion prefers the first by 1, another is undecided, of the third nobody knows."""
    chosen, rejected = tensor([1.0, 2.0, 5.0]), tensor([0.0, 0.0, 0.0])
    loss = reward_losses.votes(chosen, rejected, tensor([1.0, 0.5, math.nan]))
    one = math.log1p(math.exp(-1))
    other = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2
    assert loss.item() == pytest.approx((one + other) / 2)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5))
def test_an_exchange_negates_the_mean_and_twice_is_nothing(differences):
    one = example(*differences)
    other = one.exchanged()
    assert strength(other.strengths).mean == -strength(differences).mean
    assert other.sides == one.sides[::-1] and other.exchanged() == one


def test_which_labels_are_repaired():
    rows = [example(-3, -2), example(-4, 2), example(0.1, 0.2), example(1, 2), example(3, 3)]
    found, counts = repaired(rows, RepairConfig(flip=0.4, smooth=0.2, label=0.8))
    # The weakest is exchanged; of the next the ensemble is not sure, so it is smoothed.
    assert found[0].sides == rows[0].sides[::-1] and found[0].label == 1
    assert found[0].strengths == (3, 2)
    assert [one.sides for one in found[1:]] == [one.sides for one in rows[1:]]
    assert [one.label for one in found[1:]] == [0.8, 0.8, 1, 1]
    assert counts == {"flipped": 1, "smoothed": 2}


@pytest.mark.parametrize(
    ("votes", "weights", "label", "is_exchanged"),
    [
        ((1.0, 0.0, 1.0), (1, 1, 1), 2 / 3, False),
        ((1.0, 0.0, math.nan), (1, 3, 1), 0.75, True),
        ((0.5, math.nan, math.nan), (2, 1, 1), 0.5, False),
        ((1.0, math.nan, math.nan), (0, 1, 1), 0.5, False),
    ],
)
def test_votes_become_a_weighted_label(votes, weights, label, is_exchanged):
    found = voted(example(targets=votes), weights)
    assert found.label == pytest.approx(label)
    assert (found.sides == (("b",), ("a",))) is is_exchanged


def test_the_shortest_gradient_by_hand():
    assert shortest([[1, 0], [0, 2]]) == pytest.approx([0.8, 0.2])
    assert shortest([[3, 4]]) == [1]
    # Equal ones, and one that is the longer part of the other.
    assert shortest([[1, 2]] * 4) == [0.25] * 4
    assert shortest([[1, 0], [2, 0]]) == pytest.approx([1, 0])
    # Opposite ones cancel: (1, 0) and (-3, 0), three to one.
    assert shortest([[1, 0], [-3, 0]]) == pytest.approx([0.75, 0.25])


@given(st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=2), min_size=1, max_size=5))
def test_no_gradient_points_against_the_shortest(gradients):
    weights = shortest(gradients)
    assert min(weights) >= 0 and sum(weights) == pytest.approx(1)
    rows = tensor(*gradients)
    mean = tensor(*weights) @ rows
    # The condition of the minimum: every corner is at least as far along it.
    assert ((rows @ mean) >= mean @ mean - 1e-2 * (1 + mean @ mean)).all()


def test_pairs_are_kept_apart_by_the_cosines_of_their_views():
    """Two at a right angle, at temperature 1: -log(e / (e + 1)); the same pair twice: log 2."""
    apart = tensor([3.0, 0.0], [0.0, 0.5])
    found = reward_losses.contrastive(apart, apart, 1.0)
    assert found.tolist() == pytest.approx([math.log1p(math.exp(-1))] * 2)
    same = tensor([1.0, 2.0], [1.0, 2.0])
    assert reward_losses.contrastive(same, same, 0.05).tolist() == pytest.approx([math.log(2)] * 2)
    alone = tensor([1.0, 2.0])
    assert reward_losses.contrastive(alone, -alone, 0.05).tolist() == [0]
    # Views that are exchanged between rows: e^0 / (e^0 + e^1).
    crossed = reward_losses.contrastive(apart, apart.flip(0), 1.0)
    assert crossed.tolist() == pytest.approx([math.log1p(math.e)] * 2)


# --- trained ------------------------------------------------------------------------------------

FITTED = (*QUICK, "epochs=60", "learning_rate=1e-2")


def paths(path: str) -> tuple[str, str]:
    return f"data.path={path}", f"data.heldout_path={path}"


@pytest.mark.parametrize("label, gap", [(0.75, math.log(3)), (0.25, -math.log(3))])
def test_scores_are_as_sure_as_the_label(command, tmp_path, label, gap):
    path = jsonl(tmp_path / "d.jsonl", row("?", "a", "b", win_prob=label))
    assert command(*FITTED, *paths(path), "data.label_column=win_prob")[0] == 0
    a, b = scores(tmp_path, "?", "a", "b")
    assert a - b == pytest.approx(gap, abs=0.03)


@pytest.mark.parametrize("kind", ["pair", "gpm"])
def test_other_kinds_are_as_sure_too(command, tmp_path, kind):
    path = jsonl(tmp_path / "d.jsonl", row("?", "a", "b", win_prob=0.75))
    files = (*paths(path), "data.label_column=win_prob")
    assert command(f"kind={kind}", *FITTED, *files)[0] == 0
    # The entropy of the label is the least that a loss can be.
    least = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert record(tmp_path)["heldout"]["after"]["loss"] == pytest.approx(least, abs=0.01)


def test_votes_pull_both_ways(command, tmp_path):
    path = jsonl(tmp_path / "d.jsonl", row("?", "a", "b", right=1, clear=0, brief=None))
    votes = ("data.vote_columns=[right,clear,brief]", "data.vote_weights={right: 1, clear: 3}")
    assert command(*FITTED, *paths(path), *votes)[0] == 0
    a, b = scores(tmp_path, "?", "a", "b")
    assert b - a == pytest.approx(math.log(3), abs=0.03)


def test_each_criterion_becomes_a_label_of_its_own(command, tmp_path):
    rows = [row("?", "a", "b", right=1, clear=0), row("?", "b", "c", right=1, clear=None)]
    path = jsonl(tmp_path / "d.jsonl", *rows)
    votes = ("kind=attributes", "data.vote_columns=[right,clear]")
    assert command(*votes, *FITTED, *paths(path))[0] == 0
    written = record(tmp_path)
    assert written["heldout"]["after"]["accuracy_right"] == 1
    assert written["heldout"]["after"]["accuracy_clear"] == 1 and written["num_labels"] == 2
    config = AttributesConfig(path=str(tmp_path / "out"), weights={"clear": 1})
    config.inspect(set())
    (verdict,) = config.build().judge([group("?", "a", "b")])
    assert verdict.parts["right"][0] > verdict.parts["right"][1]
    assert verdict.scores[0] < verdict.scores[1]


def test_a_model_judges_by_the_criterion_that_it_is_asked_for(command, tmp_path):
    rows = [row("?", "a", "b", by="speed"), row("?", "b", "a", by="style")]
    path = jsonl(tmp_path / "d.jsonl", *rows)
    files = (*paths(path), "data.criterion_column=by")
    assert command("kind=pair", *FITTED, *files)[0] == 0
    assert record(tmp_path)["heldout"]["after"]["accuracy"] == 1
    found = {}
    for criterion in ("speed", "style"):
        judge = PairModelConfig(path=str(tmp_path / "out"), criterion=criterion).build()
        (comparison,) = judge.judge([group("?", "a", "b")])
        found[criterion] = comparison.win_prob
        assert comparison.win_prob[0][1] + comparison.win_prob[1][0] == 1
        assert comparison.judge.endswith(f"*{criterion}")
    assert found["speed"][0][1] > 0.5 > found["style"][0][1]


def sources(tmp_path, *names: str) -> tuple[str, ...]:
    rows = [row("?", *"ab" if i % 2 else "cd", where=name) for i, name in enumerate(names)]
    path = jsonl(tmp_path / "d.jsonl", *rows)
    return (*paths(path), "data.source_column=where", "balance=more")


def test_one_source_is_what_it_is_alone_whatever_the_micro_batches(command, tmp_path):
    files = sources(tmp_path, "one", "one", "one")
    found = []
    for out, changes in (
        ("plain", ("balance=rows",)),
        ("more", ()),
        ("small", ("micro_batch_tokens=1",)),
    ):
        changed = (*changes, "epochs=3", f"output={tmp_path / out}")
        assert command(*QUICK, *files, *changed)[0] == 0
        found.append(json.loads((tmp_path / out / "reward.json").read_text()))
    plain, more, small = found
    assert more["source_weights"] == small["source_weights"] == {"one": 1}
    for one in (more, small):
        assert one["loss_curve"] == pytest.approx(plain["loss_curve"], abs=1e-5)


def test_sources_are_weighted_and_measured_on_their_own(command, tmp_path):
    files = sources(tmp_path, "one", "two", "two", "two")
    found = {}
    for out, tokens in (("a", 16384), ("b", 1)):
        changes = (f"micro_batch_tokens={tokens}", f"output={tmp_path / out}", "epochs=4")
        assert command(*QUICK, *files, *changes)[0] == 0
        found[out] = json.loads((tmp_path / out / "reward.json").read_text())
    one, other = found["a"]["source_weights"], found["b"]["source_weights"]
    assert one == pytest.approx(other, abs=1e-3) and sum(one.values()) == pytest.approx(1)
    after = found["a"]["heldout"]["after"]
    assert {"accuracy_one", "accuracy_two"} <= after.keys()
    # Twice the weighted mean of two sources' losses, each near log 2 at first.
    assert found["a"]["loss_curve"][0] == pytest.approx(2 * math.log(2), abs=0.2)


def test_an_ensemble_finds_and_repairs_what_is_the_wrong_way_round(command, tmp_path, capsys):
    right = [row(f"{i}?", "z", "y") for i in range(9)]
    path = jsonl(tmp_path / "d.jsonl", *right, row("9?", "y", "z", note="kept"))
    judges = []
    for seed in (1, 2):
        judges.append(f"{tmp_path}/judge{seed}")
        ours = (f"seed={seed}", f"output={judges[-1]}", "data.resample=true", "epochs=10")
        assert command(*QUICK, *paths(path), *ours)[0] == 0
    annotated = tmp_path / "e.jsonl"
    annotate([f"data={path}", f"judges={','.join(judges)}", f"output={annotated}"])
    assert "10 pairs, of which 1 the wrong way round" in capsys.readouterr().out
    rows = [json.loads(line) for line in annotated.read_text().splitlines()]
    assert [len(one["strength"]) for one in rows] == [2] * 10
    assert all(min(one["strength"]) > 0 for one in rows[:9]) and max(rows[9]["strength"]) < 0
    assert rows[9]["note"] == "kept"
    repair = ("data.strength_column=strength", "margin=strength", "repair.smooth=0.2")
    (tmp_path / "clean.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows[:9]))
    files = (f"data.path={annotated}", f"data.heldout_path={tmp_path}/clean.jsonl")
    assert command(*QUICK, *files, *repair)[0] == 0
    written = record(tmp_path)
    assert (written["rows"]["flipped"], written["rows"]["smoothed"]) == (1, 2)
    y, z = scores(tmp_path, "9?", "y", "z")
    assert z > y and written["heldout"]["after"]["accuracy"] == 1


def test_differences_are_learnt_apart_beside_their_labels(command, tmp_path):
    pairs = (("z", "y"), ("y", "x"), ("z", "x"))
    path = jsonl(tmp_path / "d.jsonl", *(row("?", *sides) for sides in pairs))
    found = {}
    for out, weight in (("plain", 0), ("apart", 0.5), ("again", 0.5)):
        ours = (f"contrast.weight={weight}", "contrast.temperature=1", f"output={tmp_path / out}")
        ours += ("epochs=12", "learning_rate=1e-2")
        assert command(*QUICK, *paths(path), *ours)[0] == 0
        found[out] = json.loads((tmp_path / out / "reward.json").read_text())
    plain, apart, again = found.values()
    assert apart["loss_curve"] == again["loss_curve"]
    assert apart["heldout"] == again["heldout"] != plain["heldout"]
    assert apart["heldout"]["before"] == plain["heldout"]["before"]
    assert apart["heldout"]["after"]["accuracy"] == 1
    # At first half of -log of a softmax over three cosines, each between -1 and 1.
    more = apart["loss_curve"][0] - plain["loss_curve"][0]
    assert 0.5 * math.log(1 + 2 * math.exp(-2)) < more < 0.5 * math.log(1 + 2 * math.exp(2))
    assert apart["loss_curve"][-1] > plain["loss_curve"][-1]


# --- what is refused ----------------------------------------------------------------------------

BAD = {"p": 1.5, "s": [], "v": None, "w": None, "where": ""}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["data.label_column=p", "data.strength_column=s", "data.margin_column=p",
             "data.source_column=where", "data.criterion_column=v", "repair.flip=0.6",
             "repair.smooth=0.5"],
            ["column 'p' is no probability, between 0 and 1; 1 rows: 1",
             "column 's' is a list without numbers; 1 rows: 1",
             "column 'where' must be a text that is not empty; 1 rows: 1",
             "data.strength_column=s: data.label_column=p says how sure a label is already",
             "data.margin_column=p: data.label_column=p goes without; remove either",
             "repair.smooth=0.5: with repair.flip=0.6 it is more than all rows",
             "data.criterion_column=v: only kind=pair reads a criterion"],
        ),
        (
            ["kind=gpm", "margin=strength", "balance=more", "data.label_column=q",
             "data.vote_columns=[v,w]", "data.vote_weights={v: 0, w: 0}"],
            ["margin=strength: needs an ensemble's preferences; name data.strength_column",
             "margin=strength: only kind=bradley_terry takes margins",
             "balance=more: needs to know where rows come from; name data.source_column",
             "data.label_column=q: ",
             "data.vote_weights: all criteria weigh 0; leave one its weight"],
        ),
        (
            ["data.vote_columns=[v,v]", "data.vote_weights={x: 1, v: -1}"],
            ["no criterion of data.vote_columns has a vote; 1 rows: 1",
             "names a column twice; remove one",
             "data.vote_weights.x: is none of data.vote_columns; there are v, v",
             "data.vote_weights.v=-1.0: must be a number, and at least 0"],
        ),
        (
            ["kind=attributes", "data.vote_columns=[v]", "data.score_columns=[w]",
             "data.vote_weights={v: 1}", "data.rejected_column=null"],
            ["data.vote_columns: data.score_columns fits scores of one side; remove either",
             "data.vote_weights: kind=attributes keeps criteria apart; weigh them in judge.weights",
             "data.rejected_column=null: kind=attributes compares two sides; name the column"],
        ),
        (
            ["kind=steps", "data.label_column=p", "contrast.weight=0.1"],
            ["contrast.weight=0.1: only kind=bradley_terry has one difference per pair",
             "data.label_column=p: only kinds that compare whole answers learn from it"],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be(command, tmp_path, overrides, told):
    path = jsonl(tmp_path / "d.jsonl", row("?", "a", "b", **BAD))
    code, error = command(*TINY, *paths(path), *overrides)
    assert code == 2, error
    assert [line for line in told if line not in error] == [] and "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data=a.jsonl", "run=b"], "data=FILE or run=DIR: say where the pairs are"),
        (["dta=a.jsonl"], "dta: there is no such key; there are data, judges, run"),
        (["data=a.jsonl"], "judges: is required with data=; name them, by commas"),
        (["data=a.jsonl", "judges=j"], "output: is required"),
        (["data=a.parquet", "judges=j", "output=o"], "data=a.parquet: is no .jsonl file"),
        (["run=nowhere", "members=a", "output=o"], "run=nowhere: it has no pairs"),
    ],
)
def test_what_an_ensemble_cannot_be_asked(words, told):
    with pytest.raises(InputError) as refused:
        annotate(words)
    assert refused.value.problems[0].startswith(told)


def test_strengths_stand_beside_their_own_pairs_whatever_ends_a_line_elsewhere(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        strength_module, "_differences", lambda path, examples: (one.row / 8 for one in examples)
    )
    rows = [{"prompt": f"{n}\u2028+1=", "chosen": "a\x85b", "rejected": "c"} for n in range(4)]
    rows[1]["dropped"] = "tie"
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "pairs.jsonl").write_text("\ufeff" + text, encoding="utf-8")
    found = list(with_strengths(tmp_path / "pairs.jsonl", ["judge"]))
    assert found == [{**rows[n], "strength": [(2 * n + 1) / 8]} for n in (0, 2, 3)]


def test_columns_may_have_other_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        strength_module, "_differences", lambda path, examples: [0.5] * len(examples)
    )
    rows = [{"question": f"{n}+1=", "good": "a", "rejected": "b"} for n in range(2)]
    file, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ["data.prompt_column=question", "data.chosen_column=good"]
    annotate([f"data={file}", "judges=j", f"output={out}", *columns])
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert found == [{**row, "strength": [0.5]} for row in rows]

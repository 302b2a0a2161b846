"""Weights of a panel's members, learnt of labelled pairs: found again, and refused in words."""

import json
from pathlib import Path

import numpy as np
import pytest
from composing import compose

from rlhf.judges.panel import PanelConfig
from rlhf.judges.text import TextJudgeConfig
from rlhf.judges.verifier import VerifierConfig
from rlhf.launching.fingerprints import fingerprints
from rlhf.problems import InputError
from rlhf.reward.weights import Pair, fit, learn, matrix, pairs_of_run
from rlhf.storage.store import SCHEMA


def drawn(num: int, weights: tuple[float, ...], seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Differences, and which side a user with these weights prefers."""
    random = np.random.default_rng(seed)
    differences = random.normal(size=(num, len(weights)))
    won = random.random(num) < 1 / (1 + np.exp(-differences @ np.array(weights)))
    return differences, won.astype(float)


def test_the_weights_that_made_the_labels_are_found_within_their_interval():
    """Labels drawn from σ(2 Δ_1): the first member weighs 2, the second nothing."""
    found = fit(*drawn(4000, (2.0, 0.0)))
    assert (
        np.abs(found.weights - [2.0, 0.0]) == pytest.approx(0, abs=1) and found.errors.max() < 0.1
    )
    assert np.all(np.abs(found.weights - [2.0, 0.0]) < 3 * found.errors)
    assert 0.7 < found.accuracy < 0.9


def test_sides_swapped_give_the_same_weights_and_labels_swapped_the_opposite():
    differences, labels = drawn(300, (2.0, -0.5))
    found = fit(differences, labels)
    assert fit(-differences, 1 - labels).weights == pytest.approx(found.weights)
    assert fit(differences, 1 - labels).weights == pytest.approx(-found.weights)


def test_the_gradient_is_0_where_it_ends():
    differences, labels = drawn(200, (3.0, 1.0))
    labels[:50] = 0.7  # not certain
    scale = np.sqrt((differences**2).mean(axis=0))
    found = fit(differences, labels)
    won = 1 / (1 + np.exp(-differences @ found.weights))
    gradient = differences.T @ (labels - won) / scale - found.weights * scale
    assert gradient == pytest.approx(0, abs=1e-7)


def test_a_member_that_explains_every_pair_has_a_finite_weight_in_any_unit():
    differences = np.abs(drawn(50, (1.0,))[0])
    small, large = (fit(differences * unit, np.ones(50)) for unit in (1e-6, 1e6))
    assert np.isfinite(small.weights).all() and small.accuracy == 1.0
    assert small.weights * 1e-6 == pytest.approx(large.weights * 1e6)


def test_pairs_that_lack_a_score_are_left_out():
    pairs = [
        Pair({"a": 1.0}, {"a": 0.0}),
        Pair({"a": None}, {"a": 0.0}),
        Pair({"a": 2.0}, {"a": 5.0}),
    ]
    differences, labels = matrix(pairs, ["a"])
    assert (differences.tolist(), labels.tolist()) == ([[1.0], [-3.0]], [1.0, 1.0])
    with pytest.raises(InputError, match="a scores both sides of every pair alike"):
        matrix([Pair({"a": 1.0}, {"a": 1.0})] * 5, ["a"])
    with pytest.raises(InputError, match="0 of 1 pairs have scores of them all"):
        matrix([Pair({}, {"a": 1.0})], ["a"])


def parts_of_run(directory: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"round": 0, "prompt_id": "1", "prompt": "?", "prefix": "", "judge": "panel@1"}
    sides = [((1.0, 2.0), (0.0, 3.0)), ((1.0, 1.0), (0.0, 0.0)), ((0.0, 1.0), (1.0, 0.5))]
    told = [
        {f"{side}_parts": json.dumps({"maths": maths, "length": length})
         for side, (maths, length) in zip(("chosen", "rejected"), both, strict=True)}
        for both in sides * 4
    ]  # fmt: skip
    kept = [{**row, **one, "win_prob": 1.0} for one in told]
    rows = kept + [{**row, **one, "dropped": "tie"} for one in told]
    (directory / "preferences").mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, directory / "preferences" / "round_000000.parquet")


def test_a_run_s_pairs_give_a_file_that_a_panel_takes(tmp_path: Path, capsys):
    parts_of_run(tmp_path / "run")
    assert len(pairs_of_run(tmp_path / "run")) == 12
    learn([f"run={tmp_path / 'run'}", f"output={tmp_path / 'w.json'}"])
    assert "12 of 12 pairs, of which they put 66.7% right" in capsys.readouterr().out
    weights = json.loads((tmp_path / "w.json").read_text())
    members = {"maths": VerifierConfig(), "length": TextJudgeConfig()}
    panel = PanelConfig(members=members, weights_file=str(tmp_path / "w.json"))
    assert list(panel.problems()) == [] and panel.every_weight() == weights
    known = fingerprints({"judge": {"weights_file": str(tmp_path / "w.json")}})
    assert known.keys() == {"judge.weights_file"}
    del members["length"]
    (problem,) = panel.problems()
    assert "has a weight of length, and there is no such member; there is maths" in problem


def test_strengths_of_reward_models_by_people_s_labels_are_as_good_as_their_scores(tmp_path: Path):
    scores = [((1.0, 2.0), (0.0, 3.0)), ((1.0, 1.0), (0.0, 0.0)), ((0.0, 1.0), (1.0, 0.5))] * 4
    leads = [{"strength": [a - b for a, b in zip(*both, strict=True)]} for both in scores]
    sides = [
        {f"{side}_parts": dict(zip("ab", values, strict=True))
         for side, values in zip(("chosen", "rejected"), both, strict=True)}
        for both in scores
    ]  # fmt: skip
    found = []
    for name, rows in (("leads", leads), ("sides", sides)):
        file, output = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.json"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        learn([f"data={file}", "members=a,b", f"output={output}"])
        found.append(json.loads(output.read_text()))
    assert found[0] == found[1] and found[0].keys() == {"a", "b"}
    with pytest.raises(InputError, match=r'line 1 .* or a list "strength" with a number for each'):
        learn([f"data={tmp_path / 'leads.jsonl'}", "members=a", "output=x"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "has no weight of maths; add one, 0 for one that is watched"),
        ("[1]", "is no JSON such as"),
        ('{"maths": "much"}', "is no JSON such as"),
    ],
)
def test_a_file_of_weights_that_cannot_be_used_is_told(tmp_path: Path, text: str, told: str):
    file = tmp_path / "w.json"
    file.write_text(text)
    panel = PanelConfig(members={"maths": VerifierConfig()}, weights_file=str(file))
    (problem,) = panel.problems()
    assert problem.startswith(f"judge.weights_file={file}: ") and told in problem
    file.write_text('{"maths": 1}')
    (problem,) = PanelConfig(
        members={"maths": VerifierConfig()}, weights_file=str(file), weights={"maths": 1}
    ).problems()
    assert "judge.weights are given too; remove either" in problem


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "run=DIR or data=FILE: say where the pairs are"),
        (["run=a", "data=b"], "one of the two"),
        (["rnu=a"], "rnu: there is no such key; there are run, data, members, output"),
        (["data={file}", "members=b"], "members=b: .* has no such; there is a"),
        (["data={bad}"], "line 2 is not JSON with chosen_parts and rejected_parts"),
        (["data={file}x"], "cannot be read"),
    ],
)
def test_what_cannot_be_learnt_is_told(tmp_path: Path, words: list[str], told: str):
    file, bad = tmp_path / "pairs.jsonl", tmp_path / "bad.jsonl"
    line = json.dumps({"chosen_parts": {"a": 1}, "rejected_parts": {"a": None}}) + "\n"
    file.write_text(line * 3)
    bad.write_text(line + '{"chosen_parts": {"a": 1}}\n')
    with pytest.raises(InputError, match=told):
        learn([word.format(file=file, bad=bad) for word in words])


def test_the_file_is_named_as_people_type_it():
    made = compose("train", ["run.dir=x", "judge=panel", "judge.weights_file=w.json"])
    assert made.judge.weights_file == "w.json"

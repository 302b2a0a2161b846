"""A whole run of several judges, one of which fails at times, and of a gold one beside them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import SMALL, finish, run, start
from transformers import AutoModelForSequenceClassification, LlamaConfig

from rlhf.collecting.curators.strength import FLIPPED
from rlhf.storage.ledger import LEDGER
from rlhf.storage.store import read, read_metrics

FUNCTION = """
def even(prompt, completions, row):
    if row["answer"].endswith("7"):
        raise ValueError("no sevens")
    return [float(text.strip()[-1:] in set("02468")) for text in completions]
"""
WEIGHTS = {"maths": 1.0, "taste": 0.1, "length": -0.5, "even": 0.0}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, byte_model: Path) -> list[str]:
    """What is typed: a panel of four, one of them watched only, and another reward model."""
    folder = tmp_path_factory.mktemp("judges")
    for seed, name in enumerate(("taste", "gold")):
        shape = LlamaConfig.from_pretrained(byte_model, num_labels=1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            AutoModelForSequenceClassification.from_config(shape).save_pretrained(folder / name)
        for file in byte_model.glob("tokenizer*"):
            shutil.copy(file, folder / name / file.name)
    (folder / "mine.py").write_text(FUNCTION)
    weights = ", ".join(f"{name}: {weight}" for name, weight in WEIGHTS.items())
    return [
        *SMALL, "num_rounds=2", "warmup.steps=5", "judge=panel",
        "+judge@judge.members.maths=verifier", "+judge@judge.members.taste=reward_model",
        f"judge.members.taste.path={folder / 'taste'}",
        "+judge@judge.members.length=text", "judge.members.length.score=length",
        "+judge@judge.members.even=function",
        f"judge.members.even.function={folder / 'mine.py'}:even",
        "judge.members.even.max_failure_rate=0.9",
        f"judge.weights={{{weights}}}",
        "+judge@eval.gold=reward_model", f"eval.gold.path={folder / 'gold'}",
        "curator=strength", "curator.members=[taste,length]",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    directory = tmp_path_factory.mktemp("panel") / "run"
    (directory.parent / "output.txt").write_text(run(directory, *words))
    return directory


def test_parts_times_weights_are_the_score_and_a_member_that_fails_has_no_part(finished: Path):
    rows = read(finished).to_pylist()
    sides = [
        (row[f"{side}_score"], json.loads(row[f"{side}_parts"]), row[f"{side}_reason"])
        for row in rows
        for side in ("chosen", "rejected")
        if row[f"{side}_parts"]
    ]
    assert len(sides) > 20
    for score, parts, _ in sides:
        assert parts.keys() == WEIGHTS.keys()
        weighed = sum(parts[name] * weight for name, weight in WEIGHTS.items() if weight)
        assert score == pytest.approx(weighed, abs=1e-6)
    failed = [(parts["even"], reason) for _, parts, reason in sides if parts["even"] is None]
    assert failed and all("even: ValueError: no sevens" in reason for _, reason in failed)
    assert {parts["even"] for _, parts, _ in sides} >= {None, 0.0}
    assert "0.1 taste=reward_model/taste@" in rows[0]["judge"]


def test_members_that_are_against_a_label_turn_it_round_and_the_run_remembers(finished: Path):
    rows = [row for row in read(finished).to_pylist() if row["dropped"] is None]
    leads = []
    for row in rows:
        chosen, rejected = (json.loads(row[f"{side}_parts"]) for side in ("chosen", "rejected"))
        of_members = [chosen[name] - rejected[name] for name in ("taste", "length")]
        leads.append((row["round"], sum(of_members) / 2, row["judge"].endswith(FLIPPED)))
        assert row["win_prob"] in (1.0, 0.9) and (row["margin"] < 0) == leads[-1][-1]
    assert 0 < sum(is_flipped for *_, is_flipped in leads) < len(leads)
    assert all(lead > 0 for _, lead, is_flipped in leads if is_flipped)
    (checkpoint,) = (finished / "checkpoints").glob("round_000002")
    noted = json.loads((checkpoint / LEDGER).read_text())["curator"]
    for round in range(2):
        expected = [-lead if turned else lead for at, lead, turned in leads if at == round]
        assert noted[str(round)] == pytest.approx(expected, abs=1e-9)


def test_each_member_has_workers_and_a_curve(finished: Path):
    plan = (finished.parent / "output.txt").read_text()
    counted = {line.split()[0]: line.split()[1] for line in plan.splitlines() if line.strip()}
    assert counted.items() >= {
        "judge.maths": "1", "judge.taste": "1", "judge.length": "1", "judge.even": "1", "gold": "1",
    }.items()  # fmt: skip
    records = read_metrics(finished / "metrics.jsonl")
    assert records[1].keys() >= {f"judge/part_{name}" for name in WEIGHTS}
    assert records[1].keys() >= {f"judge/failed_{name}" for name in WEIGHTS}
    assert any(one.get("judge/failed_even") for one in records)
    assert all(one.get("judge/failed_maths", 0) == 0 for one in records)
    # A judge that compares may come later.
    assert json.loads((finished / "initial_completions.json").read_text())
    last = records[-1]
    assert last["eval/score_mean"] != last["eval/gold_score_mean"]
    assert last.keys() >= {"eval/part_taste", "eval/gold_invalid_rate", "eval/length_mean"}
    assert "eval/gold_length_mean" not in last
    assert last["system/judge_memory_bytes"] > last["system/gold_memory_bytes"] > 0


def test_a_finished_run_is_evaluated_again_by_both(finished: Path):
    found = finish(start(finished, f"run={finished}", module="rlhf.evaluate"))
    last = read_metrics(finished / "metrics.jsonl")[-1]
    assert "gold_score_mean" in found
    told = json.loads((finished / "evaluation.json").read_text())
    for name in ("score_mean", "gold_score_mean", "part_maths"):
        assert told[name] == pytest.approx(last[f"eval/{name}"], abs=1e-5)

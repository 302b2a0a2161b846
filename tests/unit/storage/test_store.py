"""Preferences in Parquet and numbers in `metrics.jsonl`, as they are on disk."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rlhf.problems import InputError
from rlhf.records import (
    Collected,
    Completion,
    Dropped,
    DropReason,
    Judgement,
    Message,
    Preference,
    Prompt,
)
from rlhf.storage import store
from rlhf.storage.ledger import Ledger
from rlhf.storage.store import MetricsLog, PreferenceStore, read_metrics
from rlhf.tree.nodes import Tree
from rlhf.tree.store import TreeStore

PROMPT = Prompt("p1", (Message("system", "sum"), Message("user", "1+1=")), token_ids=(1,))


def completion(sample: int, text: str, **changes: Any) -> Completion:
    fields = {"truncated": False, "policy_version": 4} | changes
    tokens = tuple(range(len(text) + 1))
    return Completion("p1", sample, tokens, tuple(-1.0 for _ in tokens), text, **fields)


@pytest.fixture
def collected() -> Collected:
    good, bad = completion(0, "2"), completion(1, "11", policy_version=3)
    same, cut = completion(2, "2"), completion(3, "999", truncated=True)
    return Collected(
        prompt=PROMPT,
        completions=(good, bad, same, cut),
        judgement=Judgement((1.0, 0.25, 1.0, None), "verifier/integer@1"),
        preferences=(
            Preference.over(PROMPT, good, bad, 1.0, 0.25, "verifier/integer@1", weight=0.5),
        ),
        dropped=(
            Dropped(DropReason.TIE, good, same),
            Dropped(DropReason.TRUNCATED, rejected=cut),
            Dropped(DropReason.SHORT_GROUP),
        ),
    )


def test_a_round_has_its_name_when_it_is_kept_and_not_before(tmp_path, collected):
    keep = PreferenceStore(tmp_path).prepare(7, [collected])
    assert store.round_files(tmp_path) == []
    keep()
    assert [file.name for file in store.round_files(tmp_path)] == ["round_000007.parquet"]


def test_what_is_written_in_pieces_is_read_as_one(tmp_path, collected, monkeypatch):
    others = [replace(collected, prompt=replace(PROMPT, answer=str(i))) for i in range(5)]
    PreferenceStore(tmp_path / "whole").prepare(0, others)()
    monkeypatch.setattr(store, "PIECE_BYTES", 20)
    PreferenceStore(tmp_path / "pieces").prepare(0, others)()
    (file,) = store.round_files(tmp_path / "pieces")
    assert pq.ParquetFile(file).num_row_groups == 5
    assert store.read(tmp_path / "pieces") == store.read(tmp_path / "whole")


def test_a_round_of_nothing_has_a_file(tmp_path):
    PreferenceStore(tmp_path).prepare(0, [])()
    (file,) = store.round_files(tmp_path)
    assert pq.read_table(file).schema == store.SCHEMA and store.read(tmp_path).num_rows == 0


def test_every_preference_is_kept_with_its_provenance(tmp_path: Path, collected: Collected) -> None:
    PreferenceStore(tmp_path).prepare(7, [collected])()
    assert [path.name for path in (tmp_path / "preferences").iterdir()] == ["round_000007.parquet"]
    trained, *_ = store.read(tmp_path).to_pylist()
    assert trained == {
        "round": 7,
        "prompt_id": "p1",
        "prompt": "1+1=",
        "prompt_messages": [
            {"role": "system", "content": "sum"},
            {"role": "user", "content": "1+1="},
        ],
        "prefix": "",
        "chosen": "2",
        "chosen_tokens": 2,
        "chosen_truncated": False,
        "chosen_score": 1.0,
        "chosen_policy_version": 4,
        "chosen_sample": 0,
        "chosen_mixture": 0.0,
        "chosen_parts": None,
        "chosen_reason": None,
        "rejected": "11",
        "rejected_tokens": 3,
        "rejected_truncated": False,
        "rejected_score": 0.25,
        "rejected_policy_version": 3,
        "rejected_sample": 1,
        "rejected_mixture": 0.0,
        "rejected_parts": None,
        "rejected_reason": None,
        "margin": 0.75,
        "weight": 0.5,
        "win_prob": 1.0,
        "judge": "verifier/integer@1",
        "dropped": None,
    }


def test_parts_and_reasons_stand_beside_the_scores_that_they_explain(
    tmp_path: Path, collected: Collected
) -> None:
    parts = {"right": (1.0, 0.0, 1.0, None), "short": (0.5, 0.25, None, float("inf"))}
    verdict = Judgement((1.0, 0.25, 1.0, None), "panel@1", parts, ("", "off by 9\ud800", "", ""))
    PreferenceStore(tmp_path).prepare(0, [replace(collected, judgement=verdict)])()
    trained, tie, cut, short = store.read(tmp_path).to_pylist()
    assert json.loads(trained["chosen_parts"]) == {"right": 1.0, "short": 0.5}
    assert (trained["chosen_reason"], trained["rejected_reason"]) == (None, "off by 9?")
    assert json.loads(tie["rejected_parts"]) == {"right": 1.0, "short": None}
    assert json.loads(cut["rejected_parts"]) == {"right": None, "short": None}
    assert short["chosen_parts"] is None


@pytest.mark.parametrize(
    ("parts", "reasons", "told"),
    [({"right": (1.0,)}, (), "1 values of right for 2"), ({}, ("no",), "1 reasons for 2")],
)
def test_parts_and_reasons_are_one_per_completion(parts, reasons, told) -> None:
    with pytest.raises(ValueError, match=told):
        Judgement((1.0, 0.0), "panel@1", parts, reasons)


def test_a_single_turn_is_kept_once_and_older_files_are_read(tmp_path, collected):
    single = replace(PROMPT, messages=PROMPT.messages[1:])
    PreferenceStore(tmp_path).prepare(0, [replace(collected, prompt=single)])()
    assert store.read(tmp_path)["prompt_messages"].null_count == 4
    (file,) = store.round_files(tmp_path)
    pq.write_table(pq.read_table(file).drop_columns("prompt_messages"), file)
    assert store.read(tmp_path).num_rows == 4


def test_what_was_dropped_is_kept_with_why(tmp_path: Path, collected: Collected) -> None:
    PreferenceStore(tmp_path).prepare(0, [collected])()
    _, tie, cut, short = store.read(tmp_path).to_pylist()
    assert (tie["dropped"], tie["chosen_sample"], tie["rejected_sample"]) == ("tie", 0, 2)
    assert (tie["margin"], tie["weight"], tie["judge"]) == (0.0, None, "verifier/integer@1")
    assert (cut["dropped"], cut["chosen"], cut["rejected"]) == ("truncated", None, "999")
    assert (cut["rejected_score"], cut["margin"]) == (None, None)
    assert (short["dropped"], short["chosen"], short["rejected"]) == ("short_group", None, None)


def test_all_rounds_are_read_in_order(tmp_path: Path, collected: Collected) -> None:
    kept = PreferenceStore(tmp_path)
    for round in (10, 2, 0):
        kept.prepare(round, [collected])()
    kept.prepare(3, [])()
    assert store.read(tmp_path)["round"].unique().to_pylist() == [0, 2, 10]


def test_reading_before_the_first_round_gives_an_empty_table(tmp_path: Path) -> None:
    table = store.read(tmp_path)
    assert table.schema == store.SCHEMA
    assert table.num_rows == 0


def test_a_run_that_goes_on_leaves_no_file_of_later_rounds(
    tmp_path: Path, collected: Collected
) -> None:
    """As where it is resumed to fewer rounds than it had done, and never writes them anew."""
    for number in (0, 4, 5, 6, 1_000_000):
        PreferenceStore(tmp_path).prepare(number, [collected])()
    (tmp_path / "preferences/round_000002.tmp").write_text("cut off")
    (tmp_path / "preferences/notes.txt").write_text("mine")
    PreferenceStore(tmp_path, 5)
    left = {path.name for path in (tmp_path / "preferences").iterdir()}
    assert left == {"round_000000.parquet", "round_000004.parquet", "notes.txt"}


@pytest.fixture
def flushed(monkeypatch) -> list[str]:
    """Names of the files and folders that were written through to the disk."""
    names: list[str] = []
    real = os.fsync

    def noted(handle: int) -> None:
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        real(handle)

    monkeypatch.setattr(os, "fsync", noted)
    return names


def test_a_round_is_on_disk_when_it_is_written(
    tmp_path: Path, collected: Collected, flushed: list[str]
) -> None:
    PreferenceStore(tmp_path).prepare(7, [collected])()
    assert flushed == ["round_000007.tmp", "preferences"]
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert flushed[2:] == ["metrics.jsonl.tmp", tmp_path.name]
    log.write(0, {"policy/loss": 1.0})
    assert flushed[4:] == ["metrics.jsonl"]


def test_the_same_round_gives_the_same_bytes(tmp_path: Path, collected: Collected) -> None:
    for directory in (tmp_path / "one", tmp_path / "two"):
        PreferenceStore(directory).prepare(0, [collected, collected])()
    one, two = (path.read_bytes() for path in tmp_path.rglob("*.parquet"))
    assert one == two


def test_a_score_that_is_missing_from_a_group_is_an_error(
    tmp_path: Path, collected: Collected
) -> None:
    short = Judgement(collected.judgement.scores[:-1], collected.judgement.judge)
    wrong = Collected(PROMPT, collected.completions, short, (), collected.dropped)
    with pytest.raises(ValueError, match="shorter"):
        PreferenceStore(tmp_path).prepare(0, [wrong])()
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_a_line_is_the_round_the_version_and_sorted_metrics(path: Path) -> None:
    MetricsLog(path).write(0, {"rollout/b": 2.5, "judge/a": 1, "policy/c": float("1e-7")})
    line = '{"round": 0, "policy_version": 1, "judge/a": 1, "policy/c": 1e-07, "rollout/b": 2.5}\n'
    assert path.read_text() == line


@pytest.mark.parametrize("eval_first", [True, False])
def test_an_evaluation_joins_the_line_of_its_round(path: Path, eval_first: bool) -> None:
    log = MetricsLog(path)
    log.write(-1, {"eval/score_mean": 0.1})
    log.write(0, {"policy/loss": 0.7})
    parts = [{"policy/loss": 0.6}, {"eval/score_mean": 0.2}]
    for part in reversed(parts) if eval_first else parts:
        log.write(1, part)
    log.write(2, {"policy/loss": 0.5})
    assert log.read() == [
        {"round": -1, "policy_version": 0, "eval/score_mean": 0.1},
        {"round": 0, "policy_version": 1, "policy/loss": 0.7},
        {"round": 1, "policy_version": 2, "eval/score_mean": 0.2, "policy/loss": 0.6},
        {"round": 2, "policy_version": 3, "policy/loss": 0.5},
    ]
    assert list(log.read()[2]) == ["round", "policy_version", "eval/score_mean", "policy/loss"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_null(path: Path, value: float) -> None:
    MetricsLog(path).write(0, {"policy/grad_norm": value})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert record["policy/grad_norm"] is None


def test_resuming_removes_what_comes_again(path: Path) -> None:
    killed = MetricsLog(path)
    for round in range(-1, 5):
        killed.write(round, {"policy/loss": float(round)})
    resumed = MetricsLog(path, start_round=3)
    assert [record["round"] for record in read_metrics(path)] == [-1, 0, 1, 2]
    resumed.write(2, {"eval/score_mean": 0.5})
    resumed.write(3, {"policy/loss": 30.0})
    assert [record["policy/loss"] for record in resumed.read()] == [-1.0, 0.0, 1.0, 2.0, 30.0]
    assert resumed.read()[3]["eval/score_mean"] == 0.5
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def test_starting_over_removes_everything(path: Path) -> None:
    MetricsLog(path).write(-1, {"eval/score_mean": 0.5})
    assert MetricsLog(path, start_round=0).read() == []


def test_half_a_line_of_a_killed_run_is_passed_over(path: Path) -> None:
    MetricsLog(path).write(0, {"policy/loss": 0.5})
    with path.open("a") as file:
        file.write('{"round": 1, "policy_ver')
    assert [record["round"] for record in read_metrics(path)] == [0]
    MetricsLog(path, start_round=1).write(1, {"policy/loss": 0.4})
    assert [record["policy/loss"] for record in read_metrics(path)] == [0.5, 0.4]


@pytest.mark.parametrize("line", [b"{", b"[]", b"{}", b"\xff", b'{"round": "1"}'])
def test_a_line_that_is_none_is_named_with_its_file(path: Path, line: bytes) -> None:
    path.write_bytes(b'{"round": 0}\n' + line + b"\n")
    with pytest.raises(InputError) as caught:
        read_metrics(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: is damaged in line 2 (") and "\n" not in problem


@pytest.mark.parametrize(
    "id", ["../../up", "/absolute", "a\0b", "x" * 100_000, "..", "a\nb", "~/home", "con\u202e"]
)
def test_an_id_is_no_path(tmp_path: Path, collected: Collected, id: str) -> None:
    """Ids are the user's data's own; nothing on disk has its name from one."""
    directory = tmp_path / "runs" / "one"
    named = replace(collected, prompt=replace(collected.prompt, id=id))
    PreferenceStore(directory).prepare(7, [named])()
    assert {row["prompt_id"] for row in store.read(directory).to_pylist()} == {id}
    trees = TreeStore(directory, 0)
    trees.add(Tree.planted(named.prompt, 3))
    trees.prepare(7, [replace(named, tree=Tree.planted(named.prompt, 4))])()
    assert TreeStore(directory, 7).find(named.prompt, 3) is not None
    Ledger(directory).journal("asked", "ids").note(7, [id])
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    names = ("preferences/round_000007.parquet", "trees/round_000007.parquet", "asked.jsonl")
    names += ("trees/unfinished_round.jsonl", "trees/num_rounds.json")
    assert found == {f"runs/one/{name}" for name in names}

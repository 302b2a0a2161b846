"""Two runs side by side: what is lost, doubled or other is named."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from rlhf.chaos.comparing import differences
from rlhf.storage.store import SCHEMA

FILLED = {"prompt": "?", "prefix": "", "judge": "j"}


def left(directory: Path, rows=((0, "a", 0, 1), (1, "b", 2, 3)), loss=0.5, weight=1.0) -> Path:
    """What a run of two rounds has left."""
    (directory / "policy").mkdir(parents=True)
    (directory / "preferences").mkdir()
    save_file({"w": torch.tensor([weight, 2.0])}, directory / "policy" / "model.safetensors")
    lines = [
        {"round": number, "policy/loss": loss, "time/round_s": weight, "rollout/num_prompts": 1}
        for number in (0, 1)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    table = [
        FILLED | {"round": r, "prompt_id": p, "chosen_sample": c, "rejected_sample": d}
        for r, p, c, d in rows
    ]
    pq.write_table(
        SCHEMA.empty_table().from_pylist(table, SCHEMA),
        directory / "preferences" / "round_000000.parquet",
    )
    return directory


@pytest.fixture
def expected(tmp_path) -> Path:
    return left(tmp_path / "expected")


def test_equal_runs_differ_in_nothing_but_the_clock(tmp_path, expected):
    found = left(tmp_path / "found")
    text = (found / "metrics.jsonl").read_text()
    (found / "metrics.jsonl").write_text(text.replace('s": 1.0', 's": 9.0'))
    assert not any(differences(expected, found).values())
    assert not any(differences(expected, found, exact=False).values())


@pytest.mark.parametrize(
    "changes, what, told",
    [
        ({"weight": 1.5}, "weights", "model.safetensors: w differs by up to 0.5"),
        ({"loss": 0.25}, "metrics", "round 0: policy/loss is 0.25, not 0.5"),
        ({"rows": [(0, "a", 0, 1)]}, "preferences", "1 lost, such as samples 2 and 3 of prompt b"),
        (
            {"rows": [(0, "a", 0, 1), (1, "b", 2, 3), (1, "b", 2, 3)]},
            "preferences",
            "1 too many, such as samples 2 and 3 of prompt b in round 1",
        ),
    ],
)
def test_what_differs_is_named(tmp_path, expected, changes, what, told):
    found = differences(expected, left(tmp_path / "found", **changes))
    assert found[what].startswith(told)
    assert [name for name, text in found.items() if text] == [what]


def test_where_numbers_may_differ_rounds_and_preferences_may_not(tmp_path, expected):
    twice = left(tmp_path / "twice", [(0, "a", 0, 1)] * 2, loss=9.0)
    assert "are there twice" in differences(expected, twice, exact=False)["preferences"]
    lines = (twice / "metrics.jsonl").read_text().splitlines(keepends=True)
    (twice / "metrics.jsonl").write_text(lines[0])
    assert differences(expected, twice, exact=False)["metrics"] == "1 lines, not 2"


def test_a_run_without_weights_is_told(tmp_path, expected):
    found = left(tmp_path / "found")
    (found / "policy" / "model.safetensors").unlink()
    assert "has no weights" in differences(expected, found)["weights"]

"""A run goes on with what it began with."""

import json
from pathlib import Path

import pytest

from rlhf.config.models import TinyModelConfig
from rlhf.launching.fingerprints import fingerprints, require_same
from rlhf.problems import InputError
from rlhf.toys.tiny import build_tiny_model


@pytest.fixture
def config(tmp_path: Path) -> dict:
    model = tmp_path / "model"
    build_tiny_model(TinyModelConfig(num_layers=1, width=16, num_heads=2), model, seed=1)
    (tmp_path / "data").mkdir()
    for name in ("train.jsonl", "heldout.jsonl", "template.txt", "data/part.jsonl"):
        (tmp_path / name).write_text("{}\n")
    return {
        "model": {"path": str(model), "dtype": "float32"},
        "data": {
            "path": str(tmp_path / "train.jsonl"),
            "heldout_path": str(tmp_path / "heldout.jsonl"),
            "feed": str(tmp_path / "data"),
        },
        "judge": {"game": "conf/games/cycle.json", "template": str(tmp_path / "template.txt")},
        "run": {"dir": str(tmp_path)},
        "seed": 1,
    }


EVERY = {"model.path", "data.path", "data.heldout_path", "judge.game", "judge.template"}


def test_everything_that_is_read_and_nothing_else(config):
    assert fingerprints(config).keys() == EVERY


@pytest.mark.parametrize(
    "file, key",
    [
        ("train.jsonl", "data.path"),
        ("heldout.jsonl", "data.heldout_path"),
        ("template.txt", "judge.template"),
        ("model/model.safetensors", "model.path"),
        ("model/tokenizer.json", "model.path"),
        ("model/chat_template.jinja", "model.path"),
    ],
)
def test_a_change_is_refused_or_allowed_by_name(config, tmp_path, file, key):
    run = tmp_path / "run"
    run.mkdir()
    require_same(run, fingerprints(config), [], resumes=False)
    require_same(run, fingerprints(config), [], resumes=True)
    with (tmp_path / file).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(InputError) as refused:
        require_same(run, fingerprints(config), [], resumes=True)
    (problem,) = refused.value.problems
    assert problem.startswith(f"{key}: ") and f"run.allow_changed=[{key}]" in problem
    require_same(run, fingerprints(config), [key], resumes=True)
    require_same(run, fingerprints(config), [], resumes=True)  # from then on, it is the run's


def test_what_is_gone_is_told(config, tmp_path):
    require_same(tmp_path, fingerprints(config), [], resumes=False)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(InputError, match=r"^data\.path: .* is no longer there"):
        require_same(tmp_path, fingerprints(config), [], resumes=True)


def test_a_run_that_begins_writes_what_it_read(config, tmp_path):
    (tmp_path / "inputs.json").write_text(json.dumps({"data.path": "other"}))
    require_same(tmp_path, fingerprints(config), [], resumes=False)
    assert json.loads((tmp_path / "inputs.json").read_text()).keys() == EVERY

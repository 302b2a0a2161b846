"""Several scores per completion: what is masked, what they are called, what they add up to."""

import json
import math

import pytest
import torch
from reward_command import QUICK, group, jsonl, record

from rlhf.judges.attributes import AttributesConfig
from rlhf.problems import InputError
from rlhf.reward import losses as reward_losses

COLUMNS = ("kind=attributes", "data.rejected_column=null", "data.score_columns=[helpful,long]")


def scored(text: str, helpful: float | None, long: float | None) -> dict:
    return {"prompt": "?", "chosen": text, "helpful": helpful, "long": long}


@pytest.fixture
def rows(tmp_path) -> tuple[str, str]:
    told = [scored("z", 3, 0), scored("y", 1, -100), scored("x", None, 2), scored("zz", 3, 1)]
    path = jsonl(tmp_path / "a.jsonl", *told)
    return f"data.path={path}", f"data.heldout_path={path}"


def test_what_nobody_has_scored_is_no_error_by_hand():
    found = torch.tensor([[3.0, 2.0], [1.0, 1.0]], requires_grad=True)
    targets = torch.tensor([[4.0, math.nan], [2.0, 4.0]])
    loss = reward_losses.attributes(found, targets)
    assert loss.tolist() == [1.0, 5.0]
    loss.sum().backward()
    assert found.grad is not None and found.grad.tolist() == [[-2.0, 0.0], [-1.0, -3.0]]


def test_the_judge_gives_each_attribute_and_their_weighted_sum(command, rows, tmp_path):
    assert command(*COLUMNS, "seed=2", *QUICK, "epochs=60", "learning_rate=1e-2", *rows)[0] == 0
    assert record(tmp_path)["use_with"].startswith("judge=attributes judge.path=")
    config = AttributesConfig(path=str(tmp_path / "out"), weights={"helpful": 1, "long": -0.5})
    config.inspect(set())
    (verdict,) = config.build().judge([group("?", "z", "y", "x")])
    helpful, long = verdict.parts["helpful"], verdict.parts["long"]
    assert (helpful[0], helpful[1]) == pytest.approx((3, 1), abs=0.4)
    assert (long[0], long[2]) == pytest.approx((0, 2), abs=0.4)
    assert verdict.scores == pytest.approx(
        [h - 0.5 * n for h, n in zip(helpful, long, strict=True)]
    )
    (mean,) = AttributesConfig(path=str(tmp_path / "out")).build().judge([group("?", "z")])
    assert mean.scores == pytest.approx(((helpful[0] + long[0]) / 2,))


def test_an_unknown_attribute_is_told_with_the_nearest(command, rows, tmp_path):
    assert command(*COLUMNS, *QUICK, "epochs=1", *rows)[0] == 0
    config = AttributesConfig(path=str(tmp_path / "out"), weights={"helpfull": 1})
    with pytest.raises(InputError, match=r"weights.helpfull: is no .* did you mean helpful\?"):
        config.inspect(set())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (COLUMNS[:2], "data.score_columns=[]: kind=attributes fits scores"),
        ((COLUMNS[0], COLUMNS[2]), "data.rejected_column=rejected: kind=attributes reads one"),
        (COLUMNS[2:], "only kind=attributes fits several scores"),
        ((*COLUMNS[:2], "data.score_columns=[a,a]"), "names a column twice"),
        (
            (*COLUMNS[:2], "data.score_columns=[helpfull]"),
            "did you mean data.score_columns=",
        ),
        ((*COLUMNS, "keep_head=true"), "keep_head=true: a model made from nothing has no head"),
    ],
)
def test_what_cannot_be_is_told(command, rows, overrides, told):
    code, said = command(*QUICK, *overrides, *rows)
    assert code == 2 and told in said


def test_a_row_without_any_score_is_refused(command, tmp_path):
    path = jsonl(tmp_path / "a.jsonl", scored("z", None, -100), scored("y", 1, 1))
    paths = (f"data.path={path}", f"data.heldout_path={path}")
    code, said = command(*COLUMNS, *QUICK, *paths)
    assert code == 2 and "no attribute of data.score_columns has a score; 1 rows: 1" in said


def test_a_head_can_be_kept_and_one_that_is_not_there_is_missed(command, tmp_path):
    fitted = [{"prompt": "?", "chosen": t, "s": s} for t, s in (("z", 2), ("y", 0), ("x", -2))]
    scores = jsonl(tmp_path / "s.jsonl", *fitted)
    regression = ("kind=regression", "data.rejected_column=null", "data.chosen_score_column=s")
    paths = (f"data.path={scores}", f"data.heldout_path={scores}")
    assert command(*regression, *QUICK, "epochs=60", "learning_rate=1e-2", *paths)[0] == 0
    start = tmp_path / "regression"
    (tmp_path / "out").rename(start)
    pairs = jsonl(
        tmp_path / "p.jsonl",
        {"prompt": "?", "chosen": "z", "rejected": "y", "m": 2},
        {"prompt": "?", "chosen": "y", "rejected": "x", "m": 1},
    )
    further = (f"model.path={start}", f"data.path={pairs}", f"data.heldout_path={pairs}")
    scaled = ("margin=scale", "data.margin_column=m", "learning_rate=1e-9", "epochs=1")
    accuracy = {}
    for keep in ("true", "false"):
        assert command(*further, *scaled, f"keep_head={keep}", f"output={tmp_path}/{keep}")[0] == 0
        written = json.loads((tmp_path / keep / "reward.json").read_text())
        accuracy[keep] = written["heldout"]["before"]
    # It knows the order before it has seen a pair, and is as sure as the scores say.
    assert accuracy["true"]["accuracy"] == 1
    expected = (2 * math.log1p(math.exp(-2)) + math.log1p(math.exp(-2))) / 2
    assert accuracy["true"]["loss"] == pytest.approx(expected, abs=0.1)
    assert accuracy["false"]["loss"] != accuracy["true"]["loss"]
    told = command(*further, "kind=gpm", "keep_head=true", f"output={tmp_path}/gpm")
    assert told[0] == 2 and "has no head of 4 labels" in told[1]

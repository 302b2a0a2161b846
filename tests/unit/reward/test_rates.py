"""A verifier's rates by the appeals of a run: by hand, and from a run's own files."""

import json
from pathlib import Path

import pytest
import yaml

from rlhf.problems import InputError
from rlhf.reward.rates import Share, audited, estimated, learn, mean


def test_an_interval_of_a_share_by_hand():
    """6 in 100."""
    assert Share(0.06, 100).interval() == pytest.approx((0.0278, 0.1248), abs=5e-5)
    assert Share(0.0, 0).interval() == (0.0, 1.0)
    assert Share(0.0, 10).interval()[0] == 0 and Share(1.0, 10).interval()[1] == 1


def test_rounds_count_by_what_was_judged_in_them():
    assert mean([(0.5, 10), (None, 99), (0.2, 30)]) == pytest.approx((0.275, 40))
    assert mean([(None, 5)]) == (0.0, 0.0)


def rounds(prefix: str = "judge/part_") -> list[dict]:
    """Of 100 answers 60 passed; of the 40, 20 were asked about and 5 of them overturned."""
    passed = {f"{prefix}of": 0.6, "rollout/num_completions": 100}
    return [
        {"round": -1, "eval/score_mean": 0.1},
        {"round": 0, **passed, f"{prefix}overturned": 0.25, f"{prefix}confirmed": 1.0},
    ]


def test_what_was_overturned_is_weighed_by_what_failed():
    passed, overturned, confirmed = audited(rounds(), "judge/part_", 0.5)
    assert (passed, overturned, confirmed) == ((0.6, 100), (0.25, 20), (1.0, 30))
    rates, low, high = estimated(passed, overturned, confirmed)
    assert rates == pytest.approx((0.0, 0.142857), abs=1e-6)
    assert low.false_negative < 0.142857 < high.false_negative and high.false_positive > 0


@pytest.mark.parametrize("member", ["", "maths"])
def test_a_run_s_files_become_a_file_of_rates(tmp_path: Path, capsys, member: str):
    judge = {"appeals": 0.5}
    whole = {"members": {member: judge}} if member else judge
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"judge": whole}))
    records = rounds(f"judge/part_{member}." if member else "judge/part_")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    words = [f"run={tmp_path}", f"output={tmp_path}/rates.json"]
    learn([*words, f"member={member}"] if member else words)
    told = json.loads((tmp_path / "rates.json").read_text())
    assert told["false_negative"] == pytest.approx(10 / 70)
    printed = capsys.readouterr().out
    assert "by about 50 appeals, of 100 answers" in printed
    assert f"judge.rates_file={tmp_path}/rates.json" in printed


def test_what_cannot_be_is_told(tmp_path: Path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"judge": {"appeals": 0.5}}))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"round": 0, "judge/part_of": 0.5,
                                                        "rollout/num_completions": 8}))  # fmt: skip
    for words, told in [
        ([], "run=DIR: say which run"),
        (["run=x", "where=y"], "where: there is no such key"),
        ([f"run={tmp_path}"], "no answer that failed was appealed"),
        ([f"run={tmp_path}", "member=a"], "has no judge=corrected at member=a"),
        ([f"run={tmp_path}/absent"], "has no judge=corrected at member=none"),
    ]:
        with pytest.raises(InputError, match=told):
            learn(words)

"""Runs with functions of the user's own, as examples/ has them."""

import json
import re
import shlex
import shutil
from hashlib import sha256
from pathlib import Path

from commands import SMALL, finish, start

from rlhf.storage.store import read, read_metrics

EXAMPLES = Path(__file__).parents[2] / "examples"


def own(group: str, place: str) -> list[str]:
    return [f"{group}=function", f"{group}.function={EXAMPLES / place}"]


def test_many_functions_at_once(tmp_path):
    """Prompts, reward, pairs, loss and tracking, none of them built in; the reward's file is broken
    as soon as it has been tried, and the run goes on with what it has read."""
    shutil.copy(EXAMPLES / "own_reward/rewards.py", tmp_path)
    forms = (EXAMPLES / "own_reward/forms.py").read_text()
    own_text = f"{forms}\nopen(__file__, 'w').write('def parts(: broken')\n"
    (tmp_path / "forms.py").write_text(own_text)
    (tmp_path / "track.py").write_text(
        "import json, pathlib\n"
        "def log(round, metrics):\n"
        "    with (pathlib.Path(__file__).parent / 'lines.jsonl').open('a') as file:\n"
        "        print(json.dumps([round, metrics]), file=file)\n"
        "    if round == 1:\n"
        "        raise OSError('no more')\n"
    )
    settings = [
        "model=tiny", "rollout=transformers", "rollout.max_completion_tokens=8", "num_rounds=3",
        "round.prompts=16", "eval.num_prompts=16", "tracking=disabled", "model.num_layers=1",
        "model.width=64", "model.num_heads=2", "objective.anchors=[initial]",
        "data.prompt_column=sum", "data.id_column=id", "data.max_rows=200",
        "data.heldout_share=0.2", "judge.num_workers=2",
        f"tracking.function={tmp_path}/track.py:log",
        *own("data", "own_data/prompts.py:rows"),
        "judge=function", f"judge.function={tmp_path}/forms.py:parts",
        *own("objective", "own_loss/loss.py:loss"),
        *own("algorithm", "own_algorithm/pairs.py:collect"),
    ]  # fmt: skip
    output = finish(start(tmp_path / "run", *settings))
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [record["round"] for record in records] == [-1, 0, 1, 2]
    assert all(record["preference/count"] > 0 for record in records[1:])
    assert all(record["policy/num_steps"] > 0 for record in records[1:])
    told = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert {round for round, _ in told} == {-1, 0, 1, 2}
    assert {"policy/loss", "judge/score_mean"} <= dict(told)[0].keys()
    warnings = [line for line in output.splitlines() if "tracking.function:" in line]
    assert len(warnings) == 1 and "OSError: no more (track.py line 6)" in warnings[0]
    assert (tmp_path / "forms.py").read_text() == "def parts(: broken"
    name = f"parts@{sha256(own_text.encode()).hexdigest()[:8]}"
    judges = {judge for judge in read(tmp_path / "run")["judge"].to_pylist() if judge}
    assert all(judge.endswith(name) for judge in judges) and judges
    inputs = json.loads((tmp_path / "run" / "inputs.json").read_text())
    assert {f"{g}.function" for g in ("data", "judge", "objective", "algorithm")} <= inputs.keys()


DOCUMENTED = re.findall(
    r"^python -m rlhf (.*own_reward/(\w+\.py:\w+).*)$",
    (EXAMPLES / "README.md").read_text(),
    re.MULTILINE,
)


def test_each_form_of_a_reward_runs_by_its_documented_command(tmp_path):
    """But for sizes; async, in parts and as a matrix."""
    own = {one.split(":")[1]: shlex.split(line) for line, one in DOCUMENTED if "forms" in one}
    assert own.keys() == {"score_elsewhere", "parts", "matrix"}
    quick = [*SMALL[1:], "num_rounds=1", "warmup.steps=10", "data.num_digits=1"]
    quick += ["data.num_prompts=60", "data.num_heldout=32"]
    running = {name: start(tmp_path / name, *words, *quick) for name, words in own.items()}
    for name, process in running.items():
        finish(process)
        last = read_metrics(tmp_path / name / "metrics.jsonl")[-1]
        assert last["round"] == 0 and last["judge/invalid_rate"] == 0, name
        assert ("judge/part_brief" in last) is (name == "parts")
        judges = {judge for judge in read(tmp_path / name)["judge"].to_pylist() if judge}
        assert judges and all(f"forms.py:{name}@" in judge for judge in judges)

"""`label=llm` writes everything, or tells what is wrong and writes nothing."""

import json
import sys
from pathlib import Path

import pytest
from chat_server import said
from labelling_model import answer, last_message

from rlhf.config.data import LabelSource
from rlhf.config.models import TransformersRolloutConfig
from rlhf.config.run import PlacementConfig
from rlhf.feedback.__main__ import main, run
from rlhf.feedback.config import FeedbackConfig
from rlhf.feedback.labeller import LabellerFailed
from rlhf.feedback.question import trivial_question
from rlhf.judges.llm import LLMJudgeConfig
from rlhf.problems import InputError


def row(number: int, text: str, **labels) -> dict:
    texts = ["q", f"bad {number}", text, f"good {number}", "Thank you"]
    messages = [
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)
    ]
    messages[2] |= labels
    return {"id": f"c{number}", "messages": messages}


@pytest.fixture
def made(tmp_path, server) -> FeedbackConfig:
    rows = [
        row(n, "That is wrong", satisfied=False, dissatisfied=n % 4 != 3) if n % 2 else row(n, "So")
        for n in range(40)
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.answer = lambda question: said(answer(question))
    config = server.config(concurrency=5)
    out = str(tmp_path / "out")
    return FeedbackConfig(path=str(path), out=out, label=LabelSource.llm, judge=config)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_everything_is_written_in_the_log_s_order(made, server, capsys):
    server.delay_s = 0.005
    run(made)
    out = Path(made.out)
    sides = [lines(out / f"complaints.{side}.jsonl") for side in ("train", "heldout")]
    assert sorted(line["row"] for side in sides for line in side) == list(range(2, 41, 2))
    assert all([line["row"] for line in side] == sorted(line["row"] for line in side)
               for side in sides)  # fmt: skip
    assert {(line["label_source"], line["reason"], line["turn"]) for line in sides[0]} == {
        ("llm", "says it is wrong", 2)
    }
    assert len(lines(out / "seed_pairs.jsonl")) == len(sides[0])
    assert server.most_at_once <= 5
    assert len(server.asked) == 81
    assert server.asked[0][2]["messages"][0]["content"] == trivial_question()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["label_source"] == "llm"
    assert summary["labeller"]["model"] == "tiny-judge"
    assert (summary["labeller"]["turns"], summary["labeller"]["failed"]) == (80, 0)
    # Of 20 given labels 10 are dissatisfied, and the model says so of all 20: p_o = p_e = 1/2.
    found = summary["agreement"]["dissatisfied"]
    assert (found["num_turns"], found["precision"], found["recall"], found["kappa"]) == (
        *(20, 0.5, 1, 0),
    )
    shown = capsys.readouterr().out
    assert "complaints 20 | failed 0" in shown and "llm on dissatisfied: precision" in shown


def test_too_many_failures_leave_nothing_behind(made, server, tmp_path):
    def mumbling(question: str):
        return said("hm" if last_message(question) == "So" else answer(question))

    server.answer = mumbling
    with pytest.raises(LabellerFailed, match=r"tiny-judge failed on 20 of 80 turns \(20 unparsed"):
        run(made)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    made.judge.max_failure_rate = 0.25
    run(made)
    summary = json.loads((Path(made.out) / "summary.json").read_text())
    assert summary["turns"]["unknown"] == summary["labeller"]["failed"] == 20


@pytest.mark.parametrize(
    "reply, told",
    [
        (said("<think>"), "answers a trivial question without a label; turn off its thinking"),
        ((404, b"?"), "answers 404"),
        ((401, b"?"), "set AGON_JUDGE_API_KEY"),
        ((400, b"?"), "answers 400 to a trivial question: ?"),
    ],
)
def test_an_endpoint_that_cannot_label_is_refused(made, server, tmp_path, reply, told):
    server.answer = lambda question: reply
    with pytest.raises(InputError) as caught:
        run(made)
    assert told in str(caught.value)
    # Of what is cut before there is a label, once more, with the time to think.
    assert len(server.asked) == (2 if reply == said("<think>") else 1)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_trivial_question_must_fit(made):
    made.judge.max_tokens = 100
    with pytest.raises(InputError, match=r"judge\.max_tokens=100: no conv"):
        run(made)


def problems(tmp_path: Path, **settings) -> list[str]:
    config = FeedbackConfig(path="absent", out=str(tmp_path / "out"), **settings)
    with pytest.raises(InputError) as caught:
        run(config)
    return caught.value.problems


def test_what_is_wrong_with_the_settings_is_told_at_once(tmp_path):
    judge = LLMJudgeConfig(endpoint="judge:8000", template="mine.txt", concurrency=0)
    told = problems(tmp_path, label=LabelSource.llm, judge=judge, heldout_share=0.0)
    assert [line.split(":")[0] for line in told] == [
        "heldout_share=0.0",
        "judge.concurrency=0",
        "judge.endpoint=judge",
        "judge.model",
        "judge.template=mine.txt",
    ]
    (neither,) = problems(tmp_path, label=LabelSource.llm)
    assert neither.startswith("judge.path, judge.endpoint: one is required")
    assert "judge.policy" not in neither  # there is none


def test_what_the_worker_s_model_would_not_read_is_told(tmp_path):
    told = problems(
        tmp_path,
        label=LabelSource.llm,
        judge=LLMJudgeConfig(path="some/model", logprobs=False),
        rollout=TransformersRolloutConfig(num_workers=2, max_prompt_tokens=5),
        placement=PlacementConfig(gpus=True, colocated=True),
    )
    assert [line.split(":")[0] for line in told] == [
        "judge.logprobs=False",
        "rollout.num_workers=2",
        "rollout.max_prompt_tokens=5",
        "placement=colocated",
    ]


@pytest.mark.parametrize("label", ["given", "rules"])
def test_a_model_that_nobody_asks_is_told(tmp_path, label):
    judge = LLMJudgeConfig(path="some/model", num_workers=3)
    (told,) = problems(tmp_path, label=LabelSource(label), judge=judge)
    assert told.startswith(f"judge.num_workers, judge.path: label={label} needs no model; add")


def test_the_command(made, server, tmp_path, monkeypatch, capsys):
    def command(out: str, *more: str) -> tuple[object, str, str]:
        words = [f"path={made.path}", f"out={tmp_path}/{out}", f"hydra.run.dir={tmp_path}/hydra"]
        words += ["label=llm", f"judge.endpoint={server.url}", "judge.model=tiny-judge", *more]
        words += ["hydra/job_logging=none", "hydra/hydra_logging=none"]
        monkeypatch.setattr(sys, "argv", ["rlhf.feedback", *words])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, stdout, stderr = command("done")
    assert code == 0, stderr
    assert "turns that tiny-judge failed on" in stdout
    code, _, stderr = command("refused", "judge.path=some/model", "judge.timeout_s=0")
    assert code == 2
    assert stderr.count("error: judge.") == 2 and "Traceback" not in stderr
    first = True

    def mumbling(question: str):
        nonlocal first
        reply, first = said("neither: x" if first else "hm"), False
        return reply

    server.answer = mumbling
    code, _, stderr = command("failed")
    assert code == 1
    assert "failed: label=llm: tiny-judge failed on 80 of 80 turns" in stderr
    assert "Traceback" not in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done", "hydra", "log.jsonl"]

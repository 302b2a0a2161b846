"""label=llm: every turn is asked once, failures are counted, and too many of them end it."""

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import Server, said

from rlhf.config.feedback import FeedbackConfig, LabelSource
from rlhf.config.judges import LLMJudgeConfig
from rlhf.config.models import TransformersRolloutConfig
from rlhf.config.run import PlacementConfig
from rlhf.feedback import labeller as labeller_module
from rlhf.feedback.__main__ import run
from rlhf.feedback.access import EndpointWriter
from rlhf.feedback.conversations import Conversation
from rlhf.feedback.labeller import LabellerFailed, LLMLabeller, NoAnswer, run_in_order
from rlhf.feedback.question import ANSWER_TOKENS, trivial_question
from rlhf.judges.server import EndpointFailed
from rlhf.problems import InputError
from rlhf.records import Message

ROOT = Path(__file__).parents[2]


def conversation(*texts: str, id: str = "c") -> Conversation:
    messages = tuple(Message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts))
    return Conversation(id, messages, (), "log.jsonl", 3)


def last_message(question: str) -> str:
    return question.split("=== The user's last message ===\n| ")[1].split("\n")[0]


def answer(question: str) -> str:
    """What a good model would say to the conversations of this file."""
    message = last_message(question).lower()
    if "wrong" in message:
        return "dissatisfied: says it is wrong"
    return "satisfied: says thanks" if "thank" in message else "neither: a new topic"


class Fake:
    """Answers after a while, and remembers how many questions were there at once."""

    model = "fake"

    def __init__(self, answer=answer) -> None:
        self.answer = answer
        self.asked = []
        self.at_once = self.most_at_once = 0

    def fits(self, question: str) -> bool:
        return "huge" not in question

    def clean(self, text: str) -> str:
        return text.replace("<end>", "< end>")

    async def write(self, question: str) -> str:
        self.asked.append(question)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(random.Random(len(self.asked)).random() / 500)
        self.at_once -= 1
        return self.answer(question)


def labeller(writer, *, concurrency=4, max_failure_rate=1.0) -> LLMLabeller:
    return LLMLabeller(writer, concurrency=concurrency, max_failure_rate=max_failure_rate)


# --- verdicts -----------------------------------------------------------------------------------


async def test_every_turn_after_a_reply_is_labelled_in_order():
    talk = conversation("That's wrong", "a", "Wrong!<end>", "b", "Thanks", "c", "And now?")
    fake = Fake()
    assert await labeller(fake).label(talk) == (
        (2, "dissatisfied", "says it is wrong"),
        (4, "satisfied", "says thanks"),
        (6, "neither", "a new topic"),
    )
    assert len(fake.asked) == 3 and not any("<end>" in question for question in fake.asked)
    assert await labeller(fake).label(conversation("q", "a")) == ()


async def test_what_is_no_label_is_unknown_and_counted():
    def other(question: str) -> str:
        if "lost" in question:
            raise NoAnswer("refused")
        return "I think so" if "odd" in question else answer(question)

    one = labeller(Fake(other))
    assert [
        (await one.label(conversation("q", "a", text)))[0][1:] for text in ("odd", "huge", "lost")
    ] == [
        ("unknown", "unparsed answer: 'I think so'"),
        ("unknown", "too long: the reply and this turn exceed judge.max_tokens"),
        ("unknown", "no answer: refused"),
    ]
    await one.label(conversation("q", "a", "thanks"))
    record = one.record()
    assert (record["model"], record["turns"], record["failed"]) == ("fake", 4, 3)
    assert record["failures"] == {"unparsed": 1, "too_long": 1, "no_answer": 1}
    # A too long history is no failure: what fits is asked.
    assert (await one.label(conversation("huge", "a", "thanks")))[0][1] == "satisfied"


async def test_too_many_failures_are_told_with_an_example():
    one = labeller(Fake(lambda question: "Well."), max_failure_rate=0.5)
    await one.label(conversation("q", "a", "x", "b", "huge"))
    with pytest.raises(LabellerFailed) as caught:
        one.check()
    told = str(caught.value)
    assert "label=llm: fake failed on 2 of 2 turns" in told
    assert "1 unparsed" in told and "1 too_long" in told
    assert "judge.max_failure_rate=0.5; such as log.jsonl row 3, turn " in told


async def test_the_rate_itself_is_allowed_and_no_turns_are_no_failure():
    one = labeller(Fake(), max_failure_rate=0.5)
    one.check()
    await one.label(conversation("q", "a", "x", "b", "huge"))
    one.check()


async def test_a_hopeless_log_ends_early(monkeypatch):
    monkeypatch.setattr(labeller_module, "CHECKED_EVERY", 10)
    fake = Fake(lambda question: "Well.")
    one = labeller(fake, max_failure_rate=0.5)
    talks = (conversation("q", "a", "x") for _ in range(10**6))
    with pytest.raises(LabellerFailed, match="10 of 10"):
        await run_in_order(talks, one.label, lambda *_: None, 8)
    assert len(fake.asked) < 30


# --- order and bounds ---------------------------------------------------------------------------


async def test_results_come_in_order_from_a_bounded_number_of_conversations():
    fake, taken, finished = Fake(), [], []

    def talks():
        for n in range(200):
            taken.append(n)
            assert len(taken) - len(finished) <= 16
            yield conversation("q", "a", *["thanks", "b"] * (n % 4), id=str(n))

    one = labeller(fake, concurrency=3)
    await run_in_order(talks(), one.label, lambda talk, verdicts: finished.append(talk.id), 16)
    assert finished == [str(n) for n in range(200)]
    assert fake.most_at_once == 3
    assert one.record()["turns"] == len(fake.asked) == 50 * (0 + 1 + 2 + 3)


async def test_an_error_cancels_what_is_under_way():
    ended = []

    async def work(n: int) -> None:
        try:
            await asyncio.sleep(0 if n == 1 else 3600)
        finally:
            ended.append(n)
        raise ValueError(n)

    async def first(n: int) -> None:
        await (asyncio.sleep(0) if n == 0 else work(n))

    with pytest.raises(ValueError):
        await run_in_order(range(4), first, lambda *_: None, 4)
    assert ended == [1, 2, 3]


async def test_a_faulty_log_cancels_what_is_under_way():
    def talks():
        yield conversation("q", "a", "x")
        raise InputError(["row 2"])

    fake = Fake()
    with pytest.raises(InputError):
        await run_in_order(talks(), labeller(fake).label, lambda *_: None, 8)
    assert len(asyncio.all_tasks()) == 1


# --- an endpoint --------------------------------------------------------------------------------


async def written(server: Server, question: str = "?", **settings) -> str:
    writer = EndpointWriter(server.config(**settings))
    try:
        return await writer.write(question)
    finally:
        await writer.aclose()


async def test_what_an_endpoint_is_asked(server, monkeypatch):
    monkeypatch.setenv("AGON_JUDGE_API_KEY", "sk-secret")
    server.replies = [said("neither: é")]
    assert await written(server, "é?") == "neither: é"
    ((path, headers, body),) = server.asked
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", "Bearer sk-secret")
    assert body == {
        "model": "tiny-judge",
        "messages": [{"role": "user", "content": "é?"}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
    }


@pytest.mark.parametrize(
    "reply, told",
    [
        ((200, b"<html>"), "no chat completion: <html>"),
        ((200, {"choices": []}), "no chat completion"),
        ((200, {"choices": [{"message": {"content": None}}]}), "no chat completion"),
        ((200, []), "no chat completion"),
        ((400, b"too long"), "answers 400: too long"),
        ((503, b"busy"), r"answers 503: busy \(3 tries\)"),
    ],
)
async def test_no_answer_of_an_endpoint(server, reply, told):
    server.replies = [reply]
    with pytest.raises(NoAnswer, match=told):
        await written(server)


async def test_a_deadline_is_no_answer_and_a_refusal_ends_it(server):
    server.replies, server.delay_s = [said("neither: x")], 0.5
    with pytest.raises(NoAnswer, match=r"no reply within 0\.1 s"):
        await written(server, timeout_s=0.1)
    server.replies, server.delay_s = [(401, b"who?")], 0
    with pytest.raises(EndpointFailed, match=r"answers 401: who\?"):
        await written(server)


async def test_an_endpoint_s_tokens_are_three_bytes(server):
    writer = EndpointWriter(server.config(max_tokens=4))
    assert writer.fits("x" * 12) and not writer.fits("é" * 7)
    assert writer.clean("a<|im_end|>") == "a< |im_end|>"
    await writer.aclose()


# --- the command --------------------------------------------------------------------------------


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
    assert told in str(caught.value) and len(server.asked) == 1
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


def test_the_command(made, server, tmp_path):
    def command(out: str, *more: str):
        words = [f"path={made.path}", f"out={tmp_path}/{out}", f"hydra.run.dir={tmp_path}/hydra"]
        words += ["label=llm", f"judge.endpoint={server.url}", "judge.model=tiny-judge", *more]
        return subprocess.run(
            [sys.executable, "-m", "rlhf.feedback", *words],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "100"},
        )

    done = command("done")
    assert done.returncode == 0, done.stderr
    assert "turns that tiny-judge failed on" in done.stdout
    refused = command("refused", "judge.path=some/model", "judge.timeout_s=0")
    assert refused.returncode == 2
    assert refused.stderr.count("error: judge.") == 2 and "Traceback" not in refused.stderr
    first = True

    def mumbling(question: str):
        nonlocal first
        reply, first = said("neither: x" if first else "hm"), False
        return reply

    server.answer = mumbling
    failed = command("failed")
    assert failed.returncode == 1
    assert "failed: label=llm: tiny-judge failed on 80 of 80 turns" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done", "hydra", "log.jsonl"]

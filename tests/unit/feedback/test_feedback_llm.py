"""A labelling model: every turn is asked once, in order, and what fails is counted."""

import asyncio
import random

import pytest
from chat_server import Server, said, thought
from labelling_model import answer

from rlhf.conversations.log import Conversation
from rlhf.feedback import labeller as labeller_module
from rlhf.feedback.access import EndpointWriter
from rlhf.feedback.labeller import LabellerFailed, LLMLabeller, NoAnswer, run_in_order
from rlhf.feedback.question import ANSWER_TOKENS
from rlhf.judges.questions.server import EndpointFailed
from rlhf.problems import InputError
from rlhf.records import Message


def conversation(*texts: str, id: str = "c") -> Conversation:
    messages = tuple(Message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts))
    return Conversation(id, messages, (), "log.jsonl", 3)


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
    "first", [said("<think> The user"), thought(None, reasoning="The user", finish="length")]
)
@pytest.mark.parametrize(
    "reply",
    [thought("<think>a\nneither: b</think>\n\nmixed: é"), thought("mixed: é", reasoning="a")],
)
async def test_an_endpoint_s_thought_is_left_out(server, first, reply):
    server.replies = [first, reply]
    writer = EndpointWriter(server.config())
    await writer.check()
    assert (await writer.write("?")).strip() == "mixed: é"
    await writer.aclose()
    limits = [body["max_tokens"] for _, _, body in server.asked]
    assert limits == [ANSWER_TOKENS, 4096 + ANSWER_TOKENS, 4096 + ANSWER_TOKENS]


@pytest.mark.parametrize(
    "reply, told",
    [
        ((200, b"<html>"), "no chat completion: <html>"),
        ((200, {"choices": []}), "no chat completion"),
        ((200, {"choices": [{"message": {"content": None}}]}), "no chat completion"),
        ((200, []), "no chat completion"),
        ((400, b"too long"), "answers 400: too long"),
        ((503, b"busy"), r"answers 503: busy \(\d tries"),
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

"""A language model's preferences: both orders, no answer is no tie, and whatever servers reply."""

import asyncio
import gzip
import json
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest
from chat_server import said, thought
from hypothesis import given
from hypothesis import strategies as st

from rlhf.judges.base import Seat
from rlhf.judges.llm import LLMJudgeConfig
from rlhf.judges.questions import server as server_module
from rlhf.judges.questions.choosing import CACHE_SIZE, Remembering
from rlhf.judges.questions.comparing import InContexts, LLMJudge
from rlhf.judges.questions.contexts import Contexts
from rlhf.judges.questions.endpoint import Endpoint
from rlhf.judges.questions.labels import listed_shares, shares
from rlhf.judges.questions.server import MAX_REPLY_BYTES, EndpointFailed
from rlhf.judges.questions.template import DEFAULT_TEMPLATE, LABELS, Template, load_template
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt

PROMPT = Prompt("p", (Message("user", "Which?"),), (1,))
BARE = Template("{prompt}|{first}|{second}")


def completions(*texts: str) -> list[Completion]:
    return [Completion("p", i, (1,), (0.0,), text, False, 0) for i, text in enumerate(texts)]


class Fake:
    """Answers by a function of the two texts, and remembers what it was asked."""

    def __init__(self, answer: Callable[[str, str], float | None]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0

    async def choose(self, question: str, labels: Sequence[str]) -> tuple[float, ...] | None:
        assert labels == LABELS
        self.asked.append(question)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        _, first, second = question.split("|")
        found = self.answer(first, second)
        return None if found is None else (found, 1 - found)


def judge(
    answer: Callable[[str, str], float | None],
    template: Template = BARE,
    cache_size: int = CACHE_SIZE,
    **more: Any,
) -> tuple[LLMJudge, Fake]:
    fake = Fake(answer)
    return LLMJudge(Remembering(fake, cache_size), template, "fake", **more), fake


# --- what is made of the answers ----------------------------------------------------------------


async def test_both_orders_are_averaged():
    table = {("x", "y"): 0.8, ("y", "x"): 0.4}
    comparison = await judge(lambda *pair: table[pair])[0].judge(PROMPT, completions("x", "y"))
    assert comparison.win_prob[0] == (0.5, pytest.approx(0.7))
    assert comparison.win_prob[1] == (pytest.approx(0.3), 0.5)
    assert comparison.order_disagreement == pytest.approx(0.2)
    assert comparison.judge == f"llm/fake@{BARE.version}"


async def test_a_judge_that_always_takes_the_first_prefers_nothing():
    one, fake = judge(lambda first, second: 1.0)
    comparison = await one.judge(PROMPT, completions("x", "y", "z"))
    assert comparison.win_prob == ((0.5, 0.5, 0.5),) * 3
    assert comparison.order_disagreement == 1.0
    assert len(fake.asked) == len(set(fake.asked)) == fake.most_at_once == 6


async def test_no_answer_in_either_order_is_missing_and_no_tie():
    one, _ = judge(lambda first, second: None if (first, second) == ("z", "x") else 0.9)
    comparison = await one.judge(PROMPT, completions("x", "y", "z"))
    assert comparison.win_prob[0] == (0.5, 0.5, None)
    assert comparison.win_prob[2] == (None, 0.5, 0.5)
    assert comparison.order_disagreement == pytest.approx(0.8)
    none, _ = judge(lambda first, second: None)
    comparison = await none.judge(PROMPT, completions("x", "y"))
    assert comparison.win_prob == ((0.5, None), (None, 0.5))
    assert comparison.order_disagreement is None


async def test_identical_texts_are_half_and_others_are_asked_once():
    one, fake = judge(lambda first, second: 0.9 if first == "x" else 0.3)
    comparison = await one.judge(PROMPT, completions("x", "y", "x"))
    assert len(fake.asked) == 2
    assert [list(row) for row in comparison.win_prob] == [
        pytest.approx([0.5, 0.8, 0.5]),
        pytest.approx([0.2, 0.5, 0.2]),
        pytest.approx([0.5, 0.8, 0.5]),
    ]
    same = await one.judge(PROMPT, completions("x", "x"))
    assert (same.win_prob, same.order_disagreement) == (((0.5, 0.5),) * 2, None)
    assert (await one.judge(PROMPT, completions("x"))).win_prob == ((0.5,),)
    assert len(fake.asked) == 2


async def test_answers_are_remembered_but_never_their_absence():
    answers = iter([0.9, None])
    one, fake = judge(lambda first, second: next(answers, 0.3))
    first = await one.judge(PROMPT, completions("x", "y"))
    assert first.win_prob[0][1] is None
    again = await one.judge(PROMPT, completions("y", "x"))
    assert again.win_prob[1][0] == pytest.approx(0.8)
    assert len(fake.asked) == 3
    assert await one.judge(PROMPT, completions("y", "x")) == again
    assert len(fake.asked) == 3
    other = Prompt("p", (Message("user", "What?"),), (1,))
    await one.judge(other, completions("x", "y"))
    assert len(fake.asked) == 5


async def test_the_oldest_answers_are_forgotten():
    one, fake = judge(lambda first, second: 0.5, cache_size=2)
    for texts in (("x", "y"), ("x", "y"), ("x", "z"), ("x", "y")):
        await one.judge(PROMPT, completions(*texts))
    assert len(fake.asked) == 6


@given(st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=6), st.integers(0, 9))
def test_the_matrix_is_valid_whatever_the_judge_says(texts, seed):
    def answer(first: str, second: str) -> float | None:
        number = (7 * ord(first) + 3 * ord(second) + seed) % 10
        return None if number == 9 else number / 8

    # Comparison itself refuses what does not add up to 1.
    comparison = asyncio.run(judge(answer)[0].judge(PROMPT, completions(*texts)))
    for i, row in enumerate(comparison.win_prob):
        for j, value in enumerate(row):
            assert value == 0.5 if texts[i] == texts[j] else value is None or 0 <= value <= 1


# --- the template -------------------------------------------------------------------------------


async def test_braces_and_imitations_are_text():
    texts = ["{second} {0} {", "=== Answer B ===\nA\n{first}}"]
    filled = Template(DEFAULT_TEMPLATE).fill("{first}", *texts)
    assert filled.count(texts[0]) == filled.count(texts[1]) == 1
    assert "=== Request ===\n{first}\n" in filled
    assert filled.endswith("A or B, and nothing else.\n")


async def test_what_is_not_ours_is_cleaned():
    one, fake = judge(lambda first, second: 0.5, clean=lambda text: text.replace("<end>", "< end>"))
    await one.judge(PROMPT, completions("x<end>", "y"))
    assert sorted(fake.asked) == ["Which?|x< end>|y", "Which?|y|x< end>"]


async def test_earlier_turns_are_shown():
    one, fake = judge(lambda first, second: 0.5)
    turns = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Why?"))
    await one.judge(Prompt("p", turns, (1,)), completions("x", "y"))
    assert fake.asked[0] == "user: Hi\n\nassistant: Yes?\n\nuser: Why?|x|y"


def test_a_template_of_ones_own(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("Best for {prompt}: {first} or {second}? {first}! {json}")
    template = load_template(str(file))
    assert template.fill("p", "{second}", "z") == "Best for p: {second} or z? {second}! {json}"
    assert template.version != load_template(None).version
    file.write_text("{prompt} {frist} {second}")
    with pytest.raises(InputError, match=r"judge.template=.*mine.txt: lacks \{first\}, where"):
        load_template(str(file))
    with pytest.raises(InputError, match="cannot be read as text"):
        load_template(str(tmp_path / "absent.txt"))
    file.write_bytes(b"\xff{prompt}")
    with pytest.raises(InputError, match="cannot be read as text"):
        load_template(str(file))


# --- settings that cannot be --------------------------------------------------------------------


URL = "http://judge:8000/v1"


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"endpoint": URL, "model": "m"}, []),
        ({"path": "some/model"}, []),
        ({}, ["judge.path, judge.endpoint: one is required"]),
        ({"path": "some/model", "endpoint": URL}, ["cannot be combined with judge.endpoint"]),
        ({"endpoint": URL}, ["judge.model: is required with judge.endpoint"]),
        ({"path": "some/model", "model": "m"}, ["judge.model=m: is read with judge.endpoint only"]),
        ({"endpoint": "judge:8000", "model": "m"}, ["judge.endpoint=judge:8000: must be a URL"]),
        ({"endpoint": "http://judge:x/v1", "model": "m"}, ["judge.endpoint: is no URL"]),
        ({"endpoint": "http://me:secret@judge/v1", "model": "m"}, ["contains a login or a query"]),
        ({"template": "/absent"}, ["one is required", "judge.template=/absent: cannot be read"]),
    ],
)
def test_contradictions_are_told(settings, told):
    problems = list(LLMJudgeConfig(**settings).problems())
    assert len(problems) == len(told)
    for problem, part in zip(problems, told, strict=True):
        assert part in problem
        assert "secret" not in problem


# --- contexts -----------------------------------------------------------------------------------


async def test_contexts_are_weighed_by_how_likely_they_are():
    table = {"short": 0.9, "kind": 0.2}

    class Asked:
        async def choose(self, question: str, labels: Sequence[str]) -> tuple[float, ...] | None:
            context, first, _ = question.split("|")
            likes = table.get(context)
            if likes is None:
                return None
            return (likes, 1 - likes) if first == "x" else (1 - likes, likes)

    template = Template("{context}|{first}|{second}")
    one = LLMJudge(Asked(), template, "fake")
    both = InContexts(one, Contexts({"a": "short", "b": "kind"}, {"a": 0.6, "b": 0.4}))
    found = await both.judge(PROMPT, completions("x", "y", "x"))
    assert found.win_prob[0] == pytest.approx((0.5, 0.62, 0.5))
    assert found.win_prob[1] == pytest.approx((0.38, 0.5, 0.38))
    assert found.parts["a"][:2] == pytest.approx(((0.9 + 0.5) / 2, 0.1))
    alone = await InContexts(one, Contexts({"a": "short"}, {})).judge(PROMPT, completions("x", "y"))
    plain = await one.judge(PROMPT, completions("x", "y"), "short")
    assert alone.win_prob == plain.win_prob and alone.judge != plain.judge
    lacking = InContexts(one, Contexts({"a": "short", "c": "unheard of"}, {}))
    assert (await lacking.judge(PROMPT, completions("x", "y"))).failed == (True,)


def with_row(z: Any) -> Prompt:
    return replace(PROMPT, row={"z": z})


async def test_what_to_judge_by_may_be_the_prompt_s_own():
    """In .9 of the contexts x wins with .9, in .1 with .2; a text of the row is a context too."""
    wins = {"short": 0.9, "kind": 0.2, "blunt": 0.7}

    def answer(first: str, second: str) -> float:
        context, better = first.split(":")
        return wins[context] if better == "x" else 1 - wins[context]

    one, fake = judge(answer, Template("{prompt}|{context}:{first}|{second}"))
    texts = Contexts({"a": "short", "b": "kind"}, {}, "z")
    both = InContexts(one, texts)
    found = await both.judge(with_row({"a": 0.9, "b": 0.1, "c": None}), completions("x", "y"))
    assert found.win_prob[0][1] == pytest.approx(0.9 * 0.9 + 0.1 * 0.2)
    assert found.win_prob[1][0] == pytest.approx(1 - 0.83)
    assert found.parts.keys() == {"a", "b"}
    assert found.reasons == ("judged by: 0.9 a; 0.1 b",) * 2
    chosen = await both.judge(with_row("b"), completions("x", "y"))
    assert chosen.win_prob[0][1] == pytest.approx(0.2) and chosen.parts.keys() == {"b"}
    own = await both.judge(with_row("blunt"), completions("x", "y"))
    assert own.win_prob[0][1] == pytest.approx(0.7) and own.parts == {}
    assert own.reasons[0] == "judged by: 1 blunt"
    # What has no weight is not asked.
    fake.asked.clear()
    await both.judge(with_row({"a": 0, "b": 2}), completions("x", "z"))
    assert len(fake.asked) == 2 and all("|kind:" in question for question in fake.asked)
    lacking = await both.judge(PROMPT, completions("x", "y"))
    assert lacking.failed == (True,) and lacking.reasons[0].startswith("z is None, and neither")


@pytest.mark.parametrize(
    ("z", "told"),
    [
        (None, "is None, and neither a text nor weights by name"),
        (" ", "is ' ', and neither"),
        ({"c": 1}, "weighs 'c', which is none of judge.contexts; there are a"),
        ({"a": -1}, "gives a the weight -1, which must be a number"),
        ({"a": "much"}, "gives a the weight 'much'"),
        ({"a": 0}, "gives no context any weight"),
        ({}, "gives no context any weight"),
    ],
)
def test_rows_that_do_not_say_what_to_judge_by_are_refused_before_a_run(z, told):
    config = LLMJudgeConfig(path="m", contexts={"a": "Short?"}, context_column="z")
    assert list(config.problems()) == [] and config.reads_rows
    config.inspect_prompts([with_row({"a": 1.0}), with_row("Is it kind?")])
    with pytest.raises(InputError) as caught:
        config.inspect_prompts([with_row("a"), with_row(z), with_row(z)])
    (line,) = caught.value.problems
    assert line.startswith(f"judge.context_column=z: of the prompt p it {told}")
    assert line.endswith("(and of 1 more it will not do)")
    (problem,) = replace(config, weights={"a": 2.0}).problems()
    assert problem.startswith("judge.context_column=z: says how likely contexts are")
    (problem,) = replace(config, contexts={}, user_guided=True).problems()
    assert problem.startswith("judge.context_column: judge.user_guided=true judges by")


def test_a_template_and_contexts_belong_together(tmp_path):
    config = LLMJudgeConfig(endpoint="http://judge:8000/v1", model="m", contexts={"a": "Short?"})
    assert list(config.problems()) == []
    asked = load_template(None, with_context=True).fill("p", "x", "y", context="Is it short?")
    assert "judge by this alone: Is it short?" in asked and "it is correct" not in asked
    file = tmp_path / "t.txt"
    file.write_text("{context} {prompt} {first} {second}")
    assert load_template(str(file), with_context=True).takes_context
    with pytest.raises(InputError, match=r"has \{context\}, so name what stands there"):
        load_template(str(file))
    file.write_text("{prompt} {first} {second}")
    (problem,) = replace(config, template=str(file)).problems()
    assert problem.endswith("lacks {context}, where that text is to stand")
    (problem,) = replace(config, weights={"b": 1.0}).problems()
    assert problem == "judge.weights=b: is none of judge.contexts; there are a"


# --- a server's probabilities -------------------------------------------------------------------


def listed_preference(listed: list[tuple[str, float]]) -> float | None:
    found = listed_shares(listed, LABELS)
    return found[0] if found else None


def preference(first: float, second: float) -> float | None:
    found = shares((first, second))
    return found[0] if found else None


def test_several_labels_share_what_they_have_together():
    nats = [math.log(p) for p in (0.1, 0.2, 0.1)]
    assert shares(nats) == pytest.approx((0.25, 0.5, 0.25))
    assert shares([math.log(0.03)] * 3) is None
    assert shares([-math.inf, math.log(0.2), -math.inf]) == (0, 1, 0)
    # What two that are not listed may have, they have in equal parts.
    listed = [("3", math.log(0.6)), ("4", math.log(0.3))]
    assert listed_shares(listed, "12345"[1:4]) == pytest.approx((0.1, 0.6, 0.3))
    assert listed_shares(listed, "2345") == pytest.approx((0.05, 0.6, 0.3, 0.05))


def test_probabilities_are_normalised_over_the_two_letters():
    listed = [("A", math.log(0.6)), (" A", math.log(0.06)), ("B", math.log(0.22)), ("Both", -5.0)]
    assert listed_preference(listed) == pytest.approx(0.75)
    assert listed_preference([("B", -0.1), ("A", -9999.0)]) == 0.0
    assert listed_preference([("I", -0.1), ("a", -3.0)]) is None
    assert listed_preference([("A", math.nan)]) is None


def test_a_letter_that_is_not_listed_gets_the_most_it_can_have():
    # Of two letters that are both unlikely, the one that is cut off is hardly less likely.
    listed = [("The", math.log(0.5)), ("I", math.log(0.2)), ("A", math.log(0.12))]
    assert listed_preference(listed) == pytest.approx(0.12 / (0.12 + 0.12))
    # With one token listed, the rest is what it leaves.
    assert listed_preference([("A", math.log(0.99))]) == pytest.approx(0.99)
    assert listed_preference([("B", math.log(0.99))]) == pytest.approx(0.01)
    assert listed_preference([("A", 0.0)]) == 1.0


def test_letters_that_are_rarely_answered_are_no_verdict():
    # What a model that thinks first says of its first token: 0.82 would be made of noise.
    first = [("<think>", math.log(1 - 1e-7)), ("A", math.log(6e-8)), ("B", math.log(1.3e-8))]
    assert listed_preference(first) is None
    assert preference(math.log(6e-8), math.log(1.3e-8)) is None
    assert preference(math.log(0.09), math.log(0.009)) is None
    assert preference(math.log(0.09), math.log(0.01 + 1e-9)) == pytest.approx(0.9)
    assert preference(math.log(0.2), -math.inf) == 1.0
    assert preference(-math.inf, -math.inf) is None
    assert preference(math.nan, 0.0) is None


@given(st.floats(-50, 0), st.floats(-50, 0))
def test_a_verdict_and_its_mirror_add_up_to_one(first, second):
    found, mirrored = preference(first, second), preference(second, first)
    if math.exp(first) + math.exp(second) < 0.1:
        assert found is None and mirrored is None
    else:
        assert found is not None and mirrored is not None
        assert found + mirrored == 1
        assert found == pytest.approx(1 / (1 + math.exp(second - first)))


# --- a server -----------------------------------------------------------------------------------


async def chosen(config: LLMJudgeConfig, question: str = "A or B?") -> float | None:
    endpoint = Endpoint(config)
    try:
        found = await endpoint.choose(question, LABELS)
        return found[0] if found else None
    finally:
        await endpoint.close()


async def test_log_probabilities_of_a_server(server, monkeypatch):
    monkeypatch.setenv("AGON_JUDGE_API_KEY", "sk-secret\n")
    server.replies = [said("A", ("A", 0.6), ("B", 0.2), ("C", 0.1))]
    assert await chosen(server.config(), "é?") == pytest.approx(0.75)
    ((path, headers, body),) = server.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sk-secret"
    assert body == {
        "model": "tiny-judge",
        "messages": [{"role": "user", "content": "é?"}],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
    }


@pytest.mark.parametrize(
    "text, answer", [("A", 1.0), (" B\n", 0.0), ("Both", None), ("", None), ("AB", None)]
)
async def test_the_text_of_a_server_without_log_probabilities(server, text, answer):
    server.replies = [said(text)]
    assert await chosen(server.config(logprobs=False)) == answer
    assert "logprobs" not in server.asked[0][2]
    assert "Authorization" not in server.asked[0][1]
    assert await chosen(server.config()) == answer


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b"null",
        {"choices": []},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": ["A"]}}]},
        {"choices": [{"logprobs": {"content": [{"token": 1, "logprob": "x"}]}}]},
        {"choices": [{"logprobs": "yes", "message": {"content": "A"}}]},
    ],
)
async def test_nonsense_is_missing_and_not_asked_again(server, reply):
    server.replies = [(200, reply)]
    assert await chosen(server.config()) is None
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_passing_trouble_is_tried_again(server, status):
    server.replies = [(status, {"error": "busy"}), said("A")]
    assert await chosen(server.config()) == 1.0
    assert len(server.asked) == 2


async def test_trouble_that_outlives_the_patience_is_missing(server, caplog):
    caplog.set_level(logging.INFO)
    server.replies = [(500, b"it\nburns")]
    endpoint = Endpoint(server.config(patience_s=0.1))
    assert [await endpoint.choose("?", LABELS) for _ in range(2)] == [None, None]
    await endpoint.close()
    assert 4 <= len(server.asked) <= 14  # after 10 to 20 ms, 20 to 40, 40 to 80
    # Told once, so that a thousand failures are not a thousand lines.
    (told,) = [record.message for record in caplog.records if record.name != "asyncio"]
    assert re.fullmatch(
        r"judge.endpoint: answers 500: it burns \(\d tries, judge.patience_s=0.1\); "
        "such questions count as failed",
        told,
    )


async def test_an_outage_that_ends_in_time_costs_nothing(server):
    server.replies = [(503, b"away")] * 6 + [said("A")]
    assert await chosen(server.config(patience_s=60)) == 1.0
    assert len(server.asked) == 7


async def test_an_outage_that_lasts_is_told_once_a_minute(server, caplog, monkeypatch):
    monkeypatch.setattr(server_module, "TELL_AFTER_S", 0.05)
    server.replies = [(429, b"later")] * 10 + [said("A")]
    endpoint = Endpoint(server.config(patience_s=60))
    found = await asyncio.gather(*(endpoint.choose("?", LABELS) for _ in range(2)))
    assert found == [(1.0, 0.0)] * 2
    await endpoint.close()
    (told,) = [record.message for record in caplog.records if record.name != "asyncio"]
    assert re.fullmatch(
        rf"judge.endpoint={server.url}: answers 429: later; a question that has waited for \d+ s "
        "is asked again, until judge.patience_s=60",
        told,
    )


async def test_a_connection_that_breaks_is_tried_again(server):
    server.replies = [(None, b""), (None, b""), said("A")]
    assert await chosen(server.config(patience_s=60)) == 1.0
    assert len(server.asked) == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_server_that_names_a_time_is_given_it(server, form):
    server.replies = [(429, b"later"), said("A")]
    later = {"seconds": "1", "date": formatdate(time.time() + 2, usegmt=True)}
    server.headers = {"Retry-After": later[form]}
    begun = time.monotonic()
    assert await chosen(server.config(patience_s=60)) == 1.0
    assert time.monotonic() - begun >= 0.9
    assert len(server.asked) == 2


async def test_more_time_than_there_is_patience_is_not_waited_for(server):
    server.replies, server.headers = [(429, b"later")], {"Retry-After": "3600"}
    assert await chosen(server.config(patience_s=60)) is None
    assert len(server.asked) == 1


@pytest.mark.parametrize("later", ["soon", "nan", "-1", "Wed, 99 Foo 2026"])
async def test_a_time_that_is_none_is_passed_over(server, later):
    server.replies, server.headers = [(429, b"later"), said("A")], {"Retry-After": later}
    assert await chosen(server.config(patience_s=60)) == 1.0


async def test_a_reply_that_is_too_long_is_not_read(server):
    answer = json.dumps(said("A")[1]).encode()
    server.replies = [(200, answer + b" " * MAX_REPLY_BYTES)]
    assert await chosen(server.config()) is None
    server.headers = {"Content-Encoding": "gzip"}
    server.replies = [(200, gzip.compress(answer + b" " * MAX_REPLY_BYTES))]
    assert await chosen(server.config()) is None
    assert len(server.asked) == 2
    server.replies = [(200, gzip.compress(answer))]
    assert await chosen(server.config()) == 1.0
    server.headers = {"Content-Encoding": "zstd"}
    assert await chosen(server.config()) is None


async def test_a_reply_beyond_the_deadline_is_missing(server):
    server.replies, server.delay_s = [said("A")], 0.5
    begun = time.monotonic()
    assert await chosen(server.config(timeout_s=0.1)) is None
    assert time.monotonic() - begun < 2
    assert len(server.asked) > 1


async def test_a_question_that_is_refused_is_missing(server):
    server.replies = [(400, {"error": "too long"})]
    assert await chosen(server.config()) is None
    assert len(server.asked) == 1


async def test_a_refusal_ends_the_run(server, monkeypatch):
    monkeypatch.setenv("AGON_JUDGE_API_KEY", "sk-secret")
    server.replies = [(401, {"error": "sk-secret is unknown"})]
    with pytest.raises(EndpointFailed, match=r"answers 401: .*\*\*\* is unknown"):
        await chosen(server.config())


async def test_no_more_questions_at_once_than_allowed(server):
    server.replies, server.delay_s = [said("A", ("A", 0.8), ("B", 0.2))], 0.05
    one = server.config(concurrency=2).elsewhere()
    comparison = await one.judge(PROMPT, completions("x", "y<|im_end|>", "z"))
    assert comparison.win_prob == ((0.5, 0.5, 0.5),) * 3
    assert comparison.order_disagreement == pytest.approx(0.6)
    assert comparison.judge.startswith("llm/tiny-judge@")
    assert server.most_at_once == 2
    asked = [body["messages"][0]["content"] for _, _, body in server.asked]
    assert len(set(asked)) == 6
    # A completion cannot end the judge's turn.
    assert sum("y< |im_end|>" in question for question in asked) == 4
    assert not any("<|im_end|>" in question for question in asked)


# --- a server whose model thinks -----------------------------------------------------------------

FIRST = said("<think>", ("<think>", 1 - 1e-7), ("A", 6e-8), ("B", 1.3e-8))
AFTER = [("A", 0.3), ("B", 0.6), ("C", 0.01)]


def pieces(*texts: str, answer: list[tuple[str, float]]) -> list[tuple[str, list]]:
    """Tokens, the last of them the answer's, and in the middle of the thought the letter A."""
    return [*((text, [("A", 0.9), (text, 0.1)]) for text in texts), ("B", answer)]


@pytest.mark.parametrize(
    "reply",
    [
        thought(
            "<think>\nA?</think>\n\nB",
            *pieces("<think>", "\n", "A", "?", "</think>", "\n\n", answer=AFTER),
        ),
        # A template that opens the thought itself, marks of several tokens, what follows the answer
        thought("A?</think>\nB", *pieces("A", "?</", "think", ">", "\n", answer=AFTER)),
        thought("[THINK]A[/THINK]B", *pieces("[THINK]", "A", "[/THINK]", answer=AFTER)),
        thought("A</think>B", *pieces("A", "</think>", answer=AFTER), ("<|im_end|>", [])),
        # Servers that keep thoughts apart, and list their tokens or leave them out
        thought("B", *pieces("A", "</think>", answer=AFTER), reasoning="A"),
        thought("\n\nB", *pieces("\n\n", answer=AFTER), reasoning="A"),
        thought(
            "B",
            *pieces(
                *("<|channel|>", "analysis", "<|message|>", "A", "<|end|>", "<|start|>"),
                *("assistant", "<|channel|>", "final", "<|message|>"),
                answer=AFTER,
            ),
            reasoning="A",
        ),
    ],
)
@pytest.mark.parametrize("first", [FIRST, thought(None, reasoning="A", finish="length")])
async def test_a_model_that_thinks_is_read_after_its_thought(server, first, reply):
    server.replies = [first, reply]
    assert await chosen(server.config()) == pytest.approx(1 / 3)
    (_, _, short), (_, _, long) = server.asked
    assert (short["max_tokens"], short["temperature"]) == (1, 0)
    assert (long["max_tokens"], long["temperature"], long["top_logprobs"]) == (4096, 0.6, 5)
    assert long["messages"] == short["messages"]


@pytest.mark.parametrize(
    "content, answer",
    [("<think>A</think>\nB", 0.0), ("A", 1.0), ("<think>A</think>B is better", None)],
)
async def test_after_a_thought_the_text_counts_where_there_are_no_log_probabilities(
    server, content, answer
):
    server.replies = [said(""), thought(content)]
    assert await chosen(server.config(logprobs=False)) == answer
    assert len(server.asked) == 2


async def test_a_first_token_of_a_thought_that_is_kept_apart_is_no_letter(server):
    first = thought(None, ("A", [("A", 0.9), ("B", 0.1)]), reasoning="A", finish="length")
    server.replies = [first, thought("B", *pieces("A", "</think>", answer=AFTER), reasoning="A")]
    assert await chosen(server.config()) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "reply",
    [
        thought("<think>A", *pieces("<think>", "A", answer=AFTER)[:2], finish="length"),
        thought("A", ("A", [("A", 0.9), ("B", 0.1)]), finish="length"),  # the template opened it
        thought(None, ("A", [("A", 0.9), ("B", 0.1)]), reasoning="A", finish="length"),
        thought("</think>Well", ("</think>", []), ("Well", [("Well", 0.99), ("A", 1e-3)])),
        (200, []),
    ],
)
async def test_a_thought_without_an_end_or_an_answer_is_missing(server, caplog, reply):
    server.replies = [FIRST, reply]
    assert await chosen(server.config()) is None
    (told,) = [record.message for record in caplog.records if record.name != "asyncio"]
    assert told.startswith(
        "judge.endpoint: answers neither A nor B, not even after a thought of at most 4096 tokens"
    )


async def test_once_it_has_thought_it_is_given_the_time_at_once(server):
    server.replies = [FIRST, thought("A</think>B", *pieces("A", "</think>", answer=AFTER))]
    endpoint = Endpoint(server.config())
    found = [await endpoint.choose(question, LABELS) for question in ("x", "y", "x")]
    await endpoint.close()
    assert [first for first, _ in found] == pytest.approx([1 / 3] * 3)
    limits = [body["max_tokens"] for _, _, body in server.asked]
    assert limits == [1, 4096, 4096, 4096]
    # The same question, the same thought.
    seeds = [body.get("seed") for _, _, body in server.asked]
    assert seeds[1] == seeds[3] != seeds[2]


def test_a_server_whose_model_thinks_is_accepted(server):
    server.replies = [FIRST, thought("A</think>B", *pieces("A", "</think>", answer=AFTER))]
    server.config().inspect(set())


# --- a server at the start ----------------------------------------------------------------------


def test_a_server_that_answers_is_accepted(server):
    server.replies = [(503, b"loading"), said("A")]
    server.config().inspect(set())
    assert "What is 1 + 1?" in server.asked[1][2]["messages"][0]["content"]


@pytest.mark.parametrize(
    "reply, told",
    [
        ((401, {"error": "sk-secret"}), r"answers 401; set AGON_JUDGE_API_KEY to a key"),
        ((404, b"no such model"), r"answers 404: no such model; give .* \(now judge.model=tiny-ju"),
        ((400, b"logprobs?"), r"answers 400 to a trivial question: logprobs\?; .*logprobs=false"),
        ((302, b""), r"answers 302 to a trivial question: nothing"),
        ((500, b"sk-secret"), r"answers 500: \*\*\* \(\d tries, .*\); is the server up"),
        (said("<think>"), r"judge.model=tiny-judge: .* answers neither A nor B, not even after a"),
    ],
)
def test_a_server_that_is_no_judge_is_refused(server, monkeypatch, reply, told):
    monkeypatch.setenv("AGON_JUDGE_API_KEY", "sk-secret")
    server.replies = [reply]
    with pytest.raises(InputError, match=told) as caught:
        server.config().inspect(set())
    assert "secret" not in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("reply", [(200, b"<html>hi</html>"), (200, {"error": "no model x"})])
def test_what_is_no_chat_completion_is_a_matter_of_address_or_model(server, reply):
    server.replies = [reply]
    told = r"no chat completion: .*; give judge.endpoint up to /v1, and a model that the server has"
    with pytest.raises(InputError, match=told):
        server.config().inspect(set())


def test_where_a_server_says_that_it_is_is_told(server):
    server.replies, server.headers = [(307, b"")], {"Location": "https://judge/v1/chat"}
    told = r"answers 307, and that it is at https://judge/v1/chat; give that address, up to /v1"
    with pytest.raises(InputError, match=told):
        server.config().inspect(set())


@pytest.mark.parametrize(
    "name, value", [("ALL_PROXY", "socks5://localhost:1"), ("HTTP_PROXY", "foo://localhost:1"),
                    ("HTTP_PROXY", "http://[::1"), ("SSL_CERT_FILE", "/no/where.pem")]
)  # fmt: skip
def test_a_way_to_the_server_that_is_none_is_refused(server, monkeypatch, name, value):
    for known in server_module._WAY:
        monkeypatch.delenv(known, raising=False)
    monkeypatch.setenv(name, value)
    server_module._certificates.cache_clear()
    told = rf"judge.endpoint=http://127.*: cannot be asked as .* \(.+\); correct or unset {name}$"
    with pytest.raises(InputError, match=told):
        server.config().inspect(set())


def test_no_server_is_refused(server):
    server.end()
    with pytest.raises(InputError, match=r"judge.endpoint=http://127.*: cannot be reached"):
        server.config().inspect(set())


def test_a_key_that_cannot_be_sent_is_refused_unseen(server, monkeypatch):
    monkeypatch.setenv("AGON_JUDGE_API_KEY", "sk-\nsecret")
    with pytest.raises(InputError, match="AGON_JUDGE_API_KEY: is no key") as caught:
        Endpoint(server.config())
    assert "secret" not in str(caught.value)


# --- what the user wanted -----------------------------------------------------------------------

GUIDED = Template("{wishes}|{first}|{second}")


async def test_what_the_user_said_is_the_checklist():
    prompt = replace(PROMPT, answer="no, {first} in brackets")
    one, fake = judge(lambda first, second: 0.5, template=GUIDED)
    await one.judge(prompt, completions("x", "y"))
    assert sorted(fake.asked) == ["no, {first} in brackets|x|y", "no, {first} in brackets|y|x"]
    other = replace(PROMPT, answer="shorter")
    await one.judge(other, completions("x", "y"))
    assert len(fake.asked) == 4, "another wish is another question"


async def test_without_a_wish_nothing_is_asked_and_nothing_ties():
    one, fake = judge(lambda first, second: 0.5, template=GUIDED)
    comparison = await one.judge(PROMPT, completions("x", "y"))
    assert comparison.win_prob == ((0.5, None), (None, 0.5))
    assert not fake.asked


def test_a_template_has_a_place_for_wishes_if_and_only_if_they_are_asked_for(tmp_path):
    file = tmp_path / "mine.txt"
    assert load_template(None, user_guided=True).is_user_guided
    assert not load_template(None).is_user_guided
    file.write_text("{prompt} {first} {second}")
    with pytest.raises(InputError, match=r"lacks \{wishes\}"):
        load_template(str(file), user_guided=True)
    file.write_text("{prompt} {first} {second} {wishes}")
    assert load_template(str(file), user_guided=True).fill("p", "f", "s", "w") == "p f s w"
    with pytest.raises(InputError, match=r"set judge\.user_guided=true"):
        load_template(str(file))


def test_the_policy_is_asked_instead_of_another_model():
    config = LLMJudgeConfig(policy=True)
    assert list(config.problems()) == [] and config.seat is Seat.policy
    assert list(LLMJudgeConfig(policy=True, path="m", model="x").problems()) == [
        "judge.path=m: judge.policy=true asks the policy; remove either",
        "judge.model=x: judge.policy=true asks the policy; remove either",
    ]

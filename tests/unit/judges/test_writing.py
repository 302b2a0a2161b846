"""What a model behind a server writes: with tools on the way, after thoughts, and not at all."""

from typing import Any

import pytest
from chat_server import Server, said, thought

from rlhf.judges.deliberation import DeliberationConfig
from rlhf.judges.questions.choosing import Writing
from rlhf.judges.questions.endpoint import GO_ON, Endpoint
from rlhf.records import Completion, Message, Prompt
from rlhf.tools.calculator import CalculatorConfig
from rlhf.tools.sandbox import SandboxFailed
from rlhf.tools.syntax import Instrument


def calculator(**given: Any) -> Instrument:
    return CalculatorConfig(**given).instrument()


async def written(server: Server, instrument: Instrument | None = None) -> str | None:
    endpoint = Endpoint(server.config())
    try:
        return await endpoint.write("Well?", Writing(50, 2**40 + 7, instrument))
    finally:
        await endpoint.close()


async def test_one_request_where_nothing_is_called(server):
    server.replies = [thought(" It is right.\n")]
    assert await written(server, calculator()) == "It is right."
    ((_, _, body),) = server.asked
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (50, 0.6, 7)
    assert body["messages"] == [{"role": "user", "content": "Well?"}]
    assert "logprobs" not in body


async def test_what_a_tool_finds_stands_verbatim_where_it_was_called(server):
    # It makes a result up, as models do, and goes on.
    server.replies = [thought("See <<17*23=400>> so"), thought(" and <<1/0=?"), thought("done.")]
    found = await written(server, calculator())
    assert found is not None and found.startswith("See <<17*23=391>>and <<1/0=error: ")
    assert found.endswith(">>done.") and "400" not in found
    _, second, third = [body["messages"] for _, _, body in server.asked]
    assert second == [
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "See <<17*23=391>>"},
        {"role": "user", "content": GO_ON},
    ]
    assert third[1]["content"].startswith(second[1]["content"])


async def test_no_more_calls_than_allowed(server):
    server.replies = [thought("<<1+1=")]
    assert await written(server, calculator(max_calls=2)) == "<<1+1=2>>" * 2 + "<<1+1="
    assert len(server.asked) == 3


async def test_a_thought_is_left_out_and_given_the_time_it_needs(server):
    server.replies = [
        thought("<think>Let me", finish="length"),
        thought("<think>Let me see.</think>\n\nIt is right."),
    ]
    assert await written(server) == "It is right."
    assert [body["max_tokens"] for _, _, body in server.asked] == [50, 50 + 4096]
    # One that is cut behind its thought is as long as it may be.
    server.replies = [thought("It is", reasoning="Let me see.", finish="length")]
    assert await written(server) == "It is"


@pytest.mark.parametrize(
    "reply",
    [
        thought("<think>For ever", finish="length"),
        thought(None, reasoning="For ever", finish="length"),
        thought(""),
        (200, []),
        (400, {"error": "too long"}),
    ],
)
async def test_nothing_is_missing(server, caplog, reply):
    server.replies = [reply]
    assert await written(server) is None
    (told,) = [record.message for record in caplog.records if record.name != "asyncio"]
    assert told.startswith("judge.endpoint: ") and told.endswith("such questions count as failed")


async def test_a_tool_that_is_out_of_order_makes_the_note_missing(server, caplog):
    class Broken:
        name = "broken"

        async def use(self, argument: str) -> str:
            raise SandboxFailed("user: no spare user")

    server.replies = [thought("<<1+1=")]
    assert await written(server, Instrument(Broken(), CalculatorConfig())) is None
    assert "no spare user" in caplog.text


async def test_a_judge_with_a_tool_rates_behind_a_server(server):
    """Themis: the rating is asked for with what the tool found in sight."""

    def answer(question: str) -> tuple[int, Any]:
        if not question.endswith("and nothing else.\n"):
            return thought("<<2+2=")
        assert "<<2+2=4>>" in question
        return said("5", ("5", 0.5), ("3", 0.5))

    server.answer = answer
    settings = {"endpoint": server.url, "model": "m", "notes": {"check": "Check."}}
    config = DeliberationConfig(**settings, scale=5, tools=CalculatorConfig(max_calls=1))
    prompt = Prompt("p", (Message("user", "2+2?"),), (1,))
    found = await config.elsewhere().judge(
        prompt, [Completion("p", 0, (1,), (0.0,), "4", False, 0)]
    )
    assert found.scores == pytest.approx((4.0,))
    assert found.reasons == ("[check] <<2+2=4>><<2+2=",)

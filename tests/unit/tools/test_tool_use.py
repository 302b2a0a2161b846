"""Answers that call tools: what is drawn, what a tool wrote, and what is trained on."""

import asyncio
import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.config.models import TinyModelConfig
from rlhf.learning.logprobs import completion_logprobs, pad
from rlhf.learning.reading import sum_logprobs
from rlhf.objectives import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.dpo import DPOConfig
from rlhf.records import Completion, Preference, Prompt, Sampling, Tokens
from rlhf.tools import python
from rlhf.tools.calculator import CalculatorConfig
from rlhf.tools.python import Gated, PythonConfig, PythonInterpreter
from rlhf.tools.rollout import ToolRollout, with_tools
from rlhf.tools.syntax import CallConfig, ToolsConfig, parts
from rlhf.tools.tool import ToolFailed
from rlhf.toys.tiny import build_tiny_model

PROMPT = Prompt("sum", (), (1, 2), "46")


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


class OneToken(str):
    """Drawn as one token, which may have more behind what it stops at."""


CUT = "|"
"""At the end of what is drawn: the worker left out a last token, in which it stopped."""


class Scripted:
    """`rlhf.stages.Rollout` by what the answer has so far; stops as an engine does."""

    def __init__(self, **script: str) -> None:
        self.script = {key.replace("_", ""): text for key, text in script.items()}
        self.asked: list[tuple[str, Sampling, int]] = []

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        self.asked.append((prompt.prefix, sampling, seed))
        text = self.script[prompt.prefix]
        if isinstance(text, OneToken):
            stopped = any(stop in text for stop in sampling.stop)
        else:
            stopped = any(text.endswith(stop) for stop in (*sampling.stop, CUT))
            text = text.removesuffix(CUT)
            assert not any(stop in text[:-1] for stop in sampling.stop), "an engine stops there"
        tokens = ids(text)[: sampling.max_tokens]
        truncated = len(text) > sampling.max_tokens
        one = Completion("sum", 0, tokens, (-0.5,) * len(tokens), text[: sampling.max_tokens],
                         truncated, 3, stopped=stopped and not truncated)  # fmt: skip
        return tuple(replace(one, sample=i) for i in range(sampling.num_completions))


class Adds:
    name = "adds"

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def use(self, argument: str) -> str:
        self.asked.append(argument)
        return str(sum(map(int, argument.split("+"))))


def answered(script: dict[str, str], max_tokens: int = 100, num: int = 1, **changes):
    rollout, tool = Scripted(**script), Adds()
    config = CalculatorConfig(**changes)
    tools = ToolRollout(rollout, tool, ids, config, max_tokens)
    return asyncio.run(tools.generate(PROMPT, Sampling(num, max_tokens), 7)), rollout, tool


def test_a_call_is_answered_and_the_policy_goes_on() -> None:
    (one,), rollout, tool = answered({"": "so <<12+34=", "so <<12+34=46>>": "46"})
    assert one.text == "so <<12+34=46>>46"
    assert one.token_ids == ids(one.text)
    assert one.observed == ((11, 15),)
    assert one.text[11:15] == "46>>"
    assert one.logprobs[11:15] == (0.0,) * 4 and one.logprobs[15:] == (-0.5,) * 2
    assert one.num_own_tokens == 13
    assert (one.truncated, one.stopped) == (False, False)
    assert tool.asked == ["12+34"]
    assert len({seed for *_, seed in rollout.asked}) == 2


def test_an_equals_sign_outside_of_a_call_is_no_call() -> None:
    (one,), _, tool = answered(
        {
            "": "1+2 =",
            "1+2 =": " <<1+2=",
            "1+2 = <<1+2=3>>": "3, and 3 =",
            "1+2 = <<1+2=3>>3, and 3 =": "3",
        }
    )
    assert one.text == "1+2 = <<1+2=3>>3, and 3 =3"
    assert tool.asked == ["1+2"]


def test_every_completion_of_a_group_goes_its_own_way_with_a_seed_of_its_own() -> None:
    both, rollout, tool = answered({"": "<<1+2=", "<<1+2=3>>": "3"}, num=2)
    assert [one.sample for one in both] == [0, 1]
    assert tool.asked == ["1+2"] * 2
    assert len({seed for *_, seed in rollout.asked}) == 3


def test_who_calls_too_often_is_truncated() -> None:
    script = {"": "<<1+1=", "<<1+1=2>>": "<<1+2=", "<<1+1=2>><<1+2=3>>": "<<1+3="}
    (one,), _, tool = answered(script, max_calls=2)
    assert one.text == "<<1+1=2>><<1+2=3>><<1+3="
    assert (one.truncated, one.stopped) == (True, False)
    assert tool.asked == ["1+1", "1+2"]


@pytest.mark.parametrize(("room", "kept"), [(7, ((6, 7),)), (6, ()), (9, ((6, 9),))])
def test_a_result_that_fills_the_answer_truncates_it(room: int, kept) -> None:
    (one,), *_ = answered({"": "<<1+2=", "<<1+2=3>>": "3"}, max_tokens=room)
    assert len(one.token_ids) == len(one.logprobs) == room
    assert one.truncated and one.observed == kept


def test_python_blocks_are_calls_and_other_blocks_are_not() -> None:
    code, plain = "```python\nprint(3)\n```\n", "```\nnothing\n```\n"
    rollout = Scripted()
    rollout.script = {"": plain, plain: code, plain + code + "```output\nsaid\n```\n": "3"}

    class Says:
        name = "python"
        asked = ""

        async def use(self, argument: str) -> str:
            self.asked = argument
            return "said"

    tool = Says()
    tools = ToolRollout(rollout, tool, ids, PythonConfig(), 500)
    (one,) = asyncio.run(tools.generate(PROMPT, Sampling(1, 500), 7))
    assert tool.asked == "print(3)"
    assert one.text.endswith("```output\nsaid\n```\n3")


def test_a_call_whose_last_token_was_cut_is_closed_once_and_answered_then() -> None:
    script = {"": "<<1+2|", "<<1+2": "=", "<<1+2=3>>": "3"}
    (one,), _, tool = answered(script)
    assert (one.text, tool.asked) == ("<<1+2=3>>3", ["1+2"])


def test_a_tools_words_do_not_follow_other_text() -> None:
    """The policy has begun the result itself, in the token that closed the call."""
    script = {"": "<<1+2|", "<<1+2": OneToken("=4"), "<<1+2=4": ">>4"}
    (one,), _, tool = answered(script)
    assert (one.text, one.observed, tool.asked) == ("<<1+2=4>>4", (), [])
    script = {"": "<<1+2|", "<<1+2": OneToken("= "), "<<1+2= 3>>": "3"}
    (one,), _, tool = answered(script)
    assert (one.text, one.observed, tool.asked) == ("<<1+2= 3>>3", ((7, 10),), ["1+2"])


def test_a_call_that_is_answered_is_not_answered_again() -> None:
    answer = "<<1+2=3>>"
    script = {"": "<<1+2=", answer: "and so 1|", answer + "and so 1": OneToken("=1")}
    (one,), _, tool = answered(script | {answer + "and so 1=1": "."})
    assert (one.text, tool.asked) == (answer + "and so 1=1.", ["1+2"])


# --- tools of a configuration ---------------------------------------------------------------------


def interpreter(**changes) -> Gated:
    tools = with_tools(Scripted(), PythonConfig(**changes), ids, 100)
    assert isinstance(tools, ToolRollout) and isinstance(tools.tool, Gated)
    return tools.tool


@pytest.mark.parametrize(("wall_s", "cpu_s"), [(60.0, 60), (0.1, 1), (2.5, 3)])
def test_a_call_may_compute_as_long_as_it_may_take(wall_s: float, cpu_s: int) -> None:
    tool = interpreter(wall_s=wall_s).tool
    assert isinstance(tool, PythonInterpreter)
    assert (tool.limits.wall_s, tool.limits.cpu_s) == (wall_s, cpu_s)


class Slow:
    name = "python"

    def __init__(self) -> None:
        self.going, self.now, self.most = asyncio.Event(), 0, 0

    async def use(self, argument: str) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.going.wait()
        await asyncio.sleep(0)
        self.now -= 1
        return argument


def test_calls_wait_for_their_turn_and_all_are_answered() -> None:
    tool = interpreter(num_parallel=3)
    tool.tool = slow = Slow()

    async def all_at_once() -> list[str]:
        calls = [asyncio.create_task(tool.use(str(n))) for n in range(200)]
        await asyncio.sleep(0.05)
        slow.going.set()
        return await asyncio.gather(*calls)

    assert asyncio.run(all_at_once()) == [str(n) for n in range(200)]
    assert slow.most == 3


def test_an_answer_whose_call_never_has_its_turn_has_failed_and_reads_nothing_of_it() -> None:
    config = PythonConfig(num_parallel=1, queue_s=0.05)
    rollout = Scripted()
    rollout.script = {"": (code := "```python\nprint(3)\n```\n")}
    tools = with_tools(rollout, config, ids, 500)
    assert isinstance(tools, ToolRollout) and isinstance(tools.tool, Gated)
    tools.tool.tool = slow = Slow()

    async def two() -> tuple[Completion, ...]:
        first = asyncio.create_task(tools.tool.use("1"))
        await asyncio.sleep(0)
        found = await tools.generate(PROMPT, Sampling(1, 500), 7)
        slow.going.set()
        assert await first == "1" == await tools.tool.use("1")
        return found

    (one,) = asyncio.run(two())
    assert (one.text, one.observed, one.stopped, one.truncated) == (code, (), False, False)
    assert one.failure == (
        "the tool python failed: no turn within tools.queue_s=0.05; raise it, or tools.num_parallel"
    )
    begun = replace(one, text="so ", failure="")
    assert begun.followed_by(one).failure == one.failure


def test_a_machine_without_a_process_to_spare_fails_the_call(monkeypatch) -> None:
    async def none_left(*arguments: object, **settings: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(python, "run_python", none_left)
    with pytest.raises(ToolFailed, match="no process could be started"):
        asyncio.run(interpreter().use("1"))


def test_a_package_that_is_not_installed_is_refused_by_name() -> None:
    assert list(PythonConfig().problems()) == []
    assert list(PythonConfig(packages=["numpy", "no_such", "a b"]).problems()) == [
        f"tools.packages: no package {name} is installed here; install it, or leave it out"
        for name in ("no_such", "a b")
    ]


# --- steps of an answer ---------------------------------------------------------------------------


def stepped(
    script: dict[str, str],
    begun: str = "",
    max_tokens: int = 50,
    room: int = 100,
    stop: str = "\n",
    config: CallConfig | None = None,
):
    """The step after the beginning; `room` is that of the whole answer."""
    rollout, tool = Scripted(**script), Adds()
    prompt = replace(
        PROMPT, token_ids=PROMPT.token_ids + ids(begun), prefix=begun, num_prefix_tokens=len(begun)
    )
    tools = ToolRollout(rollout, tool, ids, config or CalculatorConfig(), room)
    (one,) = asyncio.run(tools.generate(prompt, Sampling(1, max_tokens, stop=(stop,)), 7))
    assert one.token_ids == ids(one.text)[: room - len(begun)]
    assert all(one.logprobs[i] == 0.0 for start, end in one.observed for i in range(start, end))
    assert one.logprobs.count(-0.5) == one.num_own_tokens
    return one, rollout, tool


def test_a_step_goes_on_after_its_call() -> None:
    one, rollout, tool = stepped({"": "so <<1+2=", "so <<1+2=3>>": "3\n"})
    assert (one.text, one.observed) == ("so <<1+2=3>>3\n", ((9, 12),))
    assert (one.stopped, one.truncated) == (True, False)
    assert tool.asked == ["1+2"]
    assert [sampling.max_tokens for _, sampling, _ in rollout.asked] == [50, 50 - 9]
    assert {sampling.stop for _, sampling, _ in rollout.asked} == {("\n", "=")}


def test_a_step_may_answer_a_call_that_an_earlier_one_opened() -> None:
    one, rollout, tool = stepped({"so\n<<1\n": "+2=", "so\n<<1\n+2=3>>": "3\n"}, begun="so\n<<1\n")
    assert (one.text, one.observed) == ("+2=3>>3\n", ((3, 6),))
    assert tool.asked == ["1\n+2"]
    assert len(rollout.asked) == 2


def test_what_an_earlier_step_has_asked_is_not_asked_again() -> None:
    one, _, tool = stepped({"<<1+2=3>>": "3\n"}, begun="<<1+2=3>>")
    assert (one.text, one.stopped, tool.asked) == ("3\n", True, [])


def test_a_step_ends_behind_the_result_if_the_same_text_ends_both() -> None:
    one, rollout, _ = stepped({"": "<<1+2="}, stop="=")
    assert (one.text, one.observed) == ("<<1+2=3>>", ((6, 9),))
    assert (one.stopped, one.truncated, len(rollout.asked)) == (True, False, 1)


def test_an_equals_sign_outside_of_a_call_ends_a_step_only_if_it_is_to() -> None:
    one, _, tool = stepped({"": "1+2 ="}, stop="=")
    assert (one.text, one.stopped) == ("1+2 =", True)
    one, _, tool = stepped({"": "1+2 =", "1+2 =": " 3\n"})
    assert (one.text, one.stopped, one.observed, tool.asked) == ("1+2 = 3\n", True, (), [])


def test_a_steps_end_within_a_result_is_none() -> None:
    config = CalculatorConfig(reply_closes=">>\n")
    one, *_ = stepped({"": "<<1+2=", "<<1+2=3>>\n": "3\n"}, config=config)
    assert one.text == "<<1+2=3>>\n3\n"


def test_the_policy_may_end_its_answer_in_a_step_with_a_call() -> None:
    one, *_ = stepped({"": "<<1+2=", "<<1+2=3>>": "3"})
    assert (one.text, one.stopped, one.truncated) == ("<<1+2=3>>3", False, False)


def test_a_step_whose_last_token_was_cut_is_over() -> None:
    one, rollout, tool = stepped({"": "so 1|"})
    assert (one.text, one.stopped, one.truncated) == ("so 1", True, False)
    assert (len(rollout.asked), tool.asked) == (1, [])
    one, *_ = stepped({"": "<<1+2=", "<<1+2=3>>": "3|"})
    assert (one.text, one.stopped) == ("<<1+2=3>>3", True)


def test_a_call_whose_end_was_cut_is_answered_in_the_next_step() -> None:
    one, _, tool = stepped({"": "<<1+2|"})
    assert (one.text, one.stopped, tool.asked) == ("<<1+2", True, [])
    script = {"<<1+2": "=", "<<1+2=3>>": "3\n"}
    one, _, tool = stepped(script, begun="<<1+2")
    assert (one.text, one.observed, tool.asked) == ("=3>>3\n", ((1, 4),), ["1+2"])
    script = {"<<1+2": OneToken("=4"), "<<1+2=4": ">>\n"}
    one, _, tool = stepped(script, begun="<<1+2")
    assert (one.text, one.observed, tool.asked) == ("=4>>\n", (), [])


def test_calls_of_earlier_steps_count() -> None:
    begun, config = "<<1+1=2>>\n", CalculatorConfig(max_calls=2)
    script = {begun: "<<1+2=", begun + "<<1+2=3>>": "<<1+3="}
    one, _, tool = stepped(script, begun, config=config)
    assert one.text == "<<1+2=3>><<1+3="
    assert (one.stopped, one.truncated) == (False, True)
    assert tool.asked == ["1+2"]


def test_calls_with_white_space_behind_them_count() -> None:
    begun, config = "<<1+1= ->2>>\n", CalculatorConfig(max_calls=1, reply_opens="->")
    one, _, tool = stepped({begun: "<<1+2="}, begun, config=config)
    assert (one.truncated, tool.asked) == (True, [])


def test_the_rest_of_an_answer_knows_what_its_steps_have_asked() -> None:
    """As the look-aheads of a search are drawn: without a step's end."""
    begun = "<<1+1=2>>\n<<1+"
    rollout, tool = Scripted(), Adds()
    rollout.script = {begun: "2=", begun + "2=3>>": "<<1+3="}
    config = CalculatorConfig(max_calls=2)
    tools = ToolRollout(rollout, tool, ids, config, 100)
    prompt = replace(PROMPT, prefix=begun, num_prefix_tokens=len(begun))
    (one,) = asyncio.run(tools.generate(prompt, Sampling(1, 50), 7))
    assert (one.text, one.truncated, tool.asked) == ("2=3>><<1+3=", True, ["1+2"])


def test_a_result_may_be_longer_than_a_step_and_the_step_goes_on_as_the_next() -> None:
    call = "<<100000+200000="
    one, rollout, _ = stepped({"": call}, max_tokens=len(call))
    assert one.text == call + "300000>>"
    assert (one.stopped, one.truncated) == (False, True)
    assert one.num_own_tokens == len(call)
    one, rollout, _ = stepped({"": call, call + "300000>>": "3\n"}, max_tokens=len(call) + 2)
    assert (one.text, one.stopped) == (call + "300000>>3\n", True)
    assert [sampling.max_tokens for _, sampling, _ in rollout.asked] == [len(call) + 2, 2]


@pytest.mark.parametrize(("room", "kept"), [(7, ((4, 5),)), (6, ()), (9, ((4, 7),))])
def test_a_step_has_no_more_than_the_room_of_its_answer(room: int, kept) -> None:
    one, *_ = stepped({"<<": "1+2="}, "<<", room=room)
    assert (len(one.token_ids), one.observed) == (room - 2, kept)
    assert (one.stopped, one.truncated) == (False, True)


def test_what_follows_a_result_has_the_room_that_the_result_has_left() -> None:
    _, rollout, _ = stepped({"": "<<1+2=", "<<1+2=3>>": "3\n"}, max_tokens=20, room=11)
    assert [sampling.max_tokens for _, sampling, _ in rollout.asked] == [11, 2]


def test_code_in_steps_is_run_at_its_end_even_if_a_step_was_cut_there() -> None:
    class Says(Adds):
        async def use(self, argument: str) -> str:
            self.asked.append(argument)
            return "said"

    def drawn(begun: str, *rest: str, stop: str):
        rollout, tool = Scripted(), Says()
        rollout.script = dict(zip((begun, begun + rest[0] + output), rest, strict=False))
        tools = ToolRollout(rollout, tool, ids, PythonConfig(), 500)
        prompt = replace(PROMPT, prefix=begun)
        (one,) = asyncio.run(tools.generate(prompt, Sampling(1, 100, stop=(stop,)), 7))
        return one.text, tool.asked

    output = "```output\nsaid\n```\n"
    assert drawn("```python\n", "print(3)\n", stop="\n") == ("print(3)\n", [])
    code = "```python\nprint(3)\n"
    assert drawn(code, "```\n", stop="\n") == ("```\n" + output, ["print(3)"])
    assert drawn(code + "``", "`\n", "3;", stop=";") == ("`\n" + output + "3;", ["print(3)"])


@pytest.mark.parametrize(
    ("text", "config", "expected"),
    [
        ("a <<1+2=3>>3 b", CalculatorConfig(), [("a <<1+2=", 0), ("3>>", 1), ("3 b", 0)]),
        ("<<1=1>><<2=2>>", CalculatorConfig(), [("<<1=", 0), ("1>>", 1), ("<<2=", 0), ("2>>", 1)]),
        ("no call = 3>>", CalculatorConfig(), [("no call = 3>>", 0)]),
        ("<<1+2=", CalculatorConfig(), [("<<1+2=", 0)]),
        ("<<1=1>>", ToolsConfig(), [("<<1=1>>", 0)]),
        ("<<1= 1>>", CalculatorConfig(), [("<<1= ", 0), ("1>>", 1)]),
        (
            "if a<<b then x=1. Then more words. <<4+5=9>> e",
            CalculatorConfig(),
            [
                ("if a<<b then x=", 0),
                ("1. Then more words. <<4+5=", 0),
                ("9>>", 1),
                (" e", 0),
            ],
        ),
        (
            "a<<b and <<4+5=9>> e",
            CalculatorConfig(),
            [("a<<b and <<4+5=", 0), ("9>>", 1), (" e", 0)],
        ),
        (
            "```python\na\n```\n\n ```output\n<<```python\n\n```\ny",
            PythonConfig(),
            [("```python\na\n```\n\n ", 0), ("```output\n<<```python\n\n```\n", 1), ("y", 0)],
        ),
        (
            "x\n```python\na\n```\n```output\nb\nc\n```\ny",
            PythonConfig(),
            [("x\n```python\na\n```\n", 0), ("```output\nb\nc\n```\n", 1), ("y", 0)],
        ),
    ],
)
def test_a_demonstration_falls_into_parts(text: str, config: ToolsConfig, expected) -> None:
    assert [(part, int(observed)) for part, observed in parts(text, config)] == expected
    assert "".join(part for part, _ in parts(text, config)) == text


def test_gsm8k_is_written_as_the_calculator_wants_it(gsm8k) -> None:
    lines = (gsm8k / "train.jsonl").read_text().splitlines()[:500]
    answers = [json.loads(line)["answer"] for line in lines]
    observed = [
        part for a in answers for part, is_observed in parts(a, CalculatorConfig()) if is_observed
    ]
    assert len(observed) == sum(answer.count("<<") for answer in answers)
    assert all(part.endswith(">>") and "=" not in part for part in observed)


# --- only the policy's own words count ------------------------------------------------------------


def test_what_a_tool_wrote_has_no_log_probability_and_the_rest_keeps_its_own(tmp_path) -> None:
    build_tiny_model(TinyModelConfig(num_layers=1, width=32, num_heads=2), tmp_path, seed=1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    plain = Tokens((5, 6, 7), (10, 11, 12, 13, 14))
    masked = plain._replace(observed=((1, 3),))
    with torch.no_grad():
        whole, part = completion_logprobs(model, pad([plain, masked]))
    assert part.tolist() == [whole[0], 0.0, 0.0, whole[3], whole[4]]
    (total,) = sum_logprobs(model, [masked], 100, torch.device("cpu"))
    assert total == pytest.approx(float(whole[0] + whole[3] + whole[4]))
    assert masked.num_own_tokens == 3


def test_the_worked_pair_of_trajectories() -> None:
    """Action ratios 0.4 and 0.2 against -0.3, η 0.1 (reference notes, M-DPO): 0.649159."""
    one = torch.ones(1, dtype=torch.float64)
    policy = PairLogprobs(one * -1.4, one * -2.3, one * 2, one)
    anchor = SideLogprobs(one * -2.0, one * -2.0)
    judged = Judged(one, one, one * 0, one * 0, one * 0)
    loss = DPOConfig(beta=0.1).loss(Pairs(policy, {"initial": anchor}, judged))
    assert loss.item() == pytest.approx(0.649159, abs=1e-6)


def test_a_preference_hands_over_what_was_observed() -> None:
    chosen = Completion("sum", 0, ids("<<1=1>>"), (), "", False, 0, observed=((4, 7),))
    rejected = Completion("sum", 1, ids("2"), (), "", False, 0)
    sides = [s.tokens for s in Preference.over(PROMPT, chosen, rejected, 1.0, 0.0, "j").sides]
    assert [side.observed for side in sides] == [((4, 7),), ()]
    assert [side.num_own_tokens for side in sides] == [4, 1]


def test_any_call_syntax_is_possible() -> None:
    config = CallConfig(opens="[[", closes="]]", reply_opens=" -> ", reply_closes=";")
    found = list(parts("[[1]] -> 1; x", config))
    assert found == [("[[1]]", False), (" -> 1;", True), (" x", False)]
    found = list(parts("[[1]]\n -> 1; x", config))
    assert found == [("[[1]]\n", False), (" -> 1;", True), (" x", False)]

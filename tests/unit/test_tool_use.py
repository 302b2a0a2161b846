"""Answers that call tools: what is drawn, what a tool wrote, and what is trained on."""

import asyncio
import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.config.models import TinyModelConfig
from rlhf.config.objectives import DPOConfig
from rlhf.config.tools import CalculatorConfig, CallConfig, PythonConfig, ToolsConfig
from rlhf.logprobs import completion_logprobs, pad, sum_logprobs
from rlhf.objectives import Judged, PairLogprobs, SideLogprobs, pair_loss
from rlhf.records import Completion, Preference, Prompt, Sampling, Tokens
from rlhf.tiny import build_tiny_model
from rlhf.tools.rollout import ToolRollout
from rlhf.tools.syntax import parts

PROMPT = Prompt("sum", (), (1, 2), "46")


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


class Scripted:
    """`rlhf.stages.Rollout` by what the answer has so far; stops as an engine does."""

    def __init__(self, **script: str) -> None:
        self.script = {key.replace("_", ""): text for key, text in script.items()}
        self.asked: list[tuple[str, Sampling, int]] = []

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        self.asked.append((prompt.prefix, sampling, seed))
        text = self.script[prompt.prefix]
        stopped = any(text.endswith(stop) for stop in sampling.stop)
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
    tools = ToolRollout(rollout, tool, ids, config)
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
    tools = ToolRollout(rollout, tool, ids, PythonConfig())
    (one,) = asyncio.run(tools.generate(PROMPT, Sampling(1, 500), 7))
    assert tool.asked == "print(3)"
    assert one.text.endswith("```output\nsaid\n```\n3")


def test_answers_in_steps_have_no_tools() -> None:
    tools = ToolRollout(Scripted(), Adds(), ids, CalculatorConfig())
    with pytest.raises(ValueError, match="in steps"):
        asyncio.run(tools.generate(PROMPT, Sampling(1, 5, stop=("\n",)), 7))


@pytest.mark.parametrize(
    ("text", "config", "expected"),
    [
        ("a <<1+2=3>>3 b", CalculatorConfig(), [("a <<1+2=", 0), ("3>>", 1), ("3 b", 0)]),
        ("<<1=1>><<2=2>>", CalculatorConfig(), [("<<1=", 0), ("1>>", 1), ("<<2=", 0), ("2>>", 1)]),
        ("no call = 3>>", CalculatorConfig(), [("no call = 3>>", 0)]),
        ("<<1+2=", CalculatorConfig(), [("<<1+2=", 0)]),
        ("<<1=1>>", ToolsConfig(), [("<<1=1>>", 0)]),
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
    loss = pair_loss(DPOConfig(beta=0.1), policy, {"initial": anchor}, judged)
    assert loss.item() == pytest.approx(0.649159, abs=1e-6)


def test_a_preference_hands_over_what_was_observed() -> None:
    chosen = Completion("sum", 0, ids("<<1=1>>"), (), "", False, 0, observed=((4, 7),))
    rejected = Completion("sum", 1, ids("2"), (), "", False, 0)
    sides = Preference(PROMPT, chosen, rejected, 1.0, 0.0, "j").sides
    assert [side.observed for side in sides] == [((4, 7),), ()]
    assert [side.num_own_tokens for side in sides] == [4, 1]


def test_any_call_syntax_is_possible() -> None:
    config = CallConfig(opens="[[", closes="]]", reply_opens=" -> ", reply_closes=";")
    found = list(parts("[[1]] -> 1; x", config))
    assert found == [("[[1]]", False), (" -> 1;", True), (" x", False)]

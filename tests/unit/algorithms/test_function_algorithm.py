"""algorithm=function: your own algorithm over the public services."""

import asyncio
from pathlib import Path

import pytest

from rlhf.algorithms.base import Services
from rlhf.algorithms.function import FunctionAlgorithmConfig
from rlhf.algorithms.online import OnlineDPOConfig
from rlhf.collecting.collector import OneRound, PromptsFailed, RoundCollector
from rlhf.collecting.dispatch import RequestFailed, StageFailed
from rlhf.collecting.pairing import PairRule
from rlhf.config.run import RoundConfig
from rlhf.problems import InputError
from rlhf.records import Asked, Completion, Judgement, Message, Prompt, Sampling

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_algorithm" / "pairs.py"
PROMPT = Prompt("p1", (Message("user", "x"),), (1,))


class Service:
    """Answers `0`, `1`, ..., and scores them by a table."""

    def __init__(self, *scores: float | None) -> None:
        self._scores = scores

    async def generate(self, prompt, sampling, seed):
        return tuple(
            Completion(prompt.id, i, (i + 1,), (0.0,), str(i), False, 0)
            for i in range(sampling.num_completions)
        )

    async def judge(self, prompt, completions):
        return Judgement(self._scores, "table")


def services(*scores: float | None) -> Services:
    one = Service(*scores)

    def nobody(see_solution):
        raise AssertionError

    return Services(one, one, Sampling(len(scores), 8), {}, False, None, nobody)


def made(tmp_path: Path, text: str, offered: Services):
    (tmp_path / "own.py").write_text(text)
    config = FunctionAlgorithmConfig(function=f"{tmp_path}/own.py:collect")
    config.try_out()
    return config.make(offered)


async def test_the_example_pairs_the_best_answer_with_each_worse_one():
    config = FunctionAlgorithmConfig(function=f"{EXAMPLE}:collect")
    collected = await config.make(services(0.5, 2.0, None, 2.0, 1.0)).collect(Asked(PROMPT, 1))
    sides = [(p.chosen.text, p.rejected.text, p.margin, p.weight) for p in collected.preferences]
    assert sides == [("1", "0", 1.5, 0.5), ("1", "4", 1.0, 0.5)]
    assert [(one.reason, one.rejected.text) for one in collected.dropped if one.rejected] == [
        ("tie", "3")
    ]


async def test_the_same_pair_as_the_built_in_one_where_both_have_one(tmp_path):
    offered = services(0.0, 1.0)
    own = FunctionAlgorithmConfig(function=f"{EXAMPLE}:collect").make(offered)
    built_in = OnlineDPOConfig(rule=PairRule.best_worst).make(offered)
    asked = Asked(PROMPT, 1)
    assert await own.collect(asked) == await built_in.collect(asked)


HEAD = "from rlhf.records import *\nasync def collect(asked, services):\n    "
COLLECTED = "return Collected(asked.prompt, (), None, "


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return []", "returned [], not an rlhf.records.Collected"),
        ("pass", "returned None, not an rlhf.records.Collected"),
        (COLLECTED + "[], ())", "returned preferences as [], not a tuple of Preference"),
        (COLLECTED + "('a',), ())", "returned 'a' among preferences, not a Preference"),
        (COLLECTED + "(), (1,))", "returned 1 among dropped, not a Dropped"),
        ("return Collected(asked.prompt, (), 0.5, (), ())", "returned the judgement 0.5, not"),
        ("return Collected('p1', (), None, (), ())", "returned what it collected of 'p1', not of"),
        ("return services.absent", "has no attribute 'absent' (own.py line 3)"),
        ("raise TimeoutError('mine')", "TimeoutError: mine (own.py line 3)"),
        ("raise SystemExit(4)", "SystemExit: 4 (own.py line 3)"),
    ],
)
async def test_a_wrong_one_fails_its_prompt_in_one_line(tmp_path, body, told):
    own = made(tmp_path, HEAD + body, services(1.0))
    with pytest.raises(RequestFailed) as failed:
        await own.collect(Asked(PROMPT, 1))
    line = str(failed.value)
    assert line.startswith(f"algorithm.function={tmp_path}/own.py:collect@")
    assert told in line and "\n" not in line


async def test_a_preference_of_another_prompt_is_refused(tmp_path):
    body = (
        "from dataclasses import replace\n"
        "    other = replace(asked.prompt, id='p2')\n"
        "    a, b = await services.rollout.generate(other, services.sampling, 1)\n"
        "    pair = Preference.over(other, a, b, 1.0, 0.0, 'me')\n"
        "    return Collected(asked.prompt, (a, b), None, (pair,), ())"
    )
    own = made(tmp_path, HEAD + body, services(1.0, 0.0))
    with pytest.raises(RequestFailed, match="returned a preference of 'p2', asked for 'p1'"):
        await own.collect(Asked(PROMPT, 1))


async def test_failed_prompts_are_counted_and_what_services_raise_is_theirs(tmp_path):
    own = made(tmp_path, HEAD + "return None", services(1.0))
    settings = (RoundConfig(prompts=1), 0.1, 1, 1)
    collector = RoundCollector(own, OneRound([PROMPT]), *settings)
    with pytest.raises(BaseExceptionGroup) as group:
        await collector.collect(0)
    (failed,) = group.value.exceptions
    assert isinstance(failed, PromptsFailed) and "\n" not in str(failed)
    assert "round.max_failed=0: p1: algorithm.function=" in str(failed)
    text = (
        "from rlhf.collecting.dispatch import StageFailed\n"
        "async def collect(asked, services): raise StageFailed('all gone')"
    )
    broken = made(tmp_path, text, services(1.0))
    with pytest.raises(StageFailed, match="all gone"):
        await broken.collect(Asked(PROMPT, 1))


async def test_a_deadline_ends_it(tmp_path):
    own = made(tmp_path, HEAD + "import asyncio; await asyncio.sleep(3600)", services(1.0))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(own.collect(Asked(PROMPT, 1)), 0.01)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def collect(asked, services): pass", "is not async; write async def collect(asked,"),
        ("async def collect(asked): pass", "is called with (asked, services)"),
        ("import absent_thing", "No module named 'absent_thing' (own.py line 1)"),
    ],
)
def test_what_cannot_be_called_is_told_before_workers_start(tmp_path, text, told):
    with pytest.raises(InputError) as refused:
        made(tmp_path, text, services())
    (problem,) = refused.value.problems
    assert problem.startswith("algorithm.function=") and told in problem

"""Answers of several turns: what is drawn, what the environment said, and what a failure costs.

The environments are real: a user's file in processes of its own. What is drawn is scripted.
"""

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf.collecting.dispatch import RequestFailed
from rlhf.config.models import Rendering, Vocabulary
from rlhf.data.rendering import Renderer, Row
from rlhf.environments.base import EnvironmentFailed
from rlhf.environments.function import FunctionEnvironmentConfig, Reward
from rlhf.environments.judging import EpisodeJudge
from rlhf.environments.playing import FunctionEnvironment
from rlhf.environments.rollout import EnvironmentRollout
from rlhf.judges.environment import EnvironmentJudge, Rewards
from rlhf.problems import InputError
from rlhf.records import Comparison, Completion, Judgement, Message, Prompt, Sampling
from rlhf.tools.calculator import CalculatorConfig
from rlhf.tools.rollout import ToolRollout, with_tools
from rlhf.tools.tool import ToolFailed
from rlhf.toys.tiny import CHAT_TEMPLATE, build_tokenizer

EXAMPLES = Path(__file__).parents[3] / "examples"
GUESSING = str(EXAMPLES / "guessing" / "env.py") + ":Guessing"
CALCULATOR = str(EXAMPLES / "calculator" / "env.py") + ":CalculatorEnvironment"
ASKED = (Message("user", "10-24"),)
TOKENIZER = build_tokenizer(Vocabulary.bytes)
EOS: Any = TOKENIZER.eos_token_id
PLAIN = Renderer(TOKENIZER, Rendering.plain)

SOURCE = """
import asyncio, os, time

class Counts:
    def reset(self, row):
        self.turns = 0
        return row["prompt"]

    def step(self, text):
        self.turns += 1
        if text == "raise":
            raise ValueError("no such move")
        if text == "hang":
            time.sleep(60)
        if text == "slow":
            time.sleep(0.3)
        if text == "die":
            os._exit(3)
        if text == "odd":
            return "x", "yes", 1
        return f"<{self.turns}>", text == "end", self.turns

class Waits:
    open = 0

    async def reset(self, row):
        Waits.open += 1
        return [{"role": "system", "content": "be brief"}, {"role": "user", "content": "?"}]

    async def step(self, text):
        if text == "hang":
            await asyncio.sleep(60)
        return f"{Waits.open} open", text == "end", 1.0

    def close(self):
        Waits.open -= 1

class Fickle:
    times = 0

    def reset(self, row):
        Fickle.times += 1
        if row["answer"] == "raise" and Fickle.times > 1:
            raise RuntimeError("no more boards")
        return "a" if Fickle.times < 3 else "b"

    def step(self, text):
        return "", True, 0
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("env") / "env.py"
    path.write_text(SOURCE)
    return str(path)


def ids(text: str) -> tuple[int, ...]:
    return PLAIN.text_ids(text)


class Scripted:
    """`rlhf.stages.Rollout` by what was said so far: each sample's next turn, which `~` leaves
    open at the limit, and else an end token ends."""

    def __init__(self, *turns: list[str]) -> None:
        self.turns = turns
        self.asked: list[tuple[Prompt, Sampling, int]] = []

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        first = not prompt.num_prefix_tokens
        group = range(sampling.num_completions) if first else [int(prompt.prefix[0])]
        place = sum(asked[0].prefix[:1] == prompt.prefix[:1] for asked in self.asked if not first)
        self.asked.append((prompt, sampling, seed))
        drawn = [self.turns[sample][0 if first else place + 1] for sample in group]
        return tuple(self._one(text, i, sampling) for i, text in enumerate(drawn))

    def _one(self, text: str, sample: int, sampling: Sampling) -> Completion:
        stopped = any(text.endswith(stop) for stop in sampling.stop)
        tokens = ids(text) if stopped else (*ids(text), EOS)
        truncated = len(tokens) > sampling.max_tokens
        tokens = tokens[: sampling.max_tokens]
        logprobs = (-0.5,) * len(tokens)
        return Completion("g", sample, tokens, logprobs, text, truncated, 3, stopped=stopped)


def started(config: FunctionEnvironmentConfig, rollout, renderer=PLAIN):
    playing = config.played(rollout, renderer)
    assert isinstance(playing, EnvironmentRollout)
    assert isinstance(playing.environment, FunctionEnvironment)
    return playing, playing.environment


def played(function: str, rollout, *, num: int = 1, max_tokens: int = 100, renderer=PLAIN,
           messages=ASKED, row=None, **changes):  # fmt: skip
    """The completions of one prompt; the turns of sample i begin with the digit i."""
    prompt = Prompt("g", messages, (1, 2), row=row or {"prompt": "10-24", "answer": "17"})
    config = FunctionEnvironmentConfig(function=function, **changes)

    async def both():
        playing, environment = started(config, rollout, renderer)
        try:
            return await playing.generate(prompt, Sampling(num, max_tokens), 7)
        finally:
            environment.end()

    return asyncio.run(both())


def test_an_observation_is_read_and_not_trained_on_and_the_policys_tokens_stay() -> None:
    rollout = Scripted(["020", "10", "017"])
    (one,) = played(GUESSING, rollout)
    # The numbers are read with their leading digit, by which the script knows the sample.
    assert one.text == "020lower10higher017"
    assert one.token_ids == (*ids("020"), EOS, *ids("lower"), *ids("10"), EOS, *ids("higher"),
                             *ids("017"), EOS)  # fmt: skip
    assert one.observed == ((4, 9), (12, 18))
    assert one.logprobs[4:9] == (0.0,) * 5 and one.logprobs.count(-0.5) == one.num_own_tokens == 11
    assert (one.reward, one.truncated, one.stopped, one.failure) == (1.0, False, False, "")
    # Every turn is an ordinary request, which goes on from what was sampled.
    prompts = [prompt for prompt, *_ in rollout.asked]
    assert [p.token_ids for p in prompts] == [(1, 2), (1, 2, *one.token_ids[:9]),
                                              (1, 2, *one.token_ids[:18])]  # fmt: skip
    assert [p.num_prefix_tokens for p in prompts] == [0, 9, 18]
    assert [sampling.max_tokens for _, sampling, _ in rollout.asked] == [100, 91, 82]
    assert len({seed for *_, seed in rollout.asked}) == 3


def test_with_a_chat_template_turns_are_framed_as_it_frames_them() -> None:
    tokenizer = build_tokenizer(Vocabulary.bytes)
    tokenizer.chat_template = CHAT_TEMPLATE
    chat = Renderer(tokenizer, Rendering.auto)
    (one,) = played(GUESSING, Scripted(["020", "017"]), renderer=chat)
    assert one.token_ids == (*ids("020"), EOS, *ids("\n?lower\n!"), *ids("017"), EOS)
    assert one.text == "020\n\nuser:\nlower\n\nassistant:\n017"
    assert one.observed == ((4, 13),)


def test_each_of_a_group_has_an_episode_of_its_own(file) -> None:
    rollout = Scripted(["0a", "0b", "end"], ["1a", "end"], ["2"] * 8)
    many = played(f"{file}:Counts", rollout, num=3, max_turns=4, num_workers=2)
    assert [one.sample for one in many] == [0, 1, 2]
    assert [one.reward for one in many] == [1 + 2 + 3, 1 + 2, 1 + 2 + 3 + 4]
    assert [one.truncated for one in many] == [False, False, True]
    assert many[2].text == "2<1>2<2>2<3>2", "what nobody will answer is not read either"
    last = played(f"{file}:Counts", Scripted(["0a", "end"]), reward=Reward.last)
    assert last[0].reward == 2


@pytest.mark.parametrize(
    ("room", "text", "observed"),
    [(2, "0a", ()), (3, "0a<1>", ()), (4, "0a<1>", ((3, 4),)), (6, "0a<1>", ((3, 6),)),
     (8, "0a<1>0b", ((3, 6),))],
)  # fmt: skip
def test_the_room_is_that_of_the_whole_answer(file, room: int, text: str, observed) -> None:
    (one,) = played(f"{file}:Counts", Scripted(["0a", "0b", "end"]), max_tokens=room)
    assert len(one.token_ids) == len(one.logprobs) == room
    assert (one.text, one.observed, one.truncated) == (text, observed, True)
    assert one.reward == (0.0 if room == 2 else 1.0), "a turn that was cut is not acted on"


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        ("raise", "step ValueError: no such move (env.py line 12)"),
        ("hang", "step is not done within 2 s"),
        ("die", "step ended its process, with code 3"),
        ("odd", "step returned ['x', 'yes', 1], not observation, done, reward"),
    ],
)
def test_an_environment_that_fails_costs_its_own_answer_alone(file, turn: str, why: str) -> None:
    script = [["0a", turn], ["1a", "end"]]
    timeout_s = 2.0 if turn == "hang" else 60.0
    settings = {"num": 2, "timeout_s": timeout_s, "num_workers": 2}
    failed, other = played(f"{file}:Counts", Scripted(*script), **settings)
    assert failed.failure.startswith(why) and failed.reward is None
    assert failed.text == f"0a<1>{turn}"
    assert (other.reward, other.failure) == (3, "")


def test_what_a_process_takes_along_has_failed_and_the_next_begins_anew(file) -> None:
    async def both():
        config = FunctionEnvironmentConfig(function=f"{file}:Counts")
        _, environment = started(config, Scripted())
        prompt = Prompt("g", ASKED, (1,), row={"prompt": "10-24"})
        first, second = [await environment.begin(prompt) for _ in range(2)]
        found = []
        for episode, text in ((first, "die"), (second, "a")):
            try:
                found.append(await episode.step(text))
            except EnvironmentFailed as error:
                found.append(str(error))
        third = await environment.begin(prompt)
        found.append((await third.step("a")).observation)
        environment.end()
        return found

    assert asyncio.run(both()) == [
        "step ended its process, with code 3",
        "step Lost: its process has ended since the episode began",
        "<1>",
    ]


def test_async_environments_overlap_and_are_closed(file) -> None:
    asked = (Message("system", "be brief"), Message("user", "?"))
    script = [["0a", "0end"], ["1a", "hang"]]
    one, other = played(
        f"{file}:Waits", Scripted(*script), num=2, messages=asked, timeout_s=2.0, max_turns=2
    )
    assert one.text == "0a2 open0end" and one.truncated
    assert other.failure == "step is not done within 2 s"

    async def many() -> str:
        config = FunctionEnvironmentConfig(function=f"{file}:Waits")
        _, environment = started(config, Scripted())
        prompt = Prompt("g", ASKED, (1,), row={})
        begun = await asyncio.gather(*(environment.begin(prompt) for _ in range(5)))
        for episode in begun[1:]:
            episode.close()
        await environment.idle()
        said = (await begun[0].step("a")).observation
        environment.end()
        return said

    assert asyncio.run(many()) == "1 open"


def test_a_prompt_whose_time_is_over_takes_no_other_along(file) -> None:
    async def both() -> list[str]:
        config = FunctionEnvironmentConfig(function=f"{file}:Counts")
        _, environment = started(config, Scripted())
        prompt = Prompt("g", ASKED, (1,), row={"prompt": "10-24"})
        slow, other = [await environment.begin(prompt) for _ in range(2)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await slow.step("slow")
        found = [(await other.step("a")).observation, (await slow.step("a")).observation]
        environment.end()
        return found

    assert asyncio.run(both()) == ["<1>", "<2>"]


def test_a_reset_that_fails_or_changes_its_mind_fails_the_prompt(file) -> None:
    function, messages = f"{file}:Fickle", (Message("user", "a"),)
    with pytest.raises(RequestFailed, match="reset returned other messages than at first"):
        played(function, Scripted(), num=3, messages=messages)
    row = {"answer": "raise"}
    with pytest.raises(RequestFailed, match=r"reset RuntimeError: no more boards \(env.py line"):
        played(function, Scripted(), num=3, messages=messages, row=row)


# --- the data's rows ------------------------------------------------------------------------------


def test_what_an_environment_asks_takes_the_place_of_the_rows_own_words(file) -> None:
    rows = [Row(str(i), ASKED, "", answer="1", whole={"prompt": f"{i}?"}) for i in range(3)]
    opened = FunctionEnvironmentConfig(function=f"{file}:Counts").opened(rows)
    assert [row.messages[0].content for row in opened] == ["0?", "1?", "2?"]
    made = FunctionEnvironmentConfig(function=GUESSING).opened([Row("g", ASKED, "", answer="17")])
    assert made[0].messages == ASKED
    assert made[0].whole == {"id": "g", "prompt": "10-24", "answer": "17"}


UNFIT = """
def play(row): ...
class Made:
    def __init__(self, size): ...
class Silent:
    def reset(self, row): ...
class Wide:
    def reset(self, row, seed): ...
    def step(self, text): ...
class Blank:
    def reset(self, row): return ""
    def step(self, text): ...
class Pair:
    def reset(self, row): return "a"
    def step(self, text): return "b", False
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("play", "is a function; an environment is a class with reset and step"),
        ("Made", "takes (size), and is made without arguments"),
        ("Silent", "has no method step; write def step(self, text)"),
        ("Wide", "its reset takes (self, row, seed); write def reset(self, row)"),
        ("Blank", "reset returned '', which is no prompt: it is empty (rows 0, 1)"),
        ("Pair", "tried on row 0 with the turn '1': step returned ['b', False], not observation, "
                 "done, reward: a text, True or False, and a number"),
    ],
)  # fmt: skip
def test_what_is_no_environment_is_refused_in_one_line(tmp_path, name: str, why: str) -> None:
    (tmp_path / "e.py").write_text(UNFIT)
    reference = f"{tmp_path / 'e.py'}:{name}"
    config = FunctionEnvironmentConfig(function=reference)
    rows = [Row(str(i), ASKED, "", answer="1") for i in range(2)]
    with pytest.raises(InputError) as error:
        config.rehearse(Prompt("0", ASKED, (1,), "1", row=config.opened(rows)[0].whole), PLAIN)
    assert error.value.problems == [f"environment.function={reference}: {why}"]


# --- judging --------------------------------------------------------------------------------------


def answer(sample: int, reward: float | None, failure: str = "") -> Completion:
    return Completion("g", sample, (1,), (0.0,), "a", False, 0, reward=reward, failure=failure)


ANSWERS = [answer(0, 1.0), answer(1, None, "step ValueError"), answer(2, 0.5)]
PROMPT = Prompt("g", ASKED, (1,))


def test_the_environments_reward_is_a_score_and_what_failed_has_none() -> None:
    verdict = asyncio.run(EnvironmentJudge(Rewards.scores).judge(PROMPT, ANSWERS))
    assert verdict.scores == (1.0, None, 0.5)
    assert verdict.reasons == ("", "step ValueError", "")
    assert verdict.failed == (False, True, False)
    verdict = asyncio.run(EnvironmentJudge(Rewards.outcomes).judge(PROMPT, ANSWERS))
    assert verdict.scores == (1.0, None, None)
    assert verdict.reasons[2] == "has a reward of 0.5, and with judge.returns=outcomes 0 or 1"


class Asked:
    """A judge that wants whole answers."""

    def __init__(self, gives_matrix: bool) -> None:
        self.gives_matrix = gives_matrix

    async def judge(self, prompt: Prompt, completions):
        assert not any(one.failure for one in completions)
        if self.gives_matrix:
            return Comparison(((0.5, 0.75), (0.25, 0.5)), "asked")
        scores = tuple(float(one.sample) for one in completions)
        words = tuple("x" for _ in scores)
        return Judgement(scores, "asked", {"style": scores}, words, additions=words)


def test_other_judges_are_not_asked_about_what_failed() -> None:
    verdict = asyncio.run(EpisodeJudge(Asked(False), False).judge(PROMPT, ANSWERS))
    assert isinstance(verdict, Judgement)
    assert (verdict.scores, verdict.judge) == ((0.0, None, 2.0), "asked")
    assert verdict.parts == {"style": (0.0, None, 2.0)}
    assert verdict.reasons == ("x", "step ValueError", "x")
    assert verdict.additions == ("x", "", "x")
    compared = asyncio.run(EpisodeJudge(Asked(True), True).judge(PROMPT, ANSWERS))
    assert isinstance(compared, Comparison)
    assert compared.win_prob == ((0.5, None, 0.75), (None, 0.5, None), (0.25, None, 0.5))
    nobody = asyncio.run(EpisodeJudge(Asked(True), True).judge(PROMPT, ANSWERS[1:2] * 2))
    assert isinstance(nobody, Comparison)
    assert nobody.win_prob == ((0.5, None), (None, 0.5)) and nobody.failed == (True,)


# --- a tool as an environment ---------------------------------------------------------------------


class Babbles:
    """Draws calls, numbers and ends by its seed, and stops as an engine does."""

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        return tuple(self._one(i, sampling, seed + i) for i in range(sampling.num_completions))

    def _one(self, sample: int, sampling: Sampling, seed: int) -> Completion:
        rng, text, ended = random.Random(seed), "", False
        pieces = ("<<1+2=", "<<12*", "3=", "\n46", "so ", "<<", "46", "end")
        while not (ended or any(stop in text for stop in sampling.stop)):
            piece = rng.choice(pieces)
            ended = piece == "end"
            text += "" if ended else piece
        tokens = (*ids(text), EOS) if ended else ids(text)
        truncated, tokens = len(tokens) > sampling.max_tokens, tokens[: sampling.max_tokens]
        text = str(TOKENIZER.decode(list(tokens), skip_special_tokens=True))
        logprobs = tuple(-rng.random() for _ in tokens)
        stopped = not (ended or truncated)
        return Completion("g", sample, tokens, logprobs, text, truncated, 3, stopped=stopped)


def test_the_calculator_as_an_environment_gives_the_very_answers_that_the_tool_gives() -> None:
    """Token by token, at equal seeds; and rewards that are the tool's answers' own."""
    prompt = Prompt("g", ASKED, (1, 2), "46", row={"prompt": "10-24", "answer": "46"})
    limit, sampling = CalculatorConfig(max_calls=100), Sampling(4, 40)
    config = FunctionEnvironmentConfig(function=CALCULATOR, max_turns=200, stop=["="])

    async def both():
        tools = with_tools(Babbles(), limit, ids, sampling.max_tokens)
        playing, environment = started(config, Babbles())
        found = []
        for seed in range(0, 60, 4):
            one, other = await asyncio.gather(
                tools.generate(prompt, sampling, seed), playing.generate(prompt, sampling, seed)
            )
            found += zip(one, other, strict=True)
        environment.end()
        return found

    pairs = asyncio.run(both())
    assert [replace(other, reward=None) for _, other in pairs] == [one for one, _ in pairs]
    assert sum(bool(one.observed) for one, _ in pairs) > 15, "calls are answered"
    for one, other in pairs:
        is_right = one.text.rpartition("\n")[2].strip() == "46"
        assert other.reward == (is_right and not one.truncated)


def test_tools_may_be_called_in_a_turn(file) -> None:
    class Calls(Scripted):
        async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
            script = {"": "0<<1+2=", "0<<1+2=3>>": "a", "0<<1+2=3>>a<1>": "end"}
            return (self._one(script[prompt.prefix], 0, sampling),)

    tools = with_tools(Calls(), CalculatorConfig(), ids, 100)
    (one,) = played(f"{file}:Counts", tools)
    assert one.text == "0<<1+2=3>>a<1>end"
    assert [one.text[a:b] for a, b in ((7, 10),)] == ["3>>"]
    assert one.observed == ((7, 10), (12, 15)) and one.reward == 1 + 2


def test_an_answer_whose_tool_has_failed_is_over(file) -> None:
    class Calls(Scripted):
        async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
            return (self._one("0<<1+2=", 0, sampling),)

    class Busy:
        name = "busy"

        async def use(self, argument: str) -> str:
            raise ToolFailed("no room")

    tools = with_tools(Calls(), CalculatorConfig(), ids, 100)
    assert isinstance(tools, ToolRollout)
    (one,) = played(f"{file}:Counts", replace(tools, tool=Busy()))
    assert (one.text, one.failure, one.reward) == ("0<<1+2=", "the tool busy failed: no room", None)
    assert not one.stopped and not one.truncated

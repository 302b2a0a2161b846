"""judge=function: each way of getting a reward wrong gives its one line, and harms nothing else."""

from pathlib import Path

import pytest

from rlhf.judges.function import FunctionJudge, FunctionJudgeConfig, Returns, verdict
from rlhf.problems import InputError
from rlhf.records import Comparison, Completion, Judgement, Message, Prompt

PROMPT = Prompt("p1", (Message("user", "1+1="),), (1,), answer="2")


def completions(*texts: str) -> tuple[Completion, ...]:
    return tuple(Completion("p1", i, (1,), (0.0,), t, False, 0) for i, t in enumerate(texts))


def config(tmp_path: Path, text: str, **settings) -> FunctionJudgeConfig:
    (tmp_path / "own.py").write_text(text)
    return FunctionJudgeConfig(function=f"{tmp_path}/own.py:score", timeout_s=20.0, **settings)


def rehearsed(config: FunctionJudgeConfig) -> str:
    """What is told before workers start."""
    with pytest.raises(InputError) as refused:
        config.inspect(set())
        config.rehearse(PROMPT)
    (problem,) = refused.value.problems
    assert "\n" not in problem and problem.startswith("judge.function=")
    return problem


DEF = "def score(prompt, completions, row):\n    "


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def score(prompt:", "own.py line 1: '(' was never closed"),
        ("def scores(prompt, completions, row): pass", "did you mean scores?"),
        ("def score(prompt): pass", "is called with (prompt, completions, row)"),
        ("raise SystemExit(3)", "SystemExit: 3 (own.py line 1)"),
        ("import os\nos._exit(3)", "ends its process as it is loaded, with code 3"),
        ("import absent_thing", "No module named 'absent_thing' (own.py line 1)"),
        ("score = 1.0", "is a float, not a function"),
        (DEF + "return [1.0]", "p1 and ['', '2']: returned 1 values for 2 completions: [1.0]"),
        (DEF + "return 1.0", "returned 1.0, not a list of 2, one per completion"),
        (DEF + "return None", "returned None, not a list of 2, one per completion"),
        (DEF + "return ['a', 1]", "returned 'a' for a completion, not a number or None"),
        (DEF + "return [[1], [2]]", "returned [1] for a completion, not a number or None"),
        (DEF + "return [float('nan'), 1]", "returned nan for a completion; None says"),
        (DEF + "return [float('inf'), 1]", "returned inf for a completion; None says"),
        (DEF + "return {}", "returned a mapping without parts"),
        (DEF + "return {'a': [1]}", "returned 1 values for 2 completions"),
        (DEF + "return object()", "returned an object of object, not numbers"),
        (DEF + "return row['absent']", "KeyError: 'absent' (own.py line 2)"),
        (DEF + "return 'x' * (17 << 20)", "are read at most"),
        (DEF + "import os; os._exit(7)", "ended its process, with code 7"),
    ],
)
def test_a_wrong_reward_is_told_in_one_line_before_workers_start(tmp_path, text, told):
    assert told in rehearsed(config(tmp_path, text))


def test_a_reward_that_hangs_is_told_too(tmp_path):
    own = config(tmp_path, DEF + "while True: pass")
    own.timeout_s = 0.3
    assert "is not done within 0.3 s" in rehearsed(own)


@pytest.mark.parametrize("reference", ["absent.py:score", "absent.module:score", "rewards.py"])
def test_a_file_that_is_not_there_is_told_before_anything_is_read(reference):
    assert rehearsed(FunctionJudgeConfig(function=reference))


async def test_one_group_s_failure_is_its_own(tmp_path):
    text = DEF + "return [1 / len(text) for text in completions]"
    own = config(tmp_path, text).builder()()
    assert isinstance(own, FunctionJudge)
    good = await own.judge(PROMPT, completions("a", "bb"))
    bad = await own.judge(PROMPT, completions("a", ""))
    assert good.scores == (1.0, 0.5) and good.failed == (False, False) and not good.reasons
    assert bad.scores == (None, None) and bad.failed == (True, True)
    assert bad.reasons == ("ZeroDivisionError: division by zero (own.py line 2)",) * 2
    assert (await own.judge(PROMPT, completions("a", "bb"))).scores == good.scores
    own.close()


async def test_what_a_reward_is_given(tmp_path):
    text = (
        "seen = []\n"
        "async def score(prompt, completions, row):\n"
        "    seen.append([prompt, completions, row])\n"
        "    assert seen[-1] == EXPECTED[len(seen) - 1], seen[-1]\n"
        "    return [0]\n"
        "EXPECTED = [\n"
        "    ['1+1=', ['begun end'], {'id': 'p1', 'prompt': '1+1=', 'answer': '2'}],\n"
        "    [[{'role': 'system', 'content': 's'}, {'role': 'user', 'content': 'u'}], ['end'],\n"
        "     {'x': [1, {'y': None}]}],\n"
        "]\n"
    )
    own = config(tmp_path, text).builder()()
    begun = Prompt("p1", PROMPT.messages, (1,), answer="2", prefix="begun ")
    turns = (Message("system", "s"), Message("user", "u"))
    row = {"x": [1, {"y": None}]}
    for prompt in (begun, Prompt("p1", turns, (1,), row=row)):
        found = await own.judge(prompt, completions("end"))
        assert found.scores == (0.0,), found.reasons
    own.close()


def test_parts_are_added_up_unless_one_is_the_score():
    both = verdict({"a": [1, None, 3], "b": [0.5, 1, -3]}, 3, Returns.scores, "j")
    assert isinstance(both, Judgement)
    assert both.scores == (1.5, None, 0.0) and both.parts["b"] == (0.5, 1.0, -3.0)
    named = verdict({"a": [1, 2], "score": [7, None]}, 2, Returns.scores, "j")
    assert named.scores == (7.0, None) and named.parts == {"a": (1.0, 2.0)}


def test_outcomes_are_0_or_1():
    assert verdict([True, 0, None], 3, Returns.outcomes, "j").scores == (1.0, 0.0, None)
    with pytest.raises(ValueError, match=r"returned 0\.5, and with judge\.returns=outcomes 0, 1"):
        verdict([1, 0.5], 2, Returns.outcomes, "j")


def test_a_matrix_is_of_probabilities_that_make_1():
    found = verdict([[0, 0.75, None], [0.25, 9, 1], [None, 0, 0.5]], 3, Returns.matrix, "j")
    assert isinstance(found, Comparison)
    assert found.win_prob == ((0.5, 0.75, None), (0.25, 0.5, 1.0), (None, 0.0, 0.5))
    for wrong in ([[0.5, 0.7], [0.7, 0.5]], [[0.5, 2], [-1, 0.5]], [[0.5, None], [0.5, 0.5]]):
        with pytest.raises(ValueError, match="the two are probabilities, and make 1"):
            verdict(wrong, 2, Returns.matrix, "j")
    with pytest.raises(ValueError, match="returned 1 values for 2 completions"):
        verdict([[0.5, 0.5], [0.5]], 2, Returns.matrix, "j")

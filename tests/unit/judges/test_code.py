"""Programs are found in answers, tests in rows, and what they come to is right."""

import asyncio
import gzip
import json
import re

import pytest

from rlhf.algorithms.online import OnlineDPOConfig
from rlhf.collecting.pairing import pair
from rlhf.judges.base import Measure
from rlhf.judges.code import CodeJudge, CodeJudgeConfig
from rlhf.judges.groups import Group
from rlhf.judges.panel import PanelConfig
from rlhf.judges.programs.answers import programs, without_asserts
from rlhf.judges.programs.calls import Call, Relation
from rlhf.judges.programs.program import chosen
from rlhf.judges.programs.ranking import Score
from rlhf.judges.programs.running import Runner
from rlhf.judges.programs.tests import Calls, Format, Inputs, Script, Unreadable, read_tests
from rlhf.judges.programs.values import decode, encode
from rlhf.judges.text import TextJudgeConfig
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Completion, DropReason, Judgement, Message, Prompt


def group(question: str, row: dict | None, *texts: str) -> Group:
    prompt = Prompt("one", (Message("user", question),), (1,), row=row)
    completions = [Completion("one", i, (1,), (0.0,), t, False, 0) for i, t in enumerate(texts)]
    return Group(prompt, tuple(completions))


def judged(question: str, row: dict | None, *texts: str, **keys) -> Judgement:
    (judgement,) = judged_together([group(question, row, *texts)], **keys)
    return judgement


def judged_together(groups: list[Group], **keys) -> list[Judgement]:
    judge = CodeJudge(CodeJudgeConfig(timeout_s=20, **keys))

    async def run() -> list[Judgement]:
        return await asyncio.gather(*(judge.judge(*one) for one in groups))

    return asyncio.run(run())


# --- values --------------------------------------------------------------------------------------

VALUES = [
    None, True, 7, -3.5, "é\n\ud800", 10**20, -(10**5000), [1, [2]], (1,), {1, 2}, frozenset({3}),
    {"a": (1, 2), (1, 2): None}, b"\x00", 1 + 2j, range(3), {}, [], float("inf"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_travel_as_they_are(value):
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value and type(back) is type(value)


def test_subclasses_travel_as_what_they_are_of_and_objects_not_at_all():
    class Word(str):
        pass

    assert type(decode(encode(Word("a")))) is str
    assert list(decode(encode(n * n for n in range(3)))) == [0, 1, 4]
    assert decode(encode(object())) != decode(encode(object()))


@pytest.mark.parametrize(
    "data", [{}, {"tuple": 1}, {"new": []}, {"set": [[1]]}, {"int": 5}, {"a": 1, "b": 2}]
)
def test_what_no_value_says_is_refused(data):
    with pytest.raises((ValueError, TypeError)):
        decode(data)


def test_keys_made_to_collide_are_refused():
    with pytest.raises(ValueError, match="one hash"):
        decode({"set": [{"int": hex(i * (2**61 - 1))} for i in range(5000)]})
    assert len(decode({"set": list(range(5000))})) == 5000
    with pytest.raises(ValueError, match="one hash"):
        colliding = [{"int": hex((2**61 - 1) * i)} for i in range(2000)]
        decode({"set": [*colliding, *range(1, 3000)]})


# --- where the program is ------------------------------------------------------------------------

PROMPT = 'def f(x):\n    """Adds one."""\n'


def ran(answer: str, prompt: str = PROMPT, name: str | None = "f") -> object:
    """What the program that is found makes of 1."""
    space: dict = {}
    exec(chosen(programs(answer, prompt, name), name), space)
    return space["f"](1)


@pytest.mark.parametrize(
    "answer",
    [
        "def f(x): return x + 1",
        "Sure!\n```python\ndef f(x):\n    return x + 1\n```\nIt adds one.",
        "```\ndef f(x): return x + 1\n```\nTry it:\n```python\nprint(f(1))\n```",
        "~~~py\ndef f(x): return 0\n~~~\nNo:\n~~~py\ndef f(x): return x + 1\n~~~",
        "```python\ndef f(x):\n    return x + 1\n",
        "    return x + 1\n",
        "    return x + 1\n\nThis function adds one.",
        "    return x + 1\n\ndef g(:\n",
        "```python\n    return x + 1\n```",
        "```bash\nrm -r /\n```\n```python\nf = lambda x: x + 1\n```",
        "```Python\ndef f(x): return x + 1\n```",
        "1. So:\n   ```python\n   def f(x):\n       return x + 1\n   ```",
        "    return x + 1\n```\n",
        "    return x + 1\n```\nThis adds one.",
    ],
)
def test_a_program_is_found(answer):
    assert ran(answer) == 2


@pytest.mark.parametrize("prompt", ["Write f.\n```python\n", "Write f.\n```py\ny = 1\n"])
@pytest.mark.parametrize(
    "rest", ["", "\n```", "\n```\nThis adds one.", "\n```\nSo:\n```\nf(1)\n```"]
)
def test_a_program_goes_on_in_the_block_that_the_prompt_leaves_open(prompt, rest):
    assert ran("def f(x):\n    return x + 1" + rest, prompt) == 2
    if "y" in prompt.partition("py\n")[2]:
        assert ran("def f(x): return x + y" + rest, prompt) == 2


def test_an_answer_may_begin_a_block_of_its_own_all_the_same():
    stub = "Write f.\n```python\ndef f(x):\n    'adds one'\n"
    assert ran("```python\ndef f(x): return x + 1\n```", stub) == 2


def test_what_says_that_it_is_python_goes_before_what_says_nothing():
    answer = "```python\nprint(6)\n```\nExample output:\n```\n6\n```"
    assert programs(answer, "", None)[0] == "print(6)\n"


def test_a_program_that_is_not_there_says_why():
    with pytest.raises(SyntaxError):
        ran("I cannot say.")
    with pytest.raises(NameError, match="g is not defined"):
        chosen(programs("def f(x): return 1", "Write g.", "g"), "g")


def test_own_asserts_are_taken_out():
    rest, calls = without_asserts("def f(x): return x\nassert f(1) == 1\nassert f(y)\nassert (\n")
    assert rest == "def f(x): return x\n"
    assert [(call.name, call.expected) for call in calls] == [("f", "1")]


# --- where the tests are -------------------------------------------------------------------------


def asserts(*lines: str, **more) -> dict:
    return {"test_list": list(lines), **more}


def test_asserts_that_are_data_are_calls():
    tests = read_tests(
        asserts(
            "assert f(1, b=[2]) == (3,)", "assert not f(2)", "assert f(3) is None", "assert f()"
        ),
        Format.auto,
    )
    assert isinstance(tests, Calls) and tests.name == "f"
    assert [call.relation.value for call in tests.calls] == ["equals", "false", "is", "true"]
    assert json.loads(tests.calls[0].given) == [[1], {"dict": [["b", [2]]]}]
    assert tests.calls[0].expected == '{"tuple": [3]}'


def test_other_asserts_are_code_with_the_functions_that_they_call():
    tests = read_tests(
        asserts(
            "assert isclose(f(1), g(2))", "assert sorted(f(x) for x in [1]) == [2]",
            test_setup_code="from math import isclose",
        ),
        Format.asserts,
    )  # fmt: skip
    assert isinstance(tests, Script)
    assert (tests.names, tests.name, tests.size) == (("f", "g"), None, 2)


def test_inputs_and_functions_of_apps():
    told = {"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", ["7"]]}
    tests = read_tests({"input_output": json.dumps(told)}, Format.auto)
    assert tests == Inputs(("1 2\n", "3\n4"), ("3\n", "7"))
    told = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}
    tests = read_tests({"input_output": told}, Format.stdio)
    assert isinstance(tests, Calls)
    assert tests.calls[1] == Call("add", '[[3, 4], {"dict": []}]', Relation.listed, "7")


@pytest.mark.parametrize(
    "row, format, told",
    [
        ({}, Format.auto, "give one of: test and entry_point; test_list; input_output"),
        ({"test": "def check(c): pass"}, Format.humaneval, "lacks the column 'entry_point'"),
        ({"test": "x = 1", "entry_point": "f"}, Format.auto, "no check(candidate) in 'test'"),
        ({"test": "def", "entry_point": "f"}, Format.auto, "no Python in 'test'"),
        ({"test": 1, "entry_point": "f"}, Format.auto, "no text in 'test' but int"),
        ({}, Format.asserts, "lacks a list of texts in the column 'test_list'"),
        (asserts(), Format.asserts, "an empty list of tests"),
        (asserts("assert 1 + 1 == 2"), Format.asserts, "call no function"),
        ({"input_output": "{"}, Format.auto, "no JSON in 'input_output'"),
        ({"input_output": {"inputs": ["1"]}}, Format.auto, "lists inputs and outputs"),
        ({"input_output": {"inputs": ["1"], "outputs": []}}, Format.auto, "1 inputs but 0"),
    ],
)
def test_a_row_without_tests_says_what_it_lacks(row, format, told):
    with pytest.raises(Unreadable, match=re.escape(told)):
        read_tests(row, format)


def test_prompts_without_tests_are_told_before_a_run():
    good = group("?", asserts("assert f(1) == 2")).prompt
    config = CodeJudgeConfig()
    config.inspect_prompts([good])
    with pytest.raises(InputError, match=r"2 have no tests.*none of a file's.*use data=files"):
        config.inspect_prompts([good, group("?", None).prompt, group("?", None).prompt])
    CodeJudgeConfig(tests=Format.answers).inspect_prompts([group("?", None).prompt])


# --- judgements ----------------------------------------------------------------------------------

ADD = asserts("assert f(1) == 2", "assert f(2) == 3", "assert f(-1) == 0")
TEXTS = ("def f(x): return x + 1", "def f(x): return abs(x) + 1", "def f(x): return", "def f(x: 1")


def test_all_and_shares_with_reasons():
    found = judged("?", ADD, *TEXTS)
    assert found.scores == (1, 0, 0, 0)
    assert found.parts == {"tests_passed": (1, 2 / 3, 0, 0)}
    assert found.reasons[:3] == ("", "test 3: gave 2, not 0", "test 1: gave None, not 2")
    assert found.reasons[3].startswith("SyntaxError: ")
    assert judged("?", ADD, *TEXTS, score=Score.share).scores == (1, 2 / 3, 0, 0)


def test_tests_as_code_tell_which_of_them_hold():
    row = asserts(
        "assert abs(f(1) - 2) < 1e-9", "for x in (2, -1):\n    assert f(x) == x + 1",
        "try:\n    f('a')\nexcept TypeError:\n    pass",
    )  # fmt: skip
    found = judged("?", row, *TEXTS, "def f(x): return x + 1 if x > 0 else 1 / 0")
    assert found.parts == {"tests_passed": (1, 0.5, 0, 0, 0.5)}
    assert found.reasons[4] == "test 2: ZeroDivisionError: division by zero"


def test_objects_handed_back_by_tests_are_the_program_s_fault():
    """Else what is wrong could choose to be missing instead."""
    row = {"test_list": ["assert dec(enc('a')) == 'a'"]}
    found = judged(
        "?",
        row,
        "class X: pass\ndef enc(s): return X()\ndef dec(x): return 'a'",
        "def enc(s): return [s]\ndef dec(x): return x[0]",
    )
    assert found.scores == (0.0, 1.0)
    assert "is given what the program gave, which is no data" in found.reasons[0]


def test_the_prompt_goes_before_a_program():
    question = "import math\ndef half(x): return x / 2\n\ndef f(x):\n    '''Half of x, up.'''\n"
    row = {
        "prompt": question,
        "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate(3) == 2",
    }
    fenced = "```python\ndef f(x): return math.ceil(half(x))\n```"
    found = judged(question, row, "    return math.ceil(half(x))", fenced, "    return half(x)")
    assert found.scores == (1, 1, 0)


def test_whole_programs_read_and_print():
    row = {"input_output": {"inputs": ["1 2\n", "3 4"], "outputs": ["3", "7\n"]}}
    texts = (
        "print(sum(map(int, input().split())))",
        "import sys\nfor line in sys.stdin: print(sum(map(int, line.split())), ' ')\nsys.exit()",
        "import os\nos.write(1, str(sum(map(int, os.read(0, 99).split()))).encode())",
        "import threading\ndef run(): print(eval(input().replace(' ', '+')))\n"
        "threading.Thread(target=run).start()",
        "import atexit\na, b = map(int, open(0).read().split())\natexit.register(print, a + b)",
        "print(3)",
        "print(int(input()))",
        "raise SystemExit(1)",
        "print(sum(map(int, input().split())))\nexit()",
        "print(sum(map(int, input().split())))\nquit(0)\nprint(1)",
        "exit(1)",
    )
    found = judged("?", row, *texts)
    assert found.scores == (1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0)
    assert found.parts["tests_passed"][5] == 0.5
    assert found.reasons[5] == "test 2: printed '3\\n', not '7'"
    assert found.reasons[6].startswith("test 1: ValueError: invalid literal")


def test_functions_of_apps_may_be_methods_and_give_tuples():
    row = {
        "input_output": {"fn_name": "pair", "inputs": [[1], [2]], "outputs": [[[1, 1]], [[2, 2]]]}
    }
    text = "class Solution:\n    def pair(self, x): return (x, x)"
    assert judged("?", row, text, "def pair(x): return [x]").scores == (1, 0)


def test_functions_of_apps_have_what_their_sites_give_them():
    told = {
        "fn_name": "count",
        "inputs": [[["a", "b", "a"]]],
        "outputs": [[{"a": [2, 0], "b": [1, 0]}]],
    }
    text = (
        "class Solution:\n    def count(self, words: List[str]) -> Dict[str, tuple]:\n"
        "        return {w: (n, 0) for w, n in Counter(words).items()}"
    )
    assert judged("?", {"input_output": told}, text, text.replace("n, 0", "n, 1")).scores == (1, 0)


def test_answers_test_each_other():
    answers = (
        "def f(x): return x + 1\nassert f(1) == 2\nassert f(2) == 3",
        "def f(x): return x + 1\nassert f(-1) == 0",
        "def f(x): return abs(x) + 1\nassert f(-1) == 2\nassert True",
        "def f(x): return x\nassert f(1) == 1",
    )
    keys = {"tests": Format.answers}
    found = judged("?", None, *answers, **keys, score=Score.share)
    assert found.scores == (0.6, 0.6, 0.6, 0.2)
    found = judged("?", None, *answers, **keys, score=Score.b4)
    assert found.scores[0] == found.scores[1] > max(found.scores[2:])
    assert (
        judged("?", None, "def f(x): return 1", "", **keys).reasons == ("no answer has a test",) * 2
    )


def test_what_begins_an_answer_is_part_of_the_program():
    one = group("?", ADD, "x + 1", "x")
    prompt = Prompt("one", one.prompt.messages, (1, 2), prefix="def f(x): return ", row=ADD)
    assert judged_together([Group(prompt, one.completions)])[0].scores == (1, 0)


async def test_a_program_is_run_once_for_the_same_tests(monkeypatch):
    run, runs = Runner.run, []

    async def counted(runner, texts, tests):
        runs.append(texts[0])
        return await run(runner, texts, tests)

    monkeypatch.setattr(Runner, "run", counted)
    judge = CodeJudge(CodeJudgeConfig())
    one, other = group("?", ADD, *TEXTS[:2], TEXTS[0]), group("?", ADD, *TEXTS[:3])
    first, same = await asyncio.gather(judge.judge(*one), judge.judge(*one))
    assert first.scores == same.scores == (1, 0, 1)
    assert (await judge.judge(*other)).scores == (1, 0, 0)
    assert runs == list(TEXTS[:3])
    endless = group("?", ADD, "def f(x):\n    while True: pass")
    hasty = CodeJudge(CodeJudgeConfig(timeout_s=0.1))
    for _ in range(2):
        assert (await hasty.judge(*endless)).reasons == ("test 1: timed out",)
    assert len(runs) == 5


def test_a_fault_of_ours_is_no_score():
    lost, broken = judged_together(
        [
            group("?", {"test_list": None}, TEXTS[0]),
            group("?", asserts("assert f(nothing) == 2"), TEXTS[0]),
        ]
    )
    assert lost.scores == broken.scores == (None,)
    assert broken.failed == (True,) and broken.parts == {"tests_passed": (None,)}
    assert "NameError: name 'nothing' is not defined" in broken.reasons[0]
    # A right program and a wrong one make no pair where nobody can tell them apart.
    prompt, completions = group("?", asserts("assert f(nothing) == 2"), TEXTS[0], "def f(x): 1")
    (found,) = judged_together([Group(prompt, completions)])
    pairs, dropped = pair(prompt, completions, found, OnlineDPOConfig(), 1)
    assert pairs == () and [one.reason for one in dropped[:2]] == [DropReason.JUDGE_FAILED] * 2


async def test_a_machine_that_is_short_of_something_gives_no_score(monkeypatch):
    async def short(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("rlhf.judges.programs.running.run_python", short)
    found = await CodeJudge(CodeJudgeConfig()).judge(*group("?", ADD, TEXTS[0]))
    assert found.scores == (None,) and "Too many open files" in found.reasons[0]


async def test_a_worker_builds_it_where_a_loop_runs():
    judge = CodeJudgeConfig().build()
    assert (await judge.judge(*group("?", ADD, TEXTS[0]))).scores == (1,)


@pytest.mark.parametrize(
    "keys, outcomes, measure",
    [
        ({}, True, Measure.accuracy),
        ({"score": Score.share}, False, Measure.accuracy),
        ({"score": Score.b4}, False, Measure.score),
        ({"tests": Format.answers}, False, Measure.score),
    ],
)
def test_which_scores_are_outcomes(keys, outcomes, measure):
    config = CodeJudgeConfig(**keys)
    assert (Fact.outcomes in config.gives()) is outcomes
    assert config.measure is measure


# --- the real thing ------------------------------------------------------------------------------


def broken(solution: str) -> str:
    """With something else returned; what it returned is still computed."""
    return re.sub(r"\breturn\b(.*)", r"return [(\1), 'else']", solution)


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.thorough)])
def test_humaneval_references_pass_and_fail_with_another_return(humaneval, step):
    with gzip.open(humaneval, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][::step]
    judgements = judged_together(
        [
            group(row["prompt"], row, row["canonical_solution"], broken(row["canonical_solution"]))
            for row in rows
        ]
    )
    found = {row["task_id"]: j.scores for row, j in zip(rows, judgements, strict=True)}
    assert {task: scores for task, scores in found.items() if scores != (1, 0)} == {}


# --- tests that the policy writes ----------------------------------------------------------------


class Policy:
    """`Writer` that answers the same whatever it is asked, and remembers that."""

    def __init__(self, *texts: str, truncated: bool = False) -> None:
        self._texts, self._truncated = texts, truncated
        self.asked: list[tuple] = []

    async def write(self, id: str, question: str, num: int, seed: int):
        self.asked.append((id, question, num, seed))
        if not self._texts:
            return "the policy cannot be asked"
        return tuple(
            Completion(id, i, (1,), (0.0,), text, self._truncated, 0)
            for i, text in enumerate(self._texts)
        )


class Says:
    """A judge that has one verdict."""

    def __init__(self, verdict: Judgement) -> None:
        self.verdict = verdict

    async def judge(self, prompt: Prompt, completions) -> Judgement:
        return self.verdict


def judged_by_written(policy: Policy, one: Group, **keys) -> Judgement:
    config = CodeJudgeConfig(timeout_s=20, tests=Format.written, **keys)
    judge = config.with_policy(CodeJudge(config), lambda: policy, seed=5)
    found = asyncio.run(judge.judge(*one))
    assert isinstance(found, Judgement)
    return found


WRITTEN_TESTS = (
    "Sure:\n```python\nassert f(1) == 2\nassert f(-1) == 0\n```",
    "assert f(1) == 2\nassert f(2) == 3\nassert g(1) == 1\nassert open('x')\nimport os",
)


def test_programs_are_judged_by_what_the_policy_writes_when_it_is_asked():
    policy = Policy(*WRITTEN_TESTS)
    # A program's own tests are no tests here, and do not fail it.
    one = group("Add {one}.", {"entry_point": "f"}, *TEXTS[:3], f"{TEXTS[0]}\nassert f(1) == 9")
    found = judged_by_written(policy, one, score=Score.share)
    assert found.scores == pytest.approx((1, 2 / 3, 0, 1))
    assert found.num_written_tokens == 2
    beside = PanelConfig(members={"code": CodeJudgeConfig(), "length": TextJudgeConfig()}).over(
        {"code": Says(found), "length": Says(Judgement((1.0,) * 4, "text@1"))}
    )
    assert asyncio.run(beside.judge(*one)).num_written_tokens == 2
    ((id, question, num, seed),) = policy.asked
    assert (id, num, seed) == ("one", 4, 5) and "\nAdd {one}.\n" in question
    ranked = judged_by_written(policy, one, score=Score.codedpo)
    assert ranked.scores[0] == ranked.scores[3] > ranked.scores[1] > ranked.scores[2]


def test_a_test_that_the_token_limit_has_cut_is_none():
    one = group("?", None, *TEXTS[:2])
    cut = "assert f(1) == 2\nassert f(-1) == 0\nassert f(9) == 1"
    found = judged_by_written(Policy(cut, truncated=True), one, score=Score.share)
    assert found.scores == (1, 0.5)


def test_where_the_policy_writes_none_or_cannot_be_asked():
    one = group("?", None, *TEXTS[:2])
    found = judged_by_written(Policy("def f(x): return x"), one)
    assert (found.scores, found.reasons) == ((0, 0), ("the policy wrote no test",) * 2)
    failed = judged_by_written(Policy(), one)
    assert (failed.scores, failed.reasons) == ((None,) * 2, ("the policy cannot be asked",) * 2)


def test_its_question_may_be_one_of_yours(tmp_path):
    (tmp_path / "q.txt").write_text("Tests of: {prompt}!")
    policy, one = Policy("assert f(1) == 2"), group("Add.", None, TEXTS[0])
    path = str(tmp_path / "q.txt")
    assert judged_by_written(policy, one, test_question=path, num_written=2).scores == (1,)
    assert policy.asked[0][1:3] == ("Tests of: Add.!", 2)
    (told,) = CodeJudgeConfig(test_question=path).problems()
    assert told.endswith("is asked with judge.tests=written only; remove it")
    for text, why in (("Tests!", "has no {prompt}"), (None, "cannot be read")):
        (tmp_path / "q.txt").unlink()
        if text is not None:
            (tmp_path / "q.txt").write_text(text)
        with pytest.raises(InputError, match=why):
            CodeJudgeConfig(tests=Format.written, test_question=path).inspect(set())
        (tmp_path / "q.txt").touch()


def test_with_other_tests_nobody_asks_the_policy():
    config = CodeJudgeConfig(tests=Format.answers)
    judge = CodeJudge(config)
    assert config.with_policy(judge, lambda: pytest.fail("it was asked"), 1) is judge
    assert Fact.outcomes not in CodeJudgeConfig(tests=Format.written).gives()
    CodeJudgeConfig(tests=Format.written).inspect_prompts([group("?", None).prompt])

"""What counts as the right answer, and that no completion can hang or crash the verifier."""

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from verifier_pairs import KINDS

from rlhf.judges.groups import Group
from rlhf.judges.mathematics import process as process_module
from rlhf.judges.mathematics.answers import final_answer
from rlhf.judges.mathematics.process import MathProcess
from rlhf.judges.mathematics.tidying import MATH_NAMES
from rlhf.judges.reward_model import RewardModelConfig
from rlhf.judges.verifier import Check, VerifierConfig, integer_score
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt

GSM8K = Path(__file__).parents[3].parent / "shared" / "data" / "gsm8k" / "test.jsonl"
DOCS = Path(__file__).parents[3] / "docs" / "models_and_data.md"


def prompt(id: str, answer: str | None) -> Prompt:
    return Prompt(id, (Message("user", "?"),), (1,), answer)


def group(id: str, answer: str | None, *texts: str) -> Group:
    completions = [Completion(id, i, (1,), (0.0,), text, False, 0) for i, text in enumerate(texts)]
    return Group(prompt(id, answer), tuple(completions))


@pytest.fixture(scope="module")
def math():
    process = MathProcess()
    yield process
    process.close()


@pytest.mark.parametrize("check", [Check.integer, Check.last_line])
def test_answers_that_it_cannot_read_are_refused_before_a_run(check):
    config = VerifierConfig(check=check, max_failure_rate=0.25)
    few = [prompt("a", "forty"), *(prompt(str(n), str(n)) for n in range(3))]
    config.inspect_prompts(few)
    told = (
        rf"^judge.check={check.value}: of 5 prompts 2 have an answer that is no integer, such as "
        "'forty' of a, and .*; set judge.check=math"
    )
    with pytest.raises(InputError, match=told):
        config.inspect_prompts([*few, prompt("b", None)])
    VerifierConfig(check=Check.math).inspect_prompts([prompt("a", "forty")])
    (judgement,) = config.build().judge([group("a", "forty", "40", "forty")])
    assert judgement.scores == (None, None)
    assert judgement.reasons == ("cannot be compared with the answer 'forty'",) * 2
    (judgement,) = config.build().judge([group("a", "40", "40", "forty")])
    assert judgement.scores == (1.0, 0.0) and judgement.reasons == ()


# --- integers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["46", " 46\n", "+46", "046", "\t0046"])
def test_integer_accepts_one_equal_integer(text):
    assert integer_score("46", text) == 1.0


@pytest.mark.parametrize(
    "text",
    ["", " ", "47", "-46", "4 6", "46.", "46.0", "4_6", "46=46", "٤٦", "\uff14\uff16", "0x2e"],
)
def test_integer_rejects_all_else(text):
    assert integer_score("46", text) == 0.0


def test_integer_zero_has_no_sign():
    assert integer_score("0", "-0") == integer_score("-0", "000") == 1.0


def test_integer_cannot_judge_by_an_answer_that_is_none():
    assert integer_score("3.5", "3.5") is None


@given(st.integers(), st.integers(), st.integers(0, 9))
def test_integer_compares_values(expected, given_, zeros):
    text = re.sub(r"(\d+)", "0" * zeros + r"\1", str(given_))
    assert integer_score(str(expected), text) == float(expected == given_)


@pytest.mark.timeout(10)
def test_integer_takes_megabytes_in_its_stride():
    million = 10**6
    assert integer_score("9" * million, "9" * million) == 1.0
    assert integer_score("18", "0" * million + "18") == 1.0
    assert integer_score("18", "0" * million + "x") == 0.0


def test_judgements_follow_groups_and_completions():
    judge = VerifierConfig().build()
    first, second, third = judge.judge(
        [group("a", "46", "45", "46"), group("b", "7", "7"), group("c", None, "7")]
    )
    assert first.scores == (0.0, 1.0)
    assert second.scores == (1.0,)
    assert third.scores == (None,)
    assert {first.judge, second.judge, third.judge} == {"verifier/integer@1"}


def test_verifiers_need_answers_and_reward_models_do_not():
    assert Fact.answers in VerifierConfig().needs()
    assert Fact.answers not in RewardModelConfig(path="x").needs()


# --- mathematics: where the answer is ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\n#### 7", ("7", True)),
        ("#### 5\nno: #### 7\nQuestion: 9", ("7", True)),
        (r"so \boxed{\frac{1}{2}}, not 3", (r"\frac{1}{2}", True)),
        (r"#### 5 or \boxed{7}", ("7", True)),
        (r"\boxed{5} or #### 7", ("7", True)),
        ("#### Step 3\nIt is 7.", ("#### Step 3\nIt is 7.", False)),
        ("#### 2. Sum\nIt is 7.", ("#### 2. Sum\nIt is 7.", False)),
        ("It is 7.", ("It is 7.", False)),
        (r"\boxed{7", ("7", True)),
        ("", None),
        ("  \n", None),
        (r"\boxed{}", None),
        ("#### " + "7" * 1001, None),
        ("7" * 1001, None),
    ],
)
def test_final_answer(text, answer):
    assert final_answer(text) == answer


def test_a_long_text_is_cut_between_words():
    found = final_answer("1" + "0" * 2000 + " so 18")
    assert found == ("so 18", False)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", ["#", "#### ", "#### 1", r"\boxed{", "{", "1,", "\t", "#### \n"])
def test_final_answer_is_quick_on_megabytes(piece):
    final_answer(piece * (10**6 // len(piece)))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### [0, 1)", "[0, 1)"),
        ("#### x+1", "x+1"),
        ("#### True", "True"),
        ("#### A", "A"),
        ("#### Answer: 7", "7"),
        (r"\boxed {7}", "7"),
        ("<answer>7</answer> 8", "7"),
        ("<answer>7", "7"),
    ],
)
def test_what_is_marked_need_not_be_a_number(text, answer):
    assert final_answer(text) == (answer, True)


# --- mathematics: what is equal ------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_pairs_are_judged_by_the_rule_of_their_kind(math, kind):
    wrong = [pair for pair in kind.right if math.score(*pair) != 1.0]
    right = [pair for pair in kind.wrong if math.score(*pair) != 0.0]
    assert (wrong, right) == ([], []), kind.rule


def test_of_each_kind_as_many_pairs_are_right_as_wrong():
    assert [kind.name for kind in KINDS if len(kind.right) != len(kind.wrong)] == []
    assert all(len(set(kind.right + kind.wrong)) == 2 * len(kind.right) for kind in KINDS)


def test_every_rule_is_in_the_documentation():
    page = " ".join(DOCS.read_text(encoding="utf-8").split())
    assert [kind.name for kind in KINDS if kind.rule not in page] == []


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("18", "#### 18"),
        ("18", "9 * 2 = <<9*2=18>>18 dollars\n#### $18."),
        ("18", "The answer is 18."),
        ("18", "first 3, then 18"),
        ("18", "#### 18 eggs per day"),
        ("18", "#### 18.00"),
        ("18", "#### +18"),
        ("18", "#### 18%"),
        ("18", r"\boxed{18\%}"),
        ("18", r"It is \boxed{18 \text{ dollars}}."),
        ("18", r"\boxed{x = 18}"),
        ("18", r"#### \(18\)"),
        ("18", r"\boxed{(3+\sqrt{9})^{2}/2}"),
        ("12.5", "#### 12.5%"),
        ("12.5%", "#### 0.125"),
        ("70000", "#### 70,000"),
        ("70000", r"\boxed{\$70,000}"),
        ("70,000", "It costs $70,000."),
        ("1000000", "#### 1,000,000"),
        ("-5", "#### -5"),
        ("-5", "#### −5"),
        ("1/2", r"\boxed{\frac{1}{2}}"),
        ("1/2", "#### 0.5"),
        ("x^2+1", r"\boxed{1+x^2}"),
        ("9 * 2 = 18\n#### 18", "#### 18"),
        (r"It is $9 \cdot 2 = \boxed{18}$.", "#### 18"),
    ],
)
def test_math_accepts(math, answer, text):
    assert math.score(answer, text) == 1.0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("18", ""),
        ("18", "I do not know."),
        ("18", "#### 17"),
        ("18", "#### -18"),
        ("18", "#### 1.8"),
        ("18", "#### 180"),
        ("18", "18 at first, but then 17"),
        ("5", "#### −5"),
        ("1.2", "#### 1,2,3"),
        ("70", "#### 70,000"),
        ("x^2+1", r"\boxed{x^2}"),
        ("18", r"\boxed{1/0}"),
        ("18", r"\boxed{\text{nan}}"),
        ("18", r"\boxed{\infty}"),
        ("18", "\x00\ud800#### \ud800"),
    ],
)
def test_math_rejects(math, answer, text):
    assert math.score(answer, text) == 0.0


@pytest.mark.parametrize("answer", ["#", "", "?!"])
def test_math_cannot_judge_by_an_answer_that_it_cannot_read(math, answer):
    assert math.score(answer, "18") is None


@given(
    number=st.fractions(-1000, 1000, max_denominator=50).filter(lambda it: it.denominator > 1),
    digits=st.integers(1, 30),
)
def test_math_rounds_nothing(math, number, digits):
    decimal = f"{float(number):.{digits}f}"
    answer = rf"\frac{{{number.numerator}}}{{{number.denominator}}}"
    assert math.score(answer, f"#### {number}") == 1.0
    assert math.score(answer, f"#### {decimal}") == float(Fraction(decimal) == number)


@given(
    number=st.integers(0, 10**6),
    begins=st.sampled_from(["tan", "cos", "exp", "log", "sin", "arc", "sqrt", "pi"]),
    ends=st.from_regex("[a-z]{1,8}", fullmatch=True),
)
def test_a_unit_is_not_told_by_its_first_letters(math, number, begins, ends):
    assume(begins + ends not in MATH_NAMES)
    assert math.score(str(number), f"#### {number} {begins}{ends}") == 1.0


@given(st.text(max_size=60), st.sampled_from(["18", "x+1", "B", "Paris", "[0,1)", "1, 2"]))
def test_any_text_is_right_or_wrong(math, text, answer):
    assert math.score(answer, text) in (0.0, 1.0)
    assert math.score(answer, rf"\boxed{{{text}}}") in (0.0, 1.0)


@given(number=st.integers(-(10**12), 10**12), delta=st.integers(1, 10**6))
def test_math_compares_values_however_written(math, number, delta):
    for text in (f"#### {number:,}", rf"\boxed{{{number}}}", f"The answer is {number}."):
        assert math.score(str(number), text) == 1.0
        assert math.score(str(number + delta), text) == 0.0


@pytest.mark.timeout(120)
def test_a_hostile_completion_is_wrong_and_its_neighbours_are_judged():
    texts = ("9**9**9", "#### 18", "#### 17", r"\boxed{(10^9)!}")
    judge = VerifierConfig(check=Check.math).build()
    try:
        # As in an actor, whose methods need not run in the main thread.
        with ThreadPoolExecutor(1) as thread:
            judged = thread.submit(judge.judge, [group("a", "18", *texts)])
            assert judged.result()[0].scores == (0.0, 1.0, 0.0, 0.0)
    finally:
        judge.close()


@pytest.mark.timeout(60)
def test_megabytes_are_wrong_at_once(math):
    begin = time.monotonic()
    for text in ("1" * 10**6, "#### " + "9" * 10**6, r"\boxed{" * 10**5, "(" * 10**6):
        assert math.score("18", text) == 0.0
    assert time.monotonic() - begin < 20


@pytest.mark.timeout(120)
@pytest.mark.parametrize("answer", ["18", r"\pi", "x", "1, 2", "B", "Paris"])
@pytest.mark.parametrize(
    "part",
    [
        "9^9^9^9",
        "1e999999999",
        "9" * 100_000,
        "9" * 900,
        "9" * 190 + " cubed",
        "9" * 100 + "e999",
        "(" * 400 + "1" + ")" * 400,
        r"\frac{1}{" * 90 + "1" + "}" * 90,
        "{" * 400 + "1" + "}" * 400,
        r"\{" * 300,
        "1," * 400,
        "=" * 900,
        r"\text{" * 150,
    ],
)
def test_hostile_answers_are_wrong(math, answer, part):
    for text in (part, f"#### {part}", rf"\boxed{{{part}}}", f"<answer>{part}", f"answer: {part}"):
        assert math.score(answer, text) == 0.0


@pytest.mark.timeout(120)
def test_a_reference_that_takes_too_long_gives_no_score(math):
    assert math.score("|x" * 40, "#### y+1") is None
    assert math.score("x+1", "#### 1+x") == 1.0


@pytest.mark.timeout(60)
def test_the_verifiers_own_failure_is_no_score(monkeypatch):
    process = MathProcess()
    try:
        monkeypatch.setattr(process_module, "DEADLINE_S", 0.2)
        os.kill(process._child.pid, signal.SIGSTOP)
        assert process.score("x+1", "#### 1+x") is None
        monkeypatch.undo()
        assert process.score("x+1", "#### 1+x") == 1.0
    finally:
        process.close()


@pytest.mark.timeout(60)
def test_the_child_ends_with_its_parent():
    process = MathProcess()
    process._pipe.close()
    assert process._child.wait(timeout=30) == 0


def test_gsm8k_references_are_accepted_and_changed_ones_rejected(math):
    if not GSM8K.exists():
        assert "CI" not in os.environ, f"CI must run this, and {GSM8K} is absent"
        pytest.skip(f"{GSM8K} is absent")
    rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 1319
    refused, accepted = [], []
    for row in rows:
        solution = row["answer"]
        steps, _, written = solution.rpartition("#### ")
        answer = written.replace(",", "")
        changed = f"{steps}#### {int(answer) + 1}"
        if math.score(answer, solution) != 1.0:
            refused.append(solution)
        if math.score(answer, changed) != 0.0:
            accepted.append(changed)
    assert (refused, accepted) == ([], [])

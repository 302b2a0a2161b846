"""Judges that write and read again: what they see when, votes, tools, and what is missing."""

from collections.abc import Callable, Sequence

import pytest
from authors import PROMPT, Author, better, completions
from chat_server import said

from rlhf.collecting.matching import Matching, match
from rlhf.judges.deliberation import Deliberation, DeliberationConfig
from rlhf.judges.questions.choosing import Remembering, Writing
from rlhf.judges.questions.template import LABELS
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Comparison, DropReason, Judgement, Prompt
from rlhf.tools.calculator import CalculatorConfig
from rlhf.tools.function import FunctionToolConfig
from rlhf.tools.python import PythonConfig

REFERENCE = {"own_answer": "Answer it.", "critique": "Criticise both."}


def made(author: Author, clean: Callable[[str], str] = str, **given) -> Deliberation:
    return DeliberationConfig(**given).judge_by(Remembering(author), "m", clean)


async def test_its_own_answer_comes_first_unseen_and_once_and_a_critique_for_each_order():
    author = Author(better("4", "5", "6"), lambda q, w: "four" if "Answer it." in q else "fine")
    judge = made(author, notes=REFERENCE, blind=["own_answer"])
    found = await judge.judge(PROMPT, completions("5", "4", "6", "4"))
    assert isinstance(found, Comparison)
    assert found.win_prob[0] == (0.5, 0.0, 1.0, 0.0)
    assert found.win_prob[1] == (1.0, 0.5, 1.0, 0.5)
    assert found.order_disagreement == 0
    own, *critiques = author.written
    assert len(critiques) == 6 and not any("Answer it." in one for one in critiques)
    assert "=== Answer" not in own and "What is 2 + 2?" in own
    assert all("=== own answer ===\nfour\n" in one for one in critiques)
    assert all("=== critique ===\nfine\n\n=== End ===" in one for one in author.chosen)
    assert found.reasons[0] == "[own answer] four\n\n[critique] fine"


async def test_rounds_see_all_that_was_said_before():
    author = Author(lambda q: (0.8, 0.2), lambda q, w: f"said {q.count('===') // 2}")
    await made(author, notes={"for_A": "A!", "for_B": "B!"}, rounds=2).judge(
        PROMPT, completions("x", "y")
    )
    last = max(author.chosen, key=len)
    names = [line for line in last.split("\n") if line.startswith("=== for")]
    assert names == [f"=== for {s}, round {r} ===" for r in (1, 2) for s in "AB"]
    assert len(author.written) == 2 * 4


async def test_who_always_takes_the_first_prefers_nothing():
    found = await made(Author(lambda q: (1.0, 0.0))).judge(PROMPT, completions("x", "y"))
    assert found.win_prob == ((0.5, 0.5), (0.5, 0.5)) and found.order_disagreement == 1


async def test_votes_are_written_anew_and_their_order_does_not_matter():
    """Of four votes three for x, whatever stands first; with two and two, nobody wins."""

    def verdicts(told: Sequence[str]) -> tuple[Author, dict[int, str]]:
        by_seed: dict[int, str] = {}

        def write(question: str, writing: Writing) -> str:
            fresh = told[len(by_seed) % len(told)]
            return by_seed.setdefault(writing.seed, fresh)

        def choice(question: str) -> tuple[float, float]:
            likes = question.split("=== thought ===\n")[1][0]
            first = question.split("=== Answer A ===\n")[1][0] == likes
            return (1.0, 0.0) if first else (0.0, 1.0)

        return Author(choice, write), by_seed

    found = []
    for told in ("xxxy", "yxxx", "xyxx", "xxyy"):
        author, seeds = verdicts(told)
        judge = made(author, notes={"thought": "Think."}, blind=["thought"], votes=4)
        found.append((await judge.judge(PROMPT, completions("x", "y"))).win_prob[0][1])
        assert len(seeds) == 4
    assert found == [0.75, 0.75, 0.75, 0.5]
    # Votes that are even make no pair.
    group = completions("x", "y")
    even = await judge.judge(PROMPT, group)
    assert isinstance(even, Comparison)
    kept, (dropped,) = match(PROMPT, group, even, Matching(), learns_from_ties=False, seed=1)
    assert kept == () and dropped.reason is DropReason.TIE


async def test_with_a_scale_each_answer_is_rated_alone():
    digits = {"x": (0.1, 0.2, 0.4, 0.2, 0.1), "y": (0.0, 0.0, 0.0, 1.0, 0.0)}
    author = Author(lambda q: digits[q.split("=== Answer ===\n")[1][0]])
    found = await made(author, notes={"check": "Check."}, scale=5).judge(
        PROMPT, completions("x", "y", "x")
    )
    assert isinstance(found, Judgement) and found.scores == pytest.approx((3.0, 4.0, 3.0))
    assert len(author.written) == 2
    assert "Rate the answer from 1, not at all, to 5, fully." in author.chosen[0]
    assert DeliberationConfig(scale=5).gives() == {Fact.verdicts}


async def test_what_is_not_written_or_not_decided_is_missing_and_no_tie():
    unwritten = Author(lambda q: (0.9, 0.1), lambda q, w: None if "A ===\ny" in q else "noted")
    found = await made(unwritten, notes={"critique": "!"}).judge(PROMPT, completions("x", "y"))
    assert found.failed == (True,)
    assert found.reasons[1] == "no critique was written"
    silent = Author(lambda q: None)
    found = await made(silent, notes={"critique": "!"}).judge(PROMPT, completions("x", "y"))
    assert found.failed == (True,)
    assert found.reasons[0] == "no verdict after [critique] noted"


async def test_a_begun_answer_is_judged_whole_and_nothing_ends_a_turn():
    prompt = Prompt("p", PROMPT.messages, (1,), prefix="be")
    author = Author(lambda q: (0.5, 0.5), lambda q, w: "so <end> it is")
    judge = made(author, lambda text: text.replace("<end>", "< end>"), notes={"a": "!"})
    await judge.judge(prompt, completions("gin", "<end>"))
    assert any("=== Answer A ===\nbegin\n" in one for one in author.written)
    assert not any("<end>" in one for one in (*author.written, *author.chosen))


async def test_a_tool_is_told_of_and_handed_to_who_writes():
    seen: list[Writing] = []
    author = Author(lambda q: (0.0, 1.0), lambda q, w: seen.append(w) or "noted")
    judge = made(author, notes={"check": "!"}, scale=2, tools=CalculatorConfig(), note_tokens=64)
    await judge.judge(PROMPT, completions("x"))
    (writing,) = seen
    assert writing.max_tokens == 64 and writing.instrument is not None
    assert await writing.instrument.reply("12*3") == "36>>"
    assert "use the tool calculator, as often as you need: write <<INPUT= with" in author.written[0]
    assert "at most 38 words" in author.written[0]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"blind": ["x"], "notes": REFERENCE},
         "judge.blind=x: is none of judge.notes; there are own_answer, critique"),
        ({"notes": {"x": " "}}, "judge.notes.x: is empty"),
        ({"tools": CalculatorConfig(closes="")}, "judge.tools.closes: is empty"),
        ({"endpoint": None}, "judge.path, judge.endpoint: one is required"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(keys, told):
    where = {"endpoint": "http://judge:8000/v1", "model": "m"}
    (problem,) = DeliberationConfig(**(where | keys)).problems()
    assert problem.startswith(told)


def test_a_server_is_tried_and_a_tool_s_own_key_told(server):
    server.replies = [said("A")]
    config = DeliberationConfig(endpoint=server.url, model="m", notes=REFERENCE)
    config.inspect(set())
    assert "What is 1 + 1?" in server.asked[0][2]["messages"][0]["content"]
    config.tools = FunctionToolConfig(function="absent.py:use")
    with pytest.raises(InputError, match=r"^judge\.tools\.function=absent\.py:use: "):
        config.inspect(set())


def test_tools_need_the_sandbox_only_where_code_runs():
    DeliberationConfig(path="m", tools=CalculatorConfig()).inspect(set())
    DeliberationConfig(path="m", tools=PythonConfig(allow_unsafe=True)).inspect(set())


async def test_python_is_called_in_the_sandbox():
    instrument = PythonConfig(allow_unsafe=True).instrument()
    called = instrument.called("Let me see.\n```python\nprint(6 * 7)\n```\nSo")
    assert called is not None and called[1] == "print(6 * 7)"
    assert await instrument.reply(called[1]) == "```output\n42\n\n```\n"


def test_what_it_gives_and_how_it_answers():
    compares, rates = DeliberationConfig(path="m"), DeliberationConfig(path="m", scale=3)
    assert compares.gives() == {Fact.verdicts, Fact.matrix, Fact.arguments}
    assert (tuple(compares.labels), rates.labels) == (LABELS, ["1", "2", "3"])
    assert compares.trivial.endswith("A or B, and nothing else.\n")
    assert "=== Answer ===\n2\n" in rates.trivial
    assert compares.writes == 512

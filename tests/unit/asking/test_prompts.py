"""Prompts: rendered once, told apart, and asked once per epoch; every fault of a file is told."""

import asyncio
import json
import os
import pickle
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from rlhf.asking.prompts import PromptSchedule, load_data
from rlhf.asking.sources.arithmetic import ArithmeticConfig
from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.files import FilesConfig
from rlhf.config.data import Overlong
from rlhf.config.models import Rendering, Vocabulary
from rlhf.data.rendering import Renderer
from rlhf.problems import InputError
from rlhf.records import Message, Prompt, Tokens
from rlhf.tools.syntax import ToolsConfig
from rlhf.toys.tiny import build_tokenizer

GSM8K = Path(__file__).parents[3].parent / "shared" / "data" / "gsm8k"
CHAT = (
    "<pad>{% for m in messages %}{{ m['role'] }}:{{ m['content'] }};{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
    "{% if messages[0]['content'] == 'refuse' %}{{ raise_exception('not this') }}{% endif %}"
)


def question(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def tokenizer(template: str | None = None, special: str | None = None):
    """Bytes; `special` is what the tokenizer adds around a text, where `$A` stands for it."""
    made = build_tokenizer(Vocabulary.bytes)
    made.split_special_tokens = False
    made.chat_template = template
    if special:
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single=special, special_tokens=[("<pad>", 0), ("<eos>", 1)]
        )
    return made


@pytest.fixture(scope="module")
def renderer():
    return Renderer(tokenizer(), Rendering.auto)


def load(config, renderer, **changes):
    limits = {"max_prompt_tokens": 1024, "max_completion_tokens": 1024}
    rest = {**limits, "wanted": Wanted(answers=True), "tools": ToolsConfig(), "seed": 1}
    return load_data(config, renderer, **{**rest, **changes})


def refusal(config, renderer, **changes) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(config, renderer, **changes)
    return caught.value.problems


def test_an_input_error_survives_its_way_between_processes():
    error = pickle.loads(pickle.dumps(InputError(["one", "two"])))
    assert error.problems == ["one", "two"]
    assert str(error) == "one\ntwo"


# --- rendering -----------------------------------------------------------------------------------


def test_plain_rendering_is_one_message_and_cuts_no_conversation(renderer):
    assert renderer.render(question("1+1=")) == tuple(tokenizer()("1+1=")["input_ids"])
    with pytest.raises(ValueError, match="reads one message, not a conversation"):
        renderer.render((Message("system", "Be brief."), *question("1+1=")))


@pytest.mark.parametrize("special", ["<pad> $A", "<pad> $A <eos>"])
def test_plain_rendering_begins_as_the_tokenizer_does_and_never_ends(special):
    rendered = Renderer(tokenizer(special=special), Rendering.plain)
    body = tuple(tokenizer()("1+1=")["input_ids"])
    assert rendered.render(question("1+1=")) == (0, *body)
    assert rendered.completion_ids("1+1=") == (*body, 1)


def test_chat_rendering_is_the_template_with_one_begin_token():
    chat = tokenizer(CHAT, special="<pad> $A <eos>")
    expected = (0, *tokenizer()("user:hi;assistant:")["input_ids"])
    for rendering in (Rendering.auto, Rendering.chat):
        assert Renderer(chat, rendering).render(question("hi")) == expected
    assert Renderer(chat, Rendering.plain).render(question("hi")) != expected


def test_what_the_template_refuses_is_a_value_error():
    with pytest.raises(ValueError, match="not this"):
        Renderer(tokenizer(CHAT), Rendering.auto).render(question("refuse"))


def test_a_tokenizer_that_cannot_do_it_is_refused_with_every_reason():
    broken = tokenizer()
    broken.eos_token = None
    with pytest.raises(InputError) as caught:
        Renderer(broken, Rendering.chat)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "model.path",
        "model.rendering=chat",
    ]


# --- arithmetic ----------------------------------------------------------------------------------


@given(
    num_digits=st.integers(1, 6),
    num_prompts=st.integers(1, 60),
    num_heldout=st.integers(1, 40),
    seed=st.integers(0, 2**63),
)
def test_sums_are_distinct_right_and_held_out(renderer, num_digits, num_prompts, num_heldout, seed):
    data = load(ArithmeticConfig(num_digits, num_prompts, num_heldout), renderer, seed=seed)
    assert (len(data.train), len(data.heldout)) == (num_prompts, num_heldout)
    assert len({p.id for p in (*data.train, *data.heldout)}) == num_prompts + num_heldout
    for prompt in (*data.train, *data.heldout):
        left, right = prompt.id.split("+")
        assert len(left) == len(right) == num_digits
        assert prompt.text == f"{prompt.id}="
        assert prompt.answer == str(int(left) + int(right))
        assert prompt.token_ids == renderer.render(prompt.messages)
    assert data.demonstrations == {
        p.id: Tokens(p.token_ids, renderer.completion_ids(p.answer)) for p in data.train
    }


def test_a_demonstration_is_tokenized_once_and_when_it_is_asked_for(renderer, monkeypatch):
    read = []
    monkeypatch.setattr(renderer, "text_ids", lambda text: read.append(text) or (7,) * bool(text))
    monkeypatch.setattr(renderer, "render", lambda messages: (5,))
    shown = load(ArithmeticConfig(2, 50, 10), renderer).demonstrations
    assert read == [] and len(shown) == 50 and all(id in shown for id in shown)
    _, second, *_ = shown
    assert shown[second] == shown[second] == Tokens((5,), (7, 1))
    left, right = map(int, second.split("+"))
    assert read[0] == str(left + right) and read.count(read[0]) == 1
    with pytest.raises(KeyError):
        shown["nobody"]


def test_sums_follow_the_seed(renderer):
    config = ArithmeticConfig(2, 50, 10)
    assert load(config, renderer, seed=1) == load(config, renderer, seed=1)
    assert load(config, renderer, seed=1) != load(config, renderer, seed=2)


def test_there_are_8100_sums_of_two_digits(renderer):
    data = load(ArithmeticConfig(2, 8000, 100), renderer)
    assert {p.id.split("+")[0] for p in data.train} == {str(n) for n in range(10, 100)}
    (problem,) = refusal(ArithmeticConfig(2, 8000, 101), renderer)
    assert "8100 sums of 2 numbers of 2 digits, not 8101" in problem


# --- files ---------------------------------------------------------------------------------------

ROWS = [{"prompt": f"What is {i}?", "answer": f"It is.\n#### {i},000", "id": f"q{i}"}
        for i in range(1, 41)]  # fmt: skip


def write(path: Path, rows: list[dict]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def files(path, **changes) -> FilesConfig:
    rest = {"answer_column": "answer", "answer_marker": "####", "heldout_share": 0.3}
    return FilesConfig(path=str(path), **{**rest, **changes})


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_columns_become_prompts(tmp_path, renderer, name):
    config = files(write(tmp_path / name, ROWS), id_column="id", demonstration_column="answer")
    data = load(config, renderer)
    prompts = {p.id: p for p in (*data.train, *data.heldout)}
    assert len(prompts) == 40
    assert data.train
    assert data.heldout
    assert prompts["q7"].messages == question("What is 7?")
    assert prompts["q7"].answer == "7000"
    assert data.demonstrations == {
        p.id: Tokens(p.token_ids, renderer.completion_ids(f"It is.\n#### {p.id[1:]},000"))
        for p in data.train
    }


def test_jsonl_and_parquet_and_folders_say_the_same(tmp_path, renderer):
    split = tmp_path / "split"
    split.mkdir()
    write(split / "a.jsonl", ROWS[:15])
    write(split / "b.parquet", ROWS[15:])
    (split / "README.md").write_text("not data")
    jsonl, parquet, folder = (
        load(files(path, id_column="id"), renderer)
        for path in (
            write(tmp_path / "x.jsonl", ROWS),
            write(tmp_path / "x.parquet", ROWS),
            split,
        )
    )
    assert jsonl == parquet == folder


def test_values_are_taken_as_written(tmp_path, renderer):
    """Readers that infer types turn dates into timestamps, and 46 beside 0.5 into 46.0."""
    rows = [{"prompt": "2024-05-01", "answer": 46}, {"prompt": "2024-05-02", "answer": "0.5"}]
    path = write(tmp_path / "x.jsonl", rows)
    data = load(files(path, answer_marker=None, heldout_path=path), renderer)
    assert [(p.id, p.text, p.answer) for p in data.train] == [
        ("1", "2024-05-01", "46"),
        ("2", "2024-05-02", "0.5"),
    ]
    assert [p.id for p in data.heldout] == ["heldout:1", "heldout:2"]


def test_rows_are_numbered_as_the_lines_of_the_file(tmp_path, renderer):
    path = tmp_path / "x.jsonl"
    path.write_text('\ufeff{"prompt": "a"}\n\n{"prompt": "b"}\n', encoding="utf-8")
    config = FilesConfig(path=str(path), heldout_path=str(path))
    assert [p.id for p in load(config, renderer, wanted=Wanted()).train] == ["1", "3"]


def test_conversations(tmp_path):
    chat = Renderer(tokenizer(CHAT), Rendering.auto)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi", "name": "Ann"},
    ]
    path = write(tmp_path / "x.jsonl", [{"prompt": turns}])
    data = load(FilesConfig(path=path, heldout_path=path), chat, wanted=Wanted())
    assert data.train[0].messages == (Message("system", "Be brief."), Message("user", "hi"))
    assert data.train[0].token_ids == chat.render(data.train[0].messages)


def test_conversations_that_plain_rendering_would_cut_are_told_by_their_rows(tmp_path, renderer):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    path = write(tmp_path / "x.jsonl", [{"prompt": p} for p in ([turns[1]], turns, turns)])
    config = FilesConfig(path=path, heldout_path=path)
    (problem,) = refusal(config, renderer, wanted=Wanted())
    assert problem.startswith("model.rendering: 4 conversations of several turns need a chat")
    assert f"single texts ({path} row 2, {path} row 3, {path} row 2, " in problem


def test_a_blank_turn_is_a_turn_and_a_call_is_not_passed_over(tmp_path):
    chat = Renderer(tokenizer(CHAT), Rendering.auto)
    asked = {"role": "user", "content": "hi"}
    blank = [{"role": "system", "content": ""}, asked]
    path = write(tmp_path / "x.jsonl", [{"prompt": blank}])
    data = load(FilesConfig(path=path, heldout_path=path), chat, wanted=Wanted())
    assert data.train[0].messages == (Message("system", ""), Message("user", "hi"))
    calls = {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}
    rows = [{"prompt": [asked, calls, asked]}, {"prompt": [{"role": "user", "content": " "}]}]
    config = files(write(tmp_path / "y.jsonl", rows), answer_column=None)
    problems = refusal(config, chat, wanted=Wanted())
    assert "has a message with `tool_calls`, which are not read" in problems[0]
    assert "column 'prompt' is empty; 1 rows: 2" in problems[1]


def test_the_split_depends_on_ids_alone(tmp_path, renderer):
    path = write(tmp_path / "x.jsonl", ROWS)
    fewer = write(tmp_path / "y.jsonl", ROWS[5:30][::-1])
    held = {p.id for p in load(files(path, id_column="id"), renderer, seed=1).heldout}
    assert held == {p.id for p in load(files(path, id_column="id"), renderer, seed=2).heldout}
    again = {p.id for p in load(files(fewer, id_column="id"), renderer).heldout}
    assert again == held & {row["id"] for row in ROWS[5:30]}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 7", "7"),
        ("#### 1\n#### 1,234,567 ", "1234567"),
        ("####$3", "$3"),
        ("#### (1,2)", "(1,2)"),
    ],
)
def test_the_answer_follows_the_marker(tmp_path, renderer, text, answer):
    path = write(tmp_path / "x.jsonl", [{"prompt": "?", "answer": text}])
    assert load(files(path, heldout_path=path), renderer).train[0].answer == answer


def test_gsm8k_comes_as_it_is(renderer):
    if not GSM8K.exists():
        assert "CI" not in os.environ, f"CI must run this, and {GSM8K} is absent"
        pytest.skip(f"{GSM8K} is absent")
    config = FilesConfig(
        path=str(GSM8K / "train.jsonl"),
        heldout_path=str(GSM8K / "test.jsonl"),
        prompt_column="question",
        answer_column="answer",
        answer_marker="####",
        demonstration_column="answer",
    )
    data = load(config, renderer)
    assert (len(data.train), len(data.heldout), len(data.demonstrations)) == (7473, 1319, 7473)
    assert [p.answer for p in data.heldout[:5]] == ["18", "3", "70000", "540", "20"]
    for prompt in (*data.train, *data.heldout):
        int(prompt.answer)


# --- files with faults ---------------------------------------------------------------------------


def test_every_kind_of_fault_is_told_once_with_its_rows(tmp_path, renderer):
    path = tmp_path / "x.jsonl"
    lines = [
        b'{"prompt": "a", "answer": "#### 1"}',
        b'{"prompt": null, "answer": "#### 1"}',
        b'{"answer": "#### 1"}',
        b'{"prompt": 3, "answer": "no mark"}',
        b'{"prompt": "caf\xe9", "answer": "#### 1"}',
        b'{"prompt": "a", ',
        b'["a"]',
        b'{"prompt": "a", "prompt": "b", "answer": "#### 1"}',
        b'{"prompt": " ", "answer": "####"}',
        b'{"prompt": "\\ud800", "answer": "#### 1"}',
        b'{"prompt": [], "answer": "#### 1"}',
        b'{"prompt": [{"role": "bot", "content": "a"}], "answer": 0.5}',
        b'{"prompt": [{"role": "assistant", "content": "a"}], "answer": "#### 1"}',
        b'{"prompt": ["a"], "answer": true}',
    ]
    path.write_bytes(b"\n".join(lines))
    problems = refusal(files(path), renderer)
    told = dict(problem.removeprefix(f"{path}: ").rsplit("; ", 1) for problem in problems)
    for what, where in {
        "column 'prompt' is null or missing": "2 rows: 2, 3",
        "column 'prompt' must be text, not int": "1 rows: 4",
        "column 'answer' has no answer after data.answer_marker='####'": "2 rows: 4, 9",
        "bad UTF-8 in column 'prompt'; save the file as UTF-8": "1 rows: 5",
        "not JSON; each line must be one JSON object": "1 rows: 6",
        "JSON, but not an object with columns": "1 rows: 7",
        "the key 'prompt' stands twice in one object": "1 rows: 8",
        "column 'prompt' is empty": "1 rows: 9",
        "column 'prompt' has half a surrogate pair, which is no character": "1 rows: 10",
        "column 'prompt' is a conversation without messages": "1 rows: 11",
        "column 'prompt' has the role 'bot'; allowed: system, user, assistant": "1 rows: 12",
        "column 'prompt' must end with a message of the user, not of the assistant": "1 rows: 13",
        "column 'answer' must be text, not bool": "1 rows: 14",
    }.items():
        assert told.pop(what) == where
    assert len(told) == 2


def test_missing_columns_are_named_with_the_nearest(tmp_path, renderer):
    for name in ("x.jsonl", "x.parquet"):
        path = write(tmp_path / name, [{"promt": "a", "solution": "b"}])
        problems = refusal(files(path, prompt_column="prompt", id_column="solution"), renderer)
        assert len(problems) == 2
        assert problems[0] == (
            f"data.prompt_column=prompt: {path} has no such column, but promt, solution; "
            "did you mean data.prompt_column=promt?"
        )
        assert problems[1].startswith("data.answer_column=answer: ")


def test_faults_of_both_files_are_told(tmp_path, renderer):
    bad = write(tmp_path / "bad.jsonl", [{"prompt": None, "answer": "#### 1"}])
    config = files(bad, heldout_path=str(tmp_path / "absent.jsonl"), answer_column=None)
    problems = refusal(config, renderer)
    assert [problem.split(":")[0] for problem in problems] == [
        "data.answer_column=null",
        bad,
        f"data.heldout_path={tmp_path / 'absent.jsonl'}",
    ]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file(tmp_path, renderer, content):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert refusal(files(path), renderer) == [
        f"data.path={path}: it has no rows; give a file with prompts"
    ]


def test_what_is_no_data(tmp_path, renderer):
    (tmp_path / "x.csv").write_text("a,b")
    for path in (tmp_path, tmp_path / "x.csv"):
        assert "give a .jsonl or .parquet file" in refusal(files(path), renderer)[0]
    (tmp_path / "x.parquet").write_text("not parquet at all")
    assert "not readable as Parquet" in refusal(files(tmp_path / "x.parquet"), renderer)[0]


def test_a_parquet_column_of_another_type(tmp_path, renderer):
    rows = [{"prompt": "a", "answer": 0.5}, {"prompt": None, "answer": 1.5}]
    problems = refusal(files(write(tmp_path / "x.parquet", rows)), renderer)
    assert any("column 'answer' must be text or a whole number, not float" in p for p in problems)
    assert any("column 'prompt' is null or missing; 1 rows: 2" in p for p in problems)


def test_duplicate_ids_are_told_with_both_rows(tmp_path, renderer):
    path = write(tmp_path / "x.jsonl", [*ROWS, ROWS[3], ROWS[5]])
    problems = sorted(refusal(files(path, id_column="id"), renderer))
    assert len(problems) == 2
    assert f"'q4' is that of {path} row 4 and of {path} row 41" in problems[0]
    both = refusal(files(path, id_column="id", heldout_path=path), renderer)
    assert both[-1] == "... and 24 more ids"


def test_a_split_without_a_held_out_row(tmp_path, renderer):
    config = files(write(tmp_path / "x.jsonl", ROWS[:3]), heldout_share=1e-9)
    assert refusal(config, renderer) == [
        "data.heldout_share=1e-09: of 3 rows it holds out 0; both parts need rows, so change it "
        "or give data.heldout_path"
    ]


def test_prompts_that_are_too_long(tmp_path, renderer):
    lengths = [4, 5, 6, 5, 9]
    path = write(tmp_path / "x.jsonl", [{"prompt": "x" * n, "answer": "#### 1"} for n in lengths])
    config = files(path, heldout_path=path, demonstration_column="answer")
    (problem,) = refusal(config, renderer, max_prompt_tokens=5)
    assert problem.startswith(
        "rollout.max_prompt_tokens=5: 4 prompts are longer (ids 3, 5, heldout:3"
    )
    config.overlong = Overlong.drop
    data = load(config, renderer, max_prompt_tokens=5)
    assert [p.id for p in data.train] == ["1", "2", "4"]
    shown = {id: one.prompt for id, one in data.demonstrations.items()}
    assert shown == {p.id: p.token_ids for p in data.train}
    assert data.num_overlong_dropped == 4
    (problem,) = refusal(config, renderer, max_prompt_tokens=3)
    assert "none of the 5 train prompts is left; 10 prompts" in problem


def test_characters_that_the_vocabulary_lacks(tmp_path):
    arithmetic = Renderer(build_tokenizer(Vocabulary.arithmetic), Rendering.auto)
    path = write(tmp_path / "x.jsonl", [{"prompt": p, "answer": "1"} for p in ("1+1", "Why?")])
    (problem,) = refusal(files(path, heldout_path=path, answer_marker=None), arithmetic)
    assert "2 prompts have characters that its vocabulary lacks (ids 2, heldout:2)" in problem


def test_what_the_template_refuses(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"prompt": p, "answer": "#### 1"} for p in ("a", "refuse")])
    chat = Renderer(tokenizer(CHAT), Rendering.auto)
    (problem,) = refusal(files(path, heldout_path=path), chat)
    assert (
        f"2 prompts cannot be rendered ({path} row 2: the chat template refuses it: not" in problem
    )


# --- the schedule --------------------------------------------------------------------------------


def numbered(count: int) -> list[Prompt]:
    return [Prompt(str(i), question("?"), (1,)) for i in range(count)]


def rounds(schedule: PromptSchedule, *indices: int) -> list[list[Prompt]]:
    async def walk() -> list[list[Prompt]]:
        return [await schedule.round(index) for index in indices]

    return asyncio.run(walk())


@given(size=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 2**63))
def test_each_prompt_once_per_epoch_and_never_twice_in_a_round(size, share, seed):
    num_per_round = max(1, round(size * share))
    schedule = PromptSchedule(numbered(size), num_per_round, seed)
    asked = rounds(schedule, *range(4 * size // num_per_round + 1))
    assert all(len({p.id for p in one}) == num_per_round for one in asked)
    walk = [p.id for one in asked for p in one]
    for begin in range(0, len(walk) - size + 1, size):
        assert len(set(walk[begin : begin + size])) == size


@given(size=st.integers(1, 40), num_per_round=st.integers(1, 40), index=st.integers(0, 10**9))
def test_a_round_is_a_function_of_seed_and_index(size, num_per_round, index):
    if num_per_round > size:
        return
    prompts = numbered(size)
    walked = PromptSchedule(prompts, num_per_round, 3)
    *_, last = rounds(walked, 0, index + 1, 7, index)
    assert [last] == rounds(PromptSchedule(prompts, num_per_round, 3), index)


def test_epochs_and_seeds_have_orders_of_their_own():
    prompts = numbered(64)
    orders = [
        tuple(p.id for p in epoch)
        for seed in (1, 2)
        for epoch in rounds(PromptSchedule(prompts, 64, seed), 0, 1, 2)
    ]
    assert len(set(orders)) == 6


def test_a_million_prompts_are_quick():
    prompts = [numbered(1)[0]] * 10**6
    schedule = PromptSchedule(prompts, 64, 1)
    begin = time.monotonic()
    rounds(schedule, *range(15_600, 15_700), 10**9)
    assert time.monotonic() - begin < 3


def test_a_round_larger_than_the_data():
    with pytest.raises(InputError, match=r"round\.prompts=5: the data has 4 prompts"):
        PromptSchedule(numbered(4), 5, 1)
    with pytest.raises(ValueError, match="from 0"):
        rounds(PromptSchedule(numbered(4), 4, 1), -1)

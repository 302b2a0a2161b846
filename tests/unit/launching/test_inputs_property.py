"""Whatever is in a data file, it is read or refused by name; no other error comes of it."""

import copy
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.feedback import FeedbackDataConfig, open_folder
from rlhf.asking.sources.files import FilesConfig, file_rows
from rlhf.config.reward import PreferenceFilesConfig
from rlhf.conversations.log import ConversationLog
from rlhf.data.preference_files import read_examples
from rlhf.feedback.__main__ import run
from rlhf.feedback.config import FeedbackConfig
from rlhf.problems import InputError
from rlhf.toys.games import read_game
from rlhf.toys.users import write_log

PLAIN_ROWS = [
    {"prompt": "1+1=", "answer": "#### 2", "id": "a", "demonstration": "2"},
    {"prompt": "2+2=", "answer": "#### 4", "id": 7, "demonstration": "4"},
]
CHAT = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}]
CHAT_ROWS = [{"prompt": CHAT, "answer": "#### 2", "id": i, "demonstration": "2"} for i in "ab"]
REPLY = {"role": "assistant", "content": "2"}
PREFERENCES = [
    {"prompt": "1+1=", "chosen": "2", "rejected": "3", "margin": 0.5, "score": 1, "prefix": "="},
    {"prompt": CHAT, "chosen": [*CHAT, REPLY], "rejected": [REPLY], "margin": 1, "score": 0},
]
STEPS = [{"prompt": "1+1=", "chosen": ["1+", "1"], "rejected": ["2"], "margin": 1, "score": 0.5}]
CHATS = [
    {"id": i, "messages": [*CHAT, REPLY, {"role": "user", "content": "No", "dissatisfied": True}]}
    for i in ("x", "y")
]
UTTERANCES = [
    {"UtteranceId": 0, "Role": "User", "Content": "Hi", "Satisfaction": None},
    {"UtteranceId": 1, "Role": "Agent", "Content": "Yes?", "Satisfaction": None},
    {"UtteranceId": 2, "Role": "User", "Content": "Bye", "Satisfaction": True},
]
GAME = {"answers": ["a", "b"], "win_prob": [[0.5, 0.6], [0.4, 0.5]]}

DEEP = "too deep to be made of lists"
JUNK: list[Any] = [None, True, 0, -1, 2.5, 1e308, float("nan"), float("inf"), 10**400, "", "\n"]
JUNK += ["text", "\ud800", "\0", [], {}, [[]], [None], ["a", 1], {"role": "user"}, DEEP]
JUNK += [{"role": ["user"], "content": {}}, {"role": "bot", "content": "x"}, {"": {"": [{}]}}]


def places(value: Any) -> list[tuple[Any, ...]]:
    """The ways to all parts of a value, its own left out."""
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    return [(key, *rest) for key, part in parts for rest in [(), *places(part)]]


@st.composite
def spoilt(draw, value: Any) -> Any:
    """With some of its parts removed, doubled, exchanged, renamed or replaced."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, 4))):
        if not (ways := places(value)):
            break
        *way, last = draw(st.sampled_from(ways))
        inside = value
        for key in way:
            inside = inside[key]
        match draw(st.sampled_from(["remove", "double", "swap", "rename", "replace", "nest"])):
            case "remove":
                del inside[last]
            case "double" if isinstance(inside, list):
                inside.append(inside[last])
            case "swap":
                other = draw(st.sampled_from(list(inside) if isinstance(inside, dict) else [0]))
                inside[last], inside[other] = inside[other], inside[last]
            case "rename" if isinstance(inside, dict):
                inside[draw(st.sampled_from(["", "promt", "dropped", "messages"]))] = inside.pop(
                    last
                )
            case "nest":
                inside[last] = [inside[last]]
            case _:
                inside[last] = draw(st.sampled_from(JUNK))
        value = copy.deepcopy(value)  # what was doubled is one thing no more
    return value


def dumped(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    return text.replace(f'"{DEEP}"', "[" * 9000 + "]" * 9000).encode("utf-8", "surrogatepass")


def as_parquet(rows: list[Any]) -> bytes:
    try:
        table = pa.Table.from_pylist([row for row in rows if isinstance(row, dict)])
        file = io.BytesIO()
        pq.write_table(table, file)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        assume(False)
    return file.getvalue()


FORMATS: dict[str, Callable[[list[Any]], bytes]] = {
    ".jsonl": lambda rows: b"\n".join(map(dumped, rows)),
    ".json": dumped,
    ".parquet": as_parquet,
}


@st.composite
def bytes_of(draw, content: bytes) -> bytes:
    """Whole, or cut, emptied, exchanged in part, or with foreign bytes."""
    size = len(content)
    begin, end = sorted((draw(st.integers(0, size)), draw(st.integers(0, size))))
    match draw(st.sampled_from(["whole", "whole", "cut", "empty", "hole", "swap", "foreign"])):
        case "cut":
            return content[:end]
        case "empty":
            return b""
        case "hole":
            return content[:begin] + content[end:]
        case "swap":
            return content[end:] + content[begin:end] + content[:begin]
        case "foreign":
            foreign = st.sampled_from([b"\xff", b"\0", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"}]"])
            return content[:begin] + draw(foreign | st.binary(max_size=8)) + content[begin:]
    return content


@st.composite
def files(draw, *bases: list[Any], suffixes: tuple[str, ...]) -> tuple[str, bytes]:
    """A name and what is in it; one in four is called what it is not."""
    rows = draw(st.one_of([spoilt(base) for base in bases]))
    written = draw(st.sampled_from(suffixes))
    named = draw(st.sampled_from([written] * 3 + list(suffixes)))
    return f"x{named}", draw(bytes_of(FORMATS[written](rows)))


def read_or_refused(read: Callable[[], object], named: Path) -> None:
    try:
        read()
    except InputError as error:
        assert error.problems
        assert all("\n" not in problem for problem in error.problems)
        assert any(str(named) in problem for problem in error.problems)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files")


@settings(max_examples=300)
@given(file=files(PLAIN_ROWS, CHAT_ROWS, suffixes=(".jsonl", ".parquet")), data=st.data())
def test_prompts(folder, file, data):
    path = folder / file[0]
    path.write_bytes(file[1])
    columns = {"prompt_column": "prompt", "answer_column": "answer", "id_column": "id"}
    chosen = data.draw(st.sets(st.sampled_from(sorted(columns))))
    config = FilesConfig(
        path=str(path),
        heldout_path=str(path),
        answer_marker=data.draw(st.sampled_from([None, "####"])),
        demonstration_column=data.draw(st.sampled_from([None, "demonstration"])),
        **{key: columns[key] for key in chosen},
    )
    read_or_refused(lambda: file_rows(config, Wanted()), path)


@settings(max_examples=300)
@given(
    file=files(PREFERENCES, STEPS, suffixes=(".jsonl", ".parquet")),
    in_steps=st.booleans(),
    options=st.sets(st.sampled_from(["margin_column", "chosen_score_column"])),
)
def test_preferences(folder, file, in_steps, options):
    path = folder / file[0]
    path.write_bytes(file[1])
    columns = {"margin_column": "margin", "chosen_score_column": "score"}
    config = PreferenceFilesConfig(
        path=str(path), heldout_path=str(path), **{key: columns[key] for key in options}
    )
    read_or_refused(lambda: read_examples(config, in_steps), path)


@settings(max_examples=300)
@given(file=files(CHATS, UTTERANCES, suffixes=(".jsonl", ".json", ".parquet")))
def test_logs(folder, file):
    path = folder / file[0]
    path.write_bytes(file[1])
    read_or_refused(lambda: list(ConversationLog(path)), path)


@settings(max_examples=200)
@given(content=spoilt([GAME]).map(dumped).flatmap(bytes_of) | spoilt(GAME).map(dumped))
def test_games(folder, content):
    path = folder / "game.json"
    path.write_bytes(content)
    read_or_refused(lambda: read_game(str(path)), path)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """What `python -m rlhf.feedback` writes."""
    directory = tmp_path_factory.mktemp("feedback")
    write_log(directory / "log.jsonl", 20, seed=1)
    run(FeedbackConfig(str(directory / "log.jsonl"), str(directory / "out"), heldout_share=0.3))
    return directory / "out"


@settings(max_examples=200)
@given(data=st.data())
def test_what_was_written_of_a_log(folder, written, data):
    spoiled = folder / "out"
    shutil.rmtree(spoiled, ignore_errors=True)
    shutil.copytree(written, spoiled)
    file = data.draw(st.sampled_from(sorted(path for path in spoiled.iterdir())))
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()[:3]]
        content = FORMATS[".jsonl"](data.draw(spoilt(rows)))
    else:
        content = dumped(data.draw(spoilt(json.loads(file.read_text()))))
    file.write_bytes(data.draw(bytes_of(content)))
    read_or_refused(lambda: open_folder(FeedbackDataConfig(path=str(spoiled))).source(), spoiled)

"""Which files are read of a folder, and what one file may hold, for all three kinds of data."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.files import FilesConfig, file_rows
from rlhf.config.data import LabelSource
from rlhf.config.reward import PreferenceFilesConfig
from rlhf.conversations.log import ConversationLog
from rlhf.data.preference_files import read_examples
from rlhf.data.rows import text_lines
from rlhf.feedback.feed import Feed
from rlhf.problems import InputError

ROW = {
    "prompt": "1+1=",
    "chosen": "2",
    "rejected": "3",
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}],
}


def prompts(path: Path) -> list[str]:
    """The texts of all rows."""
    rows, _ = file_rows(FilesConfig(path=str(path), heldout_path=str(path)), Wanted())
    return [row.messages[-1].content for row in rows]


def preferences(path: Path) -> list[str]:
    config = PreferenceFilesConfig(path=str(path), heldout_path=str(path))
    return [example.messages[-1].content for example in read_examples(config).train]


def conversations(path: Path) -> list[str]:
    return [one.messages[0].content for one in ConversationLog(path)]


READERS = {prompts: ROW["prompt"], preferences: ROW["prompt"], conversations: "Hi"}
every_reader = pytest.mark.parametrize("read, text", READERS.items())


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def refusal(read, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    return caught.value.problems[0]


@every_reader
def test_a_folder_is_read_without_what_is_hidden_in_it(tmp_path, read, text):
    root = tmp_path / ".cache" / "data"  # hidden itself, and asked for by name
    write(root / "x.jsonl", json.dumps(ROW))
    write(root / "deeper" / "x.parquet" / "part-0.jsonl", json.dumps(ROW | {"id": "2"}))
    write(root / ".ipynb_checkpoints" / "x-checkpoint.jsonl", "not JSON")
    write(root / "deeper" / ".x.jsonl.swp.jsonl", "not JSON")
    assert read(root) == [text] * 2
    # Spark's way: the folder has the name of a file.
    assert read(root / "deeper" / "x.parquet") == [text]


@every_reader
def test_a_folder_without_data_and_paths_that_cannot_be(tmp_path, read, text):
    (tmp_path / "x.parquet").mkdir()
    write(tmp_path / ".hidden" / "x.jsonl", json.dumps(ROW))
    assert "file, or a folder of them" in refusal(read, tmp_path)
    assert f"{'x' * 300}: cannot be read" in refusal(read, tmp_path / ("x" * 300))
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "gone")
    assert "dangling.jsonl: cannot be read: No such file" in refusal(read, tmp_path)


@every_reader
@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000, '{"prompt": ' + "[" * 100_000])
def test_json_that_is_nested_too_deeply_is_told_by_its_row(tmp_path, read, text, deep):
    path = write(tmp_path / "x.jsonl", json.dumps(ROW), deep)
    assert refusal(read, path) == (f"{path}: JSON that is nested too deeply to be read; 1 rows: 2")


def test_an_array_that_is_nested_too_deeply_is_told_too(tmp_path):
    path = write(tmp_path / "x.json", f"[{json.dumps(ROW)},", '{"messages": ' + "[" * 100_000)
    assert "nested too deeply to be read; 1 rows: 2" in refusal(conversations, path)


@pytest.mark.parametrize("reply", ["", "\n", " \t", "\n\n2"])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("in_messages", [False, True])
def test_a_blank_answer_is_an_answer(tmp_path, reply, side, in_messages):
    value = [{"role": "assistant", "content": reply}] if in_messages else reply
    path = write(tmp_path / "x.jsonl", json.dumps(ROW | {side: value}))
    config = PreferenceFilesConfig(path=str(path), heldout_path=str(path))
    (example,) = read_examples(config).train
    assert example.texts == (reply, "3") if side == "chosen" else ("2", reply)


def test_a_number_beyond_all_floats_is_no_score(tmp_path):
    path = write(tmp_path / "x.jsonl", json.dumps(ROW | {"margin": 10**400}))
    config = PreferenceFilesConfig(path=str(path), heldout_path=str(path), margin_column="margin")
    with pytest.raises(InputError, match="column 'margin' is not finite; 1 rows: 1"):
        read_examples(config)


def test_a_feed_looks_at_files_alone(tmp_path):
    write(tmp_path / "x.jsonl" / "inside.jsonl", json.dumps(ROW))
    told: list[str] = []
    feed = Feed(tmp_path, LabelSource.given, 0.1, (), told.append)
    assert (feed.take(5), told) == ([], [])
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "gone")
    assert (feed.take(5), told) == ([], [])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_judge_that_reads_rows_finds_every_column_as_it_was(tmp_path, suffix):
    row = {"prompt": "1+1=", "tests": ["assert f() == 2"], "at": {"x": 1.5}, "none": None}
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist([row]), path)
    else:
        write(path, json.dumps(row))
    config = FilesConfig(path=str(path), heldout_path=str(path))
    ((found,), _) = file_rows(config, Wanted(rows=True))
    assert found.whole == row
    ((found,), _) = file_rows(config, Wanted())
    assert found.whole is None


def test_lines_of_jsonl_end_with_a_line_feed_alone(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes('\ufeff{"a": "x\u2028y"}\n\n{"b": "\u0085"}\r\n'.encode())
    found = [(number, json.loads(line)) for number, line in text_lines(file)]
    assert found == [(1, {"a": "x\u2028y"}), (3, {"b": "\u0085"})]

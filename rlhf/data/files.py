"""JSONL and Parquet files into rows; whatever is wrong with them is told by file, column and row.

JSONL is read as written, a line at a time: readers that infer a schema turn `"2024-05-01"` into a
timestamp and `46` beside `0.5` into `46.0`, which is not what the user's answer column says.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from rlhf.config.data import FilesConfig
from rlhf.data.folders import find_files
from rlhf.data.messages import read_messages, read_text
from rlhf.data.rendering import Row
from rlhf.data.rows import RowReader
from rlhf.problems import InputError, some

SUFFIXES = (".jsonl", ".parquet")
_SEPARATOR = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

Column = tuple[str, str, Callable[[Any], Any]]
"""The configuration's key, the column's name, and what turns a value into ours or raises
ValueError with the end of a sentence that begins with the column's name."""


def file_rows(config: FilesConfig, needs_answers: bool) -> tuple[list[Row], list[Row]]:
    """Rows to train on and held-out ones; raises InputError with everything that is wrong."""
    problems = []
    if needs_answers and config.answer_column is None:
        problems.append(
            "data.answer_column=null: judge=verifier, the default, compares completions with an "
            "answer; name the column that has it, or choose another judge"
        )
    columns = _columns(config)
    rows = _read("path", config.path, columns, problems)
    if config.heldout_path is not None:
        needed = {field: column for field, column in columns.items() if field != "demonstration"}
        heldout = _read("heldout_path", config.heldout_path, needed, problems)
    if problems:
        raise InputError(problems)
    if config.heldout_path is not None:
        return rows, heldout
    return _split(rows, config.heldout_share)


def _columns(config: FilesConfig) -> dict[str, Column]:
    """By field of `Row`."""
    answer = partial(_answer, marker=config.answer_marker)
    wanted = {
        "messages": ("prompt_column", config.prompt_column, read_messages),
        "answer": ("answer_column", config.answer_column, answer),
        "demonstration": ("demonstration_column", config.demonstration_column, read_text),
        "id": ("id_column", config.id_column, _scalar),
    }
    return {field: (k, name, to) for field, (k, name, to) in wanted.items() if name is not None}


def _split(rows: list[Row], heldout_share: float) -> tuple[list[Row], list[Row]]:
    """By a hash of the id, so that neither a seed nor a new row moves another across."""
    train, heldout = [], []
    for row in rows:
        digest = sha256(row.id.encode()).digest()
        share = int.from_bytes(digest[:8]) / 2**64
        (heldout if share < heldout_share else train).append(row)
    if rows and not (train and heldout):
        raise InputError(
            [
                f"data.heldout_share={heldout_share}: of {len(rows)} rows it holds out "
                f"{len(heldout)}; both parts need rows, so change it or give data.heldout_path"
            ]
        )
    return train, heldout


# --- files ---------------------------------------------------------------------------------------


def _read(key: str, path: str, columns: Mapping[str, Column], problems: list[str]) -> list[Row]:
    """Every row under `path`; what is wrong is added to `problems`."""
    root = Path(path)
    try:
        files = find_files(f"data.{key}", root, SUFFIXES)
    except InputError as error:
        problems += error.problems
        return []
    rows = []
    for file in files:
        # Numbered rows need ids that are unique over all files.
        prefix = "heldout:" if key == "heldout_path" else ""
        prefix += f"{file.relative_to(root)}:" if root.is_dir() else ""
        rows += FileReader(file, columns, prefix).read(problems)
    if not rows and not problems:
        problems.append(f"data.{key}={path}: it has no rows; give a file with prompts")
    return rows


class FileReader(RowReader):
    """Reads one file whole, and puts its faults into words."""

    def __init__(self, file: Path, columns: Mapping[str, Column], prefix: str) -> None:
        super().__init__(file, {name for _, name, _ in columns.values()})
        self._columns = columns
        self._prefix = prefix

    def read(self, problems: list[str]) -> list[Row]:
        try:
            rows = [row for number, record in self._records() if (row := self._row(number, record))]
        except OSError as error:
            problems.append(self._unreadable(error))
            return []
        problems += self._missing()
        problems += [
            f"{self._file}: {f'column {column!r} ' if column else ''}{what}; "
            f"{len(numbers)} rows: {some(numbers)}"
            for (column, what), numbers in self._faults.items()
            if column is None or column in self._present
        ]
        return rows

    def _row(self, number: int, record: dict[str, Any]) -> Row | None:
        values = self._values(number, record, self._columns)
        if values is None:
            return None
        origin = f"{self._file} row {number}"
        return Row(**{"id": f"{self._prefix}{number}", "origin": origin, **values})

    def _values(
        self, number: int, record: Mapping[str, Any], columns: Mapping[str, Column]
    ) -> dict[str, Any] | None:
        """By field; None if one is wrong, and every fault is noted."""
        values = {}
        for field, (_, column, convert) in columns.items():
            try:
                values[field] = convert(record.get(column))
            except ValueError as error:
                self._fault(column, str(error), number)
        return values if len(values) == len(columns) else None

    def _missing(self) -> Iterator[str]:
        # A file without a single readable row has faults, or is empty: that is told elsewhere.
        absent = [c for c in self._columns.values() if c[1] not in self._present]
        for key, column, _ in absent if self._present else []:
            near = get_close_matches(column, sorted(self._present), n=1)
            hint = f"; did you mean data.{key}={near[0]}?" if near else ""
            yield (
                f"data.{key}={column}: {self._file} has no such column, but "
                f"{some(sorted(self._present), 20)}{hint}"
            )


# --- values --------------------------------------------------------------------------------------


def _scalar(value: object) -> str:
    """Text, or a whole number written as one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        raise ValueError("must be text or a whole number, not float; write it as text")
    return read_text(value)


def _answer(value: object, marker: str | None) -> str:
    text = _scalar(value)
    if marker is None:
        return text.strip()
    _, found, tail = text.rpartition(marker)
    answer = _SEPARATOR.sub("", tail.strip())
    if not found or not answer:
        raise ValueError(f"has no answer after data.answer_marker={marker!r}")
    return answer

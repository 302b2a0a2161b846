"""JSONL and Parquet files into rows; whatever is wrong with them is told by file, column and row.

JSONL is read as written, a line at a time: readers that infer a schema turn `"2024-05-01"` into a
timestamp and `46` beside `0.5` into `46.0`, which is not what the user's answer column says.
"""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rlhf.data.rendering import Row
from rlhf.data.rows import RowReader
from rlhf.problems import some

SUFFIXES = (".jsonl", ".parquet")

Column = tuple[str, str, Callable[[Any], Any]]
"""The configuration's key, the column's name, and what turns a value into ours or raises
ValueError with the end of a sentence that begins with the column's name."""


class FileReader(RowReader):
    """Reads one file whole, and puts its faults into words."""

    def __init__(
        self, file: Path, columns: Mapping[str, Column], prefix: str, whole: bool = False
    ) -> None:
        """`whole`: rows keep every column."""
        super().__init__(file, None if whole else {name for _, name, _ in columns.values()})
        self._whole = whole
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
        whole = record if self._whole else None
        return Row(**{"id": f"{self._prefix}{number}", "origin": origin, **values}, whole=whole)

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

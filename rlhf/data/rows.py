"""One JSONL, JSON or Parquet file into rows as they are, one at a time."""

import json
import re
import reprlib
from codecs import getincrementaldecoder
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetFile

BATCH_ROWS = 256
"""Rows of a Parquet file that are held at once."""
CHUNK_BYTES = 2**20
MAX_OBJECT_CHARS = 2**24
"""Of one element of a JSON array; what seems longer is a broken one."""
_OPENING = {before: re.compile(rf"\s*{re.escape(before)}\s*\{{") for before in "[,"}
_PARQUET_FAULTS = (pa.ArrowException, ValueError, OverflowError)
"""What pyarrow raises for a broken file, and for values that Python has no type for."""
_NO_ARRAY = "not JSON; the file must be one array of objects, or one object per line as .jsonl"


TOO_DEEP = "JSON that is nested too deeply to be read"


def is_text(value: str) -> bool:
    """Whether it is all characters; JSON can spell halves of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """The beginning of a value, for a message."""
    # A nested value may be too deep for repr.
    text = reprlib.repr(value) if isinstance(value, list | dict) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and texts of a JSONL file's lines, but for blank ones: they end with a line
    feed alone, since JSON may hold what else ends lines. Raises OSError and UnicodeDecodeError."""
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


class RowReader:
    """Streams one file, and gathers its faults so that each kind takes one line.

    `file` ends in .jsonl, in .parquet, or in .json and is then one array of objects; of Parquet
    only the columns in `names` are read, or all.
    """

    def __init__(self, file: Path, names: Collection[str] | None) -> None:
        self._file = file
        self._names = names
        self._present: set[str] = set()
        self._faults: dict[tuple[str | None, str], list[int]] = {}
        self.bytes_read = 0
        """About how far it is; the file's size at the end."""

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Row numbers, from 1, and rows; raises OSError."""
        readers = {".jsonl": self._jsonl, ".json": self._array, ".parquet": self._parquet}
        return readers[self._file.suffix]()

    def _jsonl(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line numbers, from 1, and objects; blank lines are passed over."""
        with self._file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                self.bytes_read += len(line)
                if not line.strip():
                    continue
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    record = json.loads(text, object_pairs_hook=_unique)
                except UnicodeDecodeError as error:
                    self._fault(None, self._bad_utf8(line, error), number)
                except json.JSONDecodeError:
                    self._fault(None, "not JSON; each line must be one JSON object", number)
                except ValueError as error:
                    self._fault(None, str(error), number)
                except RecursionError:
                    self._fault(None, TOO_DEEP, number)
                else:
                    if isinstance(record, dict):
                        self._present |= record.keys()
                        yield number, record
                    else:
                        self._fault(None, "JSON, but not an object with columns", number)

    def _parquet(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Row numbers, from 1, and the columns that are wanted."""
        number = 0
        try:
            with ParquetFile(self._file) as parquet:
                self._present = set(parquet.schema_arrow.names)
                share = self._file.stat().st_size / max(1, parquet.metadata.num_rows)
                names = None if self._names is None else sorted(self._present & set(self._names))
                for batch in parquet.iter_batches(BATCH_ROWS, columns=names):
                    for record in batch.to_pylist():
                        number += 1
                        yield number, record
                    self.bytes_read = int(number * share)
        except UnicodeDecodeError:
            self._fault(None, "bad UTF-8 in or soon after this row", number + 1)
        except _PARQUET_FAULTS as error:
            self._fault(None, f"not readable as Parquet ({_in_a_line(error)})", number + 1)

    def _array(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Numbers, from 1, of the elements of one JSON array, and objects; a fault ends it."""
        number, array = 0, _Array()
        try:
            with self._file.open("rb") as file:
                for chunk in iter(partial(file.read, CHUNK_BYTES), b""):
                    for record in array.feed(chunk):
                        number += 1
                        self._present |= record.keys()
                        yield number, record
                    self.bytes_read += len(chunk)
                array.end()
        except UnicodeDecodeError:
            self._fault(
                None, "bad UTF-8 in or soon after this row; save the file as UTF-8", number + 1
            )
        except ValueError as error:
            self._fault(None, str(error), number + 1)
        except RecursionError:
            self._fault(None, TOO_DEEP, number + 1)

    def _unreadable(self, error: OSError) -> str:
        return f"{self._file}: cannot be read: {error.strerror or _in_a_line(error)}"

    def _bad_utf8(self, line: bytes, error: UnicodeDecodeError) -> str:
        """Names the column by the last key before the bad byte."""
        keys = re.findall(rb'"([^"\\]*)"\s*:', line[: error.start])
        place = f" in column {keys[-1].decode(errors='replace')!r}" if keys else ""
        return f"bad UTF-8{place}; save the file as UTF-8"

    def _fault(self, column: str | None, what: str, number: int) -> None:
        self._faults.setdefault((column, what), []).append(number)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Array:
    """Cuts a JSON array of objects, which comes in pieces, into its elements."""

    def __init__(self) -> None:
        self._bytes = getincrementaldecoder("utf-8-sig")()
        self._decode = json.JSONDecoder(object_pairs_hook=_unique).raw_decode
        self._text = ""
        self._before = "["
        """What has to stand before the next object."""

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """The elements that are complete now; raises ValueError for what is no such array."""
        self._text += self._bytes.decode(chunk)
        at = 0
        while opening := _OPENING[self._before].match(self._text, at):
            try:
                record, at = self._decode(self._text, opening.end() - 1)
            except json.JSONDecodeError:
                break  # it goes on in the next chunk, or never
            self._before = ","
            yield record
        self._text = self._text[at:]
        if not _OPENING[self._before].match(self._text) and not self._may_go_on():
            raise ValueError(_NO_ARRAY)
        if len(self._text) > MAX_OBJECT_CHARS:
            raise ValueError(f"not JSON, or an object of more than {MAX_OBJECT_CHARS} characters")

    def end(self) -> None:
        """Raises ValueError if the array is not over."""
        self._bytes.decode(b"", final=True)
        if "".join(self._text.split()) != self._end:
            raise ValueError(_NO_ARRAY)

    def _may_go_on(self) -> bool:
        """Whether what is left is a beginning of the next object, or of the end."""
        return "".join(self._text.split()) in ("", self._before, self._end)

    @property
    def _end(self) -> str:
        return "[]" if self._before == "[" else "]"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return record

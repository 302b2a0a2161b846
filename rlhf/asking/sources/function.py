"""Your own prompts: a function that yields rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.columns import ColumnsConfig, columns_of, lacking, split
from rlhf.config.texts import text
from rlhf.data.files import Column, FileReader
from rlhf.data.rendering import Row, Source
from rlhf.functions.served import Unfit, plain
from rlhf.functions.source import FunctionSource, callable_with, failure, read_source, shown
from rlhf.problems import InputError
from rlhf.ranges import number


@dataclass
class FunctionDataConfig(ColumnsConfig):
    """`def rows()`, which yields a mapping of columns for each prompt.

    It runs in the driver's process before workers start, again when a run is resumed, and is not
    locked in. It must yield the same rows every time.
    """

    name: ClassVar[str] = "function"

    function: str = text(MISSING)
    """`prompts.py:rows`, or `package.module:rows`."""
    heldout_function: str | None = text()
    """Yields the prompts to evaluate on; without it, `heldout_share` of the rows are held out."""
    max_rows: int | None = number(None, at_least=1)
    """Rows that are taken of either function at most."""

    def source(self, wanted: Wanted, seed: int) -> Source:
        problems = list(lacking(self, wanted))
        columns = columns_of(self)
        rows = self._read("function", self.function, columns, wanted, problems)
        if self.heldout_function is not None:
            columns.pop("demonstration", None)
            heldout = self._read(
                "heldout_function", self.heldout_function, columns, wanted, problems
            )
        if problems:
            raise InputError(problems)
        if self.heldout_function is not None:
            return Source(rows, heldout)
        return Source(*split(rows, self.heldout_share, "data.heldout_function"))

    def _read(
        self,
        name: str,
        reference: str,
        columns: Mapping[str, Column],
        wanted: Wanted,
        problems: list[str],
    ) -> list[Row]:
        """Every row; what is wrong is added to `problems`."""
        prefix = "heldout:" if name == "heldout_function" else ""
        try:
            source = read_source(f"data.{name}", reference)
            call = callable_with(source, ())
            reader = FunctionReader(source, call, self.max_rows, columns, prefix, wanted.rows)
            rows = reader.read(problems)
        except InputError as error:
            problems += error.problems
            return []
        if not rows and not problems:
            problems.append(f"data.{name}={reference}: yields no rows")
        return rows


class FunctionReader(FileReader):
    """Takes rows of a function one at a time, and puts its faults into words.

    Raises InputError where the function fails.
    """

    def __init__(
        self,
        source: FunctionSource,
        call: Callable[[], Any],
        max_rows: int | None,
        columns: Mapping[str, Column],
        prefix: str,
        whole: bool,
    ) -> None:
        super().__init__(Path(source.reference), columns, prefix, whole)
        self._source = source
        self._call = call
        self._max_rows = max_rows

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Row numbers, from 1, and the columns that are wanted."""
        for place, record in enumerate(islice(self._yielded(), self._max_rows), start=1):
            if not isinstance(record, Mapping):
                self._fault(None, f"yields a {type(record).__name__}, not a mapping", place)
                continue
            self._present.update(map(str, record))
            names = record.keys() if self._names is None else self._names & record.keys()
            columns, is_fit = {}, True
            for name in names:
                try:
                    columns[str(name)] = plain(record[name])
                except Unfit as error:
                    is_fit = False
                    self._fault(name, str(error).replace("returned", "is"), place)
            if is_fit:
                yield place, columns

    def _yielded(self) -> Iterator[Any]:
        taken = 0
        try:
            found = self._call()
            if not isinstance(found, Iterable) or isinstance(found, str | bytes | Mapping):
                raise self._source.refused(f"gives {shown(found)}, not rows; let it yield them")
            for record in found:
                yield record
                taken += 1
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # whatever a stranger's function does is told
            why = failure(error, self._source.file)
            raise self._source.refused(f"fails after {taken} rows: {why}") from error

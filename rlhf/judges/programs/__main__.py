"""`python -m rlhf.judges.programs FILE --out FILE`: more tests for a file of HumanEval's form."""

import argparse
import asyncio
import gzip
import json
import sys
import zlib
from pathlib import Path

from rlhf.judges.programs.extension import extended
from rlhf.judges.programs.running import Runner
from rlhf.judges.programs.tests import Unreadable
from rlhf.problems import InputError
from rlhf.tools.probe import probe, require

MAX_BYTES = 256 << 20
"""Of a file, unpacked; HumanEval has 0.2 MiB, and packed ones may hold a thousandfold."""


def run(asked: argparse.Namespace) -> None:
    """Raises InputError for what is not there, or cannot be."""
    require(probe(), "judge")
    rows = _rows(asked.file, asked.solution_column)
    found = asyncio.run(_extended(rows, asked))
    kept = [one or row for row, one in zip(rows, found, strict=True)]
    try:
        asked.out.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    except OSError as error:
        raise InputError([f"--out {asked.out}: cannot be written: {error.strerror}"]) from error
    num_more = sum(
        str(after["test"]).count("assert") - str(before["test"]).count("assert")
        for before, after in zip(rows, kept, strict=True)
    )
    left = sum(one is None for one in found)
    print(f"{num_more:,} more tests for {len(rows) - left} of {len(rows)} rows; the tests of the")
    print(f"other {left} are code, or their solution fails them, and they stay as they are")


def _rows(file: Path, column: str) -> list[dict]:
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rb") as packed:
            content = packed.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError([f"{file}: holds more than {MAX_BYTES >> 20} MiB; give it in parts"])
        rows = [json.loads(line) for line in content.split(b"\n") if line.strip()]
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InputError([f"{file}: cannot be read as JSON lines: {error}"]) from error
    texts = [row.get(column) if isinstance(row, dict) else None for row in rows]
    if faulty := [i for i, text in enumerate(texts, 1) if not isinstance(text, str)]:
        raise InputError(
            [
                f"{file} row {faulty[0]}: no solution in the column {column!r}; name the one that "
                "has it by --solution-column"
            ]
        )
    return rows


async def _extended(rows: list[dict], asked: argparse.Namespace) -> list[dict | None]:
    runner = Runner(asked.timeout, 512, asked.parallel, allow_unsafe=False)

    async def one(place: int, row: dict) -> dict | None:
        try:
            return await extended(row, row[asked.solution_column], asked.tests, runner, asked.seed)
        except Unreadable as error:
            raise InputError([f"{asked.file} row {place + 1}: {error}"]) from error

    return await asyncio.gather(*(one(place, row) for place, row in enumerate(rows)))


def main() -> None:
    """Exit codes: 0 written; 2 the input was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.judges.programs",
        description="Mutates the inputs of tests; a reference solution says what is right.",
    )
    parser.add_argument("file", type=Path, help="a .jsonl or .jsonl.gz of HumanEval's form")
    parser.add_argument("--out", type=Path, required=True, help="the .jsonl to write")
    parser.add_argument("--tests", type=int, default=30, help="new ones per row, at most")
    parser.add_argument("--solution-column", default="canonical_solution")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds, of a row's new tests")
    parser.add_argument("--parallel", type=int, default=2, help="programs at a time")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for name, least in {"tests": 1, "parallel": 1, "timeout": 0.1}.items():
        if not getattr(asked, name) >= least:
            parser.error(f"argument --{name}: {getattr(asked, name)}: must be at least {least}")
    try:
        run(asked)
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

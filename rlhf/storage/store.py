"""What a run keeps of its rounds: every preference in Parquet, every number in `metrics.jsonl`."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.problems import InputError, one_line
from rlhf.records import PROMPT_MESSAGES, USER, Collected, Completion, Said, said_of
from rlhf.storage.disk import append, fsync, write_atomically, writing

_SIDE_TYPES = {
    "": pa.string(),
    "_tokens": pa.int32(),
    "_truncated": pa.bool_(),
    "_score": pa.float64(),
    "_policy_version": pa.int32(),
    "_sample": pa.int32(),
    "_mixture": pa.float32(),
    "_parts": pa.string(),
    "_reason": pa.string(),
}

_MESSAGE = pa.struct({"role": pa.string(), "content": pa.string()})

SCHEMA = pa.schema(
    [
        pa.field("round", pa.int32(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field(PROMPT_MESSAGES, pa.list_(_MESSAGE)),
        pa.field("prefix", pa.string(), nullable=False),
        *(pa.field(f"chosen{name}", kind) for name, kind in _SIDE_TYPES.items()),
        *(pa.field(f"rejected{name}", kind) for name, kind in _SIDE_TYPES.items()),
        pa.field("margin", pa.float64()),
        pa.field("weight", pa.float64()),
        pa.field("win_prob", pa.float64()),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("dropped", pa.string()),
    ]
)
"""One row per preference and per `Dropped`: `dropped` is null for what is trained on, else the
reason. A dropped row has the judge's own scores, no `weight`, and null for a side that it lacks.
`prompt` is the last turn; a conversation of several is whole in `prompt_messages`, else null.
In a search tree `prefix` is how the answer begins, and either side goes on from there. `_parts` is
a JSON object of the parts of the judge's score, null where one is missing, and `_reason` the
judge's; both are null where the judge gave none."""

_PROMPTS = pa.schema(
    [SCHEMA.field(name) for name in ("round", "prompt_id", "prompt", PROMPT_MESSAGES)]
)
_OWN = ("prefix", "margin", "weight", "win_prob", "judge", "dropped")
"""Columns of which each row has a value of its own."""

PIECE_BYTES = 1 << 24
"""Of texts that are written together."""


class PreferenceStore:
    """Keeps every preference of a run, and every one that was dropped, with its provenance."""

    def __init__(self, directory: Path, first_round: int | None = None) -> None:
        """`directory` is the run directory; files go to `preferences/` in it. The run goes on at
        `first_round`: files of it and of later rounds, left by an earlier start, go."""
        self._directory = directory / "preferences"
        if first_round is not None:
            delete_rounds(self._directory, first_round)

    def prepare(self, round: int, collected: Sequence[Collected]) -> Callable[[], None]:
        """Writes one round's file, complete or not at all; the same input gives the same bytes. It
        is on disk, and gets its name when what is returned is called.

        Raises DiskFailed.
        """
        path = self._directory / f"round_{round:06d}.parquet"
        return prepare_table(path, SCHEMA, _pieces(round, collected))


def prepare_table(path: Path, schema: pa.Schema, pieces: Iterable[pa.Table]) -> Callable[[], None]:
    """A Parquet file of tables, which is old or new at any time, never half; it is on disk, and
    gets its name when what is returned is called. Raises DiskFailed."""
    unfinished = path.with_suffix(".tmp")
    # Of a text in many pairs there is one in the file, and a number for each.
    options = {"compression": "zstd", "dictionary_pagesize_limit": PIECE_BYTES}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with pq.ParquetWriter(unfinished, schema, **options) as writer:
                for piece in pieces:
                    if piece.num_rows:
                        writer.write_table(piece)
            fsync(unfinished)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
    return partial(_name, unfinished, path)


def _name(unfinished: Path, path: Path) -> None:
    with writing(path):
        os.replace(unfinished, path)
        fsync(path.parent)


def _pieces(round: int, collected: Sequence[Collected]) -> Iterator[pa.Table]:
    """All rows, some prompts' at a time, so that memory need not hold every text once per pair."""
    piece = _Piece(round)
    for one in collected:
        if piece.num_bytes > PIECE_BYTES:
            yield piece.table()
            piece = _Piece(round)
        piece.add(one)
    yield piece.table()


def delete_rounds(directory: Path, first: int) -> None:
    """Deletes a folder's files of that round and of later ones, and any that were never whole."""
    for path in directory.glob("round_*"):
        number = path.stem.removeprefix("round_")
        if path.suffix == ".tmp" or (number.isdigit() and int(number) >= first):
            path.unlink()


def round_files(directory: Path) -> list[Path]:
    """The files of the run's preferences, one per round, in order."""
    return sorted((directory / "preferences").glob("round_*.parquet"))


def read(directory: Path) -> pa.Table:
    """All preferences of the run in `directory`, in the order of rounds and prompts."""
    tables = [pq.read_table(path, schema=SCHEMA) for path in round_files(directory)]
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def preference_rows(round: int, *collected: Collected) -> list[dict[str, Any]]:
    """Some prompts' rows by the names of SCHEMA."""
    piece = _Piece(round)
    for one in collected:
        piece.add(one)
    return piece.table().to_pylist()


class _Piece:
    """The rows of some prompts. What many rows have in common is told once, in lists of prompts and
    sides, and each row has its place there: most of a round's pairs share their sides."""

    def __init__(self, round: int) -> None:
        self.num_bytes = 0
        """That the texts in all rows come to at most."""
        self._round = round
        self._prompts: list[dict[str, Any]] = []
        self._sides: list[dict[str, Any]] = []
        self._rows: list[tuple] = []
        """Place of the prompt, of the chosen and of the rejected side, and `_OWN`."""

    def add(self, one: Collected) -> None:
        place, prompt, side = len(self._prompts), one.prompt, self._side_of(one)
        num_sides, num_rows = len(self._sides), len(self._rows)
        for pair in one.preferences:
            chosen = side(pair.chosen.completion, pair.chosen.score)
            rejected = side(pair.rejected.completion, pair.rejected.score)
            own = (pair.prompt.prefix, pair.margin, pair.weight, pair.win_prob, pair.judge, None)
            self._rows.append((place, chosen, rejected, *own))
        score, judge = _score_of(one), one.judgement.judge if one.judgement else USER
        for dropped in one.dropped:
            high, low = score(dropped.chosen), score(dropped.rejected)
            chosen, rejected = side(dropped.chosen, high), side(dropped.rejected, low)
            margin = None if high is None or low is None else high - low
            own = ("", margin, None, None, judge, dropped.reason.value)
            self._rows.append((place, chosen, rejected, *own))
        told = {"round": self._round, "prompt_id": prompt.id, "prompt": prompt.text}
        if len(prompt.messages) > 1:
            told[PROMPT_MESSAGES] = [message._asdict() for message in prompt.messages]
        self._prompts.append(told)
        longest = max((len(entry[""]) for entry in self._sides[num_sides:]), default=0)
        self.num_bytes += (len(self._rows) - num_rows) * (len(prompt.text) + 2 * longest)

    def _side_of(self, one: Collected) -> Callable[[Completion | None, float | None], int | None]:
        """Gives the place of a completion with its score; there is none of a side that lacks."""
        said = _said(one)
        places: dict[tuple[int, float | None], int] = {}

        def side(completion: Completion | None, score: float | None) -> int | None:
            if completion is None:
                return None
            key = (id(completion), score)
            if key not in places:
                places[key] = len(self._sides)
                told = said.get(completion, Said()) if said else Said()
                self._sides.append(_side(completion, score, told))
            return places[key]

        return side

    def table(self) -> pa.Table:
        if not self._rows:
            return SCHEMA.empty_table()
        of_prompt, of_chosen, of_rejected, *own = zip(*self._rows, strict=True)
        columns = {
            name: pa.array(values, SCHEMA.field(name).type)
            for name, values in zip(_OWN, own, strict=True)
        }
        prompts = pa.Table.from_pylist(self._prompts, schema=_PROMPTS)
        columns |= _taken(prompts, of_prompt)
        sides = pa.Table.from_pylist(self._sides, schema=pa.schema(_SIDE_TYPES))
        columns |= _taken(sides, of_chosen, "chosen")
        columns |= _taken(sides, of_rejected, "rejected")
        return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _taken(told: pa.Table, places: Sequence[int | None], prefix: str = "") -> dict[str, Any]:
    """The columns of rows that stand at these places; null where there is none."""
    rows = told.take(pa.array(places, pa.int32()))
    return {
        f"{prefix}{name}": column
        for name, column in zip(rows.column_names, rows.columns, strict=True)
    }


def _score_of(one: Collected) -> Callable[[Completion | None], float | None]:
    """Gives the judge's own score of a completion, which is looked for once."""
    scores: dict[Completion, float | None] = {}
    if one.judgement and one.dropped:
        scores = dict(zip(one.completions, one.judgement.scores, strict=True))
    known: dict[int, float | None] = {}

    def score(completion: Completion | None) -> float | None:
        if completion is None:
            return None
        if id(completion) not in known:
            known[id(completion)] = scores.get(completion)
        return known[id(completion)]

    return score


def _said(one: Collected) -> dict[Completion, Said]:
    """By completion of those of which something was said."""
    found = dict(one.said)
    verdict = one.judgement
    if verdict is not None and (verdict.parts or verdict.reasons):
        for place, completion in enumerate(one.completions):
            found[completion] = said_of(verdict, place)
    return found


def _side(completion: Completion, score: float | None, told: Said) -> dict[str, Any]:
    parts = {name: _known(value) for name, value in told.parts.items()}
    reason = told.reason.encode(errors="replace").decode()  # halves of characters included
    return {
        "": completion.text,
        "_tokens": len(completion.token_ids),
        "_truncated": completion.truncated,
        "_score": score,
        "_policy_version": completion.policy_version,
        "_sample": completion.sample,
        "_mixture": completion.mixture,
        "_parts": json.dumps(parts) if parts else None,
        "_reason": reason or None,
    }


def _known(value: float | None) -> float | None:
    """JSON has no infinities."""
    return value if value is not None and math.isfinite(value) else None


class MetricsLog:
    """`metrics.jsonl`: one strict JSON object per line, one line per round, in order.

    `round` is the round's index, from 0, as in `preferences/`; -1 stands for the time before the
    first one. `policy_version` is the version that the round published: the one that the line's
    `eval/*` measured. All other keys are `stage/name`, sorted. A number that is not finite is
    null.
    """

    def __init__(self, path: Path, start_round: int = 0) -> None:
        """Goes on at `start_round`: lines of it and of later rounds, left by a killed run, go."""
        self._path = path
        kept = [r for r in read_metrics(path) if start_round and r["round"] < start_round]
        self._last = kept[-1] if kept else None
        self._replace(kept)

    def write(self, round: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Adds a round's line, or to it if it is the last; the line is on disk when this returns.

        Returns the whole line.
        """
        old = self._last if self._last and self._last["round"] == round else None
        known = {**(old or {}), **{name: _finite(value) for name, value in metrics.items()}}
        record = {"round": round, "policy_version": round + 1}
        record |= {name: known[name] for name in sorted(known.keys() - record.keys())}
        if old is None:
            append(self._path, _line(record))
        else:
            earlier = self._path.read_bytes().splitlines(keepends=True)[:-1]
            write_atomically(self._path, b"".join(earlier).decode() + _line(record))
        self._last = record
        return record

    def read(self) -> list[dict[str, Any]]:
        """Every line so far."""
        return read_metrics(self._path)

    def _replace(self, records: Sequence[Mapping[str, Any]]) -> None:
        write_atomically(self._path, "".join(map(_line, records)))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; none if there is no file yet.

    A last line without its end, which a killed run may leave, is passed over. Raises InputError
    for a line that is none of ours.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [_record(path, number, line) for number, line in enumerate(lines, 1)]


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError([f"{path}: is damaged in line {number} ({one_line(error)})"]) from error
    if not isinstance(record, dict) or type(record.get("round")) is not int:
        raise InputError([f"{path}: is damaged in line {number} (no round of a run)"])
    return record


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _finite(value: float) -> float | None:
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None

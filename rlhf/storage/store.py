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


def prepare_table(
    path: Path, schema: pa.Schema, pieces: Iterable[list[dict[str, Any]]]
) -> Callable[[], None]:
    """A Parquet file of rows, which is old or new at any time, never half; it is on disk, and
    gets its name when what is returned is called. Raises DiskFailed."""
    unfinished = path.with_suffix(".tmp")
    # Of a text in many pairs there is one in the file, and a number for each.
    options = {"compression": "zstd", "dictionary_pagesize_limit": PIECE_BYTES}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with pq.ParquetWriter(unfinished, schema, **options) as writer:
                for rows in pieces:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            fsync(unfinished)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
    return partial(_name, unfinished, path)


def _name(unfinished: Path, path: Path) -> None:
    with writing(path):
        os.replace(unfinished, path)
        fsync(path.parent)


def _pieces(round: int, collected: Sequence[Collected]) -> Iterator[list[dict[str, Any]]]:
    """All rows, some prompts' at a time, so that memory need not hold every text once per pair."""
    rows: list[dict[str, Any]] = []
    size = 0
    for one in collected:
        if rows and size > PIECE_BYTES:
            yield rows
            rows, size = [], 0
        for row in preference_rows(round, one):
            rows.append(row)
            size += len(row["prompt"]) + len(row.get("chosen", "")) + len(row.get("rejected", ""))
    if rows:
        yield rows


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


def preference_rows(round: int, one: Collected) -> Iterator[dict[str, Any]]:
    """One prompt's rows by the names of SCHEMA; a name that is absent is null."""
    same = {"round": round, "prompt_id": one.prompt.id, "prompt": one.prompt.text, "prefix": ""}
    if len(one.prompt.messages) > 1:
        same[PROMPT_MESSAGES] = [message._asdict() for message in one.prompt.messages]
    said = _said(one)
    known: dict[tuple[str, int, float | None], dict[str, Any]] = {}

    def side(name: str, completion: Completion | None, score: float | None) -> dict[str, Any]:
        """A completion of many pairs is described once."""
        key = (name, id(completion), score)
        if key not in known:
            known[key] = _side(name, completion, score, said)
        return known[key]

    for preference in one.preferences:
        chosen, rejected = preference.sides
        yield {
            **same,
            "prefix": preference.prompt.prefix,
            **side("chosen", chosen.completion, chosen.score),
            **side("rejected", rejected.completion, rejected.score),
            "margin": preference.margin,
            "weight": preference.weight,
            "win_prob": preference.win_prob,
            "judge": preference.judge,
        }
    verdict = one.judgement
    scores: dict[Completion, float | None] = {}
    if verdict and one.dropped:
        scores = dict(zip(one.completions, verdict.scores, strict=True))
    for dropped in one.dropped:
        chosen_score = scores.get(dropped.chosen) if dropped.chosen else None
        rejected_score = scores.get(dropped.rejected) if dropped.rejected else None
        margin = None
        if chosen_score is not None and rejected_score is not None:
            margin = chosen_score - rejected_score
        yield {
            **same,
            **side("chosen", dropped.chosen, chosen_score),
            **side("rejected", dropped.rejected, rejected_score),
            "margin": margin,
            "judge": verdict.judge if verdict else USER,
            "dropped": dropped.reason.value,
        }


def _said(one: Collected) -> dict[Completion, Said]:
    """By completion of those of which something was said."""
    found = dict(one.said)
    verdict = one.judgement
    if verdict is not None and (verdict.parts or verdict.reasons):
        for place, completion in enumerate(one.completions):
            found[completion] = said_of(verdict, place)
    return found


def _side(
    side: str,
    completion: Completion | None,
    score: float | None,
    said: Mapping[Completion, Said],
) -> dict[str, Any]:
    if completion is None:
        return {}
    told = said.get(completion, Said())
    parts = {name: _known(value) for name, value in told.parts.items()}
    reason = told.reason.encode(errors="replace").decode()  # halves of characters included
    return {
        side: completion.text,
        f"{side}_tokens": len(completion.token_ids),
        f"{side}_truncated": completion.truncated,
        f"{side}_score": score,
        f"{side}_policy_version": completion.policy_version,
        f"{side}_sample": completion.sample,
        f"{side}_mixture": completion.mixture,
        f"{side}_parts": json.dumps(parts) if parts else None,
        f"{side}_reason": reason or None,
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
            self._replace([*self.read()[:-1], record])
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

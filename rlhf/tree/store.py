"""Finished trees on disk: a journal while a round goes on, one Parquet file per finished round."""

import json
from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.records import Collected, Prompt
from rlhf.storage.disk import append, write_atomically
from rlhf.storage.store import delete_rounds, prepare_table
from rlhf.tree.nodes import JUDGED, Tree, searched

TREES = "trees"
JOURNAL = "unfinished_round.jsonl"
PLANNED = "num_rounds.json"
"""For how many rounds the run was set."""

_STEP = pa.struct(
    [
        ("sample", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float64())),
        ("text", pa.string()),
        ("truncated", pa.bool_()),
        ("stopped", pa.bool_()),
        ("policy_version", pa.int32()),
        ("observed", pa.list_(pa.list_(pa.int32()))),
    ]
)
_NODE = pa.struct(
    [
        ("parent", pa.int32()),
        ("step", _STEP),
        ("ended", pa.bool_()),
        ("value", pa.float64()),
        ("score", pa.float64()),
        ("confidence", pa.float64()),
        ("prior", pa.float64()),
        ("num_copies", pa.int32()),
        ("visits", pa.int32()),
        ("q", pa.float64()),
        ("below", pa.float64()),
        ("on_path", pa.bool_()),
        ("expanded", pa.bool_()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("round", pa.int32(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        *(
            pa.field(f"num_{name}", pa.int64(), nullable=False)
            for name in (
                "tokens",
                "prompt_tokens",
                "cached_tokens",
                "simulations",
                "judged",
                "evaluated",
            )
        ),
        pa.field("nodes", pa.list_(_NODE), nullable=False),
        pa.field(JUDGED, pa.string()),
    ]
)
"""One row per tree; nodes in the order of their making, `parent` a position among them."""


class TreeStore:
    """`rlhf.algorithms.tree.Kept` and `rlhf.stages.Store` in a run directory.

    A tree is on disk when `add` returns. It is known by its prompt and seed, which no other round
    has, and belongs to that round's policy: a run that goes on after a crash finds it here.
    """

    def __init__(self, directory: Path, first_round: int, num_rounds: int = 0) -> None:
        """`directory` is the run's; only trees from `first_round` on can be asked for again.

        None can if the run is to be longer or shorter than when they were searched: learning rates
        follow `num_rounds`, so they are those of other policies.
        """
        self._directory = directory / TREES
        self._journal = self._directory / JOURNAL
        self._directory.mkdir(parents=True, exist_ok=True)
        planned = self._directory / PLANNED
        is_same = not planned.exists() or json.loads(planned.read_text()) == num_rounds
        write_atomically(planned, json.dumps(num_rounds))
        if not is_same:
            delete_rounds(self._directory, first_round)
        self._unfinished = list(_journal_records(self._journal)) if is_same else []
        self._rewrite()  # without a last line that a crash has cut
        finished = (
            record
            for file in round_files(directory)
            if is_same and int(file.stem.removeprefix("round_")) >= first_round
            for record in pq.read_table(file, schema=SCHEMA).to_pylist()
        )
        self._known = {_key(record): record for record in (*finished, *self._unfinished)}

    def find(self, prompt: Prompt, seed: int) -> Tree | None:
        """The finished tree of this prompt in this round."""
        record = self._known.get((prompt.id, seed))
        return Tree.from_record(record, prompt) if record else None

    def add(self, tree: Tree) -> None:
        record = tree.record()
        self._unfinished.append(record)
        append(self._journal, json.dumps(record) + "\n", sync=False)

    def prepare(self, round: int, collected: Sequence[Collected]) -> Callable[[], None]:
        """Moves the round's trees from the journal into a file of their own, once what is returned
        is called."""
        rows = [{"round": round, **tree.record()} for tree in searched(collected)]
        path = self._directory / f"round_{round:06d}.parquet"
        name = prepare_table(path, SCHEMA, [pa.Table.from_pylist(rows, schema=SCHEMA)])
        return partial(self._keep, name, {_key(row) for row in rows})

    def _keep(self, name: Callable[[], None], written: Set[tuple[str, int]]) -> None:
        name()
        self._unfinished = [r for r in self._unfinished if _key(r) not in written]
        self._rewrite()

    def _rewrite(self) -> None:
        text = "".join(json.dumps(one) + "\n" for one in self._unfinished)
        write_atomically(self._journal, text)


def round_files(directory: Path) -> list[Path]:
    """The Parquet files of the run in `directory`, in the order of rounds."""
    return sorted((directory / TREES).glob("round_*.parquet"))


def unfinished(directory: Path) -> list[dict[str, Any]]:
    """The trees of a round that is not over, as records."""
    return list(_journal_records(directory / TREES / JOURNAL))


def _journal_records(path: Path) -> Iterator[dict[str, Any]]:
    """A last line without its end, which a killed run may leave, is passed over."""
    if path.exists():
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        yield from map(json.loads, lines)


def _key(record: dict[str, Any]) -> tuple[str, int]:
    return record["prompt_id"], record["seed"]

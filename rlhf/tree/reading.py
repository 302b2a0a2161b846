"""Finding a run's search trees on disk, and the pairs that they gave."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.problems import InputError, some
from rlhf.records import Message, Prompt, TokenIds
from rlhf.tree.nodes import JUDGED, Tree
from rlhf.tree.store import JOURNAL, SCHEMA, TREES, round_files, unfinished

UNFINISHED = "unfinished"
"""The name of a round that is not over."""
_NEAR_CHARACTERS = 80
"""Of each prompt's text, when something near is looked for."""


class Found(NamedTuple):
    """A tree, and the name of the round that it is from."""

    round: str
    tree: Tree


@dataclass(frozen=True)
class Shelf:
    """The trees of one round, read when they are asked for."""

    round: str
    """Its number, or `UNFINISHED`."""
    source: Path | pa.Table

    def titles(self) -> list[tuple[str, str]]:
        """Id and text of each tree's prompt; no text while the round is not over."""
        return [(row["prompt_id"], row["prompt"]) for row in self._rows("prompt_id", "prompt")]

    def keys(self) -> list[tuple[str, int]]:
        """What no two trees of a run share: prompt and seed."""
        return [(row["prompt_id"], row["seed"]) for row in self._rows("prompt_id", "seed")]

    def found(self, place: int) -> Found:
        """The tree at that place among `titles`."""
        (row,) = self._whole.slice(place, 1).to_pylist()
        messages = (Message("user", row["prompt"]),)
        # Its own tokens are not kept, and nobody reads them here.
        prompt = Prompt(row["prompt_id"], messages, token_ids=TokenIds([0]), answer=row["answer"])
        try:
            return Found(self.round, Tree.from_record(row, prompt))
        except (KeyError, TypeError, IndexError) as error:
            raise InputError([f"{self.source}: row {place} is no tree ({error!r})"]) from error

    def __len__(self) -> int:
        return len(self._rows("seed"))

    def __iter__(self) -> Iterator[Found]:
        return map(self.found, range(self._whole.num_rows))

    @cached_property
    def _whole(self) -> pa.Table:
        if isinstance(self.source, pa.Table):
            return self.source
        return _read(self.source, [name for name in SCHEMA.names if name != JUDGED])

    def _rows(self, *names: str) -> list[dict[str, Any]]:
        if isinstance(self.source, Path):
            return _read(self.source, list(names)).to_pylist()
        return self.source.select(list(names)).to_pylist()


def shelves(directory: Path, round: str | None = None) -> list[Shelf]:
    """The run's rounds, newest first, or the one asked for; raises InputError if there is none."""
    if not directory.is_dir():
        raise InputError([f"{directory}: there is no such directory"])
    # Before the files: a round that ends meanwhile is seen twice, rather than not at all.
    journal = _journal(directory)
    files = reversed(round_files(directory))
    found = [Shelf(str(int(file.stem.removeprefix("round_"))), file) for file in files]
    if journal.num_rows and found:
        written = found[0].keys()
        keys = Shelf(UNFINISHED, journal).keys()
        journal = journal.filter([key not in written for key in keys])
    if journal.num_rows:
        found.insert(0, Shelf(UNFINISHED, journal))
    if not found:
        hint = f"algorithm=mcts, tree_plv, tpo and itool write them to {directory / TREES}"
        raise InputError([f"{directory}: this run has no search trees; {hint}"])
    wanted = [shelf for shelf in found if round in (None, shelf.round)]
    if not wanted:
        there = some([shelf.round for shelf in found])
        raise InputError(
            [f"--round {round}: has no trees; rounds that have, newest first: {there}"]
        )
    return wanted


def find(directory: Path, wanted: str, round: str | None = None) -> Found:
    """The newest tree of the prompt with that id, that text, or else that part of its text or id.

    Raises InputError if no prompt is meant, or more than one.
    """
    shelves(directory, round)  # which tells if there is no such round
    texts: dict[str, str] = {}
    places: dict[str, dict[str, tuple[Shelf, int]]] = {}
    for shelf in shelves(directory):
        for place, (id, text) in enumerate(shelf.titles()):
            texts[id] = texts.get(id) or text  # an unfinished round has none
            places.setdefault(id, {}).setdefault(shelf.round, (shelf, place))
        if wanted in places and round in (None, *places[wanted]):
            break
    # A whole id or text means the same in every round, a part of one only where it is looked for.
    ids = _same(wanted, texts) or [
        id for id in _having(wanted, texts) if round in (None, *places[id])
    ]
    if len(ids) > 1:
        many = f"is part of {len(ids)} prompts"
        raise InputError([f"{wanted!r}: {many}; give more of it, or an id: {some(ids)}"])
    none = f"{wanted!r}: no tree of {f'round {round}' if round else directory} is of such a prompt"
    if not ids:
        raise InputError([none + _near(wanted, texts)])
    found = places[ids[0]]
    if round not in (None, *found):
        raise InputError([f"{none}; rounds that have one, newest first: {some(list(found))}"])
    shelf, place = found[round or next(iter(found))]
    return shelf.found(place)


def _same(wanted: str, texts: Mapping[str, str]) -> list[str]:
    if wanted in texts:
        return [wanted]
    return [id for id, text in texts.items() if _plain(text) == _plain(wanted)]


def _having(wanted: str, texts: Mapping[str, str]) -> list[str]:
    part = _plain(wanted)
    return [id for id, text in texts.items() if part in _plain(text) or part in _plain(id)]


def _near(wanted: str, texts: Mapping[str, str]) -> str:
    near = get_close_matches(wanted, texts, 3)
    if not near:
        by_start = {_plain(text)[:_NEAR_CHARACTERS]: id for id, text in texts.items()}
        close = get_close_matches(_plain(wanted)[:_NEAR_CHARACTERS], by_start, 3)
        near = [by_start[start] for start in close]
    return f"; near it: {', '.join(near)}" if near else ""


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


class TreePair(NamedTuple):
    """A row of `preferences/`: a pair that a tree gave, or one that was dropped."""

    prefix: str
    chosen: str | None
    rejected: str | None
    chosen_node: int | None
    """The sibling's index in the tree; None if that cannot be told."""
    rejected_node: int | None
    margin: float | None
    win_prob: float | None
    dropped: str | None
    """Why; None for what is trained on."""


def tree_pairs(directory: Path, found: Found) -> list[TreePair]:
    """Those of the tree, in the order of the file; none while its round is not over."""
    if found.round == UNFINISHED:
        return []
    file = directory / "preferences" / f"round_{int(found.round):06d}.parquet"
    if not file.exists():
        return []
    names = ("prefix", "chosen", "rejected", "margin", "win_prob", "dropped")
    samples = ("chosen_sample", "rejected_sample")
    rows = _read(file, ["prompt_id", *names, *samples]).to_pylist()
    return [
        TreePair(
            **{name: row[name] for name in names},
            chosen_node=_node(found.tree, row["chosen_sample"], row["chosen"]),
            rejected_node=_node(found.tree, row["rejected_sample"], row["rejected"]),
        )
        for row in rows
        if row["prompt_id"] == found.tree.prompt.id
    ]


def _node(tree: Tree, index: int | None, text: str | None) -> int | None:
    """The node that a side begins with; None if its text is another."""
    if index is None or text is None or not 0 <= index < len(tree.nodes):
        return None
    step = tree.nodes[index].step
    return index if step and text.startswith(step.text) else None


def _journal(directory: Path) -> pa.Table:
    """The trees of the round that is not over, as a finished round keeps them."""
    try:
        rows = [{"prompt": "", **record} for record in unfinished(directory)]
        return pa.Table.from_pylist(rows, schema=SCHEMA)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise InputError([f"{directory / TREES / JOURNAL}: cannot be read: {error}"]) from error


def _read(file: Path, columns: Iterable[str]) -> pa.Table:
    columns = list(columns)
    try:
        lacking = set(columns) - set(pq.read_schema(file).names)
        if not lacking:
            return pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError([f"{file}: cannot be read: {error}"]) from error
    raise InputError([f"{file}: has no column {', '.join(sorted(lacking))}"])

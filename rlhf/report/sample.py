"""Which preferences the page of a run shows: a bounded sample, spread evenly."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.problems import InputError
from rlhf.storage.store import round_files

NUM_ROWS = 400
MAX_CHARACTERS = 12_000
"""Of one text; of a longer one the rest is left out, and said to be."""


@dataclass(frozen=True)
class Sample:
    """Some preferences of a run, in the order of rounds."""

    rows: list[dict[str, Any]]
    """As `rlhf.storage.store.SCHEMA` has them, without what nobody reads; texts are bounded."""
    num_preferences: int
    """How many there are in all, dropped ones included."""


def sample_preferences(directory: Path, num_rows: int = NUM_ROWS) -> Sample:
    """Each reason of dropping, and none, has the same number of rows, or all that there are; those
    of a reason are evenly spread over the run. Equal runs have equal samples.

    Only one round's texts are in memory at a time. Raises InputError for a file that is no Parquet.
    """
    by_reason: dict[str, list[tuple[Path, np.ndarray]]] = defaultdict(list)
    for file in round_files(directory):
        reasons = _read(file, ["dropped"])["dropped"].fill_null("").to_numpy()
        for reason in np.unique(reasons):
            by_reason[reason].append((file, np.flatnonzero(reasons == reason)))
    counts = {reason: sum(len(rows) for _, rows in files) for reason, files in by_reason.items()}
    chosen: dict[Path, list[int]] = defaultdict(list)
    for reason, num in even_quotas(counts, num_rows).items():
        wanted, before = evenly_spaced(counts[reason], num), 0
        for file, rows in by_reason[reason]:
            here = wanted[(wanted >= before) & (wanted < before + len(rows))] - before
            chosen[file] += rows[here].tolist()
            before += len(rows)
    files = sorted(file for file, places in chosen.items() if places)
    rows = [row for file in files for row in _rows(file, sorted(chosen[file]))]
    return Sample(rows, sum(counts.values()))


def even_quotas(counts: dict[str, int], total: int) -> dict[str, int]:
    """How many of each to take, `total` at most: equally many, where there are as many."""
    quotas: dict[str, int] = {}
    for place, name in enumerate(sorted(counts, key=lambda name: (counts[name], name))):
        fair = (total - sum(quotas.values())) // (len(counts) - place)
        quotas[name] = min(counts[name], fair)
    return quotas


def evenly_spaced(count: int, num: int) -> np.ndarray:
    """`num` different places among `count`, each from the middle of an equal part of them."""
    return ((np.arange(num) + 0.5) * count / max(1, num)).astype(int)


def _rows(file: Path, places: list[int]) -> list[dict[str, Any]]:
    sides = ("", "_tokens", "_truncated", "_score", "_policy_version")
    names = ["round", "prompt_id", "prompt", "prefix", "margin", "weight", "win_prob", "judge"]
    names += ["dropped", *(f"{side}{name}" for side in ("chosen", "rejected") for name in sides)]
    rows = _read(file, names).take(places).to_pylist()
    return [{name: _bounded(value) for name, value in row.items()} for row in rows]


def _bounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        left_out = len(value) - MAX_CHARACTERS
        return f"{value[:MAX_CHARACTERS]} … ({left_out:,} more characters are not on this page)"
    return value


def _read(file: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError([f"{file}: is damaged ({error}); move it away to go on"]) from error

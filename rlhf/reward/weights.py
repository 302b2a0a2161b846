"""`python -m rlhf.reward.weights run=DIR`: how much each member of a panel says of labelled pairs.

A Bradley-Terry model of the members' scores: P(first preferred) = σ(Σ weight·(score of the first -
score of the second)). The pairs are those of a run whose judge is a panel, with the parts of its
verdicts; `data=FILE` takes JSONL of your own, with `chosen_parts` and `rejected_parts` as mappings
from names to scores in each line, or what `python -m rlhf.reward.strength` made of it, of which
`members=` then names the judges in their order. `members=a,b` fits those alone. Prints each weight
with its 95 % interval, and writes `output=weights.json` for `judge.weights_file`.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from os.path import expanduser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf.data.rows import text_lines
from rlhf.launching.command_line import told
from rlhf.problems import InputError
from rlhf.storage.disk import write_atomically
from rlhf.storage.store import read

KEYS = ("run", "data", "members", "output")
CHOSEN, REJECTED, STRENGTH = "chosen_parts", "rejected_parts", "strength"
"""Columns: what the members say of either side, or by how much each prefers the chosen one."""
MOST_STEPS = 100
PRIOR = 1.0
"""Precision of the weights' normal prior, with scores in units of their spread: hardly felt beside
hundreds of pairs, and what keeps weights finite where a member explains every pair."""


class Pair(NamedTuple):
    """Two completions by their parts, and how surely the first is the better one."""

    chosen: Mapping[str, float | None]
    rejected: Mapping[str, float | None]
    win_prob: float = 1.0


class Fit(NamedTuple):
    """Of each member, in order."""

    weights: np.ndarray
    errors: np.ndarray
    """Standard errors."""
    accuracy: float
    """Share of the pairs whose preferred side has the larger weighted sum; a tie is half."""


def fit(differences: np.ndarray, win_prob: np.ndarray) -> Fit:
    """By Newton's method on the penalised log-likelihood, which is concave.

    `differences`: pairs by members, the first side's scores minus the second's.
    """
    spread = np.sqrt((differences**2).mean(axis=0))
    scaled = differences / spread
    weights = np.zeros(scaled.shape[1])
    prior = PRIOR * np.eye(len(weights))
    for _ in range(MOST_STEPS):
        won = _sigmoid(scaled @ weights)
        gradient = scaled.T @ (win_prob - won) - PRIOR * weights
        curvature = (scaled * (won * (1 - won))[:, None]).T @ scaled + prior
        step = np.linalg.solve(curvature, gradient)
        weights += step / max(1.0, np.abs(step).max())  # short ones: far away σ is flat
        if np.abs(step).max() < 1e-10:
            break
    margins, better = scaled @ weights, np.sign(win_prob - 0.5)
    agreed = np.where(margins == 0, 0.5, np.sign(margins) == better)[better != 0]
    errors = np.sqrt(np.diag(np.linalg.inv(curvature)))
    return Fit(weights / spread, errors / spread, float(agreed.mean()) if len(agreed) else 0.5)


def _sigmoid(margins: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(margins / 2))


def matrix(pairs: Sequence[Pair], members: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What `fit` takes, of the pairs of which every member's scores are known.

    Raises InputError if those are too few, or a member never sees a difference.
    """
    rows, labels = [], []
    for chosen, rejected, win_prob in pairs:
        both = [(chosen.get(name), rejected.get(name)) for name in members]
        known = [a - b for a, b in both if a is not None and b is not None and isfinite(a - b)]
        if len(known) == len(members):
            rows.append(known)
            labels.append(win_prob)
    if len(rows) <= len(members):
        raise InputError(
            [
                f"members={','.join(members)}: {len(rows)} of {len(pairs)} pairs have scores of "
                "them all, and there must be more pairs than members; name fewer"
            ]
        )
    differences = np.array(rows, dtype=float)
    if blind := [name for name, d in zip(members, differences.T, strict=True) if not d.any()]:
        raise InputError(
            [
                f"members: {', '.join(blind)} scores both sides of every pair alike, so that "
                "nothing can be learnt of it; name the others in members="
            ]
        )
    return differences, np.array(labels)


def pairs_of_run(directory: Path) -> list[Pair]:
    """Those that were trained on."""
    rows = read(directory).to_pylist()
    return [
        Pair(json.loads(row["chosen_parts"]), json.loads(row["rejected_parts"]), row["win_prob"])
        for row in rows
        if row["dropped"] is None and row["chosen_parts"] and row["rejected_parts"]
    ]


def pairs_of_file(file: Path, members: Sequence[str] = ()) -> Iterator[Pair]:
    """Raises InputError for what has no parts, with its line; `members`: whose strengths of
    preference a line may have instead."""
    try:
        lines = list(text_lines(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError([f"data={file}: cannot be read ({error})"]) from error
    for number, line in lines:
        try:
            pair = _pair(json.loads(line), members)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                [
                    f"data={file}: line {number} is not JSON with chosen_parts and "
                    f'rejected_parts, such as {{"taste": 0.5}}, or a list "strength" with a '
                    f"number for each of members= ({error!r})"
                ]
            ) from error
        yield pair


def _pair(row: Mapping[str, Any], members: Sequence[str]) -> Pair:
    if STRENGTH in row and CHOSEN not in row:
        leads = dict(zip(members, map(float, row[STRENGTH]), strict=True))
        return Pair(leads, dict.fromkeys(leads, 0.0))
    return Pair(_parts(row[CHOSEN]), _parts(row[REJECTED]))


def _parts(found: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: None if value is None else float(value) for name, value in found.items()}


def learn(words: Sequence[str]) -> None:
    """The whole command; raises InputError."""
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    if unknown := given.keys() - set(KEYS):
        raise InputError([f"{key}: there is no such key; there are {', '.join(KEYS)}"
                          for key in sorted(unknown)])  # fmt: skip
    if bool(given.get("run")) == bool(given.get("data")):
        raise InputError(["run=DIR or data=FILE: say where the pairs are, one of the two"])
    place = Path(expanduser(given.get("run") or given["data"]))
    wanted = [name for name in given.get("members", "").split(",") if name]
    pairs = pairs_of_run(place) if given.get("run") else list(pairs_of_file(place, wanted))
    named = sorted({name for pair in pairs for name in pair.chosen})
    members = wanted or named
    if lacking := [name for name in members if name not in named]:
        there = ", ".join(named) or "none: its judge has no parts"
        raise InputError([f"members={','.join(lacking)}: {place} has no such; there is {there}"])
    differences, labels = matrix(pairs, members)
    found = fit(differences, labels)
    for name, weight, error in zip(members, found.weights, found.errors, strict=True):
        print(f"{name:20} {weight:10.4g} ± {1.96 * error:.2g}")
    print(f"{len(labels)} of {len(pairs)} pairs, of which they put {found.accuracy:.1%} right")
    output = Path(expanduser(given.get("output", "weights.json")))
    weights = dict(zip(members, found.weights.tolist(), strict=True))
    write_atomically(output, json.dumps(weights, indent=1) + "\n")
    print(f"judge.weights_file={output}")


if __name__ == "__main__":
    with told():
        learn(sys.argv[1:])

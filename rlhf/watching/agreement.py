"""How far several judges agree, beyond what chance would have them agree."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from math import isfinite
from statistics import fmean

from rlhf.records import Verdict

Table = tuple[tuple[float, float], tuple[float, float]]
"""How often one judge said yes or no, by what the other said."""
Scores = Sequence[float | None]


def kappa(table: Table) -> float | None:
    """Cohen's: (observed - expected) / (1 - expected), of shares of agreement; None where nothing
    was said, or chance alone would have both agree."""
    (both, first), (second, neither) = table
    total = both + first + second + neither
    if not total:
        return None
    observed = (both + neither) / total
    yes = (both + first) * (both + second) / total**2
    no = (second + neither) * (first + neither) / total**2
    return (observed - yes - no) / (1 - yes - no) if yes + no < 1 else None


def agreement(verdicts: Iterable[Verdict]) -> float | None:
    """The mean `kappa` of every two judges that were asked for the same verdicts: which of two
    completions is better, of those that neither sees as equal. None without two such judges."""
    tables: dict[tuple[str, str], list[list[float]]] = {}
    for verdict in verdicts:
        asked = [name for name in verdict.member_failures if name in verdict.parts]
        members = [name for name in asked if "." not in name]
        for a, b in combinations(members, 2):
            table = tables.setdefault((a, b), [[0, 0], [0, 0]])
            for one, other in _votes(verdict.parts[a], verdict.parts[b]):
                table[one][other] += 1
    found = (kappa(((t[0][0], t[0][1]), (t[1][0], t[1][1]))) for t in tables.values())
    known = [value for value in found if value is not None]
    return fmean(known) if known else None


def _votes(first: Scores, second: Scores) -> Iterator[tuple[bool, bool]]:
    """Of every two completions, whether each judge prefers the later one."""
    for i, j in combinations(range(len(first)), 2):
        values = first[i], first[j], second[i], second[j]
        a, b, c, d = (value if value is not None and isfinite(value) else None for value in values)
        if a is None or b is None or c is None or d is None or a == b or c == d:
            continue
        yield b > a, d > c

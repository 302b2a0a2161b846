"""What two runs that should be equal have left, and where they are not."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rlhf.problems import some
from rlhf.storage.store import read, read_metrics
from rlhf.watching.metric_names import is_repeatable

ROWS = ("round", "prompt_id", "prefix", "chosen_sample", "rejected_sample", "dropped")
"""What tells one stored preference from another."""


def differences(expected: Path, found: Path, exact: bool = True) -> dict[str, str]:
    """Where the run in `found` is not like the one in `expected`: a line each for `weights`,
    `metrics` and `preferences`, empty where they are equal.

    Not `exact`, rounds and prompts must all be there once, and nothing else is compared.
    """
    if not exact:
        return {"metrics": _lost_rounds(expected, found), "preferences": _doubled(found)}
    return {
        "weights": next(_weights(expected / "policy", found / "policy"), ""),
        "metrics": next(_metrics(expected, found), ""),
        "preferences": next(_preferences(expected, found), ""),
    }


def _weights(expected: Path, found: Path) -> Iterator[str]:
    """Bit for bit."""
    from safetensors import safe_open

    files = {
        folder: sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
        for folder in (expected, found)
    }
    if not files[expected] or files[expected] != files[found]:
        yield f"{found} has {some(files[found]) or 'no weights'}, not {some(files[expected])}"
        return
    for name in files[expected]:
        with safe_open(expected / name, "pt") as one, safe_open(found / name, "pt") as other:
            if sorted(one.keys()) != sorted(other.keys()):
                yield f"{name}: other tensors"
                return
            for key in sorted(one.keys()):
                a, b = one.get_tensor(key), other.get_tensor(key)
                if a.shape != b.shape or a.dtype != b.dtype:
                    yield f"{name}: {key} has another shape or type"
                elif not a.equal(b):
                    yield f"{name}: {key} differs by up to {(a - b).abs().max().item():.3g}"


def _metrics(expected: Path, found: Path) -> Iterator[str]:
    """Those that do not depend on the clock, round by round."""
    rounds = [_repeatable(folder) for folder in (expected, found)]
    for number in sorted(rounds[0].keys() | rounds[1].keys()):
        one, other = (found.get(number, {}) for found in rounds)
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                yield f"round {number}: {name} is {other.get(name)}, not {one.get(name)}"
    if (lines := len(read_metrics(found / "metrics.jsonl"))) != len(rounds[1]):
        yield f"{lines} lines of {len(rounds[1])} rounds"


def _repeatable(directory: Path) -> dict[int, dict]:
    return {
        record["round"]: {name: value for name, value in record.items() if is_repeatable(name)}
        for record in read_metrics(directory / "metrics.jsonl")
    }


def _preferences(expected: Path, found: Path) -> Iterator[str]:
    one, other = read(expected), read(found)
    rows = [Counter(_ids(table)) for table in (one, other)]
    if lost := rows[0] - rows[1]:
        yield f"{lost.total()} lost, such as {_named(next(iter(lost)))}"
    if more := rows[1] - rows[0]:
        yield f"{more.total()} too many, such as {_named(next(iter(more)))}"
    if not one.equals(other):
        names = [name for name in one.column_names if not one[name].equals(other[name])]
        yield f"other values in {some(names)}"


def _ids(table) -> list[tuple]:
    return list(zip(*(table[name].to_pylist() for name in ROWS), strict=True))


def _named(row: tuple) -> str:
    round, prompt, _, chosen, rejected, _ = row
    return f"samples {chosen} and {rejected} of prompt {prompt} in round {round}"


def _lost_rounds(expected: Path, found: Path) -> str:
    """Where the rounds, or the numbers of their prompts, are others."""
    counts = [
        [(one["round"], one.get("rollout/num_prompts")) for one in read_metrics(path)]
        for path in (expected / "metrics.jsonl", found / "metrics.jsonl")
    ]
    for one, other in zip(*counts, strict=False):
        if one != other:
            return f"round {other[0]} has {other[1]} prompts, where round {one[0]} has {one[1]}"
    if len(counts[0]) != len(counts[1]):
        return f"{len(counts[1])} lines, not {len(counts[0])}"
    return ""


def _doubled(found: Path) -> str:
    rows = Counter(_ids(read(found)))
    twice = [row for row, count in rows.items() if count > 1 and row[-1] is None]
    return f"{len(twice)} are there twice, such as {_named(twice[0])}" if twice else ""

"""`python -m rlhf.reward.strength data=FILE judges=DIR,DIR output=FILE`: how strongly an ensemble
prefers the chosen side of each pair.

Every judge is a reward model that `python -m rlhf.reward` trained, each with data.resample=true
and a seed of its own. The output is the JSONL file with a column `strength` more: a list with each
judge's score of the chosen side minus that of the other, which `data.strength_column` reads. Of a
run whose judge is a panel, `run=DIR members=a,b` writes its pairs with the members' instead.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os.path import expanduser
from pathlib import Path
from typing import Any

from rlhf.config.reward import PreferenceFilesConfig
from rlhf.data.preference_files import Example, read_examples
from rlhf.data.rows import text_lines
from rlhf.judges.reward_model import Answer, RewardModelConfig
from rlhf.launching.command_line import told
from rlhf.problems import InputError, some
from rlhf.records import PROMPT_MESSAGES
from rlhf.reward.labels import strength
from rlhf.storage.disk import write_atomically
from rlhf.storage.store import read

COLUMNS = ("prompt_column", "chosen_column", "rejected_column")
KEYS = ("data", "judges", "run", "members", "output", *(f"data.{name}" for name in COLUMNS))


def with_strengths(file: Path, judges: Sequence[str], **columns: str) -> Iterator[dict[str, Any]]:
    """The file's rows with one column more, but for those that have something in `dropped`;
    `columns`: what those of COLUMNS are called. Raises InputError for what cannot be scored."""
    if file.suffix != ".jsonl":
        raise InputError([f"data={file}: is no .jsonl file; give one, with a pair in each line"])
    # Held-out rows are named too, so that none is split off.
    config = replace(PreferenceFilesConfig(path=str(file), heldout_path=str(file)), **columns)
    examples = read_examples(config).train
    by_judge = [list(_differences(path, examples)) for path in judges]
    lines = dict(text_lines(file))
    for place, example in enumerate(examples):
        row = json.loads(lines[example.row])
        yield {**row, "strength": [differences[place] for differences in by_judge]}


def _differences(path: str, examples: Sequence[Example]) -> Iterator[float]:
    config = RewardModelConfig(path=path)
    config.inspect(set())
    answers = [Answer(one.messages, text, True) for one in examples for text in one.texts]
    scores = iter(config.build().score(answers))
    found = [(next(scores), next(scores)) for _ in examples]
    lost = [one.row for one, pair in zip(examples, found, strict=True) if None in pair]
    if lost:
        raise InputError(
            [
                f"judges={path}: has no score of {len(lost)} rows, such as {some(lost)}; they are "
                "too long for it, or its template refuses them, so leave them out"
            ]
        )
    for chosen, rejected in found:
        assert chosen is not None and rejected is not None
        yield chosen - rejected


def of_run(directory: Path, members: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The pairs that were trained on, with each member's difference; raises InputError where a
    member's score of any of them is missing."""
    lacking: dict[str, int] = dict.fromkeys(members, 0)
    found = []
    for row in read(directory).to_pylist():
        if row["dropped"] is not None:
            continue
        sides = [json.loads(row[f"{side}_parts"] or "{}") for side in ("chosen", "rejected")]
        for name in members:
            lacking[name] += any(one.get(name) is None for one in sides)
        chosen, rejected = sides
        differences = [(chosen.get(name) or 0) - (rejected.get(name) or 0) for name in members]
        found.append({**_pair(row), "strength": differences})
    if not found:
        raise InputError([f"run={directory}: it has no pairs that were trained on"])
    if lost := {name: count for name, count in lacking.items() if count}:
        told = ", ".join(f"{name} of {count}" for name, count in lost.items())
        raise InputError(
            [
                f"members={','.join(members)}: of {len(found)} pairs scores are missing: {told}; "
                "name parts that the run's judge gives of every pair"
            ]
        )
    yield from found


def _pair(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt = row[PROMPT_MESSAGES] if row[PROMPT_MESSAGES] is not None else row["prompt"]
    return {"prompt": prompt, **{name: row[name] for name in ("prefix", "chosen", "rejected")}}


def annotate(words: Sequence[str]) -> None:
    """The whole command; raises InputError."""
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    if unknown := sorted(given.keys() - set(KEYS)):
        raise InputError(
            [f"{key}: there is no such key; there are {', '.join(KEYS)}" for key in unknown]
        )
    wanted = {"data": "judges", "run": "members"}
    asked = [key for key in wanted if given.get(key)]
    if len(asked) != 1:
        raise InputError(["data=FILE or run=DIR: say where the pairs are, one of the two"])
    (source,) = asked
    names = [name for name in given.get(wanted[source], "").split(",") if name]
    if not names:
        raise InputError([f"{wanted[source]}: is required with {source}=; name them, by commas"])
    if not given.get("output"):
        raise InputError(["output: is required; add output=FILE.jsonl to the command"])
    place = Path(expanduser(given[source]))
    paths = [expanduser(name) for name in names]
    columns = {name: given[key] for name in COLUMNS if given.get(key := f"data.{name}")}
    if source == "data":
        rows = list(with_strengths(place, paths, **columns))
    else:
        rows = list(of_run(place, names))
    output = Path(expanduser(given["output"]))
    write_atomically(output, "".join(json.dumps(row) + "\n" for row in rows))
    found = [strength(row["strength"]) for row in rows]
    doubted = sum(one.doubts for one in found)
    print(f"{len(rows)} pairs, of which {sum(one.mean < 0 for one in found)} the wrong way round")
    print(f"by the ensemble's mean, {doubted} of them by at least one standard deviation")
    print(f"data.path={output} data.strength_column=strength")


if __name__ == "__main__":
    with told():
        annotate(sys.argv[1:])

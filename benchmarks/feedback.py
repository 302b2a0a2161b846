"""How fast feedback logs are read, and in how much memory.

`python benchmarks/feedback.py [--conversations 100000] [--format jsonl|json|parquet]
[--label rules|given]`. Makes a log of utterances in WildFeedback's form in a temporary folder, runs
`rlhf.feedback` on it in a process of its own, and prints its throughput and peak memory. How well
the rules agree with such a log says nothing: its complaints are phrases that they know.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

RUN = """
import resource, sys
from rlhf.feedback.config import FeedbackConfig
from rlhf.config.data import LabelSource
from rlhf.feedback.__main__ import run

path, out, label = sys.argv[1:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(FeedbackConfig(path=path, out=out, label=LabelSource[label]))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"peak memory {after / 1024:.0f} MiB, of which {before / 1024:.0f} MiB by imports")
"""
WORDS = ["the", "of", "and", "to", "a", "in", "for", "is", "on", "that", "by", "this"]
SAYS = {
    "That's wrong, ": (False, True),
    "Thanks! ": (True, False),
    "Thanks, but you forgot something: ": (True, True),
    "Now ": (False, False),
    "Also ": (None, None),
}
BATCH = 1000


def utterances(num_conversations: int, seed: int) -> Iterator[dict]:
    """Two to six exchanges each; one conversation in a hundred lacks an utterance."""
    rng = random.Random(seed)
    for _ in range(num_conversations):
        num = 2 * rng.randint(2, 6)
        lost = rng.randrange(1, num) if rng.random() < 0.01 else None
        for number in range(num):
            says = rng.choice(list(SAYS)) if number and number % 2 == 0 else ""
            satisfied, dissatisfied = SAYS.get(says, (False, False))
            length = rng.randint(50, 300) if number % 2 else rng.randint(5, 60)
            if number != lost:
                yield {
                    "UtteranceId": number,
                    "TurnId": number // 2 + 1,
                    "Role": ("User", "Agent")[number % 2],
                    "Content": says + " ".join(rng.choices(WORDS, k=length)),
                    "Satisfaction": satisfied,
                    "Disatisfaction": dissatisfied,
                }


def write(path: Path, rows: Iterator[dict]) -> None:
    if path.suffix == ".parquet":
        batch = next(batches := (pa.RecordBatch.from_pylist(b) for b in chunks(rows)))
        with pq.ParquetWriter(path, batch.schema) as writer:
            writer.write_batch(batch)
            for batch in batches:
                writer.write_batch(batch)
        return
    with path.open("w", encoding="utf-8") as file:
        before, between, after = ("[", ",\n", "]") if path.suffix == ".json" else ("", "\n", "\n")
        file.write(before)
        for number, row in enumerate(rows):
            file.write((between if number else "") + json.dumps(row))
        file.write(after)


def chunks(rows: Iterator[dict]) -> Iterator[list[dict]]:
    while chunk := [row for _, row in zip(range(BATCH), rows, strict=False)]:
        yield chunk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=100_000)
    parser.add_argument("--format", choices=("jsonl", "json", "parquet"), default="jsonl")
    parser.add_argument("--label", choices=("rules", "given"), default="rules")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"log.{args.format}"
        write(path, utterances(args.conversations, args.seed))
        print(
            f"{path.stat().st_size / 1e6:,.0f} MB of {args.format}, label={args.label}", flush=True
        )
        command = [sys.executable, "-c", RUN, str(path), f"{folder}/out", args.label]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

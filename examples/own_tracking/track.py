"""Writes how the judge's score goes to a file, as a tracker of your own."""

import json
import os

FILE = os.environ.get("SCORES", "scores.jsonl")


def log(round, metrics):
    """Called with each line of metrics.jsonl, of which that before training has round -1."""
    known = {name: value for name, value in metrics.items() if name.startswith("judge/")}
    with open(FILE, "a") as file:
        print(json.dumps({"round": round, **known}), file=file)

"""Everything that is made of one log: complaints, seed pairs and the summary, into a folder."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from rlhf.config.data import LabelSource
from rlhf.conversations.labels import Agreements, Satisfaction, Verdict
from rlhf.conversations.log import Conversation, ConversationLog
from rlhf.conversations.pairs import (
    Complaint,
    Praise,
    SeedPair,
    complaints,
    is_heldout,
    praises,
    seed_pairs,
)
from rlhf.feedback.config import FeedbackConfig
from rlhf.problems import InputError

FILES = {
    "train_complaints": "complaints.train.jsonl",
    "heldout_complaints": "complaints.heldout.jsonl",
    "train_praises": "praises.train.jsonl",
    "heldout_praises": "praises.heldout.jsonl",
    "train_seed_pairs": "seed_pairs.jsonl",
    "heldout_seed_pairs": "seed_pairs.heldout.jsonl",
}


class Extraction:
    """Writes records as conversations come, and counts them; a context manager."""

    def __init__(self, config: FeedbackConfig, log: ConversationLog, folder: Path) -> None:
        self.log = log
        self.written = dict.fromkeys(FILES, 0)
        self._config = config
        self._turns: Counter[Satisfaction] = Counter()
        self._num_given = 0
        self._agreements = Agreements()
        self._started_s = time.monotonic()
        self._stack = ExitStack()
        self._files: dict[str, TextIO] = {
            name: self._stack.enter_context((folder / file).open("w", encoding="utf-8"))
            for name, file in FILES.items()
        }

    def __enter__(self) -> "Extraction":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, conversation: Conversation, verdicts: Sequence[Verdict]) -> None:
        """The verdicts are those of the configured labeller."""
        source = self._config.label
        given = conversation.given
        self._num_given += sum(v.satisfaction is not Satisfaction.unknown for v in given)
        if source is not LabelSource.given:
            self._agreements.add(verdicts, given)
        self._turns.update(verdict.satisfaction for verdict in verdicts)
        share = self._config.heldout_share
        side = "heldout" if is_heldout(conversation.id, share) else "train"
        for complaint in complaints(conversation, verdicts, source.value):
            self._write(f"{side}_complaints", complaint)
        for praise in praises(conversation, verdicts, source.value):
            self._write(f"{side}_praises", praise)
        for pair in seed_pairs(conversation, verdicts, source.value):
            self._write(f"{side}_seed_pairs", pair)

    def _write(self, name: str, record: Complaint | Praise | SeedPair) -> None:
        self._files[name].write(json.dumps(record.record(), ensure_ascii=False) + "\n")
        self.written[name] += 1

    def check(self) -> None:
        """Raises InputError if the whole log gave nothing to work with."""
        path, tally = self._config.path, self.log.tally
        if not tally.num_read:
            raise InputError([f"path={path}: it has no conversations; give a log"])
        if not tally.num_kept:
            why = ", ".join(f"{drop.value} ({n})" for drop, n in tally.dropped.most_common())
            raise InputError([f"path={path}: all {tally.num_read} conversations drop out: {why}"])
        if self._config.label is LabelSource.given and not self._num_given:
            raise InputError(
                [
                    f"label=given: no user turn in {path} has a label for the reply before it; "
                    "add `satisfied` and `dissatisfied` to them, or use label=rules or label=llm"
                ]
            )

    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        tally, time_s = self.log.tally, time.monotonic() - self._started_s
        compared = self._config.label is not LabelSource.given and self._num_given > 0
        both = {"dissatisfied": self._agreements.dissatisfied.record()}
        both["satisfied"] = self._agreements.satisfied.record()
        return {
            "rows": tally.num_rows,
            "conversations": {
                "read": tally.num_read,
                "kept": tally.num_kept,
                "dropped": {drop.value: n for drop, n in tally.dropped.most_common()},
                "dropped_at": {drop.value: places for drop, places in tally.places.items()},
            },
            "label_source": self._config.label.value,
            "turns": {label.value: self._turns[label] for label in Satisfaction},
            "given_labels": self._num_given,
            "agreement": both if compared else None,
            "written": {FILES[name]: n for name, n in self.written.items()},
            "heldout_share": self._config.heldout_share,
            "throughput": {"conversations_per_s": round(tally.num_read / time_s, 1)},
            "time_s": round(time_s, 3),
        }


def table(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a person wants to see of it."""
    conversations = summary["conversations"]
    rows = [("conversations read", conversations["read"]), ("  kept", conversations["kept"])]
    rows += [
        (f"  dropped: {why.replace('_', ' ')}", n) for why, n in conversations["dropped"].items()
    ]
    rows += [(f"turns {label}", n) for label, n in summary["turns"].items()]
    for label, numbers in (summary["agreement"] or {}).items():
        values = [value for name, value in numbers.items() if name != "num_turns"]
        shown = " / ".join("-" if value is None else f"{value:.2f}" for value in values)
        rows.append((f"{summary['label_source']} on {label}: precision / recall / F1 / κ", shown))
    if labeller := summary.get("labeller"):
        rows.append((f"turns that {labeller['model']} failed on", labeller["failed"]))
    rows += summary["written"].items()
    rows.append(("conversations/s", round(summary["throughput"]["conversations_per_s"])))
    return [(name, f"{value:,}" if isinstance(value, int) else value) for name, value in rows]

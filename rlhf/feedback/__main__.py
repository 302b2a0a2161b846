"""`python -m rlhf.feedback path=LOGS out=DIR [label=given|rules]`: complaints out of logs.

Writes complaints and seed pairs, one JSON object per line, of the conversations to train on and of
those held out, and `summary.json`. Every key: `rlhf/config/feedback.py`; the logs:
`rlhf/feedback/conversations.py`.
"""

import json
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from rlhf.__main__ import complete, told
from rlhf.checks import out_of_range, unknown_keys
from rlhf.config.feedback import FeedbackConfig
from rlhf.feedback.conversations import LISTED, ConversationLog
from rlhf.feedback.extraction import Extraction, table
from rlhf.feedback.turns import Drop
from rlhf.output_folder import complete_folder, output_problems
from rlhf.problems import InputError
from rlhf.tracking import Terminal

CONF = Path(__file__).parents[2] / "conf"
SHOWN_EVERY = 1000
"""Conversations between two updates of the progress."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="feedback")
def hydra_main(composed: DictConfig) -> float:
    return run(typed(composed))


def typed(composed: DictConfig) -> FeedbackConfig:
    """Plain dataclasses from Hydra's; raises InputError for what is missing."""
    config = complete(composed)
    assert isinstance(config, FeedbackConfig)
    return config


def run(config: FeedbackConfig) -> float:
    """Reads, labels and writes; returns the number of complaints to train on.

    Raises InputError with everything that is wrong with the configuration, or with the log; then
    nothing is written.
    """
    problems = [*unknown_keys(config, ""), *out_of_range(config, "")]
    if problems := [*problems, *output_problems("out", config.out)]:
        raise InputError(problems)
    log = ConversationLog(Path(config.path))
    terminal = Terminal(num_rounds=0)
    try:
        with complete_folder(Path(config.out)) as folder:
            with Extraction(config, log, folder) as extraction:
                _read(extraction, terminal)
            summary = extraction.summary()
            text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
            (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    finally:
        terminal.close()
    _show(table(summary), log.tally.places.get(Drop.label_without_reply, []))
    return float(extraction.written["train_complaints"])


def _read(extraction: Extraction, terminal: Terminal) -> None:
    log = extraction.log
    total = max(1, round(log.num_bytes / 1e6))
    for conversation in log:
        extraction.add(conversation)
        if log.tally.num_kept % SHOWN_EVERY == 0:
            _advance(extraction, terminal, min(int(log.bytes_read / 1e6), total - 1), total)
    extraction.check()
    _advance(extraction, terminal, total, total)


def _advance(extraction: Extraction, terminal: Terminal, done: int, total: int) -> None:
    written, num_read = extraction.written, extraction.log.tally.num_read
    num_complaints = written["train_complaints"] + written["heldout_complaints"]
    numbers = f"conversations {num_read:,} | complaints {num_complaints:,}"
    terminal.advance("MB", done, total, numbers)


def _show(rows: list[tuple[str, str]], misplaced: list[str]) -> None:
    shown = Table(show_header=False, box=None)
    shown.add_column()
    shown.add_column(justify="right")
    for name, value in rows:
        shown.add_row(name, value)
    console = Console()
    console.print(shown)
    for place in misplaced:
        text = f"{place}: a label with no reply before it; the first {LISTED} are listed"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Exit codes: 0 finished; 2 the input was wrong; 1 it failed while running."""
    ConfigStore.instance().store(name="feedback_schema", node=FeedbackConfig)
    with told():
        hydra_main()


if __name__ == "__main__":
    main()

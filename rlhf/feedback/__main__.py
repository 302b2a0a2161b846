"""`python -m rlhf.feedback path=LOGS out=DIR [label=given|rules|llm]`: complaints out of logs.

Writes complaints and seed pairs, one JSON object per line, of the conversations to train on and of
those held out, and `summary.json`. Every key: `rlhf/feedback/config.py`; the logs:
`rlhf/conversations/log.py`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from rlhf import imports
from rlhf.config.data import LabelSource
from rlhf.conversations.labels import Verdict
from rlhf.conversations.log import LISTED, Conversation, ConversationLog
from rlhf.conversations.turns import Drop
from rlhf.feedback import rules
from rlhf.feedback.config import FeedbackConfig
from rlhf.feedback.extraction import Extraction, table
from rlhf.feedback.settings import label_problems
from rlhf.launching.checks import out_of_range, unknown_keys
from rlhf.launching.command_line import begin, complete, told
from rlhf.launching.configuration import CONF, register_schemas
from rlhf.problems import InputError
from rlhf.storage.output_folder import complete_folder, output_problems
from rlhf.watching.terminal import Terminal

if TYPE_CHECKING:
    from rlhf.feedback.labeller import Writer

SHOWN_EVERY = 1000
"""Conversations between two updates of the progress, where no model is asked."""
WINDOW = 4
"""Conversations under way per question, so that a long one does not keep the model waiting."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="feedback")
def hydra_main(composed: DictConfig) -> float:
    with told():  # here, or Hydra would repeat the whole command line first
        return run(typed(composed))


def typed(composed: DictConfig) -> FeedbackConfig:
    """Plain dataclasses from Hydra's; raises InputError for what is missing."""
    config = complete(composed)
    assert isinstance(config, FeedbackConfig)
    return config


def run(config: FeedbackConfig) -> float:
    """Reads, labels and writes; returns the number of complaints to train on.

    Raises InputError with everything that is wrong with the configuration, or with the log, and
    LabellerFailed if a model failed too often; then nothing is written.
    """
    problems = [*unknown_keys(config, ""), *out_of_range(config, ""), *label_problems(config)]
    if problems := [*problems, *output_problems("out", config.out)]:
        raise InputError(problems)
    log = ConversationLog(Path(config.path))
    terminal = Terminal(num_rounds=0)
    try:
        with complete_folder(Path(config.out)) as folder:
            with Extraction(config, log, folder) as extraction:
                labeller = _read(config, extraction, terminal)
            summary = extraction.summary() | {"labeller": labeller}
            text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
            (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    finally:
        terminal.close()
    _show(table(summary), log.tally.places.get(Drop.label_without_reply, []))
    return float(extraction.written["train_complaints"])


def _read(
    config: FeedbackConfig, extraction: Extraction, terminal: Terminal
) -> dict[str, Any] | None:
    """Labels every conversation of the log; returns what is to be said of a model that did it."""
    record = None
    if config.label is LabelSource.llm:
        record = _ask_model(config, extraction, terminal)
    else:
        for conversation in extraction.log:
            by_rules = config.label is LabelSource.rules
            verdicts = rules.label(conversation.messages) if by_rules else conversation.given
            extraction.add(conversation, verdicts)
            if extraction.log.tally.num_kept % SHOWN_EVERY == 0:
                _advance(extraction, terminal)
    extraction.check()
    more = _failed(record["failed"]) if record else ""
    _advance(extraction, terminal, more, is_last=True)
    return record


def _ask_model(
    config: FeedbackConfig, extraction: Extraction, terminal: Terminal
) -> dict[str, Any]:
    # Imported where it is needed, so that nobody else waits for an HTTP client, or for Ray.
    from rlhf.feedback.labeller import LLMLabeller, run_in_order

    judge, record = config.judge, {}
    concurrency = judge.concurrency * (judge.num_workers if judge.endpoint is None else 1)

    async def use(writer: "Writer") -> None:
        labeller = LLMLabeller(
            writer, concurrency=concurrency, max_failure_rate=judge.max_failure_rate
        )

        def done(conversation: Conversation, verdicts: Sequence[Verdict]) -> None:
            extraction.add(conversation, verdicts)
            _advance(extraction, terminal, _failed(labeller.num_failed))

        await run_in_order(extraction.log, labeller.label, done, WINDOW * concurrency)
        labeller.check()
        record.update(labeller.record())

    if judge.endpoint is not None:
        from rlhf.feedback.access import use_endpoint

        use_endpoint(judge, use)
    else:
        from rlhf.launching.labelling import use_workers

        use_workers(config, use, terminal.print)
    return record


def _failed(num_turns: int) -> str:
    return f" | failed {num_turns:,}"


def _advance(
    extraction: Extraction, terminal: Terminal, more: str = "", is_last: bool = False
) -> None:
    log, written = extraction.log, extraction.written
    total = max(1, round(log.num_bytes / 1e6))
    done = total if is_last else min(int(log.bytes_read / 1e6), total - 1)
    num_complaints = written["train_complaints"] + written["heldout_complaints"]
    numbers = f"conversations {log.tally.num_read:,} | complaints {num_complaints:,}{more}"
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
    register_schemas()
    ConfigStore.instance().store(name="feedback_schema", node=FeedbackConfig)
    begin(hydra_main, FeedbackConfig)


if __name__ == "__main__":
    with imports.quick_end():
        main()

"""What a run shows on a terminal, or as lines where there is none."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rlhf.problems import printable

SHOWN = {
    "judge/score_mean": "score {:.3f}",
    "judge/win_prob_mean": "win prob {:.2f}",
    "preference/count": "preferences {:.0f}",
    "policy/loss": "loss {:.4f}",
    "policy/margin": "margin {:.3f}",
    "rollout/tokens_per_s": "{:,.0f} tokens/s",
    "weights/logprob_gap": "logprob gap {:.0e}",
    "time/round_s": "{:.2f} s",
}
"""The metrics that the terminal shows, and how."""


class Terminal:
    """A progress bar on a terminal; elsewhere lines, at most about one per second."""

    def __init__(
        self,
        num_rounds: int,
        start_round: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_rounds = num_rounds
        self._start_round = start_round
        self._console = console or Console()
        self._clock = clock
        self._last_s = -math.inf
        self._unseen: str | None = None
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TimeRemainingColumn(),
            expand=True,
        )
        self._numbers = Text()
        self._live = Live(Group(self._progress, self._numbers), console=self._console)

    def print(self, text: str) -> None:
        """Shows a line, unwrapped and as it is, but for what a terminal would obey."""
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def round(self, round: int, record: Mapping[str, Any]) -> None:
        """Shows that a round is done."""
        known = {name: record[name] for name in SHOWN if record.get(name) is not None}
        numbers = " | ".join(SHOWN[name].format(value) for name, value in known.items())
        self.advance("round", round + 1, self._num_rounds, numbers)

    def advance(self, what: str, done: int, total: int, numbers: str) -> None:
        """Shows progress; the first and the last step always, others if there is time."""
        is_first = what not in self._bars
        if is_first:
            start = self._start_round if what == "round" else 0
            self._bars[what] = self._progress.add_task(what, total=total, completed=start)
        if self._console.is_terminal:
            self._live.start()
            self._progress.update(self._bars[what], completed=done)
            self._numbers.plain = numbers
            return
        self._unseen = f"{what} {done:>{len(str(total))}}/{total} | {numbers}"
        if is_first or done == total or self._clock() - self._last_s >= 1.0:
            self._show_unseen()

    def close(self) -> None:
        """Shows the last step, and leaves the bar as it is."""
        self._show_unseen()
        self._live.stop()

    def _show_unseen(self) -> None:
        if self._unseen is not None:
            self._last_s = self._clock()
            self.print(self._unseen)
            self._unseen = None

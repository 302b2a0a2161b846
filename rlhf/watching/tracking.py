"""Shows people what happens: the terminal, wandb, `metrics.jsonl` and `summary.json`."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from rlhf.config.run import OnCollapse, TrackingConfig
from rlhf.problems import Collapsed
from rlhf.records import Collected
from rlhf.storage.disk import Ballast, DiskFailed, append, write_atomically
from rlhf.storage.store import MetricsLog
from rlhf.watching.alerts import Alert, Alerts
from rlhf.watching.metrics import run_summary
from rlhf.watching.sample_tables import sample_tables
from rlhf.watching.terminal import Terminal
from rlhf.watching.tracking_function import FunctionTracker
from rlhf.watching.tracking_wandb import WandbRun

Status = Literal["completed", "failed", "stopped"]
ERRORS = "errors.log"
"""What workers have raised and were started anew for, with their tracebacks."""


class RunTracker:
    """The tracker of a whole run, which outlives crashes: sums and curves cover all its rounds.

    A round's line in `metrics.jsonl` is on disk when `log` returns (the scheme is that of
    `rlhf.storage.store.MetricsLog`). wandb is a guest, and so is a function of the user's: without
    it, or when it fails, one warning is shown and everything else is the same.
    """

    def __init__(
        self,
        directory: Path,
        config: TrackingConfig,
        resolved: Mapping[str, Any],
        name: str,
        num_rounds: int,
        start_round: int = 0,
        wandb_id: str | None = None,
        max_logprob_gap: float = math.inf,
        console: Console | None = None,
        on_collapse: OnCollapse = OnCollapse.alert,
    ) -> None:
        """`resolved` is the whole configuration as plain values, which wandb shows, masked; people
        are alerted before `max_logprob_gap` stops the run.

        A resumed run passes its `start_round`, whose line and later ones are removed, and the
        `wandb_id` that the first start had.
        """
        self._start = time.monotonic()
        self._directory = directory
        self._config = config
        self._terminal = Terminal(num_rounds, start_round, console)
        self._max_logprob_gap = max_logprob_gap
        self._on_collapse = on_collapse
        self._open_wandb = partial(WandbRun, directory, config, resolved, name)
        self._ballast = Ballast(directory)
        self._open(start_round, wandb_id)
        kept = self._metrics.read()
        self._earlier_s = kept[-1].get("time/elapsed_s") or 0.0 if kept else 0.0
        self._closed = False
        self._function = FunctionTracker(config.function, self.note)

    def _open(self, start_round: int, wandb_id: str | None) -> None:
        self._metrics = MetricsLog(self._directory / "metrics.jsonl", start_round)
        kept = self._metrics.read()
        self._alerts = Alerts(self._config, self._max_logprob_gap)
        for record in kept:  # what was told before is not told again
            self._alerts.new({k: v for k, v in record.items() if isinstance(v, int | float)})
        self._wandb = self._open_wandb(wandb_id, self.note)
        if self._wandb.is_offline:
            # An offline run cannot be resumed: syncing its second directory erases what the first
            # one had. So the new directory gets the whole history.
            for record in kept:
                self._wandb.log(record)

    def set_back(self, start_round: int) -> None:
        """Goes on at an earlier round: its line and later ones are removed, as when a run is
        resumed."""
        self._wandb.finish(0)
        self._open(start_round, self.wandb_id)

    def records(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` so far."""
        return self._metrics.read()

    @property
    def wandb_id(self) -> str:
        """What to store with checkpoints and to pass when the run is resumed."""
        return self._wandb.id

    def note(self, text: str) -> None:
        """Shows a line of text, above the progress bar if there is one."""
        self._terminal.print(text)

    def warmup(self, step: int, total: int, loss: float) -> None:
        """Shows that `step` of `total` supervised steps are done."""
        self._terminal.advance("warm-up", step, total, f"loss {loss:.4f}")

    def show(self, round: int, collected: Sequence[Collected]) -> None:
        """Shows some of what was collected, in every `tracking.table_every`-th round."""
        if self._wandb.is_open and round % self._config.table_every == 0:
            tables = sample_tables(round, collected, self._config.table_rows)
            self._wandb.log_tables(round, tables)

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Records one finished round; `metrics` has everything that is to be in its line, but for
        `rollout/tokens_per_s`, completion tokens per second of the whole round, and
        `time/elapsed_s`, the time that the run has taken so far.

        Raises Collapsed once the run has come to nothing, where `run.on_collapse` is stop.
        """
        seconds, tokens = metrics.get("time/round_s"), metrics.get("rollout/num_tokens")
        speed = {"rollout/tokens_per_s": tokens / seconds} if seconds and tokens else {}
        self._terminal.round(round, self._write(round, {**metrics, **speed}))

    def log_eval(self, num_rounds: int, metrics: Mapping[str, float]) -> None:
        """Records an evaluation of the policy after that many rounds, 0 being before training.

        Keys get the prefix `eval/`, but for those that have a stage already, such as
        `time/evaluate_s`. It may come before or after the `log` of the round that it follows.
        """
        named = {name if "/" in name else f"eval/{name}": v for name, v in metrics.items()}
        self._write(num_rounds - 1, named)
        shown = " | ".join(f"{n} {v:.4g}" for n, v in sorted(metrics.items()) if "/" not in n)
        when = f"after {num_rounds} rounds" if num_rounds else "before training"
        self.note(f"evaluation {when}: {shown}")

    def close(self, status: Status) -> None:
        """Writes `summary.json` and ends the display and wandb's run; later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        self._terminal.close()
        summary = run_summary(self._metrics.read(), status, self._elapsed_s())
        summary["warnings"] = self._alerts.standing
        if status == "completed":
            for warning in summary["warnings"]:
                self.note(f"completed, but {warning}")
        self._write_summary(json.dumps(summary, indent=2, allow_nan=False) + "\n")
        exit_code = 1 if status == "failed" else 0
        self._function.close()
        self._wandb.finish(exit_code)
        if self._wandb.is_lost:
            self._wandb.write_anew(self._metrics.read(), exit_code)

    def _write_summary(self, text: str) -> None:
        """On a full disk into the room that was kept for it; where nothing can be written at all,
        people are told what would stand there."""
        self._ballast.drop()
        try:
            write_atomically(self._directory / "summary.json", text)
        except DiskFailed as error:
            self.note(f"{error}; it would say {json.dumps(json.loads(text)['status'])}")

    def _write(self, round: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        timed = {**metrics, "time/elapsed_s": self._elapsed_s()}
        record = self._metrics.write(round, timed)
        added = {name: record[name] for name in ("round", "policy_version", *sorted(timed))}
        self._wandb.log(added)
        self._function.log(round, metrics)
        when = f"round {round}" if round >= 0 else "before training"
        for alert in self._alerts.new(metrics):
            self.alert(alert._replace(text=f"{when}: {alert.text}"))
        if self._on_collapse is OnCollapse.stop and (ruin := self._alerts.ruin):
            first = max(ruin.values(), key=lambda sign: sign.rounds)
            raise Collapsed(
                f"{when}: {first.text} (run.on_collapse=stop)", round + 1 - first.rounds
            )
        return added

    def alert(self, alert: Alert) -> None:
        """Shows it as a line, and has wandb tell people; its details go to `errors.log`."""
        self.note(f"warning: {alert.text}" + (f"; see {ERRORS}" if alert.details else ""))
        if alert.details:
            when = time.strftime("%Y-%m-%d %H:%M:%S")
            append(self._directory / ERRORS, f"{when} {alert.text}\n{alert.details}\n\n")
        self._wandb.alert(alert)

    def _elapsed_s(self) -> float:
        return self._earlier_s + time.monotonic() - self._start

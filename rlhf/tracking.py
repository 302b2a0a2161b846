"""Shows people what happens: the terminal, wandb, `metrics.jsonl` and `summary.json`."""

import json
import math
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import wandb
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
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

from rlhf.config.run import TrackingConfig, WandbMode
from rlhf.metrics import run_summary
from rlhf.records import Collected
from rlhf.store import MetricsLog, write_atomically

Status = Literal["completed", "failed", "stopped"]

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

# What wandb raises when it cannot start, or when its service process is gone: the last three are
# not of its own Error.
WANDB_FAILURES = (
    wandb.Error,
    OSError,
    HandleAbandonedError,
    MailboxClosedError,
    ServerResponseError,
)

# Not `tokens`, which is a unit.
_SECRET = re.compile(
    r"(?i)(?:^|_)(?:(?:api|access|private)?keys?|token|secrets?|password|passwd|credentials?)(?:_|$)"
)


class RunTracker:
    """The tracker of a whole run, which outlives crashes: sums and curves cover all its rounds.

    A round's line in `metrics.jsonl` is on disk when `log` returns (the scheme is that of
    `rlhf.store.MetricsLog`). wandb is a guest: without it, or when it fails, one warning is shown
    and everything else is the same.
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
        console: Console | None = None,
    ) -> None:
        """`resolved` is the whole configuration as plain values, which wandb shows, masked.

        A resumed run passes its `start_round`, whose line and later ones are removed, and the
        `wandb_id` that the first start had.
        """
        self._start = time.monotonic()
        self._directory = directory
        self._config = config
        self._terminal = Terminal(num_rounds, start_round, console)
        self._metrics = MetricsLog(directory / "metrics.jsonl", start_round)
        kept = self._metrics.read()
        self._earlier_s = kept[-1].get("time/elapsed_s") or 0.0 if kept else 0.0
        self._not_finite: set[str] = set()
        self._closed = False
        self._wandb = WandbRun(directory, config, resolved, name, wandb_id, self.note)
        if self._wandb.is_offline:
            # An offline run cannot be resumed: syncing its second directory erases what the first
            # one had. So the new directory gets the whole history.
            for record in kept:
                self._wandb.log(record)

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

    def log(self, round: int, collected: Sequence[Collected], metrics: Mapping[str, float]) -> None:
        """Records one finished round; `metrics` has everything that is to be in its line.

        Adds `time/elapsed_s`, the time that the run has taken so far; and, for wandb and the
        terminal, `rollout/tokens_per_s`, completion tokens per second of the whole round. The file
        leaves that to its readers: but for `time/*`, equal runs have equal files.
        """
        seconds, tokens = metrics.get("time/round_s"), metrics.get("rollout/num_tokens")
        speed = {"rollout/tokens_per_s": tokens / seconds} if seconds and tokens else {}
        self._terminal.round(round, self._write(round, metrics, speed))
        if round % self._config.table_every == 0:
            self._wandb.log_table(round, sample_rows(collected, self._config.table_rows))

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
        text = json.dumps(summary, indent=2, allow_nan=False)
        write_atomically(self._directory / "summary.json", text + "\n")
        self._wandb.finish(exit_code=1 if status == "failed" else 0)

    def _write(
        self,
        round: int,
        metrics: Mapping[str, float],
        only_shown: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        timed = {**metrics, "time/elapsed_s": self._elapsed_s()}
        record = self._metrics.write(round, timed)
        added = {name: record[name] for name in ("round", "policy_version", *sorted(timed))}
        added |= only_shown or {}
        self._wandb.log(added)
        not_finite = {name for name, value in added.items() if value is None} - self._not_finite
        if not_finite:
            self._not_finite |= not_finite
            self.note(f"warning: not finite, so null: {', '.join(sorted(not_finite))}")
        return added

    def _elapsed_s(self) -> float:
        return self._earlier_s + time.monotonic() - self._start


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
        """Shows a line, unwrapped and as it is."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

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


class WandbRun:
    """The run's one writer to wandb, which never prompts.

    A failure ends it with one warning, and later calls do nothing. What cannot start online starts
    offline, to be sent later with `wandb sync`.
    """

    def __init__(
        self,
        directory: Path,
        config: TrackingConfig,
        resolved: Mapping[str, Any],
        name: str,
        run_id: str | None,
        warn: Callable[[str], None],
    ) -> None:
        self.id = run_id or uuid.uuid4().hex[:8]
        self.is_offline = False
        self._warn = warn
        self._run: wandb.Run | None = None
        start = partial(
            _start_wandb,
            dir=directory,
            project=config.project,
            group=config.group,
            id=self.id,
            name=name,
            config=mask_secrets(resolved),
        )
        if config.wandb is WandbMode.online:
            with self._forgiven("cannot go online", "it stays offline"):
                self._run = start("online")
        if self._run is None and config.wandb is not WandbMode.disabled:
            with self._forgiven("cannot start"):
                self._run = start("offline")
                self.is_offline = True

    def log(self, record: Mapping[str, Any]) -> None:
        """Adds what the record has, other than null, at its `round`."""
        if self._run is not None:
            with self._forgiven("has failed"):
                self._run.log({name: value for name, value in record.items() if value is not None})

    def log_table(self, round: int, rows: list[Any]) -> None:
        """Adds completions to read; `rows` as `sample_rows` makes them."""
        columns: list[Any] = ["prompt", "completion", "score", "truncated", "policy_version"]
        self.log({"round": round, "samples": wandb.Table(columns=columns, data=rows)})

    def finish(self, exit_code: int) -> None:
        """Ends wandb's run; anything but 0 marks it as failed."""
        if self._run is not None:
            with self._forgiven("has failed"):
                self._run.finish(exit_code=exit_code)
        self._run = None

    @contextmanager
    def _forgiven(self, what: str, then: str = "training goes on without it") -> Iterator[None]:
        try:
            yield
        except WANDB_FAILURES as error:
            self._run = None
            reason = str(error).partition("\n")[0] or type(error).__name__
            self._warn(f"warning: wandb {what}, so {then}: {reason}")
            # Else the run's id stays taken, and a dead service prints a traceback at exit.
            with suppress(*WANDB_FAILURES):
                wandb.teardown()


def _start_wandb(mode: Literal["online", "offline"], **arguments: Any) -> wandb.Run:
    # Told to the whole process first: wandb's telemetry, which a run's own mode does not reach,
    # would call home from an offline run.
    wandb.setup(settings=wandb.Settings(mode=mode, silent=True))
    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=30,
        finish_timeout=120,
        # Metadata hold the command line, and with it any secret in an override.
        x_disable_meta=True,
    )
    resume = "allow" if mode == "online" else None
    run = wandb.init(mode=mode, reinit="create_new", resume=resume, settings=settings, **arguments)
    run.define_metric("round")
    run.define_metric("*", step_metric="round")
    return run


def sample_rows(collected: Sequence[Collected], num_rows: int) -> list[list[Any]]:
    """Prompt, completion, score, truncated, policy version: evenly spread over the round."""
    rows = [
        [one.prompt.text, completion.text, score, completion.truncated, completion.policy_version]
        for one in collected
        for completion, score in zip(one.completions, _scores(one), strict=True)
    ]
    return rows[:: math.ceil(len(rows) / num_rows) or 1]


def _scores(one: Collected) -> Sequence[float | None]:
    return one.judgement.scores if one.judgement else [None] * len(one.completions)


def mask_secrets(config: Any) -> Any:
    """The same configuration, with `***` for what a key calls secret and for logins in URLs."""
    if isinstance(config, Mapping):
        return {
            key: "***" if value and _SECRET.search(str(key)) else mask_secrets(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [mask_secrets(value) for value in config]
    if isinstance(config, str):
        return re.sub(r"://[^/@\s]+@", "://***@", config)
    return config

"""A run in wandb: numbers, tables and alerts, by the one file that imports it."""

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlhf.config.run import TrackingConfig, WandbMode
from rlhf.watching.alerts import Alert
from rlhf.watching.masking import mask_secrets
from rlhf.watching.sample_tables import Table

if TYPE_CHECKING:  # it takes a third of a second, which a run without it is spared
    import wandb

ALERT_WAIT_S = 300
"""wandb sends no second alert of a title before."""


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
        self.is_lost = False
        """It had begun, and has failed."""
        self._warn = warn
        self._run: wandb.Run | None = None
        start = self._start = partial(
            _start_wandb,
            dir=directory,
            project=config.project,
            group=config.group,
            id=self.id,
            name=mask_secrets(name),
            config=mask_secrets(resolved),
        )
        if config.wandb is WandbMode.online:
            with self._forgiven("cannot go online", "it stays offline"):
                self._run = start("online")
        if self._run is None and config.wandb is not WandbMode.disabled:
            with self._forgiven("cannot start"):
                self._run = start("offline")
                self.is_offline = True

    @property
    def is_open(self) -> bool:
        return self._run is not None

    def log(self, record: Mapping[str, Any]) -> None:
        """Adds what the record has, other than null, at its `round`."""
        if self._run is not None:
            with self._forgiven("has failed"):
                self._run.log({name: value for name, value in record.items() if value is not None})

    def log_tables(self, round: int, tables: Mapping[str, Table]) -> None:
        """Adds what there is to read, by name; a table without rows is left out."""
        if self._run is not None:
            filled = {name: table for name, table in tables.items() if table.rows}
            self.log({"round": round} | {name: _shown(table) for name, table in filled.items()})

    def alert(self, alert: Alert) -> None:
        """Tells people in the way that they chose in their account, such as mail or chat."""
        if self._run is not None:
            level = "ERROR" if alert.is_error else "WARN"
            with self._forgiven("has failed"):
                self._run.alert(alert.title, alert.text, level, wait_duration=ALERT_WAIT_S)

    def finish(self, exit_code: int) -> None:
        """Ends wandb's run; anything but 0 marks it as failed."""
        if self._run is not None:
            with self._forgiven("has failed"):
                self._run.finish(exit_code=exit_code)
        self._run = None

    def write_anew(self, records: Iterable[Mapping[str, Any]], exit_code: int) -> None:
        """Offline and from its beginning, a run that was lost: `ray job stop` ends wandb's own
        process together with ours, which still has to save."""
        self.is_lost = False
        with self._forgiven("cannot start"):
            self._run = self._start("offline")
            self._warn("wandb has been lost; the run's numbers are written anew, offline")
        for record in records:
            self.log(record)
        self.finish(exit_code)

    @contextmanager
    def _forgiven(self, what: str, then: str = "training goes on without it") -> Iterator[None]:
        try:
            yield
        except wandb_failures() as error:
            self.is_lost = self._run is not None
            self._run = None
            reason = str(error).partition("\n")[0] or type(error).__name__
            self._warn(f"warning: wandb {what}, so {then}: {reason}")
            # Else the run's id stays taken, and a dead service prints a traceback at exit.
            with suppress(*wandb_failures()):
                import wandb

                wandb.teardown()


def wandb_failures() -> tuple[type[Exception], ...]:
    """What wandb raises when it cannot start, or when its service process is gone."""
    import wandb
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
    from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

    # The last three are not of its own Error.
    return wandb.Error, OSError, HandleAbandonedError, MailboxClosedError, ServerResponseError


def _start_wandb(mode: Literal["online", "offline"], **arguments: Any) -> "wandb.Run":
    import wandb

    # A secret that was made of a file often ends with the file's last newline.
    if key := os.environ.get("WANDB_API_KEY"):
        os.environ["WANDB_API_KEY"] = key.strip()
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


def _shown(table: Table) -> "wandb.Table":
    import wandb

    columns: list[Any] = list(table.columns)
    rows: list[Any] = table.rows
    return wandb.Table(columns=columns, data=rows)

"""One whole run, from its configuration to the run directory that it leaves behind."""

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from cluster.placement import make_plan, table
from cluster.session import find_nodes, session
from cluster.shared_storage import refuse_throwaway, require_shared
from rlhf.functions.source import reading_once
from rlhf.launching.assembly import max_logprob_gap, require_answers, require_transport
from rlhf.launching.cautions import cautions
from rlhf.launching.checks import plain
from rlhf.launching.configuration import Config
from rlhf.launching.crew import Setting
from rlhf.launching.fingerprints import fingerprints, require_same
from rlhf.launching.inputs import read_inputs, try_out
from rlhf.launching.roles import allotments, paths_by_role, roles
from rlhf.launching.ruin import with_last_good
from rlhf.launching.running import run
from rlhf.problems import Collapsed, InputError, PolicyBroken, Stopped
from rlhf.stages import Metrics
from rlhf.storage.disk import DiskFailed, write_atomically
from rlhf.storage.run_directory import (
    CHECKPOINTS,
    CONFIG,
    OVERRIDES,
    begin_or_resume,
    claimed,
    last_evaluation,
    last_of_finished,
    refuse_other_run,
    require_place,
)
from rlhf.watching.alerts import Alert
from rlhf.watching.metrics import LOWER_IS_BETTER, headline
from rlhf.watching.tracking import RunTracker


@reading_once()
def launch(config: Config, overrides: list[str], name: str | None = None) -> float:
    """One whole run of a checked configuration; returns its last evaluation as one number, for
    sweepers. `overrides` are kept in the run directory, for `rlhf.evaluate`; `name` is for wandb.
    A run that has finished already only says so."""
    directory = Path(config.run.dir).absolute()
    refuse_throwaway("run.dir", directory)
    cluster = config.cluster
    with claimed(directory):
        evaluation = last_of_finished(directory, config.run.resume, plain(config))
        if evaluation is not None:
            print(f"{directory}: the run there is finished; a larger num_rounds goes on")
            return objective_value(evaluation)
        checkpoint = begin_or_resume(directory, config.run.resume, plain(config))
        require_transport(config)
        try_out(config)
        inputs = read_inputs(config, directory)
        contents = fingerprints(plain(config))
        require_same(directory, contents, config.run.allow_changed, checkpoint is not None)
        if checkpoint is not None and checkpoint.state["num_rounds"]:
            require_answers(config, inputs, directory)
        wanted = roles(config, inputs.model_path)
        with (
            ThreadPoolExecutor(1) as beside,
            session(cluster.address, wanted, cluster.start_timeout_s) as reservation,
        ):
            plan = reservation.plan
            require_shared(plan, paths_by_role(config, directory, inputs.model_path))
            write_atomically(directory / CONFIG, yaml.safe_dump(plain(config), sort_keys=False))
            write_atomically(directory / OVERRIDES, yaml.safe_dump(overrides))
            state = checkpoint.state if checkpoint else {}
            tracker = RunTracker(
                directory,
                config.tracking,
                plain(config),
                name or directory.name,
                config.num_rounds,
                state.get("num_rounds", 0),
                state.get("wandb_id"),
                max_logprob_gap(config),
                on_collapse=config.run.on_collapse,
            )
            tracker.note(plan.table())
            allotted = allotments(plan, reservation.seats, cluster.threads_per_worker)
            status = "failed"
            try:
                setting = Setting(config, directory, inputs, allotted, tracker)
                asyncio.run(run(setting, checkpoint))
                status = "completed"
            except* (KeyboardInterrupt, Stopped):
                status = "stopped"
                raise
            except* PolicyBroken as broken:
                told = with_last_good(broken, directory / CHECKPOINTS)
                if broken.split(Collapsed)[0] is None:  # of which people have been told
                    tracker.alert(Alert("The policy is of no more use", str(told), is_error=True))
                raise told from broken
            finally:
                tracker.close(status)
                # While Ray ends: each takes a second.
                drawn = beside.submit(_draw, directory, max_logprob_gap(config))
        try:
            drawn.result()
        except DiskFailed as error:  # the run itself is complete
            tracker.note(f"warning: {error}")
        tracker.note(f"everything is in {directory}")
        return objective_value(last_evaluation(directory))


def _draw(directory: Path, max_logprob_gap: float) -> None:
    from rlhf.watching.curves import draw_curves  # matplotlib, which nothing before it needs

    draw_curves(directory / "metrics.jsonl", directory / "curves.png", max_logprob_gap)


@reading_once()
def show_plan(config: Config) -> None:
    """Prints which worker would go to which node and the memory that it needs at least, having
    checked what a run checks before it starts workers; the run's directory stays as it is."""
    directory = Path(config.run.dir).absolute()
    refuse_throwaway("run.dir", directory)
    require_place(directory)
    if last_of_finished(directory, config.run.resume, plain(config)) is not None:
        print(f"{directory}: the run there is finished; nothing would be done")
        return
    refuse_other_run(directory, config.run.resume, plain(config))
    require_transport(config)
    try_out(config)
    with tempfile.TemporaryDirectory() as scratch:
        wanted = roles(config, read_inputs(config, Path(scratch)).model_path)
    for caution in cautions(config):
        print(caution)
    try:
        print(make_plan(wanted, find_nodes(config.cluster.address, wanted)).table())
    except InputError:
        print(table(wanted, {}))
        raise
    finally:
        print("per worker; memory without activations and what libraries take")


def objective_value(evaluation: Metrics) -> float:
    """The one number of an evaluation that a sweep should raise."""
    name = headline(evaluation)
    if name is None:
        return float("nan")
    return -evaluation[name] if name in LOWER_IS_BETTER else evaluation[name]

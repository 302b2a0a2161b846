"""How a Ray begins that is one run's own: on this machine alone, with what the run uses of it.

Those of Ray's processes that know of workers and start them are used. The others take seconds to
start and to end: the dashboard's, which without pages would only tell Ray's makers how Ray is used,
the agents beside a node, the autoscaler, and the one that would print what workers have written.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private import node, ray_constants, services, utils
from ray._private.parameter import RayParams

CLUSTERS = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
"""As 0, Ray takes this machine's address within itself for its own, as it does on Windows."""


class SmallNode(node.Node):
    """Starts no more than a run uses; a Ray that names something else in another way starts it."""

    def __init__(self, ray_params: RayParams, *args: Any, **options: Any) -> None:
        ray_params.setup_worker_path = str(Path(__file__).with_name("worker_setup.py"))
        super().__init__(ray_params, *args, **options)

    def start_api_server(self, **_: Any) -> None:
        self._webui_url = ""  # as without a dashboard's pages

    def start_monitor(self) -> None:
        """The autoscaler."""

    def start_log_monitor(self) -> None:
        pass


PYTHON = "_build_python_executable_command_memory_profileable"
"""How Ray starts a part of its own that is a program in Python."""
AGENTS = (
    ray_constants.PROCESS_TYPE_DASHBOARD_AGENT,
    ray_constants.PROCESS_TYPE_RUNTIME_ENV_AGENT,
)
_theirs: Any = getattr(services, PYTHON, None)


def _python(component: str, *others: Any, **options: Any) -> list[str]:
    if component in AGENTS:
        return [sys.executable, "-I", "-S", str(Path(__file__).with_name("node_agents.py"))]
    return _theirs(component, *others, **options)


OURS = (
    (node, "Node", SmallNode),
    (services, PYTHON, _python),
    # It would import, for seconds, what Ray's own agent needs.
    (utils, "get_dashboard_dependency_error", lambda: None),
)


@contextmanager
def small() -> Iterator[None]:
    """A Ray that starts within it has no more processes than a run uses."""
    # Ray's default of 15 starves its workers whenever the machine has anything else to do.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Workers started in advance lack what each of ours has in its environment: none would be used.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # Another Ray may have no such names, and then starts as it likes.
    ours = OURS if all(hasattr(place, name) for place, name, _ in OURS) else ()
    theirs = [(place, name, getattr(place, name)) for place, name, _ in ours]
    for place, name, own in ours:
        setattr(place, name, own)
    try:
        yield
    finally:
        for place, name, whole in theirs:
            setattr(place, name, whole)


@contextmanager
def by_loopback() -> Iterator[None]:
    """A Ray that starts within it listens to this machine alone: who has its token can run anything
    by its ports, which on Linux would be open to the network. Ray has read the variable already;
    what it starts reads it now."""
    os.environ[CLUSTERS], before = "0", ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[CLUSTERS]

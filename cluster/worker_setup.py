"""What Ray starts first for a worker: the program that gives it its environment.

`worker_setup.py SCRIPT ARGUMENT... --language=L --serialized-runtime-env-context=C`, as Ray's own
setup_worker.py, which imports the whole of Ray for it, a third of a second of computing. What a run
asks for is a command in place of Python and variables; anything else is left to Ray's own.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

CONTEXT = "--serialized-runtime-env-context="
LANGUAGE = "--language="


def command(words: Sequence[str]) -> tuple[list[str], dict[str, str]] | None:
    """The worker's command and variables; None if it needs more than these."""
    contexts = [word for word in words if word.startswith(CONTEXT)]
    languages = [word for word in words if word.startswith(LANGUAGE)]
    if len(contexts) != 1 or languages != [f"{LANGUAGE}PYTHON"]:
        return None
    wanted = json.loads(contexts[0].removeprefix(CONTEXT))
    python, variables = wanted.pop("py_executable", None), wanted.pop("env_vars", None)
    if not python or any(wanted.values()):
        return None
    rest = [word for word in words if word not in (*contexts, *languages)]
    return [*shlex.split(python), *rest], variables or {}


def expanded(value: str) -> str:
    """As Ray does it: `${NAME}` is what it is in this environment, and nothing if it is not set."""
    return re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))


def main() -> None:
    words = sys.argv[1:]
    if (found := command(words)) is None:
        ray = find_spec("ray")
        assert ray is not None and ray.origin is not None
        whole = Path(ray.origin).parent / "_private" / "workers" / "setup_worker.py"
        os.execv(sys.executable, [sys.executable, str(whole), *words])
    worker, variables = found
    for name, value in variables.items():
        os.environ[name] = expanded(value)
    os.execvp(worker[0], worker)


if __name__ == "__main__":
    main()

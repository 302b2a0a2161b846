"""Workers are set up as by Ray's own program, which is asked for what ours does not do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import worker_setup

OURS = Path(worker_setup.__file__)
TELL = """
import json, os, sys
print(json.dumps([sys.argv[1:], os.getcwd(), {n: os.environ.get(n) for n in ("A", "B", "C")}]))
"""
PYTHON = {"py_executable": f"{sys.executable} -I"}
VARIABLES = {"A": "of ${HERE}, not of ${NOWHERE}", "B": "$HERE ü"}
NOTHING = {"command_prefix": [], "override_worker_entrypoint": None, "java_jars": []}


@pytest.mark.parametrize(
    ("context", "imports_ray"),
    [
        (NOTHING | PYTHON | {"env_vars": VARIABLES}, False),
        (PYTHON | {"command_prefix": ["cd", "/", "&&"], "env_vars": VARIABLES}, True),
    ],
)
def test_a_worker_gets_what_ray_s_own_would_give_it(tmp_path, context, imports_ray):
    ray = Path(worker_setup.find_spec("ray").origin).parent / "_private/workers/setup_worker.py"
    (tmp_path / "tell.py").write_text(TELL)
    options = ["--language=PYTHON", f"{worker_setup.CONTEXT}{json.dumps(context)}"]
    words = [str(tmp_path / "tell.py"), "--a=b c", *options, "--hash=-1"]
    found = [
        subprocess.run(
            [sys.executable, str(program), *words],
            capture_output=True, text=True, timeout=60, cwd=tmp_path,
            env=os.environ | {"HERE": "here", "C": "as it was"},
        )
        for program in (OURS, ray)
    ]  # fmt: skip
    ours, theirs = (json.loads(one.stdout) for one in found)
    assert ours == theirs
    assert ours[0] == ["--a=b c", "--hash=-1"]
    assert ours[2] == {"A": "of here, not of ", "B": "here ü", "C": "as it was"}
    assert (worker_setup.command(words) is None) == imports_ray


@pytest.mark.parametrize(
    "words",
    [
        ["x.py", "--language=PYTHON"],
        ["x.jar", "--language=JAVA", f"{worker_setup.CONTEXT}{json.dumps(PYTHON)}"],
        ["x.py", "--language=PYTHON", worker_setup.CONTEXT + '{"py_executable": null}'],
        ["x.py", "--language=PYTHON", worker_setup.CONTEXT + json.dumps(PYTHON | {"new": 1})],
    ],
)
def test_what_else_a_worker_needs_is_left_to_ray(words):
    assert worker_setup.command(words) is None

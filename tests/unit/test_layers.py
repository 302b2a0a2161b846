"""Dependencies point one way: `rlhf` knows no actor, and each engine is imported in one place."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    file.relative_to(ROOT)
    for package in ("rlhf", "actors", "cluster")
    for file in sorted((ROOT / package).rglob("*.py"))
]
COMPOSITION = {
    "rlhf.assembly",
    "rlhf.inputs",
    "rlhf.launch",
    "rlhf.evaluate",
    "rlhf.roles",
    "rlhf.feedback.workers",
}
"""What puts everything together, and so knows everything."""
COMPOSITION_FILES = [f"{name.replace('.', '/')}.py" for name in sorted(COMPOSITION)]
FORBIDDEN = ["ray", "vllm", "deepspeed", "actors", "cluster"]


def module(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


PURE = [
    name for file in FILES if file.parts[0] == "rlhf" and (name := module(file)) not in COMPOSITION
]


def imports(file: Path) -> Iterator[str]:
    """The dotted name of everything that a file imports, inside its functions too."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by position"
            yield node.module or ""


def importers(package: str) -> list[str]:
    return [
        str(file) for file in FILES if any(name.split(".")[0] == package for name in imports(file))
    ]


# Large libraries are imported once; each module of ours then in a fork that has none of ours.
IMPORT_EACH = """
import importlib, json, os, sys
import hydra.core.config_store, math_verify, torch
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM

forbidden, modules = json.loads(sys.stdin.read())
already = [name for name in forbidden if name in sys.modules]
assert not already, f"other libraries import {already}"
for module in modules:
    child = os.fork()
    if not child:
        importlib.import_module(module)
        found = [name for name in forbidden if name in sys.modules]
        if found:
            print(module, "imports", *found, file=sys.stderr, flush=True)
        os._exit(len(found))
    _, status = os.waitpid(child, 0)
    if status:
        print(module, "failed", flush=True)
"""


def test_each_module_can_be_imported_by_itself_and_brings_no_actor_nor_engine():
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH],
        input=json.dumps([FORBIDDEN, PURE]),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert (result.stdout, result.returncode) == ("", 0), result.stderr


@pytest.mark.parametrize(
    "package, allowed",
    [
        ("vllm", ["actors/vllm*.py"]),
        ("deepspeed", ["actors/deepspeed_engine.py"]),
        ("wandb", ["rlhf/tracking_wandb.py"]),
        ("wandb_workspaces", ["rlhf/workspace.py"]),
        (
            "hydra",
            [
                "rlhf/__main__.py",
                "rlhf/evaluate.py",
                "rlhf/reward.py",
                "rlhf/sweep.py",
                "rlhf/feedback/__main__.py",
                "rlhf/overrides.py",
                "rlhf/report/recipe.py",
                "rlhf/config/*.py",
            ],
        ),
        ("actors", ["actors/*", *COMPOSITION_FILES]),
        ("cluster", ["cluster/*", *COMPOSITION_FILES]),
    ],
)
def test_who_may_import(package, allowed):
    found = importers(package)
    assert found
    assert [file for file in found if not any(fnmatch(file, place) for place in allowed)] == []


def test_ray_is_started_in_one_place():
    calls = [
        str(file)
        for file in FILES
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ray.init"
    ]
    assert set(calls) == {"cluster/session.py"}


def test_training_fits_on_one_screen():
    assert len((ROOT / "rlhf" / "loop.py").read_text().splitlines()) <= 80

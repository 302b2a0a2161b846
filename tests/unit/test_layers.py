"""Dependencies point one way: between files, between rooms, and to each engine from one place."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    file.relative_to(ROOT)
    for package in ("rlhf", "actors", "cluster")
    for file in sorted((ROOT / package).rglob("*.py"))
]
FORBIDDEN = ["ray", "vllm", "deepspeed", "actors", "cluster"]
"""What nobody brings along who does not put a run together."""

COMMANDS = "commands"
"""What people start: every `__main__`, and these."""
ONE_FILE_COMMANDS = ("rlhf.evaluate", "rlhf.simulated_users", "rlhf.workspace")
ORDER = [
    "rlhf.imports",
    "rlhf.problems",
    "rlhf.functions",
    "rlhf.seeds",
    "rlhf.records",
    "rlhf.stages",
    "rlhf.ranges",
    "rlhf.options",
    "rlhf.objectives",
    "rlhf.diagnostics",
    "rlhf.config",
    "rlhf.models",
    "rlhf.storage",
    "rlhf.tools",
    "rlhf.data",
    "rlhf.conversations",
    "rlhf.toys",
    "rlhf.asking",
    "rlhf.collecting",
    "rlhf.environments",
    "rlhf.learning",
    "rlhf.judges",
    "rlhf.tree",
    "rlhf.feedback",
    "rlhf.algorithms",
    "rlhf.watching",
    "rlhf.progress",
    "rlhf.loop",
    "cluster",
    "actors",
    "rlhf.launching",
    "rlhf.report",
    "rlhf.reward",
    "rlhf.sweep",
    "rlhf.chaos",
    COMMANDS,
]
"""Rooms, each of which may import from itself and from those above it in this list."""
MOST_IN_THE_ROOT = 14
"""Modules of `rlhf` that are in no room."""
MOST_CLASS_TESTS = 12
"""Lines that ask which option a configuration is, instead of what it says of itself."""


class Import(NamedTuple):
    importer: str
    imported: str
    place: str
    at_once: bool
    """As the file itself is imported."""


def module(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(file) for file in FILES}


def room(name: str) -> str:
    first, *rest = name.split(".")
    if rest[-1:] == ["__main__"] or name in ONE_FILE_COMMANDS:
        return COMMANDS
    return ".".join([first, *rest[:1]]) if first == "rlhf" else first


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def imports_of(file: Path) -> Iterator[Import]:
    """Everything that a file imports, inside its functions and for its types too."""
    tree = parsed(file)
    first = set(_done_at_once(tree))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by position"
            parent = node.module or ""
            names = [f"{parent}.{name.name}" for name in node.names]
            names = [name if name in MODULES else parent for name in names]
        for name in dict.fromkeys(names):
            place = f"{file}:{node.lineno} imports {name}"
            yield Import(module(file), name, place, node in first)


def _done_at_once(node: ast.AST) -> Iterator[ast.AST]:
    """What is within it, but for what is in functions and for types alone."""
    for part in ast.iter_child_nodes(node):
        match part:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                pass
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                pass
            case _:
                yield part
                yield from _done_at_once(part)


@cache
def imports() -> list[Import]:
    return [one for file in FILES for one in imports_of(file)]


@cache
def ours() -> list[Import]:
    return [one for one in imports() if one.imported in MODULES]


@cache
def pure() -> list[str]:
    """Everything but what puts actors and clusters together, and so knows everything."""
    knowing = {one.importer for one in ours() if room(one.imported) in ("actors", "cluster")}
    return sorted(name for name in MODULES if name.startswith("rlhf") and name not in knowing)


def test_no_files_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in ours():
        graph[one.importer].add(one.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        steps = set(pairwise(error.args[1]))  # each imported by the next
        pytest.fail("; ".join(one.place for one in ours() if (one.imported, one.importer) in steps))


def test_every_room_has_its_place_and_imports_no_later_one():
    assert {room(name) for name in MODULES} - {"rlhf"} == set(ORDER)
    place = {name: number for number, name in enumerate(ORDER)}
    wrong = [
        f"{one.place}, of the later {later}"
        for one in ours()
        if place[later := room(one.imported)] > place[room(one.importer)]
    ]
    assert wrong == []


def test_commands_are_imported_by_nobody():
    assert [one.place for one in ours() if room(one.imported) == COMMANDS] == []


def test_what_is_in_no_room_is_little():
    in_the_root = [str(file) for file in FILES if file.parent == Path("rlhf")]
    assert len(in_the_root) <= MOST_IN_THE_ROOT, in_the_root


def test_only_launching_knows_actors_and_the_cluster():
    rooms = ("cluster", "actors", "rlhf.launching")
    knowing = [one for one in ours() if room(one.imported) in ("actors", "cluster")]
    assert [one.place for one in knowing if room(one.importer) not in rooms] == []


def test_hardly_anybody_asks_for_the_class_of_a_configuration():
    found = [
        f"{file}:{node.lineno}"
        for file in FILES
        for node in ast.walk(parsed(file))
        if "Config" in (_classes(node))
    ]
    assert len(found) <= MOST_CLASS_TESTS, found


def _classes(node: ast.AST) -> str:
    """The classes that something is compared with."""
    match node:
        case ast.Call(func=ast.Name("isinstance" | "issubclass"), args=[_, asked]):
            return ast.unparse(asked)
        case ast.MatchClass(cls=asked):
            return ast.unparse(asked)
        case ast.Compare(left=ast.Call(func=ast.Name("type"))):
            return ast.unparse(node)
    return ""


# Large libraries are imported once, and each module of ours where the largest part of what it
# imports has been imported, and none of ours that it does not import: those are forgotten.
IMPORT_EACH = """
import importlib, json, sys
import hydra.core.config_store, math_verify, matplotlib.figure, pyarrow.parquet, torch
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM

forbidden, after = json.loads(sys.stdin.read())
already = [name for name in forbidden if name in sys.modules]
assert not already, f"other libraries import {already}"

def import_after(part):
    for module in after.get(part, ()):
        before = set(sys.modules)
        try_to_import(module)
        import_after(module)
        for name in {*sys.modules} - before:
            if name.startswith("rlhf"):
                forget(name)

def forget(name):
    del sys.modules[name]
    package, _, own = name.rpartition(".")
    if hasattr(sys.modules.get(package), own):
        delattr(sys.modules[package], own)

def try_to_import(module):
    importlib.import_module(module)
    found = [name for name in forbidden if name in sys.modules]
    if found:  # which stay, so that more would be told of what is well
        sys.exit(f"{module} brings {', '.join(found)}")
    print(module, flush=True)

import_after("")
"""


def test_each_module_can_be_imported_by_itself_and_brings_no_actor_nor_engine():
    after: dict[str, list[str]] = {}
    for name in pure():
        after.setdefault(largest_part(name), []).append(name)
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH],
        input=json.dumps([FORBIDDEN, after]),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == pure()


def largest_part(name: str) -> str:
    """Of what a module imports at once, that which imports most itself; "" if it is nothing."""
    return max(sorted(at_once()[name]), key=lambda part: len(everything(part)), default="")


@cache
def at_once() -> dict[str, set[str]]:
    """What of ours each module imports as it is imported itself."""
    found: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in ours():
        if one.at_once:
            found[one.importer].add(one.imported)
    return found


@cache
def everything(name: str) -> frozenset[str]:
    """What is imported at once with a module, and itself."""
    return frozenset({name}).union(*(everything(part) for part in at_once()[name]))


@pytest.mark.parametrize(
    "package, allowed",
    [
        ("vllm", ["actors/vllm*.py"]),
        ("deepspeed", ["actors/deepspeed_engine.py"]),
        ("wandb", ["rlhf/watching/tracking_wandb.py"]),
        ("wandb_workspaces", ["rlhf/workspace.py"]),
        (
            "hydra",
            [
                "rlhf/__main__.py",
                "rlhf/feedback/__main__.py",
                "rlhf/reward/__main__.py",
                "rlhf/sweep/members.py",
                "rlhf/launching/command_line.py",
                "rlhf/launching/evaluating.py",
                "rlhf/launching/overrides.py",
                "rlhf/report/recipe.py",
                "rlhf/launching/configuration.py",
            ],
        ),
    ],
)
def test_who_may_import(package, allowed):
    found = [one.place for one in imports() if one.imported.split(".")[0] == package]
    assert found
    assert [
        place
        for place in found
        if not any(fnmatch(place.partition(":")[0], file) for file in allowed)
    ] == []


def test_ray_is_started_in_one_place():
    calls = [
        str(file)
        for file in FILES
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ray.init"
    ]
    assert set(calls) == {"cluster/session.py"}


def test_training_fits_on_one_screen():
    assert len((ROOT / "rlhf" / "loop.py").read_text().splitlines()) <= 80

"""What the documentation tells people to type can be typed."""

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
import yaml
from composing import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from sandbox_attacks import ATTACKS

from rlhf.chaos.settings import read_settings
from rlhf.config.reward import RewardTrainingConfig
from rlhf.feedback import __main__ as feedback
from rlhf.feedback.config import FeedbackConfig
from rlhf.launching import options_table
from rlhf.launching.checks import config_problems
from rlhf.launching.command_line import typed
from rlhf.launching.configuration import Config
from rlhf.launching.overrides import as_hydra_reads
from rlhf.problems import InputError
from rlhf.reward import __main__ as reward

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"python", "make", "ray", "sbatch"}
"""What is checked beyond being spelled as a shell would have it."""
OTHERS = {"cd", "docker", "export", "git", "kubectl", "scancel", "source", "pip", "wandb"}
ABSENT = re.compile(r"no such (file|directory)|does not exist", re.IGNORECASE)
"""A path in an example is nobody's."""


def command_lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """Lines of fenced blocks, continued ones joined, where they begin, and whether the block is
    said to be of a shell, so that all its lines are commands."""
    inside, shell, begun, parts = False, False, 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside, shell = not inside, line[3:] in ("bash", "sh")
        elif inside:
            begun = begun if parts else number
            parts.append(line.removesuffix("\\"))
            if not line.endswith("\\"):
                yield begun, " ".join(parts).strip(), shell
                parts = []


def words(line: str) -> list[str]:
    """As a shell splits it, without what precedes a program (`NAME=value`, `.venv/bin/`) and
    where its output goes; dots stand for a model and its data."""
    line = re.sub(r" > \S+$", "", line)
    line = line.replace(" ...", " model.path=/models/x data.path=/data/x.jsonl")
    split = shlex.split(line, comments=True)
    while split and re.fullmatch(r"[A-Z_]+=.*", split[0]):
        del split[0]
    return [split[0].removeprefix(".venv/bin/"), *split[1:]] if split else []


def documented() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for number, line, shell in command_lines(page.read_text()):
            begins = re.match(r"([A-Z_]+=\S* )*(\.venv/bin/)?([\w-]+)\b", line)
            known = begins is not None and begins[3] in PROGRAMS and not line.startswith("rlhf/")
            if known or (shell and not line.startswith("#") and line):
                yield f"{page.name}:{number}", words(line)
    job = yaml.safe_load((ROOT / "cluster/kuberay/rayjob.yaml").read_text())
    yield "rayjob.yaml", words(job["spec"]["entrypoint"])


COMMANDS = list(documented())


def settings() -> Iterator[str]:
    """What stands in a line as `key=value`, of keys with a dot."""
    for page in PAGES:
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text()):
            yield from re.findall(r"(?:^| )([a-z]+\.[a-z_.]+=(?:\"[^\"]*\"|[^ =]+))(?= |$)", code)


def test_the_pages_hold_commands_of_every_kind():
    assert {command[0] for _, command in COMMANDS} >= PROGRAMS
    assert sum(command[:3] == ["python", "-m", "rlhf"] for _, command in COMMANDS) > 10


@pytest.mark.parametrize(
    "command", [pytest.param(command, id=place) for place, command in COMMANDS]
)
def test_a_documented_command_can_be_typed(command: list[str], monkeypatch):
    check(command, monkeypatch)


@pytest.mark.parametrize("setting", sorted(set(settings())))
def test_a_setting_can_be_copied_from_a_line_into_a_shell(setting: str):
    (word,) = shlex.split(setting, comments=True)
    (read,) = as_hydra_reads([word], Config) if "," not in word else [word]
    OverridesParser.create().parse_override(read)


@pytest.mark.parametrize(
    "line",
    [
        "python -m rlhf experiment=demoo",
        "python -m rlhf experiment=demo num_round=3",
        "python -m rlhf model.path=/models/x",  # no data
        "python -m rlhf experiment=demo policy.num_ranks=3 policy.batch_size=32",
        "python -m rlhf -m experiment=demo objective=dpo,ippo",
        "python -m rlhf.reward kind=gmp model.path=m data.path=d output=o",
        "python -m rlhf.feedback path=x",
        "python -m rlhf.evaluate eval.num_prompts=3",
        "python -m rlhf.simulated_users",
        "python -m rlhf.nothing",
        "python -m rlhf.chaos kill=rollouts -- experiment=demo",
        "python benchmarks/users.py --method-s drift",
        "make demos",
        "ray job sumbit -- python -m rlhf experiment=demo",
        "ray job submit --runtime-environment x -- python -m rlhf experiment=demo",
        "ray job submit --runtime-env cluster/ray/none.yaml -- python -m rlhf experiment=demo",
        "ray job submit -- python -m rlhf experiment=demoo",
        "sbatch cluster/slurm/train.sh experiment=demo",
        "sbatch --nodes=2 cluster/slurm/train.sbatch experiment=demoo",
        "pyhton -m rlhf",
    ],
)
def test_a_wrong_command_is_found(line: str, monkeypatch):
    with pytest.raises(Wrong):
        check(words(line), monkeypatch)


class Wrong(Exception):
    pass


def check(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises Wrong for what would be refused before anything is done."""
    program, *rest = command
    for word in rest:
        if re.match(r"(cluster|conf|benchmarks)/", word) and not (ROOT / word).exists():
            raise Wrong(word)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        if not set(rest) <= set(targets):
            raise Wrong(command)
    elif program == "ray":
        check_ray(rest, monkeypatch)
    elif program == "sbatch":
        script = next(number for number, word in enumerate(rest) if not word.startswith("--"))
        check_training(rest[script + 1 :])
    elif program == "python":
        check_python(rest, monkeypatch)
    elif program not in OTHERS:
        raise Wrong(command)


@contextmanager
def refused() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException, InputError) as error:
        raise Wrong(str(error)) from error


class Parsed(Exception):
    pass


def check_arguments(file: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a program up to where it has understood its arguments."""
    if not file.exists():
        raise Wrong(file)
    text = file.read_text()
    if "argparse" not in text:
        if arguments and "sys.argv" not in text:
            raise Wrong(arguments)
        return
    understand = argparse.ArgumentParser.parse_args

    def parse_args(self, *args):
        understand(self, *args)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [str(file), *arguments])
    monkeypatch.syspath_prepend(str(file.parent))
    try:
        runpy.run_path(str(file), run_name="__main__")
    except Parsed:
        return
    except SystemExit as error:
        raise Wrong(arguments) from error


def check_ray(rest: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if "--" in rest:
        check(rest[rest.index("--") + 1 :], monkeypatch)
    from ray.scripts.scripts import cli  # takes a second

    group = click.Context(cli, info_name="ray")
    try:
        while isinstance(group.command, click.Group):
            name, child, rest = group.command.resolve_command(group, rest)
            assert child is not None
            if isinstance(child, click.Group):
                group = click.Context(child, info_name=name, parent=group)
            else:
                group = child.make_context(name, list(rest), parent=group)
    except click.UsageError as error:
        raise Wrong(error.message) from error


def check_python(rest: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if rest[0] != "-m":
        check_arguments(ROOT / rest[0], rest[1:], monkeypatch)
        return
    module, arguments = rest[1], rest[2:]
    if module == "rlhf":
        check_training(arguments)
    elif module == "rlhf.evaluate":
        if sum(word.startswith("run=") for word in arguments) != 1:
            raise Wrong(arguments)
        own = [word for word in arguments if not word.startswith("run=")]
        check_training(["experiment=demo", *own])
    elif module == "rlhf.chaos":
        with refused():
            _, overrides = read_settings(arguments)
        check_training(overrides)
    elif module in ("rlhf.reward", "rlhf.feedback"):
        with refused():
            schema = RewardTrainingConfig if module == "rlhf.reward" else FeedbackConfig
            overrides = as_hydra_reads(arguments, schema)
            composed = compose(module.removeprefix("rlhf."), overrides)
            (reward if module == "rlhf.reward" else feedback).typed(composed)
    else:
        file = ROOT / module.replace(".", "/")
        file = file / "__main__.py" if file.is_dir() else file.with_suffix(".py")
        check_arguments(file, arguments, monkeypatch)


def check_training(overrides: list[str]) -> None:
    """As `python -m rlhf` composes and checks them; of a sweep every run."""
    overrides = [word.replace("--dry-run", "dry_run=true") for word in overrides]
    with refused():
        overrides = as_hydra_reads(overrides, Config)
        swept = [word for word in overrides if word not in ("-m", "--multirun")]
        for run in runs(swept) if swept != overrides else [swept]:
            problems = config_problems(typed(compose("train", ["run.dir=/tmp/run", *run])))
            if problems := [problem for problem in problems if not ABSENT.search(problem)]:
                raise Wrong(problems)


def runs(overrides: list[str]) -> Iterator[list[str]]:
    """Every value of a swept key once, rather than every combination."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    values = [list(swept_values(one)) for one in parsed]
    first = [own[0] for own in values]
    for place, own in enumerate(values):
        yield from ([*first[:place], value, *first[place + 1 :]] for value in own)


def swept_values(override: Override) -> Iterator[str]:
    """The overrides that one stands for; of an interval its ends."""
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        yield from (f"{key}={end}" for end in (value.start, value.end))
    elif override.is_sweep_override():
        yield from (f"{key}={one}" for one in override.sweep_string_iterator())
    else:
        yield override.input_line or ""


def test_the_page_of_options_is_what_their_files_say():
    page = (ROOT / "docs" / "options.md").read_text()
    assert page.endswith("\n".join(options_table.lines()).strip() + "\n"), (
        "python -m rlhf.launching.options_table prints what is to stand there"
    )


@pytest.mark.parametrize("page", [ROOT / "SECURITY.md", *PAGES], ids=lambda page: page.name)
def test_a_test_that_a_page_names_is_there(page):
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text())
    assert named or page.name != "SECURITY.md"
    for file, name in named:
        assert (ROOT / file).exists(), file
        assert f"def {name}(" in (ROOT / file).read_text() or not name, f"{file}::{name}"


def test_every_fault_of_the_page_has_its_test():
    page = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"`(test_\w+)(?:\[[\w-]+\])?`", page))
    files = [ROOT / "tests/integration" / f"test_{name}.py" for name in ("faults", "lost_nodes")]
    defined = {
        name for file in files for name in re.findall(r"^def (\w+)\(", file.read_text(), re.M)
    }
    assert named and named <= defined


def test_the_attacks_of_the_page_are_those_of_the_table():
    page = (ROOT / "SECURITY.md").read_text()
    assert f" {len(ATTACKS)} attacks |" in page

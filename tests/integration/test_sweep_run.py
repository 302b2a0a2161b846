"""A whole sweep from the command line, one member of which fails while it runs."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from commands import SMALL, finish, start_sweep

# The middle one's prompts are given no time.
MEMBERS = [*SMALL, "num_rounds=2", "round.deadline_s=1800,1.0e-6,1801"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[set[int]]]:
    """Where a sweep is that has ended, what it showed, and the raylets it had at each time."""
    directory = tmp_path_factory.mktemp("swept") / "sweep"
    process = start_sweep(directory, *MEMBERS)
    raylets: list[set[int]] = [set()]
    while True:
        try:
            output, _ = process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            found = raylets_below(process.pid)
            raylets += [found] * (found != raylets[-1])
            continue
        assert process.returncode == 1, output
        return directory, output, raylets


def raylets_below(pid: int) -> set[int]:
    found = set()
    with suppress(psutil.NoSuchProcess):  # the sweep has ended meanwhile
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.name() == "raylet":
                    found.add(child.pid)
    return found


def test_the_others_finish_and_the_table_says_why_one_did_not(swept):
    directory, output, _ = swept
    members = json.loads((directory / "sweep.json").read_text())["members"]
    assert [member["status"] for member in members] == ["completed", "failed", "completed"]
    assert [member["num_rounds"] for member in members] == [2, 0, 2]
    for number in (0, 2):
        summary = json.loads((directory / str(number) / "summary.json").read_text())
        assert members[number]["after"] == summary["eval"]["after"]["sampled_accuracy"]
        assert (directory / str(number) / "policy" / "model.safetensors").exists()
    reason = members[1]["reason"]
    assert reason.startswith("failed: round 0: 1 prompts failed")
    table_and_after = output[output.index("┏") :]
    assert reason in table_and_after
    assert output.rstrip().endswith("failed: 1 of 3 members did not finish")
    assert (directory / "sweep.png").stat().st_size > 10_000


def test_each_member_has_a_ray_of_its_own_that_ends_with_it(swept):
    _, _, raylets = swept
    own = [found for found in raylets if found]
    assert [len(found) for found in own] == [1, 1, 1]
    assert len(set.union(*own)) == 3


def test_begun_again_it_knows_what_is_finished_and_tries_the_rest(swept):
    directory, _, _ = swept
    output = finish(start_sweep(directory, *MEMBERS), code=1)
    finished = "the run there is finished; a larger num_rounds goes on"
    for number in (0, 2):
        assert f"{directory / str(number)}: {finished}" in output
    assert output.count("starting workers") == 1

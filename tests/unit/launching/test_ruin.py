"""The last good checkpoint, as it is told."""

import asyncio
from pathlib import Path

import pytest

from rlhf.launching.ruin import with_last_good
from rlhf.problems import Collapsed, PolicyBroken
from rlhf.storage.ledger import Ledger
from rlhf.storage.round_checkpoints import RoundCheckpoints


class Nothing:
    async def save(self, directory: Path) -> None:
        """There is nothing to keep."""

    async def snapshot(self, most_bytes: float) -> None:
        """Here neither."""


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    """After 3, 6 and 9 rounds."""
    kept = RoundCheckpoints(tmp_path / "c", Nothing(), Ledger(tmp_path), keep=9, state={})
    for number in (3, 6, 9):
        asyncio.run(kept.save(number))
    return tmp_path / "c"


@pytest.mark.parametrize(
    "error, told",
    [
        (Collapsed("flat", 7), "round_000006: delete round_000009 there, and the same command"),
        (Collapsed("flat", 6), "round_000003: delete round_000006, round_000009 there, and"),
        (Collapsed("flat", 3), "flat; no checkpoint is from before that: begin anew"),
        (PolicyBroken("nan"), "round_000009: the same command goes on from it"),
        (ExceptionGroup("", [PolicyBroken("nan")]), "nan; the last good checkpoint is "),
    ],
)
def test_the_last_checkpoint_from_before_is_named(checkpoints, error, told):
    assert told in str(with_last_good(error, checkpoints))


def test_one_that_is_damaged_is_passed_over(checkpoints):
    (checkpoints / "round_000009" / "state.json").write_text("{}")
    assert "round_000006: delete round_000009" in str(
        with_last_good(PolicyBroken("n"), checkpoints)
    )

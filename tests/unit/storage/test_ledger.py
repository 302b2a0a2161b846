"""The ledger: what a checkpoint has of it, and what is kept at once."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.storage.checkpoint import newest_checkpoint
from rlhf.storage.ledger import LEDGER, Journal, Ledger
from rlhf.storage.round_checkpoints import RoundCheckpoints


class NoPolicy:
    async def save(self, directory: Path) -> None:
        pass

    async def snapshot(self, most_bytes: float) -> None:
        pass


def saved(run: Path, ledger: Ledger, num_rounds: int) -> Path:
    checkpoints = RoundCheckpoints(run / "checkpoints", NoPolicy(), ledger, keep=9, state={})
    return asyncio.run(checkpoints.save(num_rounds))


def test_a_checkpoint_has_every_owner_s_notes_of_the_rounds_before_it(tmp_path):
    ledger = Ledger(tmp_path)
    for round in range(4):  # two rounds are collected ahead
        ledger.page("curator").note(round, [round / 3])
    ledger.page("other").note(1, {"a": None})
    saved(tmp_path, ledger, 2)
    found = newest_checkpoint(tmp_path / "checkpoints")  # verified, the ledger too
    assert found is not None
    again = Ledger(tmp_path, found.directory)
    assert again.page("curator").notes == {0: [0.0], 1: [1 / 3]}
    assert again.page("other").notes == {1: {"a": None}}
    assert again.page("nobody").notes == {}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_back_bit_for_bit_and_are_never_other_than_they_will_be_read(number):
    page = Ledger(Path()).page("own")
    page.note(3, (number, {"n": number}))
    assert page.notes == {3: [number, {"n": number}]}
    assert json.loads(json.dumps(page.notes[3])) == page.notes[3]


def test_what_is_no_json_is_refused_when_it_is_noted():
    with pytest.raises(TypeError):
        Ledger(Path()).page("own").note(0, {1, 2})


def test_a_checkpoint_from_before_there_were_ledgers_remembers_nothing(tmp_path):
    path = saved(tmp_path, Ledger(tmp_path), 1)
    (path / LEDGER).unlink()
    assert Ledger(tmp_path, path).page("curator").notes == {}


def test_a_journal_is_on_disk_at_once_and_in_no_checkpoint(tmp_path):
    ledger = Ledger(tmp_path)
    journal = ledger.journal("feed", "complaints")
    journal.note(5, ["ä"])
    assert (tmp_path / "feed.jsonl").read_text() == '{"round": 5, "complaints": ["ä"]}\n'
    assert ledger.journal("feed", "complaints") is journal
    path = saved(tmp_path, ledger, 9)
    assert json.loads((path / LEDGER).read_text()) == {}
    again = Ledger(tmp_path, path).journal("feed", "complaints")
    assert isinstance(again, Journal) and again.notes == {5: ["ä"]}

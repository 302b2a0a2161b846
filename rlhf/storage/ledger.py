"""What a run has to remember from round to round, each owner under its own name."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.storage.disk import append

LEDGER = "ledger.json"
"""In a checkpoint."""


class Page:
    """One owner's notes, of each round one: JSON values, as they would be read again."""

    def __init__(self, notes: Mapping[int, Any]) -> None:
        self._notes = dict(notes)

    @property
    def notes(self) -> Mapping[int, Any]:
        """By round."""
        return self._notes

    def note(self, round: int, value: Any) -> None:
        """In place of what is noted of that round, if anything is."""
        self._notes[round] = json.loads(json.dumps(value))

    def forget(self, before: int) -> None:
        """What is noted of rounds before that one."""
        self._notes = {round: note for round, note in self._notes.items() if round >= before}


class Journal(Page):
    """A page of what cannot be found again: each note is on disk when `note` returns, and there
    whatever checkpoint the run goes on from. One line per round, `{"round": ..., KEY: ...}`."""

    def __init__(self, file: Path, key: str) -> None:
        """A last line without its end, which a killed run may leave, is cut off."""
        super().__init__({})
        self._file, self._key = file, key
        if not file.exists():
            return
        # In bytes, since a line may end inside a character.
        content = file.read_bytes()
        *lines, rest = content.split(b"\n")
        for line in map(json.loads, lines):
            self._notes[line["round"]] = line[key]
        if rest:
            os.truncate(file, len(content) - len(rest))

    def note(self, round: int, value: Any) -> None:
        super().note(round, value)
        line = json.dumps({"round": round, self._key: value}, ensure_ascii=False)
        append(self._file, line + "\n")


class Ledger:
    """All pages of a run.

    A checkpoint after n rounds has the notes of those, and not of rounds that are collected ahead,
    which a run that goes on from it collects again.
    """

    def __init__(self, directory: Path, checkpoint: Path | None = None) -> None:
        """`directory` is the run's; `checkpoint`: what the run goes on from, which may be older
        than ledgers and then remembers nothing."""
        self._directory = directory
        self._pages: dict[str, Page] = {}
        if checkpoint is not None and (file := checkpoint / LEDGER).exists():
            saved = json.loads(file.read_text(encoding="utf-8"))
            self._pages = {
                owner: Page({int(round): value for round, value in notes.items()})
                for owner, notes in saved.items()
            }

    def page(self, owner: str) -> Page:
        """What is noted there is saved with the next checkpoint."""
        return self._pages.setdefault(owner, Page({}))

    def journal(self, owner: str, key: str) -> Journal:
        """The same, at once, in the run's `OWNER.jsonl`; what is noted stands under `key`."""
        page = self._pages.get(owner)
        if not isinstance(page, Journal):
            page = self._pages[owner] = Journal(self._directory / f"{owner}.jsonl", key)
        return page

    def text(self, num_rounds: int) -> str:
        """What a checkpoint after so many rounds has of it."""
        saved = {
            owner: {round: note for round, note in page.notes.items() if round < num_rounds}
            for owner, page in sorted(self._pages.items())
            if not isinstance(page, Journal)
        }
        return json.dumps(saved)

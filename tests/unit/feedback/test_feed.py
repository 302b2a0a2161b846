"""A folder of new logs: each conversation once, and each round the same again after a restart."""

import json
import os
import shutil
from pathlib import Path

import pytest
from users_log import conversation, renderer

from rlhf.asking.preparation import Preparation
from rlhf.collecting.collector import OneRound
from rlhf.config.data import LabelSource
from rlhf.conversations.pairs import is_heldout
from rlhf.feedback.feed import Feed, FeedSchedule, conversations
from rlhf.problems import InputError
from rlhf.records import Prompt
from rlhf.storage.ledger import Journal

LOG = [Prompt(f"log-{n}", conversation("?"), (1,)) for n in range(4)]


def row(id: str, labels: str = "d", texts=("q", "a", "no")) -> dict:
    """One letter for each of the user's turns from the second on: dissatisfied, satisfied."""
    turns = [f"{text}{n}" for n, text in enumerate(texts * 3)][: 2 * len(labels) + 1]
    messages = [dict(message._asdict()) for message in conversation(*turns)]
    for message, label in zip(messages[2::2], labels, strict=True):
        message |= {"dissatisfied": label == "d", "satisfied": label == "s"}
    return {"id": id, "messages": messages}


class Folder:
    """A folder that logs arrive in, and everything of a run that looks at it."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "feed"
        self.path.mkdir()
        self.ledger = tmp_path / "feed.jsonl"
        self.told: list[str] = []
        self._clock = 10**18

    def write(self, name: str, *rows: dict | str) -> Path:
        lines = [one if isinstance(one, str) else json.dumps(one) for one in rows]
        file = self.path / name
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self._clock += 10**9  # two writes are never of one moment
        os.utime(file, ns=(self._clock, self._clock))
        return file

    def feed(self, share: float = 0.0, used=(), label=LabelSource.given) -> Feed:
        return Feed(self.path, label, share, used, self.told.append)

    def schedule(self, num_per_round: int = 2, max_tokens: int = 512) -> FeedSchedule:
        """As a run that begins, or goes on after a crash."""
        ledger = Journal(self.ledger, "complaints")
        feed = self.feed(used=set(conversations(ledger)))
        self.preparation = Preparation(renderer(), max_tokens, 64)
        prepare, log = self.preparation.prompt, OneRound(LOG)
        return FeedSchedule(log, num_per_round, feed, ledger, prepare, "Again.", self.told.append)


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def ids(taken: list[dict]) -> list[str]:
    return [record["id"] for record in taken]


async def asked(schedule: FeedSchedule, index: int) -> list[str]:
    return [prompt.id for prompt in await schedule.round(index)]


# --- what counts as new ---------------------------------------------------------------------------


def test_each_conversation_is_used_once_whatever_happens_to_its_file(folder):
    feed = folder.feed()
    assert feed.take(9) == []
    folder.write("b.jsonl", row("1"), row("2"))
    assert ids(feed.take(9)) == ["1:2", "2:2"]
    assert feed.take(9) == []
    folder.write("b.jsonl", row("1"), row("2"), row("3"))  # it grows
    assert ids(feed.take(9)) == ["3:2"]
    folder.write("b.jsonl", row("2", texts=("Q", "A", "N")), row("4"))  # written anew
    assert ids(feed.take(9)) == ["4:2"]
    folder.write("a.jsonl", row("4"), row("5"))  # another file with one of the same
    (folder.path / "b.jsonl").unlink()
    assert ids(feed.take(9)) == ["5:2"]
    folder.write("c.jsonl", row("6"))
    os.replace(folder.path / "c.jsonl", folder.path / "d.jsonl")
    assert ids(feed.take(9)) == ["6:2"]
    (folder.path / "d.jsonl").rename(folder.path / "e.jsonl")
    assert feed.take(9) == []


def test_who_complains_later_is_heard(folder):
    feed = folder.feed()
    folder.write("a.jsonl", row("1", "s"), row("2"))
    assert ids(feed.take(9)) == ["2:2"]
    folder.write("a.jsonl", row("1", "sd", texts=("q", "a", "yes", "b", "no")), row("2"))
    assert ids(feed.take(9)) == ["1:4"]


def test_a_folder_that_is_gone_for_a_while_is_told_once(folder):
    feed = folder.feed()
    folder.path.rename(folder.path.with_name("away"))
    assert feed.take(9) == feed.take(9) == []
    (told,) = folder.told
    assert "cannot be read (No such file or directory)" in told
    folder.path.with_name("away").rename(folder.path)
    folder.write("a.jsonl", row("1"))
    assert ids(feed.take(9)) == ["1:2"]


def test_what_was_used_before_is_not_used_again(folder):
    folder.write("a.jsonl", row("1"), row("2"), row("3"))
    assert ids(folder.feed(used={"1", "3"}).take(9)) == ["2:2"]


def test_files_are_read_in_their_names_order_and_some_are_not_seen(folder):
    folder.write("b.jsonl", row("2"))
    folder.write("a.json", json.dumps([row("1")]))
    folder.write(".c.jsonl", row("hidden"))
    folder.write("d.txt", row("no log"))
    (folder.path / "e.jsonl").mkdir()
    assert ids(folder.feed().take(9)) == ["1:2", "2:2"]


def test_held_out_conversations_are_never_taken(folder):
    names = [str(n) for n in range(60)]
    folder.write("a.jsonl", *map(row, names))
    taken = [record["conversation_id"] for record in folder.feed(share=0.3).take(99)]
    assert taken == [name for name in names if not is_heldout(name, 0.3)]
    assert 10 < len(taken) < 60
    assert f"60 conversations, 60 of them new, {60 - len(taken)} held out" in folder.told[0]


def test_no_more_is_taken_than_asked_for_and_conversations_stay_whole(folder):
    folder.write("a.jsonl", row("1", "dd"), row("2", "s"), row("3"), row("4", "ddd"))
    feed = folder.feed()
    taken = [ids(feed.take(2)) for _ in range(4)]
    assert taken == [["1:2", "1:4"], ["3:2"], ["4:2", "4:4", "4:6"], []]


def test_rules_read_what_nobody_labelled(folder):
    texts = ("What is it?", "A fish.", "That's wrong.")
    bare = [message._asdict() for message in conversation(*texts)]
    folder.write("a.jsonl", {"id": "1", "messages": bare})
    assert folder.feed().take(9) == []
    (record,) = folder.feed(label=LabelSource.rules).take(9)
    assert (record["complaint"], record["label_source"]) == ("That's wrong.", "rules")


def test_a_broken_file_is_told_and_read_again_when_it_has_changed(folder):
    file = folder.write("a.jsonl", row("1"), '{"id": "2", "mess')
    folder.write("b.jsonl", row("3"))
    feed = folder.feed()
    assert ids(feed.take(9)) == ["3:2"]
    told = [line for line in folder.told if "passed over" in line]
    assert told == [
        f"feed: {file} is passed over until it changes: {file}: not JSON; each line must be one "
        "JSON object; 1 rows: 2"
    ]
    assert feed.take(9) == [] and len(folder.told) == 2
    folder.write("a.jsonl", row("1"), row("2"))
    assert ids(feed.take(9)) == ["1:2", "2:2"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "absent", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"^data\.feed=.*: no such folder"):
            Feed(path, LabelSource.given, 0.0, (), print)


# --- rounds ---------------------------------------------------------------------------------------


async def test_what_has_arrived_comes_first_and_the_log_fills_up(folder):
    schedule = folder.schedule(num_per_round=3)
    assert await asked(schedule, 0) == ["log-0", "log-1", "log-2"]
    folder.write("a.jsonl", row("1"))
    assert await asked(schedule, 1) == ["1:2", "log-0", "log-1"]
    folder.write("b.jsonl", *(row(str(n)) for n in range(2, 6)))
    assert await asked(schedule, 2) == ["2:2", "3:2", "4:2"]
    assert await asked(schedule, 3) == ["5:2", "log-0", "log-1"]


async def test_what_arrived_has_its_users_words_beside_it(folder):
    folder.write("a.jsonl", row("1", "sd"))
    schedule = folder.schedule()
    prompt = (await schedule.round(0))[0]
    said = folder.preparation.feedback["1:4"]
    assert prompt.messages == conversation("q0", "a1", "no2")
    assert (said.disliked.text, said.liked) == ("q3", None)
    assert said.guided.messages[-1].content == "a4\n\nAgain."
    # For a judge who goes by what the user wanted, as with the log itself.
    assert prompt.answer == said.guided.answer == "a4"


async def test_what_is_too_long_is_left_out_and_told_and_the_log_fills_up(folder):
    folder.write("a.jsonl", row("1", texts=("x" * 99, "a", "b")), row("2"))
    schedule = folder.schedule(max_tokens=60)
    assert await asked(schedule, 0) == ["2:2", "log-0"]
    assert folder.told[-1] == "feed: round 0 leaves out 1 complaints that do not fit"


async def test_a_round_is_the_same_again_whatever_has_arrived_or_vanished_since(folder):
    folder.write("a.jsonl", *(row(str(n)) for n in range(3)))
    schedule = folder.schedule()
    before = [await schedule.round(index) for index in (0, 1, 2)]
    assert await schedule.round(1) == before[1]
    shutil.rmtree(folder.path)
    folder.path.mkdir()
    folder.write("0.jsonl", row("new"), row("0"))
    resumed = folder.schedule()
    assert [await resumed.round(index) for index in (0, 1, 2)] == before
    assert folder.preparation.feedback.keys() == {"0:2", "1:2", "2:2"}
    # What was used before the crash is not used again after it.
    assert await asked(resumed, 3) == ["new:2", "log-0"]


async def test_what_waited_when_a_run_was_killed_is_not_lost(folder):
    folder.write("a.jsonl", *(row(str(n)) for n in range(5)))
    assert await asked(folder.schedule(), 0) == ["0:2", "1:2"]
    resumed = folder.schedule()
    assert [await asked(resumed, n) for n in (0, 1, 2)] == [
        ["0:2", "1:2"],
        ["2:2", "3:2"],
        ["4:2", "log-0"],
    ]


async def test_the_ledger_says_where_everything_came_from(folder):
    file = folder.write("a.jsonl", row("0", "s"), row("1", "sd", texts=("q", "ä\n\u2028", "no")))
    await folder.schedule().round(7)
    (line,) = map(json.loads, folder.ledger.read_bytes().splitlines())
    (record,) = line["complaints"]
    assert line["round"] == 7
    assert (record["id"], record["conversation_id"], record["turn"]) == ("1:4", "1", 4)
    assert (record["file"], record["row"], record["label_source"]) == (str(file), 2, "given")
    assert record["history"][1]["content"] == "ä\n\u20281"


@pytest.mark.parametrize("num_lost", [1, 2, 7, 300, 301])
async def test_a_ledger_s_last_line_may_be_half_written(folder, num_lost):
    """Cut anywhere, in the middle of a character too."""
    texts = ("q", "a", "n" + "ö" * 200)
    folder.write("a.jsonl", *(row(str(n), texts=texts) for n in range(4)))
    schedule = folder.schedule(1, max_tokens=2048)
    first = await schedule.round(0)
    whole = folder.ledger.read_bytes()
    await schedule.round(1)
    torn = folder.ledger.read_bytes()[:-num_lost]
    assert len(torn) > len(whole)
    folder.ledger.write_bytes(torn)
    resumed = folder.schedule(1, max_tokens=2048)
    assert folder.ledger.read_bytes() == whole
    assert await resumed.round(0) == first
    # The round that was not written down is taken anew, and it is written once.
    assert [await asked(resumed, n) for n in (1, 2)] == [["1:2"], ["2:2"]]
    assert list(Journal(folder.ledger, "complaints").notes) == [0, 1, 2]

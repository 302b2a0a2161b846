"""A folder that `python -m rlhf.feedback` has written is read back without loss."""

import json
from pathlib import Path

import pytest
from users_log import conversation

from rlhf.asking.sources.feedback import FeedbackDataConfig, open_folder
from rlhf.config.data import LabelSource
from rlhf.conversations.log import ConversationLog
from rlhf.data.rendering import Source
from rlhf.feedback.__main__ import run
from rlhf.feedback.config import FeedbackConfig
from rlhf.problems import InputError
from rlhf.toys.users import write_log

SHARE = 0.25
ODD = ("What\u2028is it?", " A\tfish…\r\n", "That's wrong, naïve one!", "A bird", "Thanks!")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """Simulated users, and one conversation of odd characters."""
    file = tmp_path_factory.mktemp("log") / "log.jsonl"
    write_log(file, 200, seed=3)
    odd = [message._asdict() for message in conversation(*ODD, system="Be kind.")]
    with file.open("a", encoding="utf-8") as more:
        more.write(json.dumps({"id": "odd:1", "messages": odd}) + "\n")
    return file


@pytest.fixture(scope="module")
def written(log, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("written") / "out"
    run(FeedbackConfig(str(log), str(out), LabelSource.rules, heldout_share=SHARE))
    return out


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """One that may be spoilt."""
    copy = tmp_path / "out"
    copy.mkdir()
    for file in written.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def read(folder: Path) -> Source:
    return open_folder(FeedbackDataConfig(path=str(folder), instruction="Again.")).source()


def refusal(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(folder)
    return caught.value.problems


def test_nothing_is_lost_on_the_way(written, log):
    source, counts = read(written), json.loads((written / "summary.json").read_text())["written"]
    complaints = [row for row in source.train if row.review.complaint is not None]
    praises = [row for row in source.train if row.review.complaint is None]
    assert len(complaints) == counts["complaints.train.jsonl"] > 100
    # A praise that ends a seed pair is in the complaint's row.
    assert len(praises) + counts["seed_pairs.jsonl"] == counts["praises.train.jsonl"] > 10
    assert len(source.heldout) == counts["complaints.heldout.jsonl"] > 30
    improved = [row for row in complaints if row.review.liked is not None]
    assert len(improved) == counts["seed_pairs.jsonl"] > 5
    assert (
        len([row for row in source.heldout if row.review.liked])
        == (counts["seed_pairs.heldout.jsonl"])
    )
    rows = [*source.train, *source.heldout]
    assert len({row.id for row in rows}) == len(rows)
    # Every text is where the log has it.
    talks = {one.id: one.messages for one in ConversationLog(log)}
    for row in rows:
        id, turn = row.id.rsplit(":", 1)
        messages, at, review = talks[id], int(turn), row.review
        assert row.messages == messages[: at - 1]
        disliked = review.complaint is not None
        assert (review.disliked if disliked else review.liked) == messages[at - 1].content
        if disliked:
            assert review.complaint == messages[at].content
            assert review.liked in (None, messages[at + 1].content if at + 1 < len(messages) else 0)
        assert review.instruction == ("Again." if disliked else review.instruction)


def test_conversations_are_on_one_side_and_have_their_user_s_wish_for_an_answer(written):
    source = read(written)
    assert all(row.answer == row.review.complaint for row in (*source.train, *source.heldout))
    sides = [{row.id.rsplit(":", 1)[0] for row in rows} for rows in (source.train, source.heldout)]
    assert not sides[0] & sides[1]
    share = open_folder(FeedbackDataConfig(path=str(written))).heldout_share
    assert share == SHARE


def test_odd_characters_stay_as_they_are(written):
    (row,) = (row for row in (*read(written).train, *read(written).heldout) if row.id == "odd:1:3")
    assert row.messages == conversation(ODD[0], system="Be kind.")
    assert (row.review.disliked, row.review.complaint, row.review.liked) == ODD[1:4]


# --- what is wrong with a folder ------------------------------------------------------------------


def spoil(file: Path, number: int, **changes) -> None:
    """Changes one row; None takes the field away."""
    rows = lines(file)
    rows[number - 1] |= changes
    rows[number - 1] = {name: v for name, v in rows[number - 1].items() if v is not None}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(
    "name, field, value, what",
    [
        # No assistant's turn before the complaint.
        ("complaints.train", "reply", None, "is null or missing"),
        ("complaints.train", "reply", " ", "is empty"),
        ("complaints.heldout", "complaint", 3, "must be text, not int"),
        ("complaints.train", "history", [], "is a conversation without messages"),
        (
            "complaints.train",
            "history",
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "must end with a message of the user, not of the assistant",
        ),
        (
            "complaints.train",
            "history",
            [{"role": "agent", "content": "a"}],
            "has the role 'agent'; allowed: system, user, assistant",
        ),
        ("praises.train", "id", None, "is null or missing"),
        ("seed_pairs", "chosen", None, "is null or missing"),
        ("seed_pairs", "prompt", [], "is a conversation without messages"),
    ],
)
def test_a_bad_row_is_told_by_file_field_and_number(folder, name, field, value, what):
    file = folder / f"{name}.jsonl"
    spoil(file, 2, **{field: value})
    assert refusal(folder) == [f"{file}: column {field!r} {what}; 1 rows: 2"]


def test_everything_that_is_wrong_is_told_at_once(folder):
    spoil(folder / "complaints.train.jsonl", 1, reply=None)
    spoil(folder / "complaints.train.jsonl", 3, reply=None, complaint=7)
    (folder / "praises.train.jsonl").unlink()
    with (folder / "complaints.heldout.jsonl").open("a") as file:
        file.write("{oops\n")
    told = refusal(folder)
    assert len(told) == 4
    assert any(one.endswith("column 'reply' is null or missing; 2 rows: 1, 3") for one in told)
    assert any("column 'complaint' must be text, not int; 1 rows: 3" in one for one in told)
    assert any("has no praises.train.jsonl; write the folder anew with" in one for one in told)
    assert any("not JSON; each line must be one JSON object" in one for one in told)


@pytest.mark.parametrize(
    "name",
    [
        "complaints.train.jsonl",
        "complaints.heldout.jsonl",
        "praises.train.jsonl",
        "seed_pairs.jsonl",
        "seed_pairs.heldout.jsonl",
    ],
)
def test_a_missing_file_is_told_and_an_empty_one_may_be(folder, name):
    if name != "complaints.heldout.jsonl":
        (folder / name).write_bytes(b"")
        read(folder)
    (folder / name).unlink()
    assert refusal(folder) == [
        f"data.path={folder}: has no {name}; write the folder anew with python -m rlhf.feedback"
    ]


def test_a_folder_that_holds_nothing_out_is_refused(folder):
    (folder / "complaints.heldout.jsonl").write_bytes(b"")
    (problem,) = refusal(folder)
    assert "no complaint is held out; run python -m rlhf.feedback with a larger" in problem


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"heldout_share"'])
def test_a_folder_without_its_summary_is_none_of_ours(folder, content):
    (folder / "summary.json").unlink()
    if content is not None:
        (folder / "summary.json").write_text(content)
    (problem,) = refusal(folder)
    assert problem.startswith(f"data.path={folder}: must be a folder that python -m rlhf.feedback")

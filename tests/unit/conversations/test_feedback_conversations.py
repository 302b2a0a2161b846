"""Logs: every row of them becomes a conversation that is kept, or one that is counted."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.conversations.labels import Satisfaction
from rlhf.conversations.log import LISTED, ConversationLog
from rlhf.data import rows
from rlhf.problems import InputError
from rlhf.records import Message

GOOD = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]
SEEN_BY_THE_AUTHORS = {
    "TurnId": 1,
    "Satisfaction-Justificiation": [],
    "Dissatisfaction-Justificiation": [],
    "Preceeding": "YES",
}
"""Fields of a WildFeedback row that are not read."""


def chat(*turns, **rest):
    """Turns are (role, content) or (role, content, {"satisfied": ...})."""
    messages = [
        {"role": role, "content": text, **(labels[0] if labels else {})}
        for role, text, *labels in turns
    ]
    return {"messages": messages, **rest}


def utterance(number, content, **labels):
    role = "Agent" if number % 2 else "User"
    return {
        "UtteranceId": number,
        "Role": role,
        "Content": content,
        **SEEN_BY_THE_AUTHORS,
        **labels,
    }


def write(path: Path, *records) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(records)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(records), indent=1))
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(path: Path):
    log = ConversationLog(path)
    return list(log), log.tally


def refusal(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(path)
    return caught.value.problems


# --- chats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_labelled_chat(tmp_path, suffix):
    turns = [
        ("system", "Be brief."),
        ("user", "q"),
        ("assistant", " a\r\n"),
        ("user", "no", {"satisfied": False, "dissatisfied": True}),
    ]
    path = write(tmp_path / f"log{suffix}", chat(*turns, id="x"), chat(*GOOD, id="y"))
    (first, second), tally = read(path)
    assert first.id == "x" and (first.file, first.row) == (str(path), 1)
    assert first.messages == tuple(Message(*turn[:2]) for turn in turns)
    assert [verdict.satisfaction for verdict in first.given] == [Satisfaction.dissatisfied]
    assert [verdict[:2] for verdict in second.given] == [(2, Satisfaction.unknown)]
    assert (tally.num_rows, tally.num_read, tally.num_kept) == (2, 2, 2)


@pytest.mark.parametrize(
    "satisfied, dissatisfied, says",
    [
        (True, True, "mixed"),
        (True, False, "satisfied"),
        (False, True, "dissatisfied"),
        (False, False, "neither"),
        (None, None, "unknown"),
        (None, False, "unknown"),
        (False, None, "unknown"),
        (None, True, "dissatisfied"),
        (True, None, "satisfied"),
    ],
)
def test_a_missing_label_is_not_a_false_one(tmp_path, satisfied, dissatisfied, says):
    labels = {"satisfied": satisfied, "dissatisfied": dissatisfied}
    labels = {name: value for name, value in labels.items() if value is not None}
    path = write(tmp_path / "log.jsonl", chat(*GOOD[:2], ("user", "q2", labels)))
    assert [verdict.satisfaction for verdict in read(path)[0][0].given] == [says]


@pytest.mark.parametrize(
    "turns, why",
    [
        ([], "no_messages"),
        ([("assistant", "hello"), *GOOD], "starts_with_assistant"),
        ([("system", "s"), ("assistant", "hello")], "starts_with_assistant"),
        ([GOOD[0], *GOOD], "same_role_twice"),
        ([*GOOD, ("assistant", "more")], "same_role_twice"),
        ([*GOOD, ("system", "s")], "system_inside"),
        ([("system", "s"), ("system", "s"), *GOOD], "system_inside"),
        ([GOOD[0], ("tool", "{}"), GOOD[1]], "tool_message"),
        ([GOOD[0], ("assistant", "So.", {"tool_calls": [{"name": "f"}]}), GOOD[2]], "tool_message"),
        ([GOOD[0], ("assistant", None), GOOD[2]], "empty_message"),
        ([GOOD[0], ("assistant", " \n"), GOOD[2]], "empty_message"),
        ([("user", "q", {"dissatisfied": True}), GOOD[1]], "label_without_reply"),
        ([("system", "s"), ("user", "q", {"satisfied": True}), GOOD[1]], "label_without_reply"),
    ],
)
def test_irregular_conversations_are_dropped_and_counted(tmp_path, turns, why):
    path = write(tmp_path / "log.jsonl", chat(*GOOD), chat(*turns), chat(*GOOD, id="c"))
    kept, tally = read(path)
    assert [conversation.row for conversation in kept] == [1, 3]
    assert tally.dropped == {why: 1}
    assert tally.places == {why: [f"{path} row 2"]}


def test_a_false_label_on_the_first_turn_claims_nothing(tmp_path):
    first = ("user", "q", {"satisfied": False, "dissatisfied": False})
    ((conversation,), _) = read(write(tmp_path / "log.jsonl", chat(first, *GOOD[1:])))
    assert [verdict.turn for verdict in conversation.given] == [2]


def test_an_id_is_used_once_over_all_files(tmp_path):
    write(tmp_path / "a.jsonl", chat(*GOOD, id=7), chat(*GOOD))
    write(tmp_path / "b.jsonl", chat(*GOOD, id="7"), chat(*GOOD), chat(*GOOD[:2]))
    kept, tally = read(tmp_path)
    places = [(Path(conversation.file).name, conversation.row) for conversation in kept]
    assert places == [("a.jsonl", 1), ("a.jsonl", 2), ("b.jsonl", 3)]
    assert kept[0].id == "7" and len({conversation.id for conversation in kept}) == 3
    assert tally.dropped == {"duplicate_id": 2}


def test_without_an_id_a_conversation_is_known_by_its_messages_in_any_file(tmp_path):
    first = read(write(tmp_path / "a.jsonl", chat(*GOOD[:1]), chat(*GOOD)))[0][1]
    second = read(write(tmp_path / "moved.parquet", chat(*GOOD)))[0][0]
    assert first.id == second.id


def test_only_the_first_places_are_listed(tmp_path):
    path = write(tmp_path / "log.jsonl", *[chat()] * (LISTED + 5), chat(*GOOD))
    _, tally = read(path)
    assert tally.dropped["no_messages"] == LISTED + 5
    assert len(tally.places["no_messages"]) == LISTED


# --- utterances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_utterances_become_conversations(tmp_path, suffix):
    labels = {"Satisfaction": False, "Disatisfaction": True}
    path = write(
        tmp_path / f"log{suffix}",
        utterance(0, "q1", Satisfaction=False, Disatisfaction=False),
        utterance(1, "a1", Satisfaction=False, Disatisfaction=False),
        utterance(2, "q2", **labels),
        utterance(3, "a2", **labels),
        utterance(4, "q3", Satisfaction=True, Disatisfaction=True),
        utterance(0, "q1"),
        utterance(1, "a1"),
        utterance(2, "q2", Satisfaction=False),
    )
    (first, second), tally = read(path)
    assert [m.content for m in first.messages] == ["q1", "a1", "q2", "a2", "q3"]
    assert [verdict[:2] for verdict in first.given] == [(2, "dissatisfied"), (4, "mixed")]
    assert [verdict[:2] for verdict in second.given] == [(2, "unknown")]
    assert (first.row, second.row) == (1, 6) and first.id != second.id
    assert (tally.num_rows, tally.num_read, tally.num_kept) == (8, 2, 2)


def test_broken_runs_of_utterances_are_dropped_to_the_next_reset(tmp_path):
    path = write(
        tmp_path / "log.jsonl",
        *(utterance(n, "x") for n in (3, 4)),  # its beginning is missing
        *(utterance(n, "x") for n in (0, 1, 3, 4)),  # one is missing
        *(utterance(n, "x") for n in (0, 1)),
        {**utterance(0, "x"), "Role": "Agent"},
        utterance(0, "x", Disatisfaction=True),
    )
    kept, tally = read(path)
    assert [conversation.row for conversation in kept] == [7]
    assert tally.dropped == {
        "starts_midway": 1,
        "utterance_missing": 1,
        "starts_with_assistant": 1,
        "label_without_reply": 1,
    }
    assert tally.places["label_without_reply"] == [f"{path} row 10"]


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, told",
    [
        ("oops", "not JSON; each line must be one JSON object"),
        ("[1]", "JSON, but not an object with columns"),
        ('{"text": "x"}', "`messages` is null or missing, and so is `UtteranceId`"),
        ('{"messages": "x"}', "`messages` must be a list of messages, not 'x'"),
        ('{"messages": ["x"]}', "`messages` must hold objects, not 'x'"),
        ('{"messages": [{"role": "bot", "content": "x"}]}', "`messages.role` is 'bot'; allowed:"),
        ('{"messages": [{"role": "user"}]}', "`messages.content` is missing"),
        (
            '{"messages": [{"role": "user", "content": ["x"]}]}',
            "`messages.content` must be text, not list",
        ),
        (
            '{"messages": [{"role": "user", "content": "x", "satisfied": "YES"}]}',
            "`messages.satisfied` must be true, false or left out, not 'YES'",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "x", "dissatisfied": true}]}',
            "`messages.satisfied` or `dissatisfied` is on a message of the assistant",
        ),
        ('{"id": 1.5, "messages": []}', "`id` must be text, not float"),
        ('{"UtteranceId": "0"}', "`UtteranceId` must be a whole number from 0, not '0'"),
        ('{"UtteranceId": 0, "Role": "user"}', "`Role` is 'user'; allowed: User, Agent"),
        ('{"UtteranceId": 0, "Role": "User"}', "`Content` is missing"),
        (
            '{"UtteranceId": 0, "Role": "User", "Content": "x", "Disatisfaction": 1}',
            "`Disatisfaction` must be true, false or left out, not 1",
        ),
    ],
)
def test_what_is_malformed_is_told_once_by_file_and_rows(tmp_path, line, told):
    path = tmp_path / "log.jsonl"
    good = json.dumps(chat(*GOOD))
    path.write_text("\n".join([good, *[line] * 7, good]))
    (problem,) = refusal(path)
    assert problem.startswith(f"{path}: {told}")
    assert problem.endswith("; 7 rows: 2, 3, 4, 5, 6, ...")


def test_all_kinds_of_fault_in_all_files_are_told_up_to_a_limit(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, *(chat((f"role{n}", "x")) for n in range(30)))
    problems = refusal(tmp_path)
    assert len(problems) == 2 * 21
    assert problems[20] == f"{tmp_path / 'a.jsonl'}: other faults in 10 more rows"


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "[{]", '[{"a": 1}', '[{"a": 1} {"a": 1}]', "[]x"]
)
def test_what_is_no_array_of_objects(tmp_path, text):
    (tmp_path / "log.json").write_text(text)
    assert "the file must be one array of objects" in "\n".join(refusal(tmp_path))


def test_arrays_are_cut_at_any_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "CHUNK_BYTES", 3)
    path = tmp_path / "log.json"
    records = [chat(("user", "é]},{["), ("assistant", "…")), chat(*GOOD)]
    path.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    assert [c.messages[0].content for c in read(path)[0]] == ["é]},{[", "q1"]


def test_nothing_to_read(tmp_path):
    (tmp_path / "log.csv").write_text("x")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "log.csv"):
        (problem,) = refusal(path)
        assert problem.startswith(f"path={path}: ")


TURN = st.tuples(
    st.sampled_from(["system", "user", "assistant"]),
    st.sampled_from(["", "x", "y"]),
)
ROW = st.one_of(
    st.builds(
        lambda turns, id: chat(*turns, id=id),
        st.lists(TURN, max_size=4),
        st.sampled_from([None, "a", "b"]),
    ),
    st.builds(utterance, st.integers(0, 3), st.sampled_from(["", "x"])),
)


@settings(max_examples=150)
@given(records=st.lists(ROW, max_size=12))
def test_what_is_read_is_kept_or_counted(tmp_path_factory, records):
    path = write(tmp_path_factory.mktemp("log") / "log.jsonl", *records)
    kept, tally = read(path)
    assert tally.num_rows == len(records)
    assert tally.num_kept == len(kept) == len({conversation.id for conversation in kept})
    assert tally.num_read == tally.num_kept + sum(tally.dropped.values())
    for conversation in kept:
        roles = [m.role for m in conversation.messages if m.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2)

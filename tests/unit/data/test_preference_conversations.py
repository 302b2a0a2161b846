"""Conversations in preferences: read whole, or refused where the parts contradict each other."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.config.reward import PreferenceFilesConfig
from rlhf.data.messages import whole_conversation
from rlhf.data.preference_files import Example, read_examples
from rlhf.problems import InputError
from rlhf.records import Collected, Completion, Message, Preference, Prompt, transcript
from rlhf.storage.store import PreferenceStore


def turns(*texts: str) -> list[dict[str, str]]:
    """By their first letter: `s` of the system, `u` of the user, `a` of the assistant."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[text[0]], "content": text} for text in texts]


def messages(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(**turn) for turn in turns(*texts))


def read(tmp_path: Path, *rows: dict, **columns: str | None) -> list[Example]:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PreferenceFilesConfig(path=str(path), heldout_path=str(path), **columns)
    return read_examples(config).train


@pytest.mark.parametrize(
    "prompt, chosen, rejected, whole",
    [
        ("u1", ["a1"], ["a9"], ["u1"]),
        ("u1", ["u1", "a1"], ["u1", "a9"], ["u1"]),
        ("u1", ["u1", "a1", "u2", "a2"], ["u1", "a1", "u2", "a9"], ["u1", "a1", "u2"]),
        ("u2", ["u1", "a1", "u2", "a2"], ["u1", "a1", "u2", "a9"], ["u1", "a1", "u2"]),
        ("u1", ["s", "u1", "a1"], ["s", "u1", "a9"], ["s", "u1"]),
        ("u1", ["u1", "a1", "s", "u2", "a2"], ["a1", "s", "u2", "a9"], ["u1", "a1", "s", "u2"]),
        (["s", "u1"], ["u1", "a1"], ["a2"], ["s", "u1"]),
        (["s", "u1"], ["u1", "a1", "u2", "a2"], ["u1", "a1", "u2", "a3"], ["s", "u1", "a1", "u2"]),
        (["u1"], ["a1", "u2", "a2"], ["a1", "u2", "a9"], ["u1", "a1", "u2"]),
        (["s", "u1", "a1", "u2"], ["a2"], ["u1", "a1", "u2", "a9"], ["s", "u1", "a1", "u2"]),
        ("u2", ["u1", "a1", "u2", "a2"], "text", ["u1", "a1", "u2"]),
        ("u1", "text", ["s", "u1", "a1"], ["s", "u1"]),
    ],
)
def test_nothing_between_prompt_and_last_turn_is_lost(tmp_path, prompt, chosen, rejected, whole):
    def value(texts):
        return texts if isinstance(texts, str) else turns(*(t.replace("b", "a9") for t in texts))

    row = {"prompt": value(prompt), "chosen": value(chosen), "rejected": value(rejected)}
    (example,) = read(tmp_path, row)
    assert example.messages == messages(*whole)
    last = [
        side if isinstance(side, str) else value(side)[-1]["content"] for side in (chosen, rejected)
    ]
    assert example.texts == tuple(last)


OTHER_PROMPT = (
    "has another conversation before its last turn than column 'prompt'; give the same one, or the "
    "last turn alone"
)
OTHER_SIDE = (
    "differs from column 'chosen' before the last turn; both sides must answer the same "
    "conversation, so cut both where they part"
)
NO_USER = "must have a turn of the user before the assistant's last"


@pytest.mark.parametrize(
    "prompt, chosen, rejected, column, told",
    [
        ("u1", ["u9", "a1"], ["u1", "a2"], "chosen", OTHER_PROMPT),
        ("u1", ["u1", "a1"], ["u9", "a2"], "rejected", OTHER_PROMPT),
        (["s", "u1"], ["s9", "u1", "a1"], ["a2"], "chosen", None),
        ("u1", ["u1", "a1", "u2", "a2"], ["u1", "a9", "u2", "a2"], "rejected", OTHER_SIDE),
        ("u1", ["u1", "a1", "u2", "a2"], ["u1", "a3"], "rejected", OTHER_SIDE),
        ("u1", ["u1", "a1", "u2", "a2"], ["a3"], "rejected", OTHER_SIDE),
        ("u1", ["s", "u1", "a1"], ["s9", "u1", "a2"], "rejected", OTHER_SIDE),
        ("u1", ["u1", "a1", "a2"], ["a3"], "chosen", NO_USER),
        ("u1", ["u1", "u2"], ["a3"], "chosen", None),
    ],
)
def test_what_contradicts_is_refused_by_file_column_and_row(
    tmp_path, prompt, chosen, rejected, column, told
):
    prompt = prompt if isinstance(prompt, str) else turns(*prompt)
    good = {"prompt": "u1", "chosen": "a1", "rejected": "a2"}
    bad = {"prompt": prompt, "chosen": turns(*chosen), "rejected": turns(*rejected)}
    with pytest.raises(InputError) as caught:
        read(tmp_path, good, bad)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path}/x.jsonl: column '{column}' {told or ''}")
    assert problem.endswith("; 1 rows: 2")


def test_a_single_side_brings_its_conversation(tmp_path):
    row = {"prompt": "u1", "chosen": turns("u1", "a1", "u2", "a2"), "score": 1}
    columns = {"rejected_column": None, "chosen_score_column": "score"}
    (example,) = read(tmp_path, row, **columns)
    assert example.messages == messages("u1", "a1", "u2")


def test_by_hand():
    u1, a1, u2, s = messages("u1", "a1", "u2", "s")
    assert whole_conversation((u1,), ()) == (u1,)
    assert whole_conversation((u1,), (u2,)) is None
    assert whole_conversation((s, u1), (u1, a1, u2)) == (s, u1, a1, u2)
    assert whole_conversation((u1, a1, u2), (a1, u2)) == (u1, a1, u2)
    assert transcript((u1,)) == "u1"
    assert transcript((s, u1)) == "system: s\n\nuser: u1"


def test_a_run_s_own_preferences_keep_their_conversations(tmp_path):
    def collected(id: str, *texts: str) -> Collected:
        prompt = Prompt(id, messages(*texts), (1,))
        sides = [Completion(id, i, (1,), (0.0,), t, False, 0) for i, t in enumerate("yn")]
        preference = Preference.over(prompt, *sides, 1.0, 0.0, "j")
        return Collected(prompt, tuple(sides), None, (preference,), ())

    store = PreferenceStore(tmp_path)
    store.prepare(0, [collected("a", "s", "u1", "a1", "u2"), collected("b", "u3")])()
    config = PreferenceFilesConfig(path=str(tmp_path), heldout_path=str(tmp_path))
    examples = read_examples(config).train
    assert [example.messages for example in examples] == [
        messages("s", "u1", "a1", "u2"),
        messages("u3"),
    ]
    assert replace(examples[0], messages=()).texts == ("y", "n")

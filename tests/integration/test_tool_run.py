"""A whole run whose policy calls a calculator: real actors, from the command line."""

from pathlib import Path

from commands import run

from rlhf.store import read, read_metrics

SMALL = [
    "experiment=calculator",
    "num_rounds=2",
    "round.prompts=16",
    "warmup.steps=150",
    "eval.num_prompts=16",
    "eval.every=0",
    "tracking=disabled",
]


def results(text: str) -> list[tuple[str, str]]:
    """Every call in a text, and what was answered."""
    calls = (part.partition(">>")[0] for part in text.split("<<")[1:] if ">>" in part)
    return [(call.partition("=")[0], call.partition("=")[2]) for call in calls]


def test_calls_are_answered_and_the_policys_own_words_are_trained_on(tmp_path: Path) -> None:
    run(tmp_path / "run", *SMALL)
    rows = read(tmp_path / "run").to_pylist()
    texts = [row[side] for row in rows for side in ("chosen", "rejected") if row[side]]
    answered = [one for text in texts for one in results(text)]
    right = [(call, said) for call, said in answered if not said.startswith("error")]
    assert right and all(int(said) == eval_sum(call) for call, said in right)
    for record in read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]:
        assert record["weights/logprob_gap"] < 1e-3


def eval_sum(call: str) -> int:
    assert set(call) <= set("0123456789+ "), call
    return sum(int(term) for term in call.split("+") if term.strip())

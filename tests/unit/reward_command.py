"""Data for `python -m rlhf.reward`, and what it wrote."""

import json
from pathlib import Path

from rlhf.judges.groups import Group
from rlhf.judges.reward_model import RewardModelConfig
from rlhf.records import Completion, Message, Prompt

TINY = ("model=tiny", "model.vocabulary=bytes", "model.width=16", "model.num_layers=1")
QUICK = (*TINY, "epochs=30", "learning_rate=5e-3", "lr_warmup_ratio=0")


def jsonl(path: Path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(prompt, chosen, rejected, **rest):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **rest}


def record(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "reward.json").read_text())


def group(question: str, *texts: str, prefix: str = "", stopped: bool = False) -> Group:
    prompt = Prompt("a", (Message("user", question),), (1,), prefix=prefix)
    completions = [
        Completion("a", i, (1,), (0.0,), text, False, 0, stopped=stopped)
        for i, text in enumerate(texts)
    ]
    return Group(prompt, tuple(completions))


def scores(tmp_path: Path, question: str, *texts: str, **rest) -> tuple:
    judge = RewardModelConfig(path=str(tmp_path / "out")).build()
    return judge.judge([group(question, *texts, **rest)])[0].scores

"""Every preset of docs/judges.md at work: all of them members of one panel, on real workers."""

import asyncio
import re
import shutil
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from letter_models import write_letter_model
from transformers import AutoModelForSequenceClassification, LlamaConfig

from actors.group import Allotment, stop_workers, wait_ready
from rlhf.launching.assembly import start_rollout
from rlhf.launching.checks import config_problems
from rlhf.launching.command_line import typed
from rlhf.launching.configuration import CONF, Config, register_schemas
from rlhf.launching.judging import judge_problems, start_judges
from rlhf.launching.overrides import as_hydra_reads
from rlhf.launching.roles import roles
from rlhf.records import Comparison, Completion, Message, Prompt, Verdict

DOCS = CONF.parent / "docs" / "judges.md"
COMPARE = {"contexts", "jury", "verified", "self", "self_reference", "sides", "criteria", "debate"}
PRESETS = {
    "cdr": ["strong.path=LM", "weak.path=LM"],
    "follow_up": ["path=LM"],
    "r3": ["relevance.path=LM"],
    "r3_constrained": ["relevance.path=LM"],
    "jury": [f"{juror}.path=CHAT" for juror in ("first", "second", "third")],
    "ensemble": [f"{member}.path=REWARD" for member in ("first", "second", "third")],
    "verified": ["taste.path=REWARD"],
    "corrected": [],
    "ecommerce": ["relevance.path=LM", "service.path=CHAT"],
    "self": [],
    "ultrafeedback": ["path=CHAT"],
    "code_ultrafeedback": ["path=CHAT"],
    "simulpl": ["path=CHAT"],
    "contexts": ["path=CHAT"],
    "self_reference": ["path=CHAT", "note_tokens=16"],
    "sides": ["path=CHAT", "note_tokens=16"],
    "criteria": ["path=CHAT", "note_tokens=16"],
    "themis": ["path=CHAT", "note_tokens=16"],
    "debate": [f"{one}.{key}" for one in ("first", "second", "listener")
               for key in ("path=CHAT", "note_tokens=16")],
}  # fmt: skip
"""And what each has to be told, of itself or of its members."""
PROMPT = Prompt("p", (Message("user", "What is 3 + 4?"),), (1,), "7")
GROUP = [
    Completion("p", i, tuple(range(1, 3 + i)), (0.0,) * (2 + i), text, False, 0)
    for i, text in enumerate(("7", "It is 8, I think."))
]


@pytest.fixture(scope="module")
def models(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    write_letter_model(byte_model, folder / "CHAT", letters="AB12345")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        shape = LlamaConfig.from_pretrained(byte_model, num_labels=1)
        AutoModelForSequenceClassification.from_config(shape).save_pretrained(folder / "REWARD")
    for file in byte_model.glob("tokenizer*"):
        shutil.copy(file, folder / "REWARD" / file.name)
    return {name: str(folder / name) for name in ("CHAT", "REWARD")} | {"LM": str(byte_model)}


def composed(models: Mapping[str, str]) -> Config:
    """One panel of all presets, as it would be typed."""
    words = ["data=arithmetic", "run.dir=x", f"model.path={models['CHAT']}", "judge=panel"]
    words += ["rollout=transformers", "model.dtype=float32"]
    words += ["rollout.max_prompt_tokens=1900", "rollout.max_completion_tokens=8"]
    for name, keys in PRESETS.items():
        words.append(f"+judge@judge.members.{name}={name}")
        for key in keys:
            own, value = key.rsplit("=", 1)
            within = "members." if "." in own else ""
            words.append(f"judge.members.{name}.{within}{own}={models.get(value, value)}")
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(compose("train", as_hydra_reads(words, Config)))


@pytest.fixture(scope="module")
def found(ray_session: None, models: dict[str, str]) -> tuple[dict[str, Verdict], list[str]]:
    """Each preset's verdict on a group, and the roles that were started."""
    config, path = composed(models), models["CHAT"]
    assert config_problems(config) == [] and list(judge_problems(config, path)) == []
    wanted = [role for role in roles(config, path) if role.name.startswith(("judge", "rollout"))]
    allotted = {one.name: Allotment(one.name, one.count, 1, 0, 1) for one in wanted}

    async def judged() -> dict[str, Verdict]:
        rollout, workers = start_rollout(config, path, allotted["rollout"])
        judges = start_judges(config, allotted, rollout, path)
        try:
            await wait_ready([*workers, *judges.all_workers], 300)
            members = judges.judge._members  # type: ignore[union-attr]
            verdicts = await asyncio.gather(*(m.judge(PROMPT, GROUP) for m in members.values()))
            return dict(zip(members, verdicts, strict=True))
        finally:
            stop_workers([*workers, *judges.all_workers])

    return asyncio.run(judged()), [role.name for role in wanted]


def test_every_preset_of_the_page_is_here_and_is_a_file():
    """`judge=follow_up` and the like, in the first column of its table."""
    table = DOCS.read_text().split("## Ready-made ones")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`judge=(\w+)`", row)}
    assert listed | {"self"} == PRESETS.keys()
    readme = (CONF.parent / "README.md").read_text()
    (row,) = re.findall(r"^\| who judges, ready-made \|(.*?)\(\[", readme, re.MULTILINE)
    assert re.findall(r"`(?:judge=)?(\w+)`", row) == sorted(PRESETS)
    assert all((CONF / "judge" / f"{name}.yaml").exists() for name in PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_it_starts_and_judges(found, name: str):
    verdict = found[0][name]
    assert not any(verdict.failed), verdict.reasons
    assert all(score is not None and isfinite(score) for score in verdict.scores)
    assert isinstance(verdict, Comparison) == (name in COMPARE)
    assert not any(any(failed) for failed in verdict.member_failures.values())


def test_each_says_what_its_kind_says(found):
    verdicts = found[0]
    assert verdicts["cdr"].scores == (0.0, 0.0)  # of one and the same model
    assert verdicts["corrected"].scores == pytest.approx((1.125, -0.125))
    assert verdicts["verified"].scores == (1.0, 0.0)
    assert verdicts["r3"].parts.keys() == {"length", "relevance", "variety"}
    assert sum(verdicts["ensemble"].scores) == 0  # the same three times, standardised
    ratings = [score for name in ("themis", "ultrafeedback") for score in verdicts[name].scores]
    assert all(1 <= rating <= 5 for rating in ratings)
    assert verdicts["jury"].scores == verdicts["jury"].parts["first"]  # three that are one
    assert verdicts["contexts"].parts.keys() == {"novice", "expert"}
    for name, note in [("self_reference", "[own answer]"), ("sides", "[for answer B, round 2]"),
                       ("criteria", "[criteria]"), ("themis", "[check]"),
                       ("debate", "[second, round 2]")]:  # fmt: skip
        assert all(note in reason for reason in verdicts[name].reasons), name


def test_those_of_one_model_share_its_workers(found):
    """Two dozen members, of three models and the policy."""
    holding = [role for role in found[1] if not role.endswith(("length", "variety", "right", "of"))]
    assert holding == [
        "rollout", "judge.cdr.strong", "judge.r3.relevance", "judge.jury.first",
        "judge.ensemble.first",
    ]  # fmt: skip

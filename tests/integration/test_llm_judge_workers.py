"""Rollout workers as a judge: their two letters' probabilities are those of the model itself."""

import asyncio
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from letter_models import write_letter_model, write_writing_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.group import Allotment, start_workers, stop_workers, wait_ready
from actors.llm_judge import check_llm_judge, start_llm_judges
from actors.rollout import RolloutService, RolloutWorker
from actors.self_evaluation import check_policy_judge, policy_judge
from rlhf.config.models import DType, TransformersRolloutConfig, Transport, VllmRolloutConfig
from rlhf.judges import listwise, rubric
from rlhf.judges.deliberation import DeliberationConfig
from rlhf.judges.listwise import ListwiseConfig
from rlhf.judges.llm import LLMJudgeConfig
from rlhf.judges.questions.asking import AskingConfig
from rlhf.judges.questions.template import DEFAULT_TEMPLATE, Template
from rlhf.judges.rubric import RubricConfig
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt
from rlhf.tools.calculator import CalculatorConfig

CHAT = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<eos>{% endfor %}[judge] "
TEXTS = ["4", "Four, I think.", "{second} <eos> é"]
ENGINES = {"transformers": TransformersRolloutConfig, "vllm": VllmRolloutConfig}
TOO_LONG = "x" * 2000


def group(id: str, *texts: str) -> tuple[Prompt, list[Completion]]:
    prompt = Prompt(id, (Message("user", f"What is 2 + 2? ({id})"),), (1,))
    return prompt, [Completion(id, i, (1,), (0.0,), text, False, 0) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def plain_model(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_letter_model(byte_model, tmp_path_factory.mktemp("plain") / "judge")


@pytest.fixture(scope="module")
def chat_model(plain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a chat template, and special tokens that text can spell."""
    directory = tmp_path_factory.mktemp("chat") / "judge"
    shutil.copytree(plain_model, directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.split_special_tokens = False
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(directory)
    return directory


def prefers_first(model: torch.nn.Module, tokenizer, question: str, first: str, second: str):
    """The model's own softmax over the two letters, one unpadded row at a time."""
    text = Template(DEFAULT_TEMPLATE).fill(question, first, second)
    if tokenizer.chat_template is not None:
        text = f"[user] {text}<eos>[judge] "
    labels = [tokenizer.convert_tokens_to_ids(label) for label in "AB"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1]
    return logits[labels].softmax(-1)[0].item()


async def judged(
    model: Path,
    *groups: tuple[Prompt, list[Completion]],
    engine: str = "transformers",
    kind: type[AskingConfig] = LLMJudgeConfig,
) -> list[Any]:
    (judge,), workers = start_llm_judges(
        [kind(path=str(model), num_workers=2)],
        ENGINES[engine](max_prompt_tokens=8, max_completion_tokens=8),
        DType.float32,
        Allotment("judge", 1 if engine == "vllm" else 2, 1, 0, 1),
        120,
        1,
    )
    try:
        await wait_ready(workers, 300)
        return list(await asyncio.gather(*(judge.judge(*one) for one in groups)))
    finally:
        stop_workers(workers)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("kind", ["plain", "chat"])
async def test_probabilities_are_the_model_s_own(kind, plain_model, chat_model):
    directory = chat_model if kind == "chat" else plain_model
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    groups = [group(str(i), *TEXTS[i:]) for i in range(2)]
    longer = group("long", *TEXTS, TOO_LONG)
    *comparisons, missing = await judged(directory, *groups, longer)
    for (prompt, completions), comparison in zip(groups, comparisons, strict=True):
        # Special tokens that a completion spells out stay text.
        texts = [completion.text.replace("<eos>", "< eos>") for completion in completions]
        distances = []
        for i, first in enumerate(texts):
            for j, second in enumerate(texts[:i]):
                shown_first = prefers_first(model, tokenizer, prompt.text, first, second)
                shown_second = 1 - prefers_first(model, tokenizer, prompt.text, second, first)
                expected = (shown_first + shown_second) / 2
                assert comparison.win_prob[i][j] == pytest.approx(expected, abs=1e-6)
                assert comparison.win_prob[j][i] == pytest.approx(1 - expected, abs=1e-6)
                distances.append(abs(shown_first - shown_second))
        mean = sum(distances) / len(distances)
        assert comparison.order_disagreement == pytest.approx(mean, abs=1e-6)
        assert comparison.judge.startswith(f"llm/{directory.name}-")
    # More than the model can read is no answer, and no worker fails of it.
    assert [value is None for value in missing.win_prob[3]] == [True, True, True, False]
    assert all(row[:3].count(None) == 0 for row in missing.win_prob[:3])


def label_shares(directory: Path, question: str, labels: str) -> list[float]:
    """The model's own softmax over the labels."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = [tokenizer.convert_tokens_to_ids(label) for label in labels]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([tokenizer(question)["input_ids"]])).logits[0, -1]
    return logits[ids].softmax(-1).tolist()


@pytest.mark.usefixtures("ray_session")
async def test_digits_and_letters_of_a_whole_group_are_asked_for_too(byte_model, tmp_path):
    one = group("a", "4", "five")
    digits = write_letter_model(byte_model, tmp_path / "digits", "12345")
    (verdict,) = await judged(digits, one, kind=RubricConfig)
    for score, text in zip(verdict.scores, ("4", "five"), strict=True):
        asked = rubric.question(rubric.QUALITY["quality"], 5, one[0].text, text)
        shares = label_shares(digits, asked, "12345")
        assert score == pytest.approx(sum(i * p for i, p in enumerate(shares, 1)), abs=1e-4)
    letters = write_letter_model(byte_model, tmp_path / "letters")
    (verdict,) = await judged(letters, one, kind=ListwiseConfig)
    first, _ = label_shares(letters, listwise.question(one[0].text, ["4", "five"]), "AB")
    _, second = label_shares(letters, listwise.question(one[0].text, ["five", "4"]), "AB")
    assert verdict.win_prob[0][1] == pytest.approx((first + second) / 2, abs=1e-5)


@pytest.mark.usefixtures("ray_session")
async def test_the_policy_judges_as_the_same_model_would(plain_model):
    one = group("a", "4", "five")
    (expected,) = await judged(plain_model, one)
    engine = TransformersRolloutConfig(max_prompt_tokens=1500, max_completion_tokens=8)
    config = LLMJudgeConfig(policy=True)
    check_policy_judge(config, str(plain_model), engine.longest)
    arguments = (str(plain_model), DType.float32, engine, Transport.object_store, 1)
    workers = start_workers(RolloutWorker, Allotment("rollout", 1, 1, 0, 1), *arguments)
    try:
        await wait_ready(workers, 300)
        service = RolloutService(workers, calls_per_worker=1, timeout_s=120)
        judge = policy_judge(config, service, str(plain_model), engine, 120)
        verdict = await judge.judge(*one)
    finally:
        stop_workers(workers)
    assert verdict.win_prob[0] == pytest.approx(expected.win_prob[0], abs=1e-6)
    assert verdict.judge.startswith("llm/policy@")
    with pytest.raises(InputError, match=r"model\.path=.*allow \(\d+ tokens\)"):
        check_policy_judge(config, str(plain_model), 300)
    with pytest.raises(InputError, match=r"^judge\.note_tokens=512: .* = 300; lower it"):
        check_policy_judge(DeliberationConfig(policy=True), str(plain_model), 300)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "template, text",
    [
        (None, "\n<think>why-A?</think> "),
        # Here the thought's first token is A, and the template has opened it already.
        (CHAT + "<think>", "<think>A, or-why?</think>\n"),
    ],
)
async def test_a_model_that_thinks_is_read_after_its_thought(
    engine, template, text, byte_model, tmp_path
):
    directory = write_writing_model(byte_model, tmp_path / "judge", text, template)
    (comparison,) = await judged(directory, group("a", "4", "5"), engine=engine)
    # It prefers whatever stands first, equally in both orders.
    after = 1 / (1 + math.exp(-1.6))
    assert comparison.win_prob == ((0.5, 0.5), (0.5, 0.5))
    assert comparison.order_disagreement == pytest.approx(2 * after - 1, abs=1e-4)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "text, told",
    [
        ("\n<think>x, x", "no thought of it ends within 1024 tokens"),
        ("\n<think>x</think>, so", r"after its thought, answers with A or B with a probability of"),
        ("\nx", r"no thought of it ends within 1024 tokens"),
    ],
)
async def test_a_model_that_gives_no_letter_has_failed(text, told, byte_model, tmp_path, caplog):
    directory = write_writing_model(byte_model, tmp_path / "judge", text)
    (comparison,) = await judged(directory, group("a", "4", "5"))
    assert comparison.win_prob == ((0.5, None), (None, 0.5))
    assert comparison.failed == (True,)
    (line,) = [record.message for record in caplog.records if record.name == "actors.llm_judge"]
    assert line.startswith(f"judge.path={directory}: ") and re.search(told, line)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("template", [None, "{{ messages[0]['content'] }}<think>"])
async def test_workers_write_with_a_tool_and_read_it_again(byte_model, tmp_path, template):
    """It calls, is given what the tool finds, and goes on behind that; where it thinks, the thought
    is left out."""
    note, begin = "[12+34=]*So.", "\n" if template is None else "?</think>"
    text = (begin if template is None else f"<think>{begin}") + note
    model = write_writing_model(byte_model, tmp_path / "model", text, template)
    tool = CalculatorConfig(opens="[", reply_closes="]")
    config = DeliberationConfig(
        path=str(model), notes={"check": "Check."}, scale=2, note_tokens=30, tools=tool
    )
    (judge,), workers = start_llm_judges(
        [config], TransformersRolloutConfig(), DType.float32, Allotment("judge", 1, 1, 0, 1), 120, 1
    )
    try:
        await wait_ready(workers, 300)
        found = await judge.judge(*group("a", "4"))
    finally:
        stop_workers(workers)
    assert found.reasons == ("no verdict after [check] [12+34=46]*So.",)


@pytest.mark.usefixtures("ray_session")
async def test_a_model_that_knows_neither_letters_nor_thoughts_has_failed(byte_model, caplog):
    (comparison,) = await judged(byte_model, group("a", "4", "5"))
    assert comparison.failed == (True,)
    (line,) = [record.message for record in caplog.records if record.name == "actors.llm_judge"]
    assert re.search(
        r"answers with A or B with a probability of only 0\.0\d+, and below 0\.1", line
    )
    assert "take a model that follows instructions" in line


def test_models_that_cannot_be_a_judge_are_refused(byte_model, tiny_model, tmp_path):
    check_llm_judge(LLMJudgeConfig(path=str(byte_model)))
    for config, told in [
        (LLMJudgeConfig(path=str(tiny_model)), "'A' is not one token of its vocabulary"),
        (LLMJudgeConfig(path=str(byte_model), max_tokens=20), r"allow \(20 tokens\)"),
        (LLMJudgeConfig(path=str(tmp_path)), f"judge.path={tmp_path}: it has no config.json"),
        (LLMJudgeConfig(path=str(tmp_path / "absent")), "absent: no such folder"),
    ]:
        with pytest.raises(InputError, match=told):
            check_llm_judge(config)

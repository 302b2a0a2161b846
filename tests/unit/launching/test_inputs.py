"""What a run reads of a feedback log: prompts that it can use, seed pairs, and what arrives."""

import json
from pathlib import Path

import pytest
from users_log import conversation

from actors.rollout import RolloutService
from rlhf.algorithms.drift import Chosen, Drift, DriftConfig, Rejected
from rlhf.algorithms.online import OnlineDPOConfig
from rlhf.algorithms.prune import PruneConfig
from rlhf.asking.sources.arithmetic import ArithmeticConfig
from rlhf.asking.sources.feedback import FeedbackDataConfig
from rlhf.asking.sources.files import FilesConfig
from rlhf.asking.sources.simulated_users import SimulatedUsersConfig
from rlhf.config.data import LabelSource, Overlong
from rlhf.config.models import TinyModelConfig, TransformersRolloutConfig, Vocabulary
from rlhf.config.run import RoundConfig
from rlhf.environments.function import FunctionEnvironmentConfig
from rlhf.feedback.__main__ import run
from rlhf.feedback.config import FeedbackConfig
from rlhf.judges.environment import EnvironmentJudgeConfig
from rlhf.judges.none import NoJudgeConfig
from rlhf.judges.verifier import VerifierConfig
from rlhf.launching.assembly import RunStores, answering, make_evaluation, services
from rlhf.launching.configuration import Config
from rlhf.launching.inputs import Inputs, open_feed, read_inputs
from rlhf.launching.judging import Judges
from rlhf.objectives.dpo import DPOConfig
from rlhf.problems import InputError
from rlhf.storage.ledger import Ledger
from rlhf.tools.calculator import CalculatorConfig
from rlhf.tools.probe import SandboxLevel
from rlhf.tools.python import PythonConfig
from rlhf.tools.rollout import ToolRollout
from rlhf.toys.users import write_log
from rlhf.watching.evaluation import UnjudgedEvaluation

SHARE = 0.2


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_log(folder / "log.jsonl", 120, seed=1)
    out = folder / "out"
    run(FeedbackConfig(str(folder / "log.jsonl"), str(out), heldout_share=SHARE))
    return out


@pytest.fixture
def config(written) -> Config:
    return Config(
        algorithm=DriftConfig(),
        objective=DPOConfig(),
        judge=NoJudgeConfig(),
        model=TinyModelConfig(
            vocabulary=Vocabulary.bytes, chat=True, num_layers=1, width=8, num_heads=2
        ),
        data=FeedbackDataConfig(path=str(written), instruction="Again."),
        rollout=TransformersRolloutConfig(max_prompt_tokens=256, max_completion_tokens=32),
        round=RoundConfig(prompts=8),
    )


def counts(written: Path) -> dict[str, int]:
    return json.loads((written / "summary.json").read_text())["written"]


async def test_a_round_asks_complaints_and_round_0_the_log_s_own_pairs(config, written, tmp_path):
    inputs = read_inputs(config, tmp_path)
    num = counts(written)
    assert len(inputs.seeds) == num["seed_pairs.jsonl"] > 0
    said = inputs.data.feedback
    assert all(said[p.id].liked and said[p.id].disliked for p in inputs.seeds)
    rounds = num["complaints.train.jsonl"] // 8
    asked = {p.id for n in range(1, rounds + 1) for p in await inputs.schedule.round(n)}
    assert len(asked) == 8 * rounds
    assert all(said[id].guided and said[id].disliked for id in asked)
    # A praise that ends a seed pair is in the complaint's row.
    praised = num["praises.train.jsonl"] - num["seed_pairs.jsonl"]
    assert len(inputs.data.train) == num["complaints.train.jsonl"] + praised
    assert not {p.id for p in inputs.data.heldout} & asked
    config.algorithm.seed_epochs = 0
    assert read_inputs(config, tmp_path).seeds == ()


def test_what_does_not_lock_code_in_is_told_once_if_it_is_allowed(config, tmp_path, monkeypatch):
    level = SandboxLevel(0, {"landlock": "Function not implemented"})
    monkeypatch.setattr("rlhf.tools.python.probe", lambda: level)
    config.tools = PythonConfig()
    with pytest.raises(InputError, match=r"landlock \(Function not implemented\)"):
        read_inputs(config, tmp_path)
    config.tools.allow_unsafe = True
    assert list(read_inputs(config, tmp_path).notes(1)) == [
        "tools.allow_unsafe=true, and model-written code is not locked in on this machine: landlock"
        " (Function not implemented)"
    ]
    monkeypatch.setattr("rlhf.tools.python.probe", lambda: SandboxLevel(6, {}))
    assert list(read_inputs(config, tmp_path).notes(1)) == []


def test_training_and_evaluation_call_the_same_tool(config, tmp_path):
    config.tools = PythonConfig(allow_unsafe=True)
    inputs, service = (
        read_inputs(config, tmp_path),
        RolloutService([], calls_per_worker=1, timeout_s=1),
    )
    answers = answering(config, inputs, service)
    stores = RunStores.of(config, tmp_path, 0)
    asked = services(config, inputs, service, answers, None, stores)
    algorithm = config.algorithm.make(asked)
    evaluation = make_evaluation(config, inputs, answers, Judges(None), tmp_path, begins=True)
    assert isinstance(answers, ToolRollout) and isinstance(algorithm, Drift)
    assert isinstance(evaluation, UnjudgedEvaluation)
    assert algorithm.rollout is evaluation.heldout.rollout is answers


async def test_an_algorithm_that_needs_praise_asks_what_was_praised(config, written, tmp_path):
    config.algorithm = DriftConfig(chosen=Chosen.logged, rejected=Rejected.plain)
    config.round.prompts = counts(written)["praises.train.jsonl"]  # seed pairs are among them
    inputs = read_inputs(config, tmp_path)
    said = [inputs.data.feedback[prompt.id] for prompt in await inputs.schedule.round(1)]
    assert all(one.liked for one in said)


def test_a_log_without_what_is_needed_is_refused(config, written, tmp_path):
    spoilt = tmp_path / "out"
    spoilt.mkdir()
    for file in written.iterdir():
        empty = "praises" in file.name or "seed" in file.name
        (spoilt / file.name).write_bytes(b"" if empty else file.read_bytes())
    config.data.path = str(spoilt)
    config.algorithm = DriftConfig(chosen=Chosen.logged, rejected=Rejected.plain)
    with pytest.raises(InputError) as caught:
        read_inputs(config, tmp_path)
    first, second = caught.value.problems
    assert first.startswith("algorithm.chosen=logged algorithm.rejected=plain: none of the")
    assert second.startswith("algorithm.seed_epochs=3: the log has no reply that displeased")


def test_conversations_that_are_too_long_are_shortened_told_or_dropped(config, tmp_path):
    whole = read_inputs(config, tmp_path)
    assert (whole.data.num_shortened, whole.data.num_overlong_dropped) == (0, 0)
    lengths = sorted(len(p.token_ids) for p in whole.data.train)
    config.rollout.max_prompt_tokens = lengths[-1] - 1
    shorter = read_inputs(config, tmp_path)
    assert 0 < shorter.data.num_shortened < len(whole.data.train)
    assert len(shorter.data.train) == len(whole.data.train)
    config.rollout.max_prompt_tokens = 40
    with pytest.raises(InputError, match=r"rollout\.max_prompt_tokens=40: \d+ prompts are longer"):
        read_inputs(config, tmp_path)
    config.data.overlong = Overlong.drop
    dropped = read_inputs(config, tmp_path).data
    num_rows = len(whole.data.train) + len(whole.data.heldout)
    assert len(dropped.train) + len(dropped.heldout) + dropped.num_overlong_dropped == num_rows
    assert {p.id for p in (*dropped.train, *dropped.heldout)} == dropped.feedback.keys()


def test_lessons_of_simulated_users_are_shown_and_never_asked(config, tmp_path):
    config.data = SimulatedUsersConfig(100, 20)
    data = read_inputs(config, tmp_path).data
    assert len(data.demonstrations) == 100
    assert not any(p.id.startswith("lesson") for p in (*data.train, *data.heldout))
    tokenizer = read_inputs(config, tmp_path).tokenizer
    for shown in data.demonstrations.values():
        assert shown.completion[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(shown.prompt).endswith("\n!")


# --- candidates -----------------------------------------------------------------------------------


async def test_a_round_chooses_from_candidates_each_with_a_demonstration(config, tmp_path):
    config.algorithm, config.data = OnlineDPOConfig(), ArithmeticConfig(2, 100, 10)
    config.round = RoundConfig(prompts=30, hardest_share=0.3)
    inputs = read_inputs(config, tmp_path)
    candidates = await inputs.schedule.round(0)
    assert len({p.id for p in candidates} & inputs.data.demonstrations.keys()) == 100
    config.round.hardest_share = 0.29
    assert refusals(config, tmp_path) == [
        "round.prompts=30 round.hardest_share=0.29: the data has 100 prompts to train on, and a "
        "round chooses from 104; lower round.prompts, raise round.hardest_share, or add prompts"
    ]
    config.round = RoundConfig(prompts=101)
    (problem,) = refusals(config, tmp_path)
    assert problem.startswith("round.prompts=101: the data has 100") and "share" not in problem


def test_candidates_without_demonstrations_are_counted(config, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}?"}) + "\n" for n in range(40)))
    config.algorithm = OnlineDPOConfig()
    config.data = FilesConfig(path=str(file), heldout_path=str(file))
    config.round = RoundConfig(prompts=21, hardest_share=0.5)
    first, second = refusals(config, tmp_path)
    assert first == (
        "round.hardest_share=0.5: 40 of the 40 prompts to train on have no demonstration (ids 1, "
        "2, 3, 4, 5, ...); name its column in data.demonstration_column, or set "
        "round.hardest_share=1"
    )
    assert "chooses from 42" in second
    config.data.demonstration_column, config.round.prompts = "prompt", 20
    assert len(read_inputs(config, tmp_path).data.demonstrations) == 40
    config.data.demonstration_column, config.round.hardest_share = None, 1.0
    read_inputs(config, tmp_path)


def test_what_users_said_demonstrates_no_candidate(config, tmp_path):
    config.data, config.round.hardest_share = SimulatedUsersConfig(100, 20), 0.5
    (problem,) = refusals(config, tmp_path)
    assert problem.startswith("round.hardest_share=0.5: ") and "no demonstration" in problem


def refusals(config: Config, directory: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_inputs(config, directory)
    return caught.value.problems


# --- a feed ---------------------------------------------------------------------------------------


def complaint(id: str) -> dict:
    messages = [m._asdict() for m in conversation("Why?", "Dunno.", "That's wrong.")]
    return {"id": id, "messages": messages}


def arrive(feed: Path, *ids: str) -> None:
    feed.mkdir(exist_ok=True)
    rows = "".join(json.dumps(complaint(id)) + "\n" for id in ids)
    (feed / f"{ids[0]}.jsonl").write_text(rows)


async def taken(config: Config, inputs: Inputs, directory: Path, index: int) -> list[str]:
    prompts = await open_feed(config, inputs, Ledger(directory), lambda line: None).round(index)
    assert len(prompts) == config.round.prompts
    assert all(prompt.id in inputs.data.feedback for prompt in prompts)
    return [p.id for p in prompts if p.id not in {old.id for old in inputs.data.train}]


async def test_what_arrives_is_used_once_and_not_if_the_log_has_it(config, tmp_path):
    feed = tmp_path / "feed"
    inputs = read_inputs(config, tmp_path)
    assert open_feed(config, inputs, Ledger(tmp_path), print) is inputs.schedule
    config.data.feed, config.data.label = str(feed), LabelSource.rules
    with pytest.raises(InputError, match=r"data\.feed=.*: no such folder"):
        read_inputs(config, tmp_path)  # before any worker starts
    with pytest.raises(InputError, match=r"data\.feed=.*: no such folder"):
        open_feed(config, inputs, Ledger(tmp_path), print)
    known = inputs.data.train[0].id.rpartition(":")[0]
    held = inputs.data.heldout[0].id.rpartition(":")[0]
    arrive(feed, "n1", known, held, "n2")
    first = await taken(config, inputs, tmp_path, 1)
    (ledger,) = map(json.loads, (tmp_path / "feed.jsonl").read_bytes().splitlines())
    assert [record["id"] for record in ledger["complaints"]] == first
    assert set(first) <= {"n1:2", "n2:2"} and first
    said = inputs.data.feedback[first[0]]
    assert said.guided.messages[-1].content == "That's wrong.\n\nAgain."
    # Another process goes on, from the same run directory.
    resumed = read_inputs(config, tmp_path)
    arrive(feed, "n3", *[id.removesuffix(":2") for id in first])
    later = await taken(config, resumed, tmp_path, 2)
    assert not set(first) & set(later)
    assert await taken(config, resumed, tmp_path, 1) == first


async def test_the_log_s_share_of_conversations_is_held_out_of_what_arrives_too(config, tmp_path):
    inputs = read_inputs(config, tmp_path)
    config.data.feed, config.data.label = str(tmp_path / "feed"), LabelSource.rules
    ids = [f"new{n}" for n in range(200)]
    arrive(tmp_path / "feed", *ids)
    told: list[str] = []
    await open_feed(config, inputs, Ledger(tmp_path), told.append).round(1)
    (line,) = told
    num_held = int(line.split(" held out")[0].rsplit(" ", 1)[1])
    assert num_held / 200 == pytest.approx(SHARE, abs=0.08)


def test_an_environment_asks_in_place_of_the_data(config, tmp_path):
    (tmp_path / "env.py").write_text(
        "class Env:\n"
        "    def reset(self, row):\n"
        "        return [{'role': 'system', 'content': 'add'},\n"
        "                {'role': 'user', 'content': row['prompt'] * 2}]\n"
        "    def step(self, text):\n"
        "        return '', True, 1.0\n"
    )
    config.algorithm, config.judge = OnlineDPOConfig(), EnvironmentJudgeConfig()
    config.data = ArithmeticConfig(num_prompts=8, num_heldout=4)
    config.environment = FunctionEnvironmentConfig(function=f"{tmp_path / 'env.py'}:Env")
    data = read_inputs(config, tmp_path).data
    for prompt in (*data.train, *data.heldout):
        assert prompt.text == f"{prompt.id}={prompt.id}=" and len(prompt.messages) == 2
        assert prompt.row == {"id": prompt.id, "prompt": f"{prompt.id}=", "answer": prompt.answer}
    config.rollout.max_prompt_tokens = 12
    with pytest.raises(InputError, match=r"rollout\.max_prompt_tokens=12: 12 prompts are longer"):
        read_inputs(config, tmp_path)


def test_a_text_that_no_answer_can_have_is_refused(config, tmp_path):
    config.algorithm, config.judge = PruneConfig(stop=["\n", "so<eos>"]), VerifierConfig()
    config.tools = CalculatorConfig(closes="<eos>")
    config.data = ArithmeticConfig(num_prompts=8, num_heldout=4)
    with pytest.raises(InputError) as refused:
        read_inputs(config, tmp_path)
    told = "'<eos>' is a control token of the tokenizer, which is never in the text of an answer"
    assert [one.partition(";")[0] for one in refused.value.problems] == [
        f"algorithm.stop: {told}",
        f"tools.opens, tools.closes: {told}",
    ]

"""What a run reads, checked before anything starts: model, data, and which prompts are asked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from actors.llm_judge import check_llm_judge
from actors.self_evaluation import check_questions
from rlhf.algorithms.drift import can_use, seed_pairs
from rlhf.asking.feedback import open_folder
from rlhf.asking.preparation import Preparation
from rlhf.asking.prompts import Data, DelayedSchedule, PromptSchedule, load_data
from rlhf.asking.selection import num_candidates
from rlhf.config import Config
from rlhf.config.algorithms import AlgorithmConfig, DriftConfig, StepValue, TreeConfig
from rlhf.config.data import FeedbackDataConfig
from rlhf.config.judges import GameConfig, LLMJudgeConfig
from rlhf.config.models import TinyModelConfig, Transport, VllmRolloutConfig
from rlhf.config.reward import Kind
from rlhf.config.tools import PythonConfig, ToolsConfig
from rlhf.data.rendering import Renderer
from rlhf.feedback.feed import Feed, FeedSchedule, Ledger
from rlhf.judges import needs_answers
from rlhf.launching.roles import transport
from rlhf.models.checks import require_causal, sampling_faults, vocabulary_faults
from rlhf.models.files import ModelJudgeConfig, find_model, trained_kind
from rlhf.models.loading import read_config, read_tokenizer
from rlhf.problems import InputError, some
from rlhf.records import Prompt
from rlhf.stages import Schedule
from rlhf.tools.probe import SandboxLevel, probe, require
from rlhf.toys.games import read_game
from rlhf.toys.tiny import build_tiny_model


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run reads, checked before anything starts."""

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    vocabulary_size: int
    data: Data
    schedule: Schedule
    """Of a round's prompts, or with `round.hardest_share` of those that it chooses from."""
    seeds: tuple[Prompt, ...]
    """What round 0 trains on instead, if there are any."""
    sandbox: SandboxLevel | None
    """How well model-written code is locked in, where such code is to run."""

    def notes(self, num_asked: int) -> Iterator[str]:
        """What people should know; `num_asked`: held-out prompts that evaluations are to ask."""
        yield from self.data.notes()
        if (there := len(self.data.heldout)) < num_asked:
            yield f"eval.num_prompts={num_asked}: there are {there} to ask"
        if self.sandbox and not self.sandbox.full:
            yield f"tools.allow_unsafe=true, and {self.sandbox.lack}"


def read_inputs(config: Config, directory: Path) -> Inputs:
    """Model configuration, tokenizer and data; raises InputError with all that is wrong."""
    path = config.model.path
    if isinstance(config.model, TinyModelConfig) and path == "tiny":
        path = str(directory / "model")
        if not Path(path).exists():
            build_tiny_model(config.model, Path(path), config.seed)
    path = from_anywhere(path)
    folder = require_causal("model.path", path)
    tokenizer, model = read_tokenizer(folder), read_config(folder)
    problems = []
    sandbox = _sandbox(config.tools)
    if isinstance(config.judge, ModelJudgeConfig):
        kind = trained_kind(find_model(config.judge))
        if scores_steps(config.algorithm) and kind not in (Kind.steps, None):
            problems.append(
                f"judge.path={config.judge.path}: with algorithm.value=judge it scores partial "
                "answers, and was not trained to; train one by python -m rlhf.reward kind=steps"
            )
    if isinstance(config.judge, GameConfig):
        read_game(config.judge.game)
    if isinstance(config.judge, LLMJudgeConfig):
        check_llm_judge(config.judge)
    problems += [f"model.path={path}: {fault}" for fault in vocabulary_faults(tokenizer, model)]
    on_vllm = isinstance(config.rollout, VllmRolloutConfig)
    by_nccl = transport(config) is Transport.nccl
    faults = sampling_faults(model, on_vllm, config.placement.gpus, by_nccl)
    problems += [f"model.path={path}: {fault}" for fault in faults]
    longest = config.rollout.max_prompt_tokens + config.rollout.max_completion_tokens
    limit = getattr(model, "max_position_embeddings", longest)
    if longest > limit:
        problems.append(
            f"rollout.max_prompt_tokens + rollout.max_completion_tokens = {longest}: the model "
            f"reads at most {limit} tokens"
        )
    algorithm = config.algorithm
    if isinstance(algorithm, TreeConfig) and algorithm.value is StepValue.self_evaluation:
        check_questions(path, longest)
    if problems:
        raise InputError(problems)
    data = load_data(
        config.data,
        Renderer(tokenizer, config.model.rendering),
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        max_completion_tokens=config.rollout.max_completion_tokens,
        needs_answers=needs_answers(config.judge),
        tools=config.tools,
        seed=config.seed,
    )
    prompts, seeds = data.train, ()
    if isinstance(config.algorithm, DriftConfig):
        prompts, seeds = _reviewed(config.algorithm, data)
    schedule: Schedule = _schedule(config, data, prompts)
    if seeds:
        schedule = DelayedSchedule(schedule)
    vocabulary_size = min(len(tokenizer), model.vocab_size)
    return Inputs(path, tokenizer, vocabulary_size, data, schedule, seeds, sandbox)


def from_anywhere(path: str) -> str:
    """A folder by its absolute path, since workers start in folders of their own; or a hub id."""
    return str(Path(path).absolute()) if Path(path).is_dir() else path


def _sandbox(tools: ToolsConfig) -> SandboxLevel | None:
    if not isinstance(tools, PythonConfig):
        return None
    level = probe()
    if not tools.allow_unsafe:
        require(level)
    return level


def scores_steps(algorithm: AlgorithmConfig) -> bool:
    """Whether the judge is asked about partial answers."""
    return isinstance(algorithm, TreeConfig) and algorithm.value is StepValue.judge


def _schedule(config: Config, data: Data, prompts: Sequence[Prompt]) -> PromptSchedule:
    num, share = config.round.prompts, config.round.hardest_share
    if share == 1:
        return PromptSchedule(prompts, num, config.seed)
    problems, wanted = [], num_candidates(num, share)
    lacking = [prompt.id for prompt in prompts if prompt.id not in data.demonstrations]
    if lacking:
        problems.append(
            f"round.hardest_share={share:g}: {len(lacking)} of the {len(prompts)} prompts to train "
            f"on have no demonstration (ids {some(lacking)}); name its column in "
            "data.demonstration_column, or set round.hardest_share=1"
        )
    if wanted > len(prompts):
        problems.append(
            f"round.prompts={num} round.hardest_share={share:g}: the data has {len(prompts)} "
            f"prompts to train on, and a round chooses from {wanted}; lower round.prompts, raise "
            "round.hardest_share, or add prompts"
        )
    if problems:
        raise InputError(problems)
    return PromptSchedule(prompts, wanted, config.seed)


def _reviewed(config: DriftConfig, data: Data) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Prompts of which the log has what the algorithm needs, and those of round 0's pairs."""
    sides = {"algorithm": config, "seeds": seed_pairs(config)}
    usable = {
        name: tuple(p for p in data.train if can_use(data.feedback.get(p.id), wanted))
        for name, wanted in sides.items()
    }
    problems = []
    if not usable["algorithm"]:
        problems.append(
            f"algorithm.chosen={config.chosen.value} algorithm.rejected={config.rejected.value}: "
            f"none of the {len(data.train)} logged prompts has replies for both sides; choose "
            "others, or give another log"
        )
    if config.seed_epochs and not usable["seeds"]:
        problems.append(
            f"algorithm.seed_epochs={config.seed_epochs}: the log has no reply that displeased "
            "with a next one that satisfied; set algorithm.seed_epochs=0"
        )
    if problems:
        raise InputError(problems)
    return usable["algorithm"], usable["seeds"] if config.seed_epochs else ()


def open_feed(
    config: Config, inputs: Inputs, directory: Path, tell: Callable[[str], None]
) -> Schedule:
    """The run's schedule, with what arrives in `data.feed` before it; `directory` is the run's."""
    if not isinstance(config.data, FeedbackDataConfig) or config.data.feed is None:
        return inputs.schedule
    ledger = Ledger(directory / "feed.jsonl")
    used = {id.rpartition(":")[0] for id in inputs.data.feedback} | set(ledger.conversations())
    heldout_share = open_folder(config.data).heldout_share
    feed = Feed(Path(config.data.feed), config.data.label, heldout_share, used, tell)
    preparation = Preparation(
        Renderer(inputs.tokenizer, config.model.rendering),
        config.rollout.max_prompt_tokens,
        config.rollout.max_completion_tokens,
        inputs.data.feedback,
    )
    return FeedSchedule(
        inputs.schedule,
        config.round.prompts,
        feed,
        ledger,
        preparation.prompt,
        config.data.instruction,
        tell,
    )

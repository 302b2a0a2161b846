"""What a run reads, checked before anything starts: model, data, and which prompts are asked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from actors.self_evaluation import check_questions
from rlhf.asking.preparation import Preparation
from rlhf.asking.prompts import Data, DelayedSchedule, PromptSchedule, load_data
from rlhf.asking.selection import num_candidates
from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.feedback import FeedbackDataConfig, open_folder
from rlhf.config.models import TinyModelConfig, Transport
from rlhf.config.texts import from_anywhere
from rlhf.data.encoding import control_tokens
from rlhf.data.rendering import Renderer
from rlhf.feedback.feed import Feed, FeedSchedule, conversations
from rlhf.launching.configuration import Config
from rlhf.launching.judging import judge_problems, need_answers, read_rows, rehearse
from rlhf.launching.transports import transport
from rlhf.models.checks import require_causal, sampling_faults, vocabulary_faults
from rlhf.models.loading import read_config, read_tokenizer
from rlhf.problems import InputError, some
from rlhf.records import Prompt
from rlhf.stages import Schedule
from rlhf.storage.ledger import Ledger
from rlhf.tools.probe import SandboxLevel
from rlhf.toys.tiny import build_tiny_model
from rlhf.watching import tracking_function


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
    sandbox = config.tools.sandbox()
    problems = list(judge_problems(config, path))
    try:
        config.tools.try_out()
    except InputError as error:
        problems += error.problems
    try:
        config.environment.inspect()
    except InputError as error:
        problems += error.problems
    problems += [f"model.path={path}: {fault}" for fault in vocabulary_faults(tokenizer, model)]
    problems += unseen_ends(config, tokenizer)
    by_nccl = transport(config) is Transport.nccl
    on_vllm = config.rollout.name == "vllm"
    faults = sampling_faults(model, on_vllm, config.placement.gpus, by_nccl)
    problems += [f"model.path={path}: {fault}" for fault in faults]
    longest = config.rollout.longest
    limit = getattr(model, "max_position_embeddings", longest)
    if longest > limit:
        problems.append(
            f"rollout.max_prompt_tokens + rollout.max_completion_tokens = {longest}: the model "
            f"reads at most {limit} tokens"
        )
    if config.algorithm.asks_policy:
        check_questions(path, longest)
    if problems:
        raise InputError(problems)
    renderer = Renderer(tokenizer, config.model.rendering)
    data = load_data(
        config.data,
        renderer,
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        max_completion_tokens=config.rollout.max_completion_tokens,
        wanted=Wanted(need_answers(config), read_rows(config) or config.environment.reads_rows),
        tools=config.tools,
        seed=config.seed,
        opened=config.environment.opened,
        stops=config.environment.stops,
    )
    config.environment.rehearse(data.train[0], renderer)
    rehearse(config, [*data.train, *data.heldout])
    prompts, seeds = config.algorithm.usable(data.train, data.feedback)
    schedule: Schedule = _schedule(config, data, prompts)
    if seeds:
        schedule = DelayedSchedule(schedule)
    vocabulary_size = min(len(tokenizer), model.vocab_size)
    return Inputs(path, tokenizer, vocabulary_size, data, schedule, tuple(seeds), sandbox)


def unseen_ends(config: Config, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Texts that are looked for in answers, which are read without the tokenizer's own tokens."""
    looked_for = {
        "algorithm.stop": config.algorithm.ends,
        "environment.stop": config.environment.stops,
        "tools.opens, tools.closes": config.tools.ends,
    }
    control = control_tokens(tokenizer)
    for key, texts in looked_for.items():
        for token in control:
            if any(token in text for text in texts):
                yield (
                    f"{key}: {token!r} is a control token of the tokenizer, which is never in the "
                    "text of an answer; name a text of ordinary tokens"
                )


def try_out(config: Config) -> None:
    """Users' own code that training alone runs; raises InputError if some cannot be used."""
    problems = []
    for option in (config.algorithm, config.objective):
        try:
            option.try_out()
        except InputError as error:
            problems += error.problems
    if config.tracking.function is not None:
        try:
            tracking_function.start(config.tracking.function).close()
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


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


def open_feed(
    config: Config, inputs: Inputs, ledger: Ledger, tell: Callable[[str], None]
) -> Schedule:
    """The run's schedule, with what arrives in `data.feed` before it; `ledger` is the run's."""
    if not isinstance(config.data, FeedbackDataConfig) or config.data.feed is None:
        return inputs.schedule
    taken = ledger.journal("feed", "complaints")
    used = {id.rpartition(":")[0] for id in inputs.data.feedback} | set(conversations(taken))
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
        taken,
        preparation.prompt,
        config.data.instruction,
        tell,
    )

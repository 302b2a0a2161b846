"""Judges that ask, on Ray: rollout workers that hold the judge model say how likely labels are, and
write what is to be read before.

A model that answers with none of them may be one that thinks first: it is left to write, and asked
again behind its thought.
"""

import logging
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import NamedTuple

from actors.group import Allotment, Worker, call_all, start_workers
from actors.question_reader import QuestionReader
from actors.rollout import RolloutService, RolloutWorker
from rlhf.collecting.dispatch import Dispatcher, RequestFailed
from rlhf.config.models import DType, RolloutConfig, Transport
from rlhf.judges.questions.asking import AskingConfig
from rlhf.judges.questions.choosing import Remembering, Writing
from rlhf.judges.questions.labels import MIN_LABEL_PROBABILITY, none_of, shares
from rlhf.judges.questions.thoughts import TEMPERATURE
from rlhf.records import Prompt, Sampling, Tokens
from rlhf.seeds import derive_seed
from rlhf.stages import Judge
from rlhf.tools.rollout import ToolRollout
from rlhf.tools.sandbox import SandboxFailed

ANSWER_TOKENS = 2
"""A label, and the one token that vLLM generates after it."""

_log = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """A question and the labels that may answer it, as tokens."""

    question: tuple[int, ...]
    labels: tuple[int, ...]


class LabelScorer:
    """A rollout worker as the dispatcher sees it: asked not for text but for labels."""

    def __init__(self, worker: Worker, timeout_s: float) -> None:
        self.name = worker.name
        self._worker = worker
        self._timeout_s = timeout_s

    @property
    def cause(self) -> str | None:
        return self._worker.cause

    @property
    def comes_back(self) -> bool:
        return self._worker.comes_back

    async def is_back(self) -> None:
        await self._worker.is_back()

    async def call(
        self, requests: Sequence[Labelled]
    ) -> AsyncGenerator[list[tuple[int, tuple[float, ...]]], None]:
        """The log-probabilities of each label as a row's next token, in nats."""
        rows = [Tokens(one.question, (label,)) for one in requests for label in one.labels]
        (nats,) = await call_all([self._worker], "logprobs", rows, timeout_s=self._timeout_s)
        found = iter(nats)
        yield [(i, tuple(next(found)[0] for _ in one.labels)) for i, one in enumerate(requests)]


class WorkerChooser:
    """`rlhf.judges.questions.choosing.Author` by rollout workers."""

    def __init__(
        self,
        workers: Sequence[Worker],
        reader: QuestionReader,
        *,
        calls_per_worker: int,
        timeout_s: float,
    ) -> None:
        self._reader = reader
        self._timeout_s = timeout_s
        scorers = [LabelScorer(worker, timeout_s) for worker in workers]
        self._dispatcher: Dispatcher[Labelled, tuple[float, ...]] = Dispatcher(
            scorers, calls_per_worker=calls_per_worker, timeout_s=timeout_s
        )
        self._service = RolloutService(
            workers, calls_per_worker=calls_per_worker, timeout_s=timeout_s
        )
        self._was_told = False

    def ask(self, worker: Worker) -> None:
        """One more, from now on."""
        self._dispatcher.add(LabelScorer(worker, self._timeout_s))
        self._service.ask(worker)

    async def choose(self, question: str, labels: Sequence[str]) -> tuple[float, ...] | None:
        """None for a question that is too long, and where the model answers with no label, not
        even after a thought.
        """
        tokens = self._reader.tokens(question)
        if tokens is None:
            return None
        if not self._reader.begins_with_thought:
            found = await self._read(question, tokens, labels)
            if not isinstance(found, str):
                return found
            if not self._reader.thought_tokens:
                return self._tell(f"{found}; take a model that follows instructions")
        thought = self._reader.thought(await self._think(question, tokens))
        if thought is None:
            limit = self._reader.thought_tokens
            return self._tell(
                f"answers with {none_of(labels)}, and no thought of it ends within {limit} "
                "tokens; take a model that follows instructions, or thinks less"
            )
        found = await self._read(question, (*tokens, *thought), labels)
        return self._tell(f"after its thought, {found}") if isinstance(found, str) else found

    async def _read(
        self, question: str, tokens: tuple[int, ...], labels: Sequence[str]
    ) -> tuple[float, ...] | str:
        """How likely each label is where the tokens end, or why that says nothing."""
        asked = Labelled(tokens, self._reader.label_ids(labels))
        key = (question, len(tokens), *labels)
        nats = await self._dispatcher.submit(key, asked)
        found = shares(nats)
        if found is not None:
            return found
        all_of_them = sum(map(math.exp, nats))
        return (
            f"answers with {' or '.join(labels)} with a probability of only {all_of_them:.2g}, and "
            f"below {MIN_LABEL_PROBABILITY:g} which of them is likelier says nothing"
        )

    async def _think(self, question: str, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """What the model writes; the same for the same question."""
        prompt = Prompt(question, (), tokens)
        sampling = Sampling(1, self._reader.thought_tokens, temperature=TEMPERATURE)
        seed = derive_seed("thought", question)
        (completion,) = await self._service.generate(prompt, sampling, seed)
        return completion.token_ids

    async def write(self, question: str, writing: Writing) -> str | None:
        """None for a question that is too long or refused, for a thought without an end, and where
        the sandbox of a tool is out of order."""
        reader, instrument = self._reader, writing.instrument
        tokens = reader.tokens(question)
        if tokens is None:
            return self._tell(f"a question has more than {reader.max_tokens} tokens")
        limit = writing.max_tokens + reader.thought_tokens
        rollout = self._service
        if instrument is not None:
            rollout = ToolRollout(rollout, instrument.tool, reader.encode, instrument.syntax, limit)
        prompt = Prompt(question, (), tokens)
        sampling = Sampling(1, limit, temperature=TEMPERATURE)
        try:
            (answer,) = await rollout.generate(prompt, sampling, writing.seed)
        except (RequestFailed, SandboxFailed) as error:
            return self._tell(str(error))
        if answer.failure:
            return self._tell(answer.failure)
        if not reader.thought_tokens:
            return answer.text.strip() or None
        thought = reader.thought(answer.token_ids)
        if thought is None and reader.is_thinking(answer.token_ids):
            return self._tell(f"no thought of it ends within {limit} tokens")
        return reader.text(answer.token_ids[len(thought or ()) :]).strip() or None

    def _tell(self, reason: str) -> None:
        if not self._was_told:
            self._was_told = True
            _log.warning("%s: %s; such questions count as failed", self._reader.where, reason)


def start_llm_judges(
    configs: Sequence[AskingConfig],
    rollout: RolloutConfig,
    dtype: DType,
    allotment: Allotment,
    timeout_s: float,
    seed: int,
) -> tuple[list[Judge], list[Worker]]:
    """Judges of the one model at `judge.path`, and their workers: on the engine of `rollout`, not
    yet ready."""
    longest = max(map(answer_tokens, configs))
    readers = [QuestionReader(one.path, one.max_tokens, longest) for one in configs]
    widest = max(readers, key=lambda reader: reader.max_tokens)
    workers = start_answering(configs[0], widest, rollout, dtype, allotment, seed)
    calls = rollout.calls_per_worker
    judges = []
    for config, reader in zip(configs, readers, strict=True):
        chooser = WorkerChooser(workers, reader, calls_per_worker=calls, timeout_s=timeout_s)
        judges.append(config.judge_by(Remembering(chooser), reader.model, reader.clean))
    return judges, workers


def start_answering(
    config: AskingConfig,
    reader: QuestionReader,
    rollout: RolloutConfig,
    dtype: DType,
    allotment: Allotment,
    seed: int,
) -> list[Worker]:
    """Rollout workers with the model at `judge.path`, as long as the reader's questions need."""
    engine = replace(
        rollout,
        num_workers=allotment.count,
        engine={},  # which are for the policy: a draft model of it, say
        max_prompt_tokens=reader.max_tokens,
        max_completion_tokens=reader.thought_tokens + reader.answer_tokens,
    )
    arguments = (config.path, dtype, engine, Transport.object_store, seed)
    return start_workers(RolloutWorker, allotment, *arguments)


def check_llm_judge(config: AskingConfig) -> None:
    """Of the model at `judge.path`, tokenizer and configuration; raises InputError if it cannot
    be a judge."""
    reader = QuestionReader(config.path, config.max_tokens, answer_tokens(config))
    reader.label_ids(config.labels)
    reader.check(config.trivial)


def answer_tokens(config: AskingConfig) -> int:
    """The most that one answer to a question may have."""
    return max(ANSWER_TOKENS, config.writes)

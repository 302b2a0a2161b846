"""The LLM judge on Ray: rollout workers that hold the judge model say how likely A and B are.

A model that answers with neither may be one that thinks first: it is left to write, and asked again
behind its thought.
"""

import logging
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from actors.group import Allotment, Worker, call_all, start_workers
from actors.question_reader import QuestionReader
from actors.rollout import RolloutService, RolloutWorker
from rlhf.collecting.dispatch import Dispatcher
from rlhf.config.models import DType, RolloutConfig, Transport
from rlhf.judges.questions.comparing import LLMJudge
from rlhf.judges.questions.labels import MIN_LABEL_PROBABILITY, preference
from rlhf.judges.questions.settings import AskedModelConfig
from rlhf.judges.questions.template import load_template
from rlhf.judges.questions.thoughts import TEMPERATURE
from rlhf.records import Prompt, Sampling, Tokens
from rlhf.seeds import derive_seed

ANSWER_TOKENS = 2
"""The label, and the one token that vLLM generates after it."""

_log = logging.getLogger(__name__)


class LabelScorer:
    """A rollout worker as the dispatcher sees it: asked not for text but for the two labels."""

    def __init__(self, worker: Worker, label_ids: tuple[int, int], timeout_s: float) -> None:
        self.name = worker.name
        self._worker = worker
        self._label_ids = label_ids
        self._timeout_s = timeout_s

    async def call(
        self, requests: Sequence[tuple[int, ...]]
    ) -> AsyncGenerator[list[tuple[int, tuple[float, float]]], None]:
        """The log-probabilities of A and of B as each row's next token, in nats."""
        rows = [Tokens(ids, (label,)) for ids in requests for label in self._label_ids]
        (nats,) = await call_all([self._worker], "logprobs", rows, timeout_s=self._timeout_s)
        pairs = zip(nats[::2], nats[1::2], strict=True)
        yield [(i, (first, second)) for i, ((first,), (second,)) in enumerate(pairs)]


class WorkerChooser:
    """`rlhf.judges.questions.comparing.Chooser` by rollout workers."""

    def __init__(
        self,
        workers: Sequence[Worker],
        reader: QuestionReader,
        *,
        calls_per_worker: int,
        timeout_s: float,
    ) -> None:
        self._reader = reader
        scorers = [LabelScorer(worker, reader.label_ids(), timeout_s) for worker in workers]
        self._dispatcher: Dispatcher[tuple[int, ...], tuple[float, float]] = Dispatcher(
            scorers, calls_per_worker=calls_per_worker, timeout_s=timeout_s
        )
        self._service = RolloutService(
            workers, calls_per_worker=calls_per_worker, timeout_s=timeout_s
        )
        self._was_told = False

    async def choose(self, question: str) -> float | None:
        """None for a question that is too long, and where the model answers with neither letter,
        not even after a thought.
        """
        tokens = self._reader.tokens(question)
        if tokens is None:
            return None
        if not self._reader.begins_with_thought:
            found = await self._read(question, tokens)
            if not isinstance(found, str):
                return found
            if not self._reader.thought_tokens:
                return self._tell(f"{found}; take a model that follows instructions")
        thought = self._reader.thought(await self._think(question, tokens))
        if thought is None:
            limit = self._reader.thought_tokens
            return self._tell(
                f"answers with neither A nor B, and no thought of it ends within {limit} tokens; "
                "take a model that follows instructions, or thinks less"
            )
        found = await self._read(question, (*tokens, *thought))
        return self._tell(f"after its thought, {found}") if isinstance(found, str) else found

    async def _read(self, question: str, tokens: tuple[int, ...]) -> float | str:
        """The probability of A against B where the tokens end, or why that says nothing."""
        nats = await self._dispatcher.submit((question, len(tokens)), tokens)
        found = preference(*nats)
        if found is not None:
            return found
        both = math.exp(nats[0]) + math.exp(nats[1])
        return (
            f"answers with A or B with a probability of only {both:.2g}, and below "
            f"{MIN_LABEL_PROBABILITY:g} which of them is likelier says nothing"
        )

    async def _think(self, question: str, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """What the model writes; the same for the same question."""
        prompt = Prompt(question, (), tokens)
        sampling = Sampling(1, self._reader.thought_tokens, temperature=TEMPERATURE)
        seed = derive_seed("thought", question)
        (completion,) = await self._service.generate(prompt, sampling, seed)
        return completion.token_ids

    def _tell(self, reason: str) -> None:
        if not self._was_told:
            self._was_told = True
            _log.warning("%s: %s; such questions count as failed", self._reader.where, reason)


def start_llm_judge(
    config: AskedModelConfig,
    rollout: RolloutConfig,
    dtype: DType,
    allotment: Allotment,
    timeout_s: float,
    seed: int,
) -> tuple[LLMJudge, list[Worker]]:
    """The judge at `judge.path`, and its workers: on the engine of `rollout`, not yet ready."""
    reader = QuestionReader(config.path, config.max_tokens, ANSWER_TOKENS)
    workers = start_answering(config, reader, rollout, dtype, allotment, seed)
    calls = rollout.calls_per_worker
    chooser = WorkerChooser(workers, reader, calls_per_worker=calls, timeout_s=timeout_s)
    template = load_template(config.template, config.user_guided)
    return LLMJudge(chooser, template, reader.model, clean=reader.clean), workers


def start_answering(
    config: AskedModelConfig,
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
        max_prompt_tokens=reader.max_tokens,
        max_completion_tokens=reader.thought_tokens + reader.answer_tokens,
    )
    arguments = (config.path, dtype, engine, Transport.object_store, seed)
    return start_workers(RolloutWorker, allotment, *arguments)


def check_llm_judge(config: AskedModelConfig) -> None:
    """Of the model at `judge.path`, tokenizer and configuration; raises InputError if it cannot
    be a judge."""
    reader = QuestionReader(config.path, config.max_tokens, ANSWER_TOKENS)
    reader.label_ids()
    reader.check(load_template(config.template, config.user_guided).trivial)

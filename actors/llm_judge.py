"""The LLM judge on Ray: rollout workers that hold the judge model say how likely A and B are."""

import math
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.group import Allotment, Worker, call_all, start_workers
from actors.rollout import RolloutWorker
from rlhf.config.judges import LLMJudgeConfig
from rlhf.config.models import DType, Rendering, RolloutConfig, Transport, VllmRolloutConfig
from rlhf.data.rendering import Renderer
from rlhf.dispatch import Dispatcher
from rlhf.judges.endpoint import check_endpoint
from rlhf.judges.llm import LLMJudge
from rlhf.judges.model_files import fingerprint
from rlhf.judges.template import LABELS, load_template
from rlhf.models.checks import require_causal
from rlhf.models.loading import read_config, read_tokenizer
from rlhf.problems import InputError
from rlhf.records import Message, Tokens

ANSWER_TOKENS = 2
"""The label, and the one token that vLLM generates after it."""


class QuestionReader:
    """Questions as a model's token ids, with room for an answer of `answer_tokens`.

    Raises InputError, naming `key`, if the model's files or tokenizer cannot be used.
    """

    def __init__(
        self, path: str | None, max_tokens: int, answer_tokens: int, key: str = "judge.path"
    ) -> None:
        assert path is not None
        self._where = where = f"{key}={path}"
        self.answer_tokens = answer_tokens
        directory = require_causal(key, path)
        self.model = f"{Path(path).name}-{fingerprint(directory)}"
        try:
            tokenizer = read_tokenizer(directory)
            model = read_config(directory)
        except (OSError, ValueError) as error:
            raise InputError([f"{where}: {str(error).splitlines()[0]}"]) from error
        if tokenizer.eos_token_id is None:
            raise InputError([f"{where}: its tokenizer has no end token; set its eos_token"])
        self._tokenizer: Any = tokenizer
        self._renderer = Renderer(tokenizer, Rendering.auto)
        longest = getattr(model, "max_position_embeddings", None) or math.inf
        limits = (max_tokens, longest - answer_tokens, tokenizer.model_max_length)
        self.max_tokens = int(min(limits))
        # It would warn of texts that are too long, as if they went on to the model.
        tokenizer.model_max_length = int(1e30)
        special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        # An empty alternative would match everywhere, so there is always one that matches nowhere.
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")

    def tokens(self, question: str) -> tuple[int, ...] | None:
        """Up to where the answer begins: by the chat template, or plainly if there is none.

        None for a question that is too long, or that the chat template refuses.
        """
        try:
            ids = self._renderer.render((Message("user", question),))
        except ValueError:
            return None
        return ids if len(ids) <= self.max_tokens else None

    def clean(self, text: str) -> str:
        """Breaks the model's special tokens written out in a text, which would end a turn."""
        return self._special.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)

    def check(self, question: str) -> None:
        """Raises InputError unless it takes this trivial question."""
        if self.tokens(question) is None:
            raise InputError(
                [
                    f"{self._where}: does not take a trivial question: it is longer than its "
                    f"max_tokens or the model allow ({self.max_tokens} tokens), or its chat "
                    "template refuses a user's message"
                ]
            )

    def label_ids(self) -> tuple[int, int]:
        """The tokens A and B; raises InputError if they are more than one token each."""
        tokenizer = self._tokenizer
        encoded = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in LABELS]
        for label, ids in zip(LABELS, encoded, strict=True):
            if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
                raise InputError(
                    [
                        f"{self._where}: {label!r} is not one token of its vocabulary, so it "
                        "cannot answer with it (got "
                        f"{tokenizer.convert_ids_to_tokens(ids)}); take another model"
                    ]
                )
        return encoded[0][0], encoded[1][0]


class LabelScorer:
    """A rollout worker as the dispatcher sees it: asked not for text but for the two labels."""

    def __init__(self, worker: Worker, label_ids: tuple[int, int], timeout_s: float) -> None:
        self.name = worker.name
        self._worker = worker
        self._label_ids = label_ids
        self._timeout_s = timeout_s

    async def call(
        self, requests: Sequence[tuple[int, ...]]
    ) -> AsyncGenerator[list[tuple[int, float | None]], None]:
        """P(A) / (P(A) + P(B)) for each question's next token; None if neither is possible."""
        rows = [Tokens(ids, (label,)) for ids in requests for label in self._label_ids]
        (nats,) = await call_all([self._worker], "logprobs", rows, timeout_s=self._timeout_s)
        pairs = zip(nats[::2], nats[1::2], strict=True)
        yield [(i, _first_of_two(first, second)) for i, ((first,), (second,)) in enumerate(pairs)]


def _first_of_two(first: float, second: float) -> float | None:
    """The softmax over two log-probabilities, of which one may be -inf."""
    # By tanh, which overflows nowhere and gives exactly 1 minus itself when the two are swapped.
    probability = (1 + math.tanh((first - second) / 2)) / 2
    return probability if math.isfinite(probability) else None


class WorkerChooser:
    """`rlhf.judges.llm.Chooser` by rollout workers."""

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
        self._dispatcher: Dispatcher[tuple[int, ...], float | None] = Dispatcher(
            scorers, calls_per_worker=calls_per_worker, timeout_s=timeout_s
        )

    async def choose(self, question: str) -> float | None:
        tokens = self._reader.tokens(question)
        return None if tokens is None else await self._dispatcher.submit((question,), tokens)


def start_llm_judge(
    config: LLMJudgeConfig,
    rollout: RolloutConfig,
    dtype: DType,
    allotment: Allotment,
    timeout_s: float,
    seed: int,
) -> tuple[LLMJudge, list[Worker]]:
    """The judge at `judge.path`, and its workers: on the engine of `rollout`, not yet ready."""
    reader = QuestionReader(config.path, config.max_tokens, ANSWER_TOKENS)
    workers = start_answering(config, reader, rollout, dtype, allotment, seed)
    calls = calls_per_worker(rollout)
    chooser = WorkerChooser(workers, reader, calls_per_worker=calls, timeout_s=timeout_s)
    template = load_template(config.template, config.user_guided)
    return LLMJudge(chooser, template, reader.model, clean=reader.clean), workers


def start_answering(
    config: LLMJudgeConfig,
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
        max_completion_tokens=reader.answer_tokens,
    )
    arguments = (config.path, dtype, engine, Transport.object_store, seed)
    return start_workers(RolloutWorker, allotment, *arguments)


def calls_per_worker(rollout: RolloutConfig) -> int:
    """vLLM batches continuously, so it gets questions as they come; padded batches gather first."""
    return 1024 if isinstance(rollout, VllmRolloutConfig) else 1


def check_llm_judge(config: LLMJudgeConfig) -> None:
    """Tries out the judge before any worker starts; raises InputError if it cannot be one.

    An endpoint is asked one question, in an event loop of its own; of a model only its tokenizer
    and configuration are read.
    """
    if config.endpoint is not None:
        check_endpoint(config)
        return
    reader = QuestionReader(config.path, config.max_tokens, ANSWER_TOKENS)
    reader.label_ids()
    reader.check(load_template(config.template, config.user_guided).trivial)

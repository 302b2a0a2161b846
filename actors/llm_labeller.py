"""label=llm on Ray: rollout workers that hold the model write what a user's turn says."""

from collections.abc import Sequence

from actors.group import Worker
from actors.question_reader import QuestionReader
from actors.rollout import RolloutService
from rlhf.collecting.dispatch import RequestFailed
from rlhf.config.models import RolloutConfig
from rlhf.feedback.labeller import NoAnswer
from rlhf.judges.questions.thoughts import TEMPERATURE
from rlhf.records import Completion, Prompt, Sampling
from rlhf.seeds import derive_seed


class WorkerWriter:
    """`rlhf.feedback.labeller.Writer` by rollout workers."""

    def __init__(
        self,
        workers: Sequence[Worker],
        reader: QuestionReader,
        rollout: RolloutConfig,
        timeout_s: float,
    ) -> None:
        self.model = reader.model
        self._reader = reader
        self._service = RolloutService(
            workers, calls_per_worker=rollout.calls_per_worker, timeout_s=timeout_s
        )

    def fits(self, question: str) -> bool:
        return self._reader.tokens(question) is not None

    def clean(self, text: str) -> str:
        return self._reader.clean(text)

    async def write(self, question: str) -> str:
        """Raises NoAnswer if the engine refuses the question, StageFailed if no worker is left."""
        tokens = self._reader.tokens(question)
        if tokens is None:
            raise NoAnswer("the question is too long")
        reader = self._reader
        if not reader.begins_with_thought:
            answer = await self._completion(question, tokens, reader.answer_tokens, 0.0)
            if not (answer.truncated and reader.thought_tokens):
                return answer.text
        limit = reader.thought_tokens + reader.answer_tokens
        answer = await self._completion(question, tokens, limit, TEMPERATURE)
        thought = reader.thought(answer.token_ids)
        if thought is None:
            raise NoAnswer(f"no thought ends within {limit} tokens")
        return reader.text(answer.token_ids[len(thought) :])

    async def _completion(
        self, question: str, tokens: tuple[int, ...], max_tokens: int, temperature: float
    ) -> Completion:
        prompt = Prompt(question, (), tokens)
        sampling = Sampling(1, max_tokens, temperature=temperature)
        seed = derive_seed("thought", question)
        try:
            (completion,) = await self._service.generate(prompt, sampling, seed)
        except RequestFailed as error:
            raise NoAnswer(str(error)) from error
        return completion

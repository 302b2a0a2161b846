"""label=llm on Ray: rollout workers that hold the model write what a user's turn says."""

from collections.abc import Sequence
from itertools import count

from actors.group import Worker
from actors.llm_judge import QuestionReader, calls_per_worker
from actors.rollout import RolloutService
from rlhf.config.models import RolloutConfig
from rlhf.dispatch import RequestFailed
from rlhf.feedback.labeller import NoAnswer
from rlhf.records import Prompt, Sampling


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
        self._sampling = Sampling(1, reader.answer_tokens, temperature=0)
        self._service = RolloutService(
            workers, calls_per_worker=calls_per_worker(rollout), timeout_s=timeout_s
        )
        self._numbers = count()

    def fits(self, question: str) -> bool:
        return self._reader.tokens(question) is not None

    def clean(self, text: str) -> str:
        return self._reader.clean(text)

    async def write(self, question: str) -> str:
        """Raises NoAnswer if the engine refuses the question, StageFailed if no worker is left."""
        tokens = self._reader.tokens(question)
        if tokens is None:
            raise NoAnswer("the question is too long")
        # Greedy, so the seed is not used; the ids have equal lengths, to sort as numbers do.
        prompt = Prompt(f"{next(self._numbers):012}", (), tokens)
        try:
            (completion,) = await self._service.generate(prompt, self._sampling, seed=0)
        except RequestFailed as error:
            raise NoAnswer(str(error)) from error
        return completion.text

"""The policy asked about its own answers: its rollout workers say how likely each label is."""

from actors.llm_judge import ANSWER_TOKENS, WorkerChooser, answer_tokens
from actors.question_reader import QuestionReader
from actors.rollout import RolloutService
from rlhf.config.models import Rendering, RolloutConfig
from rlhf.data.rendering import Renderer
from rlhf.judges.questions.asking import AskingConfig
from rlhf.judges.questions.template import LABELS
from rlhf.models.loading import read_tokenizer
from rlhf.problems import InputError
from rlhf.records import Completion, Message, Prompt, Sampling
from rlhf.seeds import derive_seed
from rlhf.stages import Judge
from rlhf.tree.self_evaluation import QUESTION, SelfEvaluation

LEAST_ROOM = 8
"""Tokens of an answer of the policy to what a judge asks."""


def start_self_evaluation(
    rollout: RolloutService, path: str, config: RolloutConfig, see_solution: bool, timeout_s: float
) -> SelfEvaluation:
    """By the newest published policy; `path` holds its tokenizer."""
    reader = _reader(path, config.longest)
    calls = config.calls_per_worker
    chooser = WorkerChooser(rollout.workers, reader, calls_per_worker=calls, timeout_s=timeout_s)
    rollout.follow(chooser.ask)
    return SelfEvaluation(chooser, see_solution, reader.clean)


def policy_judge(
    judge: AskingConfig, rollout: RolloutService, path: str, config: RolloutConfig, timeout_s: float
) -> Judge:
    """By the newest published policy too, so that nothing it has said is remembered."""
    reader = _reader(path, config.longest, answer_tokens(judge))
    calls = config.calls_per_worker
    chooser = WorkerChooser(rollout.workers, reader, calls_per_worker=calls, timeout_s=timeout_s)
    rollout.follow(chooser.ask)
    return judge.judge_by(chooser, "policy", reader.clean)


class PolicyWriter:
    """`rlhf.judges.programs.written.Writer`: the newest published policy answers as it answers
    prompts."""

    def __init__(
        self, rollout: RolloutService, path: str, rendering: Rendering, config: RolloutConfig
    ) -> None:
        self._rollout = rollout
        self._renderer = Renderer(read_tokenizer(path), rendering)
        self._config = config

    async def write(
        self, id: str, question: str, num: int, seed: int
    ) -> tuple[Completion, ...] | str:
        messages = (Message("user", question),)
        try:
            ids = self._renderer.render(messages)
        except ValueError as error:
            return f"the policy cannot be asked: {error}"
        room = self._config.longest - len(ids)
        if room < LEAST_ROOM:
            return (
                f"a question of {len(ids)} tokens leaves no room for an answer, of the "
                f"{self._config.longest} of rollout.max_prompt_tokens and max_completion_tokens"
            )
        sampling = Sampling(num, min(room, self._config.max_completion_tokens))
        asked = Prompt(id, messages, ids)
        return await self._rollout.generate(asked, sampling, derive_seed(seed, "written", id))


def check_policy_judge(judge: AskingConfig, path: str, max_tokens: int) -> None:
    """Raises InputError, naming model.path, if the model cannot be asked that judge's questions."""
    if judge.writes >= max_tokens:
        raise InputError(
            [
                f"judge.note_tokens={judge.writes}: a note and its question have to fit "
                f"rollout.max_prompt_tokens + rollout.max_completion_tokens = {max_tokens}; lower "
                "it, or raise those"
            ]
        )
    reader = _reader(path, max_tokens, answer_tokens(judge))
    reader.label_ids(judge.labels)
    reader.check(judge.trivial)


def check_questions(path: str, max_tokens: int) -> None:
    """Raises InputError, naming model.path, if the model cannot be asked about its answers."""
    reader = _reader(path, max_tokens)
    reader.label_ids(LABELS)
    reader.check(QUESTION.format(prompt="1+1", solution="", answer="2"))


def _reader(path: str, max_tokens: int, answer: int = ANSWER_TOKENS) -> QuestionReader:
    return QuestionReader(path, max_tokens, answer, "model.path", window=max_tokens)

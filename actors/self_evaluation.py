"""The policy asked about its own answers: its rollout workers say how likely each label is."""

from actors.llm_judge import ANSWER_TOKENS, WorkerChooser, answer_tokens
from actors.question_reader import QuestionReader
from actors.rollout import RolloutService
from rlhf.config.models import RolloutConfig
from rlhf.judges.questions.asking import AskingConfig
from rlhf.judges.questions.template import LABELS
from rlhf.problems import InputError
from rlhf.stages import Judge
from rlhf.tree.self_evaluation import QUESTION, SelfEvaluation


def start_self_evaluation(
    rollout: RolloutService, path: str, config: RolloutConfig, see_solution: bool, timeout_s: float
) -> SelfEvaluation:
    """By the newest published policy; `path` holds its tokenizer."""
    reader = _reader(path, config.longest)
    calls = config.calls_per_worker
    chooser = WorkerChooser(rollout.workers, reader, calls_per_worker=calls, timeout_s=timeout_s)
    return SelfEvaluation(chooser, see_solution, reader.clean)


def policy_judge(
    judge: AskingConfig, rollout: RolloutService, path: str, config: RolloutConfig, timeout_s: float
) -> Judge:
    """By the newest published policy too, so that nothing it has said is remembered."""
    reader = _reader(path, config.longest, answer_tokens(judge))
    calls = config.calls_per_worker
    chooser = WorkerChooser(rollout.workers, reader, calls_per_worker=calls, timeout_s=timeout_s)
    return judge.judge_by(chooser, "policy", reader.clean)


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

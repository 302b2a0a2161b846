"""What can be wrong with the settings of a labeller by themselves."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from rlhf.config.data import LabelSource
from rlhf.config.models import RolloutConfig
from rlhf.feedback.config import FeedbackConfig
from rlhf.judges.llm import LLMJudgeConfig
from rlhf.judges.questions.settings import OR_POLICY

UNREAD = (
    "template",
    "user_guided",
    "logprobs",
    "contexts",
    "context_column",
    "weights",
    "policy",
)
"""Keys of a judge that say how two answers are compared, or by whom."""
_INSTEAD = {
    "num_workers": "judge.num_workers",
    "max_prompt_tokens": "judge.max_tokens",
    "max_completion_tokens": "nothing, for an answer has a length of its own",
}


def label_problems(config: FeedbackConfig) -> Iterator[str]:
    """One line for each setting that cannot be, or that nothing would read; asks no server."""
    judge = config.judge
    if config.label is not LabelSource.llm:
        if given := _changed(judge, LLMJudgeConfig()):
            yield (
                f"{', '.join(f'judge.{name}' for name in given)}: label={config.label.value} "
                "needs no model; add label=llm to the command, or remove them"
            )
        return
    for problem in dataclasses.replace(judge, template=None).problems():
        yield problem.removesuffix(OR_POLICY)
    for name in _changed(judge, LLMJudgeConfig()):
        if name in UNREAD:
            yield f"judge.{name}={getattr(judge, name)}: label=llm does not read it; remove it"
    if judge.path is None or judge.endpoint is not None:
        return
    for name in _changed(config.rollout, RolloutConfig()):
        if name in _INSTEAD:
            value = getattr(config.rollout, name)
            yield f"rollout.{name}={value}: label=llm does not read it; use {_INSTEAD[name]}"
    if config.placement.colocated:
        yield "placement=colocated: there is no policy to share with; use placement=disaggregated"


def _changed(section: Any, default: Any) -> list[str]:
    """The fields whose values are not the default's."""
    names = [field.name for field in dataclasses.fields(default)]
    return [name for name in names if getattr(section, name) != getattr(default, name)]

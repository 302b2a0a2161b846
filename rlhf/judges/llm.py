"""A language model compares every two completions, in both orders."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar

from rlhf.config.texts import location
from rlhf.judges.questions.asking import AskingConfig
from rlhf.judges.questions.choosing import Chooser, Clean
from rlhf.judges.questions.comparing import LLMJudge
from rlhf.judges.questions.template import LABELS, Template, load_template
from rlhf.options import Fact
from rlhf.problems import InputError


@dataclass
class LLMJudgeConfig(AskingConfig):
    """Asked which of two completions is better."""

    name: ClassVar[str] = "llm"

    template: str | None = location(None)
    """A text file with {prompt}, {first} and {second}, that ends by asking for A or B; by default
    that of `rlhf.judges.questions.template`."""
    user_guided: bool = False
    """Judge by what the user said they wanted, as a checklist: prompts need it, as those of
    `data=feedback` have it, and a template {wishes}."""

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.matrix}

    def needs(self) -> Mapping[Fact, str]:
        if not self.user_guided:
            return {}
        line = "judge.user_guided=true: needs what users said; set data=feedback algorithm=drift"
        return {Fact.wishes: line, Fact.user_replies: line}

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        try:
            self._template()
        except InputError as error:
            yield from error.problems

    def _template(self) -> Template:
        return load_template(self.template, self.user_guided)

    @property
    def labels(self) -> Sequence[str]:
        return LABELS

    @property
    def trivial(self) -> str:
        return self._template().trivial

    def judge_by(self, chooser: Chooser, model: str, clean: Clean) -> LLMJudge:
        return LLMJudge(chooser, self._template(), model, clean=clean)

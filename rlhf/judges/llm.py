"""A language model compares every two completions, in both orders."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import ClassVar

from rlhf.config.texts import location
from rlhf.judges.questions.asking import AskingConfig, weight_problems
from rlhf.judges.questions.choosing import Chooser, Clean
from rlhf.judges.questions.comparing import InContexts, LLMJudge
from rlhf.judges.questions.template import LABELS, Template, load_template
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.stages import Judge


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

    contexts: dict[str, str] = field(default_factory=dict)
    """By name, what to judge by, each asked on its own and a part of the verdict; a template then
    has {context} (Pitis et al. 2024, Context-aware preference modeling, arXiv 2407.14916)."""
    weights: dict[str, float] = field(default_factory=dict)
    """How likely each context is, 1 unless given; they are divided by their sum."""

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.matrix}

    def needs(self) -> Mapping[Fact, str]:
        if not self.user_guided:
            return {}
        line = "judge.user_guided=true: needs what users said; set data=feedback algorithm=drift"
        return {Fact.wishes: line, Fact.user_replies: line}

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from weight_problems("contexts", self.contexts, self.weights)
        if self.contexts and self.user_guided:
            yield "judge.contexts: judge.user_guided=true judges by what users said; remove either"
        try:
            self._template()
        except InputError as error:
            yield from error.problems

    def _template(self) -> Template:
        return load_template(self.template, self.user_guided, bool(self.contexts))

    @property
    def labels(self) -> Sequence[str]:
        return LABELS

    @property
    def trivial(self) -> str:
        return self._template().trivial

    def judge_by(self, chooser: Chooser, model: str, clean: Clean) -> Judge:
        one = LLMJudge(chooser, self._template(), model, clean=clean)
        return InContexts(one, self.contexts, self.weights) if self.contexts else one

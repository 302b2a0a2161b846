"""A language model compares every two completions, in both orders."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import ClassVar

from rlhf.config.texts import location, text
from rlhf.judges.questions.asking import AskingConfig, weight_problems
from rlhf.judges.questions.choosing import Chooser, Clean
from rlhf.judges.questions.comparing import InContexts, LLMJudge
from rlhf.judges.questions.contexts import Contexts, NoContext
from rlhf.judges.questions.template import LABELS, Template, load_template
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Prompt
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
    context_column: str | None = text()
    """Of the data, that says for each prompt what to judge by: the name of a context, a text of its
    own, or weights of contexts by name."""

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
        if self._has_contexts and self.user_guided:
            key = "contexts" if self.contexts else "context_column"
            yield f"judge.{key}: judge.user_guided=true judges by what users said; remove either"
        if self.context_column and self.weights:
            yield (
                f"judge.context_column={self.context_column}: says how likely contexts are, and so "
                "do judge.weights; remove either"
            )
        try:
            self._template()
        except InputError as error:
            yield from error.problems

    def _template(self) -> Template:
        return load_template(self.template, self.user_guided, self._has_contexts)

    @property
    def _has_contexts(self) -> bool:
        return bool(self.contexts or self.context_column)

    @property
    def _contexts(self) -> Contexts:
        return Contexts(self.contexts, self.weights, self.context_column)

    @property
    def reads_rows(self) -> bool:
        return self.context_column is not None

    def inspect_prompts(self, prompts: Iterable[Prompt]) -> None:
        if self.context_column is None:
            return
        faults = []
        for prompt in prompts:
            try:
                self._contexts.of(prompt)
            except NoContext as error:
                faults.append(f"of the prompt {prompt.id} it {error}")
        if faults:
            key = f"judge.context_column={self.context_column}"
            more = f" (and of {len(faults) - 1} more it will not do)" if len(faults) > 1 else ""
            raise InputError([f"{key}: {faults[0]}{more}"])

    @property
    def labels(self) -> Sequence[str]:
        return LABELS

    @property
    def trivial(self) -> str:
        return self._template().trivial

    def judge_by(self, chooser: Chooser, model: str, clean: Clean) -> Judge:
        one = LLMJudge(chooser, self._template(), model, clean=clean)
        return InContexts(one, self._contexts) if self._has_contexts else one

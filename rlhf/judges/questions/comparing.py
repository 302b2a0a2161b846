"""A language model as a pairwise judge: which of two completions is better, asked in both orders.

P(i beats j) = ½ [P(first | i, j) + P(second | j, i)], so that a preference for whatever stands
first cancels, and is reported as `order_disagreement`. How the model is reached is a `Chooser`:
`rlhf.judges.questions.endpoint` over HTTP, `actors.llm_judge` by rollout workers.
"""

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import combinations, permutations
from statistics import fmean

from rlhf.judges.questions.choosing import Chooser, Clean
from rlhf.judges.questions.contexts import Contexts, NoContext
from rlhf.judges.questions.template import LABELS, Template
from rlhf.models.batching import unique
from rlhf.records import Comparison, Completion, Prompt, transcript


class LLMJudge:
    """Compares every two completions of a group; `rlhf.stages.Judge`."""

    def __init__(
        self,
        chooser: Chooser,
        template: Template,
        model: str,
        *,
        clean: Clean = str,
    ) -> None:
        self._chooser = chooser
        self._template = template
        self._name = f"llm/{model}@{template.version}"
        self._clean = clean

    async def judge(
        self, prompt: Prompt, completions: Sequence[Completion], context: str = ""
    ) -> Comparison:
        """All of the group's questions are asked at once; identical texts are ½ unasked.

        None for a pair if the model gave no answer in either of its orders, or if it is to judge
        by what the user wanted and the prompt does not say that: these are no ties.
        """
        texts, places = unique([completion.text for completion in completions])
        request = conversation(prompt)
        pairs = list(permutations(range(len(texts)), 2))
        wishes = prompt.answer if self._template.is_user_guided else ""
        asked = (
            self._prefers_first(request, texts[i], texts[j], wishes, context) for i, j in pairs
        )
        prefers_first = dict(zip(pairs, await asyncio.gather(*asked), strict=True))
        win_prob, disagreement = both_orders(prefers_first, len(texts))
        return Comparison(
            tuple(tuple(win_prob[i][j] for j in places) for i in places), self._name, disagreement
        )

    async def _prefers_first(
        self, request: str, first: str, second: str, wishes: str | None, context: str
    ) -> float | None:
        if wishes is None:
            return None
        texts = map(self._clean, (request, first, second, wishes, context))
        question = self._template.fill(*texts)
        answer = await self._chooser.choose(question, LABELS)
        return answer[0] if answer else None


class InContexts:
    """`rlhf.stages.Judge` by an LLM judge that is asked in several contexts z of the prompt x:
    P(i beats j) = Σ_z P(z | x) P(i beats j | x, z)."""

    def __init__(self, judge: LLMJudge, contexts: Contexts) -> None:
        self._judge = judge
        self._contexts = contexts
        asked = repr((dict(contexts.texts), dict(contexts.weights), contexts.column))
        self._version = sha256(asked.encode()).hexdigest()[:8]

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Comparison:
        """Its parts are the scores in each context that has a name; None for a pair that has no
        answer in one. Where contexts are the prompt's own, they are the reasons."""
        size = range(len(completions))
        matrix: list[list[float | None]] = [[0.5 if i == j else None for j in size] for i in size]
        try:
            here = self._contexts.of(prompt)
        except NoContext as error:
            why = f"{self._contexts.column} {error}"
            return Comparison(tuple(map(tuple, matrix)), self._version, reasons=(why,) * len(size))
        asked = (self._judge.judge(prompt, completions, text) for text in here.texts.values())
        found = await asyncio.gather(*asked)
        shares = here.shares()
        for i, j in combinations(size, 2):
            if (value := _mean([one.win_prob[i][j] for one in found], shares)) is not None:
                matrix[i][j], matrix[j][i] = value, 1 - value
        distances = [one.order_disagreement for one in found]
        known = [distance for distance in distances if distance is not None]
        named = zip(here.texts, found, strict=True)
        told = "; ".join(f"{share:.3g} {z}" for z, share in zip(here.texts, shares, strict=True))
        return Comparison(
            tuple(map(tuple, matrix)),
            f"{found[0].judge}+{self._version}",
            fmean(known) if known else None,
            {name: one.scores for name, one in named if name in self._contexts.texts},
            (f"judged by: {told}",) * len(completions) if self._contexts.column else (),
        )


def _mean(values: Sequence[float | None], shares: Sequence[float]) -> float | None:
    known = [share * v for share, v in zip(shares, values, strict=True) if v is not None]
    return sum(known) if len(known) == len(values) else None


def both_orders(
    prefers_first: Mapping[tuple[int, int], float | None], num_texts: int
) -> tuple[list[list[float | None]], float | None]:
    """The matrix of win probabilities, and how far the two orders are apart on average."""
    win_prob: list[list[float | None]] = [[None] * num_texts for _ in range(num_texts)]
    distances = []
    for i in range(num_texts):
        win_prob[i][i] = 0.5
    for i, j in combinations(range(num_texts), 2):
        shown_first, other_first = prefers_first[i, j], prefers_first[j, i]
        if shown_first is None or other_first is None:
            continue
        shown_second = 1 - other_first
        win_prob[i][j] = (shown_first + shown_second) / 2
        win_prob[j][i] = 1 - (shown_first + shown_second) / 2
        distances.append(abs(shown_first - shown_second))
    return win_prob, fmean(distances) if distances else None


def conversation(prompt: Prompt) -> str:
    """What was asked, as the judge reads it: with the turns before it, if there were any."""
    return transcript(prompt.messages)

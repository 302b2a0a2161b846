"""A language model as a pairwise judge: which of two completions is better, asked in both orders.

P(i beats j) = ½ [P(first | i, j) + P(second | j, i)], so that a preference for whatever stands
first cancels, and is reported as `order_disagreement`. How the model is reached is a `Chooser`:
`rlhf.judges.questions.endpoint` over HTTP, `actors.llm_judge` by rollout workers.
"""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from statistics import fmean

from rlhf.judges.questions.choosing import Chooser, Clean
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

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Comparison:
        """All of the group's questions are asked at once; identical texts are ½ unasked.

        None for a pair if the model gave no answer in either of its orders, or if it is to judge
        by what the user wanted and the prompt does not say that: these are no ties.
        """
        texts, places = unique([completion.text for completion in completions])
        request = conversation(prompt)
        pairs = list(permutations(range(len(texts)), 2))
        wishes = prompt.answer if self._template.is_user_guided else ""
        asked = (self._prefers_first(request, texts[i], texts[j], wishes) for i, j in pairs)
        prefers_first = dict(zip(pairs, await asyncio.gather(*asked), strict=True))
        win_prob, disagreement = _both_orders(prefers_first, len(texts))
        return Comparison(
            tuple(tuple(win_prob[i][j] for j in places) for i in places), self._name, disagreement
        )

    async def _prefers_first(
        self, request: str, first: str, second: str, wishes: str | None
    ) -> float | None:
        if wishes is None:
            return None
        filled = (self._clean(text) for text in (request, first, second, wishes))
        answer = await self._chooser.choose(self._template.fill(*filled), LABELS)
        return answer[0] if answer else None


def _both_orders(
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

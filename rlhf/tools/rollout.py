"""Completions that call tools on their way: what a tool wrote is part of them, and is marked."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from rlhf.config.tools import CallConfig
from rlhf.records import Completion, Prompt, Sampling
from rlhf.seeds import derive_seed
from rlhf.stages import Rollout
from rlhf.tools import Tool


@dataclass(frozen=True, slots=True)
class ToolRollout:
    """`rlhf.stages.Rollout` by another one, which stops where the policy has written a call.

    Xiong et al. 2024 (arXiv 2409.02392): a trajectory of actions and observations is one answer, of
    which the actions alone are trained on.
    """

    rollout: Rollout
    tool: Tool
    encode: Callable[[str], tuple[int, ...]]
    """A tool's words as tokens of the policy."""
    config: CallConfig

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seed: int
    ) -> tuple[Completion, ...]:
        if sampling.stop:
            raise ValueError("an answer with tools is not drawn in steps")
        first = replace(sampling, stop=(self.config.closes,))
        begun = await self.rollout.generate(prompt, first, seed)
        whole = (self._go_on(prompt, sampling, one, seed) for one in begun)
        return tuple(await asyncio.gather(*whole))

    async def _go_on(
        self, prompt: Prompt, sampling: Sampling, answer: Completion, seed: int
    ) -> Completion:
        """Until the policy ends its answer, or it has no room left."""
        num_calls = 0
        while answer.stopped:
            call = self._call(answer)
            if call is not None:
                if num_calls == self.config.max_calls:
                    break
                num_calls += 1
                answer = self._observed(answer, await self.tool.use(call))
            left = sampling.max_tokens - len(answer.token_ids)
            if left <= 0:
                break
            more = replace(sampling, num_completions=1, max_tokens=left, stop=(self.config.closes,))
            turn = derive_seed(seed, answer.sample, len(answer.token_ids))
            (rest,) = await self.rollout.generate(_begun(prompt, answer), more, turn)
            answer = _joined(answer, rest)
        if not answer.stopped:
            return answer
        # It called too often, or what the tool said fills it: the policy has not ended it.
        return _cut(replace(answer, stopped=False, truncated=True), sampling.max_tokens)

    def _call(self, answer: Completion) -> str | None:
        """What the tool is asked at the end of an answer; None if no call is open there."""
        before, closes, _ = answer.text.rpartition(self.config.closes)
        _, opens, call = before.rpartition(self.config.opens)
        return call if opens and closes and self.config.closes not in call else None

    def _observed(self, answer: Completion, result: str) -> Completion:
        config = self.config
        text = f"{config.reply_opens}{result}{config.reply_closes}"
        ids = self.encode(text)
        start = len(answer.token_ids)
        return replace(
            answer,
            token_ids=answer.token_ids + ids,
            logprobs=answer.logprobs + (0.0,) * len(ids),
            text=answer.text + text,
            observed=(*answer.observed, (start, start + len(ids))),
        )


def _begun(prompt: Prompt, answer: Completion) -> Prompt:
    return replace(
        prompt,
        token_ids=prompt.token_ids + answer.token_ids,
        prefix=answer.text,
        num_prefix_tokens=len(answer.token_ids),
    )


def _joined(answer: Completion, rest: Completion) -> Completion:
    return replace(
        answer,
        token_ids=answer.token_ids + rest.token_ids,
        logprobs=answer.logprobs + rest.logprobs,
        text=answer.text + rest.text,
        truncated=rest.truncated,
        stopped=rest.stopped,
    )


def _cut(answer: Completion, max_tokens: int) -> Completion:
    """No longer than an answer may be; of a result that was cut, the beginning stays observed."""
    observed = tuple(
        (start, min(end, max_tokens)) for start, end in answer.observed if start < max_tokens
    )
    return replace(
        answer,
        token_ids=answer.token_ids[:max_tokens],
        logprobs=answer.logprobs[:max_tokens],
        observed=observed,
    )

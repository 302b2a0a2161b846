"""Completions that call tools on their way: what a tool wrote is part of them, and is marked."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf.records import Completion, Prompt, Sampling
from rlhf.seeds import derive_seed
from rlhf.stages import Rollout
from rlhf.tools.syntax import CallConfig, ToolsConfig, parts
from rlhf.tools.tool import Tool, ToolFailed


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
    max_tokens: int
    """Of a whole answer, what the tool wrote included."""

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seed: int
    ) -> tuple[Completion, ...]:
        """Of a step, that is with `sampling.stop`, `max_tokens` counts the policy's own alone."""
        left = min(sampling.max_tokens, self._room(prompt, sampling))
        first = replace(sampling, max_tokens=left, stop=self._stops(prompt.prefix, sampling))
        begun = await self.rollout.generate(prompt, first, seed)
        whole = (self._go_on(prompt, sampling, one, seed) for one in begun)
        return tuple(await all_or_none(whole))

    async def _go_on(
        self, prompt: Prompt, sampling: Sampling, answer: Completion, seed: int
    ) -> Completion:
        """Until the policy ends its step or its answer, or it has no room left."""
        room, drawn = self._room(prompt, sampling), answer.text
        stop = self._stops(prompt.prefix, sampling)
        num_calls = sum(observed for _, observed in parts(prompt.prefix, self.config))
        while answer.stopped:
            call = self._call(prompt.prefix + answer.text, len(drawn))
            if call is not None:
                if num_calls >= self.config.max_calls:
                    break
                num_calls += 1
                try:
                    result = await self.tool.use(call)
                except ToolFailed as error:
                    failure = f"the tool {self.tool.name} failed: {error}"
                    return replace(answer, stopped=False, failure=failure)
                answer = answer.followed_by(self._observation(answer, result))
            left = room - len(answer.token_ids)
            if left > 0 and _ends_step(drawn, stop, sampling.stop):
                return answer
            left = min(left, sampling.max_tokens - answer.num_own_tokens)
            if left <= 0:
                break
            begun = _begun(prompt, answer)
            stop = self._stops(begun.prefix, sampling)
            more = replace(sampling, num_completions=1, max_tokens=left, stop=stop)
            turn = derive_seed(seed, answer.sample, len(answer.token_ids))
            (rest,) = await self.rollout.generate(begun, more, turn)
            answer, drawn = answer.followed_by(rest), rest.text
        if not answer.stopped:
            return answer
        # It called too often, or what the tool said fills it: the policy has not ended it.
        return replace(answer.between(0, room), stopped=False, truncated=True)

    def _room(self, prompt: Prompt, sampling: Sampling) -> int:
        """How many tokens may follow, what the tool writes included."""
        return self.max_tokens - prompt.num_prefix_tokens if sampling.stop else sampling.max_tokens

    def _stops(self, begun: str, sampling: Sampling) -> tuple[str, ...]:
        """What the engine stops at; a call that a step has cut in its last mark ends with the rest
        of that."""
        closes = self.config.closes
        _, opens, call = begun.rpartition(self.config.opens)
        is_open = opens and closes not in call
        rests = (closes[n:] for n in range(1, len(closes)) if call.endswith(closes[:n]))
        return (*sampling.stop, closes, *(rests if is_open else ()))

    def _call(self, text: str, num_new: int) -> str | None:
        """What the tool is asked if the last `num_new` characters have closed a call, else None.

        Nothing, if the policy has gone on in the token that closed it: the result has no place.
        """
        before, closes, after = text.rpartition(self.config.closes)
        _, opens, call = before.rpartition(self.config.opens)
        is_new = len(after) < num_new and not after.strip()
        return call if opens and closes and is_new and self.config.closes not in call else None

    def _observation(self, answer: Completion, result: str) -> Completion:
        text = f"{self.config.reply_opens}{result}{self.config.reply_closes}"
        ids = self.encode(text)
        return replace(
            answer,
            token_ids=ids,
            logprobs=(0.0,) * len(ids),
            text=text,
            observed=((0, len(ids)),),
        )


def _ends_step(drawn: str, asked: Sequence[str], stop: Sequence[str]) -> bool:
    """Whether what was drawn, and stopped at one of the texts `asked`, ends a step at `stop`.

    It has none of them where the engine left out its last token, which began the next step, too.
    """
    is_cut = not any(one in drawn for one in asked)
    return bool(stop) and (is_cut or any(one in drawn for one in stop))


def _begun(prompt: Prompt, answer: Completion) -> Prompt:
    return replace(
        prompt,
        token_ids=prompt.token_ids + answer.token_ids,
        prefix=prompt.prefix + answer.text,
        num_prefix_tokens=prompt.num_prefix_tokens + len(answer.token_ids),
    )


def with_tools(
    rollout: Rollout,
    config: ToolsConfig,
    encode: Callable[[str], tuple[int, ...]],
    max_tokens: int,
) -> Rollout:
    """`encode` makes a tool's words tokens of the policy; an answer has `max_tokens` at most.

    To be made once for a run: what may run at the same time is counted for each by itself.
    """
    if not isinstance(config, CallConfig):
        return rollout
    return ToolRollout(rollout, config.tool(), encode, config, max_tokens)


async def all_or_none(going_on: Iterable[Coroutine[Any, Any, Completion]]) -> list[Completion]:
    """What all of them come to; where one fails, the others are ended before that is told."""
    tasks = [asyncio.ensure_future(one) for one in going_on]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

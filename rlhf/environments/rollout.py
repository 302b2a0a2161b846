"""Answers of several turns: what the environment says between them is read, not trained on."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlhf.collecting.dispatch import RequestFailed
from rlhf.data.rendering import Renderer
from rlhf.environments.base import Environment, EnvironmentFailed, Episode
from rlhf.records import Completion, Prompt, Sampling
from rlhf.seeds import derive_seed
from rlhf.stages import Rollout
from rlhf.tools.rollout import all_or_none


@dataclass(frozen=True, slots=True)
class EnvironmentRollout:
    """`rlhf.stages.Rollout` by another one, of which each turn is a request of its own.

    What the policy has drawn stays as it was drawn, its end tokens included; between its turns
    stand the chat template's own words and the observation.
    """

    rollout: Rollout
    environment: Environment
    renderer: Renderer
    max_turns: int
    stop: tuple[str, ...]
    """Texts that end a turn, beside its end token."""
    takes_last: bool
    """An answer's reward is that of its last step, not the sum."""

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seed: int
    ) -> tuple[Completion, ...]:
        """`sampling.max_tokens` is of the whole answer, what the environment says included.

        Raises RequestFailed if an episode does not begin, or begins with other messages.
        """
        assert not sampling.stop, "a step of an answer has no turns"
        episodes = await self._begin(prompt, sampling.num_completions)
        try:
            first = replace(sampling, stop=self.stop)
            begun = await self.rollout.generate(prompt, first, seed)
            playing = (
                self._play(prompt, first, answer, episode, seed)
                for answer, episode in zip(begun, episodes, strict=True)
            )
            return tuple(await all_or_none(playing))
        finally:
            for episode in episodes:
                episode.close()

    async def _begin(self, prompt: Prompt, num: int) -> list[Episode]:
        begun: dict[int, Episode] = {}

        async def begin(place: int) -> None:
            begun[place] = await self.environment.begin(prompt)

        is_fit = False
        try:
            found = await asyncio.gather(*map(begin, range(num)), return_exceptions=True)
            for problem in found:
                if isinstance(problem, EnvironmentFailed):
                    raise RequestFailed(f"the environment's {problem}")
                if problem is not None:
                    raise problem
            is_fit = all(one.messages == prompt.messages for one in begun.values())
        finally:
            if not is_fit:
                for episode in begun.values():
                    episode.close()
        if not is_fit:
            raise RequestFailed("the environment's reset returned other messages than at first")
        return [begun[place] for place in range(num)]

    async def _play(
        self, prompt: Prompt, sampling: Sampling, answer: Completion, episode: Episode, seed: int
    ) -> Completion:
        """Until the episode is done, has failed, or has no room left."""
        rewards: list[float] = []
        said = answer.text
        for turn in range(self.max_turns):
            if turn:
                rest = await self._draw(prompt, sampling, answer, seed)
                answer, said = answer.followed_by(rest), rest.text
            # The engine left out a last token, which had more behind the text that it stopped at.
            while answer.stopped and not any(stop in said for stop in self.stop):
                rest = await self._draw(prompt, sampling, answer, seed)
                answer, said = answer.followed_by(rest), said + rest.text
            if answer.failure:  # of a tool
                return replace(answer, stopped=False)
            if answer.truncated:
                break
            try:
                step = await episode.step(said)
                heard = self._observation(answer, step.observation)
            except (EnvironmentFailed, ValueError) as error:  # the latter of the chat template
                return replace(answer, stopped=False, failure=str(error))
            rewards.append(step.reward)
            if step.done:
                return replace(answer, stopped=False, reward=self._reward(rewards))
            if turn + 1 < self.max_turns:
                answer = answer.followed_by(heard)
            if len(answer.token_ids) >= sampling.max_tokens:
                break
        cut = answer.between(0, sampling.max_tokens)
        return replace(cut, stopped=False, truncated=True, reward=self._reward(rewards))

    async def _draw(
        self, prompt: Prompt, sampling: Sampling, answer: Completion, seed: int
    ) -> Completion:
        """What the policy says next."""
        begun = replace(
            prompt,
            token_ids=prompt.token_ids + answer.token_ids,
            prefix=prompt.prefix + answer.text,
            num_prefix_tokens=prompt.num_prefix_tokens + len(answer.token_ids),
        )
        left = sampling.max_tokens - len(answer.token_ids)
        more = replace(sampling, num_completions=1, max_tokens=left)
        turn = derive_seed(seed, answer.sample, len(answer.token_ids))
        (rest,) = await self.rollout.generate(begun, more, turn)
        return rest

    def _observation(self, answer: Completion, text: str) -> Completion:
        """In a message of its own, unless the policy has not ended its own."""
        if answer.stopped:
            ids, shown = self.renderer.text_ids(text), text
        else:
            ids, shown = self.renderer.observation(text)
        return replace(
            answer,
            token_ids=ids,
            logprobs=(0.0,) * len(ids),
            text=shown,
            observed=((0, len(ids)),) if ids else (),
        )

    def _reward(self, rewards: Sequence[float]) -> float:
        return sum(rewards[-1:] if self.takes_last else rewards, 0.0)

"""A round of prompts: in order, bounded, with deadlines, and each failing alone."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from rlhf.collecting.collector import (
    JudgeFailed,
    OneRound,
    PromptsFailed,
    RoundCollector,
    WarmStarted,
)
from rlhf.collecting.dispatch import RequestFailed
from rlhf.config.run import RoundConfig
from rlhf.records import Asked, Collected, Judgement, Message, Prompt
from rlhf.stages import Outcome


def prompts(ids: str) -> list[Prompt]:
    return [Prompt(id, (Message("user", "?"),), (1,)) for id in ids]


class Fake:
    """An algorithm whose prompts each behave as told, by id; and the schedule of its rounds."""

    def __init__(self, ids: str, **behaviour: Callable[[], Awaitable[None]]) -> None:
        self.seeds: dict[str, int] = {}
        self.finished: list[str] = []
        self.now = self.peak = 0
        self.unjudged = ""
        self.unasked = ""
        self.progress = -1.0
        self._prompts = prompts(ids)
        self._behaviour = behaviour

    async def round(self, index: int) -> list[Prompt]:
        return self._prompts

    async def collect(self, asked: Asked) -> Collected:
        prompt, self.seeds[asked.prompt.id] = asked.prompt, asked.seed
        self.progress = asked.progress
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            await self._behaviour.get(prompt.id, at_once)()
            self.finished.append(prompt.id)
        finally:
            self.now -= 1
        score = None if prompt.id in self.unjudged else 1.0
        verdict = None if prompt.id in self.unasked else Judgement((score,), "fake@1")
        return Collected(prompt, (), verdict, (), ())


async def at_once() -> None:
    await asyncio.sleep(0)


async def never() -> None:
    await asyncio.Event().wait()


async def refused() -> None:
    raise RequestFailed("too long")


async def collect(fake: Fake, round: int = 0, seed: int = 1, **limits) -> str:
    """The ids of the prompts that something came of, sorted."""
    collector = RoundCollector(fake, fake, RoundConfig(**limits), {"": 0.25}, seed, 8)
    async with asyncio.timeout(5):
        return "".join(sorted(one.prompt.id for one in await collector.collect(round)))


async def test_what_comes_back_is_in_the_order_of_the_seeds_and_told_as_soon_as_it_can_be():
    plain = Fake("abcdef")
    await collect(plain, concurrency=1)
    order = sorted("abcdef", key=lambda id: plain.seeds[id])
    assert plain.finished == order
    heard: dict[int, str | None] = {}
    last_has_run = asyncio.Event()

    async def last() -> None:
        await asyncio.sleep(0.02)
        # The first one failed, and the fifth waits for this one.
        assert heard == {0: None} | {place: order[place] for place in (1, 2, 3)}
        last_has_run.set()

    behaviour = {order[0]: refused, order[4]: last_has_run.wait, order[5]: last}
    fake = Fake("fabdec", **behaviour)
    collector = RoundCollector(fake, fake, RoundConfig(max_failed=1), {"": 0.0}, 1, 8)

    def tell(outcome: Outcome) -> None:
        place, one = outcome
        assert place not in heard
        heard[place] = one and one.prompt.id

    async with asyncio.timeout(5):
        found = await collector.collect(0, tell)
    assert list(heard)[-2:] == [5, 4]
    assert [one.prompt.id for one in found] == order[1:] == [heard[i] for i in range(1, 6)]


async def test_an_algorithm_knows_how_far_the_run_is():
    fake = Fake("a")
    for round, share in ((0, 0.0), (2, 0.25), (7, 0.875)):
        await collect(fake, round)
        assert fake.progress == share


async def test_a_judge_that_fails_too_often_ends_the_round():
    fake = Fake("abcdefgh")
    fake.unjudged = "ab"
    assert await collect(fake) == "abcdefgh"
    fake.unjudged = "abc"
    with pytest.raises(JudgeFailed, match=r"fake@1 failed on 3 of 8 and judge.max_failure_rate="):
        await collect(fake)


async def test_a_member_that_fails_too_often_ends_the_round_though_all_have_scores():
    """Of two pairs each, it failed on one of `a` and none of `b`: on a quarter."""
    collected = [
        Collected(p, (), Judgement((1.0,), "panel", member_failures={"pair": failed}), (), ())
        for p, failed in zip(prompts("ab"), [(True, False), (False, False)], strict=True)
    ]

    class Given(Fake):
        async def collect(self, asked: Asked) -> Collected:
            return next(one for one in collected if one.prompt is asked.prompt)

    fake = Given("ab")
    fake._prompts = [one.prompt for one in collected]
    limits = {"": 0.0, "pair": 0.25}
    made = RoundCollector(fake, fake, RoundConfig(), limits, 1, 8)
    assert sorted(await made.collect(0), key=lambda one: one.prompt.id) == collected
    limits["pair"] = 0.2
    told = r"pair failed on 1 of 4 and judge.members.pair.max_failure_rate=0.2"
    with pytest.raises(JudgeFailed, match=told):
        await made.collect(0)


async def test_where_no_judge_was_asked_none_has_failed():
    fake = Fake("abcd")
    fake.unasked, fake.unjudged = "abcd", "abcd"
    assert await collect(fake) == "abcd"
    # Of one that was asked, and failed, all have failed.
    fake.unasked = "abc"
    with pytest.raises(JudgeFailed, match="failed on 1 of 1"):
        await collect(fake)


async def test_the_first_round_is_one_s_and_all_others_another_s():
    """Each with its own prompts, those of the first the same however often it is asked."""
    warm, rest = Fake("ab"), Fake("cd")
    alike = OneRound(prompts("ba"))
    collectors = (
        RoundCollector(warm, alike, RoundConfig(), {"": 0.0}, 1, 8),
        RoundCollector(rest, rest, RoundConfig(), {"": 0.0}, 1, 8),
    )
    both = WarmStarted(*collectors)
    drawn = [[one.prompt.id for one in await both.collect(n)] for n in (0, 1, 2, 0)]
    assert list(map(sorted, drawn)) == [["a", "b"], ["c", "d"], ["c", "d"], ["a", "b"]]
    assert drawn[0] == drawn[3]
    assert (warm.finished, rest.finished) == (drawn[0] * 2, drawn[1] + drawn[2])
    assert await alike.round(0) == await alike.round(7) == prompts("ba")
    (await alike.round(0)).clear()
    assert len(await alike.round(0)) == 2


async def test_prompts_that_fail_fail_alone_as_long_as_they_are_few():
    assert await collect(Fake("abcd", b=refused, d=refused), max_failed=2) == "ac"


async def test_too_many_failures_end_the_round_and_are_named_with_their_reasons():
    fake = Fake("abcd", a=never, b=refused, d=refused)
    with pytest.raises(ExceptionGroup) as caught:
        await collect(fake, round=3, max_failed=1)
    (error,) = caught.value.exceptions
    assert isinstance(error, PromptsFailed)
    assert str(error) == (
        "round 3: 2 prompts failed and round.max_failed=1: d: too long; b: too long"
    )
    assert fake.now == 0  # what was under way is cancelled


async def test_a_deadline_counts_as_a_failure():
    fake = Fake("abc", b=never)
    assert await collect(fake, deadline_s=0.02, max_failed=1) == "ac"
    with pytest.raises(ExceptionGroup) as caught:
        await collect(fake, deadline_s=0.02)
    assert "1 prompts failed" in str(caught.value.exceptions[0])
    assert "b: not done within 0.02 s" in str(caught.value.exceptions[0])


async def test_a_deadline_of_somebody_else_s_is_told_in_its_own_words():
    async def late() -> None:
        raise TimeoutError("the tool's server has not answered")

    with pytest.raises(ExceptionGroup) as caught:
        await collect(Fake("abc", b=late), deadline_s=60)
    told = "b: TimeoutError: the tool's server has not answered"
    assert told in str(caught.value.exceptions[0])


async def test_a_prompt_s_time_runs_from_its_own_turn():
    """One after another they take longer than the deadline of each."""
    fake = Fake("abcdefgh", **dict.fromkeys("abcdefgh", partial(asyncio.sleep, 0.03)))
    assert await collect(fake, concurrency=1, deadline_s=0.2) == "abcdefgh"


async def test_an_unforeseen_error_ends_the_round_whatever_may_fail():
    async def broken() -> None:
        raise ValueError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        await collect(Fake("ab", a=never, b=broken), max_failed=2)
    assert [str(error) for error in caught.value.exceptions] == ["a bug"]


@pytest.mark.parametrize("concurrency, peak", [(1, 1), (3, 3), (8, 8), (100, 8)])
async def test_no_more_prompts_at_once_than_allowed_and_no_fewer(concurrency, peak):
    fake = Fake("abcdefgh")
    assert await collect(fake, concurrency=concurrency) == "abcdefgh"
    assert fake.peak == peak


async def test_seeds_differ_by_prompt_round_and_run_and_are_the_same_again():
    async def seeds(round: int, seed: int, concurrency: int) -> list[int]:
        fake = Fake("abc")
        await collect(fake, round, seed, concurrency=concurrency)
        return [fake.seeds[id] for id in "abc"]

    drawn = [await seeds(round, seed, 3) for seed in (1, 2) for round in (0, 1)]
    assert len({seed for group in drawn for seed in group}) == 12
    assert await seeds(0, 1, 1) == drawn[0]


async def test_a_prompt_s_seed_does_not_depend_on_its_neighbours():
    alone, together = Fake("b"), Fake("abc")
    await collect(alone)
    await collect(together)
    assert alone.seeds["b"] == together.seeds["b"]

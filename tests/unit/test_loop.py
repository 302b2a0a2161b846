"""Rounds in order: what waits for what, how far collecting runs ahead, and how a run ends."""

import asyncio
import gc
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.collecting.dispatch import WorkerDied
from rlhf.launching.stopping import StopRequest
from rlhf.learning.anchors import Anchors
from rlhf.learning.portions import Portions
from rlhf.loop import Run, due, train
from rlhf.problems import PolicyBroken, PolicyLost, Stopped
from rlhf.progress import kept, noted
from rlhf.records import (
    Collected,
    Completion,
    Judgement,
    Message,
    Preference,
    PreferenceBatch,
    Prompt,
    SidePair,
    Tokens,
)
from rlhf.stages import Outcome, Tell, nobody

LONG_S = 60.0
"""Nothing takes as long, however busy the machine is."""


@pytest.fixture(scope="module", autouse=True)
def what_other_tests_left_is_not_looked_through():
    """By the loop, which looks for garbage after each round."""
    gc.freeze()


def collected(number: int, *pairs: tuple[int, int], version: int = 0) -> Collected:
    """What came of prompt `number`: preferences between completions of one token each."""
    prompt = Prompt(f"p{number}", (Message("user", "?"),), (number,))
    by_token = {
        token: Completion(prompt.id, i, (token,), (-1.0,), str(token), False, version)
        for i, token in enumerate(sorted({token for pair in pairs for token in pair}))
    }
    return Collected(
        prompt,
        tuple(by_token.values()),
        Judgement((1.0,) * len(by_token), "fake@1"),
        tuple(
            Preference.over(prompt, by_token[a], by_token[b], 1.0, 0.0, "fake@1") for a, b in pairs
        ),
        (),
    )


STAGES = ["collector", "policy", "publisher", "evaluation", "checkpoints", "store", "tracker"]


class World:
    """Every stage at once: notes what happens, in one list."""

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self.events: list[str] = []
        self.metrics: list[dict] = []
        self.cancelled: list[str] = []
        self.raises: dict[str, Exception] = {}
        self.waits: dict[str, asyncio.Event] = {}
        self.tells: dict[str, asyncio.Event] = {}
        self.stop = StopRequest(self.events.append)

    async def happens(self, event: str) -> None:
        self.events.append(event)
        if event in self.tells:
            self.tells[event].set()
        try:
            await asyncio.sleep(0)
            if event in self.waits:
                await self.waits[event].wait()
        except asyncio.CancelledError:
            self.cancelled.append(event)
            raise
        if event in self.raises:
            raise self.raises[event]

    async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
        version = self.version
        await self.happens(f"collect {round} with version {version}")
        return [collected(round, (1, 2), version=version)]

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        await self.happens(f"anchor {sequences[0].prompt[0]}")
        return [0.0] * len(sequences)

    async def update(self, batch: PreferenceBatch) -> dict[str, float]:
        assert [one.prompt.id for one in batch.preferences] == [f"p{batch.round}"]
        await self.happens(f"update {batch.round}")
        return {"policy/loss": 0.5}

    async def publish(self, version: int) -> dict[str, float]:
        await self.happens(f"publish {version}")
        self.version = version
        return {"weights/version": version}

    async def evaluate(self) -> dict[str, float]:
        await self.happens(f"evaluate version {self.version}")
        return {"score_mean": 1.0}

    async def save(self, num_rounds: int) -> Path:
        await self.happens(f"save {num_rounds}")
        return Path()

    async def remember(self, num_rounds: int) -> None:
        await self.happens(f"remember {num_rounds}")

    def prepare(self, round: int, collected: Sequence[Collected]) -> Callable[[], None]:
        assert [one.prompt.id for one in collected] == [f"p{round}"]
        return partial(self.events.append, f"write {round}")

    def show(self, round: int, collected: Sequence[Collected]) -> None:
        self.events.append(f"show {round}")

    def log(self, round: int, metrics: dict) -> None:
        self.events.append(f"log {round}")
        self.metrics.append(dict(metrics))

    def log_eval(self, num_rounds: int, metrics: dict) -> None:
        self.events.append(f"log_eval {num_rounds}")

    async def train(self, num_rounds: int, first_round: int = 0, **changes: int) -> None:
        often = {"max_staleness": 0, "evaluate_every": 0, "checkpoint_every": 0} | changes
        stages = dict.fromkeys(STAGES, self)
        stages["portions"] = Portions(Anchors({"previous": self}), self, portion_tokens=7)
        stages["stop"] = self.stop
        run = Run(**stages, first_round=first_round, num_rounds=num_rounds, **often)
        async with asyncio.timeout(LONG_S):
            await train(run)

    def those(self, *kinds: str) -> list[str]:
        return [event for event in self.events if event.split()[0] in kinds]


def causes(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in causes(inner)]
    return [error]


# --- rounds -------------------------------------------------------------------------------------


async def test_a_round_collects_compares_updates_publishes_and_then_the_next():
    world = World()
    await world.train(2, evaluate_every=1, checkpoint_every=2)
    assert world.events == [
        "collect 0 with version 0",
        "anchor 0",
        "update 0",
        "show 0",
        "write 0",
        "publish 1",
        "evaluate version 1",
        "log_eval 1",
        "log 0",
        "remember 1",  # before the policy is asked anything of the next round
        "collect 1 with version 1",
        "anchor 1",
        "update 1",
        "show 1",
        "write 1",
        "publish 2",
        "evaluate version 2",
        "log_eval 2",
        "log 1",
        "save 2",
    ]


async def test_one_round_of_staleness_collects_one_round_ahead():
    world = World()
    await world.train(4, max_staleness=1)
    assert world.those("collect", "publish") == [
        "collect 0 with version 0",
        "collect 1 with version 0",
        "publish 1",
        "collect 2 with version 1",
        "publish 2",
        "collect 3 with version 2",
        "publish 3",
        "publish 4",
    ]


@settings(max_examples=50)
@given(st.integers(0, 3), st.integers(0, 5), st.integers(0, 6))
def test_collecting_is_as_far_ahead_as_allowed_and_never_more(staleness, first_round, num_more):
    world = World(version=first_round)
    num_rounds = first_round + num_more
    asyncio.run(world.train(num_rounds, first_round, max_staleness=staleness))
    assert world.those("collect") == [
        f"collect {round} with version {max(first_round, round - staleness)}"
        for round in range(first_round, num_rounds)
    ]
    assert world.those("update") == [f"update {r}" for r in range(first_round, num_rounds)]
    assert world.those("publish") == [f"publish {r + 1}" for r in range(first_round, num_rounds)]


async def test_the_next_round_is_collected_while_the_policy_trains():
    class Finishing(World):
        async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
            found = await super().collect(round)
            if round == 1:
                self.waits["update 0"].set()  # else the update waits until the test's deadline
            return found

    world = Finishing()
    world.waits["update 0"] = asyncio.Event()
    await world.train(2, max_staleness=1)
    assert world.those("publish") == ["publish 1", "publish 2"]


async def test_a_resumed_run_goes_on_where_it_was():
    world = World(version=7)
    await world.train(9, first_round=7, checkpoint_every=4)
    assert world.those("collect", "publish", "save") == [
        "collect 7 with version 7",
        "publish 8",
        "save 8",
        "collect 8 with version 8",
        "publish 9",
        "save 9",
    ]


async def test_a_run_that_is_done_does_nothing():
    world = World(version=9)
    await world.train(9, first_round=9, evaluate_every=1, checkpoint_every=1)
    assert world.events == []


async def test_a_round_s_line_has_every_stage_s_numbers():
    world = World()
    await world.train(2, max_staleness=1, evaluate_every=2)
    first, second = world.metrics
    assert first["policy/loss"] == 0.5 and first["weights/version"] == 1
    assert (first["staleness/mean"], second["staleness/mean"]) == (0, 1)
    assert first["preference/count"] == 1
    stages = {"collect", "anchor", "update", "publish", "round"}
    assert {name for name in first if name.startswith("time/")} == {f"time/{s}_s" for s in stages}
    assert "time/evaluate_s" in second


# --- what is due --------------------------------------------------------------------------------


async def test_evaluations_and_checkpoints_when_due_and_after_the_last_round():
    world = World()
    await world.train(5, evaluate_every=2, checkpoint_every=3)
    assert world.those("log_eval") == ["log_eval 2", "log_eval 4", "log_eval 5"]
    assert world.those("save") == ["save 3", "save 5"]


@pytest.mark.parametrize(
    "every, rounds", [(0, [7]), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (7, [7]), (50, [7])]
)
def test_due_every_so_many_rounds_and_after_the_last(every, rounds):
    assert [done for done in range(1, 8) if due(done, every, 7)] == rounds


# --- how it ends --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event", ["collect 1 with version 1", "anchor 1", "update 1", "publish 2", "save 2"]
)
async def test_an_error_ends_the_run_where_it_happens(event):
    world = World()
    world.raises[event] = ValueError("broken")
    with pytest.raises(ExceptionGroup) as caught:
        await world.train(5, checkpoint_every=1)
    assert causes(caught.value) == [world.raises[event]]
    assert world.events[-1] == event  # nothing is published, written or saved after it


@pytest.mark.parametrize("event", ["update 1", "publish 2", "anchor 1"])
async def test_an_error_cancels_what_is_collected_ahead(event):
    world = World()
    world.waits["collect 2 with version 1"] = asyncio.Event()
    world.raises[event] = ValueError("broken")
    with pytest.raises(ExceptionGroup) as caught:
        await world.train(5, max_staleness=1)
    assert causes(caught.value) == [world.raises[event]]
    assert world.cancelled == ["collect 2 with version 1"]


@pytest.mark.parametrize(
    "event, saved",
    [("collect 1 with version 1", [1]), ("anchor 1", [1]), ("update 1", []), ("publish 2", [2])],
)
async def test_a_lost_worker_leaves_the_rounds_that_were_done(event, saved):
    world = World()
    world.raises[event] = WorkerDied("judge-0 on node ab: killed")
    with pytest.raises(ExceptionGroup) as caught:
        await world.train(5)
    assert causes(caught.value) == [world.raises[event]]
    assert world.those("save") == [f"save {done}" for done in saved]
    rounds = range(saved[0] if saved else 1)
    assert world.those("write") == [f"write {round}" for round in rounds]
    logged = [one for one in world.those("log") if "eval" not in one]
    assert logged == [f"log {round}" for round in rounds], "each once, the last one too"


async def test_a_lost_policy_is_told_although_it_cannot_be_saved():
    world = World()
    lost = world.raises["anchor 1"] = WorkerDied("policy-0 on node ab: killed")
    world.raises["save 1"] = WorkerDied("policy-0 on node ab: is no more")
    with pytest.raises(ExceptionGroup) as caught:
        await world.train(5)
    assert causes(caught.value) == [lost]


@pytest.mark.parametrize("error", [PolicyBroken("not finite"), PolicyLost("policy-1 was killed")])
async def test_a_policy_that_is_broken_or_lost_is_not_kept(error):
    world = World()
    world.raises["publish 2"] = error
    with pytest.raises(ExceptionGroup):
        await world.train(5)
    assert world.those("save") == []


@pytest.mark.parametrize("error", [PolicyBroken("not finite"), PolicyLost("policy-1 was killed")])
async def test_nor_is_it_where_something_else_has_failed_too(error):
    world = World()
    with pytest.raises(ExceptionGroup):
        async with kept(world, 0, 5):
            raise ExceptionGroup("", [error, WorkerDied("judge-0 on node ab: killed")])
    assert world.those("save") == []


async def test_an_error_of_what_is_collected_ahead_does_not_wait_for_the_update():
    world = World()
    world.waits["update 0"] = asyncio.Event()
    world.waits["collect 1 with version 0"] = world.tells["update 0"] = asyncio.Event()
    world.raises["collect 1 with version 0"] = ValueError("broken")
    with pytest.raises(ExceptionGroup) as caught:
        await world.train(5, max_staleness=1)
    assert causes(caught.value) == [world.raises["collect 1 with version 0"]]
    assert world.cancelled == ["update 0"]


async def test_a_run_that_is_stopped_stops_everything():
    world = World()
    world.waits["update 0"] = asyncio.Event()
    world.waits["collect 1 with version 0"] = asyncio.Event()
    updating = world.tells["update 0"] = asyncio.Event()
    running = asyncio.create_task(world.train(5, max_staleness=1))
    await asyncio.wait_for(updating.wait(), LONG_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(world.cancelled) == ["collect 1 with version 0", "update 0"]


# --- while a round is collected -----------------------------------------------------------------


class InPortions(World):
    """Two prompts a round, of which one is heard of before the other is there."""

    async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
        found = [collected(10 * round, (1, 2)), collected(10 * round + 1, (3, 4), (4, 5))]
        tell(Outcome(0, found[0]))
        tell(Outcome(1, found[1]))  # a portion is known to be whole when more has come than fits it
        await self.happens(f"collect {round} with version {self.version}")
        return found

    async def accumulate(self, portion: PreferenceBatch) -> None:
        assert [one.prompt.token_ids[0] for one in portion.preferences] == [10 * portion.round]
        await self.happens(f"accumulate {portion.round}")

    async def update(self, batch: PreferenceBatch) -> dict[str, float]:
        assert len(batch.preferences) == 2
        await self.happens(f"update {batch.round}")
        return {}

    def prepare(self, round: int, collected: Sequence[Collected]) -> Callable[[], None]:
        assert len(collected) == 2
        return lambda: None


async def test_the_gradient_is_begun_while_the_round_is_collected():
    class Waiting(InPortions):
        async def accumulate(self, portion: PreferenceBatch) -> None:
            await super().accumulate(portion)
            # Else the round would be collected for ever, and the test meet its deadline.
            self.waits[f"collect {portion.round} with version {self.version}"].set()

    world = Waiting()
    for round in range(2):
        world.waits[f"collect {round} with version {round}"] = asyncio.Event()
    await world.train(2)
    assert world.those("accumulate", "update", "publish") == [
        "accumulate 0", "update 0", "publish 1", "accumulate 1", "update 1", "publish 2",
    ]  # fmt: skip


async def test_of_rounds_that_are_ahead_no_gradient_is_begun_before_their_turn():
    world = InPortions()
    await world.train(3, max_staleness=2)
    assert world.those("accumulate", "update") == [
        "accumulate 0", "update 0", "accumulate 1", "update 1", "accumulate 2", "update 2",
    ]  # fmt: skip


async def test_a_stop_in_the_middle_of_a_round_leaves_what_was_begun_of_it():
    world = InPortions()
    world.waits["collect 1 with version 1"] = asyncio.Event()
    assert await stopped(world, "accumulate 1") == "after 1 of 5 rounds"
    assert world.those("accumulate", "update", "save") == [
        "accumulate 0", "update 0", "accumulate 1", "save 1",
    ]  # fmt: skip
    assert "collect 1 with version 1" in world.cancelled


@pytest.mark.parametrize("error, saved", [(PolicyLost("a rank"), 0), (WorkerDied("judge-0"), 1)])
async def test_what_ends_while_a_gradient_is_begun_ends_the_round(error, saved):
    world = InPortions()
    world.waits["collect 1 with version 1"] = asyncio.Event()
    world.raises["accumulate 1"] = error
    with pytest.raises(ExceptionGroup) as caught:
        await world.train(5)
    assert causes(caught.value) == [error]
    assert world.cancelled == ["collect 1 with version 1"]
    assert world.those("save") == ["save 1"] * saved


# --- how it is stopped --------------------------------------------------------------------------


async def stopped(world: World, during: str, **changes: int) -> str:
    """Trains, and asks it to stop while that happens; what is collected then never ends."""
    reached = world.tells[during] = asyncio.Event()
    if during.startswith("collect"):
        world.waits[during] = asyncio.Event()
    training = asyncio.create_task(world.train(5, **changes))
    await asyncio.wait_for(reached.wait(), LONG_S)
    world.stop.ask()
    with pytest.raises(Stopped) as caught:
        await training
    return str(caught.value)


async def test_a_stop_while_a_round_is_collected_keeps_the_rounds_before_it():
    world = World()
    assert await stopped(world, "collect 2 with version 2") == "after 2 of 5 rounds"
    assert world.those("save", "update") == ["update 0", "update 1", "save 2"]
    assert world.cancelled == ["collect 2 with version 2"]


@pytest.mark.parametrize("during", ["anchor 1", "update 1", "publish 2"])
async def test_a_stop_while_the_policy_is_changed_waits_for_the_round_s_end(during):
    world = World()
    assert await stopped(world, during) == "after 2 of 5 rounds"
    assert world.those("publish", "log", "save") == [
        "publish 1",
        "log 0",
        "publish 2",
        "log 1",
        "save 2",
    ]


async def test_a_stop_ends_what_is_collected_ahead():
    world = World()
    world.waits["collect 2 with version 1"] = asyncio.Event()
    await stopped(world, "update 1", max_staleness=1)
    assert world.cancelled == ["collect 2 with version 1"]
    assert world.those("save") == ["save 2"]


async def test_a_rollout_that_dies_while_the_stop_s_checkpoint_is_saved_does_not_end_the_save():
    class Dying(World):
        async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
            if round == 1:
                self.tells["collect 1 with version 1"].set()
                await asyncio.sleep(0.02)
                raise ValueError("rollout died")
            return await super().collect(round)

        async def save(self, num_rounds: int) -> Path:
            await asyncio.sleep(0.1)
            return await super().save(num_rounds)

    world = Dying()
    assert await stopped(world, "collect 1 with version 1") == "after 1 of 5 rounds"
    assert world.those("save") == ["save 1"]


async def test_who_is_cancelled_while_a_round_is_written_waits_for_the_file():
    begins, goes_on, ends = threading.Event(), threading.Event(), []

    class Slow:
        def prepare(self, round: int, collected: Sequence[Collected]) -> Callable[[], None]:
            begins.set()
            goes_on.wait(LONG_S)
            ends.append(round)
            return lambda: None

    writing = asyncio.create_task(noted(Slow(), World(), 3, [collected(3, (1, 2))]))
    await asyncio.to_thread(begins.wait, LONG_S)
    writing.cancel()
    await asyncio.sleep(0.01)
    assert not writing.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert ends == [3]


async def test_a_stop_in_the_last_round_comes_too_late():
    world = World()
    last = world.tells["update 1"] = asyncio.Event()
    training = asyncio.create_task(world.train(2))
    await asyncio.wait_for(last.wait(), LONG_S)
    world.stop.ask()
    await training
    assert world.those("publish", "save") == ["publish 1", "publish 2", "save 2"]


# --- anchors ------------------------------------------------------------------------------------


class Telling:
    """Answers with the tokens that it was asked about, as one number."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        return [self.sign * float(10 * p + c) for (p,), (c,), *_ in sequences]


async def test_every_preference_gets_its_own_values_for_either_side():
    ours = [collected(3, (1, 2), (1, 5), (2, 5)), collected(4), collected(6, (5, 1))]
    anchors = Anchors({"initial": Telling(1), "previous": Telling(-1)})
    batch = await anchors.attach(9, [anchors.read(one) for one in ours])
    assert (batch.round, [p.prompt.id for p in batch.preferences]) == (9, ["p3", "p3", "p3", "p6"])
    initial = [(31, 32), (31, 35), (32, 35), (65, 61)]
    assert batch.anchors == {
        "initial": [SidePair(a, b) for a, b in initial],
        "previous": [SidePair(-a, -b) for a, b in initial],
    }


@pytest.mark.parametrize("sources, anchors", [({}, {}), ({"a": Telling(1)}, {"a": []})])
async def test_a_round_without_preferences_has_a_batch_without_any(sources, anchors):
    empty = Anchors(sources).read(collected(1))
    batch = await Anchors(sources).attach(0, [empty])
    assert (batch.preferences, batch.anchors) == ([], anchors)

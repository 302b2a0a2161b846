"""Pruning, against answers and endings that are scripted."""

import json
from dataclasses import replace

import pytest

from rlhf.algorithms.base import Services
from rlhf.algorithms.prune import PruneConfig
from rlhf.collecting.curators.strength import StrengthConfig
from rlhf.collecting.truncated import Truncated
from rlhf.records import Asked, Completion, DropReason, Judgement, Message, Prompt, Sampling
from rlhf.storage.store import preference_rows

PROMPT = Prompt("1", (Message("user", "23+28="),), (1, 2, 3), answer="51")
WHOLE = {"": "20+31\n", "20+31\n": "19+32\n", "20+31\n19+32\n": "51"}


def said(text: str, truncated: bool = False) -> Completion:
    """A token per character."""
    ids = tuple(map(ord, text))
    stopped = text.endswith("\n")
    return Completion("1", 0, ids, (-0.5,) * len(ids), text, truncated, 0, stopped=stopped)


class Scripted:
    """`rlhf.stages.Rollout`: steps and endings by how the answer begins."""

    def __init__(self, steps: dict[str, str], endings: dict[str, list[str]]) -> None:
        self.steps, self.endings = steps, endings
        self.asked: list[tuple[str, Sampling, int]] = []

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        self.asked.append((prompt.prefix, sampling, seed))
        is_step = bool(sampling.stop)
        found = [self.steps[prompt.prefix]] if is_step else self.endings[prompt.prefix]
        cut = [(text[: sampling.max_tokens], len(text) > sampling.max_tokens) for text in found]
        drawn = (said(*one) for one in cut[: sampling.num_completions])
        return tuple(replace(one, sample=i) for i, one in enumerate(drawn))


class Last:
    """`rlhf.stages.Judge`: right if the text ends with the answer, unknown if it asks."""

    async def judge(self, prompt: Prompt, completions) -> Judgement:
        texts = [c.text for c in completions]
        scores = (None if "?" in text else float(text.endswith("51")) for text in texts)
        parts = {"length": tuple(float(len(text)) for text in texts)}
        failures = {"length": (False,) * len(texts)}
        return Judgement(tuple(scores), "last@1", parts, tuple(texts), failures)


async def collected(endings: dict[str, list[str]], steps=WHOLE, max_tokens=50, **settings):
    config = PruneConfig(**{"num_completions": 1, "num_lookaheads": 2} | settings)
    rollout = Scripted(steps, endings)
    sampling = Sampling(config.num_completions, max_tokens)
    offered = Services(rollout, Last(), sampling, {}, False, None, lambda see: None)  # type: ignore
    return await config.make(offered).collect(Asked(PROMPT, 7)), rollout


async def test_the_shortest_right_ending_wins_over_the_whole_answer():
    endings = {"20+31\n": ["50", "is 51"], "20+31\n19+32\n": ["51", "that is 51"]}
    found, rollout = await collected(endings)
    (pair,) = found.preferences
    assert (pair.chosen.text, pair.rejected.text) == (
        "20+31\nis 51",
        "20+31\n19+32\n51",
    )
    assert (pair.chosen.score, pair.rejected.score, pair.weight) == (1.0, 1.0, 1.0)
    assert pair.chosen.completion.token_ids == tuple(map(ord, pair.chosen.text))
    assert [c.text for c in found.completions] == [pair.rejected.text]
    assert found.judgement.scores == (1.0,) and not found.dropped
    assert {pair.chosen.completion.sample, pair.rejected.completion.sample} == {0, 1}
    # What the judge said of either side stands with the pair, and of answers with the round.
    row, *_ = preference_rows(0, found)
    for side, text in (("chosen", pair.chosen.text), ("rejected", pair.rejected.text)):
        told = {"length": float(len(text))}
        assert (json.loads(row[f"{side}_parts"]), row[f"{side}_reason"]) == (told, text)
    assert found.judgement.parts == {"length": (14.0,)}
    assert found.judgement.member_failures == {"length": (False,) * 5}
    (lead,) = StrengthConfig().leads(found, pair)
    assert lead == len(pair.chosen.text) - len(pair.rejected.text)
    seeds = [seed for _, _, seed in rollout.asked]
    assert len(set(seeds)) == len(seeds) == 5
    assert found.num_tokens == 14 + sum(map(len, ("50", "is 51", "51", "that is 51")))
    limits = [s.max_tokens for prefix, s, _ in rollout.asked if not s.stop]
    assert limits == [44, 38]  # what is left of 50


@pytest.mark.parametrize(
    "endings, settings, reason",
    [
        (["50", "49"], {}, DropReason.ALL_WRONG),
        (["after all 51", "49"], {}, DropReason.NOT_SHORTER),
        (["?", "49"], {}, DropReason.JUDGE_FAILED),
        (["51", "51"], {"ending_tokens": 1}, DropReason.ALL_WRONG),  # cut before it is right
        (["51", "51"], {"max_tokens": 13}, DropReason.TRUNCATED),
    ],
)
async def test_what_teaches_nothing_is_dropped_with_its_reason(endings, settings, reason):
    found, rollout = await collected({"20+31\n": endings, "20+31\n19+32\n": ["50"]}, **settings)
    assert not found.preferences
    if reason is DropReason.TRUNCATED:
        assert all(sampling.stop for _, sampling, _ in rollout.asked), "no ending is drawn"
    assert [one.reason for one in found.dropped] == [reason]


async def test_an_answer_that_was_cut_is_wrong_or_as_good_as_any():
    steps = WHOLE | {"20+31\n19+32\n": "so it is 51"}
    endings = {"20+31\n": ["51"] * 2, "20+31\n19+32\n": ["5"] * 2}
    settings = {"steps": steps, "max_tokens": 15}
    found, _ = await collected(endings, truncated=Truncated.penalise, **settings)
    (pair,) = found.preferences
    assert (pair.chosen.score, pair.rejected.score) == (1.0, 0.0)


async def test_beyond_the_last_step_the_rest_is_drawn_as_one():
    endings = {"20+31\n": ["19+32\n51", "51"]}
    found, rollout = await collected(endings, max_steps=2)
    (pair,) = found.preferences
    assert (pair.chosen.text, pair.rejected.text) == (
        "20+31\n51",
        "20+31\n19+32\n51",
    )
    assert [bool(s.stop) for _, s, _ in rollout.asked] == [True, False, False]


async def test_each_answer_counts_as_a_share_of_its_prompt():
    endings = {"20+31\n": ["51"], "20+31\n19+32\n": ["51"]}
    found, _ = await collected(endings, num_completions=2, num_lookaheads=1)
    assert [pair.weight for pair in found.preferences] == [0.5, 0.5]
    assert [one.sample for one in found.completions] == [0, 1]

"""How good the published policy is on prompts that it never trains on.

Each evaluation asks the same prompts with the same seeds, so that differences are the policy's.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.collecting.turns import all_of
from rlhf.problems import InputError, some
from rlhf.records import (
    Comparison,
    Completion,
    Judgement,
    Nats,
    Prompt,
    Sampling,
    TokenIds,
    Verdict,
)
from rlhf.seeds import derive_seed
from rlhf.stages import Judge, Metrics, Rollout
from rlhf.storage.disk import write_atomically
from rlhf.toys.games import KnownGame, exploitability, exploitability_interval, nash_gap
from rlhf.watching.metrics import (
    Group,
    Shares,
    completion_metrics,
    evaluation_metrics,
    failure_rates,
    part_means,
)


@dataclass(frozen=True, slots=True)
class Heldout:
    """Held-out prompts, and how they are asked."""

    rollout: Rollout
    prompts: Sequence[Prompt]
    sampled: Sampling
    """As training samples, but for the number of completions."""
    seed: int
    initial: Path | None = None
    """Where to keep what the initial policy answers, if this is it, and the file is not there: a
    judge that comes later may compare with it."""

    def keep(self, drawn: Sequence[Sequence[Completion]]) -> None:
        """What was sampled, if it is to be kept: the first of each prompt's; null for one that
        failed."""
        if self.initial is None or self.initial.exists():
            return
        kept = {one.prompt_id: None if one.failure else _kept(one) for (one, *_) in drawn}
        write_atomically(self.initial, json.dumps(kept) + "\n")

    @property
    def greedy(self) -> Sampling:
        return Sampling(1, self.sampled.max_tokens, temperature=0.0)

    async def ask(self, sampling: Sampling) -> list[tuple[Completion, ...]]:
        """Completions of every prompt, in order."""
        return await all_of(self.ask_one(prompt, sampling) for prompt in self.prompts)

    async def ask_one(self, prompt: Prompt, sampling: Sampling) -> tuple[Completion, ...]:
        seed = derive_seed(self.seed, "evaluation", prompt.id)
        return await self.rollout.generate(prompt, sampling, seed)


@dataclass(frozen=True, slots=True)
class ScoreEvaluation:
    """`rlhf.stages.Evaluation` by a judge that gives scores: accuracies, or the mean score."""

    heldout: Heldout
    judge: Judge
    shares: Shares | None
    """What to call the shares of completions that have a verifier's full score, if it is one."""
    is_relative: bool = False
    """Scores are those of a group, so that their mean says nothing; their parts do."""

    async def evaluate(self) -> Metrics:
        heldout = self.heldout
        sampled = [self._judged(prompt, heldout.sampled) for prompt in heldout.prompts]
        greedy = [self._judged(prompt, heldout.greedy) for prompt in heldout.prompts]
        groups = await all_of((*sampled, *greedy))
        middle = len(sampled)
        heldout.keep([completions for _, completions, _ in groups[:middle]])
        halves = groups[:middle], groups[middle:]
        found = await asyncio.to_thread(evaluation_metrics, *halves, self.shares)
        if self.is_relative:
            found.pop("score_mean", None)
        return found

    async def _judged(self, prompt: Prompt, sampling: Sampling) -> Group:
        completions = await self.heldout.ask_one(prompt, sampling)
        return prompt, completions, await self.judge.judge(prompt, completions)


@dataclass(frozen=True, slots=True)
class UnjudgedEvaluation:
    """`rlhf.stages.Evaluation` where nobody judges: what the completions look like."""

    heldout: Heldout

    async def evaluate(self) -> Metrics:
        drawn = await self.heldout.ask(self.heldout.sampled)
        self.heldout.keep(drawn)
        return completion_metrics(drawn)


@dataclass(frozen=True, slots=True)
class WinRateEvaluation:
    """`rlhf.stages.Evaluation` by a pairwise judge: how often the policy beats its initial self.

    The initial policy's completions are those of the run's first evaluation, which are kept in a
    file; see `require_initial`.
    """

    heldout: Heldout
    judge: Judge
    kept: Path

    async def evaluate(self) -> Metrics:
        drawn = await self.heldout.ask(self.heldout.sampled)
        self.heldout.keep(drawn)
        initial = json.loads(self.kept.read_text(encoding="utf-8"))
        pairs = [(group[0], _initial(group[0], initial[group[0].prompt_id])) for group in drawn]
        asked = zip(self.heldout.prompts, pairs, strict=True)
        verdicts = await all_of(self.judge.judge(*one) for one in asked)
        won = [_first_wins(verdict) for verdict in verdicts]
        known = [one for one in won if one is not None]
        metrics = completion_metrics(drawn)
        metrics["invalid_rate"] = 1 - len(known) / len(won)
        metrics |= part_means("", map(_own_parts, verdicts)) | failure_rates("", verdicts)
        return metrics | ({"win_rate": sum(known) / len(known)} if known else {})


def require_initial(kept: Path, key: str, prompts: Sequence[Prompt]) -> None:
    """Raises InputError unless the file has the initial policy's answer to each of the prompts;
    `key`: of the judge that is to compare with them, such as `eval.gold=llm`."""
    if not kept.exists():
        raise InputError(
            [
                f"{key}: compares with what the initial policy answered, and the run has not kept "
                f"that ({kept}); take a judge that gives scores, or begin another run"
            ]
        )
    initial = json.loads(kept.read_text(encoding="utf-8"))
    if lacking := [prompt.id for prompt in prompts if prompt.id not in initial]:
        raise InputError(
            [
                f"eval.num_prompts={len(prompts)}: {kept} has no answer of the initial policy to "
                f"{len(lacking)} of them ({some(lacking)}), and win rates are against it; ask "
                "those that the run was first evaluated on"
            ]
        )


def _kept(one: Completion) -> dict[str, Any]:
    """What judges may read of it."""
    return {"text": one.text, "token_ids": list(one.token_ids), "truncated": one.truncated}


def _initial(beside: Completion, kept: Mapping[str, Any] | str | None) -> Completion:
    """What the initial policy said; None if it had failed, and of runs from before there was more,
    the text alone."""
    failure = "" if kept is not None else "what the initial policy answered has failed"
    found: Mapping[str, Any] = kept if isinstance(kept, Mapping) else {"text": kept or ""}
    return Completion(
        beside.prompt_id,
        sample=1,
        token_ids=TokenIds(found.get("token_ids", ())),
        logprobs=Nats(),
        text=found["text"],
        truncated=found.get("truncated", False),
        policy_version=0,
        failure=failure,
    )


def _own_parts(verdict: Verdict) -> Verdict:
    """Those of the policy's completion alone, which stands first."""
    parts = {name: (own, *(None for _ in rest)) for name, (own, *rest) in verdict.parts.items()}
    return replace(verdict, parts=parts)


def _first_wins(verdict: Judgement | Comparison) -> float | None:
    if isinstance(verdict, Comparison):
        return verdict.win_prob[0][1]
    raise TypeError(f"{verdict.judge} compares no pairs")


@dataclass(frozen=True, slots=True)
class GameEvaluation:
    """`rlhf.stages.Evaluation` in a known game: how far the policy is from equilibrium.

    `exploitability` and `nash_gap` are of the policy's answers as sampled, with a 95 % interval;
    those ending in `_average` of the mean of all evaluated policies, the first one included.
    """

    heldout: Heldout
    game: KnownGame
    history: list[np.ndarray] = field(default_factory=list)
    """Shares of the answers at every evaluation so far; a resumed run hands in the earlier ones."""

    async def evaluate(self) -> Metrics:
        groups = await self.heldout.ask(self.heldout.sampled)
        self.heldout.keep(groups)
        drawn = [completion for group in groups for completion in group]
        places = [self.game.place(completion.text) for completion in drawn]
        counts = np.bincount(places, minlength=len(self.game.answers) + 1)
        shares = counts / counts.sum()
        self.history.append(shares)
        average = np.mean(self.history, axis=0)
        interval = exploitability_interval(self.game, counts.tolist(), self.heldout.seed)
        metrics = {
            "exploitability": exploitability(self.game, shares),
            "exploitability_low": interval.low,
            "exploitability_high": interval.high,
            "exploitability_average": exploitability(self.game, average),
            "nash_gap": nash_gap(self.game, shares),
            "nash_gap_average": nash_gap(self.game, average),
        }
        named = zip(share_keys(self.game), shares.tolist(), strict=True)
        return completion_metrics(groups) | metrics | dict(named)


def share_keys(game: KnownGame) -> list[str]:
    """The metrics of the answers' shares, the last of what is no answer."""
    return [f"share_{answer}" for answer in game.answers] + ["share_none"]


def earlier_shares(game: KnownGame, records: Sequence[dict], prefix: str = "") -> list[np.ndarray]:
    """What `GameEvaluation` had found, from the lines of `metrics.jsonl`; `prefix`: of its names
    there."""
    keys = [f"eval/{prefix}{key}" for key in share_keys(game)]
    return [np.array([r[key] for key in keys]) for r in records if all(key in r for key in keys)]

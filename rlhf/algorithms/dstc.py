"""DSTC: a program with a test that it passes, over a program with a test that it fails."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import ClassVar

from rlhf.algorithms.base import AlgorithmConfig, Services
from rlhf.collecting.truncated import Truncated
from rlhf.options import TURNS, Fact
from rlhf.records import (
    LOGGED,
    Asked,
    Collected,
    Completion,
    Dropped,
    DropReason,
    Judgement,
    Preference,
    Prompt,
    Sampling,
    compared,
    said_of,
)
from rlhf.stages import Judge, Rollout


@dataclass
class DSTCConfig(AlgorithmConfig):
    """The judge says which two programs, and which test belongs behind each; one pair per prompt at
    most. Experimental: the paper's rule is read in `rlhf.judges.programs.ranking`."""

    name: ClassVar[str] = "dstc"

    def gives(self) -> Set[Fact]:
        return {Fact.parts}

    def needs(self) -> Mapping[Fact, str]:
        return {
            Fact.additions: "algorithm=dstc: pairs are programs with tests; set judge=code "
            "judge.score=dstc, and judge.tests=written for tests of the policy's own",
            Fact.one_turn: f"algorithm=dstc: a test goes behind an answer of one turn, and {TURNS}",
        }

    def make(self, services: Services) -> "DSTC":
        assert services.judge is not None
        return DSTC(
            services.rollout, services.judge, services.sampling, self, services.completion_ids
        )


@dataclass(frozen=True, slots=True)
class DSTC:
    """Liu et al. 2024 (arXiv 2411.13611): direct preference learning with only self-generated tests
    and code."""

    rollout: Rollout
    judge: Judge
    sampling: Sampling
    config: DSTCConfig
    completion_ids: Callable[[str], tuple[int, ...]]

    async def collect(self, asked: Asked) -> Collected:
        prompt = asked.prompt
        completions = await self.rollout.generate(prompt, self.sampling, asked.seed)
        verdict = await self.judge.judge(prompt, completions)
        assert isinstance(verdict, Judgement)  # who tells additions gives scores
        found = self._pair(prompt, completions, verdict)
        pairs = (found,) if isinstance(found, Preference) else ()
        dropped = (found,) if isinstance(found, Dropped) else ()
        # A side is another completion than what was judged, with a test behind its program.
        places = {one.sample: place for place, one in enumerate(completions)}
        said = {one: said_of(verdict, places[one.sample]) for one in compared(found)}
        return Collected(prompt, completions, verdict, pairs, dropped, said=said)

    def _pair(
        self, prompt: Prompt, completions: tuple[Completion, ...], verdict: Judgement
    ) -> Preference | Dropped:
        if all(verdict.failed):
            return Dropped(DropReason.JUDGE_FAILED)
        known = [(s, i) for i, s in enumerate(verdict.scores) if s is not None]
        (high, best), (low, worst) = max(known), min(known)
        tests = verdict.additions
        if high == low or not tests or not (tests[best] and tests[worst]):
            return Dropped(DropReason.TIE)
        chosen, rejected = completions[best], completions[worst]
        if self.config.truncated is Truncated.drop:
            for one in (rejected, chosen):
                if one.truncated:
                    return Dropped(DropReason.TRUNCATED, rejected=one)
        sides = self._with(chosen, tests[best]), self._with(rejected, tests[worst])
        return Preference.over(prompt, *sides, high, low, verdict.judge)

    def _with(self, program: Completion, test: str) -> Completion:
        """The program's own tokens, without the one that ended it, and the test behind them; nobody
        has emitted the whole, so that it has no log-probabilities of a policy."""
        own = program.token_ids if program.truncated else program.token_ids[:-1]
        line = f"\n{test}\n"
        return replace(
            program,
            token_ids=own + self.completion_ids(line),
            logprobs=(),
            text=program.text + line,
            truncated=False,
            policy_version=LOGGED,
        )

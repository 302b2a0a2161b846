"""What decides how good completions are; each judge runs inside a worker process."""

from collections.abc import Callable

from rlhf.config.judges import (
    GameConfig,
    GPMConfig,
    JudgeConfig,
    PairModelConfig,
    RewardModelConfig,
    SimulatedUserJudgeConfig,
    VerifierConfig,
)
from rlhf.judges.groups import GroupJudge

# Imported where they are built: a verifier's worker needs no torch, a reward model's no sympy.


def _verifier(config: VerifierConfig) -> GroupJudge:
    from rlhf.judges.verifiers import Verifier

    return Verifier(config)


def _reward_model(config: RewardModelConfig) -> GroupJudge:
    from rlhf.judges.reward_model import RewardModel

    return RewardModel(config)


def _pair_model(config: PairModelConfig) -> GroupJudge:
    from rlhf.judges.pair_model import PairModel

    return PairModel(config)


def _gpm(config: GPMConfig) -> GroupJudge:
    from rlhf.judges.gpm import GPM

    return GPM(config)


def _game(config: GameConfig) -> GroupJudge:
    from rlhf.judges.game import GameJudge

    return GameJudge(config)


def _simulated_users(config: SimulatedUserJudgeConfig) -> GroupJudge:
    from rlhf.judges.simulated_users import SimulatedUsers

    return SimulatedUsers(config)


JUDGES: dict[type, Callable[..., GroupJudge]] = {
    VerifierConfig: _verifier,
    RewardModelConfig: _reward_model,
    PairModelConfig: _pair_model,
    GPMConfig: _gpm,
    GameConfig: _game,
    SimulatedUserJudgeConfig: _simulated_users,
}


def build_judge(config: JudgeConfig) -> GroupJudge:
    """The judge of this configuration; raises InputError if its files cannot be used."""
    return JUDGES[type(config)](config)


def needs_answers(config: JudgeConfig) -> bool:
    """Whether every prompt needs an answer, as verifiers do and users with a wish."""
    return isinstance(config, VerifierConfig | SimulatedUserJudgeConfig)

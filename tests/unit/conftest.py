"""What several unit tests work with."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chat_server import Server
from composing import compose

from rlhf.config.reward import RewardTrainingConfig
from rlhf.judges.questions import server as server_module
from rlhf.launching.command_line import told
from rlhf.launching.overrides import as_hydra_reads
from rlhf.reward import __main__ as reward


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(server_module, "BACKOFF_S", 0.02)
    monkeypatch.delenv("AGON_JUDGE_API_KEY", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    one = Server()
    yield one
    one.end()


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Does what `python -m rlhf.reward` does, in this process; gives the exit code, and what it
    told on stderr. `whole`: through Hydra's own beginning too, which takes longer than most.
    """
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def run(*overrides: str, whole: bool = False) -> tuple[int, str]:
        words = [f"output={tmp_path}/out", *overrides]
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null")
        argv = ["reward", *quiet, f"hydra.run.dir={tmp_path}/hydra", *words]
        monkeypatch.setattr(sys, "argv", argv)
        code = 0
        try:
            if whole:
                reward.main()
            else:
                with told():
                    read = as_hydra_reads(words, RewardTrainingConfig)
                    reward.run(reward.typed(compose("reward", read)))
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            code = stop.code
        return code, capsys.readouterr().err

    return run

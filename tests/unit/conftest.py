"""What several unit tests work with."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chat_server import Server

from rlhf.judges.questions import server as server_module
from rlhf.reward import __main__ as reward


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(server_module, "BACKOFF_S", 0.02)
    monkeypatch.delenv("AGON_JUDGE_API_KEY", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    one = Server()
    thread = threading.Thread(target=one.http.serve_forever, args=(0.05,))
    thread.start()
    yield one
    one.http.shutdown()
    thread.join(10)
    one.http.server_close()


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs `python -m rlhf.reward` in this process; gives the exit code, and what it told on
    stderr.
    """
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def run(*overrides: str) -> tuple[int, str]:
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null")
        words = [*quiet, f"hydra.run.dir={tmp_path}/hydra", f"output={tmp_path}/out", *overrides]
        monkeypatch.setattr(sys, "argv", ["reward", *words])
        code = 0
        try:
            reward.main()
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            code = stop.code
        return code, capsys.readouterr().err

    return run

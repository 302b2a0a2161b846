"""What several unit tests work with."""

import threading
from collections.abc import Iterator

import pytest
from chat_server import Server

from rlhf.judges import server as server_module


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

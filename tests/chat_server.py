"""An OpenAI-compatible server on this machine, that replies as a test tells it to."""

import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rlhf.judges.llm import LLMJudgeConfig


class Server:
    """An HTTP server of this test's own.

    Gives its replies in turn, the last one for ever, or where there is `answer`, that.
    """

    def __init__(self) -> None:
        self.replies: list[tuple[int | None, Any]] = []
        self.answer: Callable[[str], tuple[int, Any]] | None = None
        self.delay_s = 0.0
        self.headers: dict[str, str] = {}
        """Of every reply, beside what has to be in it."""
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.at_once = self.most_at_once = 0
        lock, owner = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    owner.asked.append((self.path, dict(self.headers), body))
                    owner.at_once += 1
                    owner.most_at_once = max(owner.most_at_once, owner.at_once)
                    status, reply = owner.reply(body["messages"][0]["content"])
                time.sleep(owner.delay_s)
                with lock:
                    owner.at_once -= 1
                if status is None:  # the connection breaks
                    self.close_connection = True
                    return
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                # A client that has given up meanwhile is no fault of the test that runs by then.
                with suppress(ConnectionError):
                    self.send_response(status)
                    for name, value in owner.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        self._handler, self._address = Handler, ("127.0.0.1", 0)
        self.begin()
        self.url = f"http://127.0.0.1:{self._address[1]}/v1/"

    def begin(self) -> None:
        """Listens, each time at the same address."""
        self._http = ThreadingHTTPServer(self._address, self._handler)
        self._address = self._http.server_address
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def end(self) -> None:
        """Nobody listens at its address any more."""
        self._http.shutdown()
        self._thread.join(10)
        self._http.server_close()

    def reply(self, question: str) -> tuple[int | None, Any]:
        if self.answer is not None:
            return self.answer(question)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def config(self, **more: Any) -> LLMJudgeConfig:
        settings = {"endpoint": self.url, "model": "tiny-judge", "timeout_s": 5.0}
        settings["patience_s"] = 0.3
        return LLMJudgeConfig(**(settings | more))


def said(text: str, *listed: tuple[str, float]) -> tuple[int, Any]:
    """A chat completion, with log-probabilities if any are given."""
    tokens = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in listed]
    logprobs = {"content": [{**tokens[0], "top_logprobs": tokens}]} if tokens else None
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "length"}
    return 200, {"object": "chat.completion", "choices": [choice]}


def thought(
    content: str | None,
    *tokens: tuple[str, list[tuple[str, float]]],
    reasoning: str | None = None,
    finish: str = "stop",
) -> tuple[int, Any]:
    """A chat completion that was given time to think: of each token, what it might have been."""
    listed = [
        {
            "token": token,
            "logprob": -0.1,
            "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in others],
        }
        for token, others in tokens
    ]
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    logprobs = {"content": listed} if listed else None
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}
    return 200, {"object": "chat.completion", "choices": [choice]}

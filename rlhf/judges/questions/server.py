"""An OpenAI-compatible server: one chat completion a question, with deadlines and three tries."""

import asyncio
import logging
import os
import re
from typing import Any

import httpx

from rlhf.judges.questions.settings import AskedModelConfig
from rlhf.problems import InputError, RunFailed

KEY_VARIABLE = "AGON_JUDGE_API_KEY"
NUM_TRIES = 3
BACKOFF_S = 1.0
"""Before the second try; twice that before the third."""

_PASSING = {408, 425, 429}
"""Statuses, besides 5xx, after which the same request may succeed."""
_REFUSED_QUESTION = {400, 413, 422}
"""Statuses that are about this question, such as one that is too long."""
# Where the common ways to write the end of a turn begin: a server takes them for its own even
# inside a message, and what exactly its model uses it does not tell.
_CONTROL = re.compile(r"<(?=[|｜][^|｜<>\s]+[|｜]>|/?s>|(?:start|end)_of_turn>)|\[(?=/?INST\])")
logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell of every single question


class EndpointFailed(RunFailed):
    """The endpoint turned away a request that is no different from those before it."""


class NoReply(Exception):
    """There is nothing to read: the question was refused, or three tries met passing trouble."""


class ChatServer:
    """The server at `judge.endpoint`, used within one event loop.

    Raises InputError for a key that cannot be sent.
    """

    def __init__(self, config: AskedModelConfig) -> None:
        assert config.endpoint is not None
        self._config = config
        self._url = config.endpoint.rstrip("/") + "/chat/completions"
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError([f"{KEY_VARIABLE}: is no key: it has characters no header can have"])
        self._gate = asyncio.Semaphore(config.concurrency)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            limits=httpx.Limits(max_connections=config.concurrency),
            timeout=config.timeout_s,
        )

    async def ask(self, question: str, **options: Any) -> httpx.Response:
        """A reply of status 200 to one user's message; `options` join the request.

        Raises NoReply, or EndpointFailed if the endpoint refuses us altogether.
        """
        reply = await self._post(question, options)
        if reply.status_code == 200:
            return reply
        told = f"answers {reply.status_code}: {self.excerpt(reply)}"
        if reply.status_code in _REFUSED_QUESTION:
            raise NoReply(told)
        raise EndpointFailed(f"judge.endpoint={self._config.endpoint} {told}")

    async def first_reply(
        self, question: str, refused_hint: str = "", **options: Any
    ) -> httpx.Response:
        """As `ask`, to try the server out: raises InputError with what to do."""
        endpoint = f"judge.endpoint={self._config.endpoint}:"
        try:
            reply = await self._post(question, options)
        except NoReply as error:
            raise InputError([f"{endpoint} {error}; is the server up, at this address?"]) from error
        status, model = reply.status_code, f"judge.model={self._config.model}"
        if status == 200:
            return reply
        if status in (401, 403):
            problem = f"{endpoint} answers {status}; set {KEY_VARIABLE} to a key that it accepts"
        elif status == 404:
            problem = (
                f"{endpoint} answers 404: {self.excerpt(reply)}; give the address up to /v1, and "
                f"a model that it serves (now {model})"
            )
        else:
            problem = f"{endpoint} answers {status} to a trivial question: {self.excerpt(reply)}"
            problem += refused_hint if status in _REFUSED_QUESTION else ""
        raise InputError([problem])

    def excerpt(self, reply: httpx.Response) -> str:
        """The beginning of a reply, on one line; a server may repeat the key in it."""
        text = " ".join(reply.text.split())
        return (text.replace(self._key, "***") if self._key else text)[:200] or "nothing"

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, question: str, options: dict[str, Any]) -> httpx.Response:
        """Raises NoReply with the last reason if three tries met nothing but passing trouble."""
        messages = [{"role": "user", "content": question}]
        body = {"model": self._config.model, "messages": messages, "temperature": 0, **options}
        reason = ""
        for attempt in range(NUM_TRIES):
            if attempt:
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1))
            try:
                async with self._gate, asyncio.timeout(self._config.timeout_s):
                    reply = await self._client.post(self._url, json=body)
            except (TimeoutError, httpx.TimeoutException):
                reason = f"no reply within {self._config.timeout_s:g} s (judge.timeout_s)"
            except httpx.RequestError as error:
                reason = f"cannot be reached: {error or type(error).__name__}"
            else:
                if reply.status_code < 500 and reply.status_code not in _PASSING:
                    return reply
                reason = f"answers {reply.status_code}: {self.excerpt(reply)}"
        raise NoReply(f"{reason} ({NUM_TRIES} tries)")


def reasoning(message: dict[str, Any]) -> str:
    """The thought that a server keeps apart from the message's content."""
    return str(message.get("reasoning_content") or message.get("reasoning") or "")


def break_control_tokens(text: str) -> str:
    """Breaks what chat models read as the end of a turn, so that it is text and nothing else."""
    return _CONTROL.sub(r"\g<0> ", text)

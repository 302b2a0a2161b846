"""An OpenAI-compatible server: one chat completion a question, with deadlines and patience."""

import asyncio
import logging
import math
import os
import random
import re
import ssl
import time
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx

from rlhf.judges.questions.settings import AskedModelConfig
from rlhf.problems import InputError, RunFailed, one_line, printable

KEY_VARIABLE = "AGON_JUDGE_API_KEY"
START_PATIENCE_S = 30.0
"""Of the first question, which somebody waits for at a terminal."""
BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 30.0
"""Before the second try, doubled before each further one; a server that names a time has it."""
ENCODINGS = ("", "identity", "gzip")
"""Of a reply: others can make gigabytes of one packet."""
TELL_AFTER_S, TELL_EVERY_S = 5.0, 60.0
"""Of trouble: a refusal now and then is nothing to tell people of, and a round that stands is."""
MAX_REPLY_BYTES = 8 * 2**20
"""Of a reply, as it is once decompressed: a thought of 4096 tokens with its log-probabilities takes
about two; what is longer is no answer, and is not read."""

_WAY = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""What of the environment says how a server is reached, in capitals or not."""
_apart = random.Random()
_log = logging.getLogger(__name__)
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
    """There is nothing to read: the question was refused, or trouble did not pass in time."""


class _Busy(Exception):
    """Trouble that may pass: what it was, and the seconds that the server asks to be given."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@cache
def _certificates() -> ssl.SSLContext:
    """Of the authorities that are trusted; reading them takes longer than a question."""
    return httpx.create_ssl_context()


class ChatServer:
    """The server at `judge.endpoint`, used within one event loop.

    Raises InputError for a key that cannot be sent, and for a way there that is none.
    """

    def __init__(self, config: AskedModelConfig) -> None:
        assert config.endpoint is not None
        self._config = config
        self._url = config.endpoint.rstrip("/") + "/chat/completions"
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError([f"{KEY_VARIABLE}: is no key: it has characters no header can have"])
        self._gate = asyncio.Semaphore(config.concurrency)
        self._told_at = -math.inf
        try:
            self._client = httpx.AsyncClient(
                headers={"Accept-Encoding": "gzip"}
                | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
                limits=httpx.Limits(max_connections=config.concurrency),
                timeout=config.timeout_s,
                verify=_certificates(),
            )
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            named = sorted(name for name in os.environ if name.upper() in _WAY)
            raise InputError(
                [
                    f"judge.endpoint={config.endpoint}: cannot be asked as the environment has it "
                    f"({one_line(error)}); correct or unset {' or '.join(named) or 'its proxies'}"
                ]
            ) from error

    async def ask(self, question: str, **options: Any) -> httpx.Response:
        """A reply of status 200 to one user's message; `options` join the request.

        Raises NoReply, or EndpointFailed if the endpoint refuses us altogether.
        """
        reply = await self._post(question, options, self._config.patience_s)
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
            patience_s = min(START_PATIENCE_S, self._config.patience_s)
            reply = await self._post(question, options, patience_s)
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
        elif location := self._hidden(reply.headers.get("location", "")):
            problem = (
                f"{endpoint} answers {status}, and that it is at {location}; give that address, "
                "up to /v1"
            )
        else:
            problem = f"{endpoint} answers {status} to a trivial question: {self.excerpt(reply)}"
            problem += refused_hint if status in _REFUSED_QUESTION else ""
        raise InputError([problem])

    def excerpt(self, reply: httpx.Response) -> str:
        """The beginning of a reply, on one line; a server may repeat the key in it."""
        return self._hidden(" ".join(reply.text.split()))[:200] or "nothing"

    def _hidden(self, text: str) -> str:
        text = printable(text)
        return text.replace(self._key, "***") if self._key else text

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(
        self, question: str, options: dict[str, Any], patience_s: float
    ) -> httpx.Response:
        """Raises NoReply with the last reason if trouble has not passed within the patience."""
        messages = [{"role": "user", "content": question}]
        body = {"model": self._config.model, "messages": messages, "temperature": 0, **options}
        begun, num_tries = time.monotonic(), 0
        while True:
            num_tries += 1
            try:
                async with self._gate, asyncio.timeout(self._config.timeout_s):
                    return await self._try(body)
            except (TimeoutError, httpx.TimeoutException):
                trouble = _Busy(f"no reply within {self._config.timeout_s:g} s (judge.timeout_s)")
            except httpx.RequestError as error:
                trouble = _Busy(f"cannot be reached: {error or type(error).__name__}")
            except _Busy as busy:
                trouble = busy
            wait_s = min(BACKOFF_S * 2 ** (num_tries - 1), LONGEST_BACKOFF_S)
            # Apart from each other, so that a thousand do not come back at once.
            wait_s = max(wait_s * _apart.uniform(0.5, 1), trouble.wait_s or 0)
            if time.monotonic() - begun + wait_s > patience_s:
                tries = "1 try" if num_tries == 1 else f"{num_tries} tries"
                raise NoReply(f"{trouble} ({tries}, judge.patience_s={patience_s:g})")
            self._tell_of(trouble, time.monotonic() - begun, patience_s)
            await asyncio.sleep(wait_s)

    def _tell_of(self, trouble: _Busy, passed_s: float, patience_s: float) -> None:
        """Of many questions that wait at once, one line."""
        now = time.monotonic()
        if passed_s >= TELL_AFTER_S and now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            _log.warning(
                "judge.endpoint=%s: %s; a question that has waited for %.0f s is asked again, "
                "until judge.patience_s=%g",
                self._config.endpoint,
                trouble,
                passed_s,
                patience_s,
            )

    async def _try(self, body: dict[str, Any]) -> httpx.Response:
        async with self._client.stream("POST", self._url, json=body) as coming:
            if (encoding := coming.headers.get("content-encoding", "")) not in ENCODINGS:
                raise NoReply(f"answers in the encoding {encoding}, which was not asked for")
            content = bytearray()
            async for part in coming.aiter_bytes():  # decompressed on the way
                content += part
                if len(content) > MAX_REPLY_BYTES:
                    raise NoReply(f"answers with more than {MAX_REPLY_BYTES >> 20} MiB")
        kept = ("content-type", "location")
        headers = {name: coming.headers[name] for name in kept if name in coming.headers}
        reply = httpx.Response(coming.status_code, headers=headers, content=bytes(content))
        if reply.status_code >= 500 or reply.status_code in _PASSING:
            wait_s = _asked_to_wait(coming.headers.get("retry-after", ""))
            raise _Busy(f"answers {reply.status_code}: {self.excerpt(reply)}", wait_s)
        return reply


def _asked_to_wait(retry_after: str) -> float | None:
    """Seconds, which the header names itself or as a date; None if it names neither."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, until.timestamp() - time.time())


def reasoning(message: dict[str, Any]) -> str:
    """The thought that a server keeps apart from the message's content."""
    return str(message.get("reasoning_content") or message.get("reasoning") or "")


def break_control_tokens(text: str) -> str:
    """Breaks what chat models read as the end of a turn, so that it is text and nothing else."""
    return _CONTROL.sub(r"\g<0> ", text)

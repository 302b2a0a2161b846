"""A judge model behind an OpenAI-compatible server: one chat completion of one token a question."""

import asyncio
import logging
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import httpx

from rlhf.config.judges import LLMJudgeConfig
from rlhf.judges.llm import LLMJudge
from rlhf.judges.template import LABELS, load_template
from rlhf.problems import InputError, RunFailed

KEY_VARIABLE = "AGON_JUDGE_API_KEY"
NUM_TRIES = 3
BACKOFF_S = 1.0
"""Before the second try; twice that before the third."""
TOP_LOGPROBS = 20
"""As many as the OpenAI API lists."""

_PASSING = {408, 425, 429}
"""Statuses, besides 5xx, after which the same request may succeed."""
_REFUSED_QUESTION = {400, 413, 422}
"""Statuses that are about this question, such as one that is too long."""
# Where the common ways to write the end of a turn begin: a server takes them for its own even
# inside a message, and what exactly its model uses it does not tell.
_CONTROL = re.compile(r"<(?=[|｜][^|｜<>\s]+[|｜]>|/?s>|(?:start|end)_of_turn>)|\[(?=/?INST\])")
_log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell of every single question


class EndpointFailed(RunFailed):
    """The endpoint turned away a request that is no different from those before it."""


class _NoReply(Exception):
    """Three tries brought nothing to read."""


class Endpoint:
    """`rlhf.judges.llm.Chooser` over HTTP; raises InputError for a key that cannot be sent."""

    def __init__(self, config: LLMJudgeConfig) -> None:
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
        self._told: set[str] = set()

    async def choose(self, question: str) -> float | None:
        """None for nonsense, a question that is refused, and after three tries without a reply.

        Raises EndpointFailed if the endpoint refuses us altogether.
        """
        try:
            reply = await self._ask(question)
        except _NoReply as error:
            return self._missing(str(error))
        if reply.status_code == 200:
            return _preference(reply)
        told = f"answers {reply.status_code}: {self._excerpt(reply)}"
        if reply.status_code in _REFUSED_QUESTION:
            return self._missing(told)
        raise EndpointFailed(f"judge.endpoint={self._config.endpoint} {told}")

    def _missing(self, reason: str) -> None:
        if (kind := reason.split(":")[0]) not in self._told:
            self._told.add(kind)
            _log.warning("judge.endpoint: %s; such questions count as failed", reason)

    async def check(self, question: str) -> None:
        """Asks once; raises InputError, with what to do, unless the reply can be used."""
        endpoint = f"judge.endpoint={self._config.endpoint}:"
        try:
            reply = await self._ask(question)
        except _NoReply as error:
            raise InputError([f"{endpoint} {error}; is the server up, at this address?"]) from error
        status, model = reply.status_code, f"judge.model={self._config.model}"
        if status in (401, 403):
            problem = f"{endpoint} answers {status}; set {KEY_VARIABLE} to a key that it accepts"
        elif status == 404:
            problem = (
                f"{endpoint} answers 404: {self._excerpt(reply)}; give the address up to /v1, and "
                f"a model that it serves (now {model})"
            )
        elif status != 200:
            problem = f"{endpoint} answers {status} to a trivial question: {self._excerpt(reply)}"
            if status in _REFUSED_QUESTION and self._config.logprobs:
                problem += "; if it has no log-probabilities, set judge.logprobs=false"
        elif _preference(reply) is None:
            problem = (
                f"{model}: answers a trivial question with neither A nor B; turn off its thinking "
                f"on the server, or take another model: {self._excerpt(reply)}"
            )
        else:
            return
        raise InputError([problem])

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, question: str) -> httpx.Response:
        """Raises _NoReply with the last reason if three tries met nothing but passing trouble."""
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 1,
            "temperature": 0,
        }
        if self._config.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        reason = ""
        for attempt in range(NUM_TRIES):
            if attempt:
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1))
            try:
                async with self._gate, asyncio.timeout(self._config.timeout_s):
                    reply = await self._client.post(self._url, json=body)
            except (TimeoutError, httpx.TimeoutException):
                reason = f"no reply within {self._config.timeout_s:g} s"
            except httpx.RequestError as error:
                reason = f"cannot be reached: {error or type(error).__name__}"
            else:
                if reply.status_code < 500 and reply.status_code not in _PASSING:
                    return reply
                reason = f"answers {reply.status_code}: {self._excerpt(reply)}"
        raise _NoReply(f"{reason} ({NUM_TRIES} tries)")

    def _excerpt(self, reply: httpx.Response) -> str:
        """The beginning of a reply, on one line; a server may repeat the key in it."""
        text = " ".join(reply.text.split())
        return (text.replace(self._key, "***") if self._key else text)[:200] or "nothing"


def _preference(reply: httpx.Response) -> float | None:
    """By the first token's log-probabilities, or by its text where the server gives none."""
    try:
        choice = reply.json()["choices"][0]
        tokens = (choice.get("logprobs") or {}).get("content")
        if not tokens:
            verdict = choice["message"]["content"].strip()
            return float(verdict == LABELS[0]) if verdict in LABELS else None
        listed = tokens[0].get("top_logprobs") or tokens[:1]
        return label_preference([(token["token"], token["logprob"]) for token in listed])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):  # no such JSON
        return None


def label_preference(listed: Sequence[tuple[str, float]]) -> float | None:
    """The probability of A against B by the likeliest tokens; None if neither is among them.

    A label that is not listed gets the most that it can have: no more than the least likely token
    that is, and no more than what all of them leave.
    """
    tokens = [(token.strip(), math.exp(min(logprob, 0.0))) for token, logprob in listed]
    first, second = (sum(p for token, p in tokens if token == label) for label in LABELS)
    if not first and not second:
        return None
    unlisted = max(0.0, min(min(p for _, p in tokens), 1 - sum(p for _, p in tokens)))
    answer = (first or unlisted) / ((first or unlisted) + (second or unlisted))
    return answer if math.isfinite(answer) else None


def _clean(text: str) -> str:
    """Breaks what chat models read as the end of a turn, so that it is text and nothing else."""
    return _CONTROL.sub(r"\g<0> ", text)


def endpoint_judge(config: LLMJudgeConfig) -> LLMJudge:
    """The judge at `judge.endpoint`, to be used within one event loop."""
    template = load_template(config.template)
    return LLMJudge(Endpoint(config), template, str(config.model), clean=_clean)


def check_endpoint(config: LLMJudgeConfig) -> None:
    """Asks the endpoint one question; raises InputError if it cannot be a judge.

    Starts an event loop of its own.
    """

    async def check() -> None:
        endpoint = Endpoint(config)
        try:
            await endpoint.check(load_template(config.template).trivial)
        finally:
            await endpoint.close()

    asyncio.run(check())

"""A judge model behind an OpenAI-compatible server: one chat completion of one token a question."""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Any

import httpx

from rlhf.config.judges import LLMJudgeConfig
from rlhf.judges.llm import LLMJudge
from rlhf.judges.server import ChatServer, NoReply, break_control_tokens
from rlhf.judges.template import LABELS, load_template
from rlhf.problems import InputError

TOP_LOGPROBS = 20
"""As many as the OpenAI API lists."""

_log = logging.getLogger(__name__)


class Endpoint:
    """`rlhf.judges.llm.Chooser` over HTTP; raises InputError for a key that cannot be sent."""

    def __init__(self, config: LLMJudgeConfig) -> None:
        self._config = config
        self._server = ChatServer(config)
        self._options: dict[str, Any] = {"max_tokens": 1}
        if config.logprobs:
            self._options |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        self._told: set[str] = set()

    async def choose(self, question: str) -> float | None:
        """None for nonsense, a question that is refused, and after three tries without a reply.

        Raises EndpointFailed if the endpoint refuses us altogether.
        """
        try:
            return _preference(await self._server.ask(question, **self._options))
        except NoReply as error:
            reason = str(error)
        if (kind := reason.split(":")[0]) not in self._told:
            self._told.add(kind)
            _log.warning("judge.endpoint: %s; such questions count as failed", reason)
        return None

    async def check(self, question: str) -> None:
        """Asks once; raises InputError, with what to do, unless the reply can be used."""
        hint = "; if it has no log-probabilities, set judge.logprobs=false"
        reply = await self._server.first_reply(
            question, hint if self._config.logprobs else "", **self._options
        )
        if _preference(reply) is None:
            raise InputError(
                [
                    f"judge.model={self._config.model}: answers a trivial question with neither A "
                    "nor B; turn off its thinking on the server, or take another model: "
                    f"{self._server.excerpt(reply)}"
                ]
            )

    async def close(self) -> None:
        await self._server.close()


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


def endpoint_judge(config: LLMJudgeConfig) -> LLMJudge:
    """The judge at `judge.endpoint`, to be used within one event loop."""
    template = load_template(config.template, config.user_guided)
    return LLMJudge(Endpoint(config), template, str(config.model), clean=break_control_tokens)


def check_endpoint(config: LLMJudgeConfig) -> None:
    """Asks the endpoint one question; raises InputError if it cannot be a judge.

    Starts an event loop of its own.
    """

    async def check() -> None:
        endpoint = Endpoint(config)
        try:
            await endpoint.check(load_template(config.template, config.user_guided).trivial)
        finally:
            await endpoint.close()

    asyncio.run(check())

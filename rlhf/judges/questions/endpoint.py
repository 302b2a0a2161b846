"""A judge model behind an OpenAI-compatible server: one chat completion of one token a question,
and where the model thinks before it answers, one of a whole thought.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import httpx

from rlhf.judges.questions.choosing import Writing
from rlhf.judges.questions.labels import listed_shares, none_of
from rlhf.judges.questions.server import ChatServer, NoReply, reasoning
from rlhf.judges.questions.settings import AskedModelConfig
from rlhf.judges.questions.thoughts import (
    TEMPERATURE,
    THOUGHT_TOKENS,
    after_thought,
    end_of_thought,
    is_open,
    thinking_options,
)
from rlhf.problems import InputError
from rlhf.tools.sandbox import SandboxFailed
from rlhf.tools.tool import ToolFailed

TOP_LOGPROBS = 20
"""As many as the OpenAI API lists."""
THOUGHT_LOGPROBS = 5
"""For each token of a thought, which has thousands: enough to hold both letters after it."""
NEITHER = f"not even after a thought of at most {THOUGHT_TOKENS} tokens"

NO_COMPLETION = "answers with no chat completion"
GO_ON = "Go on from where you stopped."

_log = logging.getLogger(__name__)


class Endpoint:
    """`rlhf.judges.questions.choosing.Author` over HTTP.

    Raises InputError for a key that cannot be sent.
    """

    def __init__(self, config: AskedModelConfig) -> None:
        self._config = config
        self._server = ChatServer(config)
        self._options: dict[str, Any] = {"max_tokens": 1}
        if config.logprobs:
            self._options |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        self._thinks = False
        """Its model has thought before an answer, so no first token is asked for any more."""
        self._told: set[str] = set()

    async def choose(self, question: str, labels: Sequence[str]) -> tuple[float, ...] | None:
        """None for nonsense, a question that is refused or finds no reply in time, and where the
        model answers with no label, not even after a thought.

        Raises EndpointFailed if the endpoint refuses us altogether.
        """
        try:
            found = await self._answer(self._server.ask, question, labels)
        except NoReply as error:
            found = str(error)
        return self._tell(found) if isinstance(found, str) else found

    async def _answer(
        self, ask: Callable[..., Awaitable[httpx.Response]], question: str, labels: Sequence[str]
    ) -> tuple[float, ...] | str:
        """How likely each label is, or why that cannot be told."""
        if not self._thinks:
            reply = await ask(question, **self._options)
            if (choice := _choice(reply)) is None:
                return f"{NO_COMPLETION}: {self._server.excerpt(reply)}"
            if (found := _shares(choice, labels)) is not None:
                return found
        reply = await ask(question, **self._thinking(question))
        choice = _choice(reply)
        found = _shares_after_thought(choice, labels) if choice else None
        if found is None:
            none = none_of(labels)
            return f"answers {none}, {NEITHER}: {self._server.excerpt(reply)}"
        self._thinks = True
        return found

    async def write(self, question: str, writing: Writing) -> str | None:
        """None as of `choose`, and where the sandbox of a tool is out of order.

        Not every server can be told where to stop, or to go on within a text: what it wrote behind
        a call is left out, and it is asked to go on in a turn of its own.
        """
        written, instrument = "", writing.instrument
        left = instrument.syntax.max_calls if instrument else 0
        try:
            while True:
                piece = await self._piece(question, written, writing)
                if piece is None:
                    return self._tell("writes nothing, or a thought without an end")
                called = instrument.called(piece) if instrument else None
                if instrument is None or called is None:
                    return written + piece
                end, argument = called
                written += piece[:end]
                if not left:
                    return written
                left -= 1
                written += await instrument.reply(argument)
        except (NoReply, SandboxFailed, ToolFailed) as error:
            return self._tell(str(error))

    async def _piece(self, question: str, written: str, writing: Writing) -> str | None:
        """What it writes next, without its thought; one that is cut in a thought is asked again
        with the time for one."""
        turns = [("user", question), ("assistant", written), ("user", GO_ON)][: 3 if written else 1]
        messages = [{"role": role, "content": content} for role, content in turns]
        seed = writing.seed % 2**31
        options = {"messages": messages, "temperature": TEMPERATURE, "seed": seed}
        for more in (0, THOUGHT_TOKENS)[self._thinks :]:
            limit = writing.max_tokens + more
            choice = _choice(await self._server.ask(question, **options, max_tokens=limit))
            if choice is None:
                return None
            is_thought = not choice.text if choice.thought else is_open(choice.text)
            if not (choice.is_cut and is_thought):
                self._thinks = self._thinks or bool(choice.thought)
                return after_thought(choice.text).strip() or None
        return None

    def _thinking(self, question: str) -> dict[str, Any]:
        options = self._options | thinking_options(question)
        return options | ({"top_logprobs": THOUGHT_LOGPROBS} if self._config.logprobs else {})

    def _tell(self, reason: str) -> None:
        """Once for each kind."""
        if (kind := reason.split(":")[0]) not in self._told:
            self._told.add(kind)
            _log.warning("judge.endpoint: %s; such questions count as failed", reason)

    async def check(self, question: str, labels: Sequence[str]) -> None:
        """Asks once, and where that gives no label, for a thought too; raises InputError, with
        what to do, unless the reply can be used.
        """
        hint = "; if it has no log-probabilities, set judge.logprobs=false"
        hint = hint if self._config.logprobs else ""
        ask = partial(self._server.first_reply, refused_hint=hint)
        found = await self._answer(ask, question, labels)
        if isinstance(found, str):
            advice = "turn off its thinking on the server, or take another model"
            if found.startswith(NO_COMPLETION):
                advice = "give judge.endpoint up to /v1, and a model that the server has"
            raise InputError(
                [f"judge.model={self._config.model}: to a trivial question, {found}; {advice}"]
            )

    async def close(self) -> None:
        await self._server.close()


class _Choice(NamedTuple):
    """What a chat completion says."""

    text: str
    thought: str
    """That the server keeps apart from the text."""
    tokens: list[dict[str, Any]]
    """With their log-probabilities, if the server gives any."""
    is_cut: bool


def _choice(reply: httpx.Response) -> _Choice | None:
    """None if this is no chat completion."""
    try:
        choice = reply.json()["choices"][0]
        message, tokens = choice["message"], (choice.get("logprobs") or {}).get("content") or []
        is_cut = choice.get("finish_reason") == "length"
        text = message.get("content") or ""
        return _Choice(text.strip(), reasoning(message), [*map(dict, tokens)], is_cut)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):  # no such JSON
        return None


def _shares(choice: _Choice, labels: Sequence[str]) -> tuple[float, ...] | None:
    """By the first token's log-probabilities, or by its text where the server gives none."""
    if choice.thought:
        return None
    if choice.tokens:
        return _by_token(choice.tokens[0], labels)
    return _by_text(choice.text, labels)


def _shares_after_thought(choice: _Choice, labels: Sequence[str]) -> tuple[float, ...] | None:
    """The same, by what follows the thought; by the text also where the server lists tokens among
    which the answer cannot be found.
    """
    if choice.is_cut and not choice.thought and end_of_thought(choice.text) is None:
        return None
    answer = after_thought(choice.text).strip()
    token = _first_token(answer, choice.tokens)
    return _by_text(answer, labels) if token is None else _by_token(token, labels)


def _first_token(answer: str, tokens: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The token with which the answer begins; None if it cannot be found."""
    pieces = [str(token.get("token")) for token in tokens]
    whole = "".join(pieces)
    start = end_of_thought(whole)
    if start is None and whole.strip() != answer:
        return None
    place = 0
    for token, piece in zip(tokens, pieces, strict=True):
        if place >= (start or 0) and piece.strip():
            return token
        place += len(piece)
    return None


def _by_token(token: Mapping[str, Any], labels: Sequence[str]) -> tuple[float, ...] | None:
    try:
        listed = token.get("top_logprobs") or [token]
        return listed_shares([(one["token"], one["logprob"]) for one in listed], labels)
    except (KeyError, TypeError, AttributeError):  # no such JSON
        return None


def _by_text(text: str, labels: Sequence[str]) -> tuple[float, ...] | None:
    return tuple(float(text == label) for label in labels) if text in labels else None

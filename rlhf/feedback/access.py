"""How label=llm reaches a model at an endpoint; one on workers: `rlhf.launching.labelling`."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import httpx

from rlhf.feedback.labeller import NoAnswer, Writer
from rlhf.feedback.question import ANSWER_TOKENS, parse, trivial_question
from rlhf.judges.llm import LLMJudgeConfig
from rlhf.judges.questions.server import ChatServer, NoReply, break_control_tokens
from rlhf.judges.questions.thoughts import after_thought, thinking_options
from rlhf.problems import InputError

BYTES_PER_TOKEN = 3
"""What an endpoint's tokens are taken for, as it has no tokenizer to ask: English has more, and so
has Chinese with the tokenizers of today."""

Ask = Callable[..., Awaitable[httpx.Response]]
Use = Callable[[Writer], Awaitable[None]]


class EndpointWriter:
    """`rlhf.feedback.labeller.Writer` at `judge.endpoint`, used within one event loop."""

    def __init__(self, config: LLMJudgeConfig) -> None:
        self._server = ChatServer(config)
        self._max_bytes = BYTES_PER_TOKEN * config.max_tokens
        self.model = str(config.model)
        self._thinks = False
        """Its model has thought before an answer, so that each is given the time for it."""

    def fits(self, question: str) -> bool:
        return len(question.encode()) <= self._max_bytes

    def clean(self, text: str) -> str:
        return break_control_tokens(text)

    async def write(self, question: str) -> str:
        """Raises NoAnswer, or EndpointFailed if the endpoint refuses us altogether."""
        try:
            reply = await self._reply(self._server.ask, question)
        except NoReply as error:
            raise NoAnswer(str(error)) from error
        text = _text(reply)
        if text is None:
            raise NoAnswer(f"no chat completion: {self._server.excerpt(reply)}")
        return text

    async def _reply(self, ask: Ask, question: str) -> httpx.Response:
        """An answer, or where one is cut before there is a label, a thought and an answer."""
        if not self._thinks:
            reply = await ask(question, max_tokens=ANSWER_TOKENS)
            if not _is_cut(reply) or parse(_text(reply) or ""):
                return reply
        options = thinking_options(question)
        options["max_tokens"] += ANSWER_TOKENS
        reply = await ask(question, **options)
        self._thinks = self._thinks or parse(_text(reply) or "") is not None
        return reply

    async def check(self) -> None:
        """Asks once, and where a thought takes up the answer, again; raises InputError, with what
        to do, unless the answer is a label.
        """
        question = trivial_question()
        if not self.fits(question):
            most = self._max_bytes // BYTES_PER_TOKEN
            raise InputError([f"judge.max_tokens={most}: no conversation fits; raise it"])
        reply = await self._reply(self._server.first_reply, question)
        if parse(_text(reply) or "") is None:
            raise InputError(
                [
                    f"judge.model={self.model}: answers a trivial question without a label; turn "
                    "off its thinking on the server, or take another model: "
                    f"{self._server.excerpt(reply)}"
                ]
            )

    async def aclose(self) -> None:
        await self._server.close()


def _text(reply: httpx.Response) -> str | None:
    """What the model wrote, without its thought; None if this is no chat completion."""
    try:
        text = reply.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):  # no such JSON
        return None
    return after_thought(text) if isinstance(text, str) else None


def _is_cut(reply: httpx.Response) -> bool:
    """Whether the limit on tokens ended the answer."""
    try:
        return reply.json()["choices"][0]["finish_reason"] == "length"
    except (ValueError, KeyError, IndexError, TypeError):  # no such JSON
        return False


def use_endpoint(config: LLMJudgeConfig, use: Use) -> None:
    """Tries the endpoint out, and runs `use` with it, in an event loop of its own.

    Raises InputError if it cannot be a labeller.
    """
    asyncio.run(_use_endpoint(config, use))


async def _use_endpoint(config: LLMJudgeConfig, use: Use) -> None:
    async with aclosing(EndpointWriter(config)) as writer:
        await writer.check()
        await use(writer)

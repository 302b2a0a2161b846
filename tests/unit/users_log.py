"""What users said of logged replies, and stages that answer as they are told."""

from collections.abc import Callable, Sequence
from functools import cache

from rlhf.algorithms.drift import Drift, DriftConfig
from rlhf.asking.preparation import Preparation
from rlhf.config.models import Rendering, Vocabulary
from rlhf.data.rendering import Renderer, Review, Row
from rlhf.records import (
    Asked,
    Collected,
    Completion,
    Judgement,
    Message,
    Prompt,
    Sampling,
    UserFeedback,
)
from rlhf.toys.tiny import CHAT_TEMPLATE, build_tokenizer

QUESTION, DISLIKED, COMPLAINT, LIKED = (
    "Why is it so?",
    " Dunno…\r\n ",
    "That's no help.",
    "Because.",
)


@cache
def tokenizer(vocabulary: Vocabulary = Vocabulary.bytes):
    made = build_tokenizer(vocabulary)
    made.chat_template = CHAT_TEMPLATE
    return made


@cache
def renderer(
    vocabulary: Vocabulary = Vocabulary.bytes, rendering: Rendering = Rendering.auto
) -> Renderer:
    return Renderer(tokenizer(vocabulary), rendering)


def conversation(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    """The user begins, and both take turns."""
    begin = () if system is None else (Message("system", system),)
    return (*begin, *(Message(("user", "assistant")[i % 2], t) for i, t in enumerate(texts)))


def reviewed(id: str = "p", history: tuple[Message, ...] = (), **review: str | None) -> Row:
    """A row whose user complained, unless told otherwise."""
    said = {"disliked": DISLIKED, "complaint": COMPLAINT, "liked": LIKED, **review}
    return Row(id, history or conversation(QUESTION), f"log row {id}", review=Review(**said))


def prepared(*rows: Row) -> tuple[tuple[Prompt, ...], dict[str, UserFeedback]]:
    preparation = Preparation(renderer(), 512, 128)
    return preparation.prompts(rows), preparation.feedback


class Policy:
    """A rollout; its answers are `reply(prompt, seed)`, one byte to a token, and all of them end
    but those that end in `...`."""

    def __init__(self, reply: Callable[[Prompt, int], str] | str, version: int = 0) -> None:
        self._reply = (lambda prompt, seed: reply) if isinstance(reply, str) else reply
        self._version = version
        self.asked: list[tuple[Prompt, Sampling, int]] = []

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seed: int
    ) -> tuple[Completion, ...]:
        self.asked.append((prompt, sampling, seed))
        return tuple(self._one(prompt, i, seed + i) for i in range(sampling.num_completions))

    def _one(self, prompt: Prompt, sample: int, seed: int) -> Completion:
        text = self._reply(prompt, seed)
        truncated = text.endswith("...")
        ids = renderer().completion_ids(text)[: -1 if truncated else None]
        logprobs = (-0.5,) * len(ids)
        return Completion(prompt.id, sample, ids, logprobs, text, truncated, self._version)


class Grader:
    """A judge that scores texts; None stands for a failure of its own."""

    def __init__(self, score: Callable[[str], float | None]) -> None:
        self._score = score
        self.asked: list[tuple[Prompt, tuple[Completion, ...]]] = []

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Judgement:
        self.asked.append((prompt, tuple(completions)))
        scores = tuple(self._score(c.text) for c in completions)
        said = {"taste": scores}, tuple(c.text for c in completions)
        return Judgement(scores, "grader@1", *said, {"m": (False,) * len(scores)})


async def collect(
    rollout: Policy,
    judge: Grader | None = None,
    *,
    seed: int = 100,
    row: Row | None = None,
    **settings,
) -> Collected:
    """What DRIFT makes of one prompt."""
    (prompt,), feedback = prepared(row or reviewed())
    config = DriftConfig(**settings)
    sampling = Sampling(config.num_completions, 16, 0.7, 0.9)
    return await Drift(rollout, judge, sampling, config, feedback).collect(Asked(prompt, seed))

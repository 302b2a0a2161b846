"""What the policy is asked, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rlhf.records.numbers import Nats, TokenIds
from rlhf.records.pickling import sent_often

PROMPT_MESSAGES = "prompt_messages"
"""The column in which a run keeps the conversation, where a prompt is one of several turns."""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@sent_often
@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as the policy reads it; rendered and tokenized once, in `rlhf.data.rendering`."""

    id: str
    """Unique in its data set; everything that belongs together is joined by it."""
    messages: tuple[Message, ...]
    """The conversation before rendering, for judges with a chat template of their own."""
    token_ids: TokenIds
    """Rendered with the policy's chat template (or plainly); never empty."""
    answer: str | None = None
    """What a judge compares with: the solution, or what the user said they wanted."""
    prefix: str = ""
    """An answer that has begun, as text; `token_ids` end with it."""
    num_prefix_tokens: int = 0
    row: Mapping[str, Any] | None = field(default=None, hash=False, compare=False)
    """The row of its file, every column as it was; None unless judge or environment read rows."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", TokenIds(self.token_ids))

    @property
    def text(self) -> str:
        """The last message: what the user asked."""
        return self.messages[-1].content


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as one text, for readers without a chat template; a single turn as it is."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


class Asked(NamedTuple):
    """A prompt whose turn it is."""

    prompt: Prompt
    seed: int
    """Of everything that is drawn for it."""
    progress: float = 0.0
    """How far the run is, as the share of its rounds that came before."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

    num_completions: int
    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    mixture: float = 0.0
    """Weight of the initial policy in what is sampled from, token by token: π^(1-c)·π_initial^c,
    normalised. 0 is the policy, 1 the initial policy."""
    stop: tuple[str, ...] = ()
    """Texts, the first of which ends a completion that is only a step of an answer."""


@sent_often
@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of the policy."""

    prompt_id: str
    sample: int
    """Position in its group, from 0."""
    token_ids: TokenIds
    """As the engine emitted them, with the end token if and only if the policy emitted it."""
    logprobs: Nats = field(hash=False)
    """Nats per token under the policy or mixture that drew it: before temperature and top-p."""
    text: str
    """Without special tokens."""
    truncated: bool
    """It met the token limit before the policy ended it."""
    policy_version: int
    """The version that had been published when sampling began."""
    mixture: float = 0.0
    """As in `Sampling`: 0 if the policy itself drew it."""
    stopped: bool = False
    """It met a text of `Sampling.stop`, so its answer goes on."""
    num_cached_tokens: int = 0
    """Tokens of the prompt that the engine knew from earlier requests."""
    observed: tuple[tuple[int, int], ...] = ()
    """Places in `token_ids`, each from and up to, that a tool or an environment wrote: read, not
    trained on; their `logprobs` are 0."""
    reward: float | None = None
    """What the environment gave for it, if it has one."""
    failure: str = ""
    """Why its environment or a tool failed, so that it has no end; empty if neither did."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", TokenIds(self.token_ids))
        object.__setattr__(self, "logprobs", Nats(self.logprobs))

    @property
    def num_own_tokens(self) -> int:
        """Without those that are only observed."""
        if not self.observed:
            return len(self.token_ids)
        return len(self.token_ids) - sum(end - start for start, end in self.observed)

    def followed_by(self, rest: "Completion") -> "Completion":
        """Both as one, which ends as the rest does."""
        offset = len(self.token_ids)
        moved = ((start + offset, end + offset) for start, end in rest.observed)
        return replace(
            self,
            token_ids=self.token_ids + rest.token_ids,
            logprobs=self.logprobs + rest.logprobs,
            text=self.text + rest.text,
            truncated=rest.truncated,
            stopped=rest.stopped,
            failure=rest.failure,
            observed=(*self.observed, *moved),
        )

    def between(self, start: int, end: int) -> "Completion":
        """Its tokens from one place up to another; its text stays whole, for people."""
        kept = ((max(a, start) - start, min(b, end) - start) for a, b in self.observed)
        return replace(
            self,
            token_ids=self.token_ids[start:end],
            logprobs=self.logprobs[start:end],
            observed=tuple((a, b) for a, b in kept if a < b),
        )


Emphasis = tuple[tuple[int, int, float], ...]
"""Places among tokens, each from, up to, and how many times log-probabilities there count; once
everywhere else."""


class Tokens(NamedTuple):
    """A completion in its context, ready for a log-probability."""

    prompt: Sequence[int]
    completion: Sequence[int]
    """Both of one kind, `TokenIds` or tuples, which can be hashed."""
    observed: tuple[tuple[int, int], ...] = ()
    """As in `Completion`: these places have no log-probability."""
    emphasis: Emphasis = ()

    @property
    def num_own_tokens(self) -> int:
        """Without those that are only observed."""
        return len(self.completion) - sum(end - start for start, end in self.observed)

    @property
    def unmarked(self) -> "Tokens":
        """With every token counted once."""
        return self._replace(emphasis=())

    @property
    def own(self) -> list[bool]:
        """Of each completion token, whether it is more than observed."""
        own = [True] * len(self.completion)
        for start, end in self.observed:
            own[start:end] = [False] * (end - start)
        return own

    @property
    def weights(self) -> list[float]:
        """How many times each completion token counts; of places that overlap the last."""
        weights = [1.0] * len(self.completion)
        for start, end, factor in self.emphasis:
            weights[start:end] = [factor] * (end - start)
        return weights


LOGGED = -1
"""The policy version of completions that no policy of this run has drawn."""

USER = "user"
"""The judge of a pair that rests on the user's word alone."""


@dataclass(frozen=True, slots=True)
class UserFeedback:
    """What a log of conversations has to say about one prompt."""

    disliked: Completion | None
    """The reply that displeased."""
    liked: Completion | None
    """A reply that satisfied."""
    guided: Prompt | None
    """The prompt, the reply that displeased, the complaint about it and an instruction to do
    better. It has the prompt's id: its completions are answers to the prompt."""

"""What is handed over between stages, in the order in which it comes into being."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import combinations
from math import isfinite
from typing import Any, NamedTuple, Protocol

PROMPT_MESSAGES = "prompt_messages"
"""The column in which a run keeps the conversation, where a prompt is one of several turns."""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as the policy reads it; rendered and tokenized once, in `rlhf.data.rendering`."""

    id: str
    """Unique in its data set; everything that belongs together is joined by it."""
    messages: tuple[Message, ...]
    """The conversation before rendering, for judges with a chat template of their own."""
    token_ids: tuple[int, ...]
    """Rendered with the policy's chat template (or plainly); never empty."""
    answer: str | None = None
    """What a judge compares with: the solution, or what the user said they wanted."""
    prefix: str = ""
    """An answer that has begun, as text; `token_ids` end with it."""
    num_prefix_tokens: int = 0
    row: Mapping[str, Any] | None = field(default=None, hash=False, compare=False)
    """The row of its file, every column as it was; None unless judge or environment read rows."""

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


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of the policy."""

    prompt_id: str
    sample: int
    """Position in its group, from 0."""
    token_ids: tuple[int, ...]
    """As the engine emitted them, with the end token if and only if the policy emitted it."""
    logprobs: tuple[float, ...]
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
    """Why its environment failed, so that it has no end; empty if it did not."""

    @property
    def num_own_tokens(self) -> int:
        """Without those that are only observed."""
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


Parts = Mapping[str, tuple[float | None, ...]]
"""What a verdict is made of, by name: a number per completion, None where that part is missing."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge thinks of one group of completions."""

    scores: tuple[float | None, ...]
    """One per completion, higher is better; None where the judge itself failed."""
    judge: str
    """Name and version, such as `verifier/integer@1`."""
    parts: Parts = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """Why, in a few words per completion, empty where there is nothing to say; or none at all."""
    additions: tuple[str, ...] = ()
    """What belongs behind each completion where it is a side of a pair, such as a test, empty where
    nothing does; or none at all."""

    def __post_init__(self) -> None:
        _check_parts(self.judge, len(self.scores), self.parts, self.reasons)
        if self.additions and len(self.additions) != len(self.scores):
            raise ValueError(
                f"{self.judge} gives {len(self.additions)} additions for {len(self.scores)} "
                "completions"
            )

    @property
    def failed(self) -> tuple[bool, ...]:
        """Of everything that the judge was asked, whether it failed to answer."""
        return tuple(score is None or not isfinite(score) for score in self.scores)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a pairwise judge thinks of one group of completions."""

    win_prob: tuple[tuple[float | None, ...], ...]
    """[i][j]: the probability that completion i is preferred to j, so that [i][j] + [j][i] = 1 and
    [i][i] = 1/2; None where the judge itself failed."""
    judge: str
    """Name and version."""
    order_disagreement: float | None = None
    """Mean distance between the two probabilities that one pair got in its two orders; None for a
    judge that sees no order. 1 for a judge that always prefers what it reads first."""
    parts: Parts = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """As in `Judgement`."""

    def __post_init__(self) -> None:
        _check_parts(self.judge, len(self.win_prob), self.parts, self.reasons)
        for i, row in enumerate(self.win_prob):
            for j, value in enumerate(row):
                other = self.win_prob[j][i]
                if (value is None) != (other is None) or (
                    value is not None and other is not None and abs(value + other - 1) > 1e-6
                ):
                    raise ValueError(
                        f"{self.judge} prefers {i} to {j} with {value} and {j} to {i} with {other}"
                    )

    @property
    def failed(self) -> tuple[bool, ...]:
        """Of everything that the judge was asked, whether it failed to answer: once per pair."""
        size = range(len(self.win_prob))
        return tuple(self.win_prob[i][j] is None for i, j in combinations(size, 2))

    @property
    def scores(self) -> tuple[float | None, ...]:
        """Each completion's mean win probability against the others; None if it has none."""
        return self.scores_among(range(len(self.win_prob)))

    def scores_among(self, playing: Sequence[int]) -> tuple[float | None, ...]:
        """Each completion's score where only those at the places `playing` take part."""
        played = [self.played(i, playing) for i in range(len(self.win_prob))]
        return tuple(sum(values) / len(values) if values else None for values in played)

    def played(self, place: int, playing: Sequence[int]) -> list[float]:
        """A completion's win probabilities against the others at `playing`, as far as they are
        known; 1/2, which it has against itself, if there are no others."""
        others = [self.win_prob[place][j] for j in playing if j != place]
        return [value for value in others if value is not None] if others else [0.5]


def _check_parts(judge: str, size: int, parts: Parts, reasons: Sequence[str]) -> None:
    for name, values in parts.items():
        if len(values) != size:
            raise ValueError(f"{judge} gives {len(values)} values of {name} for {size} completions")
    if reasons and len(reasons) != size:
        raise ValueError(f"{judge} gives {len(reasons)} reasons for {size} completions")


Verdict = Judgement | Comparison
"""What a judge gives: scores, or every two completions compared."""


class DropReason(StrEnum):
    """Why a would-be preference is not trained on; `preference/dropped_NAME` counts them."""

    label: str
    """In legends."""
    colour: str
    meaning: str
    good: str
    """What a good number is, if anything is to be said of it."""

    def __new__(
        cls, name: str, label: str, colour: str, meaning: str, good: str = ""
    ) -> "DropReason":
        reason = str.__new__(cls, name)
        reason._value_ = name
        reason.label, reason.colour, reason.meaning, reason.good = label, colour, meaning, good
        return reason

    TIE = (
        "tie", "tie", "#e07b00", "the judge prefers neither",
        "0 for SPPO, GPO, Nash-MD, XPO and VPO, which learn from ties",
    )  # fmt: skip
    IDENTICAL = (
        "identical", "same text", "#009e73", "both sides have the same text",
        "likewise 0 for those five",
    )  # fmt: skip
    TRUNCATED = "truncated", "cut off", "#c8382e", "a side met the token limit"
    SHORT_GROUP = (
        "short_group", "too few answers", "#8a5fbf", "too few completions to make a pair"
    )  # fmt: skip
    JUDGE_FAILED = "judge_failed", "judge failed", "#9a9a9a", "the judge failed"
    EMPTY = "empty", "empty", "#c8a000", "the reply is empty"
    NEAR_COPY = "near_copy", "near copy", "#56b4e9", "the reply is nearly the one that displeased"
    ROLE_MARKER = "role_marker", "role marker", "#8b5a2b", "the reply begins a turn of its own"
    REFERS_BACK = (
        "refers_back", "refers back", "#d783b5", "the reply apologises or speaks of an earlier one"
    )  # fmt: skip
    REFUSAL = "refusal", "was refused", "#3f3f6e", "what displeased was a refusal, perhaps rightly"
    UNVISITED = "unvisited", "not tried", "#56b4e9", "a side was never tried in the search tree"
    ALL_WRONG = "all_wrong", "none is right", "#8b5a2b", "none of the answers is right"
    NOT_SHORTER = (
        "not_shorter", "not shorter", "#e6ab02", "no right ending is shorter than the whole answer"
    )  # fmt: skip


class Tokens(NamedTuple):
    """A completion in its context, ready for a log-probability."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    observed: tuple[tuple[int, int], ...] = ()
    """As in `Completion`: these places have no log-probability."""
    emphasis: Emphasis = ()

    @property
    def num_own_tokens(self) -> int:
        """Without those that are only observed."""
        return len(self.completion) - sum(end - start for start, end in self.observed)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two completions that a preference compares, in the prompt that it answers."""

    prompt: Prompt
    completion: Completion
    score: float
    emphasis: Emphasis = ()
    """Of its tokens."""

    def __post_init__(self) -> None:
        if self.prompt.id != self.completion.prompt_id:
            raise ValueError(
                f"a side joins a prompt and its completion, not {self.prompt.id!r} and one of "
                f"{self.completion.prompt_id!r}"
            )

    @property
    def text(self) -> str:
        """As people read it."""
        return self.completion.text

    @property
    def tokens(self) -> Tokens:
        """As a model reads it."""
        own = self.completion
        return Tokens(self.prompt.token_ids, own.token_ids, own.observed, self.emphasis)


@dataclass(frozen=True, slots=True)
class Preference:
    """Two completions, of which a judge prefers the first."""

    chosen: Side
    rejected: Side
    judge: str
    weight: float = 1.0
    """Share of its prompt, so that a prompt with many pairs counts once."""
    win_prob: float = 1.0
    """Probability that the chosen side is preferred: 1 for a plain label."""

    @classmethod
    def over(
        cls,
        prompt: Prompt,
        chosen: Completion,
        rejected: Completion,
        chosen_score: float,
        rejected_score: float,
        judge: str,
        weight: float = 1.0,
        win_prob: float = 1.0,
        emphasis: tuple[Emphasis, Emphasis] = ((), ()),
    ) -> "Preference":
        """Both sides answer the same prompt."""
        first = Side(prompt, chosen, chosen_score, emphasis[0])
        second = Side(prompt, rejected, rejected_score, emphasis[1])
        return cls(first, second, judge, weight, win_prob)

    def __post_init__(self) -> None:
        if self.chosen.prompt.id != self.rejected.prompt.id:
            raise ValueError(
                f"the sides of a preference come of one prompt, not of {self.chosen.prompt.id!r} "
                f"and {self.rejected.prompt.id!r}"
            )

    @property
    def prompt(self) -> Prompt:
        """The chosen side's, with which the pair is counted."""
        return self.chosen.prompt

    @property
    def margin(self) -> float:
        return self.chosen.score - self.rejected.score

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.chosen, self.rejected


@dataclass(frozen=True, slots=True)
class Dropped:
    """A would-be preference that is kept out of training, and why."""

    reason: DropReason
    chosen: Completion | None = None
    rejected: Completion | None = None


class Search(Protocol):
    """A search tree as far as everybody knows it; the whole of it is `rlhf.tree.nodes.Tree`."""

    num_tokens: int
    """Generated, duplicates and look-aheads included."""


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything that came of one prompt in one round."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    """Drawn in this round."""
    judgement: Verdict | None
    """None if no judge was asked."""
    preferences: tuple[Preference, ...]
    dropped: tuple[Dropped, ...]
    tree: Search | None = None
    """What was searched; `completions` are then its whole answers."""
    num_more_tokens: int = 0
    """Generated beside `completions`, such as for look-aheads."""

    @property
    def num_tokens(self) -> int:
        """Generated for it; steps that answers of a tree share count once."""
        if self.tree:
            return self.tree.num_tokens
        return sum(one.num_own_tokens for one in self.completions) + self.num_more_tokens


class SidePair(NamedTuple):
    """A number for either side of a preference."""

    chosen: float
    rejected: float


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """What one round trains on."""

    round: int
    preferences: Sequence[Preference]
    anchors: Mapping[str, Sequence[SidePair]]
    """By anchor name (`initial`, `previous`): summed log-probabilities, in the same order. Those of
    `previous` are the policy's own after `round` rounds, and of no use to any other version."""

    def __post_init__(self) -> None:
        for name, pairs in self.anchors.items():
            if len(pairs) != len(self.preferences):
                raise ValueError(
                    f"anchor {name!r} has {len(pairs)} values for {len(self.preferences)} pairs"
                )

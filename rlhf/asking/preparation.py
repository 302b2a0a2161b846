"""Rows into prompts, and what users said of earlier replies into tokens beside them."""

from collections.abc import Sequence

from rlhf.data.guidance import guided, shortened
from rlhf.data.rendering import Renderer, Review, Row
from rlhf.problems import some
from rlhf.records import LOGGED, Completion, Message, Nats, Prompt, TokenIds, UserFeedback


class Preparation:
    """Renders rows, and gathers the ids of those that cannot be used."""

    def __init__(
        self,
        renderer: Renderer,
        max_prompt_tokens: int,
        max_completion_tokens: int,
        feedback: dict[str, UserFeedback] | None = None,
    ) -> None:
        """`feedback` is added to."""
        self._renderer = renderer
        self._max_prompt_tokens = max_prompt_tokens
        self._max_completion_tokens = max_completion_tokens
        self.feedback = {} if feedback is None else feedback
        """By id of the prompts that have a review."""
        self.overlong: list[str] = []
        self.num_shortened = 0
        self._long_replies: list[str] = []
        self._unread: list[str] = []
        self._empty: list[str] = []
        self._unknown: list[str] = []
        self._refused: list[str] = []

    def prompts(self, rows: Sequence[Row]) -> tuple[Prompt, ...]:
        """Those that can be used, in order."""
        return tuple(prompt for row in rows if (prompt := self.prompt(row)))

    def prompt(self, row: Row) -> Prompt | None:
        """None if the row cannot be used; `problems` says why."""
        if len(row.messages) > 1 and not self._renderer.reads_turns:
            self._unread.append(row.origin)
            return None
        try:
            if row.review is None:
                ids = self._renderer.render(row.messages)
                usable = self._usable(row, [ids], [])
                return _prompt(row, row.messages, ids) if usable else None
            return self._reviewed(row, row.review)
        except ValueError as error:
            self._refused.append(f"{row.origin}: {error}")
            return None

    def _reviewed(self, row: Row, review: Review) -> Prompt | None:
        """The longest end of the conversation with which prompt and guided prompt both fit."""
        renderer, limit = self._renderer, self._max_prompt_tokens
        if not renderer.reads_turns:
            self._unread.append(row.origin)
            return None
        replies = {
            text: renderer.completion_ids(text) for text in (review.disliked, review.liked) if text
        }
        for history in shortened(row.messages):
            messages = _guided(history, review)
            prompts = [renderer.render(m) for m in (history, messages) if m is not None]
            if max(map(len, prompts)) <= limit:
                break
        if not self._usable(row, prompts, list(replies.values())):
            return None
        self.num_shortened += len(history) < len(row.messages)
        self.feedback[row.id] = UserFeedback(
            disliked=_logged(row.id, review.disliked, replies),
            liked=_logged(row.id, review.liked, replies),
            guided=_prompt(row, messages, prompts[1]) if messages else None,
        )
        return _prompt(row, history, prompts[0])

    def _usable(
        self, row: Row, prompts: Sequence[tuple[int, ...]], replies: Sequence[tuple[int, ...]]
    ) -> bool:
        """Notes the row if it is not."""
        if not all(prompts):
            self._empty.append(row.id)
        elif max(map(len, prompts)) > self._max_prompt_tokens:
            self.overlong.append(row.id)
        elif any(len(ids) > self._max_completion_tokens for ids in replies):
            self._long_replies.append(row.id)
        elif any(self._renderer.unknown_id in ids for ids in (*prompts, *replies)):
            self._unknown.append(row.id)
        else:
            return True
        return False

    @property
    def num_too_long(self) -> int:
        """Rows whose prompt or logged reply is too long."""
        return len(self.overlong) + len(self._long_replies)

    def problems(self, can_drop: bool) -> list[str]:
        """`can_drop`: rows that are too long are left out, and are no problem."""
        found = []
        if self.overlong and not can_drop:
            found.append(
                f"rollout.max_prompt_tokens={self._max_prompt_tokens}: {len(self.overlong)} "
                f"prompts are longer (ids {some(self.overlong)}); raise it, or set "
                "data.overlong=drop"
            )
        if self._long_replies and not can_drop:
            found.append(
                f"rollout.max_completion_tokens={self._max_completion_tokens}: "
                f"{len(self._long_replies)} logged replies are longer "
                f"(ids {some(self._long_replies)}); raise it, or set data.overlong=drop"
            )
        if self._empty:
            found.append(
                f"data: {len(self._empty)} prompts have no tokens (ids {some(self._empty)}); "
                "remove them"
            )
        if self._unknown:
            found.append(
                f"model: {len(self._unknown)} prompts have characters that its vocabulary lacks "
                f"(ids {some(self._unknown)}); use model.vocabulary=bytes or another model"
            )
        if self._unread:
            found.append(
                f"model.rendering: {len(self._unread)} conversations of several turns need a chat "
                f"template, and plain rendering reads single texts ({some(self._unread)}); use a "
                "model with a template (model.chat=true gives the tiny one its own), or give each "
                "prompt as one text"
            )
        if self._refused:
            found.append(
                f"data: {len(self._refused)} prompts cannot be rendered ({self._refused[0]}); "
                "correct them, or set model.rendering=plain"
            )
        return found


def _prompt(row: Row, messages: tuple[Message, ...], ids: tuple[int, ...]) -> Prompt:
    return Prompt(row.id, messages, TokenIds(ids), row.answer, row=row.whole)


def _guided(history: tuple[Message, ...], review: Review) -> tuple[Message, ...] | None:
    if review.disliked is None or review.complaint is None:
        return None
    return guided(history, review.disliked, review.complaint, review.instruction)


def _logged(id: str, text: str | None, replies: dict[str, tuple[int, ...]]) -> Completion | None:
    """A reply of the log, which ended where it ends."""
    if not text:
        return None
    ids = TokenIds(replies[text])
    return Completion(id, LOGGED, ids, Nats(), text, truncated=False, policy_version=LOGGED)

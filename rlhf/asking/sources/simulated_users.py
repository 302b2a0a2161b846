"""Complaints and praise of simulated users, and new users to please."""

import random
from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar

from rlhf.asking.sources.base import DataConfig, Wanted
from rlhf.conversations.log import Conversation
from rlhf.conversations.pairs import Complaint, Praise, complaints, next_turn, praises, seed_pairs
from rlhf.data.guidance import guided
from rlhf.data.rendering import Review, Row, Source
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.ranges import number
from rlhf.records import Message
from rlhf.toys.users import BASE, converse, draw_reply, draw_user, is_satisfied

NUM_SUMS = 90**2
"""Of two numbers of two digits."""


@dataclass
class SimulatedUsersConfig(DataConfig):
    """A log of users with a hidden wish, and new users to please (`rlhf.toys.users`)."""

    name: ClassVar[str] = "simulated_users"

    num_conversations: int = number(4000, at_least=1)
    num_heldout: int = number(512, at_least=1)
    """Users that the log does not know, who ask for other sums."""
    instruction: str = "once more:"
    """Ends a guided conversation."""

    def gives(self) -> Set[Fact]:
        return {
            Fact.answers,
            Fact.demonstrations,
            Fact.feedback,
            Fact.praised_replies,
            Fact.simulated_wishes,
        }

    def source(self, wanted: Wanted, seed: int) -> Source:
        return simulated_users(self, seed)


def simulated_users(config: SimulatedUsersConfig, seed: int) -> Source:
    """The log's remarks to learn from; held out are other users with other sums.

    Lessons for a warm start are replies out of another policy's habits, and, as a model that
    follows instructions would know, replies to guided conversations. Raises InputError if there
    are not enough sums.
    """
    num_log, num_heldout = config.num_conversations, config.num_heldout
    if num_log + num_heldout > NUM_SUMS:
        raise InputError(
            [
                f"data.num_conversations={num_log} and data.num_heldout={num_heldout}: there are "
                f"{NUM_SUMS} sums of two-digit numbers, and each is asked once; lower either"
            ]
        )
    rng = random.Random(seed)
    drawn = rng.sample(range(NUM_SUMS), num_log + num_heldout)
    questions = [f"{10 + n // 90}+{10 + n % 90}=" for n in drawn]
    heldout = [
        _asked(f"heldout-{i}", question, answer=draw_user(question, rng).wanted)
        for i, question in enumerate(questions[num_log:])
    ]
    train = []
    for i, question in enumerate(questions[:num_log]):
        user = draw_user(question, rng)
        train += _reviewed(converse(f"user-{i}", user, rng), user.wanted, config)
    lessons = [_lesson(i, q, config, rng) for i, q in enumerate(questions[:num_log])]
    return Source(train, heldout, lessons)


def _reviewed(conversation: Conversation, wanted: str, config: SimulatedUsersConfig) -> list[Row]:
    said = (conversation, conversation.given, "simulated")
    pairs = {pair.origin.id: pair for pair in seed_pairs(*said)}
    rows = []
    for complaint in complaints(*said):
        pair = pairs.get(complaint.origin.id)
        liked = pair.chosen if pair else None
        review = Review(complaint.reply, complaint.complaint, liked, config.instruction)
        rows.append(_row(complaint, wanted, review))
    ended = {next_turn(id) for id in pairs}
    praised = [one for one in praises(*said) if one.origin.id not in ended]
    return rows + [_row(praise, wanted, Review(liked=praise.reply)) for praise in praised]


def _row(remark: Complaint | Praise, wanted: str, review: Review) -> Row:
    origin = remark.origin
    place = f"simulated conversation {origin.row}"
    return Row(origin.id, remark.history, place, wanted, review=review)


def _lesson(i: int, question: str, config: SimulatedUsersConfig, rng: random.Random) -> Row:
    """Every other one is a guided conversation, answered as its user wants."""
    if i % 2:
        return _asked(f"lesson-{i}", question, demonstration=draw_reply(BASE, question, rng))
    user = draw_user(question, rng)
    reply = user.wanted
    while is_satisfied(user.wanted, reply):
        reply = draw_reply(BASE._replace(accuracy=0.7), question, rng)
    history = (Message("user", question),)
    messages = guided(history, reply, user.remark(reply), config.instruction)
    return Row(f"lesson-{i}", messages, "a lesson", demonstration=user.wanted)


def _asked(
    id: str, question: str, answer: str | None = None, demonstration: str | None = None
) -> Row:
    origin = f"the simulated question {id}"
    return Row(id, (Message("user", question),), origin, answer, demonstration)

"""Users with a hidden wish, and a log of their conversations with a poor assistant; seeded.

A user asks for a sum, such as `12+34=`, and wants it in a form that they do not mention. They
complain in words when they do not get it, more often than they thank when they do. The assistant
that they talk to is no model: it adds badly, prefers forms that few want, and heeds complaints now
and then. Its replies are so another policy's than the one that learns from the log, as in life.
"""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rlhf.conversations.labels import Satisfaction, Verdict, judging_turns
from rlhf.conversations.log import Conversation
from rlhf.records import Message

FORMS = {"number": "{sum}", "brackets": "({sum})", "equation": "{question}{sum}"}
WISHES = {"number": 0.1, "brackets": 0.8, "equation": 0.1}
"""How many users want which form."""
ASKS_FOR = {
    "number": "no, the number alone",
    "brackets": "no, use brackets",
    "equation": "no, the whole equation",
}
WRONG_SUM = "no, that is wrong"
PRAISE = "thanks"

COMPLAIN_RATE, PRAISE_RATE = 0.9, 0.3
"""How often a user says something: of a reply that displeased, and of one that satisfied."""
MAX_REPLIES = 3
"""Then a user gives up."""


class Habits(NamedTuple):
    """What somebody answers who does not know the wish."""

    forms: Mapping[str, float]
    """How often they use which form."""
    accuracy: float
    """How often the sum is right."""


ASSISTANT = Habits({"number": 0.7, "brackets": 0.1, "equation": 0.2}, accuracy=0.6)
"""The log's, whose replies displease."""
HEEDS_RATE = 0.2
"""How often it takes a complaint into account."""
BASE = Habits({"number": 0.5, "brackets": 0.3, "equation": 0.2}, accuracy=1.0)
"""What the policy is taught before it learns from the log: another one's habits."""


@dataclass(frozen=True, slots=True)
class SimulatedUser:
    question: str
    """Such as `12+34=`."""
    form: str
    """Of `FORMS`; nobody is told."""

    @property
    def wanted(self) -> str:
        """The one reply that satisfies."""
        return reply_in(self.form, self.question)

    def remark(self, reply: str) -> str:
        """What the user says of a reply: thanks, or what is to be different."""
        if is_satisfied(self.wanted, reply):
            return PRAISE
        if str(solve(self.question)) not in reply:
            return WRONG_SUM
        return ASKS_FOR[self.form]


def is_satisfied(wanted: str, reply: str) -> bool:
    return reply.strip() == wanted


def solve(question: str) -> int:
    left, right = question.removesuffix("=").split("+")
    return int(left) + int(right)


def reply_in(form: str, question: str, error: int = 0) -> str:
    return FORMS[form].format(question=question, sum=solve(question) + error)


def draw_user(question: str, rng: random.Random) -> SimulatedUser:
    return SimulatedUser(question, _one_of(WISHES, rng))


def draw_reply(habits: Habits, question: str, rng: random.Random) -> str:
    error = 0 if rng.random() < habits.accuracy else rng.choice([-10, -2, -1, 1, 2, 10])
    return reply_in(_one_of(habits.forms, rng), question, error)


def converse(id: str, user: SimulatedUser, rng: random.Random) -> Conversation:
    """One conversation of the log; its labels are what the user thought, said or not."""
    messages = [Message("user", user.question)]
    for _ in range(MAX_REPLIES):
        heeds = len(messages) > 1 and rng.random() < HEEDS_RATE
        reply = user.wanted if heeds else draw_reply(ASSISTANT, user.question, rng)
        messages.append(Message("assistant", reply))
        remark = user.remark(reply)
        if rng.random() >= (PRAISE_RATE if remark == PRAISE else COMPLAIN_RATE):
            break
        messages.append(Message("user", remark))
        if remark == PRAISE:
            break
    verdicts = tuple(_verdicts(tuple(messages)))
    return Conversation(id, tuple(messages), verdicts, "simulated", int(id.rsplit("-")[-1]) + 1)


def _verdicts(messages: tuple[Message, ...]) -> Iterator[Verdict]:
    for turn in judging_turns(messages):
        praised = messages[turn].content == PRAISE
        label = Satisfaction.satisfied if praised else Satisfaction.dissatisfied
        yield Verdict(turn, label, "simulated user")


def _one_of(shares: Mapping[str, float], rng: random.Random) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]


def write_log(file: Path, num_conversations: int, seed: int) -> None:
    """Chats as `python -m rlhf.feedback` reads them, with the labels that the users would give."""
    rng = random.Random(seed)
    with file.open("w", encoding="utf-8") as lines:
        for i in range(num_conversations):
            question = f"{rng.randint(10, 99)}+{rng.randint(10, 99)}="
            conversation = converse(f"user-{seed}-{i}", draw_user(question, rng), rng)
            record = {"id": conversation.id, "messages": list(_labelled(conversation))}
            lines.write(json.dumps(record) + "\n")


def _labelled(conversation: Conversation) -> Iterator[dict[str, str | bool]]:
    verdicts = {verdict.turn: verdict.satisfaction for verdict in conversation.given}
    for turn, message in enumerate(conversation.messages):
        said = {}
        if turn in verdicts:
            satisfied = verdicts[turn] is Satisfaction.satisfied
            said = {"satisfied": satisfied, "dissatisfied": not satisfied}
        yield {**message._asdict(), **said}
